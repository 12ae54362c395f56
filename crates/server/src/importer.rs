//! Models and adapters in other formats than GGUF: who makes GGUF files of them is given to the server.

use std::path::PathBuf;

use ingle_store::modelfile::Part;
use ingle_store::{ModelName, Store, StoreError};

/// Looks at models that clients make, makes GGUF files, and puts them into a store. Calls may take minutes.
pub trait Importer: Send + Sync {
    /// Of a model: its files, by the paths that they have in its folder. Decisions that its user should know are noted.
    ///
    /// # Errors
    /// If no model can be made of them.
    fn model(
        &self,
        files: &[(String, PathBuf)],
        store: &Store,
        note: &mut dyn FnMut(String),
    ) -> Result<Part, ImportError>;

    /// Of an adapter, for the model in these GGUF files.
    ///
    /// # Errors
    /// If no adapter of that model can be made of them.
    fn adapter(
        &self,
        files: &[(String, PathBuf)],
        model: &[PathBuf],
        store: &Store,
    ) -> Result<Part, ImportError>;

    /// What whoever has made a model of the store should know of it, such as that it cannot run here. No path of this
    /// machine is in it.
    fn remarks(&self, store: &Store, name: &ModelName) -> Vec<String>;
}

/// Why there is no GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The files are not what they should be. It names no path of this machine.
    #[error("{0}")]
    Files(String),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

//! A folder for targets that read files.

use std::path::Path;

use tempfile::TempDir;

thread_local! {
    static FOLDER: TempDir = TempDir::new().expect("the system has a folder for temporary files");
}

/// Gives `work` a folder of this thread's. What earlier inputs left there is there still.
pub(crate) fn with_folder<T>(work: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| work(folder.path()))
}

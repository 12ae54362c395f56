//! Which adapters a request runs with.
//!
//! The engine knows adapters by the ids of the seam alone. Whoever loads them ([`AdapterDirectory`]) says which ones a
//! request's wish means, and gives a lease with them: as long as the request lives, so do their weights, also if they are
//! unloaded meanwhile.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use ingle_chat::{AdapterName, AdapterWish, ProviderError};
use ingle_step::AdapterUse;

use crate::frontend::Frontend;

/// The adapters of one request. The empty set is the model as it is.
#[derive(Clone, Default)]
pub struct AdapterSet {
    /// In the order in which they are added.
    pub uses: Vec<AdapterUse>,
    /// What they compute, in one word: equal keys promise equal results. Empty for the empty set.
    pub key: String,
    /// Keeps their weights in memory.
    pub lease: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for AdapterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterSet").field("uses", &self.uses).field("key", &self.key).finish_non_exhaustive()
    }
}

/// Whoever has loaded a model's adapters.
pub trait AdapterDirectory: Send + Sync {
    /// The number of the adapter that is meant by a model of this name, if one is.
    fn named(&self, model: &str) -> Option<u32>;

    /// The set that a wish means; without one, what applies to all requests.
    ///
    /// # Errors
    /// If there is no such adapter, one is named twice, or there are too many.
    fn set(&self, wished: Option<&[AdapterWish]>) -> Result<AdapterSet, ProviderError>;
}

impl Frontend {
    /// The adapters of a request for `model` that asks for these.
    ///
    /// # Errors
    /// If there is no such model or adapter, or the two choose differently.
    pub fn adapters(
        &self,
        model: Option<&str>,
        wished: Option<&[AdapterWish]>,
    ) -> Result<AdapterSet, ProviderError> {
        let Some(directory) = &self.adapter_directory else {
            self.check_model(model)?;
            return match wished {
                None | Some([]) => Ok(AdapterSet::default()),
                Some(_) => Err(refused("no adapters are loaded here: load one first, or remove `lora`")),
            };
        };
        let Some(name) = model.filter(|model| *model != self.model.id) else { return directory.set(wished) };
        // Looked up once: what is unloaded meanwhile is unknown, and never the model without it.
        let unknown =
            || ProviderError::UnknownModel { model: name.to_owned(), available: vec![self.model.id.clone()] };
        let number = directory.named(name).ok_or_else(unknown)?;
        if wished.is_some() {
            return Err(refused(
                "the model's name chooses an adapter, and `lora` does too: use one of the two",
            ));
        }
        let wish = AdapterWish { adapter: AdapterName::Number(number), scale: 1.0 };
        directory.set(Some(&[wish])).map_err(|_| unknown())
    }
}

fn refused(message: &str) -> ProviderError {
    ProviderError::InvalidRequest { message: message.to_owned(), param: Some("lora".into()) }
}

//! Where the provider will be: the server can listen, and say that it is loading, before a model is in memory.

use std::sync::{Arc, RwLock};

use ingle_chat::Provider;

/// What is in the slot.
#[derive(Clone)]
pub enum SlotState {
    /// The model is on its way.
    Loading {
        /// How far, from 0 to 1.
        progress: f32,
    },
    /// Requests are answered.
    Ready(Arc<dyn Provider>),
    /// It will not come.
    Failed {
        /// What the operator sees in logs; clients only learn that it failed.
        reason: String,
    },
}

/// A shared place for a provider. Clones are the same place.
#[derive(Clone)]
pub struct ProviderSlot(Arc<RwLock<SlotState>>);

impl ProviderSlot {
    /// A place that is still empty.
    pub fn loading() -> Self {
        Self(Arc::new(RwLock::new(SlotState::Loading { progress: 0.0 })))
    }

    /// A place that is filled.
    pub fn ready(provider: Arc<dyn Provider>) -> Self {
        Self(Arc::new(RwLock::new(SlotState::Ready(provider))))
    }

    /// Says how far loading is, from 0 to 1.
    pub fn set_progress(&self, progress: f32) {
        let mut state = self.0.write().expect("writers do not panic");
        if let SlotState::Loading { progress: old } = &mut *state {
            *old = progress.clamp(0.0, 1.0);
        }
    }

    /// Fills the place, or replaces what is there: answers that run keep their provider.
    pub fn set_ready(&self, provider: Arc<dyn Provider>) {
        self.replace(SlotState::Ready(provider));
    }

    /// Says that loading failed.
    pub fn set_failed(&self, reason: impl Into<String>) {
        self.replace(SlotState::Failed { reason: reason.into() });
    }

    fn replace(&self, state: SlotState) {
        let old = std::mem::replace(&mut *self.0.write().expect("writers do not panic"), state);
        // Dropping a provider can take a while, so not under the lock.
        drop(old);
    }

    /// What is there now.
    pub fn state(&self) -> SlotState {
        self.0.read().expect("writers do not panic").clone()
    }
}

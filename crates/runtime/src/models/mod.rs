//! Several models in one process, under one budget of memory.
//!
//! [`Models`] is a [`Provider`](ingle_chat::Provider) over a catalogue of models that are loaded when they are asked
//! for and go when they are not, or when others need their memory.
//!
//! | module | owns |
//! |---|---|
//! | `spec` | what can be said about a model and about all of them |
//! | `books` | bytes: who has how many, who goes for whom; pure |
//! | `state` | which model is where: catalogue, loads under way, failures |
//! | `waiting` | requests that wait for models, without a thread |
//! | `loading` | a load from its beginning to its end, on a thread of its own |
//! | `held` | a model as a request sees it: it stays as it is while it is held |
//! | `discovery` | models that come and go: those of a store |
//! | `provider` | the whole as a provider |
//! | `memory` | how much memory there is |
//!
//! **Who wakes when.** One thread, `ingle-models`, sleeps until the next keep-alive or the next request's patience ends.
//! Each load has a thread while it lasts, and so has each unloading, which joins the engine's thread. Requests wait
//! without one.
//!
//! **What is guaranteed.** The bytes of all models, those on their way in and out included, never exceed the budget. A
//! model in use is never cut: it is at most closed to new requests, and goes when those that it has are answered; a
//! pinned one is never evicted. Nothing is evicted for a model before its header, its tokenizer and its template have
//! been found good and its size is known to fit; what can fail later (the system refuses memory, the file cannot be
//! read to its end, the smoke prompt fails) leaves that model unloaded, and the evicted ones come back when asked for.
//! A reload keeps the old model answering until the new one has passed its smoke prompt, if both fit, with idle others
//! evicted if need be; if not, the old one is drained first. Loads get memory in the order in which they were asked for,
//! and one that waits for busy models closes them to new requests after [`ModelsConfig::drain_after`]: nobody starves.

mod books;
mod discovery;
mod held;
mod loading;
mod memory;
mod provider;
mod spec;
mod state;
mod waiting;

use std::sync::Arc;

use ingle_chat::KeepAlive;

use crate::load::process_pool;

pub use memory::available_memory;
pub(crate) use spec::human;
pub use spec::{ModelEvent, ModelFinder, ModelSpec, ModelsConfig, ModelsError, OnMissing, Unloaded};

/// The share of free memory that models get together unless something else is said, in percent.
pub const BUDGET_PERCENT: u8 = 80;

/// Models by name, in memory or not.
pub struct Models {
    shared: Arc<state::Shared>,
}

impl Models {
    /// Checks a catalogue, whose first model is the default, and loads nothing yet.
    ///
    /// # Errors
    /// If the catalogue is empty, contradicts itself, or has a model that is not optional and cannot be used, or can
    /// never fit.
    pub fn new(specs: Vec<ModelSpec>, config: ModelsConfig) -> Result<Self, ModelsError> {
        spec::check(&specs, &config)?;
        let pool = process_pool(config.n_threads)
            .map_err(|error| ModelsError::Model { name: specs[0].name.clone(), error: Box::new(error) })?;
        let shared = state::Shared::new(specs, config, pool)?;
        Ok(Self { shared })
    }

    /// Starts to load the models that are to be there from the beginning, in their order. [`Provider::status`] tells how
    /// far they are: it is not ready before the last of them is loaded or has failed.
    ///
    /// [`Provider::status`]: ingle_chat::Provider::status
    pub fn preload(&self) {
        self.shared.preload();
    }

    /// Waits until no model is on its way into or out of memory; for tests and tools.
    pub fn settle(&self) {
        self.shared.settle();
    }

    /// Lets models go whose time is up, as the thread does by itself when that time comes: `ahead` is how much later
    /// than now it shall look.
    #[doc(hidden)]
    pub fn expire(&self, ahead: std::time::Duration) {
        state::Shared::expire(&self.shared, ahead);
    }

    /// Bytes that are set aside now, and the most that there were at any time.
    pub fn memory(&self) -> (u64, u64) {
        self.shared.memory()
    }

    /// How long a model stays unless a request or its own settings say otherwise.
    pub fn keep_alive(&self) -> KeepAlive {
        self.shared.config.keep_alive
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        state::Shared::close(&self.shared);
    }
}

#[cfg(test)]
mod tests;

//! Models in memory, and the embeddable API.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = ingle_runtime::Engine::shipped()?;
//! let answer = engine.chat("What is a PEP?").max_tokens(60).run()?;
//! println!("{}", answer.text);
//! # assert!(!answer.text.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! [`Engine::load`] opens a GGUF file; [`Engine::generate`] continues text, [`Engine::chat`] answers a message; both
//! give a [`Generation`] that is run to its end or streamed. [`Engine::embed`] turns texts into vectors. Servers take
//! [`Engine::provider`] instead, or [`Models`], which loads and unloads several models within one budget of memory.

mod adapters;
mod details;
mod draft;
mod embed;
mod fingerprint;
mod generation;
mod installed;
mod kv_cache;
mod load;
pub mod models;
pub mod outlook;
mod prepare;
mod recommended;

pub use adapters::{ADAPTERS_LOADED_MAX, AdapterProblem, AdapterSource};
pub use embed::Embed;
pub use ingle_engine::speculation::{Source as GuessSource, SpeculationConfig};

pub use ingle_engine::Preset;

pub use generation::{Answer, AnswerStream, Generation, Interrupter, Piece};
pub use ingle_model::sizing::Needs;
pub use load::{Engine, LoadError, LoadOptions, Progress, Source, TemplateChoice};
pub use models::{ModelSpec, Models, ModelsConfig};
pub use prepare::examine;

//! Requests to tokens or vectors: the frontend, the scheduler with its blocks and prefix cache, sampling, and the
//! thread that runs them over one [`ingle_step::Executor`].
//!
//! | module | owns |
//! |---|---|
//! | [`frontend`] | a request's way in: template, tokens, checks, resolved settings |
//! | [`adapters`] | which adapters a request runs with |
//! | [`engine`] | the clients' handle, admission, status |
//! | `worker` | the thread: hops 6 to 9 of a token are its `step` |
//! | [`scheduler`] | what runs next; pure |
//! | [`block_allocator`], [`prefix_cache`], `worth` | block indices, who holds them, who goes first; pure |
//! | [`disk_cache`] | the prefix cache on disk: the folder, its index, its thread |
//! | [`speculation`] | guesses of what comes next, and how many are worth it |
//! | [`sampling`] | logits to a token; pure |
//! | [`pooling`], `embed` | hidden states to a vector (pure); all texts of a request |
//! | `work` | what the thread does for a request: an answer or a vector |
//! | [`output`], `reader`, [`stop`] | a token's way out: text, thoughts and calls, stop strings, log-probabilities; pure |

pub mod adapters;
pub mod block_allocator;
mod constraint;
pub mod disk_cache;
mod embed;
pub mod engine;
pub mod frontend;
mod meter;
pub mod output;
pub mod pooling;
pub mod prefix_cache;
mod reader;
pub mod sampling;
pub mod scheduler;
pub mod speculation;
pub mod stop;
mod stream;
mod work;
mod worker;
mod worth;

pub use engine::{Engine, EngineConfig, SWAP_MAX};
pub use frontend::{Abilities, Frontend, Preset};

//! Requests to tokens or vectors: the frontend, the scheduler with its blocks and prefix cache, sampling, and the
//! thread that runs them over one [`ingle_step::Executor`].
//!
//! | module | owns |
//! |---|---|
//! | [`frontend`] | a request's way in: template, tokens, checks, resolved settings |
//! | [`engine`] | the clients' handle, admission, status |
//! | `worker` | the thread: hops 6 to 9 of a token are its `step` |
//! | [`scheduler`] | what runs next; pure |
//! | [`block_allocator`], [`prefix_cache`] | block indices and who holds them; pure |
//! | [`sampling`] | logits to a token; pure |
//! | [`pooling`], `embed` | hidden states to a vector (pure); all texts of a request |
//! | `work` | what the thread does for a request: an answer or a vector |
//! | [`output`], `reader`, [`stop`] | a token's way out: text, thoughts and calls, stop strings, log-probabilities; pure |

pub mod block_allocator;
mod constraint;
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
pub mod stop;
mod stream;
mod work;
mod worker;

pub use engine::{Engine, EngineConfig};
pub use frontend::{Abilities, Frontend};

//! How much memory a model needs, how fast it can be, and whether a machine can run it: from its header alone.
//!
//! A [`Summary`] says of any model, whether Ingle runs it or not, what its tensors weigh and what each layer remembers
//! of a sequence, by the rule of its architecture. For the architectures that Ingle runs, [`Sizing`] knows besides what
//! the CPU executor will hold, to the byte; the server's memory budget counts with the same numbers. [`Needs`] is the
//! sum of either, [`Machine`] what there is, and [`fits`] compares the two.
//!
//! Headers come from files, from the first bytes of files elsewhere ([`Summary::from_gguf`]), from folders in Hugging
//! Face's layout ([`huggingface`]), or are made up from the shape of a published model and a mixture of types
//! ([`shapes`], [`Mixture`]).

mod advice;
pub mod devices;
pub mod huggingface;
mod layers;
mod machine;
mod mixture;
mod needs;
mod own;
pub mod shapes;
mod speed;
mod summary;
mod windows;

pub use advice::{Advice, Alternative, advise};
pub use layers::{Keeps, LayerMemory};
pub use machine::{Machine, Verdict, fits, verdict};
pub use mixture::Mixture;
pub use needs::{BLOCK_SIZE, Demand, LOGITS_KEPT, Needs};
pub use own::Sizing;
pub use speed::{Arithmetic, Range, Speed};
pub use summary::{Summary, TensorShape};
pub use windows::{Rule, Window};

//! What the fuzz targets do, as plain functions from bytes: one for every parser that meets untrusted bytes, and one
//! for the scheduler, whose traffic strangers decide.
//!
//! A target panics when a promise is broken, and for nothing else. `fuzz/` (a workspace of its own, which needs a
//! nightly compiler) runs the targets on bytes that a fuzzer finds; this crate's test replays the inputs that are kept
//! in `fuzz/corpus` and `fuzz/regressions`. [`TARGETS`] is the list of both.

mod chat_request;
mod gguf;
mod grammar;
mod model_header;
mod model_output;
mod scheduler;
pub mod seeds;
mod source;
mod templates;
mod tokenizers;
pub mod vocabularies;

pub use chat_request::chat_request;
pub use gguf::gguf;
pub use grammar::grammar;
pub use model_header::model_header;
pub use model_output::model_output;
pub use scheduler::scheduler;
pub use templates::{template_source, template_vars};
pub use tokenizers::{detokenizer, tokenize, tokenizer_metadata};

/// A target: its name, which is also the name of its folders under `fuzz/`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("chat_request", chat_request),
    ("detokenizer", detokenizer),
    ("gguf", gguf),
    ("grammar", grammar),
    ("model_header", model_header),
    ("model_output", model_output),
    ("scheduler", scheduler),
    ("template_source", template_source),
    ("template_vars", template_vars),
    ("tokenize", tokenize),
    ("tokenizer_metadata", tokenizer_metadata),
];

//! What the fuzz targets do, as plain functions from bytes: one for every parser that meets untrusted bytes, and one
//! for the scheduler, whose traffic strangers decide.
//!
//! A target panics when a promise is broken, and for nothing else. `fuzz/` (a workspace of its own, which needs a
//! nightly compiler) runs the targets on bytes that a fuzzer finds; this crate's test replays the inputs that are kept
//! in `fuzz/corpus` and `fuzz/regressions`. [`TARGETS`] is the list of both.

mod adapters;
mod bundle;
mod chat_request;
mod checkpoint;
mod folder;
mod gguf;
mod grammar;
mod model_header;
mod model_output;
mod modelfile;
mod names;
mod safetensors;
mod scheduler;
pub mod seeds;
mod source;
mod templates;
mod tokenizers;
pub mod vocabularies;

pub use adapters::{adapter_gguf, adapter_peft};
pub use bundle::bundle;
pub use chat_request::chat_request;
pub use checkpoint::checkpoint;
pub use gguf::gguf;
pub use grammar::grammar;
pub use model_header::model_header;
pub use model_output::model_output;
pub use modelfile::modelfile;
pub use names::{manifest, names};
pub use scheduler::scheduler;
pub use templates::{go_template_source, template_source, template_vars};
pub use tokenizers::{detokenizer, tokenize, tokenizer_metadata};

/// A target: its name, which is also the name of its folders under `fuzz/`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("adapter_gguf", adapter_gguf),
    ("adapter_peft", adapter_peft),
    ("bundle", bundle),
    ("chat_request", chat_request),
    ("checkpoint", checkpoint),
    ("detokenizer", detokenizer),
    ("gguf", gguf),
    ("go_template_source", go_template_source),
    ("grammar", grammar),
    ("manifest", manifest),
    ("model_header", model_header),
    ("model_output", model_output),
    ("modelfile", modelfile),
    ("names", names),
    ("scheduler", scheduler),
    ("template_source", template_source),
    ("template_vars", template_vars),
    ("tokenize", tokenize),
    ("tokenizer_metadata", tokenizer_metadata),
];

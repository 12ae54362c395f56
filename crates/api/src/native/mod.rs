//! Routes that peers have beside the dialects: tokens and templates (llama-server's and vLLM's shapes), what a server
//! says about itself (llama-server, SGLang), SGLang's `/generate`, and how near texts are to each other (Jina's,
//! Cohere's and vLLM's `/rerank`, vLLM's `/score`).

pub mod adapters;
pub mod generate;
pub mod infill;
pub mod rerank;
pub(crate) mod schema;
pub mod server;
pub mod tokens;

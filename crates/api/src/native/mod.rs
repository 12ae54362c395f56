//! Routes that peers have beside the dialects: tokens and templates (llama-server's and vLLM's shapes), what a server
//! says about itself (llama-server, SGLang), and SGLang's `/generate`.

pub mod generate;
pub(crate) mod schema;
pub mod server;
pub mod tokens;

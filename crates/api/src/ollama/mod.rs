//! Ollama's dialect.

mod error;

pub use error::error_body;

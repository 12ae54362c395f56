//! Anthropic's dialect: messages and errors.

mod error;

pub use error::error_body;

//! The server over a scripted provider: every route, streams as exact bytes, errors, limits, shutdown.

mod anthropic;
mod chat;
mod client;
mod completions;
mod documentation;
mod embeddings;
mod errors;
mod fixtures;
mod ollama;
mod operations;
mod responses;
mod scripted;
mod utility;

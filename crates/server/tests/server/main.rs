//! The server over a scripted provider: every route, streams as exact bytes, errors, limits, shutdown.

mod anthropic;
mod background;
mod batches;
mod chat;
mod client;
mod completions;
mod documentation;
mod errors;
mod files;
mod fixtures;
mod ollama;
mod operations;
mod responses;
mod scripted;
mod utility;

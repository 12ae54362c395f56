//! The server over a scripted provider: every route, streams as exact bytes, errors, limits, shutdown.

mod adapters;
mod anthropic;
mod background;
mod batches;
mod chat;
mod client;
mod completions;
mod conformance;
mod create;
mod described;
mod documentation;
mod embeddings;
mod errors;
mod files;
mod fixtures;
mod hostile;
mod infill;
mod ollama;
mod operations;
mod responses;
mod scopes;
mod scripted;
mod terms;
mod utility;

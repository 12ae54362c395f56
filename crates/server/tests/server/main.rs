//! The server over a scripted provider: every route, streams as exact bytes, errors, limits, shutdown.

mod chat;
mod client;
mod completions;
mod documentation;
mod errors;
mod fixtures;
mod operations;
mod scripted;

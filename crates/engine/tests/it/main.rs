//! The engine against the scripted executor.

mod answers;
mod client;
mod embeddings;
mod faults;
mod meaning;
mod refusals;
mod simulator;
mod soak;

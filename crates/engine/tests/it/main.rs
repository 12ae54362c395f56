//! The engine against the scripted executor.

mod adapters;
mod answers;
mod client;
mod embeddings;
mod faults;
mod jumps;
mod meaning;
mod refusals;
mod simulator;
mod soak;
mod stops;

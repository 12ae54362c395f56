//! The engine against the scripted executor.

mod answers;
mod client;
mod faults;
mod meaning;
mod refusals;
mod simulator;
mod soak;
mod stops;

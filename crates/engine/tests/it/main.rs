//! The engine against the scripted executor.

mod answers;
mod client;
mod faults;
mod jumps;
mod meaning;
mod refusals;
mod simulator;
mod soak;

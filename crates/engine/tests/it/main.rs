//! The engine against the scripted executor.

mod simulator;

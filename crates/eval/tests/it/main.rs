//! The load generator against scripted servers, on a clock of the test's own: every figure is exact.

mod closed;
mod failures;
mod open;
mod prompts;
mod reports;
mod scripted;
mod specs;
mod traces;

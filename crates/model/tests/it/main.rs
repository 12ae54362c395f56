//! Whole models: against references, and bit against bit.

mod bits;
mod golden_specs;
mod goldens;
mod loading;
mod lora;
mod steps;
mod stories;
mod support;

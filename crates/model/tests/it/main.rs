//! Whole models: against references, and bit against bit.

mod bert;
mod bits;
mod golden_specs;
mod goldens;
mod loading;
mod steps;
mod stories;
mod support;

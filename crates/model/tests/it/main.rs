//! Whole models: against references, and bit against bit.

mod bits;
mod changed_files;
mod golden_specs;
mod goldens;
mod loading;
mod steps;
mod stories;
mod support;

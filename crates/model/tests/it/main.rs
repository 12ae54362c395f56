//! Whole models: against references, and bit against bit.

mod bert;
mod bits;
mod changed_files;
mod golden_specs;
mod goldens;
mod loading;
mod lora;
mod moved_blocks;
mod sizing;
mod steps;
mod stories;
mod support;

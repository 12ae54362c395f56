//! Models: what they compute, and the CPU that computes it.
//!
//! A file's metadata become [`HParams`], checked once so that nothing after needs to. The file's architecture (one
//! readable file each under `arch/`) describes the model as a [`Graph`]: which tensors there are, how wide, and
//! what is done with them. The graph is data and the same for all devices. [`CpuExecutor`] loads the tensors
//! that it names and interprets it, one step of any number of sequences at a time; GPU executors lower it.
//!
//! To add an architecture, copy the nearest file of `arch/` and add it to the list in `arch/mod.rs`.
#![forbid(unsafe_code)]

mod adapter;
mod arch;
mod cpu;
mod error;
mod graph;
mod hparams;
mod pieces;
mod rope;
pub mod sizing;
pub mod synthetic;
mod weights;

pub use adapter::{AdapterError, AdapterFile, AdapterLease, AdapterSize, Adapters, RANK_MAX};
pub use arch::{ARCHITECTURES, Architecture};
pub use cpu::{CpuExecutor, LoadOptions, Loading, Planned};
pub use error::ModelError;
pub use graph::{
    Attention, Bias, Classifier, Ffn, Graph, Head, Layer, Linear, Norm, NormKind, NormOrder, Weight,
};
pub use hparams::{ClassifierHParams, HParams, LayerHParams, RopeParams, RopeScaling};
pub use rope::rope_table;
pub use sizing::Sizing;

//! The architectures: one file each, which describes the model as data.

mod llama;
mod qwen2;
mod qwen3;

use crate::graph::Graph;
use crate::hparams::HParams;

/// A kind of model.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture` in files.
    pub name: &'static str,
    /// What a model of these hyperparameters computes.
    pub describe: fn(&HParams) -> Graph,
}

/// All that are known, in the order they are listed to users.
pub const ARCHITECTURES: &[&Architecture] = &[&llama::LLAMA, &qwen2::QWEN2, &qwen3::QWEN3];

/// The architecture of this name.
pub(crate) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().copied().find(|a| a.name == name)
}

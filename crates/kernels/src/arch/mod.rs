//! Kernels that are written for an instruction set. Each computes what its twin in `reference` computes, bit for bit.

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

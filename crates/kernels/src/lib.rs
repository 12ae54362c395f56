//! Compute on the CPU: matrices in the repacked, lane = row form, attention over paged KV, norms, rope, and the
//! process-wide thread pool.
//!
//! **Bits.** Every output is one chain of operations in a fixed order, written once in the scalar twin; AVX2 and
//! AVX-512 compute the same chain in their lanes. So one row or many, any division of work over threads, and any
//! instruction set give the same bits. Tests compare for equality, never with a tolerance.

mod activations;
mod arch;
mod attention;
mod isa;
mod kv;
mod lanes;
mod layout;
pub mod limits;
mod matmul;
mod matrix;
mod memory;
mod norm;
mod numerics;
mod pool;
mod quantize;
mod reference;
mod rope;
mod tile;
mod turns;

pub use activations::{ActKinds, Activations};
pub use attention::{AttentionJob, AttentionParams, attention};
pub use isa::Isa;
pub use kv::{KvLayer, KvLayout};
pub use matmul::{Product, matmul, matmul_swiglu, silu_mul};
pub use matrix::{KernelError, Matrix, Packing, dequantize};
pub use memory::Buffer;
pub use norm::{RowNorm, norm_in_place, norm_rows};
pub use numerics::{exp, gelu, gelu_in_place, ln, powf, sin_cos, tanh};
pub use pool::{ClaimOrder, Pool};
pub use rope::{RopeRow, RopeStyle, RopeTable, rope_rows};
pub use turns::{Member, Turn};

/// Goes up whenever any kernel's bits change: part of the numeric path.
pub const NUMERICS_VERSION: u32 = 1;

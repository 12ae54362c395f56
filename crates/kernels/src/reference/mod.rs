//! The scalar twins: what every kernel computes, written for reading.
//!
//! An output is one chain of fused multiply-adds in ascending order of columns, starting at zero. The vector kernels
//! hold 16 such chains in the lanes of a register; nothing is ever summed across lanes, so they give the same bits.

mod floats;
mod iq;
mod iq4;
mod k_quants;
mod k_quants_low;
mod q_blocks;
mod q_blocks_5;

use ingle_gguf::TensorType;
use iq::GridTwin;

use crate::layout::{Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup, Iq3SGroup, Iq3XxsGroup};
use crate::tile::{TileFn, TileInput, TileOut, by_tokens};

/// The twins of a type.
pub(crate) fn kernels(ty: TensorType) -> [TileFn; 8] {
    match ty {
        TensorType::F32 => by_tokens!(floats::f32_tile),
        TensorType::F16 => by_tokens!(floats::f16_tile),
        TensorType::BF16 => by_tokens!(floats::bf16_tile),
        TensorType::Q8_0 => by_tokens!(q_blocks::q8_0_tile),
        TensorType::Q4_0 => by_tokens!(q_blocks::q4_0_tile),
        TensorType::Q4_1 => by_tokens!(q_blocks_5::q4_1_tile),
        TensorType::Q5_0 => by_tokens!(q_blocks_5::q5_0_tile),
        TensorType::Q5_1 => by_tokens!(q_blocks_5::q5_1_tile),
        TensorType::Q2_K => by_tokens!(k_quants_low::q2_k_tile),
        TensorType::Q3_K => by_tokens!(k_quants_low::q3_k_tile),
        TensorType::Q4_K => by_tokens!(k_quants::q4_k_tile),
        TensorType::Q5_K => by_tokens!(k_quants::q5_k_tile),
        TensorType::Q6_K => by_tokens!(k_quants::q6_k_tile),
        TensorType::IQ4_NL => by_tokens!(iq4::iq4_nl_tile),
        TensorType::IQ4_XS => by_tokens!(iq4::iq4_xs_tile),
        TensorType::MXFP4 => by_tokens!(iq4::mxfp4_tile),
        TensorType::IQ3_XXS => by_tokens!(Iq3XxsGroup::tile),
        TensorType::IQ3_S => by_tokens!(Iq3SGroup::tile),
        TensorType::IQ2_XXS => by_tokens!(Iq2XxsGroup::tile),
        TensorType::IQ2_XS => by_tokens!(Iq2XsGroup::tile),
        TensorType::IQ2_S => by_tokens!(Iq2SGroup::tile),
        TensorType::IQ1_S => by_tokens!(Iq1SGroup::tile),
        TensorType::IQ1_M => by_tokens!(Iq1MGroup::tile),
        _ => unreachable!("Matrix holds no other types"),
    }
}

/// Fills `out` for `n` tokens from a function of row and token.
fn for_each_output(n: usize, out: &mut TileOut, output: impl Fn(usize, usize) -> f32) {
    for (token, out) in out.iter_mut().take(n).enumerate() {
        for (lane, out) in out.iter_mut().enumerate() {
            *out = output(lane, token);
        }
    }
}

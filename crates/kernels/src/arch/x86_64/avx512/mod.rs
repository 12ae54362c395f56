//! AVX-512 with VNNI: a register holds 16 rows.
//!
//! Shares of a limit are those of `matmul_bench 1 cache` on a Zen 4 core, whose int8 limit is 469 Gop/s.

mod blocks_32;
mod floats;
mod iq;
mod iq4;
mod iq_lookup;
mod k_quants;
mod k_quants_low;
mod q_blocks;
mod q_blocks_5;

use std::arch::x86_64::*;

use floats::Floats;
use ingle_gguf::TensorType;
use iq::Grids;

use super::Prefetch;
use crate::layout::{Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup, Iq3SGroup, Iq3XxsGroup, ROWS};
use crate::tile::{TileFn, TileInput, TileOut, WideKernel, by_tokens};

/// Up to this many tokens a kernel has two chains of integers per token: fewer than 8 in all would wait for the
/// latency of `vpdpbusd`. More tokens than this would not fit the registers twice.
const N_TWO_CHAINS: usize = 4;

/// The kernels of a type.
pub(crate) fn kernels(ty: TensorType) -> [TileFn; 8] {
    match ty {
        TensorType::F32 => by_tokens!(Floats::<1>::f32_tile),
        TensorType::F16 => by_tokens!(Floats::<1>::f16_tile),
        TensorType::BF16 if is_x86_feature_detected!("avx512bf16") => by_tokens!(Floats::<1>::bf16_tile),
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
        TensorType::IQ4_NL | TensorType::IQ4_XS | TensorType::MXFP4 => iq4::kernels(ty),
        _ if is_x86_feature_detected!("avx512vbmi") => match ty {
            TensorType::IQ3_XXS => by_tokens!(Grids::<Iq3XxsGroup>::tile),
            TensorType::IQ3_S => by_tokens!(Grids::<Iq3SGroup>::tile),
            TensorType::IQ2_XXS => by_tokens!(Grids::<Iq2XxsGroup>::tile),
            TensorType::IQ2_XS => by_tokens!(Grids::<Iq2XsGroup>::tile),
            TensorType::IQ2_S => by_tokens!(Grids::<Iq2SGroup>::tile),
            TensorType::IQ1_S => by_tokens!(Grids::<Iq1SGroup>::tile),
            TensorType::IQ1_M => by_tokens!(Grids::<Iq1MGroup>::tile),
            _ => super::avx2::kernels(ty),
        },
        // BF16 without its instruction, codebooks without `vpermi2b`.
        _ => super::avx2::kernels(ty),
    }
}

/// The kernels of a type for several groups.
pub(crate) fn wide_kernels(ty: TensorType) -> &'static [WideKernel] {
    match ty {
        TensorType::F32 => floats::F32_WIDE,
        TensorType::F16 => floats::F16_WIDE,
        TensorType::BF16 if is_x86_feature_detected!("avx512bf16") => floats::BF16_WIDE,
        TensorType::Q8_0 => q_blocks::Q8_0_WIDE,
        TensorType::BF16 => super::avx2::wide_kernels(ty),
        _ => &[],
    }
}

/// Repeats a block with a constant in place of a loop's variable: compilers do not unroll loops with large bodies, and
/// then keep arrays of registers in memory.
macro_rules! unrolled {
    ($i:ident in [$($value:literal)+] $body:block) => {
        $({
            const $i: usize = $value;
            $body
        })+
    };
}
use unrolled;

/// A register of weights.
///
/// # Safety
/// `at` is readable for 64 bytes.
#[inline(always)]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: this function's contract.
    unsafe { at.cast::<__m512i>().read_unaligned() }
}

/// 16 f16 as f32.
///
/// # Safety
/// `at` is readable for 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_halves(at: *const u8) -> __m512 {
    // SAFETY: this function's contract.
    _mm512_cvtph_ps(unsafe { at.cast::<__m256i>().read_unaligned() })
}

/// Four bytes of activations (or an `i32`) in every lane.
///
/// # Safety
/// `at` is readable for 4 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(at: *const u8) -> __m512i {
    // SAFETY: this function's contract.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// A float of activations in every lane.
///
/// # Safety
/// `at` is readable for 4 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast_f32(at: *const u8) -> __m512 {
    // SAFETY: this function's contract.
    _mm512_set1_ps(unsafe { at.cast::<f32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(sums: impl AsRef<[__m512]>, out: &mut TileOut) {
    for (sum, out) in sums.as_ref().iter().zip(out) {
        const { assert!(size_of::<__m512>() == size_of::<[f32; ROWS]>()) };
        // SAFETY: `out` is 64 bytes long.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
    }
}

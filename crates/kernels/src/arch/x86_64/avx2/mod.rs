//! AVX2 with FMA and F16C: two registers of 8 rows. Tokens go two or four at a time: what 16 registers
//! hold.

mod floats;
mod iq;
mod iq4;
mod iq_lookup;
mod k_quants;
mod k_quants_low;
mod q5_k;
mod q_blocks;
mod q_blocks_5;

use std::arch::x86_64::*;

use ingle_gguf::TensorType;
use iq::Grids;

use super::Prefetch;
use crate::layout::{Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup, Iq3SGroup, Iq3XxsGroup};
use crate::tile::{TileFn, TileInput, TileOut, by_tokens};

/// The kernels of a type.
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
        TensorType::Q5_K => by_tokens!(q5_k::q5_k_tile),
        TensorType::Q6_K => by_tokens!(k_quants::q6_k_tile),
        TensorType::IQ4_NL => by_tokens!(iq4::iq4_nl_tile),
        TensorType::IQ4_XS => by_tokens!(iq4::iq4_xs_tile),
        TensorType::MXFP4 => by_tokens!(iq4::mxfp4_tile),
        TensorType::IQ3_XXS => by_tokens!(Grids::<Iq3XxsGroup>::tile),
        TensorType::IQ3_S => by_tokens!(Grids::<Iq3SGroup>::tile),
        TensorType::IQ2_XXS => by_tokens!(Grids::<Iq2XxsGroup>::tile),
        TensorType::IQ2_XS => by_tokens!(Grids::<Iq2XsGroup>::tile),
        TensorType::IQ2_S => by_tokens!(Grids::<Iq2SGroup>::tile),
        TensorType::IQ1_S => by_tokens!(Grids::<Iq1SGroup>::tile),
        TensorType::IQ1_M => by_tokens!(Grids::<Iq1MGroup>::tile),
        _ => unreachable!("Matrix holds no other types"),
    }
}

/// Defines a tile function of `N` tokens from a pass over `G` of them, the first of which is given; `G` is 4 only
/// where `four` says that registers suffice.
macro_rules! tile_in_passes {
    ($(#[$doc:meta])* $tile:ident, $pass:ident, four: $four:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See `TileFn`.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(crate) unsafe fn $tile<const N: usize>(mut input: TileInput<'_>, out: &mut TileOut) {
            // Later passes read the weights again.
            input.keep |= N > if $four { 4 } else { 2 };
            let mut first = 0;
            while first < N {
                // SAFETY: this function's contract; `first + G` is at most N.
                unsafe {
                    if $four && first + 4 <= N {
                        $pass::<N, 4>(input, first, out);
                        first += 4;
                    } else if first + 2 <= N {
                        $pass::<N, 2>(input, first, out);
                        first += 2;
                    } else {
                        $pass::<N, 1>(input, first, out);
                        first += 1;
                    }
                }
                input.next = None;
            }
        }
    };
}
use tile_in_passes;

/// Half a register line of weights: 8 rows.
///
/// # Safety
/// `at` is readable for 32 bytes.
#[inline(always)]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: this function's contract.
    unsafe { at.cast::<__m256i>().read_unaligned() }
}

/// 16 bytes.
///
/// # Safety
/// `at` is readable for 16 bytes.
#[inline(always)]
unsafe fn load_16(at: *const u8) -> __m128i {
    // SAFETY: this function's contract.
    unsafe { at.cast::<__m128i>().read_unaligned() }
}

/// 8 bytes, in the low half.
///
/// # Safety
/// `at` is readable for 8 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_8(at: *const u8) -> __m128i {
    // SAFETY: this function's contract.
    _mm_set_epi64x(0, unsafe { at.cast::<i64>().read_unaligned() })
}

/// 8 f16 as f32.
///
/// # Safety
/// `at` is readable for 16 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_halves(at: *const u8) -> __m256 {
    // SAFETY: this function's contract.
    _mm256_cvtph_ps(unsafe { load_16(at) })
}

/// Four bytes of activations (or an `i32`) in every lane.
///
/// # Safety
/// `at` is readable for 4 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast(at: *const u8) -> __m256i {
    // SAFETY: this function's contract.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// A float of activations in every lane.
///
/// # Safety
/// `at` is readable for 4 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast_f32(at: *const u8) -> __m256 {
    // SAFETY: this function's contract.
    _mm256_set1_ps(unsafe { at.cast::<f32>().read_unaligned() })
}

/// Writes the sums of tokens `first..first + G`, rows 0 to 7 and 8 to 15.
#[inline]
#[target_feature(enable = "avx2")]
fn store<const G: usize>(sums: [[__m256; 2]; G], first: usize, out: &mut TileOut) {
    for (sums, out) in sums.iter().zip(&mut out[first..]) {
        for (sum, out) in sums.iter().zip(out.as_chunks_mut::<8>().0) {
            // SAFETY: `out` is 32 bytes long.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

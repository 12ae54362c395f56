//! AVX2 with FMA and F16C: two registers of 8 rows. Tokens go up to four at a time: what 16 registers
//! hold. [`vnni`] has the same with AVX-VNNI.
//!
//! Shares of a limit are those of a Zen 4 core, whose int8 limit is 366 Gop/s with AVX2 and 465 with the `vpdpbusd` of
//! AVX-VNNI.

mod bf16;
mod dot;
mod floats;
mod iq;
mod iq4;
mod iq_lookup;
mod k_quants;
mod k_quants_low;
mod q5_k;
mod q_blocks;
mod q_blocks_5;
pub(crate) mod vnni;

use std::arch::x86_64::*;

use ingle_gguf::TensorType;
use iq::Grids;

use super::Prefetch;
use crate::layout::{Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup, Iq3SGroup, Iq3XxsGroup};
use dot::{Dot, Maddubs};
use iq4::mxfp4;
use k_quants::{q4_k, q6_k};
use k_quants_low::{q2_k, q3_k};
use q_blocks::{q4_0, q8_0_split};
use q_blocks_5::{q4_1, q5_0, q5_1};

use crate::tile::{TileFn, TileInput, TileOut, WideKernel, by_tokens};

/// The kernels of a type.
pub(crate) fn kernels(ty: TensorType) -> [TileFn; 8] {
    match ty {
        TensorType::F32 => by_tokens!(floats::f32_tile),
        TensorType::F16 => by_tokens!(floats::f16_tile),
        TensorType::BF16 => by_tokens!(bf16::bf16_tile),
        TensorType::Q8_0 => by_tokens!(q8_0_tile),
        TensorType::Q4_0 => by_tokens!(q4_0_tile),
        TensorType::Q2_K => by_tokens!(q2_k_tile),
        TensorType::Q3_K => by_tokens!(q3_k_tile),
        TensorType::Q4_1 => by_tokens!(q4_1_tile),
        TensorType::Q5_0 => by_tokens!(q5_0_tile),
        TensorType::Q5_1 => by_tokens!(q5_1_tile),
        TensorType::Q4_K => by_tokens!(q4_k_tile),
        TensorType::Q5_K => by_tokens!(q5_k::q5_k_tile),
        TensorType::Q6_K => by_tokens!(q6_k_tile),
        TensorType::IQ4_NL => by_tokens!(iq4::iq4_nl_tile),
        TensorType::IQ4_XS => by_tokens!(iq4::iq4_xs_tile),
        TensorType::MXFP4 => by_tokens!(mxfp4_tile),
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

/// The kernels of a type for several groups.
pub(crate) fn wide_kernels(ty: TensorType) -> &'static [WideKernel] {
    match ty {
        TensorType::F32 => floats::F32_WIDE,
        TensorType::F16 => floats::F16_WIDE,
        TensorType::BF16 => bf16::WIDE,
        _ => &[],
    }
}

/// Compiles sources for an instruction set: tile functions into which they are inlined.
macro_rules! tiles {
    ($features:literal, $($tile:ident: $source:ident[$($dot:ident)?]),+ $(,)?) => {
        $(
            /// # Safety
            /// See `TileFn`.
            #[target_feature(enable = $features)]
            pub(crate) unsafe fn $tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
                // SAFETY: this function's contract, and the instruction set that it enables.
                unsafe { $source::<$($dot,)? N>(input, out) }
            }
        )+
    };
}
use tiles;

tiles!(
    "avx2,fma,f16c",
    q8_0_tile: q8_0_split[],
    q4_0_tile: q4_0[Maddubs],
    q2_k_tile: q2_k[Maddubs],
    q3_k_tile: q3_k[Maddubs],
    q4_1_tile: q4_1[Maddubs],
    q5_0_tile: q5_0[Maddubs],
    q5_1_tile: q5_1[Maddubs],
    q4_k_tile: q4_k[Maddubs],
    q6_k_tile: q6_k[Maddubs],
    mxfp4_tile: mxfp4[Maddubs],
);

/// Does a pass for the first `G` of `N` tokens and one for the others, each at most four, where `N` is more than that.
macro_rules! in_passes {
    ($n:ident, $first:ident, $g:ident => $pass:expr) => {
        match $n {
            1 => in_passes!($first, $g => $pass; 0, 1),
            2 => in_passes!($first, $g => $pass; 0, 2),
            3 => in_passes!($first, $g => $pass; 0, 3),
            4 => in_passes!($first, $g => $pass; 0, 4),
            5 => in_passes!($first, $g => $pass; 0, 3; 3, 2),
            6 => in_passes!($first, $g => $pass; 0, 3; 3, 3),
            7 => in_passes!($first, $g => $pass; 0, 4; 4, 3),
            _ => in_passes!($first, $g => $pass; 0, 4; 4, 4),
        }
    };
    ($first:ident, $g:ident => $pass:expr; $($at:literal, $count:literal);+) => {
        {
            $({
                const $g: usize = $count;
                let $first = $at;
                $pass;
            })+
        }
    };
}
use in_passes;

impl Prefetch {
    /// Itself for the pass that begins with the first token; later ones find the weights in a cache.
    fn if_first(self, first: usize) -> Self {
        Self { on: self.on && first == 0, ..self }
    }
}

/// Adds the products of four columns of 16 rows with those of `G` tokens, which are `STRIDE` bytes apart.
///
/// # Safety
/// `x` and its successors are readable for 4 bytes; the instruction set of `D`.
#[inline(always)]
unsafe fn add_quad<D: Dot, const G: usize, const STRIDE: usize>(
    weights: [__m256i; 2],
    x: *const u8,
    dots: &mut [[__m256i; 2]; G],
) {
    for (g, dots) in dots.iter_mut().enumerate() {
        // SAFETY: this function's contract.
        unsafe {
            let x = broadcast(x.add(g * STRIDE));
            for h in 0..2 {
                dots[h] = D::add(dots[h], weights[h], x);
            }
        }
    }
}

/// Where a pass finds weights: packed, to be kept unpacked for the pass that follows, or kept by an earlier one.
#[derive(Clone, Copy, PartialEq)]
enum Weights {
    Packed,
    PackedToKeep,
    Kept,
}

impl Weights {
    /// For the pass that begins with token `first` of `n`.
    #[inline(always)]
    fn of_pass(first: usize, n: usize) -> Self {
        match (first, n) {
            (0, ..=4) => Self::Packed,
            (0, _) => Self::PackedToKeep,
            _ => Self::Kept,
        }
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
    store_rows(&sums, first, out);
}

/// Writes sums to the rows of `out` from `first` on.
#[inline]
#[target_feature(enable = "avx2")]
fn store_rows(sums: &[[__m256; 2]], first: usize, out: &mut TileOut) {
    for (sums, out) in sums.iter().zip(&mut out[first..]) {
        for (sum, out) in sums.iter().zip(out.as_chunks_mut::<8>().0) {
            // SAFETY: `out` is 32 bytes long.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

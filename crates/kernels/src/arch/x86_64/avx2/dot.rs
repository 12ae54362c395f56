//! How eight rows' bytes are multiplied and added up: the only thing in which the integer kernels of AVX2 and AVX-VNNI
//! differ. Integers are exact, so each of these gives the same sums.
//!
//! The functions have no instruction set of their own: they are inlined into tile functions that enable it. Closures
//! are not, so sources call intrinsics in functions alone.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;

use super::load;
use crate::activations::X256;

/// Sums of products of unsigned weights with int8 activations, one 32-bit lane per row.
///
/// A sum is begun with a start, gets up to 8 registers of four columns each, and is then read, once.
///
/// # Safety
/// Every function needs the instruction set of its implementor.
pub(super) trait Dot {
    /// Adds the products of four columns. All sums that kernels ask for fit: up to 32 columns of weights up to 15, or
    /// 16 columns of weights up to 63 with a start of [`Dot::starts_16`].
    unsafe fn add(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i;

    /// Scales of 8 rows (16-bit numbers in 32-bit lanes) as [`Dot::scaled`] takes them.
    unsafe fn scales(scales: __m256i) -> __m256i;

    /// A sum as `i32`, times the scales.
    unsafe fn scaled(sum: __m256i, scales: __m256i) -> __m256i;

    /// A sum to which [`Dot::total`] will add `offset`.
    unsafe fn start(offset: __m256i) -> __m256i;

    /// A sum as `i32`, with the offset that it was started for.
    unsafe fn total(sum: __m256i, offset: __m256i) -> __m256i;

    /// Adds the products of pairs of 16-bit numbers to `i32`s.
    unsafe fn add_pairs(sum: __m256i, a: __m256i, b: __m256i) -> __m256i;

    /// Where the sum of each 16 of 256 columns starts when weights are raised by 32: at -32 times the activations.
    ///
    /// # Safety
    /// `x` is an `X256`.
    unsafe fn starts_16(x: *const u8, starts: &mut [i32; 16]);
}

/// `vpmaddubsw`, and additions in 16 bits: two sums per lane, of even and of odd pairs of columns.
///
/// Weights up to 15: 15 * 127 * 2 * 8 = 30,480 fits in 16 bits. Weights up to 63: two columns are at most 63 * 127 * 2
/// = 16,002, so that `vpmaddubsw` never saturates; additions wrap around, but a whole sum with its start is one of
/// weights of -32 to 31 and 8 columns, at most 32 * 127 * 8 = 32,512, and what wraps both ways is exact.
pub(super) struct Maddubs;

impl Dot for Maddubs {
    #[inline(always)]
    unsafe fn add(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2, here and below.
        unsafe { add_16(sum, _mm256_maddubs_epi16(weights, x)) }
    }

    #[inline(always)]
    unsafe fn scales(scales: __m256i) -> __m256i {
        // Each twice: `vpmaddwd` multiplies both sums of a lane.
        // SAFETY: as above.
        unsafe {
            let twice = _mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
            _mm256_shuffle_epi8(scales, _mm256_broadcastsi128_si256(twice))
        }
    }

    #[inline(always)]
    unsafe fn scaled(sum: __m256i, scales: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_madd_epi16(sum, scales) }
    }

    #[inline(always)]
    unsafe fn start(_: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn total(sum: __m256i, offset: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)), offset) }
    }

    #[inline(always)]
    unsafe fn add_pairs(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn starts_16(x: *const u8, starts: &mut [i32; 16]) {
        // SAFETY: as above; `x` has 256 bytes of activations, `starts` is two registers long.
        unsafe {
            let raised = _mm256_set1_epi8(32);
            // Registers of 32 columns: a half is 16 columns, and its lanes have those of one quad each.
            for (i, out) in starts.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let x = x.add(i * 128);
                let a = _mm256_maddubs_epi16(raised, load(x));
                let b = _mm256_maddubs_epi16(raised, load(x.add(32)));
                let c = _mm256_maddubs_epi16(raised, load(x.add(64)));
                let d = _mm256_maddubs_epi16(raised, load(x.add(96)));
                // The sum of each half's four lanes, of a, b, c and d side by side.
                let ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                let sums = _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
                // a's two halves are its two sub-blocks.
                let sums = _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
                let negative = _mm256_sub_epi16(_mm256_setzero_si256(), sums);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), negative);
            }
        }
    }
}

/// Adds in 16 bits, in the order of the program: left to itself, the compiler adds up in a tree whose branches do not fit
/// into the registers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_16(sum: __m256i, products: __m256i) -> __m256i {
    let mut sum = _mm256_add_epi16(sum, products);
    // SAFETY: no instruction; the compiler takes the register for a new value.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

/// `vpdpbusd`, in one of its encodings: sums are `i32` from the start.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $dpbusd:ident, $dpwssd:ident) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Dot for $name {
            #[inline(always)]
            unsafe fn add(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
                // SAFETY: the caller has the instruction, here and below.
                unsafe { $dpbusd(sum, weights, x) }
            }

            #[inline(always)]
            unsafe fn scales(scales: __m256i) -> __m256i {
                scales
            }

            #[inline(always)]
            unsafe fn scaled(sum: __m256i, scales: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { _mm256_mullo_epi32(sum, scales) }
            }

            #[inline(always)]
            unsafe fn start(offset: __m256i) -> __m256i {
                offset
            }

            #[inline(always)]
            unsafe fn total(sum: __m256i, _: __m256i) -> __m256i {
                sum
            }

            #[inline(always)]
            unsafe fn add_pairs(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { $dpwssd(sum, a, b) }
            }

            #[inline(always)]
            unsafe fn starts_16(x: *const u8, starts: &mut [i32; 16]) {
                for (i, out) in starts.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    // SAFETY: `x` has 64 bytes of sums; `out` is a register long.
                    unsafe {
                        let sums = load(x.add(offset_of!(X256, times_neg32) + i * 32));
                        _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
                    }
                }
            }
        }
    };
}

vnni!(
    /// AVX-VNNI: the encoding of processors without AVX-512.
    VnniVex,
    _mm256_dpbusd_avx_epi32,
    _mm256_dpwssd_avx_epi32
);
vnni!(
    /// AVX-512 VNNI with VL: the same instructions in the encoding of AVX-512.
    VnniEvex,
    _mm256_dpbusd_epi32,
    _mm256_dpwssd_epi32
);

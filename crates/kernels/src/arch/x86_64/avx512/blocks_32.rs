//! What the kernels of types with blocks of 32 columns share: products of nibbles and of 5 bits, and the floats of a
//! block.
//!
//! The second half of a block's columns is multiplied where it lies in its bytes, that is 16 or 8 times too large, and
//! its sum is shifted: one operation where each register would need one. A sum of 16 columns of 255 times 127 is far from
//! 31 bits, and the shift exact. Where all columns share a chain, registers are shifted.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{N_TWO_CHAINS, broadcast, broadcast_f32, load};
use crate::activations::X32;

/// Bytes from a token's block to the next token's.
pub(super) const X: usize = size_of::<X32>();

/// What each token has `at` so many bytes from the start of its block, in every lane.
///
/// # Safety
/// `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn starts<const N: usize>(x: *const u8, at: usize) -> [__m512i; N] {
    let mut starts = [_mm512_setzero_si512(); N];
    for (t, start) in starts.iter_mut().enumerate() {
        // SAFETY: inside the block of token t.
        *start = unsafe { broadcast(x.add(t * X + at)) };
    }
    starts
}

/// `starts + sum(w * q)`, weights being nibbles as they are. Inlined whatever its size: with sums that go through memory 8
/// tokens of Q4_0 reach 44 % of the int8 limit, not 75.
///
/// # Safety
/// `w` are 4 registers, whose low nibbles are the first 16 columns; `x` are `N` blocks; AVX-512 with BW and VNNI.
#[inline(always)]
pub(super) unsafe fn nibble_dots<const N: usize>(
    w: *const u8,
    x: *const u8,
    starts: [__m512i; N],
) -> [__m512i; N] {
    // SAFETY: this function's contract: four registers of weights, a block of each token.
    unsafe {
        let mut sums = Sums::new(starts);
        for i in 0..4 {
            let raw = load(w.add(i * 64));
            let low = _mm512_and_si512(raw, _mm512_set1_epi8(0x0F));
            let high = _mm512_and_si512(raw, _mm512_set1_epi8(0xF0_u8 as i8));
            sums.add::<4, X>(low, high, x.add(i * 4));
        }
        sums.total::<4>()
    }
}

/// `starts + sum(w * q)`, weights having 5 bits. Inlined as [`nibble_dots`].
///
/// # Safety
/// `w` is a `FiveBits`, `x` are `N` blocks; AVX-512 with BW and VNNI.
#[inline(always)]
pub(super) unsafe fn five_bit_dots<const N: usize>(
    w: *const u8,
    x: *const u8,
    starts: [__m512i; N],
) -> [__m512i; N] {
    // SAFETY: this function's contract: five registers of weights, a block of each token.
    unsafe {
        let upper_three = _mm512_set1_epi8(0xE0_u8 as i8);
        let mut sums = Sums::new(starts);
        let pairs = load(w);
        // Bits 3 and 4 are the lower two of four columns; those below are masked off.
        let pairs = [
            _mm512_slli_epi16::<3>(pairs),
            _mm512_slli_epi16::<1>(pairs),
            _mm512_srli_epi16::<1>(pairs),
            _mm512_srli_epi16::<3>(pairs),
        ];
        for (i, pairs) in pairs.into_iter().enumerate() {
            let raw = load(w.add(64 + i * 64));
            let low = _mm512_and_si512(raw, _mm512_set1_epi8(0x1F));
            let lower_two = _mm512_and_si512(pairs, _mm512_set1_epi8(0x18));
            // `raw & upper_three | lower_two`
            let high = _mm512_ternarylogic_epi32::<0xEA>(raw, upper_three, lower_two);
            sums.add::<3, X>(low, high, x.add(i * 4));
        }
        sums.total::<3>()
    }
}

/// Sums of products of a block: one chain for each token, or two where there are few.
pub(super) struct Sums<const N: usize> {
    first: [__m512i; N],
    second: [__m512i; N],
}

impl<const N: usize> Sums<N> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(starts: [__m512i; N]) -> Self {
        Self { first: starts, second: [_mm512_setzero_si512(); N] }
    }

    /// Adds the products of four of the first 16 columns and of four of the second, of which `second` has `1 << SHIFT`
    /// times the weights, with nothing below. Tokens are `STRIDE` bytes apart.
    ///
    /// # Safety
    /// `x` is where q of the first four columns of the first of `N` tokens lies.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn add<const SHIFT: u32, const STRIDE: usize>(
        &mut self,
        first: __m512i,
        second: __m512i,
        x: *const u8,
    ) {
        let two_chains = N <= N_TWO_CHAINS;
        let second = if two_chains { second } else { _mm512_srli_epi16::<SHIFT>(second) };
        for t in 0..N {
            let x = x.wrapping_add(t * STRIDE);
            // SAFETY: inside q of token t.
            let (x_first, x_second) = unsafe { (broadcast(x), broadcast(x.add(16))) };
            self.first[t] = _mm512_dpbusd_epi32(self.first[t], first, x_first);
            let sum = if two_chains { &mut self.second[t] } else { &mut self.first[t] };
            *sum = _mm512_dpbusd_epi32(*sum, second, x_second);
        }
    }

    /// The sums, those of the second columns divided by `1 << SHIFT`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn total<const SHIFT: u32>(mut self) -> [__m512i; N] {
        if N <= N_TWO_CHAINS {
            for (first, second) in self.first.iter_mut().zip(self.second) {
                *first = _mm512_add_epi32(*first, _mm512_srai_epi32::<SHIFT>(second));
            }
        }
        self.first
    }
}

/// Adds a block's sums times its scales.
///
/// # Safety
/// `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add_scaled<const N: usize>(
    d: __m512,
    dots: [__m512i; N],
    x: *const u8,
    sums: &mut [__m512; N],
) {
    for (t, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
        // SAFETY: the scale of token t.
        let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X32, d))) };
        *sum = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dot), *sum);
    }
}

/// Adds a block's products and minimums, in the order of `reference::q_blocks_5::with_minimum`.
///
/// # Safety
/// `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add_with_minimum<const N: usize>(
    d: __m512,
    m: __m512,
    dots: [__m512i; N],
    x: *const u8,
    sums: &mut [__m512; N],
) {
    let m = _mm512_mul_ps(m, _mm512_set1_ps(-0.125));
    for (t, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
        // SAFETY: sum and scale of token t.
        let (times_neg8, dx) = unsafe {
            (
                broadcast(x.add(t * X + offset_of!(X32, times_neg8))),
                broadcast_f32(x.add(t * X + offset_of!(X32, d))),
            )
        };
        let product = _mm512_mul_ps(d, _mm512_cvtepi32_ps(dot));
        *sum = _mm512_fmadd_ps(dx, _mm512_fmadd_ps(m, _mm512_cvtepi32_ps(times_neg8), product), *sum);
    }
}

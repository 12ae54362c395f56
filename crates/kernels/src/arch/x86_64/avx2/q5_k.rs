//! Q5_K. The products of half a sub-block stay in 16 bits (31 * 127 * 2 * 4 fits), so that one `vpmaddwd` adds pairs
//! and applies the scale.
//!
//! 8 rows at a time through a super-block, so that 16 registers hold four tokens' sums and unpacking a weight is
//! shared by four; the other 8 rows come from the first-level cache.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{
    Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store, tile_in_passes,
};
use crate::activations::X256;
use crate::layout::{Q5KGroup, Q5KPair};

const X: usize = size_of::<X256>();

/// Bytes of a pair of sub-blocks.
const PAIR: usize = size_of::<Q5KPair>();

tile_in_passes!(
    /// Twin: `reference::k_quants::q5_k_tile`.
    ///
    /// Per super-block of 16 rows (2,880 bytes) and token, in operations of 8 lanes: 128 products of four columns of
    /// two operations each, 32 scales and 8 minimums with their additions, 12 of floats; and about 560 to unpack, for
    /// every four tokens. Measured on a Zen 4 core in cache at 8 tokens: 181 Gop/s, 49 % of the limit (39 % of that of
    /// AVX-VNNI, which has no other kernel for it). Bound by the number of operations, half of which are products.
    q5_k_tile,
    q5_k_pass,
    four: true
);

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q5_k_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); G]; 2];
    for _ in 0..input.n_cols / 256 {
        for (h, sums) in sums.iter_mut().enumerate() {
            let mut products = [_mm256_setzero_si256(); G];
            for pair in 0..4 {
                if h == 0 {
                    // 45 lines: 11 a pair, and one more.
                    prefetch.ahead::<12>(w.wrapping_add(pair * PAIR));
                }
                // SAFETY: this super-block's weights and activations.
                unsafe {
                    sub_block::<N, G, 0>(w, x, pair, h, &mut products);
                    sub_block::<N, G, 1>(w, x, pair, h, &mut products);
                }
            }
            let mut minimums = [_mm256_setzero_si256(); G];
            for pair in 0..4 {
                // SAFETY: 8 rows' scales and minimums of a pair of sub-blocks.
                let words = unsafe { load(w.add(pair * PAIR + offset_of!(Q5KPair, scales) + h * 32)) };
                let mins = _mm256_and_si256(words, _mm256_set1_epi16(0xFF));
                for (g, minimum) in minimums.iter_mut().enumerate() {
                    // SAFETY: two of the sums of the token.
                    let x = unsafe { broadcast(x.add(g * X + offset_of!(X256, sums) + pair * 4)) };
                    *minimum = _mm256_add_epi32(*minimum, _mm256_madd_epi16(mins, x));
                }
            }
            // SAFETY: 8 of the 16 scales of this super-block, and of its minimums' scales.
            let (d, dmin) = unsafe {
                (
                    load_halves(w.add(offset_of!(Q5KGroup, d) + h * 16)),
                    load_halves(w.add(offset_of!(Q5KGroup, dmin) + h * 16)),
                )
            };
            for g in 0..G {
                // SAFETY: the scale of the token.
                let dx = unsafe { broadcast_f32(x.add(g * X + offset_of!(X256, d))) };
                let sum = &mut sums[g];
                *sum = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(products[g]), *sum);
                *sum = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(minimums[g]), *sum);
            }
        }
        w = w.wrapping_add(size_of::<Q5KGroup>());
        x = x.wrapping_add(N * X);
    }
    store::<G>(std::array::from_fn(|g| [sums[0][g], sums[1][g]]), first, out);
}

/// Half `h` of the rows of sub-block `HIGH` of a pair: those in low or in high nibbles.
///
/// # Safety
/// `w` is a `Q5KGroup`, `x` is the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sub_block<const N: usize, const G: usize, const HIGH: usize>(
    w: *const u8,
    x: *const u8,
    pair: usize,
    h: usize,
    products: &mut [__m256i; G],
) {
    let sub = pair * 2 + HIGH;
    let w = w.wrapping_add(pair * PAIR);
    // SAFETY: scales and minimums of 8 of the 16 rows.
    let words = unsafe { load(w.add(offset_of!(Q5KPair, scales) + h * 32)) };
    let scales = if HIGH == 1 {
        _mm256_srli_epi32::<24>(words)
    } else {
        _mm256_and_si256(_mm256_srli_epi32::<8>(words), _mm256_set1_epi32(0xFF))
    };
    let scales = _mm256_or_si256(scales, _mm256_slli_epi32::<16>(scales));
    for part in 0..2 {
        // SAFETY: the fifth bits of four quads.
        let fifth = unsafe { load(w.add(offset_of!(Q5KPair, fifth) + part * 64 + h * 32)) };
        let mut dots = [_mm256_setzero_si256(); G];
        for i in part * 4..part * 4 + 4 {
            // SAFETY: inside this super-block's quads.
            let raw = unsafe { load(w.add(offset_of!(Q5KPair, quads) + i * 64 + h * 32)) };
            // The file's lower or upper four bits, and the one bit above or below them.
            let (raw, four, one) =
                if HIGH == 1 { (_mm256_srli_epi16::<3>(raw), 0x1E, 0x01) } else { (raw, 0x0F, 0x10) };
            let bits = match (HIGH, i % 4) {
                (0, 0) => _mm256_slli_epi16::<3>(fifth),
                (0, 1) => _mm256_slli_epi16::<1>(fifth),
                (0, 2) => _mm256_srli_epi16::<1>(fifth),
                (0, _) => _mm256_srli_epi16::<3>(fifth),
                (_, 0) => fifth,
                (_, 1) => _mm256_srli_epi16::<2>(fifth),
                (_, 2) => _mm256_srli_epi16::<4>(fifth),
                _ => _mm256_srli_epi16::<6>(fifth),
            };
            let four = _mm256_and_si256(raw, _mm256_set1_epi8(four));
            let weights = _mm256_or_si256(four, _mm256_and_si256(bits, _mm256_set1_epi8(one)));
            for (g, dot) in dots.iter_mut().enumerate() {
                // SAFETY: inside this super-block's q of the token.
                let x = unsafe { broadcast(x.add(g * X + sub * 32 + i * 4)) };
                *dot = _mm256_add_epi16(*dot, _mm256_maddubs_epi16(weights, x));
            }
        }
        for (product, dot) in products.iter_mut().zip(dots) {
            *product = _mm256_add_epi32(*product, _mm256_madd_epi16(dot, scales));
        }
    }
}

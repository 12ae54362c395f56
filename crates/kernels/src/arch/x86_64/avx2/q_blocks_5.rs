//! Q5_0, Q5_1 and Q4_1. The products of half a block stay in 16 bits (31 * 127 * 2 * 4 fits); 8 rows at a time, see
//! `q5_k`.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{
    Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store, tile_in_passes,
};
use crate::activations::X32;
use crate::layout::{Paired, Q41Group, Q50Group, Q51Group};

const X: usize = size_of::<X32>();

tile_in_passes!(
    /// 16 `vpmaddubsw` a token and block. At 8 tokens in cache 108 Gop/s on a Zen 4 core.
    ///
    /// Twin: `reference::q_blocks_5::q5_0_tile`.
    q5_0_tile,
    q5_0_pass,
    four: true
);
tile_in_passes!(
    /// 16 `vpmaddubsw` a token and block. At 8 tokens in cache 111 Gop/s on a Zen 4 core.
    ///
    /// Twin: `reference::q_blocks_5::q5_1_tile`.
    q5_1_tile,
    q5_1_pass,
    four: true
);
tile_in_passes!(
    /// 16 `vpmaddubsw` a token and block. At 8 tokens in cache 110 Gop/s on a Zen 4 core.
    ///
    /// Twin: `reference::q_blocks_5::q4_1_tile`.
    q4_1_tile,
    q4_1_pass,
    four: true
);

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q5_0_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); G]; 2];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Q50Group::block_at(block));
        prefetch.ahead::<6>(w);
        for (h, sums) in sums.iter_mut().enumerate() {
            // SAFETY: this block's weights with fifth bits, and activations; 8 of its 16 scales.
            let (dots, d) = unsafe {
                (
                    block_dots::<G, true>(w, x, h),
                    load_halves(input.w.as_ptr().add(Q50Group::scales_at(block) + h * 16)),
                )
            };
            for (g, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                // SAFETY: sum and scale of the token.
                let (times_neg8, dx) = unsafe {
                    (
                        broadcast(x.add(g * X + offset_of!(X32, times_neg8))),
                        broadcast_f32(x.add(g * X + offset_of!(X32, d))),
                    )
                };
                let dot = _mm256_add_epi32(dot, _mm256_slli_epi32::<1>(times_neg8));
                *sum = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), *sum);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store::<G>(std::array::from_fn(|g| [sums[0][g], sums[1][g]]), first, out);
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q5_1_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); G]; 2];
    for _ in 0..input.n_cols / 32 {
        prefetch.ahead::<6>(w);
        for (h, sums) in sums.iter_mut().enumerate() {
            // SAFETY: this block's weights with fifth bits, and activations; 8 of its 16 scales and minimums.
            unsafe {
                let dots = block_dots::<G, true>(w, x, h);
                let d = load_halves(w.add(offset_of!(Q51Group, d) + h * 16));
                let m = load_halves(w.add(offset_of!(Q51Group, m) + h * 16));
                add_with_minimum(d, m, dots, x, sums);
            }
        }
        w = w.wrapping_add(size_of::<Q51Group>());
        x = x.wrapping_add(N * X);
    }
    store::<G>(std::array::from_fn(|g| [sums[0][g], sums[1][g]]), first, out);
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_1_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); G]; 2];
    for _ in 0..input.n_cols / 32 {
        prefetch.ahead::<5>(w);
        for (h, sums) in sums.iter_mut().enumerate() {
            // SAFETY: this block's weights and activations; 8 of its 16 scales and minimums.
            unsafe {
                let dots = block_dots::<G, false>(w, x, h);
                let d = load_halves(w.add(offset_of!(Q41Group, d) + h * 16));
                let m = load_halves(w.add(offset_of!(Q41Group, m) + h * 16));
                add_with_minimum(d, m, dots, x, sums);
            }
        }
        w = w.wrapping_add(size_of::<Q41Group>());
        x = x.wrapping_add(N * X);
    }
    store::<G>(std::array::from_fn(|g| [sums[0][g], sums[1][g]]), first, out);
}

/// `sum(w * q)` of half `h` of the rows.
///
/// # Safety
/// `w` are 4 times 64 bytes of nibbles, followed by 64 of fifth bits if there are any; `x` is the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_dots<const G: usize, const FIFTH: bool>(
    w: *const u8,
    x: *const u8,
    h: usize,
) -> [__m256i; G] {
    let mut sums = [_mm256_setzero_si256(); G];
    let mut high = _mm256_setzero_si256();
    if FIFTH {
        // SAFETY: behind the nibbles.
        high = unsafe { load(w.add(4 * 64 + h * 32)) };
    }
    for part in 0..2 {
        let mut bits = if part == 0 { high } else { _mm256_slli_epi16::<4>(high) };
        let mut dots = [_mm256_setzero_si256(); G];
        for i in 0..4 {
            // SAFETY: inside the nibbles.
            let raw = unsafe { load(w.add(i * 64 + h * 32)) };
            let raw = if part == 1 { _mm256_srli_epi16::<4>(raw) } else { raw };
            let mut weights = _mm256_and_si256(raw, _mm256_set1_epi8(0x0F));
            if FIFTH {
                weights = _mm256_or_si256(weights, _mm256_and_si256(bits, _mm256_set1_epi8(0x10)));
                bits = _mm256_srli_epi16::<1>(bits);
            }
            for (g, dot) in dots.iter_mut().enumerate() {
                // SAFETY: inside q of the token.
                let x = unsafe { broadcast(x.add(g * X + part * 16 + i * 4)) };
                *dot = _mm256_add_epi16(*dot, _mm256_maddubs_epi16(weights, x));
            }
        }
        for (sum, dot) in sums.iter_mut().zip(dots) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(dot, _mm256_set1_epi16(1)));
        }
    }
    sums
}

/// Adds a block's products and minimums of half of the rows, in the order of
/// `reference::q_blocks_5::with_minimum`.
///
/// # Safety
/// `x` is the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_with_minimum<const G: usize>(
    d: __m256,
    m: __m256,
    dots: [__m256i; G],
    x: *const u8,
    sums: &mut [__m256; G],
) {
    let m = _mm256_mul_ps(m, _mm256_set1_ps(-0.125));
    for (g, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
        // SAFETY: sum and scale of the token.
        let (times_neg8, dx) = unsafe {
            (
                broadcast(x.add(g * X + offset_of!(X32, times_neg8))),
                broadcast_f32(x.add(g * X + offset_of!(X32, d))),
            )
        };
        let product = _mm256_mul_ps(d, _mm256_cvtepi32_ps(dot));
        let minimum = _mm256_fmadd_ps(m, _mm256_cvtepi32_ps(times_neg8), product);
        *sum = _mm256_fmadd_ps(dx, minimum, *sum);
    }
}

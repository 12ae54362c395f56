//! Q2_K and Q3_K. The products of a sub-block stay in 16 bits (7 * 127 * 2 * 4 fits), so that one `vpmaddwd` adds
//! pairs and applies the scale. 8 rows at a time, see `q5_k`.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{
    Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_16, load_halves, store, tile_in_passes,
};
use crate::activations::X256;
use crate::layout::{Paired, Q2KGroup, Q3KGroup};

const X: usize = size_of::<X256>();

/// Minus the sums of 16 activations each, two numbers of 16 bits in each of 32.
type NegativeSums = [i32; 8];

tile_in_passes!(
    /// 128 `vpmaddubsw` a token and super-block. At 8 tokens in cache 188 Gop/s on a Zen 4 core.
    ///
    /// Twin: `reference::k_quants_low::q2_k_tile`.
    q2_k_tile,
    q2_k_pass,
    four: true
);
tile_in_passes!(
    /// 128 `vpmaddubsw` a token and super-block. At 8 tokens in cache 160 Gop/s on a Zen 4 core: unpacking is most of it.
    ///
    /// Twin: `reference::k_quants_low::q3_k_tile`.
    q3_k_tile,
    q3_k_pass,
    four: true
);

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q2_k_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); G]; 2];
    for _ in 0..input.n_cols / 256 {
        // SAFETY: `G` blocks of activations.
        let x_sums = unsafe { negative_sums::<G>(x) };
        for (h, sums) in sums.iter_mut().enumerate() {
            let (mut products, mut minimums) = ([_mm256_setzero_si256(); G], [_mm256_setzero_si256(); G]);
            for pair in 0..8 {
                if h == 0 && pair % 2 == 0 {
                    // 21 lines: 5 each time, and one more.
                    prefetch.ahead::<6>(w.wrapping_add(pair * 160));
                }
                // SAFETY: 8 rows' scales and minimums of a pair of sub-blocks.
                let both = unsafe { load_16(w.add(offset_of!(Q2KGroup, scales) + pair * 32 + h * 16)) };
                let both = _mm256_cvtepu8_epi16(both);
                add_pair(_mm256_srli_epi16::<4>(both), pair, &x_sums, &mut minimums);
                let scales = _mm256_and_si256(both, _mm256_set1_epi16(15));
                // SAFETY: this super-block's weights and activations.
                unsafe {
                    let w = w.add(h * 32);
                    match pair % 4 {
                        0 => q2_k_run::<G, 0>(w, x, pair / 4, scales, &mut products),
                        1 => q2_k_run::<G, 1>(w, x, pair / 4, scales, &mut products),
                        2 => q2_k_run::<G, 2>(w, x, pair / 4, scales, &mut products),
                        _ => q2_k_run::<G, 3>(w, x, pair / 4, scales, &mut products),
                    }
                }
            }
            // SAFETY: 8 of the 16 scales of this super-block, and of its minimums' scales.
            let (d, dmin) = unsafe {
                (
                    load_halves(w.add(offset_of!(Q2KGroup, d) + h * 16)),
                    load_halves(w.add(offset_of!(Q2KGroup, dmin) + h * 16)),
                )
            };
            for g in 0..G {
                // SAFETY: the scale of the token.
                let dx = unsafe { broadcast_f32(x.add(g * X + offset_of!(X256, d))) };
                let sum = &mut sums[g];
                *sum = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(products[g]), *sum);
                *sum = _mm256_fmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(minimums[g]), *sum);
            }
        }
        w = w.wrapping_add(size_of::<Q2KGroup>());
        x = x.wrapping_add(N * X);
    }
    store::<G>(std::array::from_fn(|g| [sums[0][g], sums[1][g]]), first, out);
}

/// Run `RUN` of the four of 32 columns in a half: two sub-blocks.
///
/// # Safety
/// `w` is a `Q2KGroup`, or its second 8 rows, `x` is the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn q2_k_run<const G: usize, const RUN: usize>(
    w: *const u8,
    x: *const u8,
    half: usize,
    scales: __m256i,
    products: &mut [__m256i; G],
) {
    for part in 0..2 {
        let mut dots = [_mm256_setzero_si256(); G];
        for i in part * 4..part * 4 + 4 {
            // SAFETY: inside the quads.
            let raw = unsafe { load(w.add((half * 8 + i) * 64)) };
            let weights = _mm256_and_si256(run_to_bottom::<RUN>(raw), _mm256_set1_epi8(3));
            // SAFETY: four columns of `G` tokens.
            unsafe { add_quad(weights, x.add(half * 128 + RUN * 32 + i * 4), &mut dots) };
        }
        scale(dots, one_of_pair(scales, part), products);
    }
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q3_k_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); G]; 2];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Q3KGroup::block_at(block));
        // SAFETY: `G` blocks of activations.
        let x_sums = unsafe { negative_sums::<G>(x) };
        for (h, sums) in sums.iter_mut().enumerate() {
            let mut products = [_mm256_setzero_si256(); G];
            for pair in 0..8 {
                if h == 0 && pair % 2 == 0 {
                    // 28 lines, and one of scales for two blocks.
                    prefetch.ahead::<8>(w.wrapping_add(pair * 224));
                }
                // SAFETY: 8 rows' scales of a pair of sub-blocks.
                let scales = unsafe { load_16(w.add(offset_of!(Q3KGroup, scales) + pair * 32 + h * 16)) };
                let scales = _mm256_cvtepi8_epi16(scales);
                // 4 times a positive scale, 3 times the magnitude of a negative one.
                let offsets = _mm256_max_epi16(
                    _mm256_slli_epi16::<2>(scales),
                    _mm256_mullo_epi16(scales, _mm256_set1_epi16(-3)),
                );
                add_pair(offsets, pair, &x_sums, &mut products);
                let scales = _mm256_abs_epi16(scales);
                // SAFETY: this super-block's weights and activations.
                unsafe {
                    let w = w.add(h * 32);
                    match pair % 4 {
                        0 => q3_k_run::<G, 0>(w, x, pair / 4, scales, &mut products),
                        1 => q3_k_run::<G, 1>(w, x, pair / 4, scales, &mut products),
                        2 => q3_k_run::<G, 2>(w, x, pair / 4, scales, &mut products),
                        _ => q3_k_run::<G, 3>(w, x, pair / 4, scales, &mut products),
                    }
                }
            }
            // SAFETY: 8 of the 16 scales of this super-block.
            let d = unsafe { load_halves(input.w.as_ptr().add(Q3KGroup::scales_at(block) + h * 16)) };
            for g in 0..G {
                // SAFETY: the scale of the token.
                let dx = unsafe { broadcast_f32(x.add(g * X + offset_of!(X256, d))) };
                let sum = &mut sums[g];
                *sum = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(products[g]), *sum);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store::<G>(std::array::from_fn(|g| [sums[0][g], sums[1][g]]), first, out);
}

/// Run `RUN` of the four of 32 columns in a half: two sub-blocks.
///
/// # Safety
/// `w` is a `Q3KGroup`, or its second 8 rows, `x` is the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn q3_k_run<const G: usize, const RUN: usize>(
    w: *const u8,
    x: *const u8,
    half: usize,
    scales: __m256i,
    products: &mut [__m256i; G],
) {
    for part in 0..2 {
        let mut dots = [_mm256_setzero_si256(); G];
        for i in part * 4..part * 4 + 4 {
            // SAFETY: inside the low and high bits.
            let (low, high) = unsafe {
                (
                    load(w.add(offset_of!(Q3KGroup, low) + (half * 8 + i) * 64)),
                    load(w.add(offset_of!(Q3KGroup, high) + (half * 4 + i / 2) * 64)),
                )
            };
            let high = if i % 2 == 0 { high } else { _mm256_slli_epi16::<2>(high) };
            let high = match RUN {
                0 => high,
                1 => _mm256_srli_epi16::<1>(high),
                2 => _mm256_srli_epi16::<4>(high),
                _ => _mm256_srli_epi16::<5>(high),
            };
            let low = _mm256_and_si256(run_to_bottom::<RUN>(low), _mm256_set1_epi8(3));
            let weights = _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(4)));
            // SAFETY: four columns of `G` tokens.
            unsafe { add_quad(weights, x.add(half * 128 + RUN * 32 + i * 4), &mut dots) };
        }
        scale(dots, one_of_pair(scales, part), products);
    }
}

/// Bits `2 * RUN` and up of each byte, under bits of another.
#[inline]
#[target_feature(enable = "avx2")]
fn run_to_bottom<const RUN: usize>(raw: __m256i) -> __m256i {
    match RUN {
        0 => raw,
        1 => _mm256_srli_epi16::<2>(raw),
        2 => _mm256_srli_epi16::<4>(raw),
        _ => _mm256_srli_epi16::<6>(raw),
    }
}

/// The first or second number of each row's pair, in both places.
#[inline]
#[target_feature(enable = "avx2")]
fn one_of_pair(pairs: __m256i, part: usize) -> __m256i {
    let low = _mm256_set1_epi32(0xFFFF);
    if part == 0 {
        _mm256_or_si256(_mm256_and_si256(pairs, low), _mm256_slli_epi32::<16>(pairs))
    } else {
        _mm256_or_si256(_mm256_andnot_si256(low, pairs), _mm256_srli_epi32::<16>(pairs))
    }
}

/// Adds the products of a register of weights with the activations at `x`, in 16 bits.
///
/// # Safety
/// `x` is inside q of the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_quad<const G: usize>(weights: __m256i, x: *const u8, dots: &mut [__m256i; G]) {
    for (g, dot) in dots.iter_mut().enumerate() {
        // SAFETY: inside q of the token.
        let x = unsafe { broadcast(x.add(g * X)) };
        *dot = _mm256_add_epi16(*dot, _mm256_maddubs_epi16(weights, x));
    }
}

/// Adds a sub-block's sums times its scales, each of which is there twice.
#[inline]
#[target_feature(enable = "avx2")]
fn scale<const G: usize>(dots: [__m256i; G], scales: __m256i, products: &mut [__m256i; G]) {
    for (product, dot) in products.iter_mut().zip(dots) {
        *product = _mm256_add_epi32(*product, _mm256_madd_epi16(dot, scales));
    }
}

/// Minus the sums of 16 of each token: the sums times -32, shifted back. They fit in 16 bits.
///
/// # Safety
/// `x` is the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn negative_sums<const G: usize>(x: *const u8) -> [NegativeSums; G] {
    let mut sums = [[0; 8]; G];
    for (g, sums) in sums.iter_mut().enumerate() {
        let x = x.wrapping_add(g * X + offset_of!(X256, times_neg32));
        // SAFETY: 64 bytes of sums of the token.
        let (first, second) = unsafe { (load(x), load(x.add(32))) };
        let narrow = _mm256_packs_epi32(_mm256_srai_epi32::<5>(first), _mm256_srai_epi32::<5>(second));
        // Packing works on halves of registers.
        let narrow = _mm256_permute4x64_epi64::<0b11_01_10_00>(narrow);
        // SAFETY: the sums are 32 bytes long.
        unsafe { sums.as_mut_ptr().cast::<__m256i>().write_unaligned(narrow) };
    }
    sums
}

/// Adds a pair of numbers of each row times a pair of each token's sums.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pair<const G: usize>(
    numbers: __m256i,
    pair: usize,
    x_sums: &[NegativeSums; G],
    totals: &mut [__m256i; G],
) {
    for (total, sums) in totals.iter_mut().zip(x_sums) {
        *total = _mm256_add_epi32(*total, _mm256_madd_epi16(numbers, _mm256_set1_epi32(sums[pair])));
    }
}

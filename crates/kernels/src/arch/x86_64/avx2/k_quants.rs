//! Q4_K and Q6_K. The products of a sub-block stay in 16 bits (15 * 127 * 2 * 8 and, with the offset taken off and
//! the sign given to the activations, 32 * 127 * 2 * 4 fit), so that one `vpmaddwd` adds pairs and applies the scale.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{
    Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_8, load_16, load_halves, store,
    tile_in_passes,
};
use crate::activations::X256;
use crate::layout::{Paired, Q4KGroup, Q6KGroup};

const X: usize = size_of::<X256>();

tile_in_passes!(
    /// Twin: `reference::k_quants::q4_k_tile`.
    q4_k_tile,
    q4_k_pass,
    four: false
);
tile_in_passes!(
    /// Twin: `reference::k_quants::q6_k_tile`.
    q6_k_tile,
    q6_k_pass,
    four: false
);

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_k_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let nibbles = _mm256_set1_epi8(15);
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for _ in 0..input.n_cols / 256 {
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for sub in 0..8 {
            prefetch.ahead::<5>(w.wrapping_add((sub * 296) & !63));
            let mut dots = [[_mm256_setzero_si256(); 2]; G];
            for i in 0..8 {
                for h in 0..2 {
                    // SAFETY: inside this super-block's quads.
                    let raw = unsafe { load(w.add((sub / 2 * 8 + i) * 64 + h * 32)) };
                    let raw = if sub % 2 == 1 { _mm256_srli_epi16::<4>(raw) } else { raw };
                    let weights = _mm256_and_si256(raw, nibbles);
                    for (g, dots) in dots.iter_mut().enumerate() {
                        // SAFETY: inside this super-block's q of the token.
                        let x = unsafe { broadcast(x.add(g * X + sub * 32 + i * 4)) };
                        dots[h] = _mm256_add_epi16(dots[h], _mm256_maddubs_epi16(weights, x));
                    }
                }
            }
            for h in 0..2 {
                // SAFETY: 8 of the 16 scales of this sub-block.
                let scales = unsafe { load_8(w.add(offset_of!(Q4KGroup, scales) + sub * 16 + h * 8)) };
                let scales = twice(_mm256_cvtepu8_epi32(scales));
                for (products, dots) in products.iter_mut().zip(&dots) {
                    products[h] = _mm256_add_epi32(products[h], _mm256_madd_epi16(dots[h], scales));
                }
            }
        }
        for h in 0..2 {
            let mut minimums = [_mm256_setzero_si256(); G];
            for pair in 0..4 {
                // SAFETY: 8 rows' minimums of a pair of sub-blocks.
                let mins = unsafe { load_16(w.add(offset_of!(Q4KGroup, mins) + pair * 32 + h * 16)) };
                let mins = _mm256_cvtepu8_epi16(mins);
                for (g, minimum) in minimums.iter_mut().enumerate() {
                    // SAFETY: two of the sums of the token.
                    let x = unsafe { broadcast(x.add(g * X + offset_of!(X256, sums) + pair * 4)) };
                    *minimum = _mm256_add_epi32(*minimum, _mm256_madd_epi16(mins, x));
                }
            }
            // SAFETY: 8 of the 16 scales of this super-block, and of its minimums' scales.
            let (d, dmin) = unsafe {
                (
                    load_halves(w.add(offset_of!(Q4KGroup, d) + h * 16)),
                    load_halves(w.add(offset_of!(Q4KGroup, dmin) + h * 16)),
                )
            };
            for g in 0..G {
                // SAFETY: the scale of the token.
                let dx = unsafe { broadcast_f32(x.add(g * X + offset_of!(X256, d))) };
                let sum = &mut sums[g][h];
                *sum = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(products[g][h]), *sum);
                *sum = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(minimums[g]), *sum);
            }
        }
        w = w.wrapping_add(size_of::<Q4KGroup>());
        x = x.wrapping_add(N * X);
    }
    store(sums, first, out);
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6_k_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Q6KGroup::block_at(block));
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for half_part in 0..4 {
            let (half, part) = (half_part / 2, half_part % 2);
            // 52 or 53 lines in 4 times 13.
            prefetch.ahead::<14>(w.wrapping_add(half_part * 832));
            // SAFETY: this block's weights and activations.
            unsafe {
                q6_k_sub_block::<N, G, 0>(w, x, half, part, &mut products);
                q6_k_sub_block::<N, G, 1>(w, x, half, part, &mut products);
                q6_k_sub_block::<N, G, 2>(w, x, half, part, &mut products);
                q6_k_sub_block::<N, G, 3>(w, x, half, part, &mut products);
            }
        }
        for (g, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
            // SAFETY: the scale of the token.
            let dx = unsafe { broadcast_f32(x.add(g * X + offset_of!(X256, d))) };
            for h in 0..2 {
                // SAFETY: 8 of the 16 scales of this super-block.
                let d = unsafe { load_halves(input.w.as_ptr().add(Q6KGroup::scales_at(block) + h * 16)) };
                sums[h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(products[h]), sums[h]);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, first, out);
}

/// Sub-block `part` of the two in run `RUN` of 32 columns, of four in a half.
///
/// # Safety
/// `w` is a `Q6KGroup`, `x` is the first of `G` blocks.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn q6_k_sub_block<const N: usize, const G: usize, const RUN: usize>(
    w: *const u8,
    x: *const u8,
    half: usize,
    part: usize,
    products: &mut [[__m256i; 2]; G],
) {
    let sub = half * 8 + RUN * 2 + part;
    let low = w.wrapping_add(offset_of!(Q6KGroup, low) + (half * 16 + RUN % 2 * 8 + part * 4) * 64);
    let high = w.wrapping_add(offset_of!(Q6KGroup, high) + (half * 8 + part * 4) * 64);
    let mut dots = [[_mm256_setzero_si256(); 2]; G];
    for i in 0..4 {
        for h in 0..2 {
            // SAFETY: inside this super-block's low and high bits.
            let (low, high) = unsafe { (load(low.add(i * 64 + h * 32)), load(high.add(i * 64 + h * 32))) };
            let low = if RUN >= 2 { _mm256_srli_epi16::<4>(low) } else { low };
            let high = match RUN {
                0 => _mm256_slli_epi16::<4>(high),
                1 => _mm256_slli_epi16::<2>(high),
                2 => high,
                _ => _mm256_srli_epi16::<2>(high),
            };
            let low = _mm256_and_si256(low, _mm256_set1_epi8(0x0F));
            let weights = _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
            let signed = _mm256_sub_epi8(weights, _mm256_set1_epi8(32));
            let magnitude = _mm256_abs_epi8(signed);
            for (g, dots) in dots.iter_mut().enumerate() {
                // SAFETY: inside this super-block's q of the token.
                let x = unsafe { broadcast(x.add(g * X + sub * 16 + i * 4)) };
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, signed));
                dots[h] = _mm256_add_epi16(dots[h], pairs);
            }
        }
    }
    for h in 0..2 {
        // SAFETY: 8 of the 16 scales of this sub-block.
        let scales = unsafe { load_8(w.add(offset_of!(Q6KGroup, scales) + sub * 16 + h * 8)) };
        let scales = twice(_mm256_cvtepi8_epi32(scales));
        for (products, dots) in products.iter_mut().zip(&dots) {
            products[h] = _mm256_add_epi32(products[h], _mm256_madd_epi16(dots[h], scales));
        }
    }
}

/// Numbers of 16 bits in lanes of 32, as pairs of themselves.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<16>(x), _mm256_and_si256(x, _mm256_set1_epi32(0xFFFF)))
}

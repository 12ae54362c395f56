//! Q8_0 and Q4_0. `vpmaddubsw` saturates at 16 bits: 15 * 127 * 2 * 8 does not get there; for Q8_0 the sign goes
//! over to the activations, and 128 * 127 * 2 fits.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{
    Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store, tile_in_passes,
};
use crate::activations::X32;
use crate::layout::{Paired, Q40Group, Q80Group};

const X: usize = size_of::<X32>();

tile_in_passes!(
    /// Twin: `reference::q_blocks::q8_0_tile`.
    q8_0_tile,
    q8_0_pass,
    four: false
);
tile_in_passes!(
    /// Twin: `reference::q_blocks::q4_0_tile`.
    q4_0_tile,
    q4_0_pass,
    four: false
);

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q8_0_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let offset = _mm256_set1_epi8(-128);
    let ones = _mm256_set1_epi16(1);
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Q80Group::block_at(block));
        prefetch.ahead::<9>(w);
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for i in 0..8 {
            for h in 0..2 {
                // SAFETY: inside this block's quads.
                let signed = _mm256_xor_si256(unsafe { load(w.add(i * 64 + h * 32)) }, offset);
                let magnitude = _mm256_abs_epi8(signed);
                for (g, dots) in dots.iter_mut().enumerate() {
                    // SAFETY: inside this block's q of the token.
                    let x = unsafe { broadcast(x.add(g * X + i * 4)) };
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, signed));
                    dots[h] = _mm256_add_epi32(dots[h], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for (g, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
            // SAFETY: the scale of the token.
            let dx = unsafe { broadcast_f32(x.add(g * X + offset_of!(X32, d))) };
            for h in 0..2 {
                // SAFETY: 8 of the 16 scales of this block.
                let d = unsafe { load_halves(input.w.as_ptr().add(Q80Group::scales_at(block) + h * 16)) };
                sums[h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dots[h]), sums[h]);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, first, out);
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_0_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let nibbles = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Q40Group::block_at(block));
        prefetch.ahead::<5>(w);
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for i in 0..8 {
            for h in 0..2 {
                // SAFETY: inside this block's quads.
                let raw = unsafe { load(w.add(i % 4 * 64 + h * 32)) };
                let raw = if i >= 4 { _mm256_srli_epi16::<4>(raw) } else { raw };
                let weights = _mm256_and_si256(raw, nibbles);
                for (g, dots) in dots.iter_mut().enumerate() {
                    // SAFETY: inside this block's q of the token.
                    let x = unsafe { broadcast(x.add(g * X + i * 4)) };
                    dots[h] = _mm256_add_epi16(dots[h], _mm256_maddubs_epi16(weights, x));
                }
            }
        }
        for (g, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
            // SAFETY: sum and scale of the token.
            let (offset, dx) = unsafe {
                (
                    broadcast(x.add(g * X + offset_of!(X32, times_neg8))),
                    broadcast_f32(x.add(g * X + offset_of!(X32, d))),
                )
            };
            for h in 0..2 {
                // SAFETY: 8 of the 16 scales of this block.
                let d = unsafe { load_halves(input.w.as_ptr().add(Q40Group::scales_at(block) + h * 16)) };
                let dot = _mm256_add_epi32(_mm256_madd_epi16(dots[h], ones), offset);
                sums[h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), sums[h]);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, first, out);
}

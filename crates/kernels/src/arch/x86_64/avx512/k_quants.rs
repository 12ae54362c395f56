//! Q4_K: per sub-block of 32 columns 8 `vpdpbusd`, one multiplication by the scales, one addition.
//! Q6_K: the same with 4 `vpdpbusd` per sub-block of 16, which start at -32 times the activations' sum.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, prefetch_ahead, store};
use crate::activations::X256;
use crate::layout::{Paired, Q4KGroup, Q6KGroup};

const X: usize = size_of::<X256>();

/// Twin: `reference::k_quants::q4_k_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q4_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let nibbles = _mm512_set1_epi8(15);
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 256 {
        let mut products = [_mm512_setzero_si512(); N];
        for sub in 0..8 {
            if input.prefetch {
                // 37 lines in 8 sub-blocks.
                prefetch_ahead::<5>(w.wrapping_add(sub * 296 & !63));
            }
            let mut dots = [_mm512_setzero_si512(); N];
            for i in 0..8 {
                // SAFETY: inside this super-block's quads.
                let raw = unsafe { load(w.add((sub / 2 * 8 + i) * 64)) };
                let raw = if sub % 2 == 1 { _mm512_srli_epi16::<4>(raw) } else { raw };
                let weights = _mm512_and_si512(raw, nibbles);
                for (t, dot) in dots.iter_mut().enumerate() {
                    // SAFETY: inside this super-block's q of token t.
                    let x = unsafe { broadcast(x.add(t * X + sub * 32 + i * 4)) };
                    *dot = _mm512_dpbusd_epi32(*dot, weights, x);
                }
            }
            // SAFETY: 16 bytes of scales of this super-block.
            let scales =
                unsafe { w.add(offset_of!(Q4KGroup, scales) + sub * 16).cast::<__m128i>().read_unaligned() };
            let scales = _mm512_cvtepu8_epi32(scales);
            for (product, dot) in products.iter_mut().zip(dots) {
                *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(dot, scales));
            }
        }
        let mut minimums = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            // SAFETY: 32 bytes of minimums of this super-block.
            let mins =
                unsafe { w.add(offset_of!(Q4KGroup, mins) + pair * 32).cast::<__m256i>().read_unaligned() };
            let mins = _mm512_cvtepu8_epi16(mins);
            for (t, minimum) in minimums.iter_mut().enumerate() {
                // SAFETY: two of the sums of token t.
                let x = unsafe { broadcast(x.add(t * X + offset_of!(X256, sums) + pair * 4)) };
                *minimum = _mm512_dpwssd_epi32(*minimum, mins, x);
            }
        }
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(w.add(offset_of!(Q4KGroup, d))) };
        // SAFETY: as above.
        let dmin = unsafe { load_halves(w.add(offset_of!(Q4KGroup, dmin))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(products[t]), sums[t]);
            sums[t] = _mm512_fnmadd_ps(_mm512_mul_ps(dmin, dx), _mm512_cvtepi32_ps(minimums[t]), sums[t]);
        }
        w = w.wrapping_add(size_of::<Q4KGroup>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Twin: `reference::k_quants::q6_k_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q6_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let low_bits = _mm512_set1_epi8(0x0F);
    let high_bits = _mm512_set1_epi8(0x30);
    let mut x = input.x.as_ptr();
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Q6KGroup::block_at(block));
        let mut products = [_mm512_setzero_si512(); N];
        for half in 0..2 {
            let low = w.wrapping_add(offset_of!(Q6KGroup, low) + half * 16 * 64);
            let high = w.wrapping_add(offset_of!(Q6KGroup, high) + half * 8 * 64);
            // Sub-blocks 2 * run and 2 * run + 1 are the two halves of a run of 32 columns.
            for run in 0..4 {
                for part in 0..2 {
                    let sub = half * 8 + run * 2 + part;
                    if input.prefetch {
                        // 52 or 53 lines in 16 sub-blocks.
                        prefetch_ahead::<4>(w.wrapping_add(sub * 208 & !63));
                    }
                    // SAFETY: the sums of 16 of each token of this super-block.
                    let mut dots = std::array::from_fn::<_, N, _>(|t| unsafe {
                        broadcast(x.add(t * X + offset_of!(X256, times_neg32) + sub * 4))
                    });
                    for i in part * 4..part * 4 + 4 {
                        // SAFETY: inside this super-block's low and high bits.
                        let (low, high) =
                            unsafe { (load(low.add((run % 2 * 8 + i) * 64)), load(high.add(i * 64))) };
                        let low = if run >= 2 { _mm512_srli_epi16::<4>(low) } else { low };
                        let high = match run {
                            0 => _mm512_slli_epi16::<4>(high),
                            1 => _mm512_slli_epi16::<2>(high),
                            2 => high,
                            _ => _mm512_srli_epi16::<2>(high),
                        };
                        let low = _mm512_and_si512(low, low_bits);
                        let weights = _mm512_or_si512(low, _mm512_and_si512(high, high_bits));
                        for (t, dot) in dots.iter_mut().enumerate() {
                            // SAFETY: inside this super-block's q of token t.
                            let x = unsafe { broadcast(x.add(t * X + half * 128 + run * 32 + i * 4)) };
                            *dot = _mm512_dpbusd_epi32(*dot, weights, x);
                        }
                    }
                    // SAFETY: 16 bytes of scales of this super-block.
                    let scales = unsafe {
                        w.add(offset_of!(Q6KGroup, scales) + sub * 16).cast::<__m128i>().read_unaligned()
                    };
                    let scales = _mm512_cvtepi8_epi32(scales);
                    for (product, dot) in products.iter_mut().zip(dots) {
                        *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(dot, scales));
                    }
                }
            }
        }
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(input.w.as_ptr().add(Q6KGroup::scales_at(block))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(products[t]), sums[t]);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

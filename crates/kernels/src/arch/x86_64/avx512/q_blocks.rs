//! Q8_0 and Q4_0: per block of 32 columns 8 `vpdpbusd`, which start at minus the offset's share, and one fused
//! multiply-add.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::blocks_32::{add_scaled, nibble_dots, starts};
use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X32;
use crate::layout::{Paired, Q40Group, Q80Group};

const X: usize = size_of::<X32>();

/// Adds sums to sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn add<const N: usize>(to: &mut [__m512i; N], from: [__m512i; N]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = _mm512_add_epi32(*to, from);
    }
}

/// Twin: `reference::q_blocks::q8_0_tile`.
///
/// Per block of 16 rows (544 bytes) and token, in operations of 16 lanes: 8 products of four columns, 3 of floats;
/// nothing to unpack. Measured on a Zen 4 core in cache, shares of the int8 limit: 28 % for 1 token (69 GB/s of the
/// file), 49 for 2, 73 for 4, 76 for 8, 70 for 512. Bound by loads for few tokens, by the floats of each block for many.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q8_0_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Q80Group::block_at(block));
        // 8 or 9 lines a block.
        prefetch.ahead::<9>(w);
        let mut dots = [_mm512_setzero_si512(); N];
        for (t, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the sum of token t of this block.
            *dot = unsafe { broadcast(x.add(t * X + offset_of!(X32, times_neg128))) };
        }
        let mut odd_dots = [_mm512_setzero_si512(); N];
        for i in 0..8 {
            // SAFETY: inside this block's quads.
            let weights = unsafe { load(w.add(i * 64)) };
            let dots = if N <= N_TWO_CHAINS && i % 2 == 1 { &mut odd_dots } else { &mut dots };
            for (t, dot) in dots.iter_mut().enumerate() {
                // SAFETY: inside this block's q of token t.
                *dot = _mm512_dpbusd_epi32(*dot, weights, unsafe { broadcast(x.add(t * X + i * 4)) });
            }
        }
        if N <= N_TWO_CHAINS {
            add(&mut dots, odd_dots);
        }
        // SAFETY: the 16 scales of this block.
        let d = unsafe { load_halves(input.w.as_ptr().add(Q80Group::scales_at(block))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X32, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dots[t]), sums[t]);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Per block of 16 rows (288 bytes) and token, in operations of 16 lanes: 8 products of four columns, 3 of floats, for few
/// tokens 2 to join two chains; and 8 for all tokens to unpack, 12 for many.
///
/// Twin: `reference::q_blocks::q4_0_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q4_0_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Q40Group::block_at(block));
        let scales = input.w.as_ptr().wrapping_add(Q40Group::scales_at(block));
        // 4 or 5 lines a block.
        prefetch.ahead::<5>(w);
        // SAFETY: this block's weights, activations and scales.
        unsafe {
            let starts = starts(x, offset_of!(X32, times_neg8));
            let dots = nibble_dots::<N>(w, x, starts);
            add_scaled(load_halves(scales), dots, x, &mut sums);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

//! Q8_0 and Q4_0: per block of 32 columns 8 `vpdpbusd`, which start at minus the offset's share, and one fused
//! multiply-add.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::blocks_32::{add_scaled, nibble_dots, starts};
use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X32;
use crate::layout::{Paired, Q40Group, Q80Group};
use crate::tile::WideKernel;

const X: usize = size_of::<X32>();

/// Twin: `reference::q_blocks::q8_0_tile`.
///
/// Per block of 16 rows (544 bytes) and token, in operations of 16 lanes: 8 products of four columns, 3 of floats;
/// nothing to unpack. Measured on a Zen 4 core in cache, shares of the int8 limit: 36 % for 1 token, 50 for 2, 73 for
/// 4, 76 for 8, 74 for 512. Bound by loads for few tokens, by the floats of each block for many.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q8_0_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe { q8_0::<1, N>(input, out) }
}

/// The same for `G` groups.
///
/// # Safety
/// See `TileFn`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q8_0<const G: usize, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let two_chains = G * N <= N_TWO_CHAINS;
    let group_bytes = input.w.len() / G;
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm512_setzero_ps(); G]; N];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Q80Group::block_at(block));
        let scales = input.w.as_ptr().wrapping_add(Q80Group::scales_at(block));
        if G == 1 {
            // 8 or 9 lines a block.
            prefetch.ahead::<9>(w);
        }
        let mut dots = [[_mm512_setzero_si512(); G]; N];
        for (t, dots) in dots.iter_mut().enumerate() {
            // SAFETY: the sum of token t of this block.
            *dots = [unsafe { broadcast(x.add(t * X + offset_of!(X32, times_neg128))) }; G];
        }
        let mut odd_dots = [[_mm512_setzero_si512(); G]; N];
        for i in 0..8 {
            let dots = if two_chains && i % 2 == 1 { &mut odd_dots } else { &mut dots };
            for g in 0..G {
                let w = w.wrapping_add(g * group_bytes + i * 64);
                // SAFETY: inside this block's quads of group g.
                let weights = unsafe { load(w) };
                for (t, dots) in dots.iter_mut().enumerate() {
                    // SAFETY: inside this block's q of token t.
                    let x = unsafe { broadcast(x.add(t * X + i * 4)) };
                    dots[g] = _mm512_dpbusd_epi32(dots[g], weights, x);
                }
            }
        }
        for g in 0..G {
            let scales = scales.wrapping_add(g * group_bytes);
            // SAFETY: the 16 scales of this block of group g.
            let d = unsafe { load_halves(scales) };
            for t in 0..N {
                let dot = if two_chains { _mm512_add_epi32(dots[t][g], odd_dots[t][g]) } else { dots[t][g] };
                // SAFETY: the scale of token t.
                let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X32, d))) };
                sums[t][g] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dot), sums[t][g]);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store(sums.as_flattened(), out);
}

/// From memory, a token of 1.03 GB took a Zen 4 core 42 ms (24 GB/s, 77 % of the read probe) with four groups at once,
/// 48 to 55 with one; two cores, which memory bounds either way, 35 and 37 ms.
pub(super) const Q8_0_WIDE: &[WideKernel] = &[WideKernel { n_groups: 4, run: q8_0::<4, 1> }];

/// Per block of 16 rows (288 bytes) and token, in operations of 16 lanes: 8 products of four columns, 3 of floats, for
/// few tokens 2 to join two chains; and 8 for all tokens to unpack, 12 for many. Measured on a Zen 4 core in cache,
/// shares of the int8 limit: 54 % for 1 token, 71 for 2, 74 for 4, 75 for 8, 73 for 512. From memory, 0.55 GB take one
/// thread 21 ms for a token, two 17: bound by memory for few tokens, by the floats of each block for many.
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

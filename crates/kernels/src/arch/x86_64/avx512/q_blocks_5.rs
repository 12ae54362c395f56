//! Q5_0, Q5_1 and Q4_1: per block of 32 columns 8 `vpdpbusd`; then Q5_0 has one fused multiply-add and the types with
//! minimums two.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::blocks_32::{X, add_scaled, add_with_minimum, five_bit_dots, nibble_dots, starts};
use super::{Prefetch, TileInput, TileOut, load_halves, store};
use crate::activations::X32;
use crate::layout::{Paired, Q41Group, Q50Group, Q51Group};

/// Per block of 16 rows (352 bytes) and token, in operations of 16 lanes: 8 products of four columns, 3 of floats, for
/// few tokens 2 to join two chains; and 16 for all tokens to unpack, 20 for many. Measured on a Zen 4 core in cache,
/// shares of the int8 limit: 38 % for 1 token, 57 for 2, 70 for 4, 74 for 8, 72 for 512. From memory, 0.67 GB take two
/// threads 21 ms for a token. Bound as Q4_0, for few tokens also by unpacking.
///
/// Twin: `reference::q_blocks_5::q5_0_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q5_0_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Q50Group::block_at(block));
        let scales = input.w.as_ptr().wrapping_add(Q50Group::scales_at(block));
        // 5 or 6 lines a block.
        prefetch.ahead::<6>(w);
        // SAFETY: this block's weights, activations and scales.
        unsafe {
            // Weights are raised by 16.
            let starts = starts::<N>(x, offset_of!(X32, times_neg8)).map(|x| _mm512_slli_epi32::<1>(x));
            let dots = five_bit_dots(w, x, starts);
            add_scaled(load_halves(scales), dots, x, &mut sums);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Per block of 16 rows (384 bytes) and token, in operations of 16 lanes: 8 products of four columns, 5 of floats, for
/// few tokens 2 to join two chains; and 16 for all tokens to unpack, 20 for many. Measured on a Zen 4 core in cache,
/// shares of the int8 limit: 34 % for 1 token, 51 for 2, 63 for 4, 67 for 8, 64 for 512. Bound as Q5_0; minimums take
/// two operations more.
///
/// Twin: `reference::q_blocks_5::q5_1_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q5_1_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 32 {
        prefetch.ahead::<6>(w);
        // SAFETY: this block's weights and activations; its scales and minimums.
        unsafe {
            let dots = five_bit_dots(w, x, [_mm512_setzero_si512(); N]);
            let d = load_halves(w.add(offset_of!(Q51Group, d)));
            let m = load_halves(w.add(offset_of!(Q51Group, m)));
            add_with_minimum(d, m, dots, x, &mut sums);
        }
        w = w.wrapping_add(size_of::<Q51Group>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Per block of 16 rows (320 bytes) and token, in operations of 16 lanes: 8 products of four columns, 5 of floats, for
/// few tokens 2 to join two chains; and 8 for all tokens to unpack, 12 for many. Measured on a Zen 4 core in cache,
/// shares of the int8 limit: 44 % for 1 token, 60 for 2, 65 for 4, 67 for 8, 63 for 512. Bound as Q4_0; minimums take
/// two operations more.
///
/// Twin: `reference::q_blocks_5::q4_1_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q4_1_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 32 {
        prefetch.ahead::<5>(w);
        // SAFETY: this block's weights and activations; its scales and minimums.
        unsafe {
            let dots = nibble_dots(w, x, [_mm512_setzero_si512(); N]);
            let d = load_halves(w.add(offset_of!(Q41Group, d)));
            let m = load_halves(w.add(offset_of!(Q41Group, m)));
            add_with_minimum(d, m, dots, x, &mut sums);
        }
        w = w.wrapping_add(size_of::<Q41Group>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

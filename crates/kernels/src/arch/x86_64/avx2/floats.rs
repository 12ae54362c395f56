//! F32 and F16: one fused multiply-add per column, 8 rows and token; a column of 16 rows has 64 or 32 bytes, and F16
//! takes two operations to convert it for every four tokens. A column's sums wait for each other: fewer than 8
//! of them, two for each group and token, are bound by that latency, others by the two multipliers. So up to two tokens
//! take several groups.

use std::arch::x86_64::*;

use super::{Prefetch, TileInput, TileOut, broadcast_f32, load, load_halves, store_rows, tile_in_passes};
use crate::tile::WideKernel;

tile_in_passes!(
    /// Twin: `reference::floats::f32_tile`.
    f32_tile,
    f32_pass,
    four: true
);
tile_in_passes!(
    /// Twin: `reference::floats::f16_tile`.
    f16_tile,
    f16_pass,
    four: true
);

pub(super) const F32_WIDE: &[WideKernel] =
    &[WideKernel { n_groups: 4, run: f32_wide::<4, 1> }, WideKernel { n_groups: 2, run: f32_wide::<2, 2> }];

pub(super) const F16_WIDE: &[WideKernel] =
    &[WideKernel { n_groups: 4, run: f16_wide::<4, 1> }, WideKernel { n_groups: 2, run: f16_wide::<2, 2> }];

/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_wide<const R: usize, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe { f32_groups::<R, N, N>(input, 0, out) }
}

/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16_wide<const R: usize, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe { f16_groups::<R, N, N>(input, 0, out) }
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe { f32_groups::<1, N, G>(input, first, out) }
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe { f16_groups::<1, N, G>(input, first, out) }
}

/// `R` groups of rows times tokens `first..first + G` of `N`: some of the tokens only for one group.
///
/// # Safety
/// See `TileFn`; the tile has these tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_groups<const R: usize, const N: usize, const G: usize>(
    input: TileInput<'_>,
    first: usize,
    out: &mut TileOut,
) {
    const { assert!(R == 1 || G == N) };
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let group_bytes = input.n_cols * 64;
    let prefetch = Prefetch::new(&input);
    let mut sums = [[[_mm256_setzero_ps(); 2]; R]; G];
    for k in 0..input.n_cols {
        for r in 0..R {
            let w = w.wrapping_add(r * group_bytes + k * 64);
            if R == 1 {
                prefetch.ahead::<1>(w);
            }
            // SAFETY: column k of group r.
            let weights = unsafe { [_mm256_castsi256_ps(load(w)), _mm256_castsi256_ps(load(w.add(32)))] };
            for (g, sums) in sums.iter_mut().enumerate() {
                // SAFETY: column k of token first + g.
                let x = unsafe { broadcast_f32(x.add((k * N + first + g) * 4)) };
                for h in 0..2 {
                    sums[r][h] = _mm256_fmadd_ps(weights[h], x, sums[r][h]);
                }
            }
        }
    }
    store_rows(sums.as_flattened(), first, out);
}

/// The same for F16.
///
/// # Safety
/// See `TileFn`; the tile has these tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16_groups<const R: usize, const N: usize, const G: usize>(
    input: TileInput<'_>,
    first: usize,
    out: &mut TileOut,
) {
    const { assert!(R == 1 || G == N) };
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let group_bytes = input.n_cols * 32;
    let prefetch = Prefetch::new(&input);
    let mut sums = [[[_mm256_setzero_ps(); 2]; R]; G];
    for k in 0..input.n_cols {
        for r in 0..R {
            let w = w.wrapping_add(r * group_bytes + k * 32);
            if R == 1 && k % 2 == 0 {
                prefetch.ahead::<1>(w);
            }
            // SAFETY: column k of group r.
            let weights = unsafe { [load_halves(w), load_halves(w.add(16))] };
            for (g, sums) in sums.iter_mut().enumerate() {
                // SAFETY: column k of token first + g.
                let x = unsafe { broadcast_f32(x.add((k * N + first + g) * 4)) };
                for h in 0..2 {
                    sums[r][h] = _mm256_fmadd_ps(weights[h], x, sums[r][h]);
                }
            }
        }
    }
    store_rows(sums.as_flattened(), first, out);
}

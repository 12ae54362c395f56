//! F32 and F16: one fused multiply-add per column, 8 rows and token. A column's sums wait for each other: up to two
//! tokens their latency bounds it, from four on (8 sums) the two multipliers.

use std::arch::x86_64::*;

use super::{Prefetch, TileInput, TileOut, broadcast_f32, load, load_halves, store, tile_in_passes};

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
/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for k in 0..input.n_cols {
        prefetch.ahead::<1>(w.wrapping_add(k * 64));
        // SAFETY: the group's column k.
        let weights = unsafe {
            [_mm256_castsi256_ps(load(w.add(k * 64))), _mm256_castsi256_ps(load(w.add(k * 64 + 32)))]
        };
        for (g, sums) in sums.iter_mut().enumerate() {
            // SAFETY: column k of token first + g.
            let x = unsafe { broadcast_f32(x.add((k * N + first + g) * 4)) };
            for h in 0..2 {
                sums[h] = _mm256_fmadd_ps(weights[h], x, sums[h]);
            }
        }
    }
    store(sums, first, out);
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for k in 0..input.n_cols {
        if k % 2 == 0 {
            prefetch.ahead::<1>(w.wrapping_add(k * 32));
        }
        // SAFETY: the group's column k.
        let weights = unsafe { [load_halves(w.add(k * 32)), load_halves(w.add(k * 32 + 16))] };
        for (g, sums) in sums.iter_mut().enumerate() {
            // SAFETY: column k of token first + g.
            let x = unsafe { broadcast_f32(x.add((k * N + first + g) * 4)) };
            for h in 0..2 {
                sums[h] = _mm256_fmadd_ps(weights[h], x, sums[h]);
            }
        }
    }
    store(sums, first, out);
}

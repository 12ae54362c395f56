//! F32 and F16: one fused multiply-add per column and token. BF16: two per pair of columns, with denormals flushed
//! as `vdpbf16ps` does.

use std::arch::x86_64::*;

use super::{
    Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store, tile_in_passes,
};

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
tile_in_passes!(
    /// Twin: `reference::floats::bf16_tile`.
    bf16_tile,
    bf16_pass,
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

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bf16_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for pair in 0..input.n_cols.div_ceil(2) {
        prefetch.ahead::<1>(w.wrapping_add(pair * 64));
        for h in 0..2 {
            // SAFETY: columns 2 * pair and 2 * pair + 1 of 8 rows.
            let (even, odd) = widen(unsafe { load(w.add(pair * 64 + h * 32)) });
            let (even, odd) = (flush(even), flush(odd));
            for (g, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the same columns of token first + g. They have no denormals.
                let (x_even, x_odd) = widen(unsafe { broadcast(x.add((pair * N + first + g) * 4)) });
                sums[h] = flush(_mm256_fmadd_ps(odd, x_odd, sums[h]));
                sums[h] = flush(_mm256_fmadd_ps(even, x_even, sums[h]));
            }
        }
    }
    store(sums, first, out);
}

/// Even and odd bf16 as f32.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(pairs: __m256i) -> (__m256, __m256) {
    let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
    (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd))
}

/// Denormals as zeros of their sign.
#[inline]
#[target_feature(enable = "avx2")]
fn flush(x: __m256) -> __m256 {
    let sign = _mm256_set1_ps(-0.0);
    let small = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, x), _mm256_set1_ps(f32::MIN_POSITIVE));
    _mm256_andnot_ps(_mm256_andnot_ps(sign, small), x)
}

//! F32 and F16: one fused multiply-add per column and token. BF16: `vdpbf16ps` per two columns.

use std::arch::x86_64::*;

use super::{Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};

/// Twin: `reference::floats::f32_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn f32_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for k in 0..input.n_cols {
        prefetch.ahead::<1>(w.wrapping_add(k * 64));
        // SAFETY: the group's column k.
        let weights = unsafe { w.add(k * 64).cast::<__m512>().read_unaligned() };
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: column k of token t.
            *sum = _mm512_fmadd_ps(weights, unsafe { broadcast_f32(x.add((k * N + t) * 4)) }, *sum);
        }
    }
    store(sums, out);
}

/// Twin: `reference::floats::f16_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn f16_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for k in 0..input.n_cols {
        if k % 2 == 0 {
            prefetch.ahead::<1>(w.wrapping_add(k * 32));
        }
        // SAFETY: the group's column k.
        let weights = unsafe { load_halves(w.add(k * 32)) };
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: column k of token t.
            *sum = _mm512_fmadd_ps(weights, unsafe { broadcast_f32(x.add((k * N + t) * 4)) }, *sum);
        }
    }
    store(sums, out);
}

/// Twin: `reference::floats::bf16_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn bf16_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for pair in 0..input.n_cols.div_ceil(2) {
        prefetch.ahead::<1>(w.wrapping_add(pair * 64));
        // SAFETY: the group's columns 2 * pair and 2 * pair + 1.
        let weights = as_bf16(unsafe { load(w.add(pair * 64)) });
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the same columns of token t.
            let x = as_bf16(unsafe { broadcast(x.add((pair * N + t) * 4)) });
            *sum = _mm512_dpbf16_ps(*sum, weights, x);
        }
    }
    store(sums, out);
}

#[inline(always)]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes in which every bit pattern is a value.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

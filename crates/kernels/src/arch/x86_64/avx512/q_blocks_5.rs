//! Q5_0, Q5_1 and Q4_1: per block of 32 columns 8 `vpdpbusd`; then Q5_0 has one fused multiply-add and the types with
//! minimums two.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X32;
use crate::layout::{Paired, Q41Group, Q50Group, Q51Group};

const X: usize = size_of::<X32>();

/// Per block 22 bytes and 64 operations a token for each output; 5 instructions a token beside 8 `vpdpbusd`. At 8
/// tokens in cache 74 % of a Zen 4 core's int8 limit; one token: 32 GB/s of the file on two cores that read 36.
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
        // 5 or 6 lines a block.
        prefetch.ahead::<6>(w);
        // SAFETY: this block's weights and activations.
        let dots = unsafe { block_dots::<N, true, true>(w, x) };
        // SAFETY: the 16 scales of this block.
        let d = unsafe { load_halves(input.w.as_ptr().add(Q50Group::scales_at(block))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X32, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dots[t]), sums[t]);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Per block 24 bytes and 64 operations a token for each output; 5 instructions a token beside 8 `vpdpbusd`. At 8
/// tokens in cache 67 % of a Zen 4 core's int8 limit, as the float arithmetic needs the same units; one token: 31 GB/s
/// of the file on two cores that read 37.
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
            let dots = block_dots::<N, true, false>(w, x);
            let d = load_halves(w.add(offset_of!(Q51Group, d)));
            let m = load_halves(w.add(offset_of!(Q51Group, m)));
            add_with_minimum(d, m, dots, x, &mut sums);
        }
        w = w.wrapping_add(size_of::<Q51Group>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Per block 20 bytes and 64 operations a token for each output; 5 instructions a token beside 8 `vpdpbusd`. At 8
/// tokens in cache 68 % of a Zen 4 core's int8 limit, as the float arithmetic needs the same units; one token: 32 GB/s
/// of the file on two cores that read 36.
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
            let dots = block_dots::<N, false, false>(w, x);
            let d = load_halves(w.add(offset_of!(Q41Group, d)));
            let m = load_halves(w.add(offset_of!(Q41Group, m)));
            add_with_minimum(d, m, dots, x, &mut sums);
        }
        w = w.wrapping_add(size_of::<Q41Group>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// `sum(w * q)`, or `sum((w - 16) * q)` if weights are `RAISED`.
///
/// # Safety
/// `w` are 4 registers of nibbles, followed by one of fifth bits if there are any; `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn block_dots<const N: usize, const FIFTH: bool, const RAISED: bool>(
    w: *const u8,
    x: *const u8,
) -> [__m512i; N] {
    let mut dots = [_mm512_setzero_si512(); N];
    if RAISED {
        for (t, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the sum of token t, times -8.
            *dot = unsafe { broadcast(x.add(t * X + offset_of!(X32, times_neg8))) };
        }
    }
    let mut high_dots = dots;
    if N > N_TWO_CHAINS {
        // One chain starts where two would together.
        dots = dots.map(|dot| _mm512_slli_epi32::<1>(dot));
    }
    let mut low_bits = _mm512_setzero_si512();
    if FIFTH {
        // SAFETY: behind the nibbles.
        low_bits = unsafe { load(w.add(4 * 64)) };
    }
    let mut high_bits = _mm512_slli_epi16::<4>(low_bits);
    for i in 0..4 {
        // SAFETY: inside the nibbles.
        let raw = unsafe { load(w.add(i * 64)) };
        let low = weights::<FIFTH>(raw, low_bits);
        let high = weights::<FIFTH>(_mm512_srli_epi16::<4>(raw), high_bits);
        (low_bits, high_bits) = (_mm512_srli_epi16::<1>(low_bits), _mm512_srli_epi16::<1>(high_bits));
        for (t, dot) in dots.iter_mut().enumerate() {
            // SAFETY: inside q of token t.
            *dot = _mm512_dpbusd_epi32(*dot, low, unsafe { broadcast(x.add(t * X + i * 4)) });
        }
        let high_dots = if N <= N_TWO_CHAINS { &mut high_dots } else { &mut dots };
        for (t, dot) in high_dots.iter_mut().enumerate() {
            // SAFETY: inside q of token t.
            *dot = _mm512_dpbusd_epi32(*dot, high, unsafe { broadcast(x.add(t * X + 16 + i * 4)) });
        }
    }
    if N <= N_TWO_CHAINS {
        for (dot, high_dot) in dots.iter_mut().zip(high_dots) {
            *dot = _mm512_add_epi32(*dot, high_dot);
        }
    }
    dots
}

/// Weights from the low nibbles of `raw` and, if there are fifth bits, bits 4 of `bits`.
#[inline]
#[target_feature(enable = "avx512f")]
fn weights<const FIFTH: bool>(raw: __m512i, bits: __m512i) -> __m512i {
    let low = _mm512_and_si512(raw, _mm512_set1_epi8(0x0F));
    if FIFTH { _mm512_or_si512(low, _mm512_and_si512(bits, _mm512_set1_epi8(0x10))) } else { low }
}

/// Adds a block's products and minimums, in the order of `reference::q_blocks_5::with_minimum`.
///
/// # Safety
/// `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_with_minimum<const N: usize>(
    d: __m512,
    m: __m512,
    dots: [__m512i; N],
    x: *const u8,
    sums: &mut [__m512; N],
) {
    let m = _mm512_mul_ps(m, _mm512_set1_ps(-0.125));
    for (t, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
        // SAFETY: sum and scale of token t.
        let (times_neg8, dx) = unsafe {
            (
                broadcast(x.add(t * X + offset_of!(X32, times_neg8))),
                broadcast_f32(x.add(t * X + offset_of!(X32, d))),
            )
        };
        let product = _mm512_mul_ps(d, _mm512_cvtepi32_ps(dot));
        *sum = _mm512_fmadd_ps(dx, _mm512_fmadd_ps(m, _mm512_cvtepi32_ps(times_neg8), product), *sum);
    }
}

//! Q5_K: Q4_K's arithmetic on weights of 5 bits.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X256;
use crate::layout::Q5KGroup;

const X: usize = size_of::<X256>();

/// For so few tokens requests for weights are spread evenly between the instructions: memory then works on while the
/// core computes. For 3 and 4 registers would be spilled where the code branches.
const N_SPREAD: usize = 2;

/// Per super-block 180 bytes (176 in the file) and 512 operations a token for each output. Beside 64 `vpdpbusd` a token,
/// unpacking takes about 220 logical instructions and shifts for all tokens together: at 8 tokens in cache 72 % of a
/// Zen 4 core's int8 limit are left, as for Q4_K. One token: 31 GB/s of the file on two cores that read 37.
///
/// Twin: `reference::q5_k::q5_k_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q5_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 256 {
        let mut products = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            // 45 lines: 11 a pair, and one more.
            let ahead = w.wrapping_add(pair * 704);
            // SAFETY: this super-block's weights and activations.
            unsafe {
                if N <= N_TWO_CHAINS {
                    if N > N_SPREAD {
                        prefetch.ahead::<8>(ahead);
                    }
                    two_sub_blocks(w, x, pair, &mut products, prefetch, ahead);
                    prefetch.ahead::<4>(ahead.wrapping_add(8 * 64));
                } else {
                    sub_block::<N, 0>(w, x, pair, &mut products, prefetch, ahead);
                    sub_block::<N, 1>(w, x, pair, &mut products, prefetch, ahead.wrapping_add(6 * 64));
                }
            }
        }
        let mut minimums = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            // SAFETY: 32 bytes of minimums of this super-block.
            let mins =
                unsafe { w.add(offset_of!(Q5KGroup, mins) + pair * 32).cast::<__m256i>().read_unaligned() };
            let mins = _mm512_cvtepu8_epi16(mins);
            for (t, minimum) in minimums.iter_mut().enumerate() {
                // SAFETY: two of the sums of token t.
                let x = unsafe { broadcast(x.add(t * X + offset_of!(X256, sums) + pair * 4)) };
                *minimum = _mm512_dpwssd_epi32(*minimum, mins, x);
            }
        }
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(w.add(offset_of!(Q5KGroup, d))) };
        // SAFETY: as above.
        let dmin = unsafe { load_halves(w.add(offset_of!(Q5KGroup, dmin))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(products[t]), sums[t]);
            sums[t] = _mm512_fnmadd_ps(_mm512_mul_ps(dmin, dx), _mm512_cvtepi32_ps(minimums[t]), sums[t]);
        }
        w = w.wrapping_add(size_of::<Q5KGroup>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Sub-block `HIGH` of a pair: those in low or in high nibbles.
///
/// # Safety
/// `w` is a `Q5KGroup`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sub_block<const N: usize, const HIGH: usize>(
    w: *const u8,
    x: *const u8,
    pair: usize,
    products: &mut [__m512i; N],
    prefetch: Prefetch,
    ahead: *const u8,
) {
    let mut dots = [_mm512_setzero_si512(); N];
    // SAFETY: the sub-block's fifth bits.
    let mut bits = unsafe { load(w.add(offset_of!(Q5KGroup, high) + (pair * 2 + HIGH) * 64)) };
    let later_bits = _mm512_slli_epi16::<4>(bits);
    for i in 0..8 {
        if i == 4 {
            bits = later_bits;
        }
        // SAFETY: inside the quads.
        let raw = unsafe { load(w.add((pair * 8 + i) * 64)) };
        if i < 6 {
            prefetch.ahead::<1>(ahead.wrapping_add(i * 64));
        }
        let weights = five_bits(if HIGH == 1 { _mm512_srli_epi16::<4>(raw) } else { raw }, bits);
        bits = _mm512_srli_epi16::<1>(bits);
        for (t, dot) in dots.iter_mut().enumerate() {
            // SAFETY: inside q of token t.
            let x = unsafe { broadcast(x.add(t * X + pair * 64 + HIGH * 32 + i * 4)) };
            *dot = _mm512_dpbusd_epi32(*dot, weights, x);
        }
    }
    // SAFETY: the sub-block's scales.
    unsafe { scale(w, pair * 2 + HIGH, dots, products) };
}

/// Both sub-blocks of a pair.
///
/// # Safety
/// `w` is a `Q5KGroup`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn two_sub_blocks<const N: usize>(
    w: *const u8,
    x: *const u8,
    pair: usize,
    products: &mut [__m512i; N],
    prefetch: Prefetch,
    ahead: *const u8,
) {
    let mut low_dots = [_mm512_setzero_si512(); N];
    let mut high_dots = [_mm512_setzero_si512(); N];
    let high = w.wrapping_add(offset_of!(Q5KGroup, high) + pair * 128);
    // SAFETY: the fifth bits of both sub-blocks.
    let mut bits = unsafe { [load(high), load(high.add(64))] };
    let later_bits = bits.map(|bits| _mm512_slli_epi16::<4>(bits));
    for i in 0..8 {
        if i == 4 {
            bits = later_bits;
        }
        // SAFETY: inside the quads.
        let raw = unsafe { load(w.add((pair * 8 + i) * 64)) };
        if N <= N_SPREAD {
            prefetch.ahead::<1>(ahead.wrapping_add(i * 64));
        }
        let low = five_bits(raw, bits[0]);
        let high = five_bits(_mm512_srli_epi16::<4>(raw), bits[1]);
        bits = bits.map(|bits| _mm512_srli_epi16::<1>(bits));
        for t in 0..N {
            let x = x.wrapping_add(t * X + pair * 64 + i * 4);
            // SAFETY: inside q of token t.
            let (x_low, x_high) = unsafe { (broadcast(x), broadcast(x.add(32))) };
            low_dots[t] = _mm512_dpbusd_epi32(low_dots[t], low, x_low);
            high_dots[t] = _mm512_dpbusd_epi32(high_dots[t], high, x_high);
        }
    }
    // SAFETY: the sub-blocks' scales.
    unsafe {
        scale(w, pair * 2, low_dots, products);
        scale(w, pair * 2 + 1, high_dots, products);
    }
}

/// Weights from the low nibbles of `raw` and bits 4 of `bits`.
#[inline]
#[target_feature(enable = "avx512f")]
fn five_bits(raw: __m512i, bits: __m512i) -> __m512i {
    let low = _mm512_and_si512(raw, _mm512_set1_epi8(0x0F));
    _mm512_or_si512(low, _mm512_and_si512(bits, _mm512_set1_epi8(0x10)))
}

/// Adds a sub-block's sums times its scales.
///
/// # Safety
/// `w` is a `Q5KGroup`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn scale<const N: usize>(w: *const u8, sub: usize, dots: [__m512i; N], products: &mut [__m512i; N]) {
    // SAFETY: 16 bytes of scales.
    let scales = unsafe { w.add(offset_of!(Q5KGroup, scales) + sub * 16).cast::<__m128i>().read_unaligned() };
    let scales = _mm512_cvtepu8_epi32(scales);
    for (product, dot) in products.iter_mut().zip(dots) {
        *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(dot, scales));
    }
}

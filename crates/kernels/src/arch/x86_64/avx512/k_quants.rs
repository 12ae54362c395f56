//! Q4_K: per sub-block of 32 columns 8 `vpdpbusd`, one multiplication by the scales, one addition.
//! Q6_K: the same with 4 `vpdpbusd` per sub-block of 16, which start at -32 times the activations' sum.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X256;
use crate::layout::{Paired, Q4KGroup, Q4KPair, Q6KGroup, Q6KPart};

const X: usize = size_of::<X256>();

/// Bytes of a pair of sub-blocks of Q4_K.
const PAIR: usize = size_of::<Q4KPair>();

/// Twin: `reference::k_quants::q4_k_tile`.
///
/// Per super-block of 16 rows (2,368 bytes) and token, in operations of 16 lanes: 64 products of four columns, 8 scales
/// and their additions, 4 products of minimums, 6 of floats; and 96 for all tokens to unpack. Measured on a Zen 4 core in
/// cache, shares of the int8 limit: 48 % for 1 token, 65 for 2, 71 for 4, 73 for 8, 66 for 512, whose activations come
/// from the second cache. Bound by operations that are no products and take their units all the same; for one token by
/// memory: in cache it is twice as fast as two cores' memory.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q4_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 256 {
        let mut products = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            let ahead = w.wrapping_add(pair * PAIR);
            prefetch.ahead::<5>(ahead);
            // SAFETY: this super-block's weights and activations.
            unsafe {
                if N <= N_TWO_CHAINS {
                    q4_k_two_sub_blocks(w, x, pair, &mut products);
                } else {
                    q4_k_sub_block::<N, 0>(w, x, pair, &mut products);
                }
            }
            prefetch.ahead::<4>(ahead.wrapping_add(5 * 64));
            if N > N_TWO_CHAINS {
                // SAFETY: as above.
                unsafe { q4_k_sub_block::<N, 1>(w, x, pair, &mut products) };
            }
        }
        prefetch.ahead::<1>(w.wrapping_add(offset_of!(Q4KGroup, d)));
        let mut minimums = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            // SAFETY: 32 bytes of minimums of this super-block.
            let mins =
                unsafe { w.add(pair * PAIR + offset_of!(Q4KPair, mins)).cast::<__m256i>().read_unaligned() };
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

/// Sub-block `HIGH` of a pair: those in low or in high nibbles.
///
/// # Safety
/// `w` is a `Q4KGroup`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q4_k_sub_block<const N: usize, const HIGH: usize>(
    w: *const u8,
    x: *const u8,
    pair: usize,
    products: &mut [__m512i; N],
) {
    let nibbles = _mm512_set1_epi8(15);
    let mut dots = [_mm512_setzero_si512(); N];
    for i in 0..8 {
        // SAFETY: inside the quads.
        let raw = unsafe { load(w.add(pair * PAIR + i * 64)) };
        let raw = if HIGH == 1 { _mm512_srli_epi16::<4>(raw) } else { raw };
        let weights = _mm512_and_si512(raw, nibbles);
        for (t, dot) in dots.iter_mut().enumerate() {
            // SAFETY: inside q of token t.
            let x = unsafe { broadcast(x.add(t * X + pair * 64 + HIGH * 32 + i * 4)) };
            *dot = _mm512_dpbusd_epi32(*dot, weights, x);
        }
    }
    // SAFETY: the sub-block's scales.
    unsafe { q4_k_scale(w, pair * 2 + HIGH, dots, products) };
}

/// Both sub-blocks of a pair.
///
/// # Safety
/// `w` is a `Q4KGroup`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q4_k_two_sub_blocks<const N: usize>(
    w: *const u8,
    x: *const u8,
    pair: usize,
    products: &mut [__m512i; N],
) {
    let nibbles = _mm512_set1_epi8(15);
    let mut low_dots = [_mm512_setzero_si512(); N];
    let mut high_dots = [_mm512_setzero_si512(); N];
    for i in 0..8 {
        // SAFETY: inside the quads.
        let raw = unsafe { load(w.add(pair * PAIR + i * 64)) };
        let low = _mm512_and_si512(raw, nibbles);
        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(raw), nibbles);
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
        q4_k_scale(w, pair * 2, low_dots, products);
        q4_k_scale(w, pair * 2 + 1, high_dots, products);
    }
}

/// Adds a sub-block's sums times its scales.
///
/// # Safety
/// `w` is a `Q4KGroup`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q4_k_scale<const N: usize>(
    w: *const u8,
    sub: usize,
    dots: [__m512i; N],
    products: &mut [__m512i; N],
) {
    // SAFETY: 16 bytes of scales.
    let scales = unsafe {
        w.add(sub / 2 * PAIR + offset_of!(Q4KPair, scales) + sub % 2 * 16).cast::<__m128i>().read_unaligned()
    };
    let scales = _mm512_cvtepu8_epi32(scales);
    for (product, dot) in products.iter_mut().zip(dots) {
        *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(dot, scales));
    }
}

/// Twin: `reference::k_quants::q6_k_tile`.
///
/// Per super-block of 16 rows (3,360 bytes) and token, in operations of 16 lanes: 64 products of four columns, 16 scales
/// and their additions, 3 of floats; and 272 for all tokens to unpack. Measured on a Zen 4 core in cache, shares of the
/// int8 limit: 30 % for 1 token, 48 for 2, 64 for 4, 71 for 8, 66 for 512. Bound by unpacking for few tokens (which is
/// still faster than memory), by operations that are no products for many.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q6_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Q6KGroup::block_at(block));
        let mut products = [_mm512_setzero_si512(); N];
        for half_part in 0..4 {
            let (half, part) = (half_part / 2, half_part % 2);
            let ahead = w.wrapping_add(half_part * 832);
            prefetch.ahead::<7>(ahead);
            // SAFETY: this block's weights and activations.
            unsafe { q6_k_two_sub_blocks::<N, 0>(w, x, half, part, &mut products) };
            prefetch.ahead::<6>(ahead.wrapping_add(7 * 64));
            // SAFETY: as above.
            unsafe { q6_k_two_sub_blocks::<N, 1>(w, x, half, part, &mut products) };
        }
        // The scales of a pair of blocks.
        prefetch.ahead::<1>(w.wrapping_add(52 * 64));
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

/// Sub-block `part` of the two in runs `RUN` (0 or 1) and `RUN + 2` of 32 columns, of four in a half. The two share
/// the registers of low bits.
///
/// # Safety
/// `w` is a `Q6KGroup`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q6_k_two_sub_blocks<const N: usize, const RUN: usize>(
    w: *const u8,
    x: *const u8,
    half: usize,
    part: usize,
    products: &mut [__m512i; N],
) {
    let sub = half * 8 + RUN * 2 + part;
    let w = w.wrapping_add((half * 2 + part) * size_of::<Q6KPart>());
    let low = if RUN == 0 { offset_of!(Q6KPart, low_even) } else { offset_of!(Q6KPart, low_odd) };
    let (low, high) = (w.wrapping_add(low), w.wrapping_add(offset_of!(Q6KPart, high)));
    // SAFETY: this function's contract: sub-blocks `sub` and `sub + 4` are there, and so are the registers.
    unsafe {
        let mut first = q6_k_offsets::<N>(x, sub);
        if N <= N_TWO_CHAINS {
            let mut second = q6_k_offsets::<N>(x, sub + 4);
            for i in 0..4 {
                let (low, high) = (load(low.add(i * 64)), load(high.add(i * 64)));
                q6_k_quad(q6_k_weights::<RUN, 0>(low, high), x.add(sub * 16 + i * 4), &mut first);
                q6_k_quad(q6_k_weights::<RUN, 1>(low, high), x.add((sub + 4) * 16 + i * 4), &mut second);
            }
            q6_k_scale(w, RUN, first, products);
            q6_k_scale(w, RUN + 2, second, products);
        } else {
            for i in 0..4 {
                let (low, high) = (load(low.add(i * 64)), load(high.add(i * 64)));
                q6_k_quad(q6_k_weights::<RUN, 0>(low, high), x.add(sub * 16 + i * 4), &mut first);
            }
            q6_k_scale(w, RUN, first, products);
            let mut second = q6_k_offsets::<N>(x, sub + 4);
            for i in 0..4 {
                let (low, high) = (load(low.add(i * 64)), load(high.add(i * 64)));
                q6_k_quad(q6_k_weights::<RUN, 1>(low, high), x.add((sub + 4) * 16 + i * 4), &mut second);
            }
            q6_k_scale(w, RUN + 2, second, products);
        }
    }
}

/// Where the sums of a sub-block start: -32 times the activations' sum.
///
/// # Safety
/// `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn q6_k_offsets<const N: usize>(x: *const u8, sub: usize) -> [__m512i; N] {
    let mut offsets = [_mm512_setzero_si512(); N];
    for (t, offset) in offsets.iter_mut().enumerate() {
        // SAFETY: a sum of 16 of token t.
        *offset = unsafe { broadcast(x.add(t * X + offset_of!(X256, times_neg32) + sub * 4)) };
    }
    offsets
}

/// Weights of run `RUN + 2 * UPPER` from their low and high bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn q6_k_weights<const RUN: usize, const UPPER: usize>(low: __m512i, high: __m512i) -> __m512i {
    let low = if UPPER == 1 { _mm512_srli_epi16::<4>(low) } else { low };
    let high = match RUN + 2 * UPPER {
        0 => _mm512_slli_epi16::<4>(high),
        1 => _mm512_slli_epi16::<2>(high),
        2 => high,
        _ => _mm512_srli_epi16::<2>(high),
    };
    let low = _mm512_and_si512(low, _mm512_set1_epi8(0x0F));
    _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)))
}

/// Adds the products of a register of weights with the activations at `x`.
///
/// # Safety
/// `x` is inside q of the first of `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn q6_k_quad<const N: usize>(weights: __m512i, x: *const u8, dots: &mut [__m512i; N]) {
    for (t, dot) in dots.iter_mut().enumerate() {
        // SAFETY: inside q of token t.
        *dot = _mm512_dpbusd_epi32(*dot, weights, unsafe { broadcast(x.add(t * X)) });
    }
}

/// Adds a sub-block's sums times its scales.
///
/// # Safety
/// `w` is a `Q6KPart`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q6_k_scale<const N: usize>(
    w: *const u8,
    run: usize,
    dots: [__m512i; N],
    products: &mut [__m512i; N],
) {
    // SAFETY: 16 bytes of scales.
    let scales = unsafe { w.add(offset_of!(Q6KPart, scales) + run * 16).cast::<__m128i>().read_unaligned() };
    let scales = _mm512_cvtepi8_epi32(scales);
    for (product, dot) in products.iter_mut().zip(dots) {
        *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(dot, scales));
    }
}

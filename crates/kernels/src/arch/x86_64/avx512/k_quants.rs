//! Q4_K and Q5_K: per sub-block of 32 columns 8 `vpdpbusd`, one multiplication by the scales, one addition. Q6_K: the
//! same with 4 `vpdpbusd` per sub-block of 16, which start at -32 times the activations' sum.
//!
//! Weights in high nibbles are multiplied where they lie, as 16 times what they are (8 times for Q5_K). The scales of
//! the others are as much larger instead, and the sum of a super-block is shifted once, which is exact: 15 * 127 * 32 *
//! 63 * 8 * 16 and 31 * 127 * 32 * 63 * 8 * 8 fit in 31 bits.
//!
//! Each kernel is compiled twice, for weights from memory and for weights that an earlier tile has brought to a cache.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{
    N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store, unrolled,
};
use crate::activations::X256;
use crate::layout::{Paired, Q4KGroup, Q4KPair, Q5KGroup, Q5KPair, Q6KGroup, Q6KPart};

const X: usize = size_of::<X256>();

/// Twin: `reference::k_quants::q4_k_tile`.
///
/// Per super-block of 16 rows (2,368 bytes) and token, in operations of 16 lanes: 64 products of four columns, 8 scales
/// and their additions, 4 products of minimums, 7 of floats and the shift; and for all tokens 64 to unpack weights, 16
/// for scales and minimums. Measured on a Zen 4 core in cache, shares of the int8 limit: 52 % for 1 token, 69 for 2, 73
/// for 4, 75 for 8, 70 for 512, whose activations come from the second cache. Bound by operations that are no products
/// and take their units all the same; from memory, 0.55 GB take one thread 23 ms for 1 token, 49 for 8, two 18 and 28.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q4_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe {
        if input.next.is_some() {
            with_minimums::<N, false, true>(input, out);
        } else {
            with_minimums::<N, false, false>(input, out);
        }
    }
}

/// Twin: `reference::k_quants::q5_k_tile`.
///
/// Per super-block 180 bytes (176 in the file) for each output, and beside what Q4_K has 64 operations for the fifth
/// bits, 128 for more than 4 tokens. Measured as for Q4_K: 39 % for 1 token, 55 for 2, 66 for 4, 71 for 8, 67 for 512.
/// Bound as Q4_K, for few tokens mostly by unpacking. From memory, 0.67 GB take one thread 28 ms for 1 token and 51 for
/// 8, two 21 and 27.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q5_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe {
        if input.next.is_some() {
            with_minimums::<N, true, true>(input, out);
        } else {
            with_minimums::<N, true, false>(input, out);
        }
    }
}

/// Where things lie in a pair of sub-blocks: of Q4_K, or of Q5_K with its fifth bits (`FIFTH`). Four pairs are a
/// super-block, followed by `d` and `dmin`.
struct Pair<const FIFTH: bool>;

impl<const FIFTH: bool> Pair<FIFTH> {
    const BYTES: usize = if FIFTH { size_of::<Q5KPair>() } else { size_of::<Q4KPair>() };
    const QUADS: usize = if FIFTH { offset_of!(Q5KPair, quads) } else { offset_of!(Q4KPair, quads) };
    const SCALES: usize = if FIFTH { offset_of!(Q5KPair, scales) } else { offset_of!(Q4KPair, scales) };
    const D: usize = if FIFTH { offset_of!(Q5KGroup, d) } else { offset_of!(Q4KGroup, d) };
    const DMIN: usize = if FIFTH { offset_of!(Q5KGroup, dmin) } else { offset_of!(Q4KGroup, dmin) };
    const GROUP: usize = if FIFTH { size_of::<Q5KGroup>() } else { size_of::<Q4KGroup>() };
}

/// The tile of a type with minimums; `MEMORY`: the weights come from there.
///
/// # Safety
/// See `TileFn`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn with_minimums<const N: usize, const FIFTH: bool, const MEMORY: bool>(
    input: TileInput<'_>,
    out: &mut TileOut,
) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input).known::<MEMORY>();
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 256 {
        let mut products = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            let w = w.wrapping_add(pair * Pair::<FIFTH>::BYTES);
            let x = x.wrapping_add(pair * 64);
            // SAFETY: this pair's weights and activations.
            unsafe {
                if N <= N_TWO_CHAINS {
                    sub_blocks::<N, FIFTH, 0, 2>(w, x, prefetch, &mut products);
                } else {
                    sub_blocks::<N, FIFTH, 0, 1>(w, x, prefetch, &mut products);
                    sub_blocks::<N, FIFTH, 1, 1>(w, x, prefetch, &mut products);
                }
            }
        }
        prefetch.ahead::<1>(w.wrapping_add(Pair::<FIFTH>::D));
        let mut minimums = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            // SAFETY: the scales and minimums of this pair.
            let words = unsafe { load(w.add(pair * Pair::<FIFTH>::BYTES + Pair::<FIFTH>::SCALES)) };
            let mins = _mm512_and_si512(words, _mm512_set1_epi16(0xFF));
            for (t, minimum) in minimums.iter_mut().enumerate() {
                // SAFETY: two of the sums of token t.
                let x = unsafe { broadcast(x.add(t * X + offset_of!(X256, sums) + pair * 4)) };
                *minimum = _mm512_dpwssd_epi32(*minimum, mins, x);
            }
        }
        // SAFETY: the 16 scales of this super-block, and of its minimums.
        let (d, dmin) =
            unsafe { (load_halves(w.add(Pair::<FIFTH>::D)), load_halves(w.add(Pair::<FIFTH>::DMIN))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            let product =
                if FIFTH { _mm512_srai_epi32::<3>(products[t]) } else { _mm512_srai_epi32::<4>(products[t]) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(product), sums[t]);
            sums[t] = _mm512_fnmadd_ps(_mm512_mul_ps(dmin, dx), _mm512_cvtepi32_ps(minimums[t]), sums[t]);
        }
        w = w.wrapping_add(Pair::<FIFTH>::GROUP);
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Adds sub-blocks `FIRST..FIRST + COUNT` of a pair to 16 times (Q5_K: 8 times) the sums of a super-block.
///
/// # Safety
/// `w` is a `Q4KPair` or `Q5KPair`, `x` are the first of its activations in `N` blocks; AVX-512 with VNNI.
#[inline(always)]
unsafe fn sub_blocks<const N: usize, const FIFTH: bool, const FIRST: usize, const COUNT: usize>(
    w: *const u8,
    x: *const u8,
    prefetch: Prefetch,
    products: &mut [__m512i; N],
) {
    // SAFETY: all places are in what the contract names, and the instructions are there.
    unsafe {
        let lines = const { Pair::<FIFTH>::BYTES / 64 };
        let mut dots = [[_mm512_setzero_si512(); N]; COUNT];
        unrolled!(I in [0 1 2 3 4 5 6 7] {
            // One at each step: requests in bursts keep memory idle in between.
            let line = FIRST * lines.div_ceil(2) + I;
            if COUNT == 2 || I < lines.div_ceil(2) && line < lines {
                prefetch.line(w, line);
            }
            let raw = load(w.add(Pair::<FIFTH>::QUADS + I * 64));
            let fifth = if FIFTH {
                let fifth = load(w.add(offset_of!(Q5KPair, fifth) + I / 4 * 64));
                let shifted = match I % 4 {
                    0 => _mm512_slli_epi16::<3>(fifth),
                    1 => _mm512_slli_epi16::<1>(fifth),
                    2 => _mm512_srli_epi16::<1>(fifth),
                    _ => _mm512_srli_epi16::<3>(fifth),
                };
                // The first sub-block's in bit 4, the second's in bit 3.
                _mm512_and_si512(shifted, _mm512_set1_epi8(0x18))
            } else {
                _mm512_setzero_si512()
            };
            for (k, dots) in dots.iter_mut().enumerate() {
                let four = _mm512_set1_epi8(if FIRST + k == 0 { 0x0F } else { 0xF0_u8 as i8 });
                let weights = if FIFTH { select(four, raw, fifth) } else { _mm512_and_si512(raw, four) };
                for (t, dot) in dots.iter_mut().enumerate() {
                    let x = broadcast(x.add(t * X + (FIRST + k) * 32 + I * 4));
                    *dot = _mm512_dpbusd_epi32(*dot, weights, x);
                }
            }
        });
        if COUNT == 2 {
            for line in 8..lines {
                prefetch.line(w, line);
            }
        }
        let words = load(w.add(Pair::<FIFTH>::SCALES));
        for (k, dots) in dots.iter().enumerate() {
            let scales = if FIRST + k == 1 {
                _mm512_srli_epi32::<24>(words)
            } else if FIFTH {
                _mm512_and_si512(_mm512_srli_epi32::<5>(words), _mm512_set1_epi32(0xFF << 3))
            } else {
                _mm512_and_si512(_mm512_srli_epi32::<4>(words), _mm512_set1_epi32(0xFF << 4))
            };
            for (product, dot) in products.iter_mut().zip(dots) {
                *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(*dot, scales));
            }
        }
    }
}

/// Bits of `a` where `mask` has ones, of `b` where it has zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn select(mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xCA>(mask, a, b)
}

/// Twin: `reference::k_quants::q6_k_tile`.
///
/// Per super-block of 16 rows (3,360 bytes) and token, in operations of 16 lanes: 64 products of four columns, 16
/// scales and their additions, 3 of floats; and for all tokens 144 to unpack weights, 16 for scales. Measured as for
/// Q4_K: 37 % for 1 token, 56 for 2, 67 for 4, 70 for 8, 68 for 512. From memory, 0.80 GB take one thread 32 ms for 1
/// token and 53 for 8, two 25 and 28. Bound by unpacking, and by memory, for few tokens, by all operations that are no
/// products for many.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q6_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe {
        if input.next.is_some() {
            q6_k::<N, true>(input, out);
        } else {
            q6_k::<N, false>(input, out);
        }
    }
}

/// The tile; `MEMORY`: the weights come from there.
///
/// # Safety
/// See `TileFn`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q6_k<const N: usize, const MEMORY: bool>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input).known::<MEMORY>();
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Q6KGroup::block_at(block));
        let mut products = [_mm512_setzero_si512(); N];
        for half_part in 0..4 {
            let w = w.wrapping_add(half_part * size_of::<Q6KPart>());
            let first_sub = half_part / 2 * 8 + half_part % 2;
            // SAFETY: this part's weights and activations.
            unsafe {
                if N <= 2 {
                    q6_k_sub_blocks::<N, 0, 4>(w, x, first_sub, prefetch, &mut products);
                } else if N <= N_TWO_CHAINS {
                    q6_k_sub_blocks::<N, 0, 2>(w, x, first_sub, prefetch, &mut products);
                    q6_k_sub_blocks::<N, 2, 2>(w, x, first_sub, prefetch, &mut products);
                } else {
                    q6_k_sub_blocks::<N, 0, 1>(w, x, first_sub, prefetch, &mut products);
                    q6_k_sub_blocks::<N, 1, 1>(w, x, first_sub, prefetch, &mut products);
                    q6_k_sub_blocks::<N, 2, 1>(w, x, first_sub, prefetch, &mut products);
                    q6_k_sub_blocks::<N, 3, 1>(w, x, first_sub, prefetch, &mut products);
                }
            }
        }
        // The scales of a pair of blocks.
        prefetch.ahead::<1>(w.wrapping_add(size_of::<Q6KGroup>()));
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

/// Adds the sub-blocks of runs `FIRST..FIRST + COUNT` of a part to the sums of a super-block.
///
/// # Safety
/// `w` is a `Q6KPart` whose first sub-block is `first_sub`, `x` are `N` blocks; AVX-512 with VNNI.
#[inline(always)]
unsafe fn q6_k_sub_blocks<const N: usize, const FIRST: usize, const COUNT: usize>(
    w: *const u8,
    x: *const u8,
    first_sub: usize,
    prefetch: Prefetch,
    products: &mut [__m512i; N],
) {
    // SAFETY: all places are in what the contract names, and the instructions are there.
    unsafe {
        let mut dots = [[_mm512_setzero_si512(); N]; COUNT];
        for (k, dots) in dots.iter_mut().enumerate() {
            let sub = first_sub + (FIRST + k) * 2;
            for (t, dot) in dots.iter_mut().enumerate() {
                *dot = broadcast(x.add(t * X + offset_of!(X256, times_neg32) + sub * 4));
            }
        }
        unrolled!(I in [0 1 2 3] {
            // Twelve lines, and that of the scales.
            match COUNT {
                4 => prefetch.ahead::<3>(w.wrapping_add(I * 192)),
                2 if FIRST == 0 => prefetch.ahead::<2>(w.wrapping_add(I * 128)),
                2 => prefetch.line(w, 8 + I),
                _ if I < 3 => prefetch.line(w, FIRST * 3 + I),
                _ => {}
            }
            let at = w.wrapping_add(offset_of!(Q6KPart, quads) + I * 192);
            let raw = [load(at), load(at.add(64)), load(at.add(128))];
            for (k, dots) in dots.iter_mut().enumerate() {
                let weights = if FIRST + k < 3 { raw[FIRST + k] } else { q6_k_last_run(raw) };
                let weights = _mm512_and_si512(weights, _mm512_set1_epi8(0x3F));
                let sub = first_sub + (FIRST + k) * 2;
                for (t, dot) in dots.iter_mut().enumerate() {
                    let x = broadcast(x.add(t * X + sub * 16 + I * 4));
                    *dot = _mm512_dpbusd_epi32(*dot, weights, x);
                }
            }
        });
        if FIRST + COUNT == 4 {
            prefetch.line(w, 12);
        }
        for (k, dots) in dots.iter().enumerate() {
            let scales =
                w.add(offset_of!(Q6KPart, scales) + (FIRST + k) * 16).cast::<__m128i>().read_unaligned();
            let scales = _mm512_cvtepi8_epi32(scales);
            for (product, dot) in products.iter_mut().zip(dots) {
                *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(*dot, scales));
            }
        }
    }
}

/// Weights of run 3 from the upper two bits of the other three's, in the lower six.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn q6_k_last_run(raw: [__m512i; 3]) -> __m512i {
    let (top, mid, low) =
        (_mm512_srli_epi16::<2>(raw[0]), _mm512_srli_epi16::<4>(raw[1]), _mm512_srli_epi16::<6>(raw[2]));
    select(_mm512_set1_epi8(0x30), top, select(_mm512_set1_epi8(0x0C), mid, low))
}

//! Q2_K and Q3_K, for AVX2 and AVX-VNNI. Up to four tokens are multiplied at a time, as in `k_quants`; for more, the
//! weights of a super-block stay in the first cache as bytes (4 KB) for the second pass.

use std::arch::x86_64::*;
use std::mem::{MaybeUninit, offset_of};

use super::dot::Dot;
use super::{
    Prefetch, TileInput, TileOut, Weights, add_quad, broadcast_f32, in_passes, load, load_halves, store,
};
use crate::activations::X256;
use crate::layout::{FIRST_OF_PAIR, Paired, Q2KGroup, Q2KPart, Q3KGroup, Q3KHalf};

const X: usize = size_of::<X256>();

/// Bytes of a part of Q2_K.
const PART: usize = size_of::<Q2KPart>();

/// Bytes of a half of Q3_K.
const HALF: usize = size_of::<Q3KHalf>();

/// A super-block's weights, a byte each: `[columns / 4][rows 0 to 7, 8 to 15]`.
type Kept = MaybeUninit<[[__m256i; 2]; 64]>;

/// For each half and `j` of 0 to 3, minus multiples of the sums of 16 activations of sub-blocks `j` and `j + 4`, in 16
/// bits each.
type NegativeSums = [i32; 8];

/// Twin: `reference::k_quants_low::q2_k_tile`.
///
/// Per super-block of 16 rows (1,344 bytes) and token, in operations of 8 lanes: 128 products of four columns (two
/// operations each with AVX2), 32 scales and their additions, 16 products of minimums. Measured on a Zen 4 core in cache
/// at 8 tokens: 213 Gop/s with AVX2 (58 % of the limit), 228 with `vpdpbusd` (49 %; 262 Gop/s at 4 tokens); bound by
/// the number of instructions.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q2_k<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a super-block of weights and one of each token, and the
    // instructions are there.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for _ in 0..input.n_cols / 256 {
            let x_sums = negative_sums::<N>(x, _mm256_set1_epi32(5));
            in_passes!(N, first, G => {
                let (x, x_sums, prefetch) = (x.add(first * X), &x_sums[first..], prefetch.if_first(first));
                q2_k_pass::<D, G>(w, kept, Weights::of_pass(first, N), x, x_sums, prefetch, &mut sums[first..])
            });
            w = w.wrapping_add(size_of::<Q2KGroup>());
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Adds a super-block to the sums of `G` tokens.
///
/// # Safety
/// `w` is a `Q2KGroup`, `kept` a `Kept` of it, `x` the first of `G` blocks; the instruction set of `D`.
#[inline(always)]
unsafe fn q2_k_pass<D: Dot, const G: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    x: *const u8,
    x_sums: &[NegativeSums],
    prefetch: Prefetch,
    sums: &mut [[__m256; 2]],
) {
    // SAFETY: all places are in the blocks and super-block of the contract.
    unsafe {
        // Four times the products.
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for part in 0..4 {
            let (w, kept) = (w.add(part * PART), kept.add(part * 16));
            let x = x.add(part / 2 * 128 + part % 2 * 16);
            prefetch.ahead::<3>(w);
            q2_k_sub_block::<D, G, 0>(w, kept, weights, x, &mut products);
            q2_k_sub_block::<D, G, 1>(w, kept, weights, x, &mut products);
            prefetch.ahead::<2>(w.wrapping_add(3 * 64));
            q2_k_sub_block::<D, G, 2>(w, kept, weights, x, &mut products);
            q2_k_sub_block::<D, G, 3>(w, kept, weights, x, &mut products);
        }
        prefetch.ahead::<1>(w.wrapping_add(offset_of!(Q2KGroup, d)));
        for h in 0..2 {
            let mut minimums = [_mm256_setzero_si256(); G];
            for part in 0..4 {
                let both = load(w.add(part * PART + offset_of!(Q2KPart, scales) + h * 32));
                let mins = [
                    _mm256_and_si256(_mm256_srli_epi16::<4>(both), _mm256_set1_epi16(15)),
                    _mm256_srli_epi16::<12>(both),
                ];
                for (pair, mins) in mins.into_iter().enumerate() {
                    let at = part / 2 * 4 + pair * 2 + part % 2;
                    for (minimum, x_sums) in minimums.iter_mut().zip(x_sums) {
                        *minimum = D::add_pairs(*minimum, mins, _mm256_set1_epi32(x_sums[at]));
                    }
                }
            }
            let d = load_halves(w.add(offset_of!(Q2KGroup, d) + h * 16));
            let dmin = load_halves(w.add(offset_of!(Q2KGroup, dmin) + h * 16));
            for g in 0..G {
                let dx = broadcast_f32(x.add(g * X + offset_of!(X256, d)));
                let product = _mm256_cvtepi32_ps(_mm256_srai_epi32::<2>(products[g][h]));
                let sum = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), product, sums[g][h]);
                sums[g][h] = _mm256_fmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(minimums[g]), sum);
            }
        }
    }
}

/// Adds four times the products of run `RUN` of a part.
///
/// # Safety
/// `w` is a `Q2KPart`, `kept` has room for its weights, `x` are its columns in the first of `G` blocks; the instruction
/// set of `D`.
#[inline(always)]
unsafe fn q2_k_sub_block<D: Dot, const G: usize, const RUN: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    x: *const u8,
    products: &mut [[__m256i; 2]; G],
) {
    // SAFETY: this function's contract.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for i in 0..4 {
            let kept = kept.add(RUN * 4 + i);
            let quad = if weights == Weights::Kept {
                kept.read()
            } else {
                let raw = w.add(offset_of!(Q2KPart, quads) + i * 64);
                let quad = [q2_k_weights::<RUN>(load(raw)), q2_k_weights::<RUN>(load(raw.add(32)))];
                if weights == Weights::PackedToKeep {
                    kept.write(quad);
                }
                quad
            };
            add_quad::<D, G, X>(quad, x.add(RUN * 32 + i * 4), &mut dots);
        }
        for h in 0..2 {
            let both = load(w.add(offset_of!(Q2KPart, scales) + h * 32));
            // Weights of runs 1 and 3 are four times as large as they should be, scales of runs 0 and 2 are made so.
            let scales = match RUN {
                0 => _mm256_slli_epi32::<2>(both),
                1 => _mm256_srli_epi32::<8>(both),
                2 => _mm256_srli_epi32::<14>(both),
                _ => _mm256_srli_epi32::<24>(both),
            };
            let mask = if RUN.is_multiple_of(2) { 15 << 2 } else { 15 };
            let scales = D::scales(_mm256_and_si256(scales, _mm256_set1_epi32(mask)));
            for (products, dots) in products.iter_mut().zip(&dots) {
                products[h] = _mm256_add_epi32(products[h], D::scaled(dots[h], scales));
            }
        }
    }
}

/// The weights of run `RUN`, four times those of runs 1 and 3.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn q2_k_weights<const RUN: usize>(raw: __m256i) -> __m256i {
    // SAFETY: this function's contract.
    unsafe {
        let raw = if RUN >= 2 { _mm256_srli_epi16::<4>(raw) } else { raw };
        _mm256_and_si256(raw, _mm256_set1_epi8(if RUN.is_multiple_of(2) { 3 } else { 12 }))
    }
}

/// Twin: `reference::k_quants_low::q3_k_tile`.
///
/// Per super-block of 16 rows (1,824 bytes) and token, in operations of 8 lanes: 128 products of four columns (two
/// operations each with AVX2), 32 scales and their additions, 16 products of offsets. Measured on a Zen 4 core in cache
/// at 8 tokens: 215 Gop/s with AVX2 (58 % of the limit), 205 with `vpdpbusd` (44 %; 245 Gop/s at 4 tokens); bound by
/// the number of instructions.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q3_k<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a super-block of weights and one of each token, and the
    // instructions are there.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 256 {
            let w = input.w.as_ptr().add(Q3KGroup::block_at(block));
            let d = input.w.as_ptr().add(Q3KGroup::scales_at(block));
            // Times -4, in the fourth pair, whose weights are doubled, times -8.
            let x_sums = negative_sums::<N>(x, _mm256_setr_epi32(3, 3, 3, 2, 3, 3, 3, 2));
            in_passes!(N, first, G => {
                let (x, x_sums, prefetch) = (x.add(first * X), &x_sums[first..], prefetch.if_first(first));
                let weights = Weights::of_pass(first, N);
                q3_k_pass::<D, G>(w, kept, weights, d, x, x_sums, prefetch, &mut sums[first..])
            });
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Adds a super-block to the sums of `G` tokens.
///
/// # Safety
/// `w` is a `Q3KGroup`, `kept` a `Kept` of it and `d` its 16 scales, `x` the first of `G` blocks; the instruction set
/// of `D`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a piece of the tile, with its variables")]
unsafe fn q3_k_pass<D: Dot, const G: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    d: *const u8,
    x: *const u8,
    x_sums: &[NegativeSums],
    prefetch: Prefetch,
    sums: &mut [[__m256; 2]],
) {
    // SAFETY: all places are in the blocks and super-block of the contract.
    unsafe {
        // Twice the products.
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for half in 0..2 {
            let (w, kept, x) = (w.add(half * HALF), kept.add(half * 32), x.add(half * 128));
            prefetch.ahead::<4>(w);
            q3_k_pair::<D, G, 0>(w, kept, weights, x, half, x_sums, &mut products);
            prefetch.ahead::<4>(w.wrapping_add(4 * 64));
            q3_k_pair::<D, G, 1>(w, kept, weights, x, half, x_sums, &mut products);
            prefetch.ahead::<3>(w.wrapping_add(8 * 64));
            q3_k_pair::<D, G, 2>(w, kept, weights, x, half, x_sums, &mut products);
            prefetch.ahead::<3>(w.wrapping_add(11 * 64));
            q3_k_pair::<D, G, 3>(w, kept, weights, x, half, x_sums, &mut products);
        }
        for h in 0..2 {
            let d = load_halves(d.add(h * 16));
            for g in 0..G {
                let dx = broadcast_f32(x.add(g * X + offset_of!(X256, d)));
                let product = _mm256_cvtepi32_ps(_mm256_srai_epi32::<1>(products[g][h]));
                sums[g][h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), product, sums[g][h]);
            }
        }
    }
}

/// Adds twice the products of pair `PAIR` of a half.
///
/// # Safety
/// `w` is a `Q3KHalf`, `kept` has room for its weights, `x` are its columns in the first of `G` blocks; the instruction
/// set of `D`.
#[inline(always)]
unsafe fn q3_k_pair<D: Dot, const G: usize, const PAIR: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    x: *const u8,
    half: usize,
    x_sums: &[NegativeSums],
    products: &mut [[__m256i; 2]; G],
) {
    let sub = FIRST_OF_PAIR[PAIR];
    // SAFETY: this function's contract.
    unsafe {
        for h in 0..2 {
            // What weights that are raised by 4 give too much.
            let scales = load(w.add(offset_of!(Q3KHalf, scales) + PAIR / 2 * 64 + h * 32));
            let scales = if PAIR.is_multiple_of(2) { _mm256_slli_epi16::<8>(scales) } else { scales };
            let scales = _mm256_srai_epi16::<8>(scales);
            for (products, x_sums) in products.iter_mut().zip(x_sums) {
                products[h] = D::add_pairs(products[h], scales, _mm256_set1_epi32(x_sums[half * 4 + sub]));
            }
        }
        q3_k_sub_block::<D, G, PAIR, 0>(w, kept.add(sub * 4), weights, x.add(sub * 16), products);
        let sub = sub + 4;
        q3_k_sub_block::<D, G, PAIR, 1>(w, kept.add(sub * 4), weights, x.add(sub * 16), products);
    }
}

/// Adds twice the products of sub-block `SECOND` of a pair, with weights raised by 4.
///
/// # Safety
/// `w` is a `Q3KHalf`, `kept` has room for the sub-block's weights, `x` are its columns in the first of `G` blocks; the
/// instruction set of `D`.
#[inline(always)]
unsafe fn q3_k_sub_block<D: Dot, const G: usize, const PAIR: usize, const SECOND: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    x: *const u8,
    products: &mut [[__m256i; 2]; G],
) {
    // SAFETY: this function's contract.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for i in 0..4 {
            let kept = kept.add(i);
            let quad = if weights == Weights::Kept {
                kept.read()
            } else {
                let raw = w.add(i * 64);
                let quad = [q3_k_weights::<PAIR, SECOND>(raw), q3_k_weights::<PAIR, SECOND>(raw.add(32))];
                if weights == Weights::PackedToKeep {
                    kept.write(quad);
                }
                quad
            };
            add_quad::<D, G, X>(quad, x.add(i * 4), &mut dots);
        }
        for h in 0..2 {
            let scales = load(w.add(offset_of!(Q3KHalf, scales) + PAIR / 2 * 64 + h * 32));
            let to_top = match 2 * SECOND + PAIR % 2 {
                0 => _mm256_slli_epi32::<24>(scales),
                1 => _mm256_slli_epi32::<16>(scales),
                2 => _mm256_slli_epi32::<8>(scales),
                _ => scales,
            };
            let scales = D::scales(_mm256_srai_epi32::<24>(to_top));
            for (products, dots) in products.iter_mut().zip(&dots) {
                products[h] = _mm256_add_epi32(products[h], D::scaled(dots[h], scales));
            }
        }
    }
}

/// The weights (raised by 4) of sub-block `SECOND` of a pair, of the fourth pair doubled.
///
/// # Safety
/// `w` is half a quad of the first pair of a `Q3KHalf`; AVX2.
#[inline(always)]
unsafe fn q3_k_weights<const PAIR: usize, const SECOND: usize>(w: *const u8) -> __m256i {
    // SAFETY: this function's contract.
    unsafe {
        if PAIR < 3 {
            let raw = load(w.add(PAIR * 256));
            let raw = if SECOND == 1 { _mm256_srli_epi16::<4>(raw) } else { raw };
            return _mm256_and_si256(raw, _mm256_set1_epi8(7));
        }
        let nibble = if SECOND == 1 { 0xF0_u8 } else { 0x0F };
        let high = _mm256_and_si256(load(w), _mm256_set1_epi8((nibble & 0x88) as i8));
        let mid = _mm256_srli_epi16::<1>(load(w.add(256)));
        let mid = _mm256_and_si256(mid, _mm256_set1_epi8((nibble & 0x44) as i8));
        let low = _mm256_srli_epi16::<2>(load(w.add(512)));
        let low = _mm256_and_si256(low, _mm256_set1_epi8((nibble & 0x22) as i8));
        let weights = _mm256_or_si256(_mm256_or_si256(high, mid), low);
        if SECOND == 1 { _mm256_srli_epi16::<4>(weights) } else { weights }
    }
}

/// The sums of 16 of each token times -32, shifted right in the eight sub-blocks of a half. They fit in 16 bits.
///
/// # Safety
/// `x` are `N` blocks; AVX2.
#[inline(always)]
unsafe fn negative_sums<const N: usize>(x: *const u8, shifts: __m256i) -> [NegativeSums; N] {
    let mut sums = [[0; 8]; N];
    for (t, sums) in sums.iter_mut().enumerate() {
        for (half, pairs) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // SAFETY: 32 bytes of sums of token t; `pairs` is 16 bytes long.
            unsafe {
                let sums = load(x.add(t * X + offset_of!(X256, times_neg32) + half * 32));
                let sums = _mm256_srav_epi32(sums, shifts);
                let second = _mm_slli_epi32::<16>(_mm256_extracti128_si256::<1>(sums));
                let both = _mm_blend_epi16::<0xAA>(_mm256_castsi256_si128(sums), second);
                _mm_storeu_si128(pairs.as_mut_ptr().cast(), both);
            }
        }
    }
    sums
}

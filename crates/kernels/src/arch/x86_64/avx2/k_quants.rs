//! Q4_K and Q6_K, for AVX2 and AVX-VNNI.
//!
//! Up to four tokens are multiplied at a time: 8 sums, two registers of weights and one of activations are what 16
//! registers hold. For more, the weights of a super-block stay in the first cache as bytes (4 KB) for the second pass, so
//! that nothing is unpacked twice. The integers of a super-block stay in memory between sub-blocks.

use std::arch::x86_64::*;
use std::mem::{MaybeUninit, offset_of};

use super::dot::Dot;
use super::{
    Prefetch, TileInput, TileOut, Weights, add_quad, broadcast, broadcast_f32, in_passes, load, load_8,
    load_halves, store,
};
use crate::activations::X256;
use crate::layout::{Paired, Q4KGroup, Q4KPair, Q6KGroup, Q6KPart};

const X: usize = size_of::<X256>();

/// Bytes of a pair of sub-blocks of Q4_K.
const PAIR: usize = size_of::<Q4KPair>();

/// A super-block's weights, a byte each: `[columns / 4][rows 0 to 7, 8 to 15]`.
type Kept = MaybeUninit<[[__m256i; 2]; 64]>;

/// Twin: `reference::k_quants::q4_k_tile`.
///
/// Per super-block of 16 rows (2,368 bytes) and token, in operations of 8 lanes: 128 products of four columns, 16 scales
/// and their additions, 8 products of minimums, 12 of floats; and 192 for all tokens to unpack. With AVX2 a product is
/// two operations, so that of about 350 at 8 tokens 73 % are products. Measured on a Zen 4 core in cache at 8 tokens:
/// 255 Gop/s with AVX2 (70 % of the limit), 291 with `vpdpbusd` (62 %); bound by the number of instructions.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q4_k<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
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
            in_passes!(N, first, G => q4_k_pass::<D, G>(
                w, kept, Weights::of_pass(first, N), x.add(first * X), prefetch.if_first(first), &mut sums[first..]
            ));
            w = w.wrapping_add(size_of::<Q4KGroup>());
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Adds a super-block to the sums of `G` tokens.
///
/// # Safety
/// `w` is a `Q4KGroup`, `kept` a `Kept` of it, `x` the first of `G` blocks; the instruction set of `D`.
#[inline(always)]
unsafe fn q4_k_pass<D: Dot, const G: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    x: *const u8,
    prefetch: Prefetch,
    sums: &mut [[__m256; 2]],
) {
    // SAFETY: all places are in the blocks and super-block of the contract.
    unsafe {
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for pair in 0..4 {
            let ahead = w.wrapping_add(pair * PAIR);
            prefetch.ahead::<5>(ahead);
            q4_k_sub_block::<D, G, 0>(w, kept, weights, x, pair, &mut products);
            prefetch.ahead::<4>(ahead.wrapping_add(5 * 64));
            q4_k_sub_block::<D, G, 1>(w, kept, weights, x, pair, &mut products);
        }
        prefetch.ahead::<1>(w.wrapping_add(offset_of!(Q4KGroup, d)));
        for h in 0..2 {
            let mut minimums = [_mm256_setzero_si256(); G];
            for pair in 0..4 {
                let words = load(w.add(pair * PAIR + offset_of!(Q4KPair, scales) + h * 32));
                let mins = _mm256_and_si256(words, _mm256_set1_epi16(0xFF));
                for (g, minimum) in minimums.iter_mut().enumerate() {
                    let x = broadcast(x.add(g * X + offset_of!(X256, sums) + pair * 4));
                    *minimum = D::add_pairs(*minimum, mins, x);
                }
            }
            let d = load_halves(w.add(offset_of!(Q4KGroup, d) + h * 16));
            let dmin = load_halves(w.add(offset_of!(Q4KGroup, dmin) + h * 16));
            for g in 0..G {
                let dx = broadcast_f32(x.add(g * X + offset_of!(X256, d)));
                let sum =
                    _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(products[g][h]), sums[g][h]);
                sums[g][h] = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(minimums[g]), sum);
            }
        }
    }
}

/// Adds sub-block `HIGH` of a pair: those in low or in high nibbles.
///
/// # Safety
/// As `q4_k_pass`.
#[inline(always)]
unsafe fn q4_k_sub_block<D: Dot, const G: usize, const HIGH: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    x: *const u8,
    pair: usize,
    products: &mut [[__m256i; 2]; G],
) {
    let sub = pair * 2 + HIGH;
    // SAFETY: the contract of `q4_k_pass`.
    unsafe {
        let nibbles = _mm256_set1_epi8(15);
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for i in 0..8 {
            let kept = kept.add(sub * 8 + i);
            let quad = if weights == Weights::Kept {
                kept.read()
            } else {
                let raw = w.add(pair * PAIR + i * 64);
                let mut raw = [load(raw), load(raw.add(32))];
                for raw in &mut raw {
                    let shifted = if HIGH == 1 { _mm256_srli_epi16::<4>(*raw) } else { *raw };
                    *raw = _mm256_and_si256(shifted, nibbles);
                }
                if weights == Weights::PackedToKeep {
                    kept.write(raw);
                }
                raw
            };
            add_quad::<D, G, X>(quad, x.add(sub * 32 + i * 4), &mut dots);
        }
        for h in 0..2 {
            let words = load(w.add(pair * PAIR + offset_of!(Q4KPair, scales) + h * 32));
            let scales = if HIGH == 1 {
                _mm256_srli_epi32::<24>(words)
            } else {
                _mm256_and_si256(_mm256_srli_epi32::<8>(words), _mm256_set1_epi32(0xFF))
            };
            let scales = D::scales(scales);
            for (products, dots) in products.iter_mut().zip(&dots) {
                products[h] = _mm256_add_epi32(products[h], D::scaled(dots[h], scales));
            }
        }
    }
}

/// Twin: `reference::k_quants::q6_k_tile`.
///
/// Per super-block of 16 rows (3,360 bytes) and token, in operations of 8 lanes: 128 products of four columns, 32 scales
/// and their additions, 6 of floats; for AVX2 30 to make the starts; and 352 for all tokens to unpack, before the passes
/// where there are two. With AVX2, 256 of about 400 at 8 tokens (64 %) are products. Measured on a Zen 4 core in cache at
/// 8 tokens: 198 Gop/s with AVX2 (54 % of the limit), 234 with `vpdpbusd` (50 %); bound by the number of instructions.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q6_k<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let mut starts = [[0; 16]; N];
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a super-block of weights and one of each token, and the
    // instructions are there.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 256 {
            let w = input.w.as_ptr().add(Q6KGroup::block_at(block));
            let d = input.w.as_ptr().add(Q6KGroup::scales_at(block));
            for (t, starts) in starts.iter_mut().enumerate() {
                D::starts_16(x.add(t * X), starts);
            }
            if N > 4 {
                q6_k_unpack(w, kept);
            }
            in_passes!(N, first, G => {
                let (x, starts, prefetch) = (x.add(first * X), &starts[first..], prefetch.if_first(first));
                let weights = if N > 4 { Weights::Kept } else { Weights::Packed };
                q6_k_pass::<D, G>(w, kept, weights, d, x, starts, prefetch, &mut sums[first..])
            });
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Adds a super-block to the sums of `G` tokens.
///
/// # Safety
/// `w` is a `Q6KGroup`, `kept` a `Kept` of it and `d` its 16 scales, `x` the first of `G` blocks; the instruction set
/// of `D`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a piece of the tile, with its variables")]
unsafe fn q6_k_pass<D: Dot, const G: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    d: *const u8,
    x: *const u8,
    starts: &[[i32; 16]],
    prefetch: Prefetch,
    sums: &mut [[__m256; 2]],
) {
    // SAFETY: all places are in the blocks and super-block of the contract.
    unsafe {
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for half_part in 0..4 {
            let (half, part) = (half_part / 2, half_part % 2);
            let ahead = w.wrapping_add(half_part * 832);
            prefetch.ahead::<7>(ahead);
            q6_k_sub_block::<D, G, 0>(w, kept, weights, x, starts, half, part, &mut products);
            q6_k_sub_block::<D, G, 1>(w, kept, weights, x, starts, half, part, &mut products);
            prefetch.ahead::<7>(ahead.wrapping_add(7 * 64));
            q6_k_sub_block::<D, G, 2>(w, kept, weights, x, starts, half, part, &mut products);
            q6_k_sub_block::<D, G, 3>(w, kept, weights, x, starts, half, part, &mut products);
        }
        for h in 0..2 {
            let d = load_halves(d.add(h * 16));
            for g in 0..G {
                let dx = broadcast_f32(x.add(g * X + offset_of!(X256, d)));
                let product = _mm256_cvtepi32_ps(products[g][h]);
                sums[g][h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), product, sums[g][h]);
            }
        }
    }
}

/// Adds sub-block `part` of the two in run `RUN` of 32 columns, of four in a half.
///
/// # Safety
/// As `q6_k_pass`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a piece of the pass, with its variables")]
unsafe fn q6_k_sub_block<D: Dot, const G: usize, const RUN: usize>(
    w: *const u8,
    kept: *mut [__m256i; 2],
    weights: Weights,
    x: *const u8,
    starts: &[[i32; 16]],
    half: usize,
    part: usize,
    products: &mut [[__m256i; 2]; G],
) {
    let sub = half * 8 + RUN * 2 + part;
    // SAFETY: the contract of `q6_k_pass`.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for (g, dots) in dots.iter_mut().enumerate() {
            *dots = [_mm256_set1_epi32(starts[g][sub]); 2];
        }
        for i in 0..4 {
            let quad = if weights == Weights::Kept {
                kept.add(sub * 4 + i).read()
            } else {
                q6_k_quad::<RUN>(w, half, part * 4 + i)
            };
            add_quad::<D, G, X>(quad, x.add(sub * 16 + i * 4), &mut dots);
        }
        for h in 0..2 {
            let scales = load_8(q6_k_part(w, half, part).add(offset_of!(Q6KPart, scales) + RUN * 16 + h * 8));
            let scales = D::scales(_mm256_cvtepi8_epi32(scales));
            for (products, dots) in products.iter_mut().zip(&dots) {
                products[h] = _mm256_add_epi32(products[h], D::scaled(dots[h], scales));
            }
        }
    }
}

/// Unpacks a super-block.
///
/// # Safety
/// `w` is a `Q6KGroup`, `kept` has room for its weights; AVX2.
#[inline(always)]
unsafe fn q6_k_unpack(w: *const u8, kept: *mut [__m256i; 2]) {
    for half in 0..2 {
        for i in 0..8 {
            // SAFETY: 64 quads in all.
            unsafe {
                let to = kept.add(half * 32 + i);
                to.write(q6_k_quad::<0>(w, half, i));
                to.add(8).write(q6_k_quad::<1>(w, half, i));
                to.add(16).write(q6_k_quad::<2>(w, half, i));
                to.add(24).write(q6_k_quad::<3>(w, half, i));
            }
        }
    }
}

/// Quad `i` of run `RUN` of 32 columns, of four in a half.
///
/// # Safety
/// `w` is a `Q6KGroup`; AVX2.
#[inline(always)]
unsafe fn q6_k_quad<const RUN: usize>(w: *const u8, half: usize, i: usize) -> [__m256i; 2] {
    // SAFETY: inside the part's quads.
    unsafe {
        let quads = q6_k_part(w, half, i / 4).add(offset_of!(Q6KPart, quads) + i % 4 * 192);
        [q6_k_weights::<RUN>(quads), q6_k_weights::<RUN>(quads.add(32))]
    }
}

/// Part `part` of half `half`.
///
/// # Safety
/// `w` is a `Q6KGroup`.
#[inline(always)]
unsafe fn q6_k_part(w: *const u8, half: usize, part: usize) -> *const u8 {
    // SAFETY: inside the group.
    unsafe { w.add((half * 2 + part) * size_of::<Q6KPart>()) }
}

/// Weights of run `RUN`: in the lower six bits of a register, or the upper two of three.
///
/// # Safety
/// `quads` are half of three registers; AVX2.
#[inline(always)]
unsafe fn q6_k_weights<const RUN: usize>(quads: *const u8) -> __m256i {
    // SAFETY: this function's contract.
    unsafe {
        if RUN < 3 {
            return _mm256_and_si256(load(quads.add(RUN * 64)), _mm256_set1_epi8(0x3F));
        }
        let top = _mm256_srli_epi16::<2>(load(quads));
        let mid = _mm256_srli_epi16::<4>(load(quads.add(64)));
        let low = _mm256_srli_epi16::<6>(load(quads.add(128)));
        let top = _mm256_and_si256(top, _mm256_set1_epi8(0x30));
        let mid = _mm256_and_si256(mid, _mm256_set1_epi8(0x0C));
        let low = _mm256_and_si256(low, _mm256_set1_epi8(0x03));
        _mm256_or_si256(_mm256_or_si256(top, mid), low)
    }
}

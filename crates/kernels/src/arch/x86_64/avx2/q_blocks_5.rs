//! Q5_0, Q5_1 and Q4_1, for AVX2 and AVX-VNNI: per block of 32 columns an exact sum, then one fused multiply-add per
//! token, or two for the types with minimums.
//!
//! Per block of 16 rows and token, in operations of 8 lanes: 16 products of four columns (with AVX2 two operations each,
//! and two more for each sum), 6 operations of floats, or 10; and for all tokens 24 to unpack Q4_1, 46 Q5_0 and Q5_1.
//! The number of instructions bounds them. Measured on a Zen 4 core in cache at 8 tokens:
//!
//! |      | bytes of 16 rows | AVX2, share of the limit | `vpdpbusd`      |
//! |------|------------------|--------------------------|-----------------|
//! | Q4_1 | 320 a block      | 169 Gop/s, 46 %          | 297 Gop/s, 64 % |
//! | Q5_0 | 352 a block      | 184 Gop/s, 50 %          | 312 Gop/s, 67 % |
//! | Q5_1 | 384 a block      | 177 Gop/s, 48 %          | 298 Gop/s, 64 % |

use std::arch::x86_64::*;
use std::mem::{MaybeUninit, offset_of};

use super::dot::Dot;
use super::{
    Prefetch, TileInput, TileOut, add_quad, broadcast, broadcast_f32, in_passes, load, load_halves, store,
};
use crate::activations::X32;
use crate::layout::{Paired, Q41Group, Q50Group, Q51Group};

const X: usize = size_of::<X32>();

/// A block's weights, a byte each: `[columns / 4][rows 0 to 7, 8 to 15]`.
pub(super) type Kept = MaybeUninit<[[__m256i; 2]; 8]>;

/// Twin: `reference::q_blocks_5::q5_0_tile`.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q5_0<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a block of weights with its scales and one of each token, and the
    // instructions are there.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Q50Group::block_at(block));
            prefetch.ahead::<6>(w);
            unpack_5_bits(w, kept);
            let d = load_16_halves(input.w.as_ptr().add(Q50Group::scales_at(block)));
            in_passes!(N, first, G => scaled_pass::<D, G, 16>(kept, d, x.add(first * X), &mut sums[first..]));
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Twin: `reference::q_blocks_5::q5_1_tile`.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q5_1<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: as in `q5_0`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for _ in 0..input.n_cols / 32 {
            prefetch.ahead::<6>(w);
            unpack_5_bits(w, kept);
            let d = load_16_halves(w.add(offset_of!(Q51Group, d)));
            let m = load_16_halves(w.add(offset_of!(Q51Group, m)));
            in_passes!(N, first, G => minimum_pass::<D, G, 4>(kept, d, m, x.add(first * X), &mut sums[first..]));
            w = w.wrapping_add(size_of::<Q51Group>());
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Twin: `reference::q_blocks_5::q4_1_tile`.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q4_1<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: as in `q5_0`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for _ in 0..input.n_cols / 32 {
            prefetch.ahead::<5>(w);
            for i in 0..4 {
                for h in 0..2 {
                    let raw = load(w.add(i * 64 + h * 32));
                    (*kept.add(i))[h] = _mm256_and_si256(raw, _mm256_set1_epi8(0x0F));
                    let high = _mm256_srli_epi16::<4>(raw);
                    (*kept.add(4 + i))[h] = _mm256_and_si256(high, _mm256_set1_epi8(0x0F));
                }
            }
            let d = load_16_halves(w.add(offset_of!(Q41Group, d)));
            let m = load_16_halves(w.add(offset_of!(Q41Group, m)));
            in_passes!(N, first, G => minimum_pass::<D, G, 8>(kept, d, m, x.add(first * X), &mut sums[first..]));
            w = w.wrapping_add(size_of::<Q41Group>());
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Unpacks a block.
///
/// # Safety
/// `w` is a `FiveBits`, `kept` has room for its weights; AVX2.
#[inline(always)]
unsafe fn unpack_5_bits(w: *const u8, kept: *mut [__m256i; 2]) {
    // SAFETY: this function's contract.
    unsafe {
        let mut pairs = [load(w), load(w.add(32))];
        for i in 0..4 {
            for (h, pairs) in pairs.iter_mut().enumerate() {
                let raw = load(w.add(64 + i * 64 + h * 32));
                (*kept.add(i))[h] = _mm256_and_si256(raw, _mm256_set1_epi8(0x1F));
                let upper_three = _mm256_and_si256(_mm256_srli_epi16::<3>(raw), _mm256_set1_epi8(0x1C));
                let lower_two = _mm256_and_si256(*pairs, _mm256_set1_epi8(3));
                (*kept.add(4 + i))[h] = _mm256_or_si256(upper_three, lower_two);
                *pairs = _mm256_srli_epi16::<2>(*pairs);
            }
        }
    }
}

/// 16 f16 as f32.
///
/// # Safety
/// `at` is readable for 32 bytes; F16C.
#[inline(always)]
unsafe fn load_16_halves(at: *const u8) -> [__m256; 2] {
    // SAFETY: this function's contract.
    unsafe { [load_halves(at), load_halves(at.add(16))] }
}

/// Adds a block to the sums of `G` tokens. Weights, up to 31, are raised by `RAISED`: 12 or 16.
///
/// # Safety
/// `kept` are the block's weights, `x` is the first of `G` blocks; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn scaled_pass<D: Dot, const G: usize, const RAISED: usize>(
    kept: *const [__m256i; 2],
    d: [__m256; 2],
    x: *const u8,
    sums: &mut [[__m256; 2]],
) {
    const { assert!(RAISED == 12 || RAISED == 16) };
    // SAFETY: all places are in the blocks of the contract.
    unsafe {
        let mut starts = [[_mm256_setzero_si256(); 2]; G];
        for (g, starts) in starts.iter_mut().enumerate() {
            let times_neg8 = broadcast(x.add(g * X + offset_of!(X32, times_neg8)));
            let more = if RAISED == 12 { _mm256_srai_epi32::<1>(times_neg8) } else { times_neg8 };
            *starts = [_mm256_add_epi32(times_neg8, more); 2];
        }
        let dots = dots::<D, G, 4>(kept, x, starts);
        for (g, dots) in dots.into_iter().enumerate() {
            let dx = broadcast_f32(x.add(g * X + offset_of!(X32, d)));
            for h in 0..2 {
                let dot = _mm256_cvtepi32_ps(dots[h]);
                sums[g][h] = _mm256_fmadd_ps(_mm256_mul_ps(d[h], dx), dot, sums[g][h]);
            }
        }
    }
}

/// Adds a block's products and minimums to the sums of `G` tokens, in the order of
/// `reference::q_blocks_5::with_minimum`. `QUADS` is for [`dots`].
///
/// # Safety
/// As `scaled_pass`.
#[inline(always)]
unsafe fn minimum_pass<D: Dot, const G: usize, const QUADS: usize>(
    kept: *const [__m256i; 2],
    d: [__m256; 2],
    m: [__m256; 2],
    x: *const u8,
    sums: &mut [[__m256; 2]],
) {
    // SAFETY: all places are in the blocks of the contract.
    unsafe {
        let dots = dots::<D, G, QUADS>(kept, x, [[_mm256_setzero_si256(); 2]; G]);
        for h in 0..2 {
            let m = _mm256_mul_ps(m[h], _mm256_set1_ps(-0.125));
            for (g, dots) in dots.iter().enumerate() {
                let times_neg8 = broadcast(x.add(g * X + offset_of!(X32, times_neg8)));
                let dx = broadcast_f32(x.add(g * X + offset_of!(X32, d)));
                let product = _mm256_mul_ps(d[h], _mm256_cvtepi32_ps(dots[h]));
                let minimum = _mm256_fmadd_ps(m, _mm256_cvtepi32_ps(times_neg8), product);
                sums[g][h] = _mm256_fmadd_ps(dx, minimum, sums[g][h]);
            }
        }
    }
}

/// `starts + sum(w * q)` for `G` tokens. `QUADS` registers at a time fit into a sum of [`Dot`]: 8 of weights up to 15, 4
/// of weights up to 31 (31 * 127 * 2 * 4 = 31,496). Where sums are `i32`, it is one chain all the same.
///
/// # Safety
/// As `scaled_pass`.
#[inline(always)]
unsafe fn dots<D: Dot, const G: usize, const QUADS: usize>(
    kept: *const [__m256i; 2],
    x: *const u8,
    starts: [[__m256i; 2]; G],
) -> [[__m256i; 2]; G] {
    let mut totals = starts;
    // SAFETY: all places are in the blocks of the contract.
    unsafe {
        for first in (0..8).step_by(QUADS) {
            let mut dots = totals;
            for dot in dots.as_flattened_mut() {
                *dot = D::start(*dot);
            }
            for i in first..first + QUADS {
                add_quad::<D, G, X>(kept.add(i).read(), x.add(i * 4), &mut dots);
            }
            for (total, dot) in totals.as_flattened_mut().iter_mut().zip(dots.as_flattened()) {
                *total = D::total(*dot, *total);
            }
        }
    }
    totals
}

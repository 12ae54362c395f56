//! Q8_0 and Q4_0, for AVX2 and AVX-VNNI: per block of 32 columns an exact sum, then one multiplication of scales and
//! one fused multiply-add per token.

use std::arch::x86_64::*;
use std::mem::{MaybeUninit, offset_of};

use super::dot::{Dot, add_16};
use super::{
    Prefetch, TileInput, TileOut, add_quad, broadcast, broadcast_f32, in_passes, load, load_halves, store,
};
use crate::activations::X32;
use crate::layout::{Paired, Q40Group, Q80Group};

const X: usize = size_of::<X32>();

/// Twin: `reference::q_blocks::q4_0_tile`.
///
/// Per block of 16 rows (288 bytes) and token, in operations of 8 lanes: 16 products of four columns (with AVX2 two
/// operations each, and two more at the end), 2 additions of offsets, 6 of floats; and 24 for all tokens to unpack.
/// Measured on a Zen 4 core in cache at 8 tokens: 222 Gop/s with AVX2 (61 % of the limit), 332 with `vpdpbusd` (71 %);
/// bound by the number of instructions.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn q4_0<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let mut kept = MaybeUninit::<[[__m256i; 2]; 8]>::uninit();
    let kept = kept.as_mut_ptr().cast::<__m256i>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a block of weights and one of each token, and the instructions are
    // there.
    unsafe {
        let nibbles = _mm256_set1_epi8(15);
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Q40Group::block_at(block));
            let d = input.w.as_ptr().add(Q40Group::scales_at(block));
            prefetch.ahead::<5>(w);
            for i in 0..8 {
                let raw = load(w.add(i * 32));
                kept.add(i).write(_mm256_and_si256(raw, nibbles));
                kept.add(8 + i).write(_mm256_and_si256(_mm256_srli_epi16::<4>(raw), nibbles));
            }
            in_passes!(N, first, G => block_pass::<D, G>(
                kept.cast(), d, x.add(first * X), offset_of!(X32, times_neg8), &mut sums[first..]
            ));
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Twin: `reference::q_blocks::q8_0_tile`, for `vpdpbusd`.
///
/// Per block of 16 rows (544 bytes) and token, in operations of 8 lanes: 16 products of four columns and 6 operations
/// of floats. Weights are multiplied as they are held. Measured on a Zen 4 core in cache at 8 tokens: 343 Gop/s, 74 % of
/// the limit; bound by the number of instructions.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`, whose sums hold 32 columns of weights up to 255.
#[inline(always)]
pub(super) unsafe fn q8_0<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    // SAFETY: as in `q4_0`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Q80Group::block_at(block));
            let d = input.w.as_ptr().add(Q80Group::scales_at(block));
            prefetch.ahead::<9>(w);
            in_passes!(N, first, G => block_pass::<D, G>(
                w, d, x.add(first * X), offset_of!(X32, times_neg128), &mut sums[first..]
            ));
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Adds a block to the sums of `G` tokens; an `X32` has at `offset` what the raised weights give too much.
///
/// # Safety
/// `quads` are the block's weights and `d` its 16 scales, `x` is the first of `G` blocks; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn block_pass<D: Dot, const G: usize>(
    quads: *const u8,
    d: *const u8,
    x: *const u8,
    offset: usize,
    sums: &mut [[__m256; 2]],
) {
    // SAFETY: all places are in the blocks of the contract.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for (g, dots) in dots.iter_mut().enumerate() {
            *dots = [D::start(broadcast(x.add(g * X + offset))); 2];
        }
        for i in 0..8 {
            let quad = [load(quads.add(i * 64)), load(quads.add(i * 64 + 32))];
            add_quad::<D, G, X>(quad, x.add(i * 4), &mut dots);
        }
        let d = [load_halves(d), load_halves(d.add(16))];
        for (g, dots) in dots.iter().enumerate() {
            let (offset, dx) =
                (broadcast(x.add(g * X + offset)), broadcast_f32(x.add(g * X + offset_of!(X32, d))));
            for h in 0..2 {
                let dot = _mm256_cvtepi32_ps(D::total(dots[h], offset));
                sums[g][h] = _mm256_fmadd_ps(_mm256_mul_ps(d[h], dx), dot, sums[g][h]);
            }
        }
    }
}

/// Twin: `reference::q_blocks::q8_0_tile`, for AVX2.
///
/// `vpmaddubsw` saturates for weights up to 255, so activations are split: `q = 16 * high + low` with `high` from -8 to
/// 7 and `low` from 0 to 15. Then 16 columns' products fit in 16 bits: those with `high` are between -255 * 8 * 16 =
/// -32,640 and 28,560, those with `low` between 0 and 61,200. The sums start at [`HIGH_START`] and [`LOW_START`], which
/// brings the second into range and cancels: a lane of 32 bits has two of each, and `16 * HIGH_START + LOW_START` is 0.
///
/// Per block of 16 rows (544 bytes) and token, in operations of 8 lanes: 32 products of four columns of two operations
/// each, which bound it, 8 to put them together, 6 of floats, 5 to split the activations. The other way, magnitudes
/// times activations with the weights' signs, needs as many, and four for every register of weights. Measured on a Zen 4
/// core in cache at 8 tokens: 125 Gop/s, 34 % of the limit (106 the other way, two tokens at a time).
///
/// # Safety
/// See `TileFn`; AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn q8_0_split<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut split = MaybeUninit::<[[__m256i; 2]; N]>::uninit();
    let to = split.as_mut_ptr().cast::<__m256i>();
    // SAFETY: as in `q4_0`.
    unsafe {
        let nibbles = _mm256_set1_epi8(15);
        let eight = _mm256_set1_epi8(8);
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Q80Group::block_at(block));
            let d = input.w.as_ptr().add(Q80Group::scales_at(block));
            prefetch.ahead::<9>(w);
            for t in 0..N {
                let q = load(x.add(t * X));
                to.add(2 * t).write(_mm256_and_si256(q, nibbles));
                // The sign of a nibble is its top bit.
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(q), nibbles);
                to.add(2 * t + 1).write(_mm256_sub_epi8(_mm256_xor_si256(high, eight), eight));
            }
            let mut first = 0;
            while first + 2 <= N {
                split_pass::<2>(w, d, x.add(first * X), to.add(2 * first).cast(), &mut sums[first..]);
                first += 2;
            }
            if first < N {
                split_pass::<1>(w, d, x.add(first * X), to.add(2 * first).cast(), &mut sums[first..]);
            }
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

const HIGH_START: i16 = 1920;
const LOW_START: i16 = -30_720;
const _: () = assert!(HIGH_START as i32 * 16 + LOW_START as i32 == 0);

/// Adds a block to the sums of `G` tokens: `split` has low and high nibbles of each in turn.
///
/// # Safety
/// `w` is a `Q80Group`, `d` its 16 scales, `x` and `split` are the first of `G` blocks; AVX2, FMA and F16C.
#[inline(always)]
unsafe fn split_pass<const G: usize>(
    w: *const u8,
    d: *const u8,
    x: *const u8,
    split: *const u8,
    sums: &mut [[__m256; 2]],
) {
    // SAFETY: all places are in the blocks of the contract.
    unsafe {
        let mut lows = [[_mm256_set1_epi16(LOW_START); 2]; G];
        let mut highs = [[_mm256_set1_epi16(HIGH_START); 2]; G];
        for i in 0..8 {
            let weights = [load(w.add(i * 64)), load(w.add(i * 64 + 32))];
            for g in 0..G {
                let low = broadcast(split.add(g * 64 + i * 4));
                let high = broadcast(split.add(g * 64 + 32 + i * 4));
                for h in 0..2 {
                    lows[g][h] = add_16(lows[g][h], _mm256_maddubs_epi16(weights[h], low));
                    highs[g][h] = add_16(highs[g][h], _mm256_maddubs_epi16(weights[h], high));
                }
            }
        }
        let d = [load_halves(d), load_halves(d.add(16))];
        for g in 0..G {
            let offset = broadcast(x.add(g * X + offset_of!(X32, times_neg128)));
            let dx = broadcast_f32(x.add(g * X + offset_of!(X32, d)));
            for h in 0..2 {
                let high = _mm256_madd_epi16(highs[g][h], _mm256_set1_epi16(16));
                let low = _mm256_madd_epi16(lows[g][h], _mm256_set1_epi16(1));
                let dot = _mm256_add_epi32(_mm256_add_epi32(high, low), offset);
                let dot = _mm256_cvtepi32_ps(dot);
                sums[g][h] = _mm256_fmadd_ps(_mm256_mul_ps(d[h], dx), dot, sums[g][h]);
            }
        }
    }
}

//! Q2_K and Q3_K. Their weights are so small that weight times scale is still an unsigned byte (3 * 15, and 7 * 32 as
//! `Q3KGroup` holds them): one `vpmullw` multiplies the four weights of 16 rows, no carry leaves a byte, and all 256
//! columns add up in one register by `vpdpbusd`. What minimums and offsets take off are 8 `vpdpwssd`.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X256;
use crate::layout::{Paired, Q2KGroup, Q3KGroup};

const X: usize = size_of::<X256>();

/// For so few tokens Q3_K's requests for weights are spread evenly between the instructions: memory then works on
/// while the core computes. For more tokens, and in Q2_K, registers would be spilled where the code branches.
const N_SPREAD: usize = 2;

/// Minus the sums of 16 activations each, two numbers of 16 bits in each of 32.
type NegativeSums = [i32; 8];

/// Per super-block 84 bytes and 512 operations a token for each output. Beside 64 `vpdpbusd` a token, unpacking takes 64
/// multiplications, 64 masks and 48 shifts for all tokens together: at 8 tokens in cache 64 % of a Zen 4 core's int8
/// limit are left. One token: 29 GB/s of the file on two cores that read 36.
///
/// Twin: `reference::k_quants_low::q2_k_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q2_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 256 {
        let mut dots = [[_mm512_setzero_si512(); N]; 2];
        for half in 0..2 {
            // 21 lines: 5 each time, and one more.
            let ahead = w.wrapping_add(half * 640);
            prefetch.ahead::<6>(ahead);
            // SAFETY: this super-block's weights and activations.
            unsafe { q2_k_part::<N, 0>(w, x, half, &mut dots) };
            prefetch.ahead::<6>(ahead.wrapping_add(320));
            // SAFETY: as above.
            unsafe { q2_k_part::<N, 1>(w, x, half, &mut dots) };
        }
        let dots = add_chains(dots);
        // SAFETY: `N` blocks of activations.
        let x_sums = unsafe { negative_sums::<N>(x) };
        let mut minimums = [_mm512_setzero_si512(); N];
        for pair in 0..8 {
            // SAFETY: a pair of scales and minimums of 16 rows.
            let both = unsafe { load_pair(w.add(offset_of!(Q2KGroup, scales) + pair * 32)) };
            let mins = _mm512_srli_epi16::<4>(_mm512_cvtepu8_epi16(both));
            add_pair(mins, pair, &x_sums, &mut minimums);
        }
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(w.add(offset_of!(Q2KGroup, d))) };
        // SAFETY: as above.
        let dmin = unsafe { load_halves(w.add(offset_of!(Q2KGroup, dmin))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dots[t]), sums[t]);
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(dmin, dx), _mm512_cvtepi32_ps(minimums[t]), sums[t]);
        }
        w = w.wrapping_add(size_of::<Q2KGroup>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// The four sub-blocks of a half that are part `PART` of their runs of 32 columns: they share the registers.
///
/// # Safety
/// `w` is a `Q2KGroup`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q2_k_part<const N: usize, const PART: usize>(
    w: *const u8,
    x: *const u8,
    half: usize,
    dots: &mut [[__m512i; N]; 2],
) {
    let mut scales = [_mm512_setzero_si512(); 4];
    for (run, scales) in scales.iter_mut().enumerate() {
        // SAFETY: a pair of scales and minimums of 16 rows.
        let both = unsafe { load_pair(w.add(offset_of!(Q2KGroup, scales) + (half * 4 + run) * 32)) };
        let both = _mm512_and_si512(_mm512_cvtepu8_epi16(both), _mm512_set1_epi16(15));
        *scales = one_of_pair::<PART>(both);
    }
    for i in 0..4 {
        // SAFETY: inside the quads.
        let raw = unsafe { load(w.add((half * 8 + PART * 4 + i) * 64)) };
        let raw =
            [raw, _mm512_srli_epi16::<2>(raw), _mm512_srli_epi16::<4>(raw), _mm512_srli_epi16::<6>(raw)];
        for run in 0..4 {
            let weights = _mm512_and_si512(raw[run], _mm512_set1_epi8(3));
            let x = x.wrapping_add(half * 128 + run * 32 + PART * 16 + i * 4);
            // SAFETY: four columns of `N` tokens.
            unsafe { add_quad(_mm512_mullo_epi16(weights, scales[run]), x, run, dots) };
        }
    }
}

/// Per super-block 114 bytes (110 in the file) and 512 operations a token for each output. Beside 64 `vpdpbusd` a token,
/// unpacking takes 64 multiplications and about 170 logical instructions and shifts for all tokens together: at 8 tokens
/// in cache 62 % of a Zen 4 core's int8 limit are left. One token: 27 GB/s of the file on two cores that read 37, bound
/// by unpacking as much as by memory.
///
/// Twin: `reference::k_quants_low::q3_k_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q3_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Q3KGroup::block_at(block));
        let mut dots = [[_mm512_setzero_si512(); N]; 2];
        for half in 0..2 {
            // 28 lines, and one of scales for two blocks.
            let ahead = w.wrapping_add(half * 896);
            // SAFETY: this super-block's weights and activations.
            unsafe {
                q3_k_part::<N, 0>(w, x, half, &mut dots, prefetch, ahead);
                q3_k_part::<N, 1>(w, x, half, &mut dots, prefetch, ahead.wrapping_add(448));
            }
        }
        let mut dots = add_chains(dots);
        // SAFETY: `N` blocks of activations.
        let x_sums = unsafe { negative_sums::<N>(x) };
        for pair in 0..8 {
            // SAFETY: a pair of scales of 16 rows.
            let scales = unsafe { load_pair(w.add(offset_of!(Q3KGroup, scales) + pair * 32)) };
            let scales = _mm512_cvtepi8_epi16(scales);
            // 4 times a positive scale, 3 times the magnitude of a negative one.
            let offsets = _mm512_max_epi16(
                _mm512_slli_epi16::<2>(scales),
                _mm512_mullo_epi16(scales, _mm512_set1_epi16(-3)),
            );
            add_pair(offsets, pair, &x_sums, &mut dots);
        }
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(input.w.as_ptr().add(Q3KGroup::scales_at(block))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dots[t]), sums[t]);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// The four sub-blocks of a half that are part `PART` of their runs of 32 columns: they share the registers.
///
/// # Safety
/// `w` is a `Q3KGroup`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn q3_k_part<const N: usize, const PART: usize>(
    w: *const u8,
    x: *const u8,
    half: usize,
    dots: &mut [[__m512i; N]; 2],
    prefetch: Prefetch,
    ahead: *const u8,
) {
    if N > N_SPREAD {
        prefetch.ahead::<8>(ahead);
    }
    let mut scales = [_mm512_setzero_si512(); 4];
    for (run, scales) in scales.iter_mut().enumerate() {
        // SAFETY: a pair of scales of 16 rows.
        let pair = unsafe { load_pair(w.add(offset_of!(Q3KGroup, scales) + (half * 4 + run) * 32)) };
        *scales = one_of_pair::<PART>(_mm512_abs_epi16(_mm512_cvtepi8_epi16(pair)));
    }
    let low = w.wrapping_add(offset_of!(Q3KGroup, low) + (half * 8 + PART * 4) * 64);
    let high = w.wrapping_add(offset_of!(Q3KGroup, high) + (half * 4 + PART * 2) * 64);
    for i in 0..4 {
        // SAFETY: inside the low and high bits.
        let (low, high) = unsafe { (load(low.add(i * 64)), load(high.add(i / 2 * 64))) };
        let high = if i % 2 == 0 { high } else { _mm512_slli_epi16::<2>(high) };
        // Weights of three bits in the lower and upper half of each byte, under a bit of another: runs 0 and 2, then
        // runs 1 and 3.
        let even = merge(low, high);
        let odd = merge(_mm512_srli_epi16::<2>(low), _mm512_srli_epi16::<1>(high));
        let raw = [even, odd, _mm512_srli_epi16::<4>(even), _mm512_srli_epi16::<4>(odd)];
        if N <= N_SPREAD {
            prefetch.ahead::<2>(ahead.wrapping_add(i * 128));
        }
        for run in 0..4 {
            let weights = _mm512_and_si512(raw[run], _mm512_set1_epi8(7));
            let x = x.wrapping_add(half * 128 + run * 32 + PART * 16 + i * 4);
            // SAFETY: four columns of `N` tokens.
            unsafe { add_quad(_mm512_mullo_epi16(weights, scales[run]), x, run, dots) };
        }
    }
}

/// Bits 0, 1, 4, 5 of each byte of `low`, the others of `high`.
#[inline]
#[target_feature(enable = "avx512f")]
fn merge(low: __m512i, high: __m512i) -> __m512i {
    const SELECT: i32 = 0xCA;
    _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x33), low, high)
}

/// A pair of bytes of each row.
///
/// # Safety
/// `at` is readable for 32 bytes.
#[inline(always)]
unsafe fn load_pair(at: *const u8) -> __m256i {
    // SAFETY: this function's contract.
    unsafe { at.cast::<__m256i>().read_unaligned() }
}

/// The first or second number of each row's pair, in both places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn one_of_pair<const PART: usize>(pairs: __m512i) -> __m512i {
    let first = _mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
    let index = _mm_add_epi8(first, _mm_set1_epi8(2 * PART as i8));
    _mm512_shuffle_epi8(pairs, _mm512_broadcast_i32x4(index))
}

/// Adds the products of a register of weights, times their scales, with the activations at `x`. For few tokens odd
/// runs have a chain of their own.
///
/// # Safety
/// `x` is inside q of the first of `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_quad<const N: usize>(weights: __m512i, x: *const u8, run: usize, dots: &mut [[__m512i; N]; 2]) {
    let dots = &mut dots[if N <= N_TWO_CHAINS { run % 2 } else { 0 }];
    for (t, dot) in dots.iter_mut().enumerate() {
        // SAFETY: inside q of token t.
        *dot = _mm512_dpbusd_epi32(*dot, weights, unsafe { broadcast(x.add(t * X)) });
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_chains<const N: usize>([mut dots, odd]: [[__m512i; N]; 2]) -> [__m512i; N] {
    if N <= N_TWO_CHAINS {
        for (dot, odd) in dots.iter_mut().zip(odd) {
            *dot = _mm512_add_epi32(*dot, odd);
        }
    }
    dots
}

/// Minus the sums of 16 of each token: the sums times -32, shifted back. They fit in 16 bits.
///
/// # Safety
/// `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn negative_sums<const N: usize>(x: *const u8) -> [NegativeSums; N] {
    let mut sums = [[0; 8]; N];
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: 64 bytes of sums of token t.
        let times_neg32 = unsafe { load(x.add(t * X + offset_of!(X256, times_neg32))) };
        let narrow = _mm512_cvtepi32_epi16(_mm512_srai_epi32::<5>(times_neg32));
        // SAFETY: the sums are 32 bytes long.
        unsafe { sums.as_mut_ptr().cast::<__m256i>().write_unaligned(narrow) };
    }
    sums
}

/// Adds a pair of numbers of each row times a pair of each token's sums.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_pair<const N: usize>(
    numbers: __m512i,
    pair: usize,
    x_sums: &[NegativeSums; N],
    totals: &mut [__m512i; N],
) {
    for (total, sums) in totals.iter_mut().zip(x_sums) {
        *total = _mm512_dpwssd_epi32(*total, numbers, _mm512_set1_epi32(sums[pair]));
    }
}

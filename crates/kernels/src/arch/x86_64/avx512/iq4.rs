//! IQ4_NL and MXFP4: a shuffle turns nibbles into values raised by 128, the rest is as for Q4_0. IQ4_XS: the same per
//! sub-block of 32, one multiplication by the scales, one addition; what 128 adds is taken off per super-block.
//!
//! Bytes per block of 16 rows: 288 (IQ4_NL), 272 (MXFP4); per super-block 2,208 (IQ4_XS). For 64 products a register
//! costs one shuffle, one or two shifts and masks, and one `vpdpbusd` per token. Measured on one core of a Zen 4: 8 tokens
//! in cache reach 71 %, 70 % and 74 % of the int8 limit; 1 token 46, 41 and 42 GB/s of the file, more than memory gives.
//! Two cores read MXFP4 from memory with 31 of 35 GB/s, IQ4_XS with 26.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::{X32, X256};
use crate::layout::{IQ4_VALUES, Iq4NlGroup, Iq4XsGroup, MXFP4_VALUES, Mxfp4Group, Nibbles, Paired};

/// Twin: `reference::iq4::iq4_nl_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn iq4_nl_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let values = raised(&IQ4_VALUES);
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Iq4NlGroup::block_at(block));
        // 4 or 5 lines a block.
        prefetch.ahead::<5>(w);
        // SAFETY: the 16 scales of this block, its weights and activations.
        unsafe {
            let d = load_halves(input.w.as_ptr().add(Iq4NlGroup::scales_at(block)));
            add_block(w, x, values, d, &mut sums);
        }
        x = x.wrapping_add(N * size_of::<X32>());
    }
    store(sums, out);
}

/// Twin: `reference::iq4::mxfp4_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn mxfp4_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let values = raised(&MXFP4_VALUES);
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Mxfp4Group::block_at(block));
        // 17 lines in four blocks.
        prefetch.ahead::<5>(w);
        // SAFETY: the 16 exponents of this block, its weights and activations.
        unsafe {
            let at = input.w.as_ptr().add(Mxfp4Group::exponents_at(block));
            let d = half_powers(_mm512_cvtepu8_epi32(at.cast::<__m128i>().read_unaligned()));
            add_block(w, x, values, d, &mut sums);
        }
        x = x.wrapping_add(N * size_of::<X32>());
    }
    store(sums, out);
}

/// Twin: `reference::iq4::iq4_xs_tile`.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn iq4_xs_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    const X: usize = size_of::<X256>();
    let values = raised(&IQ4_VALUES);
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Iq4XsGroup::block_at(block));
        let mut products = [_mm512_setzero_si512(); N];
        // What 128 adds to the weights: scales times sums of activations.
        let mut raises = [_mm512_setzero_si512(); N];
        for pair in 0..4 {
            // 34 or 35 lines in 4 times 9.
            prefetch.ahead::<5>(w.wrapping_add(pair * 576));
            // SAFETY: 32 scales of this super-block.
            let scales = unsafe {
                w.add(offset_of!(Iq4XsGroup, scales) + pair * 32).cast::<__m256i>().read_unaligned()
            };
            let scales = _mm512_cvtepi8_epi16(scales);
            for (t, raise) in raises.iter_mut().enumerate() {
                // SAFETY: two of the sums of token t.
                let x = unsafe { broadcast(x.add(t * X + offset_of!(X256, sums) + pair * 4)) };
                *raise = _mm512_dpwssd_epi32(*raise, scales, x);
            }
            let first_scales = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(scales));
            let second_scales = _mm512_srai_epi32::<16>(scales);
            let at = w.wrapping_add(pair * 2 * size_of::<Nibbles>());
            let x = x.wrapping_add(pair * 64);
            // SAFETY: this pair's weights and activations.
            unsafe {
                let zeros = [_mm512_setzero_si512(); N];
                add_scaled(dots::<N, X>(at, x, values, zeros), first_scales, &mut products);
                prefetch.ahead::<4>(w.wrapping_add(pair * 576 + 320));
                let at = at.add(size_of::<Nibbles>());
                add_scaled(dots::<N, X>(at, x.add(32), values, zeros), second_scales, &mut products);
            }
        }
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(input.w.as_ptr().add(Iq4XsGroup::scales_at(block))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            let product = _mm512_sub_epi32(products[t], _mm512_slli_epi32::<7>(raises[t]));
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(product), sums[t]);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// The 16 values plus 128, for shuffles in every quarter of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn raised(values: &[i8; 16]) -> __m512i {
    let values = i128::from_le_bytes(values.map(|v| v as u8 ^ 0x80));
    // SAFETY: both are 16 bytes in which every bit pattern is a value.
    _mm512_broadcast_i32x4(unsafe { std::mem::transmute::<i128, __m128i>(values) })
}

/// `2^(e - 128)` of 16 exponents: see `layout::half_power`.
#[inline]
#[target_feature(enable = "avx512f")]
fn half_powers(e: __m512i) -> __m512 {
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    let denormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
    let is_denormal = _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2));
    _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_denormal, denormal))
}

/// Adds a block of 32 columns with scales `d`.
///
/// # Safety
/// `w` is a `Nibbles`, `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_block<const N: usize>(
    w: *const u8,
    x: *const u8,
    values: __m512i,
    d: __m512,
    sums: &mut [__m512; N],
) {
    const X: usize = size_of::<X32>();
    let mut starts = [_mm512_setzero_si512(); N];
    for (t, start) in starts.iter_mut().enumerate() {
        // SAFETY: the sum of token t of this block.
        *start = unsafe { broadcast(x.add(t * X + offset_of!(X32, times_neg128))) };
    }
    // SAFETY: this function's contract.
    let dots = unsafe { dots::<N, X>(w, x, values, starts) };
    for t in 0..N {
        // SAFETY: the scale of token t.
        let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X32, d))) };
        sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dots[t]), sums[t]);
    }
}

/// Adds the products of 32 columns to `dots`. The activations of a token are `X` bytes after those of the last.
///
/// # Safety
/// `w` is a `Nibbles`, `x` is where `q` of `N` tokens starts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dots<const N: usize, const X: usize>(
    w: *const u8,
    x: *const u8,
    values: __m512i,
    mut dots: [__m512i; N],
) -> [__m512i; N] {
    let nibbles = _mm512_set1_epi8(15);
    let mut high_dots = [_mm512_setzero_si512(); N];
    for i in 0..4 {
        // SAFETY: inside the quads.
        let raw = unsafe { load(w.add(i * 64)) };
        let low = _mm512_shuffle_epi8(values, _mm512_and_si512(raw, nibbles));
        let high = _mm512_shuffle_epi8(values, _mm512_and_si512(_mm512_srli_epi16::<4>(raw), nibbles));
        for t in 0..N {
            let x = x.wrapping_add(t * X + i * 4);
            // SAFETY: inside q of token t.
            let (x_low, x_high) = unsafe { (broadcast(x), broadcast(x.add(16))) };
            dots[t] = _mm512_dpbusd_epi32(dots[t], low, x_low);
            let high_dots = if N <= N_TWO_CHAINS { &mut high_dots } else { &mut dots };
            high_dots[t] = _mm512_dpbusd_epi32(high_dots[t], high, x_high);
        }
    }
    if N <= N_TWO_CHAINS {
        for (dot, high) in dots.iter_mut().zip(high_dots) {
            *dot = _mm512_add_epi32(*dot, high);
        }
    }
    dots
}

/// Adds a sub-block's sums times its scales.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_scaled<const N: usize>(dots: [__m512i; N], scales: __m512i, products: &mut [__m512i; N]) {
    for (product, dot) in products.iter_mut().zip(dots) {
        *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(dot, scales));
    }
}

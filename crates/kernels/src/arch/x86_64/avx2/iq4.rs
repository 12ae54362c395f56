//! IQ4_NL, IQ4_XS and MXFP4: a shuffle turns nibbles into values, whose signs go over to the activations. Two products
//! stay in 16 bits (127 * 127 * 2); for MXFP4 those of a block do (12 * 127 * 2 * 8).
//!
//! Per 32 weights and token: `vpsignb`, `vpmaddubsw`, `vpmaddwd` (not for MXFP4) and an addition, which bound it.
//! Measured on one core of a Zen 4, in cache: 8 tokens reach 27 to 29 % of the int8 limit of AVX2; 1 token 23
//! (IQ4_NL), 21 (IQ4_XS) and 20 (MXFP4) GB/s of the file.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{
    Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_16, load_halves, store, tile_in_passes,
};
use crate::activations::{X32, X256};
use crate::layout::{IQ4_VALUES, Iq4NlGroup, Iq4XsGroup, MXFP4_VALUES, Mxfp4Group, Nibbles, Paired};

tile_in_passes!(
    /// Twin: `reference::iq4::iq4_nl_tile`.
    iq4_nl_tile,
    iq4_nl_pass,
    four: false
);
tile_in_passes!(
    /// Twin: `reference::iq4::mxfp4_tile`.
    mxfp4_tile,
    mxfp4_pass,
    four: false
);
tile_in_passes!(
    /// Twin: `reference::iq4::iq4_xs_tile`.
    iq4_xs_tile,
    iq4_xs_pass,
    four: false
);

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4_nl_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    const X: usize = size_of::<X32>();
    let values = table(&IQ4_VALUES);
    let ones = _mm256_set1_epi16(1);
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Iq4NlGroup::block_at(block));
        prefetch.ahead::<5>(w);
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        // SAFETY: this block's weights and activations, and its scales.
        unsafe {
            add_products::<G, X>(w, x, values, ones, &mut dots);
            for h in 0..2 {
                let d = load_halves(input.w.as_ptr().add(Iq4NlGroup::scales_at(block) + h * 16));
                add_scaled::<G, X>(d, x.add(offset_of!(X32, d)), h, &dots, &mut sums);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, first, out);
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn mxfp4_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    const X: usize = size_of::<X32>();
    let values = table(&MXFP4_VALUES);
    let ones = _mm256_set1_epi16(1);
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for block in 0..input.n_cols / 32 {
        let w = input.w.as_ptr().wrapping_add(Mxfp4Group::block_at(block));
        prefetch.ahead::<5>(w);
        let mut dots = [[_mm256_setzero_si256(); 2]; G];
        for i in 0..8 {
            for h in 0..2 {
                // SAFETY: inside this block's quads.
                let signed = unsafe { weights(w, i, h, values) };
                let magnitude = _mm256_abs_epi8(signed);
                for (g, dots) in dots.iter_mut().enumerate() {
                    // SAFETY: inside this block's q of the token.
                    let x = unsafe { broadcast(x.add(g * X + i * 4)) };
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, signed));
                    dots[h] = _mm256_add_epi16(dots[h], pairs);
                }
            }
        }
        for h in 0..2 {
            for dots in &mut dots {
                dots[h] = _mm256_madd_epi16(dots[h], ones);
            }
            // SAFETY: 8 of the 16 exponents of this block, and the scales of the tokens.
            unsafe {
                let at = input.w.as_ptr().add(Mxfp4Group::exponents_at(block));
                let exponents = _mm_loadl_epi64(at.add(h * 8).cast());
                let d = half_powers(_mm256_cvtepu8_epi32(exponents));
                add_scaled::<G, X>(d, x.add(offset_of!(X32, d)), h, &dots, &mut sums);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, first, out);
}

/// # Safety
/// See `TileFn`; the tile has tokens `first..first + G`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4_xs_pass<const N: usize, const G: usize>(input: TileInput<'_>, first: usize, out: &mut TileOut) {
    const X: usize = size_of::<X256>();
    let values = table(&IQ4_VALUES);
    let mut x = input.x.as_ptr().wrapping_add(first * X);
    let prefetch = Prefetch::new(&input);
    let mut sums = [[_mm256_setzero_ps(); 2]; G];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Iq4XsGroup::block_at(block));
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for sub in 0..8 {
            prefetch.ahead::<5>(w.wrapping_add(sub * 288));
            let mut dots = [[_mm256_setzero_si256(); 2]; G];
            // SAFETY: this sub-block's weights and activations.
            unsafe {
                let w = w.add(sub * size_of::<Nibbles>());
                add_products::<G, X>(w, x.add(sub * 32), values, _mm256_set1_epi16(1), &mut dots);
            }
            for h in 0..2 {
                let at = offset_of!(Iq4XsGroup, scales) + sub / 2 * 32 + h * 16;
                // SAFETY: 8 rows' scales of a pair of sub-blocks.
                let pairs = _mm256_cvtepi8_epi16(unsafe { load_16(w.add(at)) });
                let scales = if sub % 2 == 0 { _mm256_slli_epi32::<16>(pairs) } else { pairs };
                let scales = _mm256_srai_epi32::<16>(scales);
                for (products, dots) in products.iter_mut().zip(&dots) {
                    products[h] = _mm256_add_epi32(products[h], _mm256_mullo_epi32(dots[h], scales));
                }
            }
        }
        for h in 0..2 {
            // SAFETY: 8 of the 16 scales of this super-block, and the scales of the tokens.
            unsafe {
                let d = load_halves(input.w.as_ptr().add(Iq4XsGroup::scales_at(block) + h * 16));
                add_scaled::<G, X>(d, x.add(offset_of!(X256, d)), h, &products, &mut sums);
            }
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, first, out);
}

/// The 16 values for shuffles in both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn table(values: &[i8; 16]) -> __m256i {
    // SAFETY: 16 readable bytes.
    _mm256_broadcastsi128_si256(unsafe { load_16(values.as_ptr().cast()) })
}

/// Columns `4 * i..` of rows `8 * h..`.
///
/// # Safety
/// `w` is a `Nibbles`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn weights(w: *const u8, i: usize, h: usize, values: __m256i) -> __m256i {
    // SAFETY: this function's contract.
    let raw = unsafe { load(w.add(i % 4 * 64 + h * 32)) };
    let raw = if i >= 4 { _mm256_srli_epi16::<4>(raw) } else { raw };
    _mm256_shuffle_epi8(values, _mm256_and_si256(raw, _mm256_set1_epi8(15)))
}

/// Adds the products of 32 columns.
///
/// # Safety
/// `w` is a `Nibbles`, `x` is where `q` of the first of `G` tokens starts, `X` bytes apart.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_products<const G: usize, const X: usize>(
    w: *const u8,
    x: *const u8,
    values: __m256i,
    ones: __m256i,
    dots: &mut [[__m256i; 2]; G],
) {
    for i in 0..8 {
        for h in 0..2 {
            // SAFETY: inside the quads.
            let signed = unsafe { weights(w, i, h, values) };
            let magnitude = _mm256_abs_epi8(signed);
            for (g, dots) in dots.iter_mut().enumerate() {
                // SAFETY: inside q of the token.
                let x = unsafe { broadcast(x.add(g * X + i * 4)) };
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, signed));
                dots[h] = _mm256_add_epi32(dots[h], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

/// Adds the integers of rows `8 * h..` times their scales.
///
/// # Safety
/// `dx` is where the scale of the first of `G` tokens lies, `X` bytes apart.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_scaled<const G: usize, const X: usize>(
    d: __m256,
    dx: *const u8,
    h: usize,
    integers: &[[__m256i; 2]; G],
    sums: &mut [[__m256; 2]; G],
) {
    for (g, (sums, integers)) in sums.iter_mut().zip(integers).enumerate() {
        // SAFETY: the scale of the token.
        let dx = unsafe { broadcast_f32(dx.add(g * X)) };
        sums[h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(integers[h]), sums[h]);
    }
}

/// `2^(e - 128)` of 8 exponents: see `layout::half_power`.
#[inline]
#[target_feature(enable = "avx2")]
fn half_powers(e: __m256i) -> __m256 {
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
    let denormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
    let is_denormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    _mm256_castsi256_ps(_mm256_blendv_epi8(normal, denormal, is_denormal))
}

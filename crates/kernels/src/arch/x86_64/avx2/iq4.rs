//! IQ4_NL, IQ4_XS and MXFP4: a shuffle turns nibbles into values.
//!
//! MXFP4's values are small: raised by 12, they are multiplied as the weights of Q5_0. Those of the other two are raised
//! by 128 where there is `vpdpbusd`; in AVX2, where products of such weights do not fit in 16 bits, their signs go over to
//! the activations: 127 * 127 * 2 fits.
//!
//! Per 32 weights and token in AVX2: `vpsignb`, `vpmaddubsw`, `vpmaddwd` and an addition, which bound IQ4_NL and IQ4_XS
//! (for MXFP4 `vpmaddubsw` and an addition); with `vpdpbusd` one operation. Two or three more look 32 weights up: with
//! `vpdpbusd` and for MXFP4 once for all tokens, otherwise, with one for magnitudes, for every two. Measured on a Zen 4
//! core in cache at 8 tokens:
//!
//! |        | bytes of 16 rows    | AVX2, share of the limit | `vpdpbusd`                        |
//! |--------|---------------------|--------------------------|-----------------------------------|
//! | IQ4_NL | 288 a block         | 99 Gop/s, 27 %           | 301 Gop/s, 65 %                   |
//! | IQ4_XS | 2,208 a super-block | 107 Gop/s, 29 %          | 213 Gop/s, 46 % (at 4 tokens 239) |
//! | MXFP4  | 272 a block         | 174 Gop/s, 48 %          | 283 Gop/s, 61 %                   |
//!
//! The number of instructions bounds them.

use std::arch::x86_64::*;
use std::mem::{MaybeUninit, offset_of};

use super::dot::Dot;
use super::q_blocks::block_pass;
use super::q_blocks_5::{Kept, scaled_pass};
use super::{
    Prefetch, TileInput, TileOut, add_quad, broadcast, broadcast_f32, in_passes, load, load_16, load_halves,
    store, tile_in_passes,
};
use crate::activations::{X32, X256};
use crate::layout::{
    IQ4_VALUES, Iq4NlGroup, Iq4XsGroup, Iq4XsHalf, MXFP4_VALUES, Mxfp4Group, Nibbles, Paired,
};

tile_in_passes!(
    /// Twin: `reference::iq4::iq4_nl_tile`.
    iq4_nl_tile,
    iq4_nl_pass,
    four: false
);
tile_in_passes!(
    /// Twin: `reference::iq4::iq4_xs_tile`.
    iq4_xs_tile,
    iq4_xs_pass,
    four: false
);

/// Twin: `reference::iq4::mxfp4_tile`.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`.
#[inline(always)]
pub(super) unsafe fn mxfp4<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    const X: usize = size_of::<X32>();
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a block of weights with its exponents and one of each token, and
    // the instructions are there.
    unsafe {
        let table = raised(&MXFP4_VALUES, 12);
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Mxfp4Group::block_at(block));
            prefetch.ahead::<5>(w);
            unpack(w, table, kept);
            let exponents = load_16(input.w.as_ptr().add(Mxfp4Group::exponents_at(block)));
            let d = [
                half_powers(_mm256_cvtepu8_epi32(exponents)),
                half_powers(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(exponents, exponents))),
            ];
            in_passes!(N, first, G => scaled_pass::<D, G, 12>(kept, d, x.add(first * X), &mut sums[first..]));
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Twin: `reference::iq4::iq4_nl_tile`, for `vpdpbusd`.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`, whose sums hold 32 columns of weights up to 255.
#[inline(always)]
pub(super) unsafe fn iq4_nl<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    const X: usize = size_of::<X32>();
    let mut x = input.x.as_ptr();
    let mut kept = Kept::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: as in `mxfp4`, with scales.
    unsafe {
        let table = raised(&IQ4_VALUES, 128);
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Iq4NlGroup::block_at(block));
            let d = input.w.as_ptr().add(Iq4NlGroup::scales_at(block));
            prefetch.ahead::<5>(w);
            unpack(w, table, kept);
            in_passes!(N, first, G => block_pass::<D, G>(
                kept.cast(), d, x.add(first * X), offset_of!(X32, times_neg128), &mut sums[first..]
            ));
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Twin: `reference::iq4::iq4_xs_tile`, for `vpdpbusd`.
///
/// # Safety
/// See `TileFn`; the instruction set of `D`, whose sums hold 32 columns of weights up to 255.
#[inline(always)]
pub(super) unsafe fn iq4_xs<D: Dot, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    const X: usize = size_of::<X256>();
    let mut x = input.x.as_ptr();
    let mut kept = MaybeUninit::<[[__m256i; 2]; 64]>::uninit();
    let kept = kept.as_mut_ptr().cast::<[__m256i; 2]>();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a super-block of weights with its scales and one of each token, and
    // the instructions are there.
    unsafe {
        let table = raised(&IQ4_VALUES, 128);
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for block in 0..input.n_cols / 256 {
            let w = input.w.as_ptr().add(Iq4XsGroup::block_at(block));
            let d = input.w.as_ptr().add(Iq4XsGroup::scales_at(block));
            for sub in 0..8 {
                prefetch.ahead::<5>(w.add(sub * 288));
                unpack(w.add(nibbles_at(sub)), table, kept.add(sub * 8));
            }
            in_passes!(N, first, G => xs_pass::<D, G>(w, kept, d, x.add(first * X), &mut sums[first..]));
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Adds a super-block to the sums of `G` tokens.
///
/// # Safety
/// `w` is an `Iq4XsGroup`, `kept` are its weights raised by 128 and `d` its 16 scales, `x` is the first of `G` blocks; the
/// instruction set of `D`.
#[inline(always)]
unsafe fn xs_pass<D: Dot, const G: usize>(
    w: *const u8,
    kept: *const [__m256i; 2],
    d: *const u8,
    x: *const u8,
    sums: &mut [[__m256; 2]],
) {
    const X: usize = size_of::<X256>();
    // SAFETY: all places are in the blocks and super-block of the contract.
    unsafe {
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        for sub in 0..8 {
            let mut dots = [[_mm256_setzero_si256(); 2]; G];
            for i in 0..8 {
                add_quad::<D, G, X>(kept.add(sub * 8 + i).read(), x.add(sub * 32 + i * 4), &mut dots);
            }
            for h in 0..2 {
                let scales = D::scales(sub_scales(w, sub, h));
                for (products, dots) in products.iter_mut().zip(&dots) {
                    products[h] = _mm256_add_epi32(products[h], D::scaled(dots[h], scales));
                }
            }
        }
        for h in 0..2 {
            // What 128 adds to the weights: scales times sums of activations.
            let mut raises = [_mm256_setzero_si256(); G];
            for pair in 0..4 {
                let scales = _mm256_cvtepi8_epi16(load_16(w.add(scales_at(pair) + h * 16)));
                for (g, raise) in raises.iter_mut().enumerate() {
                    let x = broadcast(x.add(g * X + offset_of!(X256, sums) + pair * 4));
                    *raise = D::add_pairs(*raise, scales, x);
                }
            }
            let d = load_halves(d.add(h * 16));
            for g in 0..G {
                let dx = broadcast_f32(x.add(g * X + offset_of!(X256, d)));
                let product = _mm256_sub_epi32(products[g][h], _mm256_slli_epi32::<7>(raises[g]));
                sums[g][h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(product), sums[g][h]);
            }
        }
    }
}

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
                let w = w.add(nibbles_at(sub));
                add_products::<G, X>(w, x.add(sub * 32), values, _mm256_set1_epi16(1), &mut dots);
            }
            for h in 0..2 {
                // SAFETY: this super-block has 8 sub-blocks.
                let scales = unsafe { sub_scales(w, sub, h) };
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

/// Where the weights of a sub-block are in an `Iq4XsGroup`.
fn nibbles_at(sub: usize) -> usize {
    sub / 4 * size_of::<Iq4XsHalf>() + offset_of!(Iq4XsHalf, nibbles) + sub % 4 * size_of::<Nibbles>()
}

/// Where the scales of a pair of sub-blocks are in an `Iq4XsGroup`.
fn scales_at(pair: usize) -> usize {
    pair / 2 * size_of::<Iq4XsHalf>() + offset_of!(Iq4XsHalf, scales) + pair % 2 * 32
}

/// The scales of rows `8 * h..` in a sub-block.
///
/// # Safety
/// `w` is an `Iq4XsGroup`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sub_scales(w: *const u8, sub: usize, h: usize) -> __m256i {
    // SAFETY: 8 rows' scales of a pair of sub-blocks.
    let pairs = _mm256_cvtepi8_epi16(unsafe { load_16(w.add(scales_at(sub / 2) + h * 16)) });
    _mm256_srai_epi32::<16>(if sub.is_multiple_of(2) { _mm256_slli_epi32::<16>(pairs) } else { pairs })
}

/// Unpacks 32 columns.
///
/// # Safety
/// `w` is a `Nibbles`, `kept` has room for its weights; AVX2.
#[inline(always)]
unsafe fn unpack(w: *const u8, table: __m256i, kept: *mut [__m256i; 2]) {
    for i in 0..8 {
        // SAFETY: this function's contract.
        unsafe { kept.add(i).write([weights(w, i, 0, table), weights(w, i, 1, table)]) };
    }
}

/// The 16 values plus `by`, as [`table`] has them.
#[inline]
#[target_feature(enable = "avx2")]
fn raised(values: &[i8; 16], by: u8) -> __m256i {
    _mm256_add_epi8(table(values), _mm256_set1_epi8(by as i8))
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

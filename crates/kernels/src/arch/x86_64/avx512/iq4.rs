//! IQ4_NL and MXFP4: a table look-up turns nibbles into values raised by 128, the rest is as for Q4_0. IQ4_XS: the same
//! per sub-block of 32, one multiplication by the scales, one addition; what 128 adds is taken off per super-block.
//!
//! Bytes per block of 16 rows: 288 (IQ4_NL), 272 (MXFP4); per super-block 2,208 (IQ4_XS). For 128 weights a register
//! costs two look-ups and a shift (and two masks without VBMI), and two `vpdpbusd` per token.
//!
//! Measured on a Zen 4 core (VBMI) in cache, shares of the int8 limit for 1, 2, 4, 8 and 512 tokens: IQ4_NL 41, 61, 73,
//! 74, 72 %; IQ4_XS 40, 59, 72, 73, 70; MXFP4 39, 58, 70, 71, 65. From memory, 0.52 GB of IQ4_XS take two threads 17 ms
//! for a token. Bound by look-ups for few tokens, by the floats or scales of each block for many.

use std::arch::x86_64::*;
use std::mem::offset_of;

use ingle_gguf::TensorType;

use super::blocks_32::{Sums, X, add_scaled, starts};
use super::{Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::{X32, X256};
use crate::layout::{
    IQ4_VALUES, Iq4NlGroup, Iq4XsGroup, Iq4XsHalf, MXFP4_VALUES, Mxfp4Group, Nibbles, Paired,
};
use crate::tile::{TileFn, by_tokens};

/// The kernels of a type.
pub(super) fn kernels(ty: TensorType) -> [TileFn; 8] {
    if is_x86_feature_detected!("avx512vbmi") { permute::kernels(ty) } else { shuffle::kernels(ty) }
}

macro_rules! lookup {
    ($(#[$doc:meta])* $name:ident, $lookup:ident, $features:literal) => {
        $(#[$doc])*
        mod $name {
            use super::*;

            pub(super) fn kernels(ty: TensorType) -> [TileFn; 8] {
                match ty {
                    TensorType::IQ4_NL => by_tokens!(iq4_nl_tile),
                    TensorType::IQ4_XS => by_tokens!(iq4_xs_tile),
                    _ => by_tokens!(mxfp4_tile),
                }
            }

            lookup!($features, iq4_nl_tile: iq4_nl[$lookup], iq4_xs_tile: iq4_xs[$lookup], mxfp4_tile: mxfp4[$lookup]);
        }
    };
    ($features:literal, $($tile:ident: $source:ident[$lookup:ident]),+) => {
        $(
            /// # Safety
            /// See `TileFn`.
            #[target_feature(enable = $features)]
            unsafe fn $tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
                // SAFETY: this function's contract, and the instruction set that it enables.
                unsafe { $source::<$lookup, N>(input, out) }
            }
        )+
    };
}

lookup!(
    /// Processors with VBMI.
    permute,
    Permute,
    "avx512f,avx512bw,avx512vnni,avx512vbmi"
);
lookup!(
    /// Processors without it.
    shuffle,
    Shuffle,
    "avx512f,avx512bw,avx512vnni"
);

/// How nibbles find their values in a table, which each quarter of a register has.
///
/// # Safety
/// Every function needs the instruction set of its implementor.
trait Lookup {
    /// The values of low nibbles.
    unsafe fn low(table: __m512i, raw: __m512i) -> __m512i;

    /// The values of high nibbles.
    unsafe fn high(table: __m512i, raw: __m512i) -> __m512i;
}

/// `vpermb` looks at six bits of an index: as the table is there four times, the upper two may be anything.
struct Permute;

impl Lookup for Permute {
    #[inline(always)]
    unsafe fn low(table: __m512i, raw: __m512i) -> __m512i {
        // SAFETY: the caller has VBMI, here and below.
        unsafe { _mm512_permutexvar_epi8(raw, table) }
    }

    #[inline(always)]
    unsafe fn high(table: __m512i, raw: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(raw), table) }
    }
}

/// `vpshufb` gives zeros where the top bit of an index is set, so that indices are masked.
struct Shuffle;

impl Lookup for Shuffle {
    #[inline(always)]
    unsafe fn low(table: __m512i, raw: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512 BW, here and below.
        unsafe { _mm512_shuffle_epi8(table, _mm512_and_si512(raw, _mm512_set1_epi8(15))) }
    }

    #[inline(always)]
    unsafe fn high(table: __m512i, raw: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { Self::low(table, _mm512_srli_epi16::<4>(raw)) }
    }
}

/// Twin: `reference::iq4::iq4_nl_tile`.
///
/// # Safety
/// See `TileFn`; the instruction set of `L`.
#[inline(always)]
unsafe fn iq4_nl<L: Lookup, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a block of weights with its scales, and one of each token.
    unsafe {
        let table = table(&IQ4_VALUES);
        let mut sums = [_mm512_setzero_ps(); N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Iq4NlGroup::block_at(block));
            let scales = input.w.as_ptr().add(Iq4NlGroup::scales_at(block));
            // 4 or 5 lines a block.
            prefetch.ahead::<5>(w);
            let starts = starts(x, offset_of!(X32, times_neg128));
            let dots = dots::<L, N, X>(w, x, table, starts);
            add_scaled(load_halves(scales), dots, x, &mut sums);
            x = x.wrapping_add(N * X);
        }
        store(sums, out);
    }
}

/// Twin: `reference::iq4::mxfp4_tile`.
///
/// # Safety
/// See `TileFn`; the instruction set of `L`.
#[inline(always)]
unsafe fn mxfp4<L: Lookup, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a block of weights with its exponents, and one of each token.
    unsafe {
        let table = table(&MXFP4_VALUES);
        let mut sums = [_mm512_setzero_ps(); N];
        for block in 0..input.n_cols / 32 {
            let w = input.w.as_ptr().add(Mxfp4Group::block_at(block));
            let exponents = input.w.as_ptr().add(Mxfp4Group::exponents_at(block));
            // 17 lines in four blocks.
            prefetch.ahead::<5>(w);
            let starts = starts(x, offset_of!(X32, times_neg128));
            let dots = dots::<L, N, X>(w, x, table, starts);
            let d = half_powers(_mm512_cvtepu8_epi32(exponents.cast::<__m128i>().read_unaligned()));
            add_scaled(d, dots, x, &mut sums);
            x = x.wrapping_add(N * X);
        }
        store(sums, out);
    }
}

/// Twin: `reference::iq4::iq4_xs_tile`.
///
/// # Safety
/// See `TileFn`; the instruction set of `L`.
#[inline(always)]
unsafe fn iq4_xs<L: Lookup, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    const X: usize = size_of::<X256>();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    // SAFETY: this function's contract: each turn has a super-block of weights with its scales, and one of each token.
    unsafe {
        let table = table(&IQ4_VALUES);
        let zeros = [_mm512_setzero_si512(); N];
        let mut sums = [_mm512_setzero_ps(); N];
        for block in 0..input.n_cols / 256 {
            let w = input.w.as_ptr().add(Iq4XsGroup::block_at(block));
            let d = input.w.as_ptr().add(Iq4XsGroup::scales_at(block));
            let mut products = zeros;
            // What 128 adds to the weights: scales times sums of activations.
            let mut raises = zeros;
            for pair in 0..4 {
                let half = w.add(pair / 2 * size_of::<Iq4XsHalf>());
                let scales = half.add(offset_of!(Iq4XsHalf, scales) + pair % 2 * 32);
                // 34 or 35 lines in 4 times 9: the last may be the scales of the next two blocks.
                let ahead = w.wrapping_add(pair * 576);
                prefetch.ahead::<5>(ahead);
                let scales = _mm512_cvtepi8_epi16(scales.cast::<__m256i>().read_unaligned());
                for (t, raise) in raises.iter_mut().enumerate() {
                    let x = broadcast(x.add(t * X + offset_of!(X256, sums) + pair * 4));
                    *raise = _mm512_dpwssd_epi32(*raise, scales, x);
                }
                let first_scales = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(scales));
                let second_scales = _mm512_srai_epi32::<16>(scales);
                let w = half.add(offset_of!(Iq4XsHalf, nibbles) + pair % 2 * 2 * size_of::<Nibbles>());
                let x = x.add(pair * 64);
                let first = dots::<L, N, X>(w, x, table, zeros);
                add_products(first, first_scales, &mut products);
                prefetch.ahead::<4>(ahead.wrapping_add(5 * 64));
                let w = w.add(size_of::<Nibbles>());
                let second = dots::<L, N, X>(w, x.add(32), table, zeros);
                add_products(second, second_scales, &mut products);
            }
            let d = load_halves(d);
            for t in 0..N {
                let dx = broadcast_f32(x.add(t * X + offset_of!(X256, d)));
                let product = _mm512_sub_epi32(products[t], _mm512_slli_epi32::<7>(raises[t]));
                sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(product), sums[t]);
            }
            x = x.wrapping_add(N * X);
        }
        store(sums, out);
    }
}

/// The 16 values plus 128, in every quarter of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn table(values: &[i8; 16]) -> __m512i {
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

/// `starts` and the products of 32 columns. The activations of a token are `X` bytes after those of the last.
///
/// # Safety
/// `w` is a `Nibbles`, `x` is where `q` of `N` tokens starts; the instruction set of `L`.
#[inline(always)]
unsafe fn dots<L: Lookup, const N: usize, const X: usize>(
    w: *const u8,
    x: *const u8,
    table: __m512i,
    starts: [__m512i; N],
) -> [__m512i; N] {
    // SAFETY: this function's contract: four registers of weights, 32 columns of each token.
    unsafe {
        let mut sums = Sums::new(starts);
        for i in 0..4 {
            let raw = load(w.add(i * 64));
            sums.add::<0, X>(L::low(table, raw), L::high(table, raw), x.add(i * 4));
        }
        sums.total::<0>()
    }
}

/// Adds a sub-block's sums times its scales.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_products<const N: usize>(dots: [__m512i; N], scales: __m512i, products: &mut [__m512i; N]) {
    for (product, dot) in products.iter_mut().zip(dots) {
        *product = _mm512_add_epi32(*product, _mm512_mullo_epi32(dot, scales));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activations::TILE;
    use crate::layout::{FORMATS, ROWS};
    use crate::memory::AlignedBytes;

    /// Both ways to look values up give the same sums: processors that have the one never run the other.
    #[test]
    fn look_ups_agree() {
        if !crate::Isa::Avx512.is_available() || !is_x86_feature_detected!("avx512vbmi") {
            return;
        }
        for ty in [TensorType::IQ4_NL, TensorType::IQ4_XS, TensorType::MXFP4] {
            let format = FORMATS.iter().find(|format| format.ty == ty).expect("a type with kernels");
            let n_cols = 768;
            let mut state = 1u32;
            let mut random = |n: usize| -> Vec<u8> {
                std::iter::repeat_with(|| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8 & 0x3F
                })
                .take(n)
                .collect()
            };
            let row_bytes = n_cols / ty.block_len() * ty.block_bytes();
            let mut w = AlignedBytes::zeroed((format.group_bytes)(n_cols));
            (format.pack)(&random(ROWS * row_bytes), row_bytes, &mut w);
            for n in 1..=TILE {
                let x = random(n * format.act_kind.row_bytes(n_cols));
                let run = |kernels: [TileFn; 8]| {
                    let mut out: TileOut = [[0.0; ROWS]; TILE];
                    let input = TileInput { w: &w, x: &x, n_cols, next: None };
                    // SAFETY: a group and a tile of `n` tokens; the instructions are there.
                    unsafe { kernels[n - 1](input, &mut out) };
                    out.map(|row| row.map(f32::to_bits))
                };
                assert_eq!(run(permute::kernels(ty)), run(shuffle::kernels(ty)), "{ty}, {n} tokens");
            }
        }
    }
}

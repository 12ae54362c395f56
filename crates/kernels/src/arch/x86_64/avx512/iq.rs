//! The IQ types with codebooks, for machines with VBMI. Weights are looked up in registers, as bytes raised by 64, for 32
//! columns at a time; then every token is multiplied with them: 8 `vpdpbusd`, and per sub-block one multiplication by the
//! scales and one addition.
//!
//! Shuffles bound it: a register of 64 weights needs `L` of them to be looked up, two more to become bytes (one for
//! IQ3), and the load of a mask of signs (not for IQ1): each of them takes a cycle on Zen 4, as does a `vpdpbusd` in
//! another unit. Measured on one such core, weights in cache, super-blocks of 16 rows:
//!
//! |         | bytes | `L` | share of the int8 limit for 1, 2, 4, 8 and 512 tokens |
//! |---------|-------|-----|-------------------------------------------------------|
//! | IQ2_XXS | 1,120 | 0.5 | 19, 31, 40, 51, 52 %                                  |
//! | IQ2_XS  | 1,248 | 1   | 17, 28, 37, 48, 46 %                                  |
//! | IQ2_S   | 1,312 | 2   | 14, 23, 33, 45, 44 %                                  |
//! | IQ3_XXS | 1,632 | 1   | 21, 34, 41, 45, 49 %                                  |
//! | IQ3_S   | 1,760 | 2   | 17, 28, 40, 47, 45 %                                  |
//! | IQ1_S   |   800 | 4   | 10, 18, 29, 40, 33 %                                  |
//! | IQ1_M   |   928 | 4   | 11, 18, 28, 40, 36 %                                  |
//!
//! Two cores decode a model of 1B parameters from memory at 19 (IQ2_XXS), 17 (IQ2_S), 22 (IQ3_S) and 7.5 GB/s of the
//! file (IQ1_S), where a plain reader gets 35. A `vpgatherdd` would take 17 cycles for 16 rows, 8.5 per register of
//! weights: more than any of these look-ups.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::offset_of;

use super::iq_lookup::Lookup;
use super::{N_TWO_CHAINS, Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X256;
use crate::layout::Quads;

const X: usize = size_of::<X256>();

/// The kernels of a type.
pub(crate) struct Grids<G>(PhantomData<G>);

impl<G: Lookup> Grids<G> {
    /// Twin: `reference::iq::GridTwin::tile`.
    ///
    /// # Safety
    /// See `TileFn`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
    pub(crate) unsafe fn tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
        let mut x = input.x.as_ptr();
        let prefetch = Prefetch::new(&input);
        let mut transposed = [[0; 256]; N];
        let mut sums = [_mm512_setzero_ps(); N];
        for b in 0..input.n_cols / 256 {
            let (block, scales) = G::read(input.w, b);
            prefetch.ahead::<1>(scales.as_ptr().cast());
            // SAFETY: the activations of this super-block; where they are transposed, the copy.
            let products: [__m512i; N] = unsafe {
                if G::TRANSPOSED {
                    transpose(x, &mut transposed);
                    products_of_32::<G, N, 256>(block, prefetch, transposed.as_ptr().cast(), x)
                } else if G::N_SUBS == 8 {
                    products_of_32::<G, N, X>(block, prefetch, x, x)
                } else {
                    products_of_16(block, prefetch, x)
                }
            };
            // SAFETY: 16 scales.
            let d = unsafe { load_halves(scales.as_ptr().cast()) };
            let d = _mm512_mul_ps(d, _mm512_set1_ps(G::FACTOR));
            for t in 0..N {
                // SAFETY: the scale of token t.
                let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
                sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(products[t]), sums[t]);
            }
            x = x.wrapping_add(N * X);
        }
        store(sums, out);
    }
}

/// The activations of each 16 columns in the order 0, 4, 8, 12, 1, 5, ..., 15.
///
/// # Safety
/// `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose<const N: usize>(x: *const u8, to: &mut [[u8; 256]; N]) {
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for (t, to) in to.iter_mut().enumerate() {
        for (i, to) in to.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            // SAFETY: 64 bytes of q of token t, and as many of the copy.
            unsafe {
                let q = load(x.add(t * X + offset_of!(X256, q) + i * 64));
                to.as_mut_ptr().cast::<__m512i>().write_unaligned(_mm512_shuffle_epi8(q, order));
            }
        }
    }
}

/// Per row the sum of scales times sums of weights times activations; a scale per 32 columns. The activations of a
/// token are `Q` bytes after those of the last.
///
/// # Safety
/// The machine has VBMI; `q` is where the activations of `N` tokens start, in the order of the weights; `x` are their
/// blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
unsafe fn products_of_32<G: Lookup, const N: usize, const Q: usize>(
    block: &G,
    prefetch: Prefetch,
    q: *const u8,
    x: *const u8,
) -> [__m512i; N] {
    let mut nibbles = nibbles(&block.scales()[0]);
    let mut products = [_mm512_setzero_si512(); N];
    // What raising adds to the weights: scales times sums of activations.
    let mut raises = [_mm512_setzero_si512(); N];
    for pair in 0..4 {
        prefetch_part(prefetch, block, pair);
        let scales = [next_scale(&mut nibbles, G::SCALE_BITS), next_scale(&mut nibbles, G::SCALE_BITS)];
        let both = _mm512_or_si512(scales[0], _mm512_slli_epi32::<16>(scales[1]));
        for (t, raise) in raises.iter_mut().enumerate() {
            // SAFETY: two of the sums of token t.
            let sums = unsafe { broadcast(x.add(t * X + offset_of!(X256, sums) + pair * 4)) };
            *raise = _mm512_dpwssd_epi32(*raise, both, sums);
        }
        // SAFETY: this machine has the instructions; the activations of two sub-blocks.
        unsafe {
            let codes = block.codes(pair);
            for (i, codes) in codes.into_iter().enumerate() {
                let sub = pair * 2 + i;
                let weights = block.weights(sub, codes);
                let zeros = [_mm512_setzero_si512(); N];
                add_products::<N, Q, 8>(&weights, q.add(sub * 32), zeros, scales[i], &mut products);
            }
        }
    }
    for (product, raise) in products.iter_mut().zip(raises) {
        *product = _mm512_sub_epi32(*product, _mm512_slli_epi32::<6>(raise));
    }
    products
}

/// The same; a scale per 16 columns.
///
/// # Safety
/// The machine has VBMI; `x` are `N` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
unsafe fn products_of_16<G: Lookup, const N: usize>(
    block: &G,
    prefetch: Prefetch,
    x: *const u8,
) -> [__m512i; N] {
    let mut products = [_mm512_setzero_si512(); N];
    let mut lines = [nibbles(&block.scales()[0]), nibbles(&block.scales()[1])];
    for pair in 0..4 {
        prefetch_part(prefetch, block, pair);
        // SAFETY: this machine has the instructions.
        let codes = unsafe { block.codes(pair) };
        for (i, codes) in codes.into_iter().enumerate() {
            // SAFETY: as above.
            let weights = unsafe { block.weights(pair * 2 + i, codes) };
            for (j, weights) in weights.as_chunks::<4>().0.iter().enumerate() {
                let sub = pair * 4 + i * 2 + j;
                let scale = next_scale(&mut lines[pair / 2], G::SCALE_BITS);
                let mut starts = [_mm512_setzero_si512(); N];
                for (t, start) in starts.iter_mut().enumerate() {
                    // SAFETY: a sum of 16 of token t.
                    let sum = unsafe { broadcast(x.add(t * X + offset_of!(X256, times_neg32) + sub * 4)) };
                    *start = _mm512_add_epi32(sum, sum);
                }
                // SAFETY: this sub-block's activations.
                unsafe { add_products::<N, X, 4>(weights, x.add(sub * 16), starts, scale, &mut products) };
            }
        }
    }
    products
}

/// Asks for the `pair`-th of four parts of the block that lies ahead of `block`.
#[inline(always)]
fn prefetch_part<G>(prefetch: Prefetch, block: &G, pair: usize) {
    const { assert!(size_of::<G>() <= 4 * 7 * 64) };
    let part = std::ptr::from_ref(block).cast::<u8>().wrapping_add((pair * size_of::<G>() / 4) & !63);
    match size_of::<G>().div_ceil(4 * 64) {
        ..=3 => prefetch.ahead::<3>(part),
        4 => prefetch.ahead::<4>(part),
        5 => prefetch.ahead::<5>(part),
        _ => prefetch.ahead::<7>(part),
    }
}

/// Scales of eight sub-blocks, ready for [`next_scale`].
#[inline]
#[target_feature(enable = "avx512f")]
fn nibbles(scales: &Quads) -> __m512i {
    // SAFETY: 64 bytes.
    _mm512_rol_epi32::<1>(unsafe { load(scales.as_ptr().cast()) })
}

/// Twice the lowest scale, plus 1.
#[inline]
#[target_feature(enable = "avx512f")]
fn next_scale(nibbles: &mut __m512i, bits: u8) -> __m512i {
    let mask = _mm512_set1_epi32(i32::from(bits) << 1);
    // (nibbles & mask) | 1
    let scale = _mm512_ternarylogic_epi32::<0xEA>(*nibbles, mask, _mm512_set1_epi32(1));
    *nibbles = _mm512_ror_epi32::<4>(*nibbles);
    scale
}

/// Adds a sub-block of `QUADS` registers: `scale * (start + sum(weight * activation))`.
///
/// # Safety
/// `q` is where the sub-block's activations of `N` tokens start, `Q` bytes apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_products<const N: usize, const Q: usize, const QUADS: usize>(
    weights: &[__m512i; QUADS],
    q: *const u8,
    mut dots: [__m512i; N],
    scale: __m512i,
    products: &mut [__m512i; N],
) {
    let mut odd_dots = [_mm512_setzero_si512(); N];
    for (i, &weights) in weights.iter().enumerate() {
        let dots = if N <= N_TWO_CHAINS && i % 2 == 1 { &mut odd_dots } else { &mut dots };
        for (t, dot) in dots.iter_mut().enumerate() {
            // SAFETY: inside the sub-block's activations of token t.
            *dot = _mm512_dpbusd_epi32(*dot, weights, unsafe { broadcast(q.add(t * Q + i * 4)) });
        }
    }
    for t in 0..N {
        let dot = if N <= N_TWO_CHAINS { _mm512_add_epi32(dots[t], odd_dots[t]) } else { dots[t] };
        products[t] = _mm512_add_epi32(products[t], _mm512_mullo_epi32(dot, scale));
    }
}

//! The IQ types with codebooks: a super-block's weights, of eight rows, are laid out as bytes raised by 64 in a buffer of
//! 2 KB; then every token is multiplied with that. Two products stay in 16 bits (126 * 127 * 2), and `vpmaddwd` applies
//! the scale: per 32 weights and token `vpmaddubsw`, `vpmaddwd` and an addition.
//!
//! Gathers bound it for few tokens. Measured on one core of a Zen 4, in cache: 1 token takes 383 (IQ2_XXS) to 438 ns
//! (IQ2_S) per super-block of 16 rows, 458 (IQ3_XXS) and 518 ns (IQ3_S), 396 (IQ1_S) and 427 ns (IQ1_M); 8 tokens reach
//! 20 to 23 % of the int8 limit of AVX2.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::offset_of;

use super::iq_lookup::Lookup;
use super::{Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X256;

const X: usize = size_of::<X256>();

/// The kernels of a type.
pub(crate) struct Grids<G>(PhantomData<G>);

impl<G: Lookup> Grids<G> {
    /// Twin: `reference::iq::GridTwin::tile`.
    ///
    /// # Safety
    /// See `TileFn`.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(crate) unsafe fn tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
        let mut x = input.x.as_ptr();
        let prefetch = Prefetch::new(&input);
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for b in 0..input.n_cols / 256 {
            let (block, scales) = G::read(input.w, b);
            prefetch.ahead::<1>(scales.as_ptr().cast());
            let at = std::ptr::from_ref(block).cast::<u8>();
            for h in 0..2 {
                let mut weights = [[_mm256_setzero_si256(); 8]; 8];
                for (part, weights) in weights.iter_mut().enumerate() {
                    // 12 to 27 lines in 16 times 2.
                    prefetch.ahead::<2>(at.wrapping_add(((h * 8 + part) * size_of::<G>() / 16) & !63));
                    // SAFETY: this machine has the instructions.
                    *weights = unsafe { block.weights(part, h) };
                }
                // SAFETY: 8 of the 16 scales.
                let d = unsafe { load_halves(scales.as_ptr().add(h * 8).cast()) };
                let d = _mm256_mul_ps(d, _mm256_set1_ps(G::FACTOR));
                let mut t = 0;
                while t < N {
                    let x = x.wrapping_add(t * X);
                    // SAFETY: the activations of the next one or two tokens.
                    unsafe {
                        if t + 2 <= N {
                            add_tokens::<G, 2>(block, &weights, h, x, d, &mut sums[t..]);
                        } else {
                            add_tokens::<G, 1>(block, &weights, h, x, d, &mut sums[t..]);
                        }
                    }
                    t += 2;
                }
            }
            x = x.wrapping_add(N * X);
        }
        store(sums, 0, out);
    }
}

/// Adds the products of a super-block's rows `8 * h..` with `T` tokens.
///
/// # Safety
/// `x` are `T` blocks.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_tokens<G: Lookup, const T: usize>(
    block: &G,
    weights: &[[__m256i; 8]; 8],
    h: usize,
    x: *const u8,
    d: __m256,
    sums: &mut [[__m256; 2]],
) {
    let mut products = [_mm256_setzero_si256(); T];
    for i in 0..16 {
        let sub = i * G::N_SUBS / 16;
        // SAFETY: 8 rows of the nibbles of eight sub-blocks.
        let nibbles = unsafe { load(block.scales()[sub / 8][h * 8..].as_ptr().cast()) };
        let nibbles = _mm256_srl_epi32(nibbles, _mm_cvtsi32_si128(4 * (sub % 8) as i32));
        let codes = _mm256_and_si256(nibbles, _mm256_set1_epi32(i32::from(G::SCALE_BITS)));
        let scales = _mm256_add_epi32(_mm256_add_epi32(codes, codes), _mm256_set1_epi32(1));
        let twice = _mm256_or_si256(_mm256_slli_epi32::<16>(scales), scales);
        for (t, product) in products.iter_mut().enumerate() {
            // SAFETY: a sum of 16 of token t.
            let sum = unsafe { broadcast(x.add(t * X + offset_of!(X256, times_neg32) + i * 4)) };
            let raise = _mm256_mullo_epi32(_mm256_add_epi32(sum, sum), scales);
            *product = _mm256_add_epi32(*product, raise);
        }
        for (k, &weights) in weights.as_flattened()[i * 4..i * 4 + 4].iter().enumerate() {
            for (t, product) in products.iter_mut().enumerate() {
                // SAFETY: inside q of token t.
                let x = unsafe { broadcast(x.add(t * X + i * 16 + k * 4)) };
                let pairs = _mm256_maddubs_epi16(weights, x);
                *product = _mm256_add_epi32(*product, _mm256_madd_epi16(pairs, twice));
            }
        }
    }
    for (t, (product, sums)) in products.into_iter().zip(sums).enumerate() {
        // SAFETY: the scale of token t.
        let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
        sums[h] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(product), sums[h]);
    }
}

//! BF16 without its instruction: two fused multiply-adds per pair of columns, the odd column first, with denormals as
//! zeros as `vdpbf16ps` has them.
//!
//! Flushing every sum would take more instructions than multiplying. It is only done where a denormal can occur: if
//! every product is a multiple of 2^-126, then so is every sum, for rounding keeps a multiple or gives one of a larger
//! power of two; and a multiple of 2^-126 is zero or at least 2^-126, the smallest normal number. A bf16 with the
//! exponent bits `e` (1 or more) is a multiple of 2^(e - 134), so the smallest exponents of weights and of
//! activations that are not zero tell: their sum must be 142 or more.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{Prefetch, TileInput, TileOut, broadcast, broadcast_f32, in_passes, load, store_rows};
use crate::tile::WideKernel;

/// Pairs of columns that are done together: their widened activations are in the first cache.
const CHUNK: usize = 64;

/// The sum of exponent bits from which on products are multiples of 2^-126.
const EXPONENTS_MIN: u32 = 142;

/// Twin: `reference::floats::bf16_tile`.
///
/// Per pair of columns, 16 rows (64 bytes) and token: 4 fused multiply-adds, which bound it; 4 operations for all tokens
/// of a pass to widen the weights, and 6 to look at their exponents. Activations are widened once for all rows.
/// Measured on a Zen 4 core in cache at 8 tokens: 77 Gop/s, 65 % of the limit of F32 (26 with every sum flushed).
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn bf16_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    // SAFETY: this function's contract.
    unsafe { bf16::<1, N>(input, out) }
}

/// One token alone would wait for the latency of two operations, which follow each other, per pair of columns.
pub(super) const WIDE: &[WideKernel] = &[WideKernel { n_groups: 2, run: bf16::<2, 1> }];

/// The same for `R` groups of rows.
///
/// # Safety
/// See `TileFn`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bf16<const R: usize, const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let n_pairs = input.n_cols.div_ceil(2);
    let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
    let prefetch = Prefetch::new(&input);
    let mut sums = [[[_mm256_setzero_ps(); 2]; R]; N];
    let mut space = MaybeUninit::<Widened<N>>::uninit();
    let widened = space.as_mut_ptr().cast::<f32>();
    let mut least_w = _mm256_set1_epi16(-1);
    let mut least_x = least_w;
    let mut all_normal = true;
    let group_bytes = n_pairs * 64;
    for start in (0..n_pairs).step_by(CHUNK) {
        let n = CHUNK.min(n_pairs - start);
        // SAFETY: `n` pairs from `start` on are in each group and the tile, and as many have room.
        unsafe {
            let (w, x) = (w.add(start * 64), x.add(start * N * 4));
            if all_normal {
                let before = sums;
                least_x = widen_all::<N>(x, n, widened, least_x);
                in_passes!(N, first, G => {
                    let to = &mut sums[first..];
                    least_w = pass::<R, N, G>(w, group_bytes, widened.add(first), n, prefetch.if_first(first), least_w, to)
                });
                let (e_w, e_x) = (least_exponent(least_w), least_exponent(least_x));
                all_normal = e_w > 0 && e_x > 0 && e_w + e_x >= EXPONENTS_MIN;
                if all_normal {
                    continue;
                }
                sums = before;
            }
            flushing_pass::<R, N>(w, group_bytes, x, n, &mut sums);
        }
    }
    store_rows(sums.as_flattened(), 0, out);
}

/// The activations of a chunk: even columns of all pairs and tokens, then odd ones.
type Widened<const N: usize> = [[[f32; N]; CHUNK]; 2];

/// Widens the activations of `n` pairs; returns the least of their exponents and `least`.
///
/// # Safety
/// `x` are `n` pairs of `N` tokens, `n` at most `CHUNK`; `to` has room for a `Widened`; AVX2.
#[inline(always)]
unsafe fn widen_all<const N: usize>(x: *const u8, n: usize, to: *mut f32, least: __m256i) -> __m256i {
    let mut least = least;
    let n_words = n * N;
    // SAFETY: registers of 8 words, the last of which is filled up from and in places on the stack: `n_words` rounded up
    // to 8 is at most `CHUNK * N`, a multiple of 8.
    unsafe {
        for at in (0..n_words).step_by(8) {
            let words = if at + 8 <= n_words {
                load(x.add(at * 4))
            } else {
                let mut last = [0u32; 8];
                x.add(at * 4).copy_to_nonoverlapping(last.as_mut_ptr().cast(), (n_words - at) * 4);
                load(last.as_ptr().cast())
            };
            least = least_of(least, words);
            let (even, odd) = widen(words);
            _mm256_storeu_ps(to.add(at), even);
            _mm256_storeu_ps(to.add(CHUNK * N + at), odd);
        }
    }
    least
}

/// Adds `n` pairs to the sums of `G` of `N` tokens; returns the least of the weights' exponents and `least`.
///
/// # Safety
/// `w` are `n` pairs of 16 rows of the first of `R` groups, `x` is the first of the tokens in a `Widened`; AVX2 and FMA.
#[inline(always)]
unsafe fn pass<const R: usize, const N: usize, const G: usize>(
    w: *const u8,
    group_bytes: usize,
    x: *const f32,
    n: usize,
    prefetch: Prefetch,
    least: __m256i,
    out: &mut [[[__m256; 2]; R]],
) -> __m256i {
    let mut least = [least; 2];
    // SAFETY: all places are in the pairs of the contract.
    unsafe {
        let mut sums = [[[_mm256_setzero_ps(); 2]; R]; G];
        sums.copy_from_slice(&out[..G]);
        for pair in 0..n {
            for r in 0..R {
                let w = w.add(r * group_bytes + pair * 64);
                if R == 1 {
                    prefetch.ahead::<1>(w);
                }
                let raw = [load(w), load(w.add(32))];
                let weights = [widen(raw[0]), widen(raw[1])];
                for h in 0..2 {
                    least[h] = least_of(least[h], raw[h]);
                }
                for (g, sums) in sums.iter_mut().enumerate() {
                    let x_odd = broadcast_f32(x.add((CHUNK + pair) * N + g).cast());
                    for h in 0..2 {
                        sums[r][h] = _mm256_fmadd_ps(weights[h].1, x_odd, sums[r][h]);
                    }
                }
                for (g, sums) in sums.iter_mut().enumerate() {
                    let x_even = broadcast_f32(x.add(pair * N + g).cast());
                    for h in 0..2 {
                        sums[r][h] = _mm256_fmadd_ps(weights[h].0, x_even, sums[r][h]);
                    }
                }
            }
        }
        out[..G].copy_from_slice(&sums);
        _mm256_min_epu16(least[0], least[1])
    }
}

/// The same, with every input and every sum flushed.
///
/// # Safety
/// `w` are `n` pairs of 16 rows of the first of `R` groups, `x` of `N` tokens; AVX2 and FMA.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn flushing_pass<const R: usize, const N: usize>(
    w: *const u8,
    group_bytes: usize,
    x: *const u8,
    n: usize,
    sums: &mut [[[__m256; 2]; R]; N],
) {
    for pair in 0..n {
        for (r, h) in (0..R).flat_map(|r| [(r, 0), (r, 1)]) {
            // SAFETY: a pair of 8 rows of group `r`.
            let (even, odd) = unsafe { widen(load(w.add(r * group_bytes + pair * 64 + h * 32))) };
            let (even, odd) = (flush(even), flush(odd));
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the same columns of token `t`. They have no denormals.
                let (x_even, x_odd) = unsafe { widen(broadcast(x.add((pair * N + t) * 4))) };
                sums[r][h] = flush(_mm256_fmadd_ps(odd, x_odd, sums[r][h]));
                sums[r][h] = flush(_mm256_fmadd_ps(even, x_even, sums[r][h]));
            }
        }
    }
}

/// Even and odd bf16 as f32.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn widen(pairs: __m256i) -> (__m256, __m256) {
    // SAFETY: this function's contract.
    unsafe {
        let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
        (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd))
    }
}

/// The lesser, lane by lane of 16 bits, of `least` and the magnitudes less one: zeros count as the largest.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn least_of(least: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: this function's contract.
    unsafe {
        let magnitudes = _mm256_slli_epi16::<1>(pairs);
        _mm256_min_epu16(least, _mm256_add_epi16(magnitudes, _mm256_set1_epi16(-1)))
    }
}

/// The exponent bits of the number that [`least_of`] found; 256 if there was none but zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn least_exponent(least: __m256i) -> u32 {
    let least = _mm_min_epu16(_mm256_castsi256_si128(least), _mm256_extracti128_si256::<1>(least));
    ((_mm_extract_epi16::<0>(_mm_minpos_epu16(least)) + 1) >> 8) as u32
}

/// Denormals as zeros of their sign.
#[inline]
#[target_feature(enable = "avx2")]
fn flush(x: __m256) -> __m256 {
    let sign = _mm256_set1_ps(-0.0);
    let small = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, x), _mm256_set1_ps(f32::MIN_POSITIVE));
    _mm256_andnot_ps(_mm256_andnot_ps(sign, small), x)
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use ingle_gguf::TensorType;

    use crate::layout::{ROWS, format};
    use crate::tile::{TileInput, TileKernel};
    use crate::{Isa, activations::TILE};

    /// 300 columns, of which those from `from` on have sums that cancel to denormals.
    fn check(from: usize) {
        let sizes = |col: usize, n: usize| {
            let large = [1.0, -1.0][col % 2] * (1 + (col + n) % 5) as f32;
            let bits = if col < from { large } else { large * 2f32.powi(-63) * 1.5 };
            bf16::from_f32(bits).to_bits()
        };
        let pairs = |n_rows: usize| -> Vec<u16> {
            let numbers = (0..150).flat_map(|pair| (0..n_rows * 2).map(move |i| (pair * 2 + i % 2, i / 2)));
            numbers.map(|(col, n)| sizes(col, n)).collect()
        };
        let (w, x) = (pairs(ROWS), pairs(TILE));
        let run = |isa| {
            let mut out = [[f32::NAN; ROWS]; TILE];
            let kernel = TileKernel::new(format(TensorType::BF16).unwrap(), isa);
            let (w, x) = (bytemuck::cast_slice(&w), bytemuck::cast_slice(&x));
            kernel.run(TileInput { w, x, n_cols: 300, next: None }, 1, TILE, &mut out);
            out.map(|row| row.map(f32::to_bits))
        };
        for isa in [Isa::Avx2, Isa::AvxVnni].into_iter().filter(|isa| isa.is_available()) {
            assert_eq!(run(isa), run(Isa::Scalar), "{} from column {from}", isa.name());
        }
    }

    #[test]
    fn denormals_may_begin_anywhere() {
        for from in [0, 2, 126, 128, 130, 254, 256, 298, 300] {
            check(from);
        }
    }
}

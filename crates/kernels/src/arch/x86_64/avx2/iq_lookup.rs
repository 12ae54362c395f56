//! Codebooks by gathers: eight rows' entries at a time. An entry of 8 weights is 64 bits, so that one gather of four
//! rows brings two registers of half as many; an entry of 4 weights is 32 bits.

use std::arch::x86_64::*;

use super::load;
use crate::layout::{
    Grid, IQ2_LEVELS, IQ3_S_LEVELS, IQ3_XXS_LEVELS, Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup,
    Iq3SGroup, Iq3XxsGroup, Mask, Quads, RAISE, codebooks,
};

/// Eight times -1, 0 and 1, plus 1, plus 64: what codes of IQ1 mean where the eighth is added, raised.
const IQ1_LEVELS: [i8; 3] = [RAISE - 7, RAISE + 1, RAISE + 9];

static IQ2_XXS: [[i8; 8]; 256] = entries(&codebooks::IQ2_XXS, &IQ2_LEVELS);
static IQ2_XS: [[i8; 8]; 512] = entries(&codebooks::IQ2_XS, &IQ2_LEVELS);
static IQ2_S: [[i8; 8]; 1024] = entries(&codebooks::IQ2_S, &IQ2_LEVELS);
static IQ1: [[i8; 8]; 2048] = entries(&codebooks::IQ1, &IQ1_LEVELS);
static IQ3_XXS: [[i8; 4]; 256] = entries(&codebooks::IQ3_XXS, &IQ3_XXS_LEVELS);
static IQ3_S: [[i8; 4]; 512] = entries(&codebooks::IQ3_S, &IQ3_S_LEVELS);

/// The weights of packed entries: codes of 2 bits where there are eight, of 3 where there are four.
const fn entries<const W: usize, const N: usize>(packed: &[u16; N], levels: &[i8]) -> [[i8; W]; N] {
    let bits = if W == 8 { 2 } else { 3 };
    let mut entries = [[0; W]; N];
    let mut i = 0;
    while i < N {
        let mut k = 0;
        while k < W {
            entries[i][k] = levels[(packed[i] >> (bits * k)) as usize & ((1 << bits) - 1)];
            k += 1;
        }
        i += 1;
    }
    entries
}

/// Types whose weights gathers fetch.
pub(crate) trait Lookup: Grid {
    /// The weights of columns `32 * part..` of rows `8 * h..` plus 64, a register per four columns.
    ///
    /// # Safety
    /// The machine has AVX2.
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8];
}

/// Rows `8 * h..` of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn rows(quads: &Quads, h: usize) -> __m256i {
    // SAFETY: half of 64 bytes.
    unsafe { load(quads[h * 8..h * 8 + 8].as_ptr().cast()) }
}

/// Rows `8 * h..` of a mask, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn mask_rows(mask: Mask, h: usize) -> __m256i {
    _mm256_set1_epi32((mask >> (32 * h)) as i32)
}

/// Index `j` of each row: its low bits are byte `j` of `low`, and every mask has one more.
#[inline]
#[target_feature(enable = "avx2")]
fn index<const H: usize>(low: __m256i, high: &[__m256i; H], j: usize) -> __m256i {
    let count = _mm_cvtsi32_si128(8 * j as i32);
    let mut index = _mm256_and_si256(_mm256_srl_epi32(low, count), _mm256_set1_epi32(255));
    let at = _mm256_add_epi32(_mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28), _mm256_set1_epi32(j as i32));
    for (i, &mask) in high.iter().enumerate() {
        let bit = _mm256_and_si256(_mm256_srlv_epi32(mask, at), _mm256_set1_epi32(1));
        index = _mm256_or_si256(index, _mm256_sll_epi32(bit, _mm_cvtsi32_si128(8 + i as i32)));
    }
    index
}

/// Weights of 32 columns from entries of eight.
#[inline]
#[target_feature(enable = "avx2")]
fn eights<const N: usize, const H: usize>(
    table: &[[i8; 8]; N],
    low: &Quads,
    high: [Mask; H],
    h: usize,
) -> [__m256i; 8] {
    const { assert!(N == 256 << H) };
    let low = rows(low, h);
    let mut masks = [_mm256_setzero_si256(); H];
    for (rows, mask) in masks.iter_mut().zip(high) {
        *rows = mask_rows(mask, h);
    }
    let mut weights = [_mm256_setzero_si256(); 8];
    for (j, weights) in weights.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        // Rows 0, 1, 4 and 5, then 2, 3, 6 and 7: what the shuffles below put in order.
        let index = _mm256_permute4x64_epi64::<0b11_01_10_00>(index(low, &masks, j));
        let table = table.as_ptr().cast();
        // SAFETY: an index has 8 + H bits, and the table as many entries.
        let (first, second) = unsafe {
            (
                _mm256_i32gather_epi64::<8>(table, _mm256_castsi256_si128(index)),
                _mm256_i32gather_epi64::<8>(table, _mm256_extracti128_si256::<1>(index)),
            )
        };
        let (first, second) = (_mm256_castsi256_ps(first), _mm256_castsi256_ps(second));
        weights[0] = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(first, second));
        weights[1] = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(first, second));
    }
    weights
}

/// `64 - w` where a byte of `negative` is -1, `64 + w` where it is 0.
#[inline]
#[target_feature(enable = "avx2")]
fn raise(weights: __m256i, negative: __m256i) -> __m256i {
    let signed = _mm256_sub_epi8(_mm256_xor_si256(weights, negative), negative);
    _mm256_add_epi8(signed, _mm256_set1_epi8(RAISE))
}

/// 32 columns of an IQ2 type: entries with signs.
#[inline]
#[target_feature(enable = "avx2")]
fn with_signs(mut weights: [__m256i; 8], signs: &[Mask; 64], part: usize, h: usize) -> [__m256i; 8] {
    // Byte `i` of a register sees bit `i % 8` of byte `i / 8` of the mask.
    let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    for (i, weights) in weights.iter_mut().enumerate() {
        let mask = _mm256_shuffle_epi8(mask_rows(signs[part * 8 + i], h), spread);
        *weights = raise(*weights, _mm256_cmpeq_epi8(_mm256_and_si256(mask, bits), bits));
    }
    weights
}

impl Lookup for Iq2XxsGroup {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8] {
        with_signs(eights(&IQ2_XXS, &self.indices[part], [], h), &self.signs, part, h)
    }
}

impl Lookup for Iq2XsGroup {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8] {
        let high = [self.high[0][part]];
        with_signs(eights(&IQ2_XS, &self.indices[part], high, h), &self.signs, part, h)
    }
}

impl Lookup for Iq2SGroup {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8] {
        let high = [self.high[0][part], self.high[1][part]];
        with_signs(eights(&IQ2_S, &self.indices[part], high, h), &self.signs, part, h)
    }
}

/// 16 columns from entries of four, with signs.
#[inline]
#[target_feature(enable = "avx2")]
fn fours<const N: usize, const H: usize>(
    table: &[[i8; 4]; N],
    low: &Quads,
    high: [Mask; H],
    signs: &[Mask; 4],
    h: usize,
) -> [__m256i; 4] {
    const { assert!(N == 256 << H) };
    let low = rows(low, h);
    let mut masks = [_mm256_setzero_si256(); H];
    for (rows, mask) in masks.iter_mut().zip(high) {
        *rows = mask_rows(mask, h);
    }
    // Byte `k` of a row gets the row's four bits of mask `k`: a bit per quad.
    // SAFETY: 32 bytes.
    let all = unsafe { load(signs.as_ptr().cast()) };
    let which = _mm256_add_epi32(_mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6), _mm256_set1_epi32(h as i32));
    let bytes = _mm256_setr_epi32(
        0x0C08_0400,
        0x0C08_0400,
        0x0D09_0501,
        0x0D09_0501,
        0x0E0A_0602,
        0x0E0A_0602,
        0x0F0B_0703,
        0x0F0B_0703,
    );
    let signs = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(all, which), bytes);
    let signs = _mm256_srlv_epi32(signs, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
    let mut weights = [_mm256_setzero_si256(); 4];
    for (j, weights) in weights.iter_mut().enumerate() {
        let index = index(low, &masks, j);
        // SAFETY: an index has 8 + H bits, and the table as many entries.
        let entries = unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), index) };
        let bit = _mm256_set1_epi8(1 << j);
        *weights = raise(entries, _mm256_cmpeq_epi8(_mm256_and_si256(signs, bit), bit));
    }
    weights
}

/// 32 columns from two times 16.
#[inline]
#[target_feature(enable = "avx2")]
fn joined([a, b]: [[__m256i; 4]; 2]) -> [__m256i; 8] {
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

impl Lookup for Iq3XxsGroup {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8] {
        let (i, k) = (part * 2, part * 2 + 1);
        let first = fours(&IQ3_XXS, &self.indices[i], [], &self.signs[i], h);
        joined([first, fours(&IQ3_XXS, &self.indices[k], [], &self.signs[k], h)])
    }
}

impl Lookup for Iq3SGroup {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8] {
        let (i, k) = (part * 2, part * 2 + 1);
        let first = fours(&IQ3_S, &self.indices[i], [self.high[0][i]], &self.signs[i], h);
        joined([first, fours(&IQ3_S, &self.indices[k], [self.high[0][k]], &self.signs[k], h)])
    }
}

/// 32 columns of an IQ1 type; lanes of `minus`, per 8 columns, are -1 where the eighth is subtracted.
#[inline]
#[target_feature(enable = "avx2")]
fn iq1(low: &Quads, high: &[[Mask; 8]; 3], part: usize, h: usize, minus: [__m256i; 4]) -> [__m256i; 8] {
    let mut weights = eights(&IQ1, low, [high[0][part], high[1][part], high[2][part]], h);
    for (i, weights) in weights.iter_mut().enumerate() {
        let two_eighths = _mm256_and_si256(minus[i / 2], _mm256_set1_epi8(2));
        *weights = _mm256_sub_epi8(*weights, two_eighths);
    }
    weights
}

impl Lookup for Iq1SGroup {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8] {
        let top_bit = _mm256_set1_epi32(8 << (4 * part));
        let minus = _mm256_cmpeq_epi32(_mm256_and_si256(rows(&self.scales[0], h), top_bit), top_bit);
        iq1(&self.indices[part], &self.high, part, h, [minus; 4])
    }
}

impl Lookup for Iq1MGroup {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn weights(&self, part: usize, h: usize) -> [__m256i; 8] {
        let row = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let mut minus = [_mm256_setzero_si256(); 4];
        for (j, minus) in minus.iter_mut().enumerate() {
            let bits = _mm256_set1_epi32(i32::from(self.minus[part * 4 + j] >> (8 * h)));
            *minus = _mm256_cmpeq_epi32(_mm256_and_si256(bits, row), row);
        }
        iq1(&self.indices[part], &self.high, part, h, minus)
    }
}

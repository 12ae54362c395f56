//! Codebooks in registers. A `vpermi2b` looks up 64 indices of 7 bits; masks blend the results for longer ones. Two
//! look-ups give the two halves of entries, four codes of 2 bits or two of 3, and a `vpermb` per register of weights,
//! which sees 6 bits of its index, turns codes into levels.

use std::arch::x86_64::*;

use super::load;
use crate::layout::{
    Grid, IQ2_LEVELS, IQ3_S_LEVELS, IQ3_XXS_LEVELS, Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup,
    Iq3SGroup, Iq3XxsGroup, Mask, Quads, RAISE, codebooks,
};

/// Eight times -1, 0 and 1, plus 1: what codes of IQ1 mean where the eighth is added.
const IQ1_LEVELS: [i8; 3] = [-7, 1, 9];

/// Types that registers can look up.
pub(crate) trait Lookup: Grid {
    /// Whether each four registers of weights hold 16 columns in the order 0, 4, 8, 12, 1, 5, ..., 15.
    const TRANSPOSED: bool;

    /// Codes of the weights of 32 columns.
    type Codes;

    /// Codes of columns `64 * pair..`: of two times 32, which share what is read of the codebook.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW and VBMI.
    unsafe fn codes(&self, pair: usize) -> [Self::Codes; 2];

    /// The weights of columns `32 * part..` plus 64, a register per four of them.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW and VBMI.
    unsafe fn weights(&self, part: usize, codes: Self::Codes) -> [__m512i; 8];
}

/// A register in memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Low and high halves of the entries of a codebook with `LINES * 64`.
type Halves<const LINES: usize> = [[Line; LINES]; 2];

static IQ2_XXS: Halves<4> = halves(&codebooks::IQ2_XXS, 8);
static IQ2_XS: Halves<8> = halves(&codebooks::IQ2_XS, 8);
static IQ2_S: Halves<16> = halves(&codebooks::IQ2_S, 8);
static IQ1: Halves<32> = halves(&codebooks::IQ1, 8);
static IQ3_XXS: Halves<4> = halves(&codebooks::IQ3_XXS, 6);
static IQ3_S: Halves<8> = halves(&codebooks::IQ3_S, 6);

static IQ2_BYTES: Line = levels(&IQ2_LEVELS, 0, 3);
static IQ1_BYTES: Line = levels(&IQ1_LEVELS, 0, 3);
static IQ3_XXS_BYTES: [Line; 2] = [levels(&IQ3_XXS_LEVELS, 0, 7), levels(&IQ3_XXS_LEVELS, 3, 7)];
static IQ3_S_BYTES: [Line; 2] = [levels(&IQ3_S_LEVELS, 0, 7), levels(&IQ3_S_LEVELS, 3, 7)];

/// Entries cut after `bits`.
const fn halves<const N: usize, const LINES: usize>(entries: &[u16; N], bits: u32) -> Halves<LINES> {
    assert!(N == LINES * 64);
    let mut halves = [[Line([0; 64]); LINES]; 2];
    let mut i = 0;
    while i < N {
        halves[0][i / 64].0[i % 64] = (entries[i] & ((1 << bits) - 1)) as u8;
        halves[1][i / 64].0[i % 64] = (entries[i] >> bits) as u8;
        i += 1;
    }
    halves
}

/// For 6 bits the level, plus 64, of the code that `mask` cuts out after `shift`. There are as many codes as levels.
const fn levels(levels: &[i8], shift: usize, mask: usize) -> Line {
    let mut line = [0; 64];
    let mut i = 0;
    while i < 64 {
        let code = (i >> shift) & mask;
        if code < levels.len() {
            line[i] = (levels[code] + RAISE) as u8;
        }
        i += 1;
    }
    Line(line)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn line(line: &Line) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { load(line.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn quads(quads: &Quads) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { load(quads.as_ptr().cast()) }
}

/// Registers `2 * i` and the next.
#[inline]
#[target_feature(enable = "avx512f")]
fn two_quads(all: &[Quads], i: usize) -> [__m512i; 2] {
    [quads(&all[2 * i]), quads(&all[2 * i + 1])]
}

/// Masks `2 * i` and the next.
#[inline]
fn two_masks(all: &[Mask], i: usize) -> [Mask; 2] {
    [all[2 * i], all[2 * i + 1]]
}

/// Indices of 8 bits: the eighth bits blend.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up_256<const K: usize>(table: &[Line; 4], low: [__m512i; K]) -> [__m512i; K] {
    let [a, b, c, d] = [line(&table[0]), line(&table[1]), line(&table[2]), line(&table[3])];
    let mut found = low;
    for found in &mut found {
        let low = *found;
        let lower = _mm512_permutex2var_epi8(a, low, b);
        let upper = _mm512_permutex2var_epi8(c, low, d);
        *found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(low), lower, upper);
    }
    found
}

/// Indices of 9 bits, the ninth in a mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up_512<const K: usize>(table: &[Line; 8], low: [__m512i; K], ninth: [Mask; K]) -> [__m512i; K] {
    let (lower, upper) = table.split_at(4);
    let lower = look_up_256(lower.first_chunk().expect("half the table"), low);
    let upper = look_up_256(upper.first_chunk().expect("half the table"), low);
    blend(ninth, lower, upper)
}

/// Indices of 10 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up_1024<const K: usize>(
    table: &[Line; 16],
    low: [__m512i; K],
    [ninth, tenth]: [[Mask; K]; 2],
) -> [__m512i; K] {
    let (lower, upper) = table.split_at(8);
    let lower = look_up_512(lower.first_chunk().expect("half the table"), low, ninth);
    let upper = look_up_512(upper.first_chunk().expect("half the table"), low, ninth);
    blend(tenth, lower, upper)
}

/// Indices of 11 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up_2048<const K: usize>(
    table: &[Line; 32],
    low: [__m512i; K],
    [ninth, tenth, eleventh]: [[Mask; K]; 3],
) -> [__m512i; K] {
    let (lower, upper) = table.split_at(16);
    let lower = look_up_1024(lower.first_chunk().expect("half the table"), low, [ninth, tenth]);
    let upper = look_up_1024(upper.first_chunk().expect("half the table"), low, [ninth, tenth]);
    blend(eleventh, lower, upper)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn blend<const K: usize>(bits: [Mask; K], mut lower: [__m512i; K], upper: [__m512i; K]) -> [__m512i; K] {
    for (i, lower) in lower.iter_mut().enumerate() {
        *lower = _mm512_mask_blend_epi8(bits[i], *lower, upper[i]);
    }
    lower
}

/// A register of weights from codes of 2 bits: byte `j` of every row has those of four columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn spread(codes: __m512i, j: usize, levels: __m512i) -> __m512i {
    // Per 64 bits, two rows: where the 8 bits start that become each byte. What lies above a code in them is not seen
    // by the table, which repeats.
    let at = _mm512_set1_epi64(
        i64::from_le_bytes([0, 2, 4, 6, 32, 34, 36, 38]) + 0x0808_0808_0808_0808 * j as i64,
    );
    _mm512_permutexvar_epi8(_mm512_multishift_epi64_epi8(at, codes), levels)
}

/// `64 - w` from `64 + w` where the mask says so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn negate(signs: Mask, raised: __m512i) -> __m512i {
    _mm512_mask_sub_epi8(raised, signs, _mm512_set1_epi8((2 * (RAISE as i16)) as i8), raised)
}

/// Codes of the low and the high halves of entries.
type EightCodes = [__m512i; 2];

/// A codebook's low halves, then its high halves, each for two registers of indices, as codes of these registers.
#[inline]
fn by_register([low, high]: [[__m512i; 2]; 2]) -> [EightCodes; 2] {
    [[low[0], high[0]], [low[1], high[1]]]
}

/// 32 columns of an IQ2 type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq2_weights(codes: EightCodes, signs: &[Mask; 64], part: usize) -> [__m512i; 8] {
    let levels = line(&IQ2_BYTES);
    let mut weights = [_mm512_setzero_si512(); 8];
    for (i, weights) in weights.iter_mut().enumerate() {
        *weights = negate(signs[part * 8 + i], spread(codes[i % 2], i / 2, levels));
    }
    weights
}

impl Lookup for Iq2XxsGroup {
    const TRANSPOSED: bool = false;

    type Codes = EightCodes;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn codes(&self, pair: usize) -> [EightCodes; 2] {
        let low = two_quads(&self.indices, pair);
        by_register([look_up_256(&IQ2_XXS[0], low), look_up_256(&IQ2_XXS[1], low)])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn weights(&self, part: usize, codes: EightCodes) -> [__m512i; 8] {
        iq2_weights(codes, &self.signs, part)
    }
}

impl Lookup for Iq2XsGroup {
    const TRANSPOSED: bool = false;

    type Codes = EightCodes;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn codes(&self, pair: usize) -> [EightCodes; 2] {
        let low = two_quads(&self.indices, pair);
        let ninth = two_masks(&self.high[0], pair);
        by_register([look_up_512(&IQ2_XS[0], low, ninth), look_up_512(&IQ2_XS[1], low, ninth)])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn weights(&self, part: usize, codes: EightCodes) -> [__m512i; 8] {
        iq2_weights(codes, &self.signs, part)
    }
}

impl Lookup for Iq2SGroup {
    const TRANSPOSED: bool = false;

    type Codes = EightCodes;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn codes(&self, pair: usize) -> [EightCodes; 2] {
        let low = two_quads(&self.indices, pair);
        let bits = [two_masks(&self.high[0], pair), two_masks(&self.high[1], pair)];
        by_register([look_up_1024(&IQ2_S[0], low, bits), look_up_1024(&IQ2_S[1], low, bits)])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn weights(&self, part: usize, codes: EightCodes) -> [__m512i; 8] {
        iq2_weights(codes, &self.signs, part)
    }
}

/// For two registers of indices, 16 columns each: codes of columns 0 and 1 of every four, then of 2 and 3.
type FourCodes = [[__m512i; 2]; 2];

/// 32 columns of an IQ3 type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq3_weights(codes: FourCodes, bytes: &[Line; 2], signs: &[[Mask; 4]; 16], part: usize) -> [__m512i; 8] {
    let levels = [line(&bytes[0]), line(&bytes[1])];
    let mut weights = [_mm512_setzero_si512(); 8];
    for (i, weights) in weights.iter_mut().enumerate() {
        let (register, k) = (i / 4, i % 4);
        let raised = _mm512_permutexvar_epi8(codes[k / 2][register], levels[k % 2]);
        *weights = negate(signs[part * 2 + register][k], raised);
    }
    weights
}

impl Lookup for Iq3XxsGroup {
    const TRANSPOSED: bool = true;

    type Codes = FourCodes;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn codes(&self, pair: usize) -> [FourCodes; 2] {
        let (first, second) = (two_quads(&self.indices, pair * 2), two_quads(&self.indices, pair * 2 + 1));
        [
            [look_up_256(&IQ3_XXS[0], first), look_up_256(&IQ3_XXS[1], first)],
            [look_up_256(&IQ3_XXS[0], second), look_up_256(&IQ3_XXS[1], second)],
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn weights(&self, part: usize, codes: FourCodes) -> [__m512i; 8] {
        iq3_weights(codes, &IQ3_XXS_BYTES, &self.signs, part)
    }
}

impl Lookup for Iq3SGroup {
    const TRANSPOSED: bool = true;

    type Codes = FourCodes;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn codes(&self, pair: usize) -> [FourCodes; 2] {
        let (first, second) = (two_quads(&self.indices, pair * 2), two_quads(&self.indices, pair * 2 + 1));
        let ninth = [two_masks(&self.high[0], pair * 2), two_masks(&self.high[0], pair * 2 + 1)];
        [
            [look_up_512(&IQ3_S[0], first, ninth[0]), look_up_512(&IQ3_S[1], first, ninth[0])],
            [look_up_512(&IQ3_S[0], second, ninth[1]), look_up_512(&IQ3_S[1], second, ninth[1])],
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn weights(&self, part: usize, codes: FourCodes) -> [__m512i; 8] {
        iq3_weights(codes, &IQ3_S_BYTES, &self.signs, part)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq1_codes(indices: &[Quads; 8], high: &[[Mask; 8]; 3], pair: usize) -> [EightCodes; 2] {
    let low = two_quads(indices, pair);
    let bits = [two_masks(&high[0], pair), two_masks(&high[1], pair), two_masks(&high[2], pair)];
    by_register([look_up_2048(&IQ1[0], low, bits), look_up_2048(&IQ1[1], low, bits)])
}

/// 32 columns of an IQ1 type; `minus` has the rows whose eighth is subtracted, per 8 columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn iq1_weights(codes: EightCodes, minus: [__mmask16; 4]) -> [__m512i; 8] {
    let (levels, two_eighths) = (line(&IQ1_BYTES), _mm512_set1_epi8(2));
    let mut weights = [_mm512_setzero_si512(); 8];
    for (i, weights) in weights.iter_mut().enumerate() {
        let raised = spread(codes[i % 2], i / 2, levels);
        // No byte borrows from its neighbour: the smallest is 57.
        *weights = _mm512_mask_sub_epi32(raised, minus[i / 2], raised, two_eighths);
    }
    weights
}

impl Lookup for Iq1SGroup {
    const TRANSPOSED: bool = false;

    type Codes = EightCodes;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn codes(&self, pair: usize) -> [EightCodes; 2] {
        iq1_codes(&self.indices, &self.high, pair)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn weights(&self, part: usize, codes: EightCodes) -> [__m512i; 8] {
        let top_bit = _mm512_set1_epi32(8 << (4 * part));
        iq1_weights(codes, [_mm512_test_epi32_mask(quads(&self.scales[0]), top_bit); 4])
    }
}

impl Lookup for Iq1MGroup {
    const TRANSPOSED: bool = false;

    type Codes = EightCodes;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn codes(&self, pair: usize) -> [EightCodes; 2] {
        iq1_codes(&self.indices, &self.high, pair)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn weights(&self, part: usize, codes: EightCodes) -> [__m512i; 8] {
        iq1_weights(codes, self.minus.as_chunks::<4>().0[part])
    }
}

//! Codebooks in registers. A `vpermi2b` looks up 64 indices of 7 bits; masks blend the results for longer ones. Two
//! look-ups give the two halves of entries, four codes of 2 bits or two of 3, and a `vpermb` per register of weights,
//! which sees 6 bits of its index, turns codes into levels.

use std::arch::x86_64::*;

use super::super::Prefetch;
use super::load;
use crate::layout::{
    Grid, IQ2_LEVELS, IQ3_S_LEVELS, IQ3_XXS_LEVELS, Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup,
    Iq3SGroup, Iq3XxsGroup, Mask, Quads, RAISE, codebooks,
};

/// Eight times -1, 0 and 1, plus 1: what codes of IQ1 mean where the eighth is added.
const IQ1_LEVELS: [i8; 3] = [-7, 1, 9];

/// Types that registers can look up.
pub(crate) trait Lookup: Grid {
    /// Whether each four registers hold 16 columns in the order 0, 4, 8, 12, 1, 5, ..., 15.
    const TRANSPOSED: bool;

    /// The weights plus 64, a register per four columns; asks for the weights ahead on the way.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW and VBMI.
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch);
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

/// Asks for the `step`-th of eight parts of the block that lies ahead of `block`.
#[inline(always)]
fn prefetch_part<G, const LINES: usize>(prefetch: Prefetch, block: &G, step: usize) {
    const { assert!(size_of::<G>().div_ceil(8 * 64) == LINES) };
    let part = (step * size_of::<G>() / 8) & !63;
    prefetch.ahead::<LINES>(std::ptr::from_ref(block).cast::<u8>().wrapping_add(part));
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

/// 32 columns of an IQ2 type from the codes of their low and high halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn put_iq2(codes: [__m512i; 2], signs: &[Mask; 8], to: &mut [__m512i; 8]) {
    let levels = line(&IQ2_BYTES);
    for (i, to) in to.iter_mut().enumerate() {
        *to = negate(signs[i], spread(codes[i % 2], i / 2, levels));
    }
}

impl Lookup for Iq2XxsGroup {
    const TRANSPOSED: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch) {
        for (i, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            prefetch_part::<_, 3>(prefetch, self, i);
            let low = [quads(&self.indices[i])];
            let [codes] = look_up_256(&IQ2_XXS[0], low);
            let [high_codes] = look_up_256(&IQ2_XXS[1], low);
            put_iq2([codes, high_codes], &self.signs.as_chunks().0[i], to);
        }
    }
}

impl Lookup for Iq2XsGroup {
    const TRANSPOSED: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch) {
        for (i, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            prefetch_part::<_, 3>(prefetch, self, i);
            let (low, ninth) = ([quads(&self.indices[i])], [self.high[0][i]]);
            let [codes] = look_up_512(&IQ2_XS[0], low, ninth);
            let [high_codes] = look_up_512(&IQ2_XS[1], low, ninth);
            put_iq2([codes, high_codes], &self.signs.as_chunks().0[i], to);
        }
    }
}

impl Lookup for Iq2SGroup {
    const TRANSPOSED: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch) {
        let to = to.as_chunks_mut::<8>().0;
        // Two registers of indices at a time share the loads of the table.
        for i in (0..8).step_by(2) {
            prefetch_part::<_, 3>(prefetch, self, i);
            prefetch_part::<_, 3>(prefetch, self, i + 1);
            let low = [quads(&self.indices[i]), quads(&self.indices[i + 1])];
            let bits = [[self.high[0][i], self.high[0][i + 1]], [self.high[1][i], self.high[1][i + 1]]];
            let codes = look_up_1024(&IQ2_S[0], low, bits);
            let high_codes = look_up_1024(&IQ2_S[1], low, bits);
            put_iq2([codes[0], high_codes[0]], &self.signs.as_chunks().0[i], &mut to[i]);
            put_iq2([codes[1], high_codes[1]], &self.signs.as_chunks().0[i + 1], &mut to[i + 1]);
        }
    }
}

/// 16 columns of an IQ3 type from the codes of columns 0 and 1, and of 2 and 3, of every four.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn put_iq3(codes: [__m512i; 2], bytes: &[Line; 2], signs: &[Mask; 4], to: &mut [__m512i; 4]) {
    for (k, to) in to.iter_mut().enumerate() {
        *to = negate(signs[k], _mm512_permutexvar_epi8(codes[k / 2], line(&bytes[k % 2])));
    }
}

impl Lookup for Iq3XxsGroup {
    const TRANSPOSED: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch) {
        for (i, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            if i % 2 == 0 {
                prefetch_part::<_, 4>(prefetch, self, i / 2);
            }
            let low = [quads(&self.indices[i])];
            let [codes] = look_up_256(&IQ3_XXS[0], low);
            let [high_codes] = look_up_256(&IQ3_XXS[1], low);
            put_iq3([codes, high_codes], &IQ3_XXS_BYTES, &self.signs[i], to);
        }
    }
}

impl Lookup for Iq3SGroup {
    const TRANSPOSED: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch) {
        for (i, to) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            if i % 2 == 0 {
                prefetch_part::<_, 4>(prefetch, self, i / 2);
            }
            let (low, ninth) = ([quads(&self.indices[i])], [self.high[0][i]]);
            let [codes] = look_up_512(&IQ3_S[0], low, ninth);
            let [high_codes] = look_up_512(&IQ3_S[1], low, ninth);
            put_iq3([codes, high_codes], &IQ3_S_BYTES, &self.signs[i], to);
        }
    }
}

/// The codes of the halves of two registers of IQ1 indices.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up_iq1(indices: &[Quads; 8], high: &[[Mask; 8]; 3], i: usize) -> [[__m512i; 2]; 2] {
    let low = [quads(&indices[i]), quads(&indices[i + 1])];
    let bits = [[high[0][i], high[0][i + 1]], [high[1][i], high[1][i + 1]], [high[2][i], high[2][i + 1]]];
    let [first, second] = look_up_2048(&IQ1[0], low, bits);
    let [high_first, high_second] = look_up_2048(&IQ1[1], low, bits);
    [[first, high_first], [second, high_second]]
}

/// 32 columns of an IQ1 type; `minus` has the rows whose eighth is subtracted, per 8 columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn put_iq1(codes: [__m512i; 2], minus: [__mmask16; 4], to: &mut [__m512i; 8]) {
    let (levels, two_eighths) = (line(&IQ1_BYTES), _mm512_set1_epi8(2));
    for (i, to) in to.iter_mut().enumerate() {
        let raised = spread(codes[i % 2], i / 2, levels);
        // No byte borrows from its neighbour: the smallest is 57.
        *to = _mm512_mask_sub_epi32(raised, minus[i / 2], raised, two_eighths);
    }
}

impl Lookup for Iq1SGroup {
    const TRANSPOSED: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch) {
        let to = to.as_chunks_mut::<8>().0;
        let mut scales = quads(&self.scales[0]);
        for i in (0..8).step_by(2) {
            prefetch_part::<_, 2>(prefetch, self, i);
            prefetch_part::<_, 2>(prefetch, self, i + 1);
            let codes = look_up_iq1(&self.indices, &self.high, i);
            for (codes, to) in codes.into_iter().zip(&mut to[i..i + 2]) {
                let minus = _mm512_test_epi32_mask(scales, _mm512_set1_epi32(8));
                scales = _mm512_srli_epi32::<4>(scales);
                put_iq1(codes, [minus; 4], to);
            }
        }
    }
}

impl Lookup for Iq1MGroup {
    const TRANSPOSED: bool = false;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn look_up(&self, to: &mut [__m512i; 64], prefetch: Prefetch) {
        let to = to.as_chunks_mut::<8>().0;
        let minus = self.minus.as_chunks::<4>().0;
        for i in (0..8).step_by(2) {
            prefetch_part::<_, 2>(prefetch, self, i);
            prefetch_part::<_, 2>(prefetch, self, i + 1);
            let codes = look_up_iq1(&self.indices, &self.high, i);
            put_iq1(codes[0], minus[i], &mut to[i]);
            put_iq1(codes[1], minus[i + 1], &mut to[i + 1]);
        }
    }
}

//! Packing of full groups: 16 bytes of each of 16 rows are transposed at a time, as 32-bit words.
//!
//! A transposition of 256 bytes is 16 loads, 32 shuffles and 16 stores of 16 bytes, in instructions that every x86-64
//! has. What is left of a block, its scales, is put together for 16 rows at once in plain loops over arrays of 16,
//! which compilers vectorize.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "shuffles of SSE2"))]

use super::{Quads, ROWS};

/// A word of each row.
pub(super) type Words = [u32; ROWS];

/// Half a word of each row.
pub(super) type Halves = [u16; ROWS];

/// A block of `N` bytes of each of 16 rows.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a, const N: usize> {
    /// From the first row's block on.
    rows: &'a [u8],
    row_bytes: usize,
}

/// The blocks of 16 rows, side by side, or `None` if the group is not full. What follows the last whole block of a row
/// is left out.
pub(super) fn full_blocks<const N: usize>(
    rows: &[u8],
    row_bytes: usize,
) -> Option<impl Iterator<Item = Blocks<'_, N>>> {
    (rows.len() == ROWS * row_bytes)
        .then(|| (0..row_bytes / N).map(move |b| Blocks { rows: &rows[b * N..], row_bytes }))
}

// All of these are small parts of a loop over blocks: a call each would cost more than they do.
impl<const N: usize> Blocks<'_, N> {
    #[inline(always)]
    fn at<const LEN: usize>(&self, lane: usize, at: usize) -> &[u8; LEN] {
        debug_assert!(at + LEN <= N, "bytes of a block");
        self.rows[lane * self.row_bytes + at..].first_chunk().expect("bytes of a block")
    }

    /// Four quads from the 16 bytes at `at`.
    #[inline(always)]
    pub(super) fn transpose(&self, at: usize, out: &mut [Quads; 4]) {
        for first in (0..ROWS).step_by(4) {
            let words = transpose([
                self.at(first, at),
                self.at(first + 1, at),
                self.at(first + 2, at),
                self.at(first + 3, at),
            ]);
            for (quads, word) in out.iter_mut().zip(words) {
                quads.as_flattened_mut()[4 * first..][..16].copy_from_slice(&word);
            }
        }
    }

    /// Fills `quads` from the bytes from `at` on.
    #[inline(always)]
    pub(super) fn put(&self, quads: &mut [Quads], at: usize) {
        for (i, quads) in quads.as_chunks_mut().0.iter_mut().enumerate() {
            self.transpose(at + 16 * i, quads);
        }
    }

    /// The four words at `at`.
    #[inline(always)]
    pub(super) fn words(&self, at: usize) -> [Words; 4] {
        let mut quads = [[[0; 4]; ROWS]; 4];
        self.transpose(at, &mut quads);
        let mut words: [Words; 4] = bytemuck::cast(quads);
        words.as_flattened_mut().iter_mut().for_each(|word| *word = u32::from_le(*word));
        words
    }

    /// The 16 bits at `at`.
    #[inline(always)]
    pub(super) fn halves(&self, at: usize, out: &mut Halves) {
        for (lane, out) in out.iter_mut().enumerate() {
            *out = u16::from_le_bytes(*self.at(lane, at));
        }
    }
}

/// Byte `i` of each word.
#[inline(always)]
pub(super) fn put_bytes(words: &Words, i: usize, out: &mut [u8; ROWS]) {
    for (out, word) in out.iter_mut().zip(words) {
        *out = (word >> (8 * i)) as u8;
    }
}

/// Half `i` of each word.
#[inline(always)]
pub(super) fn put_halves(words: &Words, i: usize, out: &mut Halves) {
    for (out, word) in out.iter_mut().zip(words) {
        *out = (word >> (16 * i)) as u16;
    }
}

/// `[row][word]` to `[word][row]`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose(rows: [&[u8; 16]; 4]) -> [[u8; 16]; 4] {
    use std::arch::x86_64::*;
    let [a, b, c, d] = rows;
    let (a, b): (__m128i, __m128i) = (bytemuck::cast(*a), bytemuck::cast(*b));
    let (c, d): (__m128i, __m128i) = (bytemuck::cast(*c), bytemuck::cast(*d));
    // SAFETY: these take and give values, and SSE2 is part of every x86-64 processor.
    unsafe {
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        [
            bytemuck::cast(_mm_unpacklo_epi64(ab, cd)),
            bytemuck::cast(_mm_unpackhi_epi64(ab, cd)),
            bytemuck::cast(_mm_unpacklo_epi64(ab_high, cd_high)),
            bytemuck::cast(_mm_unpackhi_epi64(ab_high, cd_high)),
        ]
    }
}

/// `[row][word]` to `[word][row]`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn transpose(rows: [&[u8; 16]; 4]) -> [[u8; 16]; 4] {
    let mut out = [[0; 16]; 4];
    for (word, out) in out.iter_mut().enumerate() {
        for (row, out) in rows.iter().zip(out.as_chunks_mut::<4>().0) {
            out.copy_from_slice(&row[4 * word..][..4]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::layout::{FORMATS, ROWS};

    /// A full group has the bytes of the plain packing, which takes every group that is not full.
    #[test]
    fn full_groups_have_the_bytes_of_the_plain_packing() {
        for format in &FORMATS {
            for n_blocks in [1, 2, 3, 5, 19, 24] {
                let n_cols = n_blocks * format.ty.block_len();
                let row_bytes = n_blocks * format.ty.block_bytes();
                let mut state = 1u32;
                let rows: Vec<u8> = std::iter::repeat_with(|| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .take(ROWS * row_bytes)
                .collect();
                let pack = |rows: &[u8]| {
                    let mut group = crate::memory::AlignedBytes::zeroed((format.group_bytes)(n_cols));
                    (format.pack)(rows, row_bytes, &mut group);
                    group
                };
                let full = pack(&rows);
                // The bits of the first 15 lanes are those that tell rows of zeros from rows of ones.
                let n = 15 * row_bytes;
                let (plain, zeros, ones) = (pack(&rows[..n]), pack(&vec![0; n]), pack(&vec![255; n]));
                for (i, (full, plain)) in full.iter().zip(plain.iter()).enumerate() {
                    let wrong = (full ^ plain) & (zeros[i] ^ ones[i]);
                    assert_eq!(wrong, 0, "{}, {n_blocks} blocks, byte {i}", format.ty);
                }
                // Each lane is read back from a full group as from a group of its row alone.
                for lane in 0..ROWS {
                    let alone = pack(&rows[lane * row_bytes..][..row_bytes]);
                    let (mut from_full, mut from_alone) = (vec![0.0; n_cols], vec![0.0; n_cols]);
                    (format.unpack)(&full, lane, &mut from_full);
                    (format.unpack)(&alone, 0, &mut from_alone);
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&from_full), bits(&from_alone), "{}, row {lane}", format.ty);
                }
            }
        }
    }
}

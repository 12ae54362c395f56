//! Where the weights of a row group lie: 16 rows interleaved, lane = row.
//!
//! A register of 64 bytes holds four consecutive columns of 16 rows; in types with nibbles, two such groups share a
//! register as low and high halves. Everything that a super-block needs lies on adjacent cache lines. Scales are
//! widened from 6 bits to bytes for this (2,368 bytes per 16 Q4_K super-blocks against 2,304 in the file); all else
//! has the file's size.
//!
//! A type is one [`Format`]: its sizes, and how rows get into a group and out again. The block layouts of the file are
//! those of ggml's `ggml-common.h`.

mod floats;
mod iq;
mod iq4;
mod k_quants;
mod k_quants_low;
mod q5_k;
mod q_blocks;
mod q_blocks_5;
mod words;

use bytemuck::Pod;
use half::f16;
use ingle_gguf::TensorType;

use crate::ActKinds;
pub(crate) use iq::{
    Grid, IQ2_LEVELS, IQ3_S_LEVELS, IQ3_XXS_LEVELS, Iq1MGroup, Iq1SGroup, Iq2SGroup, Iq2XsGroup, Iq2XxsGroup,
    Iq3SGroup, Iq3XxsGroup, Mask, RAISE, codebooks,
};
pub(crate) use iq4::{
    IQ4_VALUES, Iq4NlGroup, Iq4XsGroup, Iq4XsHalf, MXFP4_VALUES, Mxfp4Group, Nibbles, half_power,
};
pub(crate) use k_quants::{Q4KGroup, Q4KPair, Q6KGroup, Q6KPart, SubBlocks};
pub(crate) use k_quants_low::{FIRST_OF_PAIR, Q2KGroup, Q2KPart, Q3KGroup, Q3KHalf};
pub(crate) use q_blocks::{Q40Group, Q80Group};
pub(crate) use q_blocks_5::{Q41Group, Q50Group, Q51Group};
pub(crate) use q5_k::{Q5KGroup, Q5KPair};

/// Rows of a group.
pub(crate) const ROWS: usize = 16;

/// Four consecutive columns of each row of a group: a register.
pub(crate) type Quads = [[u8; 4]; ROWS];

/// How the rows of a type lie in a group.
#[derive(Debug)]
pub(crate) struct Format {
    pub(crate) ty: TensorType,
    /// Which form of the inputs is multiplied.
    pub(crate) act_kind: ActKinds,
    /// Bytes of a group of rows with so many columns, which are whole blocks.
    pub(crate) group_bytes: fn(usize) -> usize,
    /// Puts up to 16 whole rows of the file, of so many bytes each, into a group of zeros.
    pub(crate) pack: fn(&[u8], usize, &mut [u8]),
    /// One row of a group as floats: exactly what the file's row dequantizes to, operation by operation as ggml does it
    /// (no fused multiply-add).
    pub(crate) unpack: fn(&[u8], usize, &mut [f32]),
}

/// The types that have kernels, in the order in which they are told to people.
pub(crate) const FORMATS: [Format; 23] = [
    floats::F32,
    floats::F16,
    floats::BF16,
    q_blocks::Q8_0,
    q_blocks::Q4_0,
    q_blocks_5::Q4_1,
    q_blocks_5::Q5_0,
    q_blocks_5::Q5_1,
    k_quants_low::Q2_K,
    k_quants_low::Q3_K,
    k_quants::Q4_K,
    q5_k::Q5_K,
    k_quants::Q6_K,
    iq4::IQ4_NL,
    iq4::IQ4_XS,
    iq4::MXFP4,
    iq::IQ3_XXS,
    iq::IQ3_S,
    iq::IQ2_XXS,
    iq::IQ2_XS,
    iq::IQ2_S,
    iq::IQ1_S,
    iq::IQ1_M,
];

/// The format of a type, or `None` if there are no kernels for it.
pub(crate) fn format(ty: TensorType) -> Option<&'static Format> {
    static TABLE: [Format; FORMATS.len()] = FORMATS;
    TABLE.iter().find(|format| format.ty == ty)
}

/// Scales of 16 rows: f16 bits.
pub(crate) type Scales = [u16; ROWS];

/// Blocks whose 16 scales fill only half a cache line go in pairs, one line of scales before two blocks, so that
/// every block starts on a line. A last single block has a line of scales of its own.
pub(crate) trait Paired: Pod {
    /// Bytes of a pair.
    const PAIR: usize = 64 + 2 * size_of::<Self>();

    /// Bytes of `n_blocks` blocks.
    fn n_bytes(n_blocks: usize) -> usize {
        n_blocks / 2 * Self::PAIR + n_blocks % 2 * (64 + size_of::<Self>())
    }

    /// Offset of block `b`'s scales.
    fn scales_at(b: usize) -> usize {
        b / 2 * Self::PAIR + b % 2 * size_of::<Scales>()
    }

    /// Offset of block `b`.
    fn block_at(b: usize) -> usize {
        b / 2 * Self::PAIR + 64 + b % 2 * size_of::<Self>()
    }

    /// Block `b` of a group and its scales.
    fn read(group: &[u8], b: usize) -> (&Self, &Scales) {
        let block = &group[Self::block_at(b)..][..size_of::<Self>()];
        (
            bytemuck::from_bytes(block),
            bytemuck::from_bytes(&group[Self::scales_at(b)..][..size_of::<Scales>()]),
        )
    }

    /// Block `b` to write.
    fn block_mut(group: &mut [u8], b: usize) -> &mut Self {
        bytemuck::from_bytes_mut(&mut group[Self::block_at(b)..][..size_of::<Self>()])
    }

    /// Block `b`'s scales to write.
    fn scales_mut(group: &mut [u8], b: usize) -> &mut Scales {
        bytemuck::from_bytes_mut(&mut group[Self::scales_at(b)..][..size_of::<Scales>()])
    }
}

/// Calls `put(block index, lane, block)` for every block of `N` bytes of rows of `row_bytes`: block after block, so that
/// what the lanes of a block write together stays in the first cache.
fn pack_blocks<const N: usize>(rows: &[u8], row_bytes: usize, mut put: impl FnMut(usize, usize, &[u8; N])) {
    for b in 0..row_bytes / N {
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            put(b, lane, row[b * N..].first_chunk().expect("a whole block"));
        }
    }
}

/// Puts one row's bytes, four to a register.
fn put_quads(quads: &mut [Quads], lane: usize, bytes: &[u8]) {
    for (quads, quad) in quads.iter_mut().zip(bytes.as_chunks::<4>().0) {
        quads[lane] = *quad;
    }
}

/// The low (`which` 0) or high (1) nibble.
fn nibble(byte: u8, which: usize) -> i32 {
    i32::from(byte >> (4 * which) & 15)
}

/// f16 bits as f32: exact.
pub(crate) fn half_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

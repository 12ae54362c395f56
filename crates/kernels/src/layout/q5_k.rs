//! Q5_K: super-blocks of 256 columns, Q4_K with a fifth bit.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::k_quants::{PairScales, SubBlocks, pair_scales, put_head, unpack};
use super::words::{Blocks, full_blocks};
use super::{Format, Quads, ROWS, half_to_f32, pack_blocks, u16_at, u32_at};
use crate::ActKinds;

/// 16 rows of a Q5_K super-block, in the order in which it is read.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q5KGroup {
    pub pairs: [Q5KPair; 4],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub dmin: [u16; ROWS],
}

/// Two sub-blocks of 32 columns. A byte has two weights: in its low nibble the lower four bits of one of the first 32
/// columns, in its high nibble the *upper* four of one of the second, so that they need no shift to be a weight times 8.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q5KPair {
    /// The fifth bits of registers 0 to 3 of `quads` and of 4 to 7. Of register `i` bit `2 (i % 4)` is the lowest bit of
    /// the weight in the high nibble, the bit above it the highest of that in the low nibble: together they are shifted
    /// to where both belong.
    pub fifth: [Quads; 2],
    /// `[columns / 4]`
    pub quads: [Quads; 8],
    pub scales: PairScales,
}

// The file has 2,816 bytes for them.
const _: () = assert!(size_of::<Q5KGroup>() == 2880);

pub(super) const Q5_K: Format = Format {
    ty: TensorType::Q5_K,
    act_kind: ActKinds::Q8_256,
    group_bytes: |n_cols| n_cols / 256 * size_of::<Q5KGroup>(),
    pack: |rows, row_bytes, group| {
        let group: &mut [Q5KGroup] = bytemuck::cast_slice_mut(group);
        if let Some(full) = full_blocks::<176>(rows, row_bytes) {
            for (blocks, packed) in full.zip(group) {
                packed.put_all(blocks);
            }
            return;
        }
        pack_blocks::<176>(rows, row_bytes, |b, lane, block| {
            let packed = &mut group[b];
            packed.d[lane] = u16_at(block, 0);
            packed.dmin[lane] = u16_at(block, 2);
            let scales = pair_scales(u32_at(block, 4), u32_at(block, 8), u32_at(block, 12));
            for (p, pair) in packed.pairs.iter_mut().enumerate() {
                pair.scales[lane] = scales[p].to_le_bytes();
                for i in 0..8 {
                    let (nibbles, bits) = (u32_at(block, 48 + 32 * p + 4 * i), u32_at(block, 16 + 4 * i));
                    pair.put(i, lane, nibbles, bits >> (2 * p));
                }
            }
        });
    },
    unpack: unpack::<Q5KGroup>,
};

impl Q5KPair {
    /// Puts four bytes' weights into register `i`, which was zero: the file's nibbles, and their fifth bits in the
    /// lowest two bits of each byte.
    #[inline(always)]
    fn put(&mut self, i: usize, lane: usize, nibbles: u32, bits: u32) {
        const ONE: u32 = 0x0101_0101;
        let quad = nibbles & 0x0f0f_0f0f | nibbles >> 1 & 0x7070_7070 | (bits >> 1 & ONE) << 7;
        let fifth = (bits & ONE) << 1 | nibbles >> 4 & ONE;
        self.quads[i][lane] = quad.to_le_bytes();
        let out = &mut self.fifth[i / 4][lane];
        *out = (u32::from_le_bytes(*out) | fifth << (2 * (i % 4))).to_le_bytes();
    }
}

impl Q5KGroup {
    /// A block of each row.
    #[inline(always)]
    fn put_all(&mut self, blocks: Blocks<'_, 176>) {
        let scales = self.pairs.each_mut().map(|pair| &mut pair.scales);
        put_head(blocks.words(0), &mut self.d, &mut self.dmin, scales);
        for half in 0..2 {
            let bits = blocks.words(16 + 16 * half);
            for (p, pair) in self.pairs.iter_mut().enumerate() {
                let nibbles = blocks.words(48 + 32 * p + 16 * half);
                for (i, (nibbles, bits)) in nibbles.iter().zip(&bits).enumerate() {
                    for lane in 0..ROWS {
                        pair.put(half * 4 + i, lane, nibbles[lane], bits[lane] >> (2 * p));
                    }
                }
            }
        }
    }
}

impl SubBlocks for Q5KGroup {
    fn d_dmin(&self, lane: usize) -> (f32, f32) {
        (half_to_f32(self.d[lane]), half_to_f32(self.dmin[lane]))
    }

    fn pair_scales(&self, pair: usize) -> &PairScales {
        &self.pairs[pair].scales
    }

    fn weight(&self, col: usize, lane: usize) -> i32 {
        let (pair, rest) = (&self.pairs[col / 64], col % 64);
        let (i, byte) = (rest % 32 / 4, rest % 4);
        let four = pair.quads[i][lane][byte];
        let fifth = pair.fifth[i / 4][lane][byte] >> (2 * (i % 4));
        i32::from(if rest < 32 { four & 15 | (fifth >> 1 & 1) << 4 } else { four >> 4 << 1 | fifth & 1 })
    }
}

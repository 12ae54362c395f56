//! Q8_0 and Q4_0: blocks of 32 columns, each with a scale.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::words::full_blocks;
use super::{Format, Paired, Quads, half_to_f32, nibble, pack_blocks, put_quads, u16_at};
use crate::ActKinds;

/// 16 rows of a Q8_0 block, without `d`: weights plus 128.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q80Group {
    /// `[columns / 4]`
    pub quads: [Quads; 8],
}

/// 16 rows of a Q4_0 block, without `d`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q40Group {
    /// `[columns / 4]`: low nibbles are columns 0 to 15, high nibbles 16 to 31.
    pub quads: [Quads; 4],
}

const _: () = assert!(size_of::<Q80Group>() == 512);
const _: () = assert!(size_of::<Q40Group>() == 256);

impl Paired for Q80Group {}
impl Paired for Q40Group {}

pub(super) const Q8_0: Format = Format {
    ty: TensorType::Q8_0,
    act_kind: ActKinds::Q8_32,
    group_bytes: |n_cols| Q80Group::n_bytes(n_cols / 32),
    pack: |rows, row_bytes, group| {
        if let Some(full) = full_blocks::<34>(rows, row_bytes) {
            for (b, blocks) in full.enumerate() {
                let quads = &mut Q80Group::block_mut(group, b).quads;
                blocks.put(quads, 2);
                quads.as_flattened_mut().as_flattened_mut().iter_mut().for_each(|q| *q ^= 0x80);
                blocks.halves(0, Q80Group::scales_mut(group, b));
            }
            return;
        }
        pack_blocks::<34>(rows, row_bytes, |b, lane, block| {
            let packed = Q80Group::block_mut(group, b);
            for (quads, quad) in packed.quads.iter_mut().zip(block[2..].as_chunks::<4>().0) {
                // Two's complement plus 128 is the top bit flipped.
                quads[lane] = quad.map(|q| q ^ 0x80);
            }
            Q80Group::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (block, scales) = Q80Group::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (k, out) in out.iter_mut().enumerate() {
                *out = (block.weight(k, lane) - 128) as f32 * d;
            }
        }
    },
};

pub(super) const Q4_0: Format = Format {
    ty: TensorType::Q4_0,
    act_kind: ActKinds::Q8_32,
    group_bytes: |n_cols| Q40Group::n_bytes(n_cols / 32),
    pack: |rows, row_bytes, group| {
        if let Some(full) = full_blocks::<18>(rows, row_bytes) {
            for (b, blocks) in full.enumerate() {
                blocks.put(&mut Q40Group::block_mut(group, b).quads, 2);
                blocks.halves(0, Q40Group::scales_mut(group, b));
            }
            return;
        }
        pack_blocks::<18>(rows, row_bytes, |b, lane, block| {
            put_quads(&mut Q40Group::block_mut(group, b).quads, lane, &block[2..]);
            Q40Group::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: |group, lane, out| {
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (block, scales) = Q40Group::read(group, b);
            let d = half_to_f32(scales[lane]);
            for (k, out) in out.iter_mut().enumerate() {
                *out = (block.weight(k, lane) - 8) as f32 * d;
            }
        }
    },
};

impl Q80Group {
    /// The weight (0 to 255, to be lowered by 128) of a column of the block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        i32::from(self.quads[col / 4][lane][col % 4])
    }
}

impl Q40Group {
    /// The weight (0 to 15, to be lowered by 8) of a column of the block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        nibble(self.quads[col % 16 / 4][lane][col % 4], col / 16)
    }
}

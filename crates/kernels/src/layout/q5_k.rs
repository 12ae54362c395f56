//! Q5_K: super-blocks of 256 columns, Q4_K with a fifth bit.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::k_quants::six_bit_pair;
use super::{
    Format, Quads, ROWS, fifth_bit, half_to_f32, nibble, pack_blocks, put_quads, transpose_bits, u16_at,
};
use crate::ActKinds;

/// 16 rows of a Q5_K super-block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q5KGroup {
    /// `[pair of sub-blocks][columns / 4]`: low nibbles are the pair's first 32 columns, high nibbles its second.
    pub quads: [[Quads; 8]; 4],
    /// `[sub-block]`: the fifth bits, see [`fifth_bit`].
    pub high: [Quads; 8],
    /// `[sub-block][row]`
    pub scales: [[u8; ROWS]; 8],
    /// `[pair of sub-blocks][row][sub-block of the pair]`
    pub mins: [[[u8; 2]; ROWS]; 4],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub dmin: [u16; ROWS],
}

// The file has 2,816 bytes for them.
const _: () = assert!(size_of::<Q5KGroup>() == 2880);

pub(super) const Q5_K: Format = Format {
    ty: TensorType::Q5_K,
    act_kind: ActKinds::Q8_256,
    group_bytes: |n_cols| n_cols / 256 * size_of::<Q5KGroup>(),
    pack: |rows, row_bytes, group| {
        let group: &mut [Q5KGroup] = bytemuck::cast_slice_mut(group);
        pack_blocks::<176>(rows, row_bytes, |b, lane, block| {
            let packed = &mut group[b];
            packed.d[lane] = u16_at(block, 0);
            packed.dmin[lane] = u16_at(block, 2);
            for sub in 0..8 {
                let (scale, min) = six_bit_pair(&block[4..16], sub);
                packed.scales[sub][lane] = scale;
                packed.mins[sub / 2][lane][sub % 2] = min;
            }
            // Byte `k` of the file's bit plane has column `k` of all sub-blocks.
            for col in 0..4 {
                let quads: [u8; 8] = std::array::from_fn(|i| block[16 + (i + 4) % 8 * 4 + col]);
                for (high, bits) in packed.high.iter_mut().zip(transpose_bits(quads)) {
                    high[lane][col] = bits;
                }
            }
            put_quads(packed.quads.as_flattened_mut(), lane, &block[48..]);
        });
    },
    unpack: |group, lane, out| {
        let group: &[Q5KGroup] = bytemuck::cast_slice(group);
        for (block, out) in group.iter().zip(out.chunks_exact_mut(256)) {
            let (d, dmin) = (half_to_f32(block.d[lane]), half_to_f32(block.dmin[lane]));
            for (sub, out) in out.chunks_exact_mut(32).enumerate() {
                let scale = d * f32::from(block.scales[sub][lane]);
                let min = dmin * f32::from(block.mins[sub / 2][lane][sub % 2]);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = scale * block.weight(sub * 32 + k, lane) as f32 - min;
                }
            }
        }
    },
};

impl Q5KGroup {
    /// The weight (0 to 31) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (pair, rest) = (col / 64, col % 64);
        let low = nibble(self.quads[pair][rest % 32 / 4][lane][rest % 4], rest / 32);
        low | fifth_bit(&self.high[col / 32], col % 32, lane) << 4
    }
}

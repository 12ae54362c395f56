//! F32, F16 and BF16: columns one after the other, 16 rows each; bf16 in pairs of columns.

use half::bf16;
use ingle_gguf::TensorType;

use super::words::{Blocks, full_blocks, put_halves};
use super::{Format, Quads, ROWS, half_to_f32, u16_at};
use crate::ActKinds;

pub(super) const F32: Format = Format {
    ty: TensorType::F32,
    act_kind: ActKinds::F32,
    group_bytes: |n_cols| n_cols * ROWS * 4,
    pack: |rows, row_bytes, group| {
        let tail = pack_tiles(rows, row_bytes, group, put_quads_tile);
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (k, w) in row.chunks_exact(4).enumerate().skip(tail / 4) {
                group[(k * ROWS + lane) * 4..][..4].copy_from_slice(w);
            }
        }
    },
    unpack: |group, lane, out| {
        for (k, out) in out.iter_mut().enumerate() {
            let at = (k * ROWS + lane) * 4;
            *out = f32::from_le_bytes(group[at..at + 4].try_into().expect("four bytes"));
        }
    },
};

pub(super) const F16: Format = Format {
    ty: TensorType::F16,
    act_kind: ActKinds::F32,
    group_bytes: |n_cols| n_cols * ROWS * 2,
    pack: |rows, row_bytes, group| {
        let tail = pack_tiles(rows, row_bytes, group, |blocks, tile| {
            let mut columns = [[[0; ROWS]; 2]; 4];
            for (words, columns) in blocks.words(0).iter().zip(&mut columns) {
                put_halves(words, 0, &mut columns[0]);
                put_halves(words, 1, &mut columns[1]);
            }
            tile.copy_from_slice(bytemuck::bytes_of(&columns));
        });
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (k, w) in row.chunks_exact(2).enumerate().skip(tail / 2) {
                group[(k * ROWS + lane) * 2..][..2].copy_from_slice(w);
            }
        }
    },
    unpack: |group, lane, out| {
        for (k, out) in out.iter_mut().enumerate() {
            *out = half_to_f32(u16_at(group, (k * ROWS + lane) * 2));
        }
    },
};

pub(super) const BF16: Format = Format {
    ty: TensorType::BF16,
    act_kind: ActKinds::BF16,
    // Pairs of columns: an odd last column is followed by a zero.
    group_bytes: |n_cols| n_cols.div_ceil(2) * ROWS * 4,
    pack: |rows, row_bytes, group| {
        let tail = pack_tiles(rows, row_bytes, group, put_quads_tile);
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (k, w) in row.chunks_exact(2).enumerate().skip(tail / 2) {
                group[(k / 2 * ROWS + lane) * 4 + k % 2 * 2..][..2].copy_from_slice(w);
            }
        }
    },
    unpack: |group, lane, out| {
        for (k, out) in out.iter_mut().enumerate() {
            let bits = u16_at(group, (k / 2 * ROWS + lane) * 4 + k % 2 * 2);
            *out = bf16::from_bits(bits).to_f32();
        }
    },
};

/// Packs a full group in tiles of 16 bytes of each row, and says how many bytes of each row are done: none if the group
/// is not full, else all but the last few.
fn pack_tiles(
    rows: &[u8],
    row_bytes: usize,
    group: &mut [u8],
    put: impl Fn(Blocks<'_, 16>, &mut [u8]),
) -> usize {
    let Some(full) = full_blocks::<16>(rows, row_bytes) else { return 0 };
    for (blocks, tile) in full.zip(group.chunks_exact_mut(16 * ROWS)) {
        put(blocks, tile);
    }
    row_bytes / 16 * 16
}

/// A tile of 4 columns of floats, or 4 pairs of columns of half as many bytes.
fn put_quads_tile(blocks: Blocks<'_, 16>, tile: &mut [u8]) {
    let mut quads: [Quads; 4] = [[[0; 4]; ROWS]; 4];
    blocks.transpose(0, &mut quads);
    tile.copy_from_slice(bytemuck::bytes_of(&quads));
}

//! F32, F16 and BF16: columns one after the other, 16 rows each; bf16 in pairs of columns.

use half::bf16;
use ingle_gguf::TensorType;

use super::{Format, ROWS, half_to_f32, u16_at};
use crate::ActKinds;

pub(super) const F32: Format = Format {
    ty: TensorType::F32,
    act_kind: ActKinds::F32,
    group_bytes: |n_cols| n_cols * ROWS * 4,
    pack: |rows, row_bytes, group| {
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (k, w) in row.chunks_exact(4).enumerate() {
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
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (k, w) in row.chunks_exact(2).enumerate() {
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
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (k, w) in row.chunks_exact(2).enumerate() {
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

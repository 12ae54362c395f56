//! Where the weights of a row group lie: 16 rows interleaved, lane = row.
//!
//! A register of 64 bytes holds four consecutive columns of 16 rows; in types with nibbles, two such groups share a
//! register as low and high halves. Everything that a super-block needs lies on adjacent cache lines. Scales are
//! widened from 6 bits to bytes for this (2,368 bytes per 16 Q4_K super-blocks against 2,304 in the file); all else
//! has the file's size.
//!
//! The block layouts of the file are those of ggml's `ggml-common.h`.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use ingle_gguf::TensorType;

/// Rows of a group.
pub(crate) const ROWS: usize = 16;

/// Four consecutive columns of each row of a group: a register.
pub(crate) type Quads = [[u8; 4]; ROWS];

/// 16 rows of a Q4_K super-block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q4KGroup {
    /// `[pair of sub-blocks][columns / 4]`: low nibbles are the pair's first 32 columns, high nibbles its second.
    pub quads: [[Quads; 8]; 4],
    /// `[sub-block][row]`
    pub scales: [[u8; ROWS]; 8],
    /// `[pair of sub-blocks][row][sub-block of the pair]`
    pub mins: [[[u8; 2]; ROWS]; 4],
    /// f16 bits.
    pub d: [u16; ROWS],
    /// f16 bits.
    pub dmin: [u16; ROWS],
}

/// 16 rows of a Q6_K super-block, without `d` (see [`Paired`]).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Q6KGroup {
    /// `[half][ql byte / 4]`, ql as in the file.
    pub low: [[Quads; 16]; 2],
    /// `[half][qh byte / 4]`, qh as in the file.
    pub high: [[Quads; 8]; 2],
    /// `[sub-block of 16 columns][row]`
    pub scales: [[i8; ROWS]; 16],
}

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

const _: () = assert!(size_of::<Q4KGroup>() == 2368);
const _: () = assert!(size_of::<Q6KGroup>() == 3328);
const _: () = assert!(size_of::<Q80Group>() == 512);
const _: () = assert!(size_of::<Q40Group>() == 256);

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

impl Paired for Q6KGroup {}
impl Paired for Q80Group {}
impl Paired for Q40Group {}

/// Bytes of a row group, or `None` if there are no kernels for the type.
pub(crate) fn group_bytes(ty: TensorType, n_cols: usize) -> Option<usize> {
    Some(match ty {
        TensorType::F32 => n_cols * ROWS * 4,
        TensorType::F16 => n_cols * ROWS * 2,
        // Pairs of columns: an odd last column is followed by a zero.
        TensorType::BF16 => n_cols.div_ceil(2) * ROWS * 4,
        TensorType::Q8_0 => Q80Group::n_bytes(n_cols / 32),
        TensorType::Q4_0 => Q40Group::n_bytes(n_cols / 32),
        TensorType::Q4_K => n_cols / 256 * size_of::<Q4KGroup>(),
        TensorType::Q6_K => Q6KGroup::n_bytes(n_cols / 256),
        _ => return None,
    })
}

/// Repacks row `lane` of a group: `row` is the file's row.
pub(crate) fn pack_row(ty: TensorType, row: &[u8], lane: usize, group: &mut [u8]) {
    match ty {
        TensorType::F32 => {
            for (k, w) in row.chunks_exact(4).enumerate() {
                group[(k * ROWS + lane) * 4..][..4].copy_from_slice(w);
            }
        }
        TensorType::F16 => {
            for (k, w) in row.chunks_exact(2).enumerate() {
                group[(k * ROWS + lane) * 2..][..2].copy_from_slice(w);
            }
        }
        TensorType::BF16 => {
            for (k, w) in row.chunks_exact(2).enumerate() {
                group[(k / 2 * ROWS + lane) * 4 + k % 2 * 2..][..2].copy_from_slice(w);
            }
        }
        TensorType::Q8_0 => {
            for (b, block) in row.chunks_exact(34).enumerate() {
                let packed = Q80Group::block_mut(group, b);
                for (quads, quad) in packed.quads.iter_mut().zip(block[2..].chunks_exact(4)) {
                    // Two's complement plus 128 is the top bit flipped.
                    quads[lane] = std::array::from_fn(|i| quad[i] ^ 0x80);
                }
                Q80Group::scales_mut(group, b)[lane] = u16_at(block, 0);
            }
        }
        TensorType::Q4_0 => {
            for (b, block) in row.chunks_exact(18).enumerate() {
                put_quads(&mut Q40Group::block_mut(group, b).quads, lane, &block[2..]);
                Q40Group::scales_mut(group, b)[lane] = u16_at(block, 0);
            }
        }
        TensorType::Q4_K => {
            for (b, block) in row.chunks_exact(144).enumerate() {
                let bytes = &mut group[b * size_of::<Q4KGroup>()..][..size_of::<Q4KGroup>()];
                let packed: &mut Q4KGroup = bytemuck::from_bytes_mut(bytes);
                packed.d[lane] = u16_at(block, 0);
                packed.dmin[lane] = u16_at(block, 2);
                for sub in 0..8 {
                    let (scale, min) = six_bit_pair(&block[4..16], sub);
                    packed.scales[sub][lane] = scale;
                    packed.mins[sub / 2][lane][sub % 2] = min;
                }
                for (pair, quads) in packed.quads.iter_mut().enumerate() {
                    put_quads(quads, lane, &block[16 + pair * 32..][..32]);
                }
            }
        }
        TensorType::Q6_K => {
            for (b, block) in row.chunks_exact(210).enumerate() {
                let packed = Q6KGroup::block_mut(group, b);
                for half in 0..2 {
                    put_quads(&mut packed.low[half], lane, &block[half * 64..][..64]);
                    put_quads(&mut packed.high[half], lane, &block[128 + half * 32..][..32]);
                }
                for (sub, scales) in packed.scales.iter_mut().enumerate() {
                    scales[lane] = block[192 + sub] as i8;
                }
                Q6KGroup::scales_mut(group, b)[lane] = u16_at(block, 208);
            }
        }
        _ => unreachable!("Matrix holds only types that group_bytes knows"),
    }
}

/// Row `lane` of a group as floats: exactly what the file's row dequantizes to, operation by operation as ggml
/// does it (no fused multiply-add).
pub(crate) fn unpack_row(ty: TensorType, group: &[u8], lane: usize, out: &mut [f32]) {
    match ty {
        TensorType::F32 => {
            for (k, out) in out.iter_mut().enumerate() {
                let at = (k * ROWS + lane) * 4;
                *out = f32::from_le_bytes(group[at..at + 4].try_into().expect("four bytes"));
            }
        }
        TensorType::F16 => {
            for (k, out) in out.iter_mut().enumerate() {
                *out = half_to_f32(u16_at(group, (k * ROWS + lane) * 2));
            }
        }
        TensorType::BF16 => {
            for (k, out) in out.iter_mut().enumerate() {
                let bits = u16_at(group, (k / 2 * ROWS + lane) * 4 + k % 2 * 2);
                *out = bf16::from_bits(bits).to_f32();
            }
        }
        TensorType::Q8_0 => {
            for (b, out) in out.chunks_exact_mut(32).enumerate() {
                let (block, scales) = Q80Group::read(group, b);
                let d = half_to_f32(scales[lane]);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = (block.weight(k, lane) - 128) as f32 * d;
                }
            }
        }
        TensorType::Q4_0 => {
            for (b, out) in out.chunks_exact_mut(32).enumerate() {
                let (block, scales) = Q40Group::read(group, b);
                let d = half_to_f32(scales[lane]);
                for (k, out) in out.iter_mut().enumerate() {
                    *out = (block.weight(k, lane) - 8) as f32 * d;
                }
            }
        }
        TensorType::Q4_K => {
            for (block, out) in
                bytemuck::cast_slice::<u8, Q4KGroup>(group).iter().zip(out.chunks_exact_mut(256))
            {
                let (d, dmin) = (half_to_f32(block.d[lane]), half_to_f32(block.dmin[lane]));
                for (sub, out) in out.chunks_exact_mut(32).enumerate() {
                    let scale = d * f32::from(block.scales[sub][lane]);
                    let min = dmin * f32::from(block.mins[sub / 2][lane][sub % 2]);
                    for (k, out) in out.iter_mut().enumerate() {
                        *out = scale * block.weight(sub * 32 + k, lane) as f32 - min;
                    }
                }
            }
        }
        TensorType::Q6_K => {
            for (b, out) in out.chunks_exact_mut(256).enumerate() {
                let (block, scales) = Q6KGroup::read(group, b);
                let d = half_to_f32(scales[lane]);
                for (sub, out) in out.chunks_exact_mut(16).enumerate() {
                    let scale = d * f32::from(block.scales[sub][lane]);
                    for (k, out) in out.iter_mut().enumerate() {
                        *out = scale * (block.weight(sub * 16 + k, lane) - 32) as f32;
                    }
                }
            }
        }
        _ => unreachable!("Matrix holds only types that group_bytes knows"),
    }
}

impl Q4KGroup {
    /// The weight (0 to 15) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        let (pair, rest) = (col / 64, col % 64);
        nibble(self.quads[pair][rest % 32 / 4][lane][rest % 4], rest / 32)
    }
}

impl Q6KGroup {
    /// The weight (0 to 63, to be lowered by 32) of a column of the super-block.
    pub(crate) fn weight(&self, col: usize, lane: usize) -> i32 {
        // A half has four runs of 32 columns. Low bits: runs 0 and 1 are the low nibbles of ql, 2 and 3 the high
        // ones. High bits: run `n` is at bits `2n` of qh.
        let (half, rest) = (col / 128, col % 128);
        let low = nibble(self.low[half][rest % 64 / 4][lane][rest % 4], rest / 64);
        let high = self.high[half][rest % 32 / 4][lane][rest % 4] >> (rest / 32 * 2) & 3;
        low | i32::from(high) << 4
    }
}

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

fn put_quads(quads: &mut [Quads], lane: usize, bytes: &[u8]) {
    for (quads, quad) in quads.iter_mut().zip(bytes.chunks_exact(4)) {
        quads[lane].copy_from_slice(quad);
    }
}

/// Scale and minimum of a sub-block from the 12 bytes that hold eight of each in 6 bits.
fn six_bit_pair(bytes: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (bytes[sub] & 63, bytes[sub + 4] & 63)
    } else {
        (bytes[sub + 4] & 15 | bytes[sub - 4] >> 6 << 4, bytes[sub + 4] >> 4 | bytes[sub] >> 6 << 4)
    }
}

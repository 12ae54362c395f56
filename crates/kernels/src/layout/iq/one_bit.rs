//! IQ1_S and IQ1_M: an index for 8 weights of -1, 0 or 1, to which an eighth is added or subtracted. Times 8 that is
//! -9 to 9: still integers.

use bytemuck::{Pod, Zeroable};
use ingle_gguf::TensorType;

use super::codebooks;
use super::{
    Format, Grid, Mask, Paired, Quads, group_bytes, index, pack_blocks, put_bits, put_quads, u16_at, unpack,
};
use crate::ActKinds;

/// 16 rows of an IQ1_S super-block.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq1SGroup {
    /// `[columns / 32]`: a byte is the index of 8 columns.
    pub indices: [Quads; 8],
    /// `[bit of the index, from the ninth][columns / 32]`
    pub high: [[Mask; 8]; 3],
    /// The top bit of a nibble is set where the eighth is subtracted.
    pub scales: [Quads; 1],
}

/// 16 rows of an IQ1_M super-block: see [`Iq1SGroup`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Iq1MGroup {
    pub indices: [Quads; 8],
    pub high: [[Mask; 8]; 3],
    /// `[columns / 8]`, a bit per row: set where the eighth is subtracted.
    pub minus: [u16; 32],
    pub scales: [Quads; 2],
}

const _: () = assert!(size_of::<Iq1SGroup>() == 12 * 64);
const _: () = assert!(size_of::<Iq1MGroup>() == 14 * 64);

impl Paired for Iq1SGroup {}
impl Paired for Iq1MGroup {}

impl Grid for Iq1SGroup {
    const FACTOR: f32 = 0.125;
    const N_SUBS: usize = 8;
    const SCALE_BITS: u8 = 7;

    fn scales(&self) -> &[Quads] {
        &self.scales
    }

    fn quad(&self, i: usize, lane: usize) -> [i8; 4] {
        let minus = self.scales[0][lane][i / 16] >> (4 * (i / 8 % 2)) & 8 != 0;
        weights(codebooks::IQ1[index(&self.indices, &self.high, i / 2, lane)], minus, i)
    }
}

impl Grid for Iq1MGroup {
    const FACTOR: f32 = 0.125;
    const N_SUBS: usize = 16;
    const SCALE_BITS: u8 = 7;

    fn scales(&self) -> &[Quads] {
        &self.scales
    }

    fn quad(&self, i: usize, lane: usize) -> [i8; 4] {
        let minus = self.minus[i / 2] >> lane & 1 == 1;
        weights(codebooks::IQ1[index(&self.indices, &self.high, i / 2, lane)], minus, i)
    }
}

pub(in crate::layout) const IQ1_S: Format = Format {
    ty: TensorType::IQ1_S,
    act_kind: ActKinds::Q8_256,
    group_bytes: group_bytes::<Iq1SGroup>,
    pack: |rows, row_bytes, group| {
        pack_blocks::<50>(rows, row_bytes, |b, lane, block| {
            let packed = Iq1SGroup::block_mut(group, b);
            put_quads(&mut packed.indices, lane, &block[2..34]);
            for register in 0..8 {
                // Three high bits of each of four indices, the scale, and the sign of the eighth.
                let rest = u16_at(block, 34 + 2 * register);
                for j in 0..4 {
                    put_high(&mut packed.high, register * 4 + j, lane, rest >> (3 * j));
                }
                packed.scales[0][lane][register / 2] |= ((rest >> 12) << (4 * (register % 2))) as u8;
            }
            Iq1SGroup::scales_mut(group, b)[lane] = u16_at(block, 0);
        });
    },
    unpack: unpack::<Iq1SGroup>,
};

pub(in crate::layout) const IQ1_M: Format = Format {
    ty: TensorType::IQ1_M,
    act_kind: ActKinds::Q8_256,
    group_bytes: group_bytes::<Iq1MGroup>,
    pack: |rows, row_bytes, group| {
        pack_blocks::<56>(rows, row_bytes, |b, lane, block| {
            let packed = Iq1MGroup::block_mut(group, b);
            put_quads(&mut packed.indices, lane, &block[..32]);
            for n in 0..32 {
                // Three high bits of an index, and the sign of the eighth.
                let rest = u16::from(block[32 + n / 2] >> (4 * (n % 2)));
                put_high(&mut packed.high, n, lane, rest);
                packed.minus[n] |= (rest >> 3 & 1) << lane;
            }
            // Four words, each of four scales of 3 bits and of 4 bits of `d`.
            let mut d = 0;
            for word in 0..4 {
                let bits = u16_at(block, 48 + 2 * word);
                d |= bits >> 12 << (4 * word);
                for j in 0..4 {
                    let sub = word * 4 + j;
                    let scale = (bits >> (3 * j) & 7) as u8;
                    packed.scales[sub / 8][lane][sub % 8 / 2] |= scale << (4 * (sub % 2));
                }
            }
            Iq1MGroup::scales_mut(group, b)[lane] = d;
        });
    },
    unpack: unpack::<Iq1MGroup>,
};

/// Sets the three high bits of index `n`.
fn put_high(high: &mut [[Mask; 8]; 3], n: usize, lane: usize, bits: u16) {
    for (i, masks) in high.iter_mut().enumerate() {
        put_bits(&mut masks[n / 4], lane, usize::from(bits >> i & 1) << (n % 4));
    }
}

/// Eight times the weights of columns `4 * i..`: one half of a codebook entry, and the eighth.
fn weights(entry: u16, minus: bool, i: usize) -> [i8; 4] {
    let codes = entry >> (8 * (i % 2));
    let eighth = if minus { -1 } else { 1 };
    std::array::from_fn(|k| 8 * ((codes >> (2 * k) & 3) as i8 - 1) + eighth)
}

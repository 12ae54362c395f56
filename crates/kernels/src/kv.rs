//! K/V memory of one layer, in blocks.
//!
//! Each block holds, K/V head after K/V head, first the keys and then the values of its slots:
//! ```text
//! keys    [block_size / 16] groups of [k_dim][16 slots]    lane = slot: a score is one chain over k_dim
//! values  [block_size][v_dim, padded to 16]                 lane = element: an output is one chain over slots
//! ```
//! Q8_0 has int8 codes in these places, and behind each group of keys and behind all values one f16 scale per 32
//! elements: `[k_dim / 32][16 slots]` and `[block_size][v_dim / 32]`, both rounded up.
//!
//! Q4_0 has the same scales, and two codes in a byte, low bits first, each 8 more than it stands for. They belong to two
//! vectors of sixteen that follow each other: two elements of a key, or elements `i` and `i + 16` of 32 of a value. So
//! there are `[k_dim / 2][16 slots]` and `[block_size][v_dim / 32][16]` bytes, rounded up.

#![expect(
    unsafe_code,
    reason = "threads write their own heads of a block; functions that need an instruction set"
)]

use bytemuck::{cast_slice, cast_slice_mut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ingle_step::KvType;

use crate::lanes::N_LANES;
use crate::memory::{AlignedBytes, LINE};
use crate::{Isa, Pool};

/// Elements that share a scale in Q8_0 and Q4_0.
pub(crate) const QUANT_BLOCK: usize = 32;
/// Adding this (1.5 * 2^23) rounds to an integer in the low bits, ties to even.
const ROUND: f32 = 12_582_912.0;
/// A store of fewer elements than this is not worth waking anyone.
const PARALLEL_ELEMENTS_MIN: usize = 16_384;
/// Work is divided by head, and by block modulo this if there are few heads.
const BLOCK_CLASSES: usize = 4;

/// The shape of a layer's K/V memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// How numbers are stored.
    pub kv_type: KvType,
    /// Heads of K and V.
    pub n_kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Slots in a block: a multiple of 16.
    pub block_size: usize,
}

impl KvLayout {
    /// Bytes of a block, all heads, keys and values: what a cache is sized by.
    pub fn block_bytes(&self) -> usize {
        self.n_kv_heads * self.head_bytes()
    }

    /// Elements of a stored value: whole lanes.
    pub(crate) fn v_padded(&self) -> usize {
        self.v_dim.next_multiple_of(N_LANES)
    }

    /// Bytes of `n` vectors of sixteen codes that are stored together.
    fn vector_bytes(&self, n: usize) -> usize {
        match self.kv_type {
            KvType::F32 => n * N_LANES * 4,
            KvType::F16 | KvType::BF16 => n * N_LANES * 2,
            KvType::Q8_0 => n * N_LANES,
            KvType::Q4_0 => n.div_ceil(2) * N_LANES,
        }
    }

    /// Bytes of a stored value.
    fn v_row_bytes(&self) -> usize {
        self.vector_bytes(self.v_padded() / N_LANES)
    }

    /// Bytes of a key that lie together: what one slot has of a vector's lanes.
    fn lane_bytes(&self) -> usize {
        self.vector_bytes(1) / N_LANES
    }

    /// Scales of a vector of `dim` elements.
    fn n_scales(&self, dim: usize) -> usize {
        if matches!(self.kv_type, KvType::Q8_0 | KvType::Q4_0) { dim.div_ceil(QUANT_BLOCK) } else { 0 }
    }

    fn k_group_codes(&self) -> usize {
        self.vector_bytes(self.k_dim)
    }

    fn k_group_bytes(&self) -> usize {
        self.k_group_codes() + self.n_scales(self.k_dim) * N_LANES * 2
    }

    fn k_bytes(&self) -> usize {
        self.block_size / N_LANES * self.k_group_bytes()
    }

    fn v_codes(&self) -> usize {
        self.block_size * self.v_row_bytes()
    }

    /// One head's share of a block.
    fn head_bytes(&self) -> usize {
        let v_bytes = self.v_codes() + self.block_size * self.n_scales(self.v_padded()) * 2;
        (self.k_bytes() + v_bytes).next_multiple_of(LINE)
    }
}

/// The K/V memory of one layer: `n_blocks` blocks of `block_size` slots.
#[derive(Debug)]
pub struct KvLayer {
    memory: AlignedBytes,
    layout: KvLayout,
    n_blocks: usize,
    strides: Strides,
}

/// Sizes in bytes that follow from a layout, for the inner loops.
#[derive(Clone, Copy, Debug)]
struct Strides {
    k_group: usize,
    k_group_codes: usize,
    v_start: usize,
    v_group_codes: usize,
    v_scales: usize,
    v_group_scales: usize,
    head: usize,
    block: usize,
}

/// Sixteen keys as stored.
#[derive(Clone, Copy)]
pub(crate) struct KeyGroup<'a> {
    /// `[k_dim][16]`
    pub(crate) codes: &'a [u8],
    /// `[k_dim / 32][16]`, empty unless Q8_0 or Q4_0.
    pub(crate) scales: &'a [f16],
}

/// Sixteen values as stored.
#[derive(Clone, Copy)]
pub(crate) struct ValueGroup<'a> {
    /// `[16][v_padded]`
    pub(crate) codes: &'a [u8],
    /// `[16][v_padded / 32]`, empty unless Q8_0 or Q4_0.
    pub(crate) scales: &'a [f16],
}

impl KvLayer {
    /// Reserves memory; the system commits it as it is written.
    ///
    /// # Panics
    /// If the system refuses the memory, or the shape has a zero or a block size that is no multiple of 16.
    pub fn new(layout: KvLayout, n_blocks: usize) -> Self {
        Self::try_new(layout, n_blocks)
            .expect("memory for the K/V cache: reduce the context or the sequences")
    }

    /// As [`KvLayer::new`], but `None` if the system refuses the memory.
    ///
    /// # Panics
    /// If the shape has a zero or a block size that is no multiple of 16.
    pub fn try_new(layout: KvLayout, n_blocks: usize) -> Option<Self> {
        let KvLayout { n_kv_heads, k_dim, v_dim, block_size, .. } = layout;
        assert!(
            n_kv_heads > 0 && k_dim > 0 && v_dim > 0 && block_size > 0,
            "no dimension is zero: {layout:?}"
        );
        assert!(block_size.is_multiple_of(N_LANES), "blocks of a multiple of 16 slots: {layout:?}");
        let memory = AlignedBytes::try_zeroed(layout.block_bytes().checked_mul(n_blocks)?)?;
        let strides = Strides {
            k_group: layout.k_group_bytes(),
            k_group_codes: layout.k_group_codes(),
            v_start: layout.k_bytes(),
            v_group_codes: N_LANES * layout.v_row_bytes(),
            v_scales: layout.k_bytes() + layout.v_codes(),
            v_group_scales: N_LANES * layout.n_scales(layout.v_padded()) * 2,
            head: layout.head_bytes(),
            block: layout.block_bytes(),
        };
        Some(Self { memory, layout, n_blocks, strides })
    }

    /// Bytes reserved.
    pub fn n_bytes(&self) -> usize {
        self.memory.len()
    }

    /// The shape.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Blocks held.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Stores rows: row `i` of `k` `(n, n_kv_heads * k_dim)` and `v` `(n, n_kv_heads * v_dim)` goes to
    /// `slots[i] = (block, slot)`. Rounds to the layer's type. Slots must be distinct. In parallel.
    ///
    /// # Panics
    /// If lengths don't fit, or a slot does not exist.
    pub fn store(&mut self, pool: &Pool, k: &[f32], v: &[f32], slots: &[(u32, u32)]) {
        /// The start of the memory.
        struct Start(*mut u8);
        // SAFETY: claims write disjoint parts: see below.
        unsafe impl Sync for Start {}
        impl Start {
            fn get(&self) -> *mut u8 {
                self.0
            }
        }
        let layout = self.layout;
        let KvLayout { n_kv_heads, k_dim, v_dim, block_size, .. } = layout;
        assert_eq!(k.len(), slots.len() * n_kv_heads * k_dim, "keys of {} rows", slots.len());
        assert_eq!(v.len(), slots.len() * n_kv_heads * v_dim, "values of {} rows", slots.len());
        for &(block, slot) in slots {
            assert!(
                (block as usize) < self.n_blocks && (slot as usize) < block_size,
                "slot {slot} of block {block} exists"
            );
        }
        let Strides { head: head_bytes, block: block_bytes, .. } = self.strides;
        let n_classes = if n_kv_heads < BLOCK_CLASSES { BLOCK_CLASSES } else { 1 };
        let isa = pool.isa();
        let start = Start(self.memory.as_mut_ptr());
        let store = |claim: usize| {
            let (head, class) = (claim / n_classes, claim % n_classes);
            for (i, &(block, slot)) in slots.iter().enumerate() {
                let (block, slot) = (block as usize, slot as usize);
                if block % n_classes != class {
                    continue;
                }
                // SAFETY: block and head exist, so the range lies in the memory, which `self` borrows mutably. A claim
                // touches one head of the blocks of its class, and no other claim has the same head and class.
                let bytes = unsafe {
                    let first = start.get().add(block * block_bytes + head * head_bytes);
                    std::slice::from_raw_parts_mut(first, head_bytes)
                };
                let row = i * n_kv_heads + head;
                store_key(isa, &layout, bytes, slot, &k[row * k_dim..][..k_dim]);
                store_value(isa, &layout, bytes, slot, &v[row * v_dim..][..v_dim]);
            }
        };
        if k.len() + v.len() < PARALLEL_ELEMENTS_MIN {
            (0..n_kv_heads * n_classes).for_each(store);
        } else {
            pool.run(n_kv_heads * n_classes, &store);
        }
    }

    /// Duplicates the first `n_slots` slots of a block.
    ///
    /// # Panics
    /// If a block or a slot does not exist.
    pub fn copy_block(&mut self, from: u32, to: u32, n_slots: usize) {
        let layout = self.layout;
        let (from, to) = (from as usize, to as usize);
        assert!(from < self.n_blocks && to < self.n_blocks, "blocks {from} and {to} exist");
        assert!(n_slots <= layout.block_size, "a block has {} slots, not {n_slots}", layout.block_size);
        if from == to {
            return;
        }
        let block_bytes = layout.block_bytes();
        let memory = &mut *self.memory;
        let (source, target) = if from < to {
            let (head, tail) = memory.split_at_mut(to * block_bytes);
            (&head[from * block_bytes..][..block_bytes], &mut tail[..block_bytes])
        } else {
            let (head, tail) = memory.split_at_mut(from * block_bytes);
            (&tail[..block_bytes], &mut head[to * block_bytes..][..block_bytes])
        };
        let head_bytes = layout.head_bytes();
        for (source, target) in source.chunks_exact(head_bytes).zip(target.chunks_exact_mut(head_bytes)) {
            copy_slots(&layout, source, target, n_slots);
        }
    }

    /// A block as it is stored: `layout().block_bytes()` bytes.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&self, block: u32) -> &[u8] {
        &self.memory[self.block_range(block)]
    }

    /// As [`KvLayer::block`], with only the first `n_slots` slots: the others are zero, whatever is in them.
    ///
    /// # Panics
    /// If a block or a slot does not exist.
    pub fn slots(&self, block: u32, n_slots: usize) -> Vec<u8> {
        let layout = self.layout;
        assert!(n_slots <= layout.block_size, "a block has {} slots, not {n_slots}", layout.block_size);
        let source = self.block(block);
        let mut target = vec![0; source.len()];
        let head_bytes = layout.head_bytes();
        for (source, target) in source.chunks_exact(head_bytes).zip(target.chunks_exact_mut(head_bytes)) {
            copy_slots(&layout, source, target, n_slots);
        }
        target
    }

    /// Overwrites a block with what [`KvLayer::block`] gave of a layer with this layout.
    ///
    /// # Panics
    /// If there is no such block, or the bytes are not as many as it has.
    pub fn set_block(&mut self, block: u32, bytes: &[u8]) {
        let range = self.block_range(block);
        self.memory[range].copy_from_slice(bytes);
    }

    fn block_range(&self, block: u32) -> std::ops::Range<usize> {
        assert!((block as usize) < self.n_blocks, "block {block} of {} exists", self.n_blocks);
        let first = block as usize * self.strides.block;
        first..first + self.strides.block
    }

    /// Group `group` of the keys of a head of a block.
    #[inline(always)]
    pub(crate) fn keys(&self, block: u32, head: usize, group: usize) -> KeyGroup<'_> {
        let strides = &self.strides;
        let bytes = &self.head(block, head)[group * strides.k_group..][..strides.k_group];
        let (codes, scales) = bytes.split_at(strides.k_group_codes);
        KeyGroup { codes, scales: cast_slice(scales) }
    }

    /// Group `group` of the values of a head of a block.
    #[inline(always)]
    pub(crate) fn values(&self, block: u32, head: usize, group: usize) -> ValueGroup<'_> {
        let strides = &self.strides;
        let bytes = self.head(block, head);
        let codes = &bytes[strides.v_start + group * strides.v_group_codes..][..strides.v_group_codes];
        let scales = &bytes[strides.v_scales + group * strides.v_group_scales..][..strides.v_group_scales];
        ValueGroup { codes, scales: cast_slice(scales) }
    }

    #[inline(always)]
    fn head(&self, block: u32, head: usize) -> &[u8] {
        assert!((block as usize) < self.n_blocks && head < self.layout.n_kv_heads, "block {block} exists");
        let first = block as usize * self.strides.block + head * self.strides.head;
        &self.memory[first..][..self.strides.head]
    }
}

/// Writes a key to its lane, rounded. `bytes` is a head's share of a block.
fn store_key(isa: Isa, layout: &KvLayout, bytes: &mut [u8], slot: usize, key: &[f32]) {
    let lane = slot % N_LANES;
    let group_bytes = layout.k_group_bytes();
    let group = &mut bytes[slot / N_LANES * group_bytes..][..group_bytes];
    let (codes, scales) = group.split_at_mut(layout.k_group_codes());
    match layout.kv_type {
        KvType::F32 => {
            for (lanes, &x) in lanes_of::<f32>(codes).iter_mut().zip(key) {
                lanes[lane] = x;
            }
        }
        KvType::F16 => {
            let mut rounded = [f16::ZERO; 64];
            for (lanes, key) in lanes_of::<f16>(codes).chunks_mut(64).zip(key.chunks(64)) {
                rounded[..key.len()].convert_from_f32_slice(key);
                for (lanes, &x) in lanes.iter_mut().zip(&rounded) {
                    lanes[lane] = x;
                }
            }
        }
        KvType::BF16 => {
            for (lanes, &x) in lanes_of::<bf16>(codes).iter_mut().zip(key) {
                lanes[lane] = bf16::from_f32(x);
            }
        }
        KvType::Q8_0 => {
            let blocks = lanes_of::<i8>(codes).chunks_mut(QUANT_BLOCK).zip(lanes_of::<f16>(scales));
            for ((lanes, scales), key) in blocks.zip(key.chunks(QUANT_BLOCK)) {
                let (scale, codes) = quantize(isa, key);
                scales[lane] = scale;
                for (lanes, &code) in lanes.iter_mut().zip(&codes) {
                    lanes[lane] = code;
                }
            }
        }
        KvType::Q4_0 => {
            let blocks = lanes_of::<u8>(codes).chunks_mut(QUANT_BLOCK / 2).zip(lanes_of::<f16>(scales));
            for ((lanes, scales), key) in blocks.zip(key.chunks(QUANT_BLOCK)) {
                let (scale, codes) = quantize_4(key);
                scales[lane] = scale;
                for (lanes, &[low, high]) in lanes.iter_mut().zip(codes.as_chunks().0) {
                    lanes[lane] = low | high << 4;
                }
            }
        }
    }
}

/// Writes a value to its row, rounded. Padding stays zero.
fn store_value(isa: Isa, layout: &KvLayout, bytes: &mut [u8], slot: usize, value: &[f32]) {
    let row_bytes = layout.v_row_bytes();
    let (codes, scales) = bytes[layout.k_bytes()..].split_at_mut(layout.v_codes());
    let row = &mut codes[slot * row_bytes..][..row_bytes];
    match layout.kv_type {
        KvType::F32 => cast_slice_mut::<u8, f32>(row)[..value.len()].copy_from_slice(value),
        KvType::F16 => cast_slice_mut::<u8, f16>(row)[..value.len()].convert_from_f32_slice(value),
        KvType::BF16 => cast_slice_mut::<u8, bf16>(row)[..value.len()].convert_from_f32_slice(value),
        KvType::Q8_0 => {
            let n_scales = layout.n_scales(layout.v_padded());
            let scales: &mut [f16] = cast_slice_mut(&mut scales[slot * n_scales * 2..][..n_scales * 2]);
            let blocks = cast_slice_mut::<u8, i8>(row).chunks_mut(QUANT_BLOCK).zip(scales);
            for ((row, scale), value) in blocks.zip(value.chunks(QUANT_BLOCK)) {
                let (s, codes) = quantize(isa, value);
                *scale = s;
                row[..value.len()].copy_from_slice(&codes[..value.len()]);
            }
        }
        KvType::Q4_0 => {
            let n_scales = layout.n_scales(layout.v_padded());
            let scales: &mut [f16] = cast_slice_mut(&mut scales[slot * n_scales * 2..][..n_scales * 2]);
            let blocks = row.chunks_exact_mut(N_LANES).zip(scales).zip(value.chunks(QUANT_BLOCK));
            for ((row, scale), value) in blocks {
                let (s, codes) = quantize_4(value);
                *scale = s;
                let (low, high) = codes.split_at(N_LANES);
                for ((byte, low), high) in row.iter_mut().zip(low).zip(high) {
                    *byte = low | high << 4;
                }
            }
        }
    }
}

/// Up to 32 numbers as int8 multiples of a scale that takes the largest to 127. The codes belong to the scale as
/// it is stored, so its rounding adds no error. A block with an infinity or NaN gets a scale that is NaN: whoever
/// reads it shall notice, as with the other types.
fn quantize(isa: Isa, x: &[f32]) -> (f16, [i8; QUANT_BLOCK]) {
    let mut padded = [0.0; QUANT_BLOCK];
    padded[..x.len()].copy_from_slice(x);
    let mut codes = [0; QUANT_BLOCK];
    let scale = match isa {
        // SAFETY: `Pool` checked that the machine has its instruction set.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { quantize_avx512(&padded, &mut codes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { quantize_avx2(&padded, &mut codes) },
        _ => quantize_any(&padded, &mut codes),
    };
    (scale, codes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn quantize_avx512(x: &[f32; QUANT_BLOCK], codes: &mut [i8; QUANT_BLOCK]) -> f16 {
    quantize_any(x, codes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2(x: &[f32; QUANT_BLOCK], codes: &mut [i8; QUANT_BLOCK]) -> f16 {
    quantize_any(x, codes)
}

/// One source for every instruction set: all of it is element by element, but for a maximum of integers.
#[inline(always)]
fn quantize_any(x: &[f32; QUANT_BLOCK], codes: &mut [i8; QUANT_BLOCK]) -> f16 {
    // As integers, magnitudes compare like floats, with NaN above infinity.
    let largest = f32::from_bits(x.iter().fold(0, |max: u32, x| max.max(x.to_bits() & 0x7FFF_FFFF)));
    if !largest.is_finite() {
        *codes = [0; QUANT_BLOCK];
        return f16::NAN;
    }
    let scale = f16::from_f32(largest / 127.0);
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    for (code, x) in codes.iter_mut().zip(x) {
        // The clamp matters when the scale was rounded down.
        let rounded = (x * inverse).clamp(-127.0, 127.0) + ROUND;
        *code = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i8;
    }
    scale
}

/// Up to 32 numbers as 4-bit multiples of a scale that takes the largest to -8, each code 8 more than it stands for. As
/// GGUF's Q4_0, but that codes belong to the scale as it is stored. What is not finite makes a scale that is NaN.
fn quantize_4(x: &[f32]) -> (f16, [u8; QUANT_BLOCK]) {
    const ZERO: u8 = 8;
    let magnitude = |x: &f32| x.to_bits() & 0x7FFF_FFFF;
    let largest =
        x.iter().fold(0.0, |largest, x| if magnitude(x) > magnitude(&largest) { *x } else { largest });
    if !largest.is_finite() {
        return (f16::NAN, [ZERO; QUANT_BLOCK]);
    }
    let scale = f16::from_f32(largest / -8.0);
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let mut codes = [ZERO; QUANT_BLOCK];
    for (code, x) in codes.iter_mut().zip(x) {
        // Of two opposite largest ones, the other has no code of its own.
        let rounded = (x * inverse).clamp(-8.0, 7.0) + ROUND;
        *code = (rounded.to_bits().wrapping_sub(ROUND.to_bits()) as u8).wrapping_add(ZERO);
    }
    (scale, codes)
}

fn lanes_of<T: bytemuck::Pod>(bytes: &mut [u8]) -> &mut [[T; N_LANES]] {
    cast_slice_mut::<u8, T>(bytes).as_chunks_mut().0
}

/// Copies the first `n_slots` slots of one head's share of a block.
fn copy_slots(layout: &KvLayout, source: &[u8], target: &mut [u8], n_slots: usize) {
    let (whole, rest) = (n_slots / N_LANES, n_slots % N_LANES);
    let group_bytes = layout.k_group_bytes();
    target[..whole * group_bytes].copy_from_slice(&source[..whole * group_bytes]);
    if rest > 0 {
        let range = whole * group_bytes..(whole + 1) * group_bytes;
        let n_codes = layout.k_group_codes();
        let (source_codes, source_scales) = source[range.clone()].split_at(n_codes);
        let (target_codes, target_scales) = target[range].split_at_mut(n_codes);
        let copy_lanes = |source: &[u8], target: &mut [u8], bytes: usize| {
            for (s, t) in source.chunks(N_LANES * bytes).zip(target.chunks_mut(N_LANES * bytes)) {
                t[..rest * bytes].copy_from_slice(&s[..rest * bytes]);
            }
        };
        copy_lanes(source_codes, target_codes, layout.lane_bytes());
        copy_lanes(source_scales, target_scales, 2);
    }
    let n_codes = n_slots * layout.v_row_bytes();
    let n_scales = n_slots * layout.n_scales(layout.v_padded()) * 2;
    for (first, n) in [(layout.k_bytes(), n_codes), (layout.k_bytes() + layout.v_codes(), n_scales)] {
        target[first..][..n].copy_from_slice(&source[first..][..n]);
    }
}

#[cfg(test)]
pub(crate) mod tests;

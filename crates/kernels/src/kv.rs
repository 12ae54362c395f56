//! K/V memory of one layer, in blocks.

use ingle_step::KvType;

use crate::Pool;

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

/// The K/V memory of one layer: `n_blocks` blocks of `block_size` slots.
#[derive(Debug)]
pub struct KvLayer {}

impl KvLayer {
    /// Reserves memory; the system commits it as it is written.
    pub fn new(_layout: KvLayout, _n_blocks: usize) -> Self {
        todo!()
    }

    /// Bytes reserved.
    pub fn n_bytes(&self) -> usize {
        todo!()
    }

    /// The shape.
    pub fn layout(&self) -> KvLayout {
        todo!()
    }

    /// Stores rows: row `i` of `k` `(n, n_kv_heads * k_dim)` and `v` `(n, n_kv_heads * v_dim)` goes to
    /// `slots[i] = (block, slot)`. Rounds to the layer's type. Slots must be distinct. In parallel.
    pub fn store(&mut self, _pool: &Pool, _k: &[f32], _v: &[f32], _slots: &[(u32, u32)]) {
        todo!()
    }

    /// Duplicates the first `n_slots` slots of a block.
    pub fn copy_block(&mut self, _from: u32, _to: u32, _n_slots: usize) {
        todo!()
    }
}

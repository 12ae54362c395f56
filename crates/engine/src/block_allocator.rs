//! Which KV blocks are in use, and by how many holders. Indices only: the memory behind them is the executor's.
//!
//! A block is **free** (no holder) or **held**. Holders are the block tables of sequences and, once for each block
//! it keeps, the [prefix cache](crate::prefix_cache). A block with several holders is read-only: whoever wants to
//! write into it first takes a fresh one and copies (the scheduler's copy-on-write).

use ingle_step::BlockId;

/// Reference counts and a free list over a fixed number of blocks.
#[derive(Clone, Debug)]
pub struct BlockAllocator {
    /// Holders of each block. `(n_blocks,)`
    ref_counts: Vec<u32>,
    /// Blocks without a holder; taken from the end.
    free: Vec<BlockId>,
}

impl BlockAllocator {
    /// All blocks free.
    pub fn new(n_blocks: usize) -> Self {
        let n_blocks = u32::try_from(n_blocks).expect("block indices are 32-bit");
        Self { ref_counts: vec![0; n_blocks as usize], free: (0..n_blocks).rev().map(BlockId).collect() }
    }

    /// How many blocks there are.
    pub fn n_blocks(&self) -> usize {
        self.ref_counts.len()
    }

    /// How many have no holder.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// How many holders a block has.
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.ref_counts[block.0 as usize]
    }

    /// A free block, now with one holder; `None` if there is none.
    pub fn take(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        let count = &mut self.ref_counts[block.0 as usize];
        assert_eq!(*count, 0, "block {} is on the free list but has {count} holders", block.0);
        *count = 1;
        Some(block)
    }

    /// One more holder of a held block. Gives how many there are now.
    pub fn retain(&mut self, block: BlockId) -> u32 {
        let count = &mut self.ref_counts[block.0 as usize];
        assert!(*count > 0, "block {} is free: only its first holder may take it", block.0);
        *count += 1;
        *count
    }

    /// One holder less. Gives how many are left; at 0 the block is free.
    pub fn release(&mut self, block: BlockId) -> u32 {
        let count = &mut self.ref_counts[block.0 as usize];
        assert!(*count > 0, "block {} is released more often than it was taken", block.0);
        *count -= 1;
        if *count == 0 {
            self.free.push(block);
        }
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_free_again_after_its_last_holder() {
        let mut allocator = BlockAllocator::new(2);
        let block = allocator.take().unwrap();
        assert_eq!(allocator.retain(block), 2);
        assert_eq!(allocator.release(block), 1);
        assert_eq!(allocator.n_free(), 1);
        assert_eq!(allocator.release(block), 0);
        assert_eq!(allocator.n_free(), 2);
    }

    #[test]
    fn blocks_run_out() {
        let mut allocator = BlockAllocator::new(2);
        let (a, b) = (allocator.take().unwrap(), allocator.take().unwrap());
        assert_ne!(a, b);
        assert_eq!(allocator.take(), None);
    }

    #[test]
    #[should_panic(expected = "released more often")]
    fn releasing_a_free_block_is_a_bug() {
        BlockAllocator::new(1).release(BlockId(0));
    }
}

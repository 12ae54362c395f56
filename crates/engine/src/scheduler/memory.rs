//! Who holds which blocks: room for the next rows, preemption, and what goes to the prefix cache.

use ingle_step::{BlockCopy, BlockId, SeqId};

use super::Scheduler;
use super::plan::Plan;
use crate::block_allocator::BlockAllocator;
use crate::prefix_cache::PrefixCache;

impl Scheduler {
    /// Gives a sequence the blocks for its next rows, its last one unshared, preempting others if it must.
    pub(super) fn make_room(&mut self, plan: &mut Plan, id: SeqId, n_rows: usize) -> bool {
        let seq = &self.seqs[&id];
        let start = seq.n_computed;
        let (last, n_slots) = (start / self.config.block_size, start % self.config.block_size);
        let n_new = (start + n_rows).div_ceil(self.config.block_size).saturating_sub(seq.blocks.len());
        let shared = loop {
            // Looked at again each time: a preempted sibling may have been the other holder.
            let seq = &self.seqs[&id];
            let partial = (n_slots > 0).then(|| seq.blocks[last]);
            let shared = partial.filter(|&b| self.allocator.ref_count(b) > 1);
            if self.available() + seq.n_reserved >= n_new + usize::from(shared.is_some()) {
                break shared;
            }
            let victim = self.background_victim(plan, id).or_else(|| self.peer_victim(plan, id));
            let Some(victim) = victim else { return false };
            self.preempt(victim, id);
        };
        if let Some(from) = shared {
            let to = self.take_block(id);
            plan.batch.copies.push(BlockCopy { from, to, n_slots: n_slots as u32 });
            self.seq_mut(id).blocks[last] = to;
            self.cache.release(&mut self.allocator, from, self.step);
        }
        for _ in 0..n_new {
            let block = self.take_block(id);
            self.seq_mut(id).blocks.push(block);
        }
        true
    }

    /// Who in the background gives way to a normal sequence: somebody paused, else the youngest. `None` if there is no
    /// one, or the sequence is no better.
    pub(super) fn background_victim(&self, plan: &Plan, beneficiary: SeqId) -> Option<SeqId> {
        if self.seqs[&beneficiary].is_background() {
            return None;
        }
        let can_yield = |id: &SeqId| self.seqs[id].is_background() && !plan.members.contains(id);
        let mut youngest_first = self.running.iter().rev().copied().filter(can_yield);
        let paused = youngest_first.clone().find(|id| self.seqs[id].paused);
        paused.or_else(|| youngest_first.next())
    }

    /// Who of its own priority gives way to a sequence: somebody paused, else the youngest that is younger. Nobody in
    /// this step's batch, and nobody who has been preempted too often already. `None` if there is no one.
    pub(super) fn peer_victim(&self, plan: &Plan, beneficiary: SeqId) -> Option<SeqId> {
        let priority = self.seqs[&beneficiary].priority;
        let can_yield = |id: &SeqId| {
            let seq = &self.seqs[id];
            *id != beneficiary
                && seq.priority == priority
                && !plan.members.contains(id)
                && seq.preemptions < self.config.max_preemptions
        };
        let mut youngest_first = self.running.iter().rev().copied().filter(can_yield);
        let paused = youngest_first.clone().find(|id| self.seqs[id].paused);
        paused.or_else(|| youngest_first.next().filter(|&id| id > beneficiary))
    }

    pub(super) fn preempt(&mut self, id: SeqId, beneficiary: SeqId) {
        self.release_blocks(id);
        self.running.remove(&id);
        self.waiting.insert(id);
        self.preemptions += 1;
        let max_preemptions = self.config.max_preemptions;
        let is_peer = self.seqs[&beneficiary].priority == self.seqs[&id].priority;
        let seq = self.seq_mut(id);
        if is_peer {
            assert!(seq.preemptions < max_preemptions, "sequence {} is preempted too often", id.0);
            seq.preemptions += 1;
        }
        seq.forget_kv();
    }

    /// Gives a sequence's full blocks to the prefix cache. Called when a row of good values has come from them.
    pub(super) fn publish(&mut self, id: SeqId) {
        if !self.shares(id) {
            return;
        }
        let block_size = self.config.block_size;
        let seq = self.seqs.get_mut(&id).expect("results are for sequences that are there");
        while (seq.n_published + 1) * block_size <= seq.n_computed {
            let i = seq.n_published;
            let tokens = &seq.tokens[i * block_size..(i + 1) * block_size];
            let (node, block) =
                self.cache.insert(&mut self.allocator, seq.published, seq.salt, tokens, seq.blocks[i]);
            seq.published = node;
            seq.blocks[i] = block;
            seq.n_published += 1;
        }
    }

    /// Whether blocks of a sequence mean the same to others: what is read in both directions depends on the whole text.
    pub(super) fn shares(&self, id: SeqId) -> bool {
        self.config.prefix_cache && self.seqs[&id].causal
    }

    /// Gives what a complete sequence has beyond its full blocks to the prefix cache, for those that go on from there.
    pub(super) fn publish_tail(&mut self, id: SeqId) {
        let seq = &self.seqs[&id];
        let tail = seq.n_published * self.config.block_size..seq.n_computed;
        let Some(&block) = seq.blocks.get(seq.n_published) else { return };
        // A block that others hold is one that they may still write into, once they are alone.
        let is_own = self.allocator.ref_count(block) == 1;
        if self.shares(id) && is_own && !tail.is_empty() {
            self.cache.insert_tail(&mut self.allocator, seq.published, seq.salt, &seq.tokens[tail], block);
        }
    }

    /// Blocks that can be had without preempting anyone. While a sequence that is being admitted holds its cached
    /// beginning, there may be fewer left than are reserved; it is then refused, as it needs at least one more.
    pub(super) fn available(&self) -> usize {
        (self.allocator.n_free() + self.cache.n_idle()).saturating_sub(self.n_reserved)
    }

    pub(super) fn take_block(&mut self, id: SeqId) -> BlockId {
        let seq = self.seqs.get_mut(&id).expect("blocks go to sequences that are there");
        if seq.n_reserved > 0 {
            seq.n_reserved -= 1;
            self.n_reserved -= 1;
        }
        if self.allocator.n_free() == 0 {
            assert!(self.cache.evict(&mut self.allocator), "room was made before");
        }
        self.allocator.take().expect("a block is free after an eviction")
    }

    pub(super) fn release_blocks(&mut self, id: SeqId) {
        let seq = self.seq_mut(id);
        let blocks = std::mem::take(&mut seq.blocks);
        let reserved = std::mem::take(&mut seq.n_reserved);
        self.n_reserved -= reserved;
        self.release_all(&blocks);
    }

    pub(super) fn release_all(&mut self, blocks: &[BlockId]) {
        for &block in blocks.iter().rev() {
            self.cache.release(&mut self.allocator, block, self.step);
        }
    }

    /// Forgets everything that was computed: after a failed step nobody knows what the cache holds. Sequences keep
    /// their tokens and wait; whoever failed is aborted by the caller.
    pub fn reset_kv(&mut self) {
        self.in_flight.clear();
        self.running.clear();
        for (&id, seq) in &mut self.seqs {
            seq.forget_kv();
            self.waiting.insert(id);
        }
        self.n_reserved = 0;
        self.allocator = BlockAllocator::new(self.config.n_blocks);
        self.cache = PrefixCache::new(self.config.n_blocks, self.config.block_size);
    }

    /// Forgets what the prefix cache has of a salt and no sequence holds. Between steps.
    pub fn flush(&mut self, salt: u64) {
        assert!(self.in_flight.is_empty(), "the cache is flushed between steps");
        self.cache.flush(&mut self.allocator, salt);
    }
}

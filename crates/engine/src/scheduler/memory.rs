//! Who holds which blocks: room for the next rows, preemption, and what goes to the prefix cache.

use ingle_step::{BlockCopy, BlockId, SeqId, TokenId};

use super::plan::Plan;
use super::{Published, Scheduler};
use crate::block_allocator::BlockAllocator;

/// Blocks that others would give up for a sequence; those that several of them share count for each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Yielding {
    /// The background, for a normal one.
    pub background: usize,
    /// All of worse levels, and of tenants that hold more than their part.
    pub all: usize,
}

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
            let Some(victim) = self.victim(plan, id, n_new + usize::from(shared.is_some())) else {
                return false;
            };
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

    /// Who gives way to a running sequence that needs so many more blocks. `None`: it waits.
    fn victim(&self, plan: &Plan, id: SeqId, n_more: usize) -> Option<SeqId> {
        let greedy = || if self.fits_part(id, n_more) { self.greedy_victim(plan, id) } else { None };
        // Where nobody else goes on, whoever has least does: else two that are both in want would wait for ever.
        let richer = || if plan.members.is_empty() { self.richer_victim(plan, id) } else { None };
        self.worse_victim(plan, id)
            .or_else(greedy)
            .or_else(|| self.own_victim(plan, id))
            .or_else(|| self.paused_victim(plan, id))
            .or_else(richer)
    }

    /// Somebody of a worse level: of the worst, somebody paused, else the youngest.
    pub(super) fn worse_victim(&self, plan: &Plan, id: SeqId) -> Option<SeqId> {
        let level = self.seqs[&id].level();
        let worse = self.running.iter().copied().filter(|v| self.seqs[v].level() > level);
        let can_yield = worse.filter(|&v| self.can_yield(plan, v, id));
        can_yield.max_by_key(|v| (self.seqs[v].level(), self.seqs[v].paused, *v))
    }

    /// Somebody of the tenant that most exceeds its part of the blocks: somebody paused, else the youngest.
    pub(super) fn greedy_victim(&self, plan: &Plan, id: SeqId) -> Option<SeqId> {
        let level = self.seqs[&id].level();
        let others = self.peers(plan, id).filter(|v| self.seqs[v].tenant != self.seqs[&id].tenant);
        let excess = |tenant: u64| self.n_held(tenant).saturating_sub(self.part_of(level, tenant));
        let greedy = others.map(|v| (excess(self.seqs[&v].tenant), self.seqs[&v].paused, v));
        greedy.filter(|&(excess, ..)| excess > 0).max().map(|(.., v)| v)
    }

    /// Somebody of the same tenant: somebody paused, else the youngest that is younger.
    fn own_victim(&self, plan: &Plan, id: SeqId) -> Option<SeqId> {
        let own = self.peers(plan, id).filter(|v| self.seqs[v].tenant == self.seqs[&id].tenant);
        own.filter(|&v| self.seqs[&v].paused || v > id).max_by_key(|v| (self.seqs[v].paused, *v))
    }

    /// The youngest that is paused.
    pub(super) fn paused_victim(&self, plan: &Plan, id: SeqId) -> Option<SeqId> {
        self.peers(plan, id).filter(|v| self.seqs[v].paused).max()
    }

    /// The youngest of the tenant that holds most for its weight, if that is more than the sequence's own tenant holds;
    /// of those that hold the same, the one with the older sequences goes first.
    fn richer_victim(&self, plan: &Plan, id: SeqId) -> Option<SeqId> {
        let level = self.seqs[&id].level();
        let wealth = |tenant: u64| {
            let weight = u64::from(self.shares.account(level, tenant).weight);
            let held = self.n_held(tenant) as u64 * 1000 / weight;
            (held, self.running.iter().find(|v| self.seqs[v].tenant == tenant).copied())
        };
        let own = wealth(self.seqs[&id].tenant);
        let richer = self.peers(plan, id).map(|v| (wealth(self.seqs[&v].tenant), v));
        richer.filter(|(wealth, _)| *wealth > own).max().map(|(_, v)| v)
    }

    /// Others of its level that can be preempted.
    fn peers(&self, plan: &Plan, id: SeqId) -> impl Iterator<Item = SeqId> {
        let level = self.seqs[&id].level();
        let of_level = self.running.iter().copied().filter(move |v| self.seqs[v].level() == level);
        of_level.filter(move |&v| self.can_yield(plan, v, id))
    }

    /// Whether a sequence can be preempted for another: it is not in this step, and was not preempted too often already,
    /// which is not counted where the background makes way for normal ones.
    fn can_yield(&self, plan: &Plan, victim: SeqId, id: SeqId) -> bool {
        let is_free = self.seqs[&victim].priority > self.seqs[&id].priority;
        victim != id
            && !plan.members.contains(&victim)
            && (is_free || self.seqs[&victim].preemptions < self.config.max_preemptions)
    }

    /// How many blocks others hold that would be preempted for a sequence that is owed them.
    pub(super) fn n_yielding(&self, plan: &Plan, id: SeqId) -> Yielding {
        let seq = &self.seqs[&id];
        let mut yielding = Yielding::default();
        for &v in self.running.iter().filter(|&&v| self.can_yield(plan, v, id)) {
            let victim = &self.seqs[&v];
            let n_blocks = victim.blocks.len() + victim.n_reserved;
            if victim.priority > seq.priority {
                yielding.background += n_blocks;
            }
            let is_greedy = || {
                victim.level() == seq.level()
                    && victim.tenant != seq.tenant
                    && self.n_held(victim.tenant) > self.part_of(victim.level(), victim.tenant)
            };
            if victim.level() > seq.level() || is_greedy() {
                yielding.all += n_blocks;
            }
        }
        yielding
    }

    pub(super) fn preempt(&mut self, id: SeqId, beneficiary: SeqId) {
        let swapped = self.swap_out(id);
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
        seq.swapped = swapped;
    }

    /// Gives a sequence's full blocks to the prefix cache. Called when a row of good values has come from them.
    pub(super) fn publish(&mut self, id: SeqId) {
        if !self.shares(id) {
            return;
        }
        let block_size = self.config.block_size;
        let mut new = Vec::new();
        let seq = self.seqs.get_mut(&id).expect("results are for sequences that are there");
        while (seq.n_published + 1) * block_size <= seq.n_computed {
            let i = seq.n_published;
            let tokens = &seq.tokens[i * block_size..(i + 1) * block_size];
            let own = seq.blocks[i];
            let (node, block) = self.cache.insert(&mut self.allocator, seq.published, seq.salt, tokens, own);
            seq.published = node;
            seq.blocks[i] = block;
            seq.n_published += 1;
            if block == own {
                new.push((i, block));
            }
        }
        if let Some(&(last, _)) = new.last() {
            self.record_published(id, &new, (last + 1) * block_size);
        }
    }

    /// Tells of blocks of a sequence, each with its number, that have come into the prefix cache. The last of them ends
    /// behind `n_tokens` tokens.
    fn record_published(&mut self, id: SeqId, new: &[(usize, BlockId)], n_tokens: usize) {
        let Some(&(first, _)) = new.first().filter(|_| self.config.record_published) else { return };
        let seq = &self.seqs[&id];
        let stamp =
            |&(_, block): &(usize, BlockId)| (block, self.cache.stamp(block).expect("it was just published"));
        self.published.push(Published {
            request: seq.request,
            tokens: seq.tokens[..n_tokens].to_vec(),
            first,
            blocks: new.iter().map(stamp).collect(),
        });
    }

    /// Whether blocks of a sequence mean the same to others: what is read in both directions depends on the whole text.
    pub(super) fn shares(&self, id: SeqId) -> bool {
        self.config.prefix_cache && self.seqs[&id].causal
    }

    /// Gives what a complete sequence has beyond its full blocks to the prefix cache, for those that go on from there.
    pub(super) fn publish_tail(&mut self, id: SeqId) {
        let seq = &self.seqs[&id];
        let (number, n_computed) = (seq.n_published, seq.n_computed);
        let tail = number * self.config.block_size..n_computed;
        let Some(&block) = seq.blocks.get(number) else { return };
        // A block that others hold is one that they may still write into, once they are alone.
        let is_own = self.allocator.ref_count(block) == 1;
        if self.shares(id) && is_own && !tail.is_empty() {
            let (at, salt) = (seq.published, seq.salt);
            let is_new = self.cache.insert_tail(&mut self.allocator, at, salt, &seq.tokens[tail], block);
            if is_new {
                self.record_published(id, &[(number, block)], n_computed);
            }
        }
    }

    /// What came into the prefix cache since this was asked last, if that is [recorded](super::SchedulerConfig).
    pub fn take_published(&mut self) -> Vec<Published> {
        std::mem::take(&mut self.published)
    }

    /// Whether a block is still what it was when it was [published](Published) under this stamp.
    pub fn is_published(&self, block: BlockId, stamp: u64) -> bool {
        self.cache.stamp(block) == Some(stamp)
    }

    /// How many full blocks at the beginning of `tokens` are in the prefix cache.
    pub fn n_cached_blocks(&self, salt: u64, tokens: &[TokenId]) -> usize {
        if self.config.prefix_cache { self.cache.n_cached(salt, tokens) } else { 0 }
    }

    /// How many tokens at the beginning of `tokens` are in the prefix cache: those of full blocks, and those that the next
    /// one there begins with.
    pub fn n_cached_tokens(&self, salt: u64, tokens: &[TokenId]) -> usize {
        if self.config.prefix_cache { self.cache.n_cached_tokens(salt, tokens) } else { 0 }
    }

    /// A place in the prefix cache for the last block of `tokens`, full or a sequence's tail, whose contents the caller has:
    /// it puts them there before anything else happens. `None` if there is no room for it, the tokens are there already,
    /// or those before the block are not.
    pub fn adopt(&mut self, salt: u64, tokens: &[TokenId]) -> Option<BlockId> {
        assert!(self.in_flight.is_empty(), "blocks come from elsewhere between steps");
        if !self.config.prefix_cache {
            return None;
        }
        self.cache.adopt(&mut self.allocator, salt, tokens, self.step)
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
            seq.swapped = None;
            self.waiting.insert(id);
        }
        self.reset_swap();
        self.published.clear();
        self.n_reserved = 0;
        self.heads.clear();
        self.allocator = BlockAllocator::new(self.config.n_blocks);
        self.cache.reset();
    }

    /// Forgets what the prefix cache has of a salt and no sequence holds. Between steps.
    pub fn flush(&mut self, salt: u64) {
        assert!(self.in_flight.is_empty(), "the cache is flushed between steps");
        self.cache.flush(&mut self.allocator, salt);
    }
}

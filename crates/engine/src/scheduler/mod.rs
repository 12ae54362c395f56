//! What runs next. Owns every admitted sequence's tokens and block table, the [`BlockAllocator`] and the
//! [`PrefixCache`]; wakes when the engine thread calls it and never by itself.
//!
//! One token is three calls: [`Scheduler::schedule`] forms a batch, an executor runs it, [`Scheduler::commit`] takes
//! the sampled tokens. Pure: no clock, I/O, lock, channel or global, so that a simulator can run years of traffic
//! through it from a seed.
//!
//! **States.** A sequence is *waiting* (holds no blocks), *running* (holds the blocks of its computed tokens) or
//! finished (gone). Ids count up, so the order of ids is the order of age, and older always goes first.
//!
//! **A step** serves running decodes first (one token each, or as many as are known of those that jump ahead), then
//! running prefills in chunks, then admits waiting sequences, all within the token budget. However far some jump, each
//! decode gets a token, and so does a prefill. A paused sequence (its reader is slow) keeps its state and is skipped.
//!
//! **A text to be pooled** is a prompt that nothing follows: its rows give hidden states in place of logits, those that
//! its pooling needs, each once and in order. It takes from the prefix cache only what lies before those. If its rows see
//! each other in both directions, it is computed in one step as a whole and shares nothing; a scheduler has only such
//! texts or none, so that each in its turn finds the budget whole.
//!
//! **Background.** A sequence of a [background](Priority::Background) request takes what normal ones leave: it comes
//! after all of them in a step, has a place only where they do not fill all, is admitted only while none of them waits,
//! and is preempted for any of them, however often. Where it has no place for a step it keeps its blocks and is skipped.
//! So whoever is normal is served as if nothing ran in the background, but for the rows that share its steps.
//!
//! **Memory.** Blocks are allocated as tokens are computed. When none is left, idle blocks of the prefix cache are
//! evicted, then a sequence is preempted: paused ones first, then the youngest; it goes back to waiting and is
//! computed again later. After [`SchedulerConfig::max_preemptions`] of these it is admitted only with its whole
//! remaining need *reserved* and is never preempted again by its equals, so that every sequence ends: the background
//! ones once no normal one is left that wants their blocks.
//!
//! Blocks, by who holds them, after each call:
//! ```text
//! |  free  |  idle: only the prefix cache  |  referenced: at least one sequence (perhaps the cache too)  |
//!     └────────── available ───┘ minus what is reserved
//! ```

mod admission;
mod display;
mod integrity;
mod memory;
mod plan;
mod sequence;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};

pub use ingle_chat::Priority;
use ingle_step::{SeqId, StepBatch};

use crate::block_allocator::BlockAllocator;
use crate::prefix_cache::PrefixCache;
use admission::Queue;
use plan::Plan;
use sequence::Sequence;
pub use types::{AddError, NewRequest, Pooled, RequestId, Sampled, SchedulerConfig, SchedulerStats};

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    seqs: BTreeMap<SeqId, Sequence>,
    waiting: BTreeSet<SeqId>,
    running: BTreeSet<SeqId>,
    allocator: BlockAllocator,
    cache: PrefixCache,
    /// Blocks promised to sequences that can no longer be preempted.
    n_reserved: usize,
    /// Who is in the step that runs now, and with how many rows.
    in_flight: Vec<(SeqId, usize)>,
    next_seq: u64,
    step: u64,
    /// By priority.
    queues: [Queue; 2],
    preemptions: u64,
    cached_tokens: u64,
}

impl Scheduler {
    /// An idle scheduler. The budget is raised where it could not serve every running sequence's decode and still
    /// make progress on a prompt.
    pub fn new(mut config: SchedulerConfig) -> Self {
        assert!(config.block_size > 0 && config.n_blocks > 0, "a cache has blocks, and blocks have slots");
        config.max_running_seqs = config.max_running_seqs.max(1);
        config.step_token_budget = config.step_token_budget.max(config.max_running_seqs + 1);
        Self {
            allocator: BlockAllocator::new(config.n_blocks),
            cache: PrefixCache::new(config.n_blocks, config.block_size),
            config,
            seqs: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            n_reserved: 0,
            in_flight: Vec::new(),
            next_seq: 0,
            step: 0,
            queues: [Queue::default(); 2],
            preemptions: 0,
            cached_tokens: 0,
        }
    }

    /// The longest sequence that can run: the context, or the cache if that is smaller.
    pub fn max_seq_tokens(&self) -> usize {
        self.config.n_ctx.min(self.config.n_blocks * self.config.block_size)
    }

    /// The most tokens of a step.
    pub fn step_token_budget(&self) -> usize {
        self.config.step_token_budget
    }

    /// Drops what is left of a request, at once. Between `schedule` and `commit` only when the step's results are
    /// in: blocks that are being written must not get a new owner.
    pub fn abort(&mut self, request: RequestId) {
        let ids: Vec<SeqId> = self.members(request).collect();
        for id in ids {
            self.finish(id);
        }
    }

    /// Skips a request's sequences until it is resumed, or stops skipping them.
    pub fn set_paused(&mut self, request: RequestId, paused: bool) {
        let ids: Vec<SeqId> = self.members(request).collect();
        for id in ids {
            self.seq_mut(id).paused = paused;
        }
    }

    /// Forms the next step; `None` if nothing can run now.
    pub fn schedule(&mut self) -> Option<StepBatch> {
        assert!(self.in_flight.is_empty(), "a step is committed before the next is scheduled");
        let mut plan = Plan::new(self.step, self.config.step_token_budget);
        for priority in [Priority::Normal, Priority::Background] {
            self.plan_running(&mut plan, priority);
            self.admit(&mut plan, priority);
        }
        let runs_background = plan.members.iter().any(|id| self.seqs[id].is_background());
        assert!(
            !runs_background || !self.normal_waits(),
            "a background sequence runs while a normal one waits"
        );
        self.release_all(&std::mem::take(&mut plan.sources));
        if plan.batch.seqs.is_empty() {
            assert!(plan.batch.copies.is_empty(), "who begins with a copy is in the step");
            return None;
        }
        self.step += 1;
        self.in_flight = plan.batch.seqs.iter().map(|s| (s.seq, s.inputs.len())).collect();
        Some(plan.batch)
    }

    /// Takes a step's results: one for each sequence that is complete up to its last token, and at the end of a
    /// prompt one for each choice of the request. What the results vouch for is published to the prefix cache.
    pub fn commit(&mut self, results: &[Sampled]) {
        for (id, n_rows) in std::mem::take(&mut self.in_flight) {
            if let Some(seq) = self.seqs.get_mut(&id) {
                seq.n_computed += n_rows;
                seq.early_rows_done = seq.early_rows_done.max(seq.n_computed.min(seq.n_early_rows));
            }
        }
        // Publish and fork first: every choice starts from the prompt's blocks, even if the first ends right here.
        for result in results {
            if self.seqs.contains_key(&result.seq) {
                self.publish(result.seq);
            } else {
                self.fork(result.seq);
            }
        }
        for result in results {
            let seq = self.seq_mut(result.seq);
            assert!(seq.n_pending() == 0 || seq.n_computed == 0, "a sequence is sampled when it is computed");
            assert!(!result.tokens.is_empty() || result.done, "a sequence that goes on has a next token");
            seq.unborn = 0;
            seq.tokens.extend(&result.tokens);
            let most = seq.n_prompt + seq.max_tokens;
            assert!(seq.tokens.len() <= most, "a sequence gets {} tokens of {most}", seq.tokens.len());
            if result.done {
                self.publish_tail(result.seq);
                self.finish(result.seq);
            }
        }
    }

    /// Which requests are in the step that was scheduled last and not committed.
    pub fn in_flight(&self) -> BTreeSet<RequestId> {
        self.in_flight.iter().filter_map(|(id, _)| Some(self.seqs.get(id)?.request)).collect()
    }

    /// Prompt tokens that a request took from the prefix cache when it started; `None` while it is queued.
    pub fn cached_tokens(&self, request: RequestId) -> Option<usize> {
        self.seqs.get(&request.choice(0))?.cached_tokens
    }

    /// Which choices a row of logits of this sequence serves: all of the request at the end of the prompt, else
    /// the sequence's own.
    pub fn choices_of(&self, id: SeqId) -> std::ops::Range<u32> {
        let seq = &self.seqs[&id];
        let choice = (id.0 - seq.request.0) as u32;
        choice..choice + seq.unborn.max(1)
    }

    /// The length of a sequence so far: the position that its next token will have.
    pub fn n_tokens(&self, id: SeqId) -> usize {
        self.seqs[&id].tokens.len()
    }

    /// Counts of the moment.
    pub fn stats(&self) -> SchedulerStats {
        let blocks_free = self.allocator.n_free();
        let blocks_cached = self.cache.n_idle();
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            queued_requests: self.queues.iter().map(|queue| queue.requests).sum(),
            queued_tokens: self.queues.iter().map(|queue| queue.tokens).sum(),
            blocks_free,
            blocks_cached,
            blocks_used: self.config.n_blocks - blocks_free - blocks_cached,
            preemptions: self.preemptions,
            cached_tokens: self.cached_tokens,
        }
    }

    // ---- after a step ----

    /// Starts a further choice from its request's prompt, sharing the blocks.
    fn fork(&mut self, id: SeqId) {
        let (_, parent) = self.seqs.range(..id).next_back().expect("the first choice starts first");
        let first = parent.request.choice(0);
        let parent = &self.seqs[&first];
        assert!(id.0 - first.0 < u64::from(parent.unborn), "sequence {} was never asked for", id.0);
        let mut child = parent.fork();
        let n_active = self.n_active(parent.priority);
        // A parent whose whole need was reserved must not need one block more for copy-on-write.
        let can_share = parent.preemptions < self.config.max_preemptions;
        if can_share && n_active < self.config.max_running_seqs {
            for &block in &child.blocks {
                self.allocator.retain(block);
            }
            self.running.insert(id);
        } else {
            child.forget_kv();
            self.waiting.insert(id);
        }
        self.seqs.insert(id, child);
    }

    fn finish(&mut self, id: SeqId) {
        self.release_blocks(id);
        self.waiting.remove(&id);
        self.running.remove(&id);
        let seq = self.seqs.remove(&id).expect("a sequence finishes once");
        if seq.cached_tokens.is_none() {
            self.leave_queue(seq.priority, seq.n_prompt);
        }
    }

    // ---- lookups ----

    fn runnable(&self) -> impl Iterator<Item = SeqId> {
        self.running.iter().copied().filter(|id| !self.seqs[id].paused)
    }

    /// How many sequences have a place that one of this priority would have to find free: in the background that is
    /// everyone's.
    fn n_active(&self, priority: Priority) -> usize {
        self.runnable().filter(|id| self.seqs[id].priority <= priority).count()
    }

    fn members(&self, request: RequestId) -> impl Iterator<Item = SeqId> {
        let from = self.seqs.range(request.choice(0)..);
        from.take_while(move |(_, seq)| seq.request == request).map(|(&id, _)| id)
    }

    fn seq_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.seqs.get_mut(&id).expect("the sequence is there")
    }
}

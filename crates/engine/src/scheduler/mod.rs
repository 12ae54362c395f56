//! What runs next. Owns every admitted sequence's tokens and block table, the [`BlockAllocator`] and the
//! [`PrefixCache`]; wakes when the engine thread calls it and never by itself.
//!
//! One token is three calls: [`Scheduler::schedule`] forms a batch, an executor runs it, [`Scheduler::commit`] takes
//! the sampled tokens. Pure: no clock, I/O, lock, channel or global, so that a simulator can run years of traffic
//! through it from a seed.
//!
//! **States.** A sequence is *waiting* (holds no blocks), *running* (holds the blocks of its computed tokens) or
//! finished (gone). Ids count up, so the order of ids is the order of age, and of one tenant's the older goes first.
//!
//! **A step** has at most as many tokens as its caller says and at most so many sequences, its *places*. Levels (priority,
//! then rank) take from it in turn. Within a level its rows and places are dealt to tenants, each by its weight
//! ([`fairness`]): to decodes (one token each, or as many as are known of those that jump ahead), to prompts that are
//! read in chunks, and to who waits. However far some jump, each decode gets a token, and so does a prefill. A paused
//! sequence (its reader is slow) keeps its state and is skipped; so is one that runs and has no place in this step.
//!
//! **A text to be pooled** is a prompt that nothing follows: its rows give hidden states in place of logits, those that
//! its pooling needs, each once and in order. It takes from the prefix cache only what lies before those. If its rows see
//! each other in both directions, it is computed in one step as a whole and shares nothing; a scheduler has only such
//! texts or none, and then all steps are as large as the configuration lets them be.
//!
//! **Background.** A sequence of a [background](Priority::Background) request takes what normal ones leave: it comes
//! after all of them in a step, runs only while none of them waits, and is preempted for any of them, however often. Where
//! it has no place for a step it keeps its blocks and is skipped. So whoever is normal is served as if nothing ran in the
//! background, but for the rows that share its steps.
//!
//! **Drafts.** A decode may carry guesses of what follows ([`Scheduler::set_draft`]) in rows and blocks that nobody
//! else wants. Those that the result begins with are computed then; of the others nothing is left.
//!
//! **Memory.** Blocks are allocated as tokens are computed. When none is left, idle blocks of the prefix cache are
//! evicted, then a sequence is preempted; it goes back to waiting, and its K/V move to a store (`moves`) or are computed
//! again later, whichever costs less. First those of worse levels
//! are; then those of tenants that hold more than their part, by weight, for one that does not; then paused ones and
//! younger ones of the same tenant. After [`SchedulerConfig::max_preemptions`] of these, for whatever reason, it is
//! admitted only with its whole remaining need *reserved* and is never preempted again (but one of the background for
//! normal ones), so that every sequence ends.
//!
//! **A full context** ends a sequence, unless its request has chosen that tokens make way ([`shift`]).
//!
//! **Time** is the caller's: it says how large a step may be ([`Pace`] tells it what that takes) and asks whose deadline
//! is [over](Scheduler::overdue).
//!
//! Blocks, by who holds them, after each call:
//! ```text
//! |  free  |  idle: only the prefix cache  |  referenced: at least one sequence (perhaps the cache too)  |
//!     └────────── available ───┘ minus what is reserved
//! ```

mod admission;
mod deadlines;
mod display;
mod drafts;
mod fairness;
mod integrity;
mod memory;
mod moves;
mod pace;
mod plan;
mod queue;
mod sequence;
mod shift;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};

pub use ingle_chat::Priority;
use ingle_step::{SeqId, StepBatch};

use crate::block_allocator::BlockAllocator;
use crate::prefix_cache::PrefixCache;
use admission::Head;
use deadlines::Deadlines;
pub use drafts::{DRAFT_ROWS_MAX, n_accepted, row_counts};
use fairness::{Level, Shares};
use moves::SwapSpace;
pub use moves::{Moves, SwapSlot};
pub use pace::Pace;
use plan::Plan;
pub use queue::{QueueBounds, Queues, Waiting};
use sequence::Sequence;
pub use shift::Shift;
pub use types::{
    AddError, NewRequest, Overdue, Pooled, Published, RequestId, Sampled, SchedulerConfig, SchedulerStats,
    StepBudget,
};

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    seqs: BTreeMap<SeqId, Sequence>,
    waiting: BTreeSet<SeqId>,
    running: BTreeSet<SeqId>,
    allocator: BlockAllocator,
    cache: PrefixCache,
    swap: SwapSpace,
    /// What came into the prefix cache, for who keeps it elsewhere too.
    published: Vec<Published>,
    /// Blocks promised to sequences that can no longer be preempted.
    n_reserved: usize,
    /// Who is in the step that runs now, and with how many rows, drafts not counted.
    in_flight: Vec<(SeqId, usize)>,
    next_seq: u64,
    step: u64,
    queues: Queues,
    shares: Shares,
    deadlines: Deadlines,
    /// By level: who waits for memory before all others.
    heads: BTreeMap<Level, Head>,
    /// The step in which several tenants were there last.
    last_shared: Option<u64>,
    preemptions: u64,
    cached_tokens: u64,
    shifts: u64,
    discarded_tokens: u64,
    /// Whether texts come that are computed in one step.
    has_whole_texts: bool,
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
            cache: PrefixCache::new(config.n_blocks, config.block_size, config.attention_depth),
            swap: SwapSpace::new(config.swap_blocks),
            published: Vec::new(),
            config,
            seqs: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            n_reserved: 0,
            in_flight: Vec::new(),
            next_seq: 0,
            step: 0,
            queues: Queues::default(),
            shares: Shares::default(),
            deadlines: Deadlines::default(),
            heads: BTreeMap::new(),
            last_shared: None,
            preemptions: 0,
            cached_tokens: 0,
            shifts: 0,
            discarded_tokens: 0,
            has_whole_texts: false,
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

    /// Forms the next step, as large as the configuration lets it be; `None` if nothing can run now.
    pub fn schedule(&mut self) -> Option<StepBatch> {
        self.schedule_within(StepBudget { tokens: self.config.step_token_budget, fixed_cost: usize::MAX })
    }

    /// Forms the next step, of this size at most; `None` if nothing can run now.
    pub fn schedule_within(&mut self, budget: StepBudget) -> Option<StepBatch> {
        assert!(self.in_flight.is_empty(), "a step is committed before the next is scheduled");
        assert_eq!(self.swap.n_leaving(), 0, "what moved for the last step was taken");
        let most = if self.has_whole_texts { self.config.step_token_budget } else { budget.tokens };
        let tokens = most.clamp(1, self.config.step_token_budget);
        let mut plan = Plan::new(self.step, tokens);
        self.note_tenants();
        self.shares.note_budget(tokens);
        for level in self.shares.levels() {
            if level.0 == Priority::Background && self.normal_waits() {
                break;
            }
            self.plan_level(&mut plan, level, budget.fixed_cost);
        }
        if plan.batch.seqs.is_empty() {
            assert!(plan.batch.copies.is_empty(), "who begins with a copy is in the step");
            return None;
        }
        self.step += 1;
        self.send_moves();
        self.in_flight = plan.batch.seqs.iter().map(|s| (s.seq, s.inputs.len())).collect();
        self.plan_drafts(&mut plan);
        self.release_all(&plan.sources);
        Some(plan.batch)
    }

    /// Takes a step's results: one for each sequence that is complete up to its last token, and at the end of a
    /// prompt one for each choice of the request. Of a sequence's draft tokens those count as computed that the result
    /// begins with. What the results vouch for is published to the prefix cache.
    pub fn commit(&mut self, results: &[Sampled]) {
        let in_flight = std::mem::take(&mut self.in_flight);
        for (id, n_rows) in &in_flight {
            if let Some(seq) = self.seqs.get_mut(id) {
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
            let (n_new, most) = (seq.n_new(), seq.max_tokens);
            assert!(n_new <= most, "a sequence gets {n_new} new tokens of {most}");
            self.accept_draft(result.seq, result.tokens.len());
            self.note_shifts(result.seq, result.tokens.len(), result.done);
            if result.done {
                self.publish_tail(result.seq);
                self.finish(result.seq);
            } else {
                self.shift_context(result.seq, result.tokens.len());
            }
        }
        in_flight.iter().for_each(|&(id, _)| self.settle_draft(id));
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

    /// The length of a sequence so far, without what has made way: the position that its next token will have.
    pub fn n_tokens(&self, id: SeqId) -> usize {
        self.seqs[&id].tokens.len()
    }

    /// How many of a sequence's tokens are new.
    pub fn generated(&self, id: SeqId) -> usize {
        self.seqs[&id].n_new()
    }

    /// How many normal requests of a tenant have not begun.
    pub fn waiting_of(&self, tenant: u64) -> usize {
        self.queues.of_tenant(Priority::Normal, tenant).requests
    }

    /// Counts of the moment.
    pub fn stats(&self) -> SchedulerStats {
        let blocks_free = self.allocator.n_free();
        let blocks_cached = self.cache.n_idle();
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            queued_requests: self.queues.total().requests,
            queued_tokens: self.queues.total().tokens,
            blocks_free,
            blocks_cached,
            blocks_used: self.config.n_blocks - blocks_free - blocks_cached,
            preemptions: self.preemptions,
            cached_tokens: self.cached_tokens,
            shifts: self.shifts,
            discarded_tokens: self.discarded_tokens,
            blocks_swapped: self.swap.n_used(),
            blocks_swapped_out: self.swap.n_moved().0,
            blocks_swapped_in: self.swap.n_moved().1,
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
        let (level, tenant, weight) = (parent.level(), parent.tenant, parent.weight);
        let n_active = self.n_active(level);
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
        self.shares.enter(level, tenant, weight);
    }

    fn finish(&mut self, id: SeqId) {
        self.release_blocks(id);
        self.forget_swapped(id);
        self.waiting.remove(&id);
        self.running.remove(&id);
        let seq = self.seqs.remove(&id).expect("a sequence finishes once");
        self.shares.leave(seq.level(), seq.tenant);
        if seq.cached_tokens.is_none() {
            self.queues.leave(seq.priority, seq.tenant, seq.n_prompt);
        }
        if self.members(seq.request).next().is_none() {
            self.deadlines.ended(seq.request);
        }
    }

    // ---- lookups ----

    fn runnable(&self) -> impl Iterator<Item = SeqId> {
        self.running.iter().copied().filter(|id| !self.seqs[id].paused)
    }

    /// How many sequences run that one of this level does not go before.
    fn n_active(&self, level: Level) -> usize {
        self.runnable().filter(|id| self.seqs[id].level() <= level).count()
    }

    fn members(&self, request: RequestId) -> impl Iterator<Item = SeqId> {
        let from = self.seqs.range(request.choice(0)..);
        from.take_while(move |(_, seq)| seq.request == request).map(|(&id, _)| id)
    }

    fn seq_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.seqs.get_mut(&id).expect("the sequence is there")
    }
}

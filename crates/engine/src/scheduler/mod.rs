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
//! its pooling needs, each once and in order. It takes from the prefix cache only what lies before those.
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

mod display;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ingle_chat::Pooling;
pub use ingle_chat::Priority;
use ingle_step::{BlockCopy, BlockId, Input, SeqId, SeqStep, StepBatch, TokenId, Want};

use crate::block_allocator::BlockAllocator;
use crate::prefix_cache::{NodeId, PrefixCache};
use sequence::{Sequence, State};

/// Rows of prompt log-probabilities in one step, over all sequences: a row of logits is large.
const PROMPT_LOGITS_ROWS_MAX: usize = 64;

/// Sizes and bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// Slots in a block.
    pub block_size: usize,
    /// Blocks in the cache.
    pub n_blocks: usize,
    /// The longest sequence the model is configured for.
    pub n_ctx: usize,
    /// Sequences that run at once (paused ones not counted).
    pub max_running_seqs: usize,
    /// Tokens computed in one step.
    pub step_token_budget: usize,
    /// Requests of one priority that wait for their first step.
    pub max_waiting_requests: usize,
    /// Prompt tokens of requests of one priority that wait for their first step. One request alone may have more.
    pub max_waiting_tokens: usize,
    /// Whether equal beginnings are computed once.
    pub prefix_cache: bool,
    /// How often one sequence can be preempted.
    pub max_preemptions: u32,
}

/// A request, as the scheduler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRequest {
    /// The prompt. Never empty.
    pub prompt: Vec<TokenId>,
    /// How many sequences continue it.
    pub n_choices: u32,
    /// The most tokens that a sequence will add.
    pub max_tokens: usize,
    /// Requests with different salts never share cached blocks.
    pub salt: u64,
    /// Whether logits after every prompt token are wanted, not only after the last.
    pub prompt_logits: bool,
    /// Hidden states in place of logits: those that this pooling needs, and always that of the last token. Nothing is
    /// sampled then: one choice, no new tokens, and not `prompt_logits`.
    pub pooling: Option<Pooling>,
    /// Whether it makes way for others.
    pub priority: Priority,
}

/// Names an admitted request: the id of its first sequence. The others follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl RequestId {
    /// The sequence of one of its choices.
    pub fn choice(self, choice: u32) -> SeqId {
        SeqId(self.0 + u64::from(choice))
    }
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// It could never run, even alone.
    #[error("{n_tokens} tokens do not fit: a sequence can have {max_tokens}")]
    TooLong {
        /// Prompt and new tokens.
        n_tokens: usize,
        /// What fits.
        max_tokens: usize,
    },
    /// Too much of its priority waits already.
    #[error("{waiting} requests are waiting already")]
    Full {
        /// How many.
        waiting: usize,
    },
}

/// Requests of one priority whose first step has not come.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    requests: usize,
    /// Their prompt tokens.
    tokens: usize,
}

/// What a step gave one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Whose it is. When a prompt's last row arrives, each choice of the request has a result.
    pub seq: SeqId,
    /// The new token, and those that are certain to follow it; none if none was wanted.
    pub tokens: Vec<TokenId>,
    /// Whether the sequence is complete with it.
    pub done: bool,
}

/// Counts of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences that run, paused ones included.
    pub running: usize,
    /// Sequences that wait, preempted ones included.
    pub waiting: usize,
    /// Requests whose first step has not come.
    pub queued_requests: usize,
    /// Their prompt tokens.
    pub queued_tokens: usize,
    /// Blocks without a holder.
    pub blocks_free: usize,
    /// Blocks that only the prefix cache holds.
    pub blocks_cached: usize,
    /// Blocks that sequences hold.
    pub blocks_used: usize,
    /// Since start: preemptions.
    pub preemptions: u64,
    /// Since start: prompt tokens taken from the prefix cache.
    pub cached_tokens: u64,
}

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

/// A step being formed.
struct Plan {
    batch: StepBatch,
    budget: usize,
    /// Rows of prompt log-probabilities that it may still ask for.
    prompt_rows: usize,
    members: BTreeSet<SeqId>,
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

    /// Queues a request.
    ///
    /// # Errors
    /// If it can never run or too much waits.
    pub fn add(&mut self, request: NewRequest) -> Result<RequestId, AddError> {
        let NewRequest { prompt, n_choices, max_tokens, priority, .. } = &request;
        assert!(!prompt.is_empty() && *n_choices > 0, "a request has a prompt and a choice");
        let samples = *n_choices > 1 || *max_tokens > 0 || request.prompt_logits;
        assert!(request.pooling.is_none() || !samples, "what is pooled is not sampled");
        let n_tokens = prompt.len().saturating_add(*max_tokens);
        if n_tokens > self.max_seq_tokens() {
            return Err(AddError::TooLong { n_tokens, max_tokens: self.max_seq_tokens() });
        }
        // Each priority has a queue of its own, so that none is turned away for the other.
        let queue = &mut self.queues[*priority as usize];
        let too_many_tokens =
            queue.requests > 0 && queue.tokens.saturating_add(prompt.len()) > self.config.max_waiting_tokens;
        if queue.requests >= self.config.max_waiting_requests || too_many_tokens {
            return Err(AddError::Full { waiting: queue.requests });
        }
        let id = RequestId(self.next_seq);
        self.next_seq += u64::from(*n_choices);
        queue.requests += 1;
        queue.tokens += prompt.len();
        self.waiting.insert(id.choice(0));
        self.seqs.insert(id.choice(0), Sequence::new(id, request));
        Ok(id)
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
        let batch = StepBatch { step: self.step, ..StepBatch::default() };
        let mut plan = Plan {
            batch,
            budget: self.config.step_token_budget,
            prompt_rows: PROMPT_LOGITS_ROWS_MAX,
            members: BTreeSet::new(),
        };
        for priority in [Priority::Normal, Priority::Background] {
            self.plan_running(&mut plan, priority);
            self.admit(&mut plan, priority);
        }
        let runs_background = plan.members.iter().any(|id| self.seqs[id].is_background());
        assert!(
            !runs_background || !self.normal_waits(),
            "a background sequence runs while a normal one waits"
        );
        if plan.batch.seqs.is_empty() {
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
                self.finish(result.seq);
            }
        }
    }

    /// Which requests are in the step that was scheduled last and not committed.
    pub fn in_flight(&self) -> BTreeSet<RequestId> {
        self.in_flight.iter().filter_map(|(id, _)| Some(self.seqs.get(id)?.request)).collect()
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

    /// Checks the books: every block's holders are exactly the tables that name it, and the prefix cache.
    ///
    /// # Panics
    /// If they are not, with the reason.
    pub fn check_integrity(&self) {
        let mut holders = vec![0u32; self.config.n_blocks];
        for (id, seq) in &self.seqs {
            let covered = seq.n_computed.div_ceil(self.config.block_size);
            assert!(
                seq.blocks.len() >= covered,
                "sequence {}: {} blocks for {} computed tokens",
                id.0,
                seq.blocks.len(),
                seq.n_computed
            );
            match seq.state {
                State::Waiting => assert!(seq.blocks.is_empty(), "waiting sequence {} holds blocks", id.0),
                State::Running => assert!(self.running.contains(id), "sequence {} is lost", id.0),
            }
            seq.blocks.iter().for_each(|b| holders[b.0 as usize] += 1);
        }
        let referenced = holders.iter().filter(|&&n| n > 0).count();
        for (i, n) in holders.into_iter().enumerate() {
            let block = BlockId(i as u32);
            let expected = n + u32::from(self.cache.holds(block));
            let count = self.allocator.ref_count(block);
            assert_eq!(count, expected, "block {i} counts {count} holders and has {expected}");
        }
        let stats = self.stats();
        assert_eq!(
            stats.blocks_free + referenced + stats.blocks_cached,
            self.config.n_blocks,
            "free + referenced + cached is not the total"
        );
        assert_eq!(self.waiting.len() + self.running.len(), self.seqs.len(), "a sequence has no state");
        let reserved: usize = self.seqs.values().map(|s| s.n_reserved).sum();
        assert_eq!(reserved, self.n_reserved, "reservations");
        assert!(reserved <= stats.blocks_free + stats.blocks_cached, "more is reserved than is there");
    }

    // ---- one step ----

    /// Adds the next rows of running sequences: first of those that need one, then of those that read their prompt. In
    /// the background only of as many as there are places left; the others keep their blocks and wait.
    fn plan_running(&mut self, plan: &mut Plan, priority: Priority) {
        let mut places = match priority {
            // They had a place when they were admitted, and have it again when their reader has caught up.
            Priority::Normal => usize::MAX,
            Priority::Background => {
                self.config.max_running_seqs.saturating_sub(self.n_active(Priority::Normal))
            }
        };
        let (decodes, prefills): (Vec<SeqId>, Vec<SeqId>) = self
            .runnable()
            .filter(|id| self.seqs[id].priority == priority)
            .partition(|id| self.seqs[id].is_decode());
        // However far one jumps, each decode after it has a row, and so has a prefill.
        let mut n_later = decodes.len() + usize::from(!prefills.is_empty());
        for id in decodes.into_iter().chain(prefills) {
            n_later = n_later.saturating_sub(1);
            let share = plan.budget.saturating_sub(n_later).max(1);
            if places > 0 && self.running.contains(&id) && self.plan_rows(plan, id, share) {
                places -= 1;
            }
        }
    }

    /// Adds a running sequence's next rows: all that is known of it, or as much as its share of the budget allows.
    /// False if there was no room for any.
    fn plan_rows(&mut self, plan: &mut Plan, id: SeqId, share: usize) -> bool {
        let seq = &self.seqs[&id];
        let mut n_rows = seq.n_pending().min(share).min(plan.budget);
        if seq.wants_early_rows() && seq.want == Want::Logits {
            n_rows = n_rows.min(plan.prompt_rows);
        }
        if n_rows == 0 || !self.make_room(plan, id, n_rows) {
            return false;
        }
        let seq = &self.seqs[&id];
        let (start, end) = (seq.n_computed, seq.n_computed + n_rows);
        let last = (end == seq.tokens.len()).then_some(end - 1);
        let early_rows = seq.early_rows_done.max(start)..end.min(seq.n_early_rows);
        if seq.want == Want::Logits {
            plan.prompt_rows -= early_rows.len();
        }
        let wants = early_rows.chain(last).map(|at| ((at - start) as u32, seq.want)).collect();
        plan.budget -= n_rows;
        plan.members.insert(id);
        plan.batch.seqs.push(SeqStep {
            seq: id,
            inputs: seq.tokens[start..end].iter().map(|&t| Input::Token(t)).collect(),
            start: start as u32,
            block_table: seq.blocks.clone(),
            causal: true,
            wants,
        });
        true
    }

    /// Gives a sequence the blocks for its next rows, its last one unshared, preempting others if it must.
    fn make_room(&mut self, plan: &mut Plan, id: SeqId, n_rows: usize) -> bool {
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
    fn background_victim(&self, plan: &Plan, beneficiary: SeqId) -> Option<SeqId> {
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
    fn peer_victim(&self, plan: &Plan, beneficiary: SeqId) -> Option<SeqId> {
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

    fn preempt(&mut self, id: SeqId, beneficiary: SeqId) {
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

    /// Starts waiting sequences, oldest first, as long as the whole of each fits; in the background only while no normal
    /// one waits.
    fn admit(&mut self, plan: &mut Plan, priority: Priority) {
        if priority == Priority::Background && self.normal_waits() {
            return;
        }
        let is_next = |id: &SeqId| !self.seqs[id].paused && self.seqs[id].priority == priority;
        let waiting: Vec<SeqId> = self.waiting.iter().copied().filter(is_next).collect();
        for id in waiting {
            let n_active = self.n_active(priority);
            if plan.budget == 0 || n_active >= self.config.max_running_seqs {
                return;
            }
            if !self.admit_one(plan, id, n_active) {
                return; // in order of age: nobody overtakes who waits for memory
            }
            let share = plan.budget;
            self.plan_rows(plan, id, share);
        }
    }

    fn admit_one(&mut self, plan: &Plan, id: SeqId, n_active: usize) -> bool {
        let (at, blocks) = self.match_prefix(id);
        let block_size = self.config.block_size;
        let seq = &self.seqs[&id];
        let must_finish = seq.preemptions >= self.config.max_preemptions;
        let n_tokens = if must_finish { seq.n_prompt + seq.max_tokens } else { seq.tokens.len() };
        let n_needed = n_tokens.div_ceil(block_size) - blocks.len();
        assert!(n_needed > 0, "the last token is always computed");
        // Room for those who run to grow, more of it for who has been preempted: to preempt is to waste work.
        let headroom = if must_finish { 0 } else { n_active * (1 + seq.preemptions as usize) };
        while self.available() < n_needed + headroom {
            let peer = || if n_active == 0 { self.peer_victim(plan, id) } else { None };
            let Some(victim) = self.background_victim(plan, id).or_else(peer) else {
                self.release_all(&blocks);
                return false;
            };
            self.preempt(victim, id);
        }
        self.waiting.remove(&id);
        self.running.insert(id);
        let n_matched = blocks.len() * block_size;
        let seq = self.seqs.get_mut(&id).expect("waiting sequences are in the map");
        seq.state = State::Running;
        (seq.published, seq.n_published, seq.blocks) = (Some(at), blocks.len(), blocks);
        seq.n_computed = n_matched;
        if must_finish {
            seq.n_reserved = n_needed;
            self.n_reserved += n_needed;
        }
        if seq.cached_tokens.is_none() {
            seq.cached_tokens = Some(n_matched);
            self.cached_tokens += n_matched as u64;
            let (priority, n_prompt) = (seq.priority, seq.n_prompt);
            self.leave_queue(priority, n_prompt);
        }
        true
    }

    /// The blocks that a sequence need not compute: never its last token, of which something is wanted, nor any row
    /// of which something is still wanted.
    fn match_prefix(&mut self, id: SeqId) -> (NodeId, Vec<BlockId>) {
        if !self.config.prefix_cache {
            return (NodeId::ROOT, Vec::new());
        }
        let seq = &self.seqs[&id];
        let n_tokens = if seq.wants_early_rows() { seq.early_rows_done } else { seq.tokens.len() - 1 };
        self.cache.match_prefix(&mut self.allocator, seq.salt, &seq.tokens[..n_tokens])
    }

    // ---- after a step ----

    /// Gives a sequence's full blocks to the prefix cache. Called when a row of good values has come from them.
    fn publish(&mut self, id: SeqId) {
        if !self.config.prefix_cache {
            return;
        }
        let block_size = self.config.block_size;
        let seq = self.seqs.get_mut(&id).expect("results are for sequences that are there");
        while let Some(at) = seq.published
            && (seq.n_published + 1) * block_size <= seq.n_computed
        {
            let i = seq.n_published;
            let tokens = &seq.tokens[i * block_size..(i + 1) * block_size];
            let kept = self.cache.insert(&mut self.allocator, at, seq.salt, tokens, seq.blocks[i]);
            seq.published = kept.map(|(node, _)| node);
            if let Some((_, block)) = kept {
                seq.blocks[i] = block;
                seq.n_published += 1;
            }
        }
    }

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

    fn leave_queue(&mut self, priority: Priority, n_prompt: usize) {
        let queue = &mut self.queues[priority as usize];
        queue.requests -= 1;
        queue.tokens -= n_prompt;
    }

    // ---- blocks ----

    /// Blocks that can be had without preempting anyone. While a sequence that is being admitted holds its cached
    /// beginning, there may be fewer left than are reserved; it is then refused, as it needs at least one more.
    fn available(&self) -> usize {
        (self.allocator.n_free() + self.cache.n_idle()).saturating_sub(self.n_reserved)
    }

    fn take_block(&mut self, id: SeqId) -> BlockId {
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

    fn release_blocks(&mut self, id: SeqId) {
        let seq = self.seq_mut(id);
        let blocks = std::mem::take(&mut seq.blocks);
        let reserved = std::mem::take(&mut seq.n_reserved);
        self.n_reserved -= reserved;
        self.release_all(&blocks);
    }

    fn release_all(&mut self, blocks: &[BlockId]) {
        for &block in blocks.iter().rev() {
            self.cache.release(&mut self.allocator, block, self.step);
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

    /// Whether a normal sequence could be admitted, were there room.
    fn normal_waits(&self) -> bool {
        self.waiting.iter().any(|id| !self.seqs[id].paused && !self.seqs[id].is_background())
    }

    fn members(&self, request: RequestId) -> impl Iterator<Item = SeqId> {
        let from = self.seqs.range(request.choice(0)..);
        from.take_while(move |(_, seq)| seq.request == request).map(|(&id, _)| id)
    }

    fn seq_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.seqs.get_mut(&id).expect("the sequence is there")
    }
}

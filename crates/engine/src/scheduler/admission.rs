//! Who comes in: the bounded queue, and when those who wait begin.

use ingle_step::{BlockCopy, BlockId, SeqId};

use super::fairness::{Level, Stuck};
use super::plan::Plan;
use super::sequence::{Sequence, State};
use super::{AddError, NewRequest, RequestId, Scheduler};
use crate::prefix_cache::NodeId;

/// For how many steps those that fit their tenant's part may pass one that waits for more memory than that.
const PATIENCE_STEPS: u64 = 256;
/// For how many steps after several tenants were there room is left for one that comes.
const GUEST_STEPS: u64 = 10_000;
/// What share of the blocks this room is.
const GUEST_SHARE: usize = 8;

/// Who waits for memory, and since which step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    id: SeqId,
    since: u64,
}

impl Scheduler {
    /// Queues a request.
    ///
    /// # Errors
    /// If it can never run or too much waits.
    pub fn add(&mut self, request: NewRequest) -> Result<RequestId, AddError> {
        let NewRequest { prompt, n_choices, max_tokens, priority, .. } = &request;
        assert!(!prompt.is_empty() && *n_choices > 0, "a request has a prompt and a choice");
        let samples = *n_choices > 1 || *max_tokens > 0 || request.prompt_logits;
        assert!(request.pooling.is_none() || !samples, "what is pooled is not sampled");
        let n_room = self.max_seq_tokens();
        if let Some(shift) = request.shift {
            assert!(shift.n_discard > 0, "something makes way");
            assert!(shift.n_keep + shift.n_discard < n_room, "nothing would be left to go on from");
        }
        let n_more = if request.shift.is_some() { (*max_tokens).min(1) } else { *max_tokens };
        let n_tokens = prompt.len().saturating_add(n_more);
        let in_one_step = request.pooling.is_some_and(|pooled| !pooled.causal);
        let step_max = if in_one_step { self.config.step_token_budget } else { usize::MAX };
        let max_tokens = n_room.min(step_max);
        if n_tokens > max_tokens {
            return Err(AddError::TooLong { n_tokens, max_tokens });
        }
        self.queues.check(&self.config.queue, *priority, request.tenant, prompt.len())?;
        self.has_whole_texts |= in_one_step;
        let id = RequestId(self.next_seq);
        self.next_seq += u64::from(*n_choices);
        self.queues.join(*priority, request.tenant, prompt.len());
        self.deadlines.add(id, request.queue_deadline, request.deadline);
        let seq = Sequence::new(id, request);
        self.shares.enter(seq.level(), seq.tenant, seq.weight);
        self.waiting.insert(id.choice(0));
        self.seqs.insert(id.choice(0), seq);
        Ok(id)
    }

    /// Who of a level could begin, were there room, by age: nobody while a better level waits. Where one has waited long
    /// for memory, only the oldest of its tenant.
    pub(super) fn admissible(&self, level: Level) -> impl Iterator<Item = SeqId> {
        let waiting = || self.waiting.iter().copied().filter(|id| !self.seqs[id].paused);
        let is_free = !waiting().any(|id| self.seqs[&id].level() < level);
        let own = move || waiting().filter(move |id| is_free && self.seqs[id].level() == level);
        let head = self.heads.get(&level).filter(|head| self.step - head.since > PATIENCE_STEPS);
        let tenant = head.and_then(|head| self.seqs.get(&head.id)).map(|seq| seq.tenant);
        let only = tenant.and_then(|tenant| own().find(|id| self.seqs[id].tenant == tenant));
        own().filter(move |id| only.is_none_or(|only| only == *id))
    }

    /// Starts a waiting sequence if the whole of it fits. Where one waits for memory, nobody else of its tenant begins,
    /// and of others only who stays within its tenant's part.
    pub(super) fn admit(&mut self, plan: &mut Plan, id: SeqId, stuck: &mut Stuck) -> bool {
        let is_kept = match stuck.head {
            None => false,
            Some(head) => {
                self.seqs[&head].tenant == self.seqs[&id].tenant || !self.fits_part(id, self.n_to_start(id))
            }
        };
        let is_in =
            !is_kept && !stuck.tenants_waiting.contains(&self.seqs[&id].tenant) && self.admit_one(plan, id);
        if !is_in {
            stuck.tenants_waiting.insert(self.seqs[&id].tenant);
            stuck.head.get_or_insert(id);
        }
        is_in
    }

    /// After a level's part of a step: who waits for memory before all others.
    pub(super) fn note_head(&mut self, level: Level, head: Option<SeqId>) {
        let Some(id) = head else {
            self.heads.remove(&level);
            return;
        };
        let (waiting, since) = (&self.waiting, self.step);
        let entry = self.heads.entry(level).or_insert(Head { id, since });
        if !waiting.contains(&entry.id) {
            *entry = Head { id, since };
        }
    }

    /// Tokens for which there must be room when a sequence begins.
    fn n_to_start(&self, id: SeqId) -> usize {
        let seq = &self.seqs[&id];
        let must_finish = seq.preemptions >= self.config.max_preemptions;
        let n_left = if must_finish { seq.max_tokens - seq.n_new() } else { 0 };
        let n_tokens = (seq.tokens.len() + n_left).min(self.max_seq_tokens());
        n_tokens.div_ceil(self.config.block_size)
    }

    fn admit_one(&mut self, plan: &mut Plan, id: SeqId) -> bool {
        let (at, blocks) = self.match_prefix(id);
        let n_blocks = self.n_to_start(id);
        let n_needed = n_blocks - blocks.len();
        assert!(n_needed > 0, "the last token is always computed");
        if !self.make_start(plan, id, n_blocks, n_needed) {
            self.release_all(&blocks);
            return false;
        }
        self.waiting.remove(&id);
        self.running.insert(id);
        let (block_size, max_preemptions) = (self.config.block_size, self.config.max_preemptions);
        let seq = self.seqs.get_mut(&id).expect("waiting sequences are in the map");
        seq.state = State::Running;
        seq.n_computed = blocks.len() * block_size;
        let n_found = blocks.len();
        (seq.published, seq.n_published, seq.blocks) = (at, n_found, blocks);
        if seq.preemptions >= max_preemptions {
            seq.n_reserved = n_needed;
            self.n_reserved += n_needed;
        }
        self.cache.note_use(at);
        self.swap_in(id, n_found);
        // The source of a copy is one block more that cannot be had while the step is formed.
        let has_spare = self.available() + self.seqs[&id].n_reserved > n_needed;
        if has_spare && self.seqs[&id].swapped.is_none() {
            self.copy_beginning(plan, id);
        }
        let seq = self.seq_mut(id);
        if seq.cached_tokens.is_none() {
            let n_matched = seq.n_computed;
            seq.cached_tokens = Some(n_matched);
            let (priority, tenant, n_prompt, request) = (seq.priority, seq.tenant, seq.n_prompt, seq.request);
            self.cached_tokens += n_matched as u64;
            self.queues.leave(priority, tenant, n_prompt);
            self.deadlines.began(request);
        }
        true
    }

    /// Makes room for a sequence that begins, preempting others if it may. Nobody is preempted if that is not enough.
    fn make_start(&mut self, plan: &Plan, id: SeqId, n_blocks: usize, n_needed: usize) -> bool {
        let (preemptions, level) = (self.seqs[&id].preemptions, self.seqs[&id].level());
        let n_active = self.n_active(level);
        let must_finish = preemptions >= self.config.max_preemptions;
        // Room for those who run to grow, more of it for who has been preempted: to preempt is to waste work.
        let to_grow = if must_finish { 0 } else { n_active * (1 + preemptions as usize) };
        let headroom = to_grow.max(self.guest_room(id, n_blocks));
        let yielding = self.n_yielding(plan, id);
        let is_roomy = self.available() + yielding.background >= n_needed + headroom;
        let is_owed = self.fits_part(id, n_blocks) && self.available() + yielding.all >= n_needed;
        let is_stalled = n_active == 0;
        if !is_roomy && !is_owed && !is_stalled {
            return false;
        }
        while self.available() < n_needed {
            let greedy = || if is_owed { self.greedy_victim(plan, id) } else { None };
            let paused = || if is_stalled { self.paused_victim(plan, id) } else { None };
            let Some(victim) = self.worse_victim(plan, id).or_else(greedy).or_else(paused) else {
                return false;
            };
            self.preempt(victim, id);
        }
        true
    }

    /// Blocks that a tenant with more than its part leaves to one that comes, if others have come lately.
    fn guest_room(&self, id: SeqId, n_blocks: usize) -> usize {
        let seq = &self.seqs[&id];
        let is_shared = self.last_shared.is_some_and(|step| self.step - step < GUEST_STEPS);
        let n_held = self.n_held(seq.tenant);
        let weight = u64::from(seq.weight);
        let part = self.config.n_blocks as u64 * weight / (self.shares.weight_present(seq.level()) + 1);
        if is_shared && n_held > 0 && (n_held + n_blocks) as u64 > part {
            self.config.n_blocks / GUEST_SHARE
        } else {
            0
        }
    }

    /// Whether a tenant holds no more than its part of all blocks if a sequence of it gets so many more.
    pub(super) fn fits_part(&self, id: SeqId, n_more: usize) -> bool {
        let seq = &self.seqs[&id];
        self.n_held(seq.tenant) + n_more <= self.part_of(seq.level(), seq.tenant)
    }

    /// A tenant's part of all blocks, by weight among those who are there.
    pub(super) fn part_of(&self, level: Level, tenant: u64) -> usize {
        let weight = u64::from(self.shares.account(level, tenant).weight);
        (self.config.n_blocks as u64 * weight / self.shares.weight_present(level)) as usize
    }

    /// Blocks that a tenant's sequences hold or were promised; one that several share counts for each.
    pub(super) fn n_held(&self, tenant: u64) -> usize {
        let own = self.running.iter().map(|id| &self.seqs[id]).filter(|seq| seq.tenant == tenant);
        own.map(|seq| seq.blocks.len() + seq.n_reserved).sum()
    }

    /// Notes whether several tenants are there.
    pub(super) fn note_tenants(&mut self) {
        let first = self.seqs.values().next().map(|seq| seq.tenant);
        if self.seqs.values().any(|seq| Some(seq.tenant) != first) {
            self.last_shared = Some(self.step);
        }
    }

    /// The blocks that a sequence need not compute: never its last token, of which something is wanted, nor any row
    /// of which something is still wanted.
    fn match_prefix(&mut self, id: SeqId) -> (NodeId, Vec<BlockId>) {
        if !self.shares(id) {
            return (NodeId::ROOT, Vec::new());
        }
        let seq = &self.seqs[&id];
        let n_tokens = if seq.wants_early_rows() { seq.early_rows_done } else { seq.tokens.len() - 1 };
        self.cache.match_prefix(&mut self.allocator, seq.salt, &seq.tokens[..n_tokens])
    }

    /// Copies the slots of a cached block that a sequence has in common with it after its full blocks.
    fn copy_beginning(&mut self, plan: &mut Plan, id: SeqId) {
        let seq = &self.seqs[&id];
        if !self.shares(id) || seq.wants_early_rows() {
            return;
        }
        let rest = &seq.tokens[seq.n_computed..seq.tokens.len() - 1];
        let part = self.cache.match_partly(&mut self.allocator, seq.published, seq.salt, rest);
        let Some((from, n_slots)) = part else { return };
        let to = self.take_block(id);
        plan.sources.push(from);
        plan.batch.copies.push(BlockCopy { from, to, n_slots: n_slots as u32 });
        let seq = self.seq_mut(id);
        seq.blocks.push(to);
        seq.n_computed += n_slots;
    }

    /// Whether a normal sequence could be admitted, were there room.
    pub(super) fn normal_waits(&self) -> bool {
        self.waiting.iter().any(|id| !self.seqs[id].paused && !self.seqs[id].is_background())
    }
}

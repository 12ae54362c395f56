//! Who comes in: the bounded queue, and when those who wait begin.

use ingle_step::{BlockCopy, BlockId, SeqId};

use super::plan::Plan;
use super::sequence::{Sequence, State};
use super::{AddError, NewRequest, Priority, RequestId, Scheduler};
use crate::prefix_cache::NodeId;

/// Requests of one priority whose first step has not come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    pub requests: usize,
    /// Their prompt tokens.
    pub tokens: usize,
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
        let n_tokens = prompt.len().saturating_add(*max_tokens);
        let in_one_step = request.pooling.is_some_and(|pooled| !pooled.causal);
        let step_max = if in_one_step { self.config.step_token_budget } else { usize::MAX };
        let max_tokens = self.max_seq_tokens().min(step_max);
        if n_tokens > max_tokens {
            return Err(AddError::TooLong { n_tokens, max_tokens });
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

    /// Starts waiting sequences, oldest first, as long as the whole of each fits; in the background only while no normal
    /// one waits.
    pub(super) fn admit(&mut self, plan: &mut Plan, priority: Priority) {
        if priority == Priority::Background && self.normal_waits() {
            return;
        }
        let is_next = |id: &SeqId| !self.seqs[id].paused && self.seqs[id].priority == priority;
        let waiting: Vec<SeqId> = self.waiting.iter().copied().filter(is_next).collect();
        for id in waiting {
            let n_active = self.n_active(priority);
            let has_room = self.seqs[&id].rows_within(plan.budget) > 0;
            if !has_room || n_active >= self.config.max_running_seqs {
                return;
            }
            if !self.admit_one(plan, id, n_active) {
                return; // in order of age: nobody overtakes who waits for memory
            }
            let share = plan.budget;
            self.plan_rows(plan, id, share);
        }
    }

    fn admit_one(&mut self, plan: &mut Plan, id: SeqId, n_active: usize) -> bool {
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
        let seq = self.seqs.get_mut(&id).expect("waiting sequences are in the map");
        seq.state = State::Running;
        seq.n_computed = blocks.len() * block_size;
        (seq.published, seq.n_published, seq.blocks) = (at, blocks.len(), blocks);
        if must_finish {
            seq.n_reserved = n_needed;
            self.n_reserved += n_needed;
        }
        // The source of a copy is one block more that cannot be had while the step is formed.
        if self.available() + self.seqs[&id].n_reserved > n_needed {
            self.copy_beginning(plan, id);
        }
        let seq = self.seq_mut(id);
        if seq.cached_tokens.is_none() {
            let n_matched = seq.n_computed;
            seq.cached_tokens = Some(n_matched);
            let (priority, n_prompt) = (seq.priority, seq.n_prompt);
            self.cached_tokens += n_matched as u64;
            self.leave_queue(priority, n_prompt);
        }
        true
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

    pub(super) fn leave_queue(&mut self, priority: Priority, n_prompt: usize) {
        let queue = &mut self.queues[priority as usize];
        queue.requests -= 1;
        queue.tokens -= n_prompt;
    }

    /// Whether a normal sequence could be admitted, were there room.
    pub(super) fn normal_waits(&self) -> bool {
        self.waiting.iter().any(|id| !self.seqs[id].paused && !self.seqs[id].is_background())
    }
}

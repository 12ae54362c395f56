//! The books: what a step computes is noted before and after it, and published for whoever asks.

use std::time::Instant;

use ingle_step::StepBatch;

use super::{Planned, PlannedSeq, Worker, owner};
use crate::scheduler::{RequestId, Sampled};

impl Worker {
    pub(super) fn note_batch(&mut self, batch: &StepBatch) -> Planned {
        let began = Instant::now();
        let mut planned = Planned {
            step: batch.step,
            began,
            seqs: Vec::new(),
            n_rows: 0,
            n_prompt_rows: 0,
            draft_seconds: 0.0,
        };
        for seq in &batch.seqs {
            let start = seq.start as usize + self.scheduler.n_discarded(seq.seq);
            planned.n_rows += seq.inputs.len();
            let last_wanted = seq.wants.last().map(|&(row, _)| start + row as usize);
            let draft = self.scheduler.draft(seq.seq).to_vec();
            planned.seqs.push(PlannedSeq { seq: seq.seq, start, is_sampled: false, draft });
            let Some((id, active)) = owner(&mut self.active, seq.seq) else { continue };
            let n_prompt = active.work.prompt().len();
            if let Some(added) = planned.seqs.last_mut() {
                added.is_sampled = last_wanted.is_some_and(|position| position + 1 >= n_prompt);
            }
            let n_unread = self.scheduler.n_to_read(seq.seq).saturating_sub(seq.start as usize);
            planned.n_prompt_rows += n_unread.min(seq.inputs.len());
            if active.started.is_none() {
                let n_cached = self.scheduler.cached_tokens(id).unwrap_or(0);
                active.started = Some((began, n_cached));
                let standing = active.work.standing();
                let tenant = self.shared.tenant_id(&standing.tenant);
                self.shared.board().queues.leave(standing.priority, tenant, n_prompt);
            }
        }
        planned
    }

    pub(super) fn note_step(&mut self, planned: &Planned, sampled: &[Sampled]) {
        let n_sampled = sampled.iter().map(|s| s.tokens.len()).sum();
        let in_step = self.in_step.take().unwrap_or_default();
        let complete = |id: &&RequestId| self.active.get(id).is_some_and(|a| a.complete);
        let n_complete = in_step.iter().filter(complete).count();
        let now = Instant::now();
        self.pace.step(planned.n_rows, now.duration_since(planned.began));
        let mut board = self.shared.board();
        board.meter.step(planned.began, now, planned.n_prompt_rows, n_sampled);
        let status = &mut board.status;
        status.steps_total += 1;
        status.prompt_tokens_total += planned.n_prompt_rows as u64;
        status.generated_tokens_total += n_sampled as u64;
        status.requests_finished_total += n_complete as u64;
    }

    pub(super) fn publish(&self) {
        let stats = self.scheduler.stats();
        let kv_tiers = self.tiers.status(&self.scheduler);
        let mut board = self.shared.board();
        board.waiting_again = stats.waiting - stats.queued_requests;
        let status = &mut board.status;
        status.running = stats.running;
        status.kv_blocks_used = stats.blocks_used;
        status.kv_blocks_cached = stats.blocks_cached;
        status.cached_tokens_total = stats.cached_tokens;
        status.preemptions_total = stats.preemptions;
        status.context_shifts_total = stats.shifts;
        status.discarded_tokens_total = stats.discarded_tokens;
        status.kv_tiers = kv_tiers;
        status.speculation = self.speculation_status();
    }
}

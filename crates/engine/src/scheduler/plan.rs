//! Who gets which rows of a step.

use std::collections::BTreeSet;

use ingle_step::{BlockId, SeqId, SeqStep, StepBatch, Want};

use super::{Priority, Scheduler};

/// Rows of prompt log-probabilities in one step, over all sequences: a row of logits is large.
const PROMPT_LOGITS_ROWS_MAX: usize = 64;

/// A step being formed.
pub(super) struct Plan {
    pub batch: StepBatch,
    pub budget: usize,
    /// Rows of prompt log-probabilities that it may still ask for.
    pub prompt_rows: usize,
    pub members: BTreeSet<SeqId>,
    /// Blocks that are copied from, held until the step is formed: nobody else in it may get them.
    pub sources: Vec<BlockId>,
}

impl Plan {
    /// An empty step with room for `budget` tokens.
    pub fn new(step: u64, budget: usize) -> Self {
        let batch = StepBatch { step, ..StepBatch::default() };
        Self {
            batch,
            budget,
            prompt_rows: PROMPT_LOGITS_ROWS_MAX,
            members: BTreeSet::new(),
            sources: Vec::new(),
        }
    }
}

impl Scheduler {
    /// Adds the next rows of running sequences: first of those that need one, then of those that read their prompt. In
    /// the background only of as many as there are places left; the others keep their blocks and wait.
    pub(super) fn plan_running(&mut self, plan: &mut Plan, priority: Priority) {
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
    pub(super) fn plan_rows(&mut self, plan: &mut Plan, id: SeqId, share: usize) -> bool {
        let seq = &self.seqs[&id];
        let mut n_rows = seq.rows_within(share.min(plan.budget));
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
            inputs: (start..end).map(|position| seq.input(position)).collect(),
            start: start as u32,
            block_table: seq.blocks.clone(),
            causal: seq.causal,
            wants,
        });
        true
    }
}

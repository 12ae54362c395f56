//! Who gets which rows of a step.

use std::collections::BTreeSet;

use ingle_step::{Input, SeqId, SeqStep, StepBatch, Want};

use super::Scheduler;

/// Rows of prompt log-probabilities in one step, over all sequences: a row of logits is large.
const PROMPT_LOGITS_ROWS_MAX: usize = 64;

/// A step being formed.
pub(super) struct Plan {
    pub batch: StepBatch,
    pub budget: usize,
    /// Rows of prompt log-probabilities that it may still ask for.
    pub prompt_rows: usize,
    pub members: BTreeSet<SeqId>,
}

impl Plan {
    /// An empty step with room for `budget` tokens.
    pub fn new(step: u64, budget: usize) -> Self {
        let batch = StepBatch { step, ..StepBatch::default() };
        Self { batch, budget, prompt_rows: PROMPT_LOGITS_ROWS_MAX, members: BTreeSet::new() }
    }
}

impl Scheduler {
    /// Adds a running sequence's next rows: all that is known of it, or as much as its share of the budget allows.
    /// False if there was no room for any.
    pub(super) fn plan_rows(&mut self, plan: &mut Plan, id: SeqId, share: usize) -> bool {
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
}

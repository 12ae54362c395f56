//! What the thread has to do with guesses: it has them made before a step, and tells what became of them after it.

use std::collections::BTreeSet;
use std::time::Duration;

use ingle_chat::SpeculationStatus;
use ingle_step::{SeqId, TokenId};

use super::{Planned, PlannedSeq, Worker};
use crate::scheduler::{RequestId, Sampled, n_accepted};
use crate::speculation::Hints;
use crate::speculation::controller::Ran;
use crate::work::Work;

/// What was guessed ahead for a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guessed {
    pub drafted: usize,
    pub accepted: usize,
    pub foretold: usize,
}

impl Worker {
    /// Guesses what comes next. Whatever goes wrong with that is no matter of the requests'. Tells how many seconds a draft
    /// model guessed.
    pub(super) fn speculate(&mut self) -> f64 {
        self.in_step = Some(BTreeSet::new());
        self.is_guessing = true;
        let Self { active, scheduler, speculator, .. } = self;
        let active = &*active;
        let seconds = speculator.draft(scheduler, |seq| {
            let (&id, active) = active.range(..=RequestId(seq.0)).next_back()?;
            let Work::Generate(work) = &active.work else { return None };
            let request = work.answer.request();
            (seq.0 - id.0 < u64::from(request.n_choices)).then(|| Hints {
                n_prompt: request.prompt.len(),
                draft_max: request.draft_max,
                prediction: &request.prediction,
            })
        });
        self.is_guessing = false;
        seconds
    }

    /// What became of the step's guesses.
    pub(super) fn note_drafts(&mut self, planned: &Planned, sampled: &[Sampled], took: Duration) {
        let result = |seq: SeqId| sampled.iter().find(|result| result.seq == seq);
        let drafted: Vec<(SeqId, &[TokenId], &[TokenId])> = planned
            .seqs
            .iter()
            .filter(|planned| !planned.draft.is_empty())
            .map(|PlannedSeq { seq, draft, .. }| {
                (*seq, &**draft, result(*seq).map_or(&[][..], |r| r.tokens.as_slice()))
            })
            .collect();
        let n_draft = drafted.iter().map(|(_, draft, _)| draft.len()).sum();
        let price = self.speculator.observe(&Ran {
            n_decode: planned.n_rows - planned.n_prompt_rows - n_draft,
            n_prompt: planned.n_prompt_rows,
            n_draft,
            n_accepted: drafted.iter().map(|(_, draft, said)| n_accepted(said, draft)).sum(),
            step_seconds: took.as_secs_f64(),
            draft_seconds: planned.draft_seconds,
        });
        for (seq, draft, said) in drafted {
            self.speculator.observe_draft(seq, draft, said, price);
        }
    }

    /// What was guessed since start.
    pub(super) fn speculation_status(&self) -> SpeculationStatus {
        let counts = self.speculator.counts();
        SpeculationStatus {
            is_on: self.speculator.is_on(),
            drafts_total: counts.drafts,
            draft_tokens_total: counts.drafted,
            accepted_tokens_total: counts.accepted,
            accepted_tokens_per_position: counts.accepted_at.clone(),
            failure: counts.failure.clone(),
        }
    }
}

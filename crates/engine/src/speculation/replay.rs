//! What speculation would make of answers that are known: the real scheduler and the real controller, with steps whose
//! cost is a function of their rows. Nothing runs, so a figure for a large model takes no large model.

use std::collections::BTreeMap;

use ingle_step::{SeqId, TokenId};

use super::controller::Ran;
use super::{Hints, SpeculationConfig, Speculator};
use crate::scheduler::{NewRequest, Sampled, Scheduler, SchedulerConfig, n_accepted};

/// Slots in a block.
const BLOCK_SIZE: usize = 32;

/// A request and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// What was asked. Never empty.
    pub prompt: Vec<TokenId>,
    /// What was said. Never empty.
    pub answer: Vec<TokenId>,
    /// What the client took the answer to be.
    pub prediction: Vec<TokenId>,
}

/// What decoding answers took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Replayed {
    /// Seconds of all steps that count: those in which all traces are decoded.
    pub seconds: f64,
    /// How many steps these were.
    pub steps: usize,
    /// Tokens that were said in them.
    pub tokens: usize,
    /// Draft tokens in them.
    pub drafted: usize,
    /// Those of them that were accepted.
    pub accepted: usize,
}

impl Replayed {
    /// Tokens per second.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// Decodes traces that begin together, as `speculator` has it; it learns from them. A step of `n` rows takes `cost(n)`
/// seconds, the guesses nothing. What counts ends where the first trace does: others would take its place.
pub fn replay(speculator: &mut Speculator, traces: &[Trace], cost: &mut dyn FnMut(usize) -> f64) -> Replayed {
    let n_tokens = |trace: &Trace| trace.prompt.len() + trace.answer.len();
    let n_blocks = traces.iter().map(|trace| n_tokens(trace).div_ceil(BLOCK_SIZE) + 1).sum();
    let mut scheduler = Scheduler::new(SchedulerConfig {
        block_size: BLOCK_SIZE,
        n_blocks,
        n_ctx: traces.iter().map(n_tokens).max().unwrap_or(1),
        max_running_seqs: traces.len(),
        step_token_budget: traces.iter().map(|trace| trace.prompt.len()).sum::<usize>() + traces.len(),
        max_waiting_requests: traces.len(),
        max_waiting_tokens: usize::MAX,
        prefix_cache: false,
        max_preemptions: 0,
    });
    let mut of: BTreeMap<SeqId, &Trace> = BTreeMap::new();
    for trace in traces {
        let request = NewRequest::new(trace.prompt.clone(), trace.answer.len());
        let id = scheduler.add(request).expect("there is room for all of them");
        of.insert(id.choice(0), trace);
    }
    let mut total = Replayed::default();
    loop {
        speculator.draft(&mut scheduler, |id| {
            let trace = of.get(&id)?;
            Some(Hints { n_prompt: trace.prompt.len(), draft_max: usize::MAX, prediction: &trace.prediction })
        });
        let Some(batch) = scheduler.schedule() else { break };
        let mut ran = Ran::default();
        let (mut results, mut drafts) = (Vec::new(), Vec::new());
        for step in &batch.seqs {
            let trace = of[&step.seq];
            let draft = scheduler.draft(step.seq).to_vec();
            let n_prompt = trace.prompt.len().saturating_sub(step.start as usize).min(step.inputs.len());
            ran.n_prompt += n_prompt;
            ran.n_draft += draft.len();
            ran.n_decode += step.inputs.len() - draft.len() - n_prompt;
            let said = scheduler.n_tokens(step.seq) - trace.prompt.len();
            let n_equal = n_accepted(&trace.answer[said..], &draft);
            let tokens: Vec<TokenId> = trace.answer[said..].iter().copied().take(n_equal + 1).collect();
            ran.n_accepted += n_equal;
            let done = said + tokens.len() == trace.answer.len();
            drafts.push(draft);
            results.push(Sampled { seq: step.seq, tokens, done });
        }
        if ran.n_prompt == 0 {
            ran.step_seconds = cost(ran.n_decode + ran.n_draft);
        }
        if ran.n_prompt == 0 && batch.seqs.len() == traces.len() {
            total.seconds += ran.step_seconds;
            total.steps += 1;
            total.tokens += results.iter().map(|result| result.tokens.len()).sum::<usize>();
            total.drafted += ran.n_draft;
            total.accepted += ran.n_accepted;
        }
        let price = speculator.observe(&ran);
        for (result, draft) in results.iter().zip(drafts).filter(|(_, draft)| !draft.is_empty()) {
            speculator.observe_draft(result.seq, &draft, &result.tokens, price);
        }
        scheduler.commit(&results);
    }
    scheduler.check_integrity();
    total
}

/// The same without speculation.
pub fn replay_plain(traces: &[Trace], cost: &mut dyn FnMut(usize) -> f64) -> Replayed {
    let config = SpeculationConfig { source: super::Source::Off, ..SpeculationConfig::default() };
    replay(&mut Speculator::new(config, None, usize::MAX), traces, cost)
}

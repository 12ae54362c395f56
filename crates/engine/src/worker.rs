//! What the engine thread does: hops 5 to 10 of every request, one step after the other.

mod books;
mod faults;
mod guesses;
mod requests;
mod tiers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ingle_chat::{Delta, Event, ProviderError, Usage};
use ingle_step::{Executor, ExecutorError, SeqId, SeqOut, StepOut, TokenId};
use tokio::sync::mpsc;

use crate::engine::{Arrival, EngineConfig, Phase, Shared};
use crate::scheduler::{Pace, Published, RequestId, Sampled, Scheduler, StepBudget, n_accepted, row_counts};
use crate::speculation::Speculator;
use crate::work::{Embedding, Work};
use faults::{message_of, numeric_error};
use guesses::Guessed;
use tiers::Tiers;

/// How often an otherwise idle thread looks at its timeouts while requests are unfinished.
const TIMEOUT_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The thread's own.
pub(crate) struct Worker {
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    speculator: Speculator,
    /// Guesses are being made.
    is_guessing: bool,
    arrivals: mpsc::Receiver<Arrival>,
    shared: Arc<Shared>,
    config: EngineConfig,
    active: BTreeMap<RequestId, Active>,
    /// Who is in the step that runs; `None` until that is known.
    in_step: Option<BTreeSet<RequestId>>,
    tiers: Tiers,
    /// Tenants with the salts of what they have cached with adapters, perhaps, beside their own.
    adapted_salts: BTreeSet<(String, u64)>,
    /// How large steps may be.
    pace: Pace,
    /// Who asked first, and whether anybody else has asked since.
    tenants: (Option<u64>, bool),
    /// A row of logits for samplers to overwrite. `(n_vocab,)`
    scratch: Vec<f32>,
    /// When requests lately met numbers that are none; at most [`faults::SUSPICIOUS_ERRORS`].
    numeric_errors: VecDeque<Instant>,
}

/// A request that the thread has and that has not ended.
struct Active {
    work: Work,
    arrived: Instant,
    /// When its first step began, and how many prompt tokens it found cached.
    started: Option<(Instant, usize)>,
    /// When its first and its latest token came.
    tokens: Option<(Instant, Instant)>,
    /// What was guessed for it.
    guessed: Guessed,
    /// Since when its reader lags.
    paused: Option<Instant>,
    /// Everything is computed, though perhaps not delivered.
    complete: bool,
}

/// What a batch computes, noted before it is given away.
struct Planned {
    step: u64,
    began: Instant,
    /// In the order of the batch.
    seqs: Vec<PlannedSeq>,
    n_rows: usize,
    n_prompt_rows: usize,
    /// How many seconds the draft model guessed for it.
    draft_seconds: f64,
}

struct PlannedSeq {
    seq: SeqId,
    /// The position of its first row, counted with what has made way.
    start: usize,
    /// Whether a token follows its last row.
    is_sampled: bool,
    /// The tokens of its last rows, which are guesses.
    draft: Vec<TokenId>,
}

impl Worker {
    pub fn new(
        executor: Box<dyn Executor>,
        scheduler: Scheduler,
        speculator: Speculator,
        arrivals: mpsc::Receiver<Arrival>,
        shared: Arc<Shared>,
        config: EngineConfig,
        swap_blocks: usize,
    ) -> Self {
        Self {
            pace: Pace::new(config.step_time_max, config.step_token_budget),
            tenants: (None, config.is_shared),
            adapted_salts: BTreeSet::new(),
            tiers: Tiers::new(&*executor, swap_blocks, config.disk.clone()),
            executor,
            scheduler,
            speculator,
            is_guessing: false,
            arrivals,
            shared,
            config,
            active: BTreeMap::new(),
            in_step: None,
            scratch: Vec::new(),
            numeric_errors: VecDeque::new(),
        }
    }

    pub fn run(mut self) {
        while self.shared.board().phase != Phase::Stopping {
            self.take_arrivals();
            self.flush();
            self.look_after_clients();
            let worked = match catch_unwind(AssertUnwindSafe(|| self.step())) {
                Ok(Ok(worked)) => worked,
                Ok(Err(ExecutorError::Unusable(why))) => self.give_up(&why),
                Ok(Err(error)) => self.recover(&error.to_string()),
                Err(panic) => self.recover(message_of(&*panic)),
            };
            // First the books, then the news: a client that has read its last delta finds itself counted.
            self.publish();
            self.deliver();
            if !worked {
                self.rest();
            }
        }
        self.take_arrivals();
        for arrival in self.tiers.take_waiting() {
            self.add(arrival);
        }
        for id in self.ids() {
            self.fail(id, ProviderError::Unavailable("it is shutting down".into()));
        }
        self.tiers.save_rest(&mut *self.executor, &self.scheduler);
    }

    /// Hops 6 to 9. False if there was nothing to do.
    fn step(&mut self) -> Result<bool, ExecutorError> {
        let draft_seconds = self.speculate();
        self.in_step = None;
        for arrival in self.tiers.take_fetched(&mut *self.executor, &mut self.scheduler)? {
            self.add(arrival);
        }
        self.tiers.save(&mut *self.executor, &self.scheduler)?;
        let mut batch = self.scheduler.schedule_within(self.budget());
        self.in_step = Some(self.scheduler.in_flight());
        let token_seconds = self.shared.board().meter.estimate(1000).as_secs_f64() / 1000.0;
        self.tiers.move_blocks(&mut *self.executor, &mut self.scheduler, batch.as_mut(), token_seconds)?;
        let Some(batch) = batch else { return Ok(self.check_idle()) };
        let planned = Planned { draft_seconds, ..self.note_batch(&batch) };
        self.executor.submit(batch)?;
        self.prepare(&planned);
        let out = self.wait_for(planned.step)?;
        let took = planned.began.elapsed();
        let sampled = self.sample(&out, &planned);
        self.note_drafts(&planned, &sampled, took);
        self.scheduler.commit(&sampled);
        let tenant_of = |published: &Published| {
            let work = &self.active.get(&published.request)?.work;
            work.adapters().uses.is_empty().then_some(work.standing().tenant.as_str())
        };
        self.tiers.note_published(self.scheduler.take_published(), tenant_of);
        self.note_step(&planned, &sampled);
        self.executor.recycle(out);
        Ok(true)
    }

    /// How large the next step may be: where somebody may come whom it delays, or whose answer goes on, no larger than its
    /// time allows.
    fn budget(&self) -> StepBudget {
        let is_alone = self.active.len() <= 1 && !self.tenants.1;
        if is_alone { self.pace.unbounded() } else { self.pace.budget() }
    }

    /// What picking tokens needs besides logits: masks of formats. They depend on tokens that are known, so they are
    /// made while the device computes.
    fn prepare(&mut self, planned: &Planned) {
        for &PlannedSeq { seq, .. } in planned.seqs.iter().filter(|planned| planned.is_sampled) {
            let choices = self.scheduler.choices_of(seq);
            if let Some((_, Active { work: Work::Generate(work), .. })) = owner(&mut self.active, seq) {
                choices.for_each(|choice| work.answer.prepare(choice));
            }
        }
    }

    /// Rows of logits become tokens, and tokens deltas; hidden states become vectors.
    fn sample(&mut self, out: &StepOut, planned: &Planned) -> Vec<Sampled> {
        self.end_numeric_errors(out, planned);
        let (now, mut sampled, mut events) = (Instant::now(), Vec::new(), Vec::new());
        let mut failed = BTreeMap::new();
        for (seq_out, PlannedSeq { seq, start, draft, .. }) in out.seqs.iter().zip(&planned.seqs) {
            let (seq, start) = (*seq, *start);
            assert_eq!(seq_out.seq, seq, "results come in the order of the batch");
            let Some((request, active)) = owner(&mut self.active, seq) else { continue };
            let work = match &mut active.work {
                Work::Generate(work) => work,
                Work::Embed(work) => {
                    if pool(work, seq_out, start) {
                        let (began, n_cached) = active.started.unwrap_or((active.arrived, 0));
                        work.finish(n_cached, began, now);
                        active.complete = true;
                        sampled.push((request, Sampled { seq, tokens: Vec::new(), done: true }));
                    }
                    continue;
                }
            };
            let n_tokens = self.scheduler.n_tokens(seq) + self.scheduler.n_discarded(seq);
            // What its only choice has said in this step: drafts are for one choice alone.
            let (mut said, mut is_done) = (Vec::<TokenId>::new(), false);
            for row in &seq_out.rows {
                let position = start + row.row as usize;
                if position + 1 < work.answer.request().prompt.len() {
                    work.answer.prompt_row(position, &row.values);
                    continue;
                }
                let next = position + 1;
                let n_guessed = next.saturating_sub(n_tokens);
                if n_guessed > 0 && (is_done || !row_counts(n_guessed, &said, draft)) {
                    continue;
                }
                if n_guessed > 0 && !row.is_finite() {
                    failed.insert(request, numeric_error());
                    break;
                }
                for choice in self.scheduler.choices_of(seq) {
                    // What this answer alone brings out is no reason to lose the step for all.
                    let picked = catch_unwind(AssertUnwindSafe(|| {
                        work.answer.sample(choice, &row.values, next, &mut self.scratch, &mut events)
                    }));
                    let picked = picked.unwrap_or_else(|panic| {
                        let why = message_of(&*panic);
                        Err(ProviderError::Internal(format!("picking a token panicked: {why}")))
                    });
                    let (tokens, done) = match picked {
                        Ok(picked) => picked,
                        Err(error) => {
                            events.clear();
                            failed.insert(request, error);
                            break;
                        }
                    };
                    is_done |= done;
                    let id = request.choice(choice);
                    if n_guessed == 0 {
                        said = tokens.clone();
                        sampled.push((request, Sampled { seq: id, tokens, done }));
                    } else if let Some((_, last)) = sampled.last_mut() {
                        said.extend(&tokens);
                        last.tokens.extend(tokens);
                        last.done = done;
                    }
                    if done {
                        active.guessed.foretold += work.answer.n_foretold(choice);
                    }
                    events.drain(..).for_each(|event| work.outlet.push(Delta { choice, event }));
                }
                active.tokens.get_or_insert((now, now)).1 = now;
                if failed.contains_key(&request) {
                    break;
                }
            }
            active.guessed.drafted += draft.len();
            active.guessed.accepted += n_accepted(&said, draft);
            if work.answer.is_finished() {
                active.complete = true;
                let event = Event::Done(active.usage());
                if let Work::Generate(work) = &mut active.work {
                    work.outlet.push(Delta { choice: 0, event });
                }
            }
        }
        let good = sampled.into_iter().filter(|(request, _)| !failed.contains_key(request));
        let good = good.map(|(_, sampled)| sampled).collect();
        for (request, error) in failed {
            self.fail(request, error);
        }
        good
    }

    /// Nothing to do: the time to look whether the books are right. Called within `step`, so that what is wrong
    /// is reported and everything starts afresh.
    fn check_idle(&self) -> bool {
        if self.active.is_empty() {
            self.scheduler.check_integrity();
            assert_eq!(
                self.scheduler.stats().blocks_used,
                0,
                "blocks are held for nobody:\n{}",
                self.scheduler
            );
        }
        false
    }

    /// The results of this step, past those of a step that was abandoned.
    fn wait_for(&mut self, step: u64) -> Result<StepOut, ExecutorError> {
        loop {
            let out = self.executor.wait()?;
            assert!(out.step <= step, "the executor gave step {} before it was asked for", out.step);
            if out.step == step {
                return Ok(out);
            }
        }
    }

    fn rest(&self) {
        if self.active.is_empty() && !self.tiers.is_fetching() {
            thread::park();
        } else {
            thread::park_timeout(TIMEOUT_CHECK_INTERVAL);
        }
    }

    fn ids(&self) -> Vec<RequestId> {
        self.active.keys().copied().collect()
    }
}

impl Drop for Worker {
    /// Also if the thread itself panics: nobody shall wait for it then.
    fn drop(&mut self) {
        let mut board = self.shared.board();
        board.phase = Phase::Stopping;
        board.unfinished = 0;
        self.shared.idle.notify_all();
    }
}

impl Active {
    fn new(work: Work, arrived: Instant) -> Self {
        let guessed = Guessed::default();
        Self { work, arrived, started: None, tokens: None, guessed, paused: None, complete: false }
    }

    fn usage(&self) -> Usage {
        let (started, n_cached) = self.started.unwrap_or((self.arrived, 0));
        let (first, last) = self.tokens.unwrap_or((started, started));
        let (completion_tokens, reasoning_tokens) = self.work.n_generated();
        let (context_shifts, discarded_tokens) = self.work.n_shifts();
        Usage {
            prompt_tokens: self.work.prompt().len() as u64,
            cached_tokens: n_cached as u64,
            completion_tokens: completion_tokens as u64,
            reasoning_tokens: reasoning_tokens as u64,
            drafted_tokens: self.guessed.drafted as u64,
            accepted_tokens: self.guessed.accepted as u64,
            prediction_tokens: self.work.n_predicted() as u64,
            foretold_tokens: self.guessed.foretold as u64,
            context_shifts: context_shifts as u64,
            discarded_tokens: discarded_tokens as u64,
            queued: started.duration_since(self.arrived),
            prefill: first.duration_since(started),
            decode: last.duration_since(first),
        }
    }
}

/// The request that a sequence belongs to, if it is still there.
fn owner(active: &mut BTreeMap<RequestId, Active>, seq: SeqId) -> Option<(RequestId, &mut Active)> {
    let (&id, active) = active.range_mut(..=RequestId(seq.0)).next_back()?;
    (seq.0 - id.0 < u64::from(active.work.n_choices())).then_some((id, active))
}

/// Pools a text's rows, of which the first of this step is at `start`. True if the text is complete.
fn pool(work: &mut Embedding, out: &SeqOut, start: usize) -> bool {
    out.rows.iter().fold(false, |_, row| work.row(start + row.row as usize, &row.values))
}

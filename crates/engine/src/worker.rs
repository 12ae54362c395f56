//! What the engine thread does: hops 5 to 10 of every request, one step after the other.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ingle_chat::{Condition, Delta, Event, Priority, ProviderError, Usage};
use ingle_step::{Executor, ExecutorError, RowOut, SeqId, SeqOut, StepBatch, StepOut};
use tokio::sync::mpsc;

use crate::engine::{Arrival, EngineConfig, Phase, Shared};
use crate::scheduler::{AddError, RequestId, Sampled, Scheduler};
use crate::work::{Embedding, Work};

/// How often an otherwise idle thread looks at its timeouts while requests are unfinished.
const TIMEOUT_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// So many numeric errors within [`SUSPICION_WINDOW`] are no accident: the model is suspect.
const SUSPICIOUS_ERRORS: usize = 3;
/// How long a numeric error is held against a model.
const SUSPICION_WINDOW: Duration = Duration::from_secs(60);

/// The thread's own.
pub(crate) struct Worker {
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    arrivals: mpsc::Receiver<Arrival>,
    shared: Arc<Shared>,
    config: EngineConfig,
    active: BTreeMap<RequestId, Active>,
    /// Who is in the step that runs; `None` until that is known.
    in_step: Option<BTreeSet<RequestId>>,
    /// Tenants to salts, differently in each engine.
    salts: RandomState,
    /// A row of logits for samplers to overwrite. `(n_vocab,)`
    scratch: Vec<f32>,
    /// When requests lately met numbers that are none; at most [`SUSPICIOUS_ERRORS`].
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
    n_prompt_rows: usize,
}

struct PlannedSeq {
    seq: SeqId,
    /// The position of its first row.
    start: usize,
    /// Whether a token follows its last row.
    is_sampled: bool,
}

impl Worker {
    pub fn new(
        executor: Box<dyn Executor>,
        scheduler: Scheduler,
        arrivals: mpsc::Receiver<Arrival>,
        shared: Arc<Shared>,
        config: EngineConfig,
    ) -> Self {
        Self {
            executor,
            scheduler,
            arrivals,
            shared,
            config,
            active: BTreeMap::new(),
            in_step: None,
            salts: RandomState::new(),
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
        for id in self.ids() {
            self.fail(id, ProviderError::Unavailable("it is shutting down".into()));
        }
    }

    /// Hops 6 to 9. False if there was nothing to do.
    fn step(&mut self) -> Result<bool, ExecutorError> {
        self.in_step = None;
        let batch = self.scheduler.schedule();
        self.in_step = Some(self.scheduler.in_flight());
        let Some(batch) = batch else { return Ok(self.check_idle()) };
        let planned = self.note_batch(&batch);
        self.executor.submit(batch)?;
        self.prepare(&planned);
        let out = self.wait_for(planned.step)?;
        let sampled = self.sample(&out, &planned);
        self.scheduler.commit(&sampled);
        self.note_step(&planned, &sampled);
        self.executor.recycle(out);
        Ok(true)
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
        self.end_numeric_errors(out);
        let (now, mut sampled, mut events) = (Instant::now(), Vec::new(), Vec::new());
        let mut failed = BTreeMap::new();
        for (seq_out, &PlannedSeq { seq, start, .. }) in out.seqs.iter().zip(&planned.seqs) {
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
            for row in &seq_out.rows {
                let position = start + row.row as usize;
                if position + 1 < work.answer.request().prompt.len() {
                    work.answer.prompt_row(position, &row.values);
                    continue;
                }
                let next = position + 1;
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
                    sampled.push((request, Sampled { seq: request.choice(choice), tokens, done }));
                    events.drain(..).for_each(|event| work.outlet.push(Delta { choice, event }));
                }
                active.tokens.get_or_insert((now, now)).1 = now;
            }
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

    /// Ends every request that got a number which is none. Called before anything of the step is committed, so
    /// that nothing of theirs gets into the prefix cache.
    fn end_numeric_errors(&mut self, out: &StepOut) {
        for seq_out in &out.seqs {
            let bad = !seq_out.rows.iter().all(RowOut::is_finite);
            if bad && let Some((id, _)) = owner(&mut self.active, seq_out.seq) {
                let message = "numeric error: the model gave a value that is not finite; if this happens again, \
                               verify the model file";
                self.fail(id, ProviderError::Internal(message.into()));
                self.note_numeric_error(Instant::now());
            }
        }
    }

    fn note_numeric_error(&mut self, now: Instant) {
        self.numeric_errors.push_back(now);
        let first = self.numeric_errors.len().saturating_sub(SUSPICIOUS_ERRORS);
        self.numeric_errors.drain(..first);
        let is_suspect = self.numeric_errors.len() == SUSPICIOUS_ERRORS
            && now.duration_since(self.numeric_errors[0]) <= SUSPICION_WINDOW;
        let mut board = self.shared.board();
        if is_suspect && board.status.condition == Condition::Sound {
            let why = format!(
                "{SUSPICIOUS_ERRORS} requests met values that are not finite within {} s: verify the model file, and load \
                 it again",
                SUSPICION_WINDOW.as_secs()
            );
            board.status.condition = Condition::Suspect(why);
        }
    }

    /// No step will run any more: everyone is told so, and nobody is admitted.
    fn give_up(&mut self, why: &str) -> bool {
        self.scheduler.reset_kv();
        self.in_step = None;
        self.shared.board().status.condition = Condition::Unusable(why.to_owned());
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            // Who has all that was asked for only has to fetch it.
            if !active.complete {
                self.fail(id, ProviderError::Unavailable(why.to_owned()));
            }
        }
        true
    }

    /// After a step that failed nobody knows what the cache holds: its requests end, all others are computed again.
    fn recover(&mut self, why: &str) -> bool {
        self.scheduler.reset_kv();
        let in_step = self.in_step.take();
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            match &in_step {
                Some(ids) if !ids.contains(&id) => continue,
                // Nobody knows who it was about; whoever only waits for the reader was not in it.
                None if active.complete => continue,
                _ => active.complete = false,
            }
            self.fail(id, ProviderError::Internal(format!("a step failed: {why}")));
        }
        true
    }

    /// Flushes what tenants want flushed. After the arrivals: who arrives after a flush finds nothing.
    fn flush(&mut self) {
        let tenants = std::mem::take(&mut self.shared.board().flushes);
        for tenant in tenants {
            self.scheduler.flush(self.salts.hash_one(&tenant));
        }
    }

    // ---- requests come and go ----

    /// Hop 5.
    fn take_arrivals(&mut self) {
        while let Ok(Arrival { mut work, at }) = self.arrivals.try_recv() {
            let salt = self.salts.hash_one(work.tenant());
            match self.scheduler.add(work.new_request(salt)) {
                Ok(id) => {
                    work.start();
                    self.active.insert(id, Active::new(work, at));
                }
                Err(error) => {
                    let mut board = self.shared.board();
                    board.leave_queue(work.priority(), work.prompt().len());
                    let error = match error {
                        AddError::Full { .. } => board.overloaded(work.priority()),
                        AddError::TooLong { max_tokens, .. } => work.too_long(max_tokens),
                    };
                    work.fail(error);
                    board.status.requests_aborted_total += 1;
                    board.unfinished -= 1;
                    self.shared.idle.notify_all();
                }
            }
        }
    }

    /// Lets go of clients that have gone or lag too long, and goes on for those that have caught up.
    fn look_after_clients(&mut self) {
        let now = Instant::now();
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            let (stall, queue) = (self.config.stall_timeout, self.config.queue_timeout);
            if active.work.is_closed() {
                self.remove(id);
            } else if active.paused.is_some() && active.work.flush() {
                active.paused = None;
                self.scheduler.set_paused(id, false);
            } else if active.paused.is_some_and(|since| now.duration_since(since) > stall) {
                let message = format!("nobody has read the answer for {} s", stall.as_secs());
                self.fail(id, ProviderError::Unavailable(message));
            } else if active.started.is_none()
                && active.work.priority() == Priority::Normal
                && now.duration_since(active.arrived) > queue
            {
                let error = self.shared.board().overloaded(Priority::Normal);
                self.fail(id, error);
            }
        }
    }

    /// Hop 10, as far as it is ours: sends what there is, and pauses whoever does not take it.
    fn deliver(&mut self) {
        for id in self.ids() {
            let active = self.active.get_mut(&id).expect("just listed");
            if active.work.flush() {
                if active.complete {
                    self.remove(id);
                }
            } else if active.paused.is_none() {
                active.paused = Some(Instant::now());
                self.scheduler.set_paused(id, true);
            }
        }
    }

    fn fail(&mut self, id: RequestId, error: ProviderError) {
        if let Some(active) = self.remove(id) {
            active.work.fail(error);
        }
    }

    /// A request ends, complete or not.
    fn remove(&mut self, id: RequestId) -> Option<Active> {
        self.scheduler.abort(id);
        let active = self.active.remove(&id)?;
        let mut board = self.shared.board();
        if active.started.is_none() {
            board.leave_queue(active.work.priority(), active.work.prompt().len());
        }
        if !active.complete {
            board.status.requests_aborted_total += 1;
        }
        board.unfinished -= 1;
        if board.unfinished == 0 {
            self.shared.idle.notify_all();
        }
        Some(active)
    }

    fn rest(&self) {
        if self.active.is_empty() {
            thread::park();
        } else {
            thread::park_timeout(TIMEOUT_CHECK_INTERVAL);
        }
    }

    fn ids(&self) -> Vec<RequestId> {
        self.active.keys().copied().collect()
    }

    // ---- the books ----

    fn note_batch(&mut self, batch: &StepBatch) -> Planned {
        let began = Instant::now();
        let mut planned = Planned { step: batch.step, began, seqs: Vec::new(), n_prompt_rows: 0 };
        for seq in &batch.seqs {
            let start = seq.start as usize;
            let last_wanted = seq.wants.last().map(|&(row, _)| start + row as usize);
            planned.seqs.push(PlannedSeq { seq: seq.seq, start, is_sampled: false });
            let Some((id, active)) = owner(&mut self.active, seq.seq) else { continue };
            let n_prompt = active.work.prompt().len();
            if let Some(added) = planned.seqs.last_mut() {
                added.is_sampled = last_wanted.is_some_and(|position| position + 1 >= n_prompt);
            }
            planned.n_prompt_rows += n_prompt.saturating_sub(start).min(seq.inputs.len());
            if active.started.is_none() {
                let n_cached = self.scheduler.cached_tokens(id).unwrap_or(0);
                active.started = Some((began, n_cached));
                let priority = active.work.priority();
                self.shared.board().leave_queue(priority, n_prompt);
            }
        }
        planned
    }

    fn note_step(&mut self, planned: &Planned, sampled: &[Sampled]) {
        let n_sampled = sampled.iter().map(|s| s.tokens.len()).sum();
        let in_step = self.in_step.take().unwrap_or_default();
        let complete = |id: &&RequestId| self.active.get(id).is_some_and(|a| a.complete);
        let n_complete = in_step.iter().filter(complete).count();
        let mut board = self.shared.board();
        board.meter.step(planned.began, Instant::now(), planned.n_prompt_rows, n_sampled);
        let status = &mut board.status;
        status.steps_total += 1;
        status.prompt_tokens_total += planned.n_prompt_rows as u64;
        status.generated_tokens_total += n_sampled as u64;
        status.requests_finished_total += n_complete as u64;
    }

    fn publish(&self) {
        let stats = self.scheduler.stats();
        let mut board = self.shared.board();
        board.waiting_again = stats.waiting - stats.queued_requests;
        let status = &mut board.status;
        status.running = stats.running;
        status.kv_blocks_used = stats.blocks_used;
        status.kv_blocks_cached = stats.blocks_cached;
        status.cached_tokens_total = stats.cached_tokens;
        status.preemptions_total = stats.preemptions;
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
        Self { work, arrived, started: None, tokens: None, paused: None, complete: false }
    }

    fn usage(&self) -> Usage {
        let (started, n_cached) = self.started.unwrap_or((self.arrived, 0));
        let (first, last) = self.tokens.unwrap_or((started, started));
        let (completion_tokens, reasoning_tokens) = self.work.n_generated();
        Usage {
            prompt_tokens: self.work.prompt().len() as u64,
            cached_tokens: n_cached as u64,
            completion_tokens: completion_tokens as u64,
            reasoning_tokens: reasoning_tokens as u64,
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

fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

//! Sends sessions at a pace, and collects what came back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ingle_api::client::{Input, Speaker};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::REQUESTS_MAX;
use super::arrivals::times;
use super::call::{Failure, Heard};
use super::measured::{Measured, Record, hash};
use super::plan::{Extent, Observer, Pace, Plan};
use super::stats::Histogram;
use super::trace::{Session, Texts};

/// How long a client of the closed loop waits after a failure: a server that refuses all is not hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Ends a run before its time. Clones are one.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// No request starts any more, and those that go on are dropped.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    async fn wanted(&self) {
        // It holds its own sender, so the channel never closes.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}

/// Runs a plan at a pace. Runs with the same `stream` send the same prompts.
///
/// # Errors
/// What the observer says.
pub async fn run(
    plan: &Arc<Plan>,
    texts: &Texts,
    pace: Pace,
    extent: Extent,
    stream: u64,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Measured, String> {
    let left = match extent {
        Extent::Requests(n) => n.min(REQUESTS_MAX),
        Extent::Time(_) => REQUESTS_MAX,
    };
    let run = Arc::new(Run {
        plan: plan.clone(),
        texts: texts.clone(),
        stream,
        is_closed: matches!(pace, Pace::Closed { .. }),
        start: Instant::now(),
        until: match extent {
            Extent::Requests(_) => None,
            Extent::Time(time) => Some(time),
        },
        supply: Mutex::new(Supply { next: 0, left }),
        heard: Mutex::default(),
        cut_off: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        stop: stop.clone(),
        ended: Stop::default(),
    });
    let mut tasks = JoinSet::new();
    match pace {
        Pace::Closed { concurrency } => {
            for _ in 0..concurrency {
                tasks.spawn(run.clone().client());
            }
        }
        Pace::Open { arrivals, in_flight } => {
            let times = arrivals.map(|(rate, pattern)| times(pattern, rate, plan.seed ^ stream));
            tasks.spawn(run.clone().dispatch(times, in_flight));
        }
    }
    let mut kept = Kept { records: Vec::new(), gaps: Histogram::default(), told: Vec::new() };
    let mut result = Ok(());
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        let is_over = tokio::select! {
            done = tasks.join_next() => match done {
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(_) => false,
                None => true,
            },
            _ = tick.tick() => false,
        };
        let new = std::mem::take(&mut *lock(&run.heard));
        for record in new {
            if result.is_ok() {
                result = observer.observe(&record);
            }
            kept.keep(record);
        }
        if result.is_err() {
            run.ended.stop();
        }
        if is_over {
            break;
        }
    }
    result?;
    let mut records = kept.records;
    records.sort_by_key(|record| (record.session, record.turn));
    Ok(Measured {
        pace,
        extent,
        duration: records.iter().map(|record| record.end).max().unwrap_or_default(),
        records,
        gaps: kept.gaps,
        cut_off: run.cut_off.load(Ordering::Relaxed),
        skipped: run.skipped.load(Ordering::Relaxed),
        is_partial: stop.is_stopped(),
    })
}

/// Records, without what would make them large.
struct Kept {
    records: Vec<Record>,
    gaps: Histogram,
    told: Vec<super::FailureKind>,
}

impl Kept {
    fn keep(&mut self, mut record: Record) {
        for gap in std::mem::take(&mut record.gaps) {
            self.gaps.add(gap);
        }
        record.finish_reason = None;
        if let Err(failure) = &mut record.outcome {
            if self.told.contains(&failure.kind) {
                failure.message = String::new();
            } else {
                self.told.push(failure.kind);
            }
        }
        self.records.push(record);
    }
}

/// Which session is next, and how many requests may still be sent.
struct Supply {
    next: u64,
    left: u64,
}

/// What the tasks of a run share.
struct Run {
    plan: Arc<Plan>,
    texts: Texts,
    stream: u64,
    is_closed: bool,
    start: Instant,
    until: Option<Duration>,
    supply: Mutex<Supply>,
    /// Records that nobody has collected yet.
    heard: Mutex<Vec<Record>>,
    cut_off: AtomicU64,
    skipped: AtomicU64,
    /// The caller's.
    stop: Stop,
    /// The run's own, for when the observer fails.
    ended: Stop,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    /// A client of the closed loop.
    async fn client(self: Arc<Self>) {
        while !self.is_late(Instant::now()) && !self.is_stopped() {
            let Some(session) = self.take() else { return };
            if !self.converse(session, Instant::now()).await {
                tokio::select! {
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                    () = self.stopped() => {}
                }
            }
        }
    }

    /// The open loop: starts sessions when their time has come.
    async fn dispatch(self: Arc<Self>, times: Option<impl Iterator<Item = Duration>>, in_flight: u64) {
        let places = Arc::new(Semaphore::new(in_flight as usize));
        let mut times = times;
        let mut tasks = JoinSet::new();
        while let Some(session) = self.take() {
            let at = match &mut times {
                Some(times) => times.next(),
                None => session.turns[0].at,
            };
            let Some(at) = at.filter(|at| self.until.is_none_or(|until| *at < until)) else { break };
            let scheduled = self.start + at;
            let place = tokio::select! {
                place = async {
                    sleep_until(scheduled).await;
                    places.clone().acquire_owned().await
                } => place.expect("the semaphore is never closed"),
                () = self.stopped() => break,
            };
            let run = self.clone();
            tasks.spawn(async move {
                run.converse(session, scheduled).await;
                drop(place);
            });
            while let Some(done) = tasks.try_join_next() {
                passed_on(done);
            }
        }
        while let Some(done) = tasks.join_next().await {
            passed_on(done);
        }
    }

    /// The next session, cut to the requests that are left.
    fn take(&self) -> Option<Session> {
        let mut supply = lock(&self.supply);
        if supply.left == 0 {
            return None;
        }
        let mut session = self.plan.trace.session(supply.next, self.plan.seed, self.stream, &self.texts)?;
        session.turns.truncate(usize::try_from(supply.left).unwrap_or(usize::MAX));
        supply.next += 1;
        supply.left -= session.turns.len() as u64;
        Some(session)
    }

    /// Sends the turns of a session. Whether each got its answer.
    async fn converse(&self, session: Session, scheduled: Instant) -> bool {
        let n_turns = session.turns.len();
        let mut history: Vec<(Speaker, String)> = Vec::new();
        let mut scheduled = scheduled;
        for (number, turn) in session.turns.into_iter().enumerate() {
            if number > 0 {
                scheduled += self.plan.think;
                if let Some(at) = turn.at.filter(|_| !self.is_closed) {
                    scheduled = scheduled.max(self.start + at);
                }
                if self.is_closed && self.is_late(scheduled) {
                    return true;
                }
            }
            let input = match turn.input {
                Input::Messages(new) => {
                    history.extend(new);
                    Input::Messages(history.clone())
                }
                gap @ Input::Gap { .. } => gap,
            };
            let target = session.number as usize % self.plan.clients.len();
            let call = async {
                // A timer takes a millisecond at least, even if its time has come.
                if scheduled > Instant::now() {
                    sleep_until(scheduled).await;
                }
                self.plan.call(target, &input, turn.output_tokens).await
            };
            let heard = tokio::select! {
                heard = call => heard,
                () = self.stopped() => {
                    self.cut_off.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
            };
            let (end, is_answered) = (heard.end, heard.failure.is_none());
            let answer = heard.text.clone();
            let place = Place { session: session.number, turn: number as u32, target: target as u32 };
            let record = self.record(place, scheduled, &input, turn.output_tokens, heard);
            lock(&self.heard).push(record);
            if !is_answered {
                let missing = (n_turns - number - 1) as u64;
                self.skipped.fetch_add(missing, Ordering::Relaxed);
                if self.is_closed {
                    lock(&self.supply).left += missing;
                }
                return false;
            }
            history.push((Speaker::Assistant, answer));
            scheduled = end;
        }
        true
    }

    fn record(
        &self,
        place: Place,
        scheduled: Instant,
        input: &Input,
        asked_tokens: u32,
        heard: Heard,
    ) -> Record {
        let since = |at: Instant| at.saturating_duration_since(self.start);
        let prompt_hash = match input {
            Input::Messages(messages) => hash(messages.iter().map(|(_, text)| text.as_bytes())),
            Input::Gap { prefix, suffix } => hash([prefix.as_bytes(), suffix.as_bytes()]),
        };
        Record {
            session: place.session,
            turn: place.turn,
            target: place.target,
            scheduled: since(scheduled),
            sent: since(heard.sent),
            first: heard.first.map(since),
            last: heard.last.map(since),
            end: since(heard.end),
            longest_gap: heard.gaps.iter().max().copied().unwrap_or_default(),
            n_events: heard.n_events(),
            gaps: heard.gaps,
            asked_tokens,
            prompt_tokens: heard.spent.map(|spent| spent.prompt_tokens),
            cached_tokens: heard.spent.and_then(|spent| spent.cached_tokens),
            completion_tokens: heard.spent.map(|spent| spent.completion_tokens),
            finish_reason: heard.finish_reason,
            prompt_hash,
            answer_hash: hash([heard.reasoning.as_bytes(), heard.text.as_bytes()]),
            outcome: heard.failure.map_or(Ok(()), Err::<(), Failure>),
        }
    }

    fn is_late(&self, at: Instant) -> bool {
        self.until.is_some_and(|until| at >= self.start + until)
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_stopped() || self.ended.is_stopped()
    }

    async fn stopped(&self) {
        tokio::select! {
            () = self.stop.wanted() => {}
            () = self.ended.wanted() => {}
        }
    }
}

/// Where a request stands.
struct Place {
    session: u64,
    turn: u32,
    target: u32,
}

/// A task that was ended says nothing; one that panicked ends the run.
fn passed_on(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

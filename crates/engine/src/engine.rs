//! A model's engine: the handle that its clients hold, and what the handle shares with the thread that runs it
//! (`worker`).
//!
//! The thread wakes when a request arrives, when a client makes room in a full channel or goes away, at shutdown,
//! and (while anything is unfinished) once in a while to look at its timeouts. It never waits for anyone: arrivals
//! come over a bounded channel, deltas go out over one bounded channel per request, and a request whose channel is
//! full is paused. What must be answered at once, admission and status, is in `Shared` and needs no thread.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use ingle_chat::{
    Condition, EmbedFuture, EmbedRequest, EmbeddingsFuture, ModelInfo, Principal, Priority, Prompted,
    Provider, ProviderError, ProviderStatus, Request, StartFuture,
};
use ingle_step::{Executor, TokenId};
use tokio::sync::mpsc;

use crate::embed::Gathering;
use crate::frontend::{Frontend, Prepared};
use crate::meter::Meter;
use crate::output::Answer;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::stream::{self, AnswerStream};
use crate::work::{Generating, Work};
use crate::worker::Worker;

/// The shortest and the longest advice to come back later.
const RETRY_AFTER: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Bounds of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Sequences that run at once.
    pub max_running_seqs: usize,
    /// Tokens computed in one step.
    pub step_token_budget: usize,
    /// Requests of one priority that wait for their first step.
    pub max_waiting_requests: usize,
    /// Their prompt tokens. One request alone may have more.
    pub max_waiting_tokens: usize,
    /// How often one sequence can be preempted.
    pub max_preemptions: u32,
    /// Whether equal beginnings are computed once.
    pub prefix_cache: bool,
    /// Deltas that a client may lag behind before its request is paused.
    pub stream_capacity: usize,
    /// How long a request stays paused before it is given up.
    pub stall_timeout: Duration,
    /// How long a request may wait for its first step; one in the background waits as long as it takes.
    pub queue_timeout: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_running_seqs: 64,
            step_token_budget: 512,
            max_waiting_requests: 256,
            max_waiting_tokens: 1 << 20,
            max_preemptions: 3,
            prefix_cache: true,
            stream_capacity: 64,
            stall_timeout: Duration::from_secs(60),
            queue_timeout: Duration::from_secs(600),
        }
    }
}

/// A model that answers. Dropping it stops the thread within a step; whoever is not answered yet gets an error.
pub struct Engine {
    frontend: Arc<Frontend>,
    entrance: Entrance,
    max_seq_tokens: usize,
    end_tokens: Arc<[TokenId]>,
    thread: Option<JoinHandle<()>>,
}

/// Where requests are admitted: what a request needs of the engine that outlives the call it came with.
#[derive(Clone)]
pub(crate) struct Entrance {
    shared: Arc<Shared>,
    arrivals: mpsc::Sender<Arrival>,
    config: EngineConfig,
    thread: Thread,
}

/// What the thread and its handle both see.
pub(crate) struct Shared {
    board: Mutex<Board>,
    /// Signalled when nothing is unfinished.
    pub idle: Condvar,
}

pub(crate) struct Board {
    pub phase: Phase,
    /// Requests that were admitted and whose first step has not come, by priority.
    queues: [Queue; 2],
    /// Requests that were admitted and have not ended.
    pub unfinished: usize,
    /// Sequences that wait again, after their first step.
    pub waiting_again: usize,
    /// Tenants whose cache is to be flushed before the next step.
    pub flushes: BTreeSet<String>,
    /// As of the last step; what changes between steps is filled in when it is read.
    pub status: ProviderStatus,
    pub meter: Meter,
}

/// Requests of one priority that wait for their first step.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    requests: usize,
    /// Their prompt tokens.
    tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    Draining,
    Stopping,
}

/// A request on its way to the thread.
pub(crate) struct Arrival {
    pub work: Work,
    pub at: Instant,
}

impl Engine {
    /// Starts the thread of a model.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        executor: Box<dyn Executor>,
        mut frontend: Frontend,
        config: EngineConfig,
    ) -> io::Result<Self> {
        let info = executor.info().clone();
        // The executor's word counts: tokens beyond it have no embedding.
        frontend.model.n_vocab = info.n_vocab;
        frontend.model.n_embd = info.n_embd;
        let frontend = Arc::new(frontend);
        let scheduler = Scheduler::new(SchedulerConfig {
            block_size: info.block_size,
            n_blocks: info.n_blocks,
            n_ctx: info.n_ctx,
            max_running_seqs: config.max_running_seqs,
            step_token_budget: config.step_token_budget,
            max_waiting_requests: config.max_waiting_requests,
            max_waiting_tokens: config.max_waiting_tokens,
            prefix_cache: config.prefix_cache,
            max_preemptions: config.max_preemptions,
        });
        let board = Board {
            phase: Phase::Serving,
            queues: [Queue::default(); 2],
            unfinished: 0,
            waiting_again: 0,
            flushes: BTreeSet::new(),
            status: ProviderStatus {
                kv_blocks_total: info.n_blocks,
                memory_bytes: info.weight_bytes + info.kv_bytes,
                sequences_max: config.max_running_seqs,
                ..ProviderStatus::default()
            },
            meter: Meter::new(Instant::now()),
        };
        let shared = Arc::new(Shared { board: Mutex::new(board), idle: Condvar::new() });
        // Admission keeps count, so there is always room for whoever is admitted.
        let (sender, arrivals) = mpsc::channel((2 * config.max_waiting_requests).max(1));
        let max_seq_tokens = scheduler.max_seq_tokens();
        let n_vocab = info.n_vocab.min(frontend.tokenizer.n_vocab());
        let end_tokens = (0..n_vocab as u32).map(TokenId).filter(|&t| frontend.tokenizer.is_end(t)).collect();
        let worker = Worker::new(executor, scheduler, arrivals, shared.clone(), config.clone());
        let thread = thread::Builder::new().name("ingle-engine".into()).spawn(move || worker.run())?;
        let entrance = Entrance { shared, arrivals: sender, config, thread: thread.thread().clone() };
        Ok(Self { frontend, entrance, max_seq_tokens, end_tokens, thread: Some(thread) })
    }

    /// Admits nobody any more and waits until all are answered, at most this long. True if all are.
    pub fn drain(&self, patience: Duration) -> bool {
        let shared = &self.entrance.shared;
        let mut board = shared.board();
        if board.phase == Phase::Serving {
            board.phase = Phase::Draining;
        }
        let waited = shared.idle.wait_timeout_while(board, patience, |board| board.unfinished > 0);
        let (board, _) = waited.unwrap_or_else(PoisonError::into_inner);
        board.unfinished == 0
    }

    /// What a request would run as, for tools that only want to look.
    ///
    /// # Errors
    /// As [`Provider::start`], apart from the queue.
    pub fn prepare(&self, request: &Request) -> Result<Prepared, ProviderError> {
        self.frontend.prepare(request, self.max_seq_tokens)
    }

    fn admit(&self, request: &Request) -> Result<AnswerStream, ProviderError> {
        let at = Instant::now();
        self.entrance.check(request.priority)?;
        let prepared = self.prepare(request)?;
        let n_prompt = prepared.prompt.len();
        let answer = Answer::new(prepared, self.frontend.tokenizer.clone(), self.end_tokens.clone());
        let capacity = self.entrance.config.stream_capacity.max(1);
        let (outlet, stream) = stream::channel(capacity, self.entrance.thread.clone());
        let work = Box::new(Generating { answer, outlet });
        self.entrance.admit(request.priority, n_prompt, at, |_| Work::Generate(work))?;
        Ok(stream)
    }

    fn admit_texts(&self, request: &EmbedRequest) -> Result<Gathering, ProviderError> {
        let arrived = Instant::now();
        self.entrance.check(request.priority)?;
        let texts = self.frontend.prepare_texts(request, self.max_seq_tokens)?;
        Gathering::start(self.entrance.clone(), texts, arrived)
    }
}

impl Entrance {
    /// Whether there is room at all: looked at before the work of tokenizing, so that who is turned away costs nothing.
    fn check(&self, priority: Priority) -> Result<(), ProviderError> {
        self.shared.check_room(&self.config, priority, 0).map(drop)
    }

    /// Sends a request with a prompt of `n_prompt` tokens to the thread, which `work` is told. It is made only if there
    /// is room.
    ///
    /// # Errors
    /// If there is none, or nobody serves any more.
    pub fn admit(
        &self,
        priority: Priority,
        n_prompt: usize,
        at: Instant,
        work: impl FnOnce(Thread) -> Work,
    ) -> Result<(), ProviderError> {
        let mut board = self.shared.check_room(&self.config, priority, n_prompt)?;
        let queue = &mut board.queues[priority as usize];
        queue.requests += 1;
        queue.tokens += n_prompt;
        board.unfinished += 1;
        // Under the lock, so that nobody arrives after the thread has looked for the last time.
        let sent = self.arrivals.try_send(Arrival { work: work(self.thread.clone()), at });
        drop(board);
        sent.map_err(|_| ProviderError::Unavailable("its thread has ended; load the model again".into()))?;
        self.thread.unpark();
        Ok(())
    }
}

impl Provider for Engine {
    fn start(&self, request: Request) -> StartFuture<'_> {
        Box::pin(async move {
            let stream = self.admit(&request)?;
            Ok(Box::pin(stream) as ingle_chat::DeltaStream)
        })
    }

    fn embed(&self, request: EmbedRequest) -> EmbedFuture<'_> {
        Box::pin(async move {
            let texts = self.admit_texts(&request)?;
            Ok(Box::pin(texts.run()) as EmbeddingsFuture)
        })
    }

    fn prompt(&self, request: &Request) -> Result<Prompted, ProviderError> {
        self.frontend.prompt(request)
    }

    fn tokenize(
        &self,
        model: Option<&str>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, ProviderError> {
        self.frontend.tokenize(model, text, add_special, parse_special)
    }

    fn token_bytes(&self, model: Option<&str>, tokens: &[TokenId]) -> Result<Vec<Vec<u8>>, ProviderError> {
        self.frontend.token_bytes(model, tokens)
    }

    fn flush_cache(&self, principal: &Principal) -> Result<(), ProviderError> {
        self.entrance.shared.board().flushes.insert(principal.tenant.clone());
        self.entrance.thread.unpark();
        Ok(())
    }

    fn models(&self) -> Vec<ModelInfo> {
        vec![self.frontend.model.clone()]
    }

    fn status(&self) -> ProviderStatus {
        let board = self.entrance.shared.board();
        let mut status = board.status.clone();
        status.ready = board.phase == Phase::Serving && !matches!(status.condition, Condition::Unusable(_));
        status.waiting = board.waiting_again + board.queues.iter().map(|queue| queue.requests).sum::<usize>();
        (status.prefill_tokens_per_s, status.decode_tokens_per_s) = board.meter.rates(Instant::now());
        status
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.entrance.shared.board().phase = Phase::Stopping;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has told so already, and its clients with it.
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a request for which there is no room in the queue.
    fn check_room(
        &self,
        config: &EngineConfig,
        priority: Priority,
        n_prompt: usize,
    ) -> Result<MutexGuard<'_, Board>, ProviderError> {
        let board = self.board();
        if board.phase != Phase::Serving {
            return Err(ProviderError::Unavailable("it is shutting down".into()));
        }
        if let Condition::Unusable(why) = &board.status.condition {
            return Err(ProviderError::Unavailable(why.clone()));
        }
        let queue = board.queues[priority as usize];
        let too_many_tokens =
            queue.requests > 0 && queue.tokens.saturating_add(n_prompt) > config.max_waiting_tokens;
        if queue.requests >= config.max_waiting_requests || too_many_tokens {
            return Err(board.overloaded(priority));
        }
        Ok(board)
    }
}

impl Board {
    /// A queued request has its first step, or ends before it.
    pub fn leave_queue(&mut self, priority: Priority, n_prompt: usize) {
        let queue = &mut self.queues[priority as usize];
        queue.requests -= 1;
        queue.tokens -= n_prompt;
    }

    pub fn overloaded(&self, priority: Priority) -> ProviderError {
        // Whoever is in the background waits for all.
        let ahead = &self.queues[..=priority as usize];
        let estimate = self.meter.estimate(ahead.iter().map(|queue| queue.tokens).sum());
        let retry_after = estimate.clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end());
        ProviderError::Overloaded { waiting: self.queues[priority as usize].requests, retry_after }
    }
}

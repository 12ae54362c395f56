//! A model's engine: the handle that its clients hold, and what the handle shares with the thread that runs it
//! (`worker`).
//!
//! The thread wakes when a request arrives, when a client makes room in a full channel or goes away, at shutdown,
//! and (while anything is unfinished) once in a while to look at its timeouts. It never waits for anyone: arrivals
//! come over a bounded channel, deltas go out over one bounded channel per request, and a request whose channel is
//! full is paused. What must be answered at once, admission and status, is in `Shared` and needs no thread.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use ingle_chat::{
    Condition, EmbedFuture, EmbedRequest, EmbeddingsFuture, ModelInfo, Principal, Priority, Prompted,
    Provider, ProviderError, ProviderStatus, Request, StartFuture,
};
use ingle_step::{Executor, ExecutorInfo, TokenId};
use tokio::sync::mpsc;

use crate::disk_cache::DiskTier;
use crate::embed::Gathering;
use crate::frontend::{Abilities, Frontend, Prepared, Standing};
use crate::meter::Meter;
use crate::output::Answer;
use crate::scheduler::{AddError, QueueBounds, Queues, Scheduler, SchedulerConfig};
use crate::speculation::{SpeculationConfig, Speculator};
use crate::stream::{self, AnswerStream};
use crate::work::{Generating, Work};
use crate::worker::Worker;
use crate::worth::attention_depth;

/// The shortest and the longest advice to come back later.
const RETRY_AFTER: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Blocks of preempted sequences that are kept at most, as a multiple of the cache's.
pub const SWAP_MAX: usize = 8;

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
    /// Of these, requests of one tenant. `None`: as many as of all.
    pub max_waiting_requests_per_tenant: Option<usize>,
    /// Their prompt tokens.
    pub max_waiting_tokens_per_tenant: Option<usize>,
    /// How long a step may take where several share it: its tokens are chosen accordingly. Nothing: as long as it takes.
    pub step_time_max: Duration,
    /// Whether several tenants may come, for whom even a lone one's steps stay short.
    pub is_shared: bool,
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
    /// How long a request may take from its arrival to its end. `None`: as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Memory for K/V of preempted sequences; taken as it is needed. With 0 they are computed again.
    pub swap_bytes: u64,
    /// Where the prefix cache is kept beyond the life of the engine.
    pub disk: Option<DiskTier>,
    /// Whether and how tokens are guessed ahead.
    pub speculation: SpeculationConfig,
}

impl EngineConfig {
    /// The bounds of what waits.
    pub(crate) fn queue_bounds(&self) -> QueueBounds {
        let (requests, tokens) = (self.max_waiting_requests, self.max_waiting_tokens);
        QueueBounds {
            requests,
            tokens,
            tenant_requests: self.max_waiting_requests_per_tenant.unwrap_or(requests),
            tenant_tokens: self.max_waiting_tokens_per_tenant.unwrap_or(tokens),
        }
    }

    /// How long a request may wait, and how long it may take.
    pub(crate) fn limits(&self, standing: &Standing) -> (Option<Duration>, Option<Duration>) {
        let least = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        let queue = (standing.priority == Priority::Normal).then_some(self.queue_timeout);
        let total = (standing.priority == Priority::Normal).then_some(self.request_timeout).flatten();
        (least(queue, standing.terms.queue_timeout), least(total, standing.terms.timeout))
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_running_seqs: 64,
            step_token_budget: 512,
            max_waiting_requests: 256,
            max_waiting_tokens: 1 << 20,
            max_waiting_requests_per_tenant: None,
            max_waiting_tokens_per_tenant: None,
            step_time_max: Duration::from_millis(200),
            is_shared: false,
            max_preemptions: 3,
            prefix_cache: true,
            stream_capacity: 64,
            stall_timeout: Duration::from_secs(60),
            queue_timeout: Duration::from_secs(600),
            request_timeout: None,
            swap_bytes: 256 << 20,
            disk: None,
            speculation: SpeculationConfig::default(),
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
    /// Tenants to numbers, differently in each engine.
    salts: RandomState,
    /// Where its clock begins.
    pub began: Instant,
    /// Signalled when nothing is unfinished.
    pub idle: Condvar,
}

pub(crate) struct Board {
    pub phase: Phase,
    /// Requests that were admitted and whose first step has not come.
    pub queues: Queues,
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
    pub fn start(executor: Box<dyn Executor>, frontend: Frontend, config: EngineConfig) -> io::Result<Self> {
        Self::start_with_draft(executor, None, frontend, config)
    }

    /// Starts the thread of a model and of one that guesses for it. The two have the same vocabulary.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start_with_draft(
        executor: Box<dyn Executor>,
        draft: Option<Box<dyn Executor>>,
        mut frontend: Frontend,
        config: EngineConfig,
    ) -> io::Result<Self> {
        let info = executor.info().clone();
        // The executor's word counts: tokens beyond it have no embedding.
        frontend.model.n_vocab = info.n_vocab;
        frontend.model.n_embd = info.n_embd;
        let swap_blocks = config.swap_bytes / info.block_bytes.max(1) as u64;
        // More than the cache itself several times over would never be used.
        let swap_blocks = usize::try_from(swap_blocks).unwrap_or(usize::MAX).min(SWAP_MAX * info.n_blocks);
        let scheduler = Scheduler::new(SchedulerConfig {
            block_size: info.block_size,
            n_blocks: info.n_blocks,
            n_ctx: info.n_ctx,
            max_running_seqs: config.max_running_seqs,
            step_token_budget: config.step_token_budget,
            queue: config.queue_bounds(),
            prefix_cache: config.prefix_cache,
            max_preemptions: config.max_preemptions,
            swap_blocks,
            attention_depth: attention_depth(info.n_embd),
            record_published: config.disk.is_some(),
        });
        frontend.abilities = Abilities {
            generates: info.has_logits,
            causal: info.causal,
            n_labels: info.n_labels,
            has_token_types: info.has_token_types,
            step_tokens: scheduler.step_token_budget(),
        };
        let frontend = Arc::new(frontend);
        let board = Board {
            phase: Phase::Serving,
            queues: Queues::default(),
            unfinished: 0,
            waiting_again: 0,
            flushes: BTreeSet::new(),
            status: ProviderStatus {
                kv_blocks_total: info.n_blocks,
                memory_bytes: memory_of(&info) + draft.as_ref().map_or(0, |draft| memory_of(draft.info())),
                sequences_max: config.max_running_seqs,
                ..ProviderStatus::default()
            },
            meter: Meter::new(Instant::now()),
        };
        let shared = Arc::new(Shared {
            board: Mutex::new(board),
            salts: RandomState::new(),
            began: Instant::now(),
            idle: Condvar::new(),
        });
        // Admission keeps count (and lets at most a quarter more in), so there is always room for whoever is admitted.
        let (sender, arrivals) = mpsc::channel((3 * config.max_waiting_requests).max(1));
        let max_seq_tokens = scheduler.max_seq_tokens();
        let n_vocab = info.n_vocab.min(frontend.tokenizer.n_vocab());
        let end_tokens = (0..n_vocab as u32).map(TokenId).filter(|&t| frontend.tokenizer.is_end(t)).collect();
        let speculator = Speculator::new(config.speculation.clone(), draft, n_vocab);
        let worker = Worker::new(
            executor,
            scheduler,
            speculator,
            arrivals,
            shared.clone(),
            config.clone(),
            swap_blocks,
        );
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

    /// Ends its thread within a step: whoever is not answered yet gets an error, and nobody is admitted any more.
    pub fn stop(&self) {
        self.entrance.shared.board().phase = Phase::Stopping;
        self.entrance.thread.unpark();
    }

    /// Whether its thread still works: one that a bug has ended answers nobody any more.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
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
        self.entrance.check(&Standing::new(&request.principal, request.priority, request.terms))?;
        let prepared = self.prepare(request)?;
        let (n_prompt, standing) = (prepared.prompt.len(), prepared.standing.clone());
        let answer = Answer::new(prepared, self.frontend.tokenizer.clone(), self.end_tokens.clone());
        let capacity = self.entrance.config.stream_capacity.max(1);
        let (outlet, stream) = stream::channel(capacity, self.entrance.thread.clone());
        let work = Box::new(Generating { answer, outlet });
        self.entrance.admit(&standing, n_prompt, at, |_| Work::Generate(work))?;
        Ok(stream)
    }

    fn admit_texts(&self, request: &EmbedRequest) -> Result<Gathering, ProviderError> {
        let arrived = Instant::now();
        self.entrance.check(&Standing::new(&request.principal, request.priority, request.terms))?;
        let texts = self.frontend.prepare_texts(request, self.max_seq_tokens)?;
        Gathering::start(self.entrance.clone(), texts, arrived)
    }
}

impl Entrance {
    /// Whether there is room at all: looked at before the work of tokenizing, so that who is turned away costs nothing.
    fn check(&self, standing: &Standing) -> Result<(), ProviderError> {
        self.shared.check_room(&self.config, standing, 0).map(drop)
    }

    /// Sends a request with a prompt of `n_prompt` tokens to the thread, which `work` is told. It is made only if there
    /// is room.
    ///
    /// # Errors
    /// If there is none, or it could not be served in its time, or nobody serves any more.
    pub fn admit(
        &self,
        standing: &Standing,
        n_prompt: usize,
        at: Instant,
        work: impl FnOnce(Thread) -> Work,
    ) -> Result<(), ProviderError> {
        let mut board = self.shared.check_room(&self.config, standing, n_prompt)?;
        board.queues.join(standing.priority, self.shared.tenant_id(&standing.tenant), n_prompt);
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
        status.tenants_waiting = board.queues.n_tenants(Priority::Normal);
        status.waiting = board.waiting_again + board.queues.total().requests;
        (status.prefill_tokens_per_s, status.decode_tokens_per_s) = board.meter.rates(Instant::now());
        status
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so already, and its clients with it.
            let _ = thread.join();
        }
    }
}

fn memory_of(info: &ExecutorInfo) -> u64 {
    info.weight_bytes + info.kv_bytes
}

impl Shared {
    pub fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the scheduler calls a tenant.
    pub fn tenant_id(&self, tenant: &str) -> u64 {
        self.salt_id(tenant)
    }

    /// A number for whatever keeps cached beginnings apart, another one in each engine.
    pub fn salt_id(&self, of: impl Hash) -> u64 {
        self.salts.hash_one(of)
    }

    /// Refuses a request for which there is no room in the queue, or no hope to be served in its time.
    fn check_room(
        &self,
        config: &EngineConfig,
        standing: &Standing,
        n_prompt: usize,
    ) -> Result<MutexGuard<'_, Board>, ProviderError> {
        let board = self.board();
        if board.phase != Phase::Serving {
            return Err(ProviderError::Unavailable("it is shutting down".into()));
        }
        if let Condition::Unusable(why) = &board.status.condition {
            return Err(ProviderError::Unavailable(why.clone()));
        }
        let tenant = self.tenant_id(&standing.tenant);
        if let Err(error) = board.queues.check(&config.queue_bounds(), standing.priority, tenant, n_prompt) {
            return Err(board.overloaded(&error, standing.priority, tenant));
        }
        let wait = board.wait(standing.priority, tenant);
        let (queue, total) = config.limits(standing);
        let whole = wait + board.meter.estimate(n_prompt);
        let late = |begins, limit: Option<Duration>, needed| {
            let limit = limit.filter(|limit| needed > *limit)?;
            let retry_after = board.retry_after(standing.priority, tenant);
            Some(ProviderError::TooLate { begins, limit, needed, retry_after })
        };
        match late(true, queue, wait).or_else(|| late(false, total, whole)) {
            Some(error) => Err(error),
            None => Ok(board),
        }
    }
}

impl Board {
    /// How long a request that came now would wait, as steps that were mostly prompts have gone so far. What its tenant
    /// has waiting goes first; others take turns with that.
    fn wait(&self, priority: Priority, tenant: u64) -> Duration {
        let own = self.queues.of_tenant(priority, tenant).tokens;
        let in_turns = own.saturating_mul(self.queues.n_tenants(priority));
        let mut ahead = self.queues.of(priority).tokens.min(in_turns);
        // Whoever is in the background waits for all.
        if priority == Priority::Background {
            ahead += self.queues.of(Priority::Normal).tokens;
        }
        self.meter.estimate(ahead)
    }

    /// The error for a request that cannot be taken, or was not begun in time.
    pub fn overloaded(&self, error: &AddError, priority: Priority, tenant: u64) -> ProviderError {
        let waiting = match *error {
            AddError::Full { waiting } | AddError::TenantFull { waiting } => waiting,
            AddError::TooLong { .. } => self.queues.of(priority).requests,
        };
        ProviderError::Overloaded { waiting, retry_after: self.retry_after(priority, tenant) }
    }

    /// The error for a request that has waited as long as it may, and would go on waiting.
    pub fn too_late(&self, priority: Priority, tenant: u64, limit: Duration) -> ProviderError {
        let needed = limit + self.wait(priority, tenant);
        ProviderError::TooLate {
            begins: true,
            limit,
            needed,
            retry_after: self.retry_after(priority, tenant),
        }
    }

    fn retry_after(&self, priority: Priority, tenant: u64) -> Duration {
        self.wait(priority, tenant).clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end())
    }
}

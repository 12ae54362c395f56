//! Who answers, and the stream of an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use ingle_step::TokenId;
use serde_json::{Map, Value};

use crate::{
    AdapterInfo, AdapterName, AdapterWish, EmbedFuture, EmbedRequest, LoadAdapter, Principal, Request,
    Sampling,
};

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string or token did (then named).
    Stop {
        /// The stop string that matched.
        matched: Option<String>,
    },
    /// The model called tools, and waits for what they say.
    ToolCalls,
    /// The token limit or the context's end.
    Length,
    /// The caller went away.
    Abort,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before any sampler changed it. `None` for the first prompt token.
    pub logprob: Option<f32>,
    /// Its rank among all tokens, from 1; 0 where there is no log-probability.
    pub rank: u32,
    /// The most likely tokens instead, best first: token, bytes, log-probability.
    pub top: Vec<(TokenId, Vec<u8>, f32)>,
}

/// What a request cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those of them that came out of the prefix cache.
    pub cached_tokens: u64,
    /// New tokens over all choices.
    pub completion_tokens: u64,
    /// Those of them that were thoughts.
    pub reasoning_tokens: u64,
    /// Tokens that were guessed ahead and tried.
    pub drafted_tokens: u64,
    /// Those of them that the answer has.
    pub accepted_tokens: u64,
    /// Tokens of the client's prediction; 0 without one.
    pub prediction_tokens: u64,
    /// New tokens that the prediction foretold, over all choices. A matter of the two texts alone, however many were
    /// tried.
    pub foretold_tokens: u64,
    /// How often tokens made way in a full context, over all choices.
    pub context_shifts: u64,
    /// How many tokens did, over all choices.
    pub discarded_tokens: u64,
    /// Time from arrival to the first step that had this request.
    pub queued: Duration,
    /// Time from then to the first token.
    pub prefill: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
}

/// One thing that happened to one choice.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request was admitted; comes first, once, for choice 0.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: u64,
        /// The seed in use.
        seed: u64,
    },
    /// Log-probabilities of the prompt, if wanted; before any text, once, for choice 0.
    PromptLogprobs(Vec<TokenLogprob>),
    /// New text; always whole characters. The text may lag behind the tokens (a stop string may be starting), so
    /// one of the two can be empty.
    Text {
        /// The new text.
        text: String,
        /// The new tokens, with log-probabilities if wanted (empty otherwise).
        logprobs: Vec<TokenLogprob>,
    },
    /// New thoughts; always whole characters. `Text` says what holds for both.
    Reasoning {
        /// The new text.
        text: String,
        /// The new tokens, with log-probabilities if wanted.
        logprobs: Vec<TokenLogprob>,
    },
    /// A call of a tool begins.
    ToolCall {
        /// Which of the answer's calls, from 0.
        index: u32,
        /// The id that the model gave it, if it gives ids; the dialect makes one up otherwise.
        id: Option<String>,
        /// The function's name.
        name: String,
    },
    /// More arguments of a call; those of one call, joined, are one JSON object (unless the answer was cut short).
    ToolArguments {
        /// Which of the answer's calls.
        index: u32,
        /// The next piece of JSON.
        json: String,
    },
    /// The choice is complete; its last event.
    Finished(FinishReason),
    /// The request is complete; the stream's last event, for choice 0.
    Done(Usage),
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// Which of the `n` answers.
    pub choice: u32,
    /// What happened.
    pub event: Event,
}

/// Why there is no answer. The variant says whose fault it is, so that each dialect can map it to its own shape.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProviderError {
    /// The request cannot be served as it is: the caller's fault.
    #[error("{message}")]
    InvalidRequest {
        /// What is wrong and what to do.
        message: String,
        /// The field at fault, by its neutral name.
        param: Option<String>,
    },
    /// Prompt and answer do not fit the context: the caller's fault.
    #[error(
        "the prompt has {prompt_tokens} tokens{}, the context holds {n_ctx}",
        .max_tokens.map(|n| format!(" and {n} are to be generated")).unwrap_or_default()
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// What was asked for on top, if anything.
        max_tokens: Option<u32>,
        /// What fits.
        n_ctx: usize,
    },
    /// The caller may not do this.
    #[error("{message}")]
    Forbidden {
        /// What is not allowed, and what would allow it.
        message: String,
    },
    /// No such model here.
    #[error("model `{model}` not found{}", there_are(available))]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// What there is.
        available: Vec<String>,
    },
    /// Too much is waiting already: come back later.
    #[error("{waiting} requests are waiting already; try again in {} s", .retry_after.as_secs())]
    Overloaded {
        /// How many wait.
        waiting: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// It would not be served in the time that it has, as things go.
    #[error(
        "about {:.1} s are needed {}, and the request was given {} s; give it more time, or try again in {} s",
        .needed.as_secs_f64(), if *.begins { "until it would begin" } else { "for its prompt and those before it" },
        .limit.as_secs_f64(), .retry_after.as_secs()
    )]
    TooLate {
        /// Whether it is the beginning that would come too late, and not the end.
        begins: bool,
        /// The time that it has, from its arrival on.
        limit: Duration,
        /// What it would take, as steps have gone so far.
        needed: Duration,
        /// When to come back.
        retry_after: Duration,
    },
    /// It took longer than it may.
    #[error("the request was given {} s and has not ended; what was answered until now is incomplete", .limit.as_secs_f64())]
    DeadlineExceeded {
        /// The time that it had, from its arrival on.
        limit: Duration,
    },
    /// The model is loading or going away.
    #[error("the model is not ready: {0}")]
    Unavailable(String),
    /// Something else that this needs is taken by others now; come back later.
    #[error("{0}")]
    Busy(String),
    /// The model is here and cannot be used, until somebody repairs it.
    #[error("{0}")]
    Unusable(String),
    /// Another server that this needs was not reached, or answered otherwise than it should.
    #[error("{0}")]
    Upstream(String),
    /// Our fault.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The most names that a refusal lists.
const NAMES_MAX: usize = 20;

/// The clause that names what there is.
fn there_are(available: &[String]) -> String {
    match available.len() {
        0 => String::new(),
        n if n > NAMES_MAX => {
            format!("; available: {} and {} more", available[..NAMES_MAX].join(", "), n - NAMES_MAX)
        }
        _ => format!("; available: {}", available.join(", ")),
    }
}

impl ProviderError {
    /// When to come back, if it is only now that there is no room or no time.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } | Self::TooLate { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

/// What a model's file says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelDetails {
    /// The architecture, such as `llama`.
    pub architecture: String,
    /// The type of most weights, such as `Q4_K_M`.
    pub quantization: String,
    /// SHA-256 over what identifies the file, in hexadecimal.
    pub digest: String,
    /// The chat template's source.
    pub template: Option<String>,
    /// Whether calls of tools are recognized.
    pub has_tools: bool,
    /// Whether thoughts are.
    pub has_reasoning: bool,
    /// Whether the model fills gaps: its vocabulary has the tokens for it.
    pub has_infill: bool,
    /// The file's key-value pairs; long lists are `null`.
    pub metadata: Map<String, Value>,
}

/// A prompt as a model sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompted {
    /// The text, control tokens spelled out.
    pub text: String,
    /// The tokens.
    pub tokens: Vec<TokenId>,
}

/// A model that a provider offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// The name that requests use.
    pub id: String,
    /// Seconds since the epoch when it was loaded.
    pub created: u64,
    /// The longest context.
    pub n_ctx: usize,
    /// The longest context it was trained for.
    pub n_ctx_train: usize,
    /// Size of the vocabulary.
    pub n_vocab: usize,
    /// Size of a hidden state.
    pub n_embd: usize,
    /// Parameters.
    pub n_params: u64,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Model digest and numeric path, short: equal fingerprints promise equal bytes.
    pub fingerprint: String,
    /// Of an adapter: the model that it is added to.
    pub parent: Option<String>,
    /// The arithmetic that computes it: what of the fingerprint is not its digest.
    pub numeric_path: String,
    /// Sampling settings that hold unless a request says otherwise; what is absent is the program's own.
    pub defaults: Sampling,
    /// What its file says about itself.
    pub details: ModelDetails,
}

/// Whether a model's answers can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// As far as anybody knows.
    #[default]
    Sound,
    /// It answers, but has gone wrong several times of late: it should be verified, and loaded again.
    Suspect(String),
    /// It answers nobody until it is loaded again.
    Unusable(String),
}

/// A provider's condition now, for health pages and routing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderStatus {
    /// Whether requests are answered now.
    pub ready: bool,
    /// Whether its answers can be trusted.
    pub condition: Condition,
    /// While the model is on its way into memory: how far it is, from 0 to 1. Requests are taken already, and wait.
    pub loading: Option<f32>,
    /// Sequences that run.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Tenants of whose requests some have not begun.
    pub tenants_waiting: usize,
    /// Sequences that may run at a time; 0 if nobody knows.
    pub sequences_max: usize,
    /// Blocks of the KV cache that sequences hold.
    pub kv_blocks_used: usize,
    /// Blocks that only the prefix cache holds.
    pub kv_blocks_cached: usize,
    /// Blocks in all.
    pub kv_blocks_total: usize,
    /// Bytes of weights and KV cache.
    pub memory_bytes: u64,
    /// Tokens per second computed over the last seconds: prompt.
    pub prefill_tokens_per_s: f64,
    /// Tokens per second computed over the last seconds: generated.
    pub decode_tokens_per_s: f64,
    /// Since start: prompt tokens computed.
    pub prompt_tokens_total: u64,
    /// Since start: prompt tokens taken from the prefix cache.
    pub cached_tokens_total: u64,
    /// Since start: tokens generated.
    pub generated_tokens_total: u64,
    /// Since start: requests finished.
    pub requests_finished_total: u64,
    /// Since start: requests aborted.
    pub requests_aborted_total: u64,
    /// Since start: of these, requests whose time was over.
    pub requests_overdue_total: u64,
    /// Since start: sequences preempted.
    pub preemptions_total: u64,
    /// Since start: times that tokens made way in a full context.
    pub context_shifts_total: u64,
    /// Since start: how many tokens did.
    pub discarded_tokens_total: u64,
    /// Since start: steps run.
    pub steps_total: u64,
    /// K/V beyond the cache's own blocks.
    pub kv_tiers: KvTierStatus,
    /// Since start: what was guessed ahead.
    pub speculation: SpeculationStatus,
}

/// K/V of preempted sequences in memory, and the prefix cache on disk. All 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvTierStatus {
    /// Blocks of preempted sequences that are kept in memory.
    pub swap_blocks: usize,
    /// How many can be.
    pub swap_blocks_total: usize,
    /// Since start: blocks moved there.
    pub swapped_out_total: u64,
    /// Since start: blocks that came back.
    pub swapped_in_total: u64,
    /// Blocks on disk, of all models that share the folder.
    pub disk_blocks: usize,
    /// Bytes of their files.
    pub disk_bytes: u64,
    /// Since start: prompt tokens of this model that came from the disk.
    pub disk_tokens_read_total: u64,
    /// Since start: blocks written.
    pub disk_blocks_written_total: u64,
    /// Since start: blocks not written, because the disk did not keep up or refused them.
    pub disk_blocks_dropped_total: u64,
    /// Since start: files that were not what was written, and were removed.
    pub disk_blocks_refused_total: u64,
}

/// What was guessed ahead since start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeculationStatus {
    /// Whether anything is guessed at all.
    pub is_on: bool,
    /// Drafts: guesses for one sequence in one step.
    pub drafts_total: u64,
    /// Their tokens.
    pub draft_tokens_total: u64,
    /// Those of them that answers have.
    pub accepted_tokens_total: u64,
    /// The same by position in the draft.
    pub accepted_tokens_per_position: Vec<u64>,
    /// Why there is no draft model any more.
    pub failure: Option<String>,
}

/// How long a model stays in memory after its last request, unless its memory is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepAlive {
    /// So long; zero: it goes with its last request.
    For(Duration),
    /// As long as the process.
    #[default]
    Always,
}

impl KeepAlive {
    /// That of a number of seconds, where below zero is for ever, and so is a century.
    pub fn from_seconds(seconds: f64) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) if time < CENTURY => Self::For(time),
            _ => Self::Always,
        }
    }
}

/// Where a model is on its way into memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ModelState {
    /// Not in memory.
    #[default]
    Unloaded,
    /// On its way, from 0 to 1; it may be waiting for room.
    Loading(f32),
    /// Requests are answered.
    Loaded,
    /// The latest attempt to load it failed, for this reason, which names no file.
    Failed(String),
}

impl ModelState {
    /// A word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading(_) => "loading",
            Self::Loaded => "loaded",
            Self::Failed(_) => "failed",
        }
    }
}

/// A model of a provider, in memory or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelEntry {
    /// What it is. Of a model whose file cannot be used only the name is known.
    pub info: ModelInfo,
    /// Whether it is in memory.
    pub state: ModelState,
    /// How busy it is.
    pub status: ProviderStatus,
    /// Bytes of memory that are set aside for it.
    pub memory_bytes: u64,
    /// How long it stays from now on, if nobody asks; `None` while it is busy or not loaded.
    pub expires_in: Option<KeepAlive>,
    /// Whether it stays whatever others need.
    pub is_pinned: bool,
    /// Whether it can be loaded and unloaded.
    pub is_managed: bool,
    /// Requests that it is answering.
    pub in_use: usize,
    /// How often it was loaded.
    pub loads_total: u64,
    /// How often it was unloaded, for whatever reason.
    pub unloads_total: u64,
    /// How often of those because others needed its memory.
    pub evictions_total: u64,
    /// How often loading it failed.
    pub failures_total: u64,
}

/// What an operator can do with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelChange {
    /// Into memory, and there for so long (as configured if nothing is said).
    Load(Option<KeepAlive>),
    /// Out of memory, as soon as nobody uses it.
    Unload,
    /// Load its file anew, and answer with it from then on.
    Reload,
}

/// The provider of one model, which stays as it is while this is held; `None` where that is so for all models anyway.
pub type HoldFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Arc<dyn Provider>>, ProviderError>> + Send + 'a>>;

/// What [`Provider::change`] returns.
pub type ChangeFuture<'a> = Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>>;

/// The pieces of an answer. Dropping it aborts the request. After an `Err` nothing follows.
pub type DeltaStream = Pin<Box<dyn Stream<Item = Result<Delta, ProviderError>> + Send>>;

/// What [`Provider::start`] returns.
pub type StartFuture<'a> = Pin<Box<dyn Future<Output = Result<DeltaStream, ProviderError>> + Send + 'a>>;

/// Whoever answers requests: the local engine, a peer node, a cloud client.
pub trait Provider: Send + Sync {
    /// Admits a request. Errors that can be known at once come from the future; later ones end the stream.
    fn start(&self, request: Request) -> StartFuture<'_>;

    /// Admits a wish for vectors. Errors that can be known at once, over-long texts among them, come from this future;
    /// the one that it gives has the vectors.
    fn embed(&self, _request: EmbedRequest) -> EmbedFuture<'_> {
        Box::pin(async {
            let message = "the model makes no embeddings here".into();
            Err(ProviderError::InvalidRequest { message, param: Some("model".into()) })
        })
    }

    /// The prompt that a request would run with, control tokens spelled out; nothing runs.
    ///
    /// # Errors
    /// As [`start`](Self::start), apart from those of the queue.
    fn prompt(&self, _request: &Request) -> Result<Prompted, ProviderError> {
        Err(no_tokenizer())
    }

    /// Text to tokens. `add_special`: with what the model wants around a prompt (BOS); `parse_special`: text may
    /// spell control tokens.
    ///
    /// # Errors
    /// If there is no such model, or its tokenizer is not at hand.
    fn tokenize(
        &self,
        _model: Option<&str>,
        _text: &str,
        _add_special: bool,
        _parse_special: bool,
    ) -> Result<Vec<TokenId>, ProviderError> {
        Err(no_tokenizer())
    }

    /// Each token's bytes, which need not be whole characters; control tokens by their spelling.
    ///
    /// # Errors
    /// As [`tokenize`](Self::tokenize), and if there is no such token.
    fn token_bytes(&self, _model: Option<&str>, _tokens: &[TokenId]) -> Result<Vec<Vec<u8>>, ProviderError> {
        Err(no_tokenizer())
    }

    /// Forgets what it has cached for a tenant, apart from what is in use. Answers stay the same.
    ///
    /// # Errors
    /// If its cache cannot be flushed from here.
    fn flush_cache(&self, _principal: &Principal) -> Result<(), ProviderError> {
        let message = "the cache cannot be flushed from here; it changes no answer";
        Err(ProviderError::InvalidRequest { message: message.into(), param: None })
    }

    /// What a request, for the model of `info`, runs with: its adapters by number, so that nothing that is loaded or
    /// unloaded meanwhile changes them, and the fingerprint of its answer, which says which ones they are. A model that is
    /// an adapter chooses itself.
    ///
    /// # Errors
    /// If there is no such adapter, or the request and its model choose differently.
    fn adapters_of(
        &self,
        info: &ModelInfo,
        wished: Option<&[AdapterWish]>,
    ) -> Result<(Option<Vec<AdapterWish>>, String), ProviderError> {
        match wished {
            None | Some([]) => Ok((None, info.fingerprint.clone())),
            Some(_) => Err(no_adapters()),
        }
    }

    /// The adapters of a model, by number.
    ///
    /// # Errors
    /// If there is no such model.
    fn adapters(&self, _model: Option<&str>) -> Result<Vec<AdapterInfo>, ProviderError> {
        Ok(Vec::new())
    }

    /// Loads an adapter; it takes a while. Requests can use it from then on.
    ///
    /// # Errors
    /// If it cannot be read, does not fit the model, or may not be loaded.
    fn load_adapter(&self, _wish: &LoadAdapter) -> Result<AdapterInfo, ProviderError> {
        Err(no_adapters())
    }

    /// Unloads an adapter. Requests that run with it go on; its memory is free when the last of them has ended.
    ///
    /// # Errors
    /// If there is no such adapter.
    fn unload_adapter(
        &self,
        _model: Option<&str>,
        _name: &AdapterName,
    ) -> Result<AdapterInfo, ProviderError> {
        Err(no_adapters())
    }

    /// Sets how strongly adapters are added to requests that choose none: those that are not named, not at all.
    ///
    /// # Errors
    /// If there is no such adapter; nothing has changed then.
    fn set_adapters(&self, _model: Option<&str>, _wishes: &[AdapterWish]) -> Result<(), ProviderError> {
        Err(no_adapters())
    }

    /// The models it offers; the first is the default.
    fn models(&self) -> Vec<ModelInfo>;

    /// Its condition now.
    fn status(&self) -> ProviderStatus;

    /// Takes hold of a model, which is loaded for that if it has to be: a request that looks at what the model is, and
    /// then starts, means the same model all the time, whatever is loaded under its name meanwhile. `keep_alive` is how
    /// long it shall stay afterwards.
    fn hold(&self, _model: Option<&str>, _keep_alive: Option<KeepAlive>) -> HoldFuture<'_> {
        Box::pin(async { Ok(None) })
    }

    /// Its models with their states, in the order of [`models`](Self::models).
    fn entries(&self) -> Vec<ModelEntry> {
        let status = self.status();
        let state = status.loading.map_or(ModelState::Loaded, ModelState::Loading);
        let entry = |(i, info)| {
            // What is known of all of them together is told once.
            let status = if i == 0 { status.clone() } else { ProviderStatus::default() };
            let memory_bytes = status.memory_bytes;
            let (state, expires_in) = (state.clone(), Some(KeepAlive::Always));
            ModelEntry { info, state, status, memory_bytes, expires_in, ..ModelEntry::default() }
        };
        self.models().into_iter().enumerate().map(entry).collect()
    }

    /// Whether models may come and go while it runs, so that a name is to be looked for with
    /// [`discover`](Self::discover) before it is said that there is no such model.
    fn has_discovery(&self) -> bool {
        false
    }

    /// Looks for a model that is not among [`models`](Self::models), or no longer the same; its id, if there is one.
    /// It reads files, and blocks while it does.
    ///
    /// # Errors
    /// [`ProviderError::Unusable`] if it is here and cannot be used.
    fn discover(&self, _model: &str) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }

    /// Models that could be discovered and have not been asked for yet, with what is known of them without opening
    /// them. It reads files, and blocks while it does.
    fn undiscovered(&self) -> Vec<ModelInfo> {
        Vec::new()
    }

    /// Bytes of memory that all models together may have, if there is a limit.
    fn memory_budget(&self) -> Option<u64> {
        None
    }

    /// Loads or unloads a model. Returns when it is decided, not when it is done: [`entries`](Self::entries) tells.
    fn change<'a>(&'a self, _model: &'a str, _change: ModelChange) -> ChangeFuture<'a> {
        Box::pin(async {
            let message = "the models of this server stay loaded: its operator started it so; with several models, or \
                           with --keep-alive, they come and go";
            Err(ProviderError::InvalidRequest { message: message.into(), param: Some("model".into()) })
        })
    }
}

fn no_adapters() -> ProviderError {
    let message = "the model takes no adapters here".into();
    ProviderError::InvalidRequest { message, param: Some("lora".into()) }
}

fn no_tokenizer() -> ProviderError {
    ProviderError::InvalidRequest { message: "the model's tokenizer is not at hand here".into(), param: None }
}

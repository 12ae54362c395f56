//! What is wanted.

use std::time::Duration;

use ingle_step::{SamplerKind, TokenId};
use serde_json::{Map, Value};

use crate::{AdapterWish, Format, Message, Principal};

/// A parameter that the caller may leave to the model's own recommendation.
pub type Defaulted<T> = Option<T>;

/// Sampling wishes. What is `None` comes from the model's recommended settings, then from the program's defaults
/// ([`ingle_step::SamplingParams::default`]).
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is documented in SamplingParams under the same name")]
pub struct Sampling {
    pub temperature: Defaulted<f32>,
    pub dynatemp_range: Defaulted<f32>,
    pub dynatemp_exponent: Defaulted<f32>,
    pub top_k: Defaulted<i32>,
    pub top_p: Defaulted<f32>,
    pub min_p: Defaulted<f32>,
    pub typical_p: Defaulted<f32>,
    pub top_n_sigma: Defaulted<f32>,
    pub xtc_probability: Defaulted<f32>,
    pub xtc_threshold: Defaulted<f32>,
    pub repeat_penalty: Defaulted<f32>,
    pub repeat_last_n: Defaulted<i32>,
    pub frequency_penalty: Defaulted<f32>,
    pub presence_penalty: Defaulted<f32>,
    pub dry_multiplier: Defaulted<f32>,
    pub dry_base: Defaulted<f32>,
    pub dry_allowed_length: Defaulted<i32>,
    pub dry_penalty_last_n: Defaulted<i32>,
    pub dry_sequence_breakers: Defaulted<Vec<String>>,
    pub mirostat: Defaulted<u8>,
    pub mirostat_tau: Defaulted<f32>,
    pub mirostat_eta: Defaulted<f32>,
    pub min_keep: Defaulted<usize>,
    pub order: Defaulted<Vec<SamplerKind>>,
    /// Whether an answer goes on where the context is full: the first tokens stay, and of the others the oldest make way.
    pub context_shift: Defaulted<bool>,
    /// How many of the prompt's first tokens stay then; -1 is all of them.
    pub n_keep: Defaulted<i32>,
    /// How many tokens make way then; 0 is half of those that need not stay.
    pub n_discard: Defaulted<i32>,
    /// `None`: a fresh one is drawn and reported.
    pub seed: Defaulted<u64>,
    /// Added to logits; `-inf` forbids.
    pub logit_bias: Vec<(TokenId, f32)>,
}

impl Sampling {
    /// What this says, and where it says nothing, what `other` says. Biases add up.
    pub fn or(self, other: Self) -> Self {
        macro_rules! either {
            ($($field:ident),*) => {
                Self {
                    $($field: self.$field.or(other.$field),)*
                    logit_bias: [other.logit_bias, self.logit_bias].concat(),
                }
            };
        }
        either!(
            temperature,
            dynatemp_range,
            dynatemp_exponent,
            top_k,
            top_p,
            min_p,
            typical_p,
            top_n_sigma,
            xtc_probability,
            xtc_threshold,
            repeat_penalty,
            repeat_last_n,
            frequency_penalty,
            presence_penalty,
            dry_multiplier,
            dry_base,
            dry_allowed_length,
            dry_penalty_last_n,
            dry_sequence_breakers,
            mirostat,
            mirostat_tau,
            mirostat_eta,
            min_keep,
            order,
            context_shift,
            n_keep,
            n_discard,
            seed
        )
    }
}

/// A raw prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, taken as content: it cannot spell control tokens.
    Text(String),
    /// Text that may spell control tokens, which are then meant. Of callers who may not write them, text that spells
    /// none.
    Marked(String),
    /// Tokens, taken as they are.
    Tokens(Vec<TokenId>),
    /// A gap to fill.
    Infill(Infill),
}

/// A gap in a text, and what is around it. All of it is content: it cannot spell control tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infill {
    /// The text before the gap.
    pub prefix: String,
    /// The text after it.
    pub suffix: String,
    /// Other texts of the same project, the nearest last.
    pub files: Vec<InfillFile>,
    /// How the filling begins.
    pub begun: String,
}

/// A text beside the one with the gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfillFile {
    /// Its name, as in `src/lib.rs`.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Whether a completion repeats its prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Echo {
    /// Only what is new.
    #[default]
    No,
    /// The prompt first.
    Yes,
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// Not at all: the template is not shown the tools.
    None,
    /// At least one is.
    Required,
    /// This one is.
    Named(String),
}

/// Wishes about what a model thinks before it speaks. Models that know no thinking, or no such wish, refuse what they
/// cannot do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasoningWish {
    /// Whether it thinks; `None` is as the model likes.
    pub enabled: Option<bool>,
    /// How hard, in the words of the template (`low`, `medium`, `high`).
    pub effort: Option<String>,
    /// At most so many tokens; then the thoughts are closed and the answer begins.
    pub budget_tokens: Option<u32>,
    /// Thoughts stay in the text, with their marks.
    pub in_text: bool,
}

/// A conversation to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatInput {
    /// The conversation.
    pub messages: Vec<Message>,
    /// Tool definitions, as the template will see them.
    pub tools: Vec<Value>,
    /// Whether they are called.
    pub tool_choice: ToolChoice,
    /// At most one call in an answer.
    pub one_tool_call: bool,
    /// Wishes about thinking.
    pub reasoning: ReasoningWish,
    /// Further template variables (`chat_template_kwargs`): data for the template, never options of the engine.
    pub template_vars: Map<String, Value>,
    /// Continue the last assistant message instead of starting a new one.
    pub continue_final_message: bool,
}

/// What kind of answer is wanted.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Continue a conversation.
    Chat(ChatInput),
    /// Continue a raw prompt.
    Completion {
        /// The prompt.
        prompt: Prompt,
        /// Whether the prompt comes back first.
        echo: Echo,
    },
}

/// Whom a request makes way for. Ordered: a later one waits longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Normal,
    /// Nobody waits for it: it runs where normal requests leave room, and gives its place up to them.
    Background,
}

/// The least and the most rank that a request can have.
pub const RANKS: std::ops::RangeInclusive<i16> = -100..=100;

/// When a request runs beside others of its priority, and for how long it may. What the provider is set to holds as well:
/// whichever time is over first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Lower goes first, among all that others ask; 0 is usual. Within [`RANKS`].
    pub rank: i16,
    /// How long it may wait before it begins.
    pub queue_timeout: Option<Duration>,
    /// How long it may take from its arrival to its end.
    pub timeout: Option<Duration>,
}

/// One API call, in no dialect.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// For logs and replies; unique.
    pub id: String,
    /// Who asks.
    pub principal: Principal,
    /// Whether it makes way for others.
    pub priority: Priority,
    /// Its place and its time.
    pub terms: Terms,
    /// The model's name; `None` is the default model.
    pub model: Option<String>,
    /// What is wanted.
    pub task: Task,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// At most this many new tokens; `None` is as many as the context holds.
    pub max_tokens: Option<u32>,
    /// Whether a `max_tokens` that the context has no room for means as many as it has, as it does in Ollama, rather than an
    /// error. The answer then ends by length.
    pub cuts_max_tokens: bool,
    /// At least this many new tokens before an end is accepted.
    pub min_tokens: u32,
    /// Text that ends the answer and is not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer.
    pub stop_token_ids: Vec<TokenId>,
    /// Go on past the model's own end.
    pub ignore_eos: bool,
    /// How many answers.
    pub n: u32,
    /// Report each token's log-probability and this many alternatives.
    pub logprobs: Option<u32>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<u32>,
    /// Whether control tokens appear in the text (they are skipped otherwise).
    pub include_special: bool,
    /// What the answer's text must obey. Thoughts come before, and are free.
    pub format: Option<Format>,
    /// Whether tokens may be guessed ahead. The answer is the same either way.
    pub speculate: bool,
    /// At most this many guesses at a time; `None` is as the engine is configured.
    pub draft_max: Option<u32>,
    /// What the answer will mostly be, as the client believes: a source of guesses.
    pub prediction: Option<String>,
    /// The adapters that are added to the model; `None` is the one that the model's name means, or those that apply to
    /// all requests.
    pub adapters: Option<Vec<AdapterWish>>,
}

impl Request {
    /// A request with everything at its default.
    pub fn new(id: impl Into<String>, principal: Principal, task: Task) -> Self {
        Self {
            id: id.into(),
            principal,
            priority: Priority::Normal,
            terms: Terms::default(),
            model: None,
            task,
            sampling: Sampling::default(),
            max_tokens: None,
            cuts_max_tokens: false,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            n: 1,
            logprobs: None,
            prompt_logprobs: None,
            include_special: false,
            format: None,
            speculate: true,
            draft_max: None,
            prediction: None,
            adapters: None,
        }
    }
}

//! A request's way in: the template is rendered, text becomes tokens, wishes become settings, and whatever cannot
//! be served is refused here, by name, before it costs the engine thread anything. Runs on the caller's thread.

mod checks;
mod conversation;
mod embedding;
mod format;
mod preset;
mod shift;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ingle_chat::output::{OutputFormat, OutputParser};
use ingle_chat::template::{ChatTemplate, CivilTime};
use ingle_chat::{
    Echo, Infill, ModelInfo, Pooling, Principal, Priority, Prompt, Prompted, ProviderError, Request,
    Sampling, Segments, Task, Terms,
};
use ingle_grammar::{Compiler, Grammar, Limits};
use ingle_step::{Mirostat, SamplingParams, TokenId};
use ingle_tokenizer::Tokenizer;

use crate::adapters::{AdapterDirectory, AdapterSet};
use crate::sampling::DryBreakers;
use crate::scheduler::Shift;

pub use checks::{
    CHOICE_TOKENS_MAX, CHOICES_MAX, DRY_BREAKERS_MAX, LOGPROBS_MAX, PROMPT_LOGPROBS_ENTRIES_MAX,
    STOP_BYTES_MAX, STOP_TOKENS_MAX, STOPS_MAX,
};
pub use embedding::{EMBEDDING_VALUES_MAX, PreparedText, PreparedTexts};
pub use preset::Preset;

/// What keys without the scope are told.
const NO_CONTROL_TOKENS: &str = "the prompt spells a control token of the model, which only keys with the scope \
                                 `control-tokens` may write: ask the operator for it, or send the text to \
                                 /v1/completions, where it is plain text";

/// What a model is to its callers: how they talk to it, and what it recommends.
pub struct Frontend {
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations are spelled; `None` if the model has no template.
    pub template: Option<ChatTemplate>,
    /// How the model spells thoughts and calls of tools, as the template shows it.
    pub format: OutputFormat,
    /// Makes masks of formats.
    pub compiler: Compiler,
    /// What the model is.
    pub model: ModelInfo,
    /// The model's recommended settings.
    pub defaults: Sampling,
    /// What its maker says of every request.
    pub preset: Preset,
    /// How texts become vectors, or pairs of them scores.
    pub pooling: Pooling,
    /// What the model can do; the executor's word counts.
    pub abilities: Abilities,
    /// Who has the model's adapters; `None` if it takes none.
    pub adapter_directory: Option<Arc<dyn AdapterDirectory>>,
    /// The local time that templates may show.
    pub now: Box<dyn Fn() -> CivilTime + Send + Sync>,
    /// Where seeds come from that no request has set.
    pub entropy: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// For whom the thread works, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who shares cached beginnings with whom, and the machine with others.
    pub tenant: String,
    /// The tenant's part beside others'.
    pub weight: u32,
    /// Whether it makes way for others.
    pub priority: Priority,
    /// Its place and its time.
    pub terms: Terms,
}

impl Standing {
    pub(crate) fn new(principal: &Principal, priority: Priority, terms: Terms) -> Self {
        Self { tenant: principal.tenant.clone(), weight: principal.weight.max(1), priority, terms }
    }
}

/// What a model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it generates: models that only embed texts have no logits.
    pub generates: bool,
    /// Whether a token sees only itself and those before it. Otherwise a text is read in one step.
    pub causal: bool,
    /// Numbers that its head for pairs of texts gives; 0 if there is none.
    pub n_labels: usize,
    /// Whether it tells the second of two texts apart by its token type.
    pub has_token_types: bool,
    /// The most tokens of a step.
    pub step_tokens: usize,
}

impl Default for Abilities {
    /// Those of a model that generates.
    fn default() -> Self {
        Self { generates: true, causal: true, n_labels: 0, has_token_types: false, step_tokens: usize::MAX }
    }
}

/// A request with nothing left to decide.
#[derive(Clone)]
pub struct Prepared {
    /// The prompt. Never empty.
    pub prompt: Vec<TokenId>,
    /// The prompt's text, if the answer begins with it.
    pub echo: Option<String>,
    /// How tokens are picked, seed included.
    pub params: SamplingParams,
    /// What ends a repeated run, in this model's tokens; empty where DRY is off.
    pub dry_breakers: DryBreakers,
    /// At most this many new tokens per choice.
    pub max_tokens: usize,
    /// What makes way where the context is full; `None` if that never comes.
    pub shift: Option<Shift>,
    /// The longest text of a sequence.
    pub n_ctx: usize,
    /// No end before this many.
    pub min_tokens: usize,
    /// Text that ends an answer.
    pub stop: Vec<String>,
    /// Tokens that end an answer.
    pub stop_token_ids: Vec<TokenId>,
    /// Whether the model's own end tokens are tokens like others.
    pub ignore_eos: bool,
    /// How many answers.
    pub n_choices: u32,
    /// Alternatives to report with each new token.
    pub logprobs: Option<usize>,
    /// Alternatives to report with each prompt token.
    pub prompt_logprobs: Option<usize>,
    /// Whether control tokens appear in the text.
    pub include_special: bool,
    /// What tells thoughts and calls from text; `None` if all is text.
    pub parser: Option<OutputParser>,
    /// How the model's thoughts begin and end; `None` if it has none, or they are text as all is.
    pub thoughts: Option<Thoughts>,
    /// At most one call of a tool.
    pub one_tool_call: bool,
    /// What the answer has to obey, after its thoughts.
    pub grammar: Option<Arc<Grammar>>,
    /// For whom it is, and when.
    pub standing: Standing,
    /// Most tokens that are guessed ahead at a time; 0 is none.
    pub draft_max: usize,
    /// What the answer will mostly be; empty if nobody says.
    pub prediction: Vec<TokenId>,
    /// What is added to the model's weights.
    pub adapters: AdapterSet,
}

/// How thoughts begin and end.
#[derive(Clone, Debug)]
pub struct Thoughts {
    /// The token that begins them, if the model may begin the answer so.
    pub begin: Option<TokenId>,
    /// What ends them.
    pub end: Arc<[TokenId]>,
    /// How many tokens they may have.
    pub budget: Option<usize>,
    /// Whether the grammar of calls and formats has them, too. Otherwise they are free.
    pub in_grammar: bool,
}

/// A task, read.
struct Reading {
    /// The prompt. Not empty.
    tokens: Vec<TokenId>,
    /// Its text, if it is to be echoed.
    echo: Option<String>,
    parser: Option<OutputParser>,
    thoughts: Option<Thoughts>,
}

impl Prepared {
    /// Whether a token ends the answer by the model's own will; `end_tokens` are the model's.
    pub(crate) fn ends(&self, end_tokens: &[TokenId], token: TokenId) -> bool {
        !self.ignore_eos && end_tokens.contains(&token)
    }
}

impl Frontend {
    /// A frontend without recommendations, with the system's clock (in UTC) and the system's entropy.
    pub fn new(tokenizer: Arc<Tokenizer>, template: Option<ChatTemplate>, model: ModelInfo) -> Self {
        Self {
            compiler: Compiler::new(&tokenizer, Limits::default()),
            tokenizer,
            format: template.as_ref().map(ChatTemplate::output_format).unwrap_or_default(),
            template,
            model,
            defaults: Sampling::default(),
            preset: Preset::default(),
            pooling: Pooling::Last,
            abilities: Abilities::default(),
            adapter_directory: None,
            now: Box::new(|| {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                CivilTime::from_unix(since_epoch.as_secs() as i64)
            }),
            // Each state is keyed afresh from the system's randomness.
            entropy: Box::new(|| RandomState::new().hash_one(0)),
        }
    }

    /// Checks the recommended settings, so that a bad one is not found out request by request.
    ///
    /// # Errors
    /// If one is out of range; the message names it.
    pub fn check_defaults(&self) -> Result<(), ProviderError> {
        checks::check_params(&self.resolve(&Sampling::default()), self.model.n_vocab)
    }

    /// Decides everything about a request. `n_ctx` is the longest sequence that can run.
    ///
    /// # Errors
    /// If it cannot be served: the caller's fault, named.
    pub fn prepare(&self, request: &Request, n_ctx: usize) -> Result<Prepared, ProviderError> {
        let adapters = self.adapters(request.model.as_deref(), request.adapters.as_deref())?;
        if !self.abilities.generates {
            let message = "the model turns texts into vectors and generates none: ask for embeddings, or choose a model \
                           that generates";
            return Err(invalid("model", message.into()));
        }
        let n_vocab = self.model.n_vocab;
        checks::check_request(request, n_vocab)?;
        let params = self.resolve(&request.sampling);
        checks::check_params(&params, n_vocab)?;
        let Reading { tokens: prompt, echo, parser, thoughts } = self.read(request, n_vocab)?;
        let shift = self.shift(request, &prompt, n_ctx)?;
        let mut max_tokens = match shift {
            Some(_) => shift::room(request, n_ctx)?,
            None => room(prompt.len(), request.max_tokens.filter(|_| !request.cuts_max_tokens), n_ctx)?,
        };
        if let Some(most) = request.max_tokens.or(self.preset.max_tokens) {
            max_tokens = max_tokens.min(most as usize);
        }
        if request.min_tokens as usize > max_tokens {
            let message =
                format!("min_tokens is {}, but at most {max_tokens} can follow", request.min_tokens);
            return Err(invalid("min_tokens", message));
        }
        checks::check_choices(request.n, prompt.len())?;
        checks::check_prompt_logprobs(request.prompt_logprobs, prompt.len())?;
        let dry_breakers = match params.dry_multiplier {
            0.0 => DryBreakers::default(),
            _ => DryBreakers::new(&self.tokenizer, &params.dry_sequence_breakers),
        };
        Ok(Prepared {
            prompt,
            dry_breakers,
            echo: echo.filter(|text| !text.is_empty()),
            params,
            max_tokens,
            shift,
            n_ctx,
            min_tokens: request.min_tokens as usize,
            stop: if request.stop.is_empty() { self.preset.stop.clone() } else { request.stop.clone() },
            stop_token_ids: request.stop_token_ids.clone(),
            ignore_eos: request.ignore_eos,
            n_choices: request.n,
            logprobs: request.logprobs.map(|n| n as usize),
            prompt_logprobs: request.prompt_logprobs.map(|n| n as usize),
            include_special: request.include_special,
            parser,
            thoughts,
            one_tool_call: matches!(&request.task, Task::Chat(input) if input.one_tool_call),
            grammar: self.grammar(request)?,
            standing: Standing::new(&request.principal, request.priority, request.terms),
            draft_max: match request.speculate {
                true => request.draft_max.map_or(usize::MAX, |n| n as usize),
                false => 0,
            },
            prediction: match &request.prediction {
                Some(text) => self.tokenizer.encode(&Segments::content(text), false),
                None => Vec::new(),
            },
            adapters,
        })
    }

    /// Refuses a request that is for another model.
    ///
    /// # Errors
    /// If `model` names one.
    pub fn check_model(&self, model: Option<&str>) -> Result<(), ProviderError> {
        let is_adapter = |model: &str| {
            self.adapter_directory.as_ref().is_some_and(|directory| directory.named(model).is_some())
        };
        match model.filter(|m| *m != self.model.id && !is_adapter(m)) {
            None => Ok(()),
            Some(model) => Err(ProviderError::UnknownModel {
                model: model.to_owned(),
                available: vec![self.model.id.clone()],
            }),
        }
    }

    /// The prompt as the model would see it.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), as far as they are about the prompt.
    pub fn prompt(&self, request: &Request) -> Result<Prompted, ProviderError> {
        self.check_model(request.model.as_deref())?;
        let tokens = self.read(request, self.model.n_vocab)?.tokens;
        Ok(Prompted { text: self.tokenizer.decode(&tokens, true), tokens })
    }

    /// Text to tokens; see [`Provider::tokenize`](ingle_chat::Provider::tokenize).
    ///
    /// # Errors
    /// If it is for another model.
    pub fn tokenize(
        &self,
        model: Option<&str>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, ProviderError> {
        self.check_model(model)?;
        let segments = if parse_special { Segments::template(text) } else { Segments::content(text) };
        Ok(self.tokenizer.encode(&segments, add_special))
    }

    /// Each token's bytes, control tokens by their spelling.
    ///
    /// # Errors
    /// If they are for another model, or one is not in the vocabulary.
    pub fn token_bytes(
        &self,
        model: Option<&str>,
        tokens: &[TokenId],
    ) -> Result<Vec<Vec<u8>>, ProviderError> {
        self.check_model(model)?;
        let n_vocab = self.tokenizer.n_vocab();
        if let Some(token) = tokens.iter().find(|t| t.0 as usize >= n_vocab) {
            return Err(invalid(
                "tokens",
                format!("there is no token {token}: the vocabulary has {n_vocab}"),
            ));
        }
        Ok(tokens.iter().map(|&token| self.tokenizer.token_bytes(token).to_vec()).collect())
    }

    /// Reads what the request says.
    fn read(&self, request: &Request, n_vocab: usize) -> Result<Reading, ProviderError> {
        let (prompt, echo) = match &request.task {
            Task::Chat(input) => return self.read_chat(input, request.include_special),
            Task::Completion { prompt, echo } => (prompt, echo),
        };
        let (tokens, text) = match prompt {
            Prompt::Text(text) => (self.tokenizer.encode(&Segments::content(text), true), text.clone()),
            Prompt::Marked(text) => {
                let may = request.principal.may_write_control_tokens;
                if !may && self.tokenizer.spells_control(text) {
                    return Err(ProviderError::Forbidden { message: NO_CONTROL_TOKENS.to_owned() });
                }
                (self.tokenizer.encode(&Segments::template(text), true), text.clone())
            }
            Prompt::Infill(infill) => {
                let tokens = self.encode_gap(infill)?.ok_or_else(|| {
                    let message = format!(
                        "model `{}` fills no gaps: its vocabulary has no tokens that mark prefix, suffix and middle; \
                         send only the text before as a prompt",
                        self.model.id
                    );
                    invalid("suffix", message)
                })?;
                (tokens, String::new())
            }
            Prompt::Tokens(tokens) => {
                if let Some(token) = tokens.iter().find(|t| t.0 as usize >= n_vocab) {
                    let message = format!("the prompt has token {token}, the vocabulary {n_vocab}");
                    return Err(invalid("prompt", message));
                }
                let text = match echo {
                    Echo::Yes => self.tokenizer.decode(tokens, false),
                    Echo::No => String::new(),
                };
                (tokens.clone(), text)
            }
        };
        if tokens.is_empty() {
            return Err(invalid("prompt", "the prompt is empty: give it at least one token".into()));
        }
        Ok(Reading { tokens, echo: matches!(echo, Echo::Yes).then_some(text), parser: None, thoughts: None })
    }

    /// A gap as the template spells it, if the template knows gaps, else by the vocabulary's own tokens, if it has some.
    fn encode_gap(&self, infill: &Infill) -> Result<Option<Vec<TokenId>>, ProviderError> {
        let is_plain = infill.files.is_empty() && infill.begun.is_empty();
        if let Some(template) = self.template.as_ref().filter(|_| is_plain) {
            let rendered = template.render_gap(&infill.prefix, &infill.suffix, (self.now)());
            if let Some(segments) = rendered.map_err(|error| invalid("suffix", error.to_string()))? {
                return Ok(Some(self.tokenizer.encode(&segments, true)));
            }
        }
        Ok(self.tokenizer.encode_infill(infill))
    }

    /// The caller's wish, else the model's recommendation, else the program's default.
    fn resolve(&self, wish: &Sampling) -> SamplingParams {
        let wish = wish.clone().or(self.defaults.clone());
        let ours = SamplingParams::default();
        macro_rules! params {
            ($($field:ident),*) => {
                SamplingParams {
                    $($field: wish.$field.unwrap_or(ours.$field),)*
                    mirostat: match wish.mirostat.unwrap_or(0) {
                        0 => None,
                        version => Some(Mirostat {
                            version,
                            tau: wish.mirostat_tau.unwrap_or(5.0),
                            eta: wish.mirostat_eta.unwrap_or(0.1),
                        }),
                    },
                    logit_bias: wish.logit_bias,
                    seed: wish.seed.unwrap_or_else(|| (self.entropy)()),
                }
            };
        }
        params!(
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
            min_keep,
            order
        )
    }
}

/// How many tokens can follow a prompt. All of the prompt and all that was asked for must fit: nothing is ever cut
/// off silently.
fn room(n_prompt: usize, max_tokens: Option<u32>, n_ctx: usize) -> Result<usize, ProviderError> {
    let too_long = || ProviderError::ContextLength { prompt_tokens: n_prompt, max_tokens, n_ctx };
    let free = n_ctx.checked_sub(n_prompt).ok_or_else(too_long)?;
    match max_tokens {
        None if free == 0 => Err(too_long()),
        None => Ok(free),
        Some(n) if n as usize > free => Err(too_long()),
        Some(n) => Ok(n as usize),
    }
}

fn invalid(param: &str, message: String) -> ProviderError {
    ProviderError::InvalidRequest { message, param: Some(param.to_owned()) }
}

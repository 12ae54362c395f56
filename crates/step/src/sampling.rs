//! How a token is picked. Names, order and defaults are llama.cpp's, since that is what GGUF users tune by.

use crate::TokenId;

/// XTC removes nothing above this threshold.
pub const XTC_THRESHOLD_MAX: f32 = 0.5;

/// A step of the sampler chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// "Don't repeat yourself": penalizes the continuation of repeated runs.
    Dry,
    /// Keeps logits within n standard deviations of the maximum.
    TopNSigma,
    /// Keeps the k most likely tokens.
    TopK,
    /// Keeps locally typical tokens.
    TypicalP,
    /// Keeps the smallest set with this much probability.
    TopP,
    /// Keeps tokens at least this likely relative to the best.
    MinP,
    /// Excludes top choices at random.
    Xtc,
    /// Divides logits by the temperature (dynamic if a range is set).
    Temperature,
}

impl SamplerKind {
    /// llama.cpp's order.
    pub const DEFAULT_ORDER: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::TypicalP,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];

    /// The name in `--samplers` lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top_n_sigma",
            Self::TopK => "top_k",
            Self::TypicalP => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
        }
    }
}

/// Mirostat, which replaces truncation by a feedback loop on surprise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// 1 or 2.
    pub version: u8,
    /// Target surprise in bits.
    pub tau: f32,
    /// Learning rate.
    pub eta: f32,
}

/// Everything that decides how a token is picked from logits. All of it is data: the same parameters, seed,
/// choice and position pick the same token.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 or less is greedy: the most likely token, the lowest id among equals.
    pub temperature: f32,
    /// Half-width of the dynamic temperature range; 0 is off.
    pub dynatemp_range: f32,
    /// Exponent of the entropy in dynamic temperature.
    pub dynatemp_exponent: f32,
    /// 0 or less is off.
    pub top_k: i32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub typical_p: f32,
    /// 0 or less is off.
    pub top_n_sigma: f32,
    /// 0 is off.
    pub xtc_probability: f32,
    /// Tokens above this are candidates for exclusion.
    pub xtc_threshold: f32,
    /// 1 is off.
    pub repeat_penalty: f32,
    /// How many tokens back penalties look; 0 is none, -1 the whole context.
    pub repeat_last_n: i32,
    /// 0 is off.
    pub frequency_penalty: f32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// 0 is off.
    pub dry_multiplier: f32,
    /// Base of the exponential penalty.
    pub dry_base: f32,
    /// Runs up to this long are free.
    pub dry_allowed_length: i32,
    /// How many tokens back DRY looks; 0 is none, -1 the whole context.
    pub dry_penalty_last_n: i32,
    /// Strings that end a run.
    pub dry_sequence_breakers: Vec<String>,
    /// Replaces the truncating samplers if set.
    pub mirostat: Option<Mirostat>,
    /// Added to logits before anything else; `-inf` forbids.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// At least this many candidates stay after each truncation (0 means 1).
    pub min_keep: usize,
    /// The chain.
    pub order: Vec<SamplerKind>,
    /// Seed of the counter-based generator.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            mirostat: None,
            logit_bias: Vec::new(),
            min_keep: 0,
            order: SamplerKind::DEFAULT_ORDER.to_vec(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Greedy: the most likely token each time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

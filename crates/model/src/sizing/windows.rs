//! Sliding windows: which layers see only the latest positions, by architecture.
//!
//! Files say how long the window is, and newer ones which layers have it; for the rest the pattern belongs to the
//! architecture. The patterns are those that llama.cpp uses for the same files, from the models' papers and
//! configurations.

use crate::error::ModelError;
use crate::sizing::layers::Keys;

/// Positions that a layer with a window keeps are counted in whole multiples of this.
const PAD: u64 = 256;

/// A layer's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many latest positions are seen.
    pub n: u64,
    /// Whether llama.cpp keeps only those. Where it does not, it hides what is outside or ignores the window, and keeps
    /// all positions.
    pub is_ring: bool,
}

/// How many positions layers with windows keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All, as every other layer: what Ingle does today.
    AllPositions,
    /// As llama.cpp: the window and room for a batch, in the architectures where it does so.
    LlamaCpp,
    /// The window and room for a batch, wherever there is a window.
    Windows,
}

impl Window {
    /// Positions of a sequence that a layer keeps, of `n_ctx`, where steps compute up to `n_rows` rows of it.
    pub fn positions(self, rule: Rule, n_ctx: u64, n_rows: u64) -> u64 {
        let keeps_all = match rule {
            Rule::AllPositions => true,
            Rule::LlamaCpp => !self.is_ring,
            Rule::Windows => false,
        };
        if keeps_all {
            return n_ctx;
        }
        let ring = self.n.saturating_add(n_rows).checked_next_multiple_of(PAD).unwrap_or(u64::MAX);
        ring.min(n_ctx)
    }
}

/// The pattern of an architecture.
struct Pattern {
    arch: &'static str,
    /// Every so many layers one sees all positions. 0: none does.
    period: u64,
    /// That one is the first of each period, not the last.
    full_first: bool,
    /// The window where the file does not say it.
    default: Option<u64>,
    /// The window whatever the file says.
    always: Option<u64>,
}

const fn pattern(arch: &'static str, period: u64) -> Pattern {
    Pattern { arch, period, full_first: false, default: None, always: None }
}

const PATTERNS: &[Pattern] = &[
    Pattern { default: Some(4096), ..pattern("gemma2", 2) },
    pattern("gemma3", 6),
    pattern("gemma3n", 5),
    pattern("gemma-embedding", 6),
    pattern("gpt-oss", 2),
    pattern("cohere2", 4),
    Pattern { full_first: true, ..pattern("cohere2moe", 4) },
    // Attention in chunks of so many positions; a chunk is kept as a window of its length.
    Pattern { default: Some(8192), always: Some(8192), ..pattern("llama4", 4) },
    pattern("exaone4", 4),
    pattern("exaone-moe", 4),
    pattern("olmo2", 4),
    Pattern { full_first: true, always: Some(4096), ..pattern("smallthinker", 4) },
    pattern("plamo3", 8),
    pattern("afmoe", 4),
    Pattern { full_first: true, ..pattern("laguna", 4) },
    pattern("mellum", 4),
    pattern("muse-glimmer", 4),
    pattern("lfm2", 0),
];

/// Architectures whose files say for each layer whether it has a window.
const SAID_BY_FILES: &[&str] =
    &["gemma4", "gemma4-assistant", "dots3note", "granite_swa", "maple", "mimo2", "spark2_5", "step35"];

/// The window of each layer, if it has one.
pub(super) fn windows(keys: &Keys<'_>, n_layers: usize) -> Result<Vec<Option<Window>>, ModelError> {
    let said = keys.opt_u64("attention.sliding_window")?;
    let pattern = PATTERNS.iter().find(|p| p.arch == keys.arch);
    let by_file = SAID_BY_FILES.contains(&keys.arch);
    let window = match (said, pattern) {
        (Some(0), _) => None,
        (Some(n), pattern) => Some(pattern.and_then(|p| p.always).unwrap_or(n)),
        (None, pattern) => pattern.and_then(|p| p.default),
    };
    let Some(n) = window else { return Ok(vec![None; n_layers]) };
    if pattern.is_none() && !by_file {
        // Nobody makes use of it to keep less: all layers have it, as in Mistral 7B 0.1 and Phi-3.
        return Ok(vec![Some(Window { n, is_ring: false }); n_layers]);
    }
    let window = Some(Window { n, is_ring: true });
    if let Some(flags) = keys.opt_array("attention.sliding_window_pattern")? {
        let has = |i: usize| flags.get(i).is_some_and(|&flag| flag != 0);
        return Ok((0..n_layers).map(|i| window.filter(|_| has(i))).collect());
    }
    let Some(pattern) = pattern else {
        let what = "is missing: which layers have a window is not known".to_owned();
        return Err(ModelError::bad(keys.key("attention.sliding_window_pattern"), what));
    };
    let period = keys.opt_u64("attention.sliding_window_pattern")?.unwrap_or(pattern.period);
    let has = |i: u64| match (period, pattern.full_first) {
        (0, _) => true,
        (_, true) => !i.is_multiple_of(period),
        (_, false) => i % period < period - 1,
    };
    Ok((0..n_layers as u64).map(|i| window.filter(|_| has(i))).collect())
}

//! What goes into the [`Scheduler`](super::Scheduler) and what comes out.

use ingle_chat::{Pooling, Priority};
use ingle_step::{SeqId, TokenId};

/// Sizes and bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// Slots in a block.
    pub block_size: usize,
    /// Blocks in the cache.
    pub n_blocks: usize,
    /// The longest sequence the model is configured for.
    pub n_ctx: usize,
    /// Sequences that run at once (paused ones not counted).
    pub max_running_seqs: usize,
    /// Tokens computed in one step.
    pub step_token_budget: usize,
    /// Requests of one priority that wait for their first step.
    pub max_waiting_requests: usize,
    /// Prompt tokens of requests of one priority that wait for their first step. One request alone may have more.
    pub max_waiting_tokens: usize,
    /// Whether equal beginnings are computed once.
    pub prefix_cache: bool,
    /// How often one sequence can be preempted.
    pub max_preemptions: u32,
}

/// A request, as the scheduler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRequest {
    /// The prompt. Never empty.
    pub prompt: Vec<TokenId>,
    /// How many sequences continue it.
    pub n_choices: u32,
    /// The most tokens that a sequence will add.
    pub max_tokens: usize,
    /// Requests with different salts never share cached blocks.
    pub salt: u64,
    /// Whether logits after every prompt token are wanted, not only after the last.
    pub prompt_logits: bool,
    /// Hidden states in place of logits: those that this pooling needs, and always that of the last token. Nothing is
    /// sampled then: one choice, no new tokens, and not `prompt_logits`.
    pub pooling: Option<Pooled>,
    /// Whether it makes way for others.
    pub priority: Priority,
}

/// How a text is pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooled {
    /// Which rows are needed, and what of them.
    pub pooling: Pooling,
    /// Whether a row sees only itself and rows before it.
    pub causal: bool,
    /// Where the second of two texts begins, for models that tell them apart.
    pub second_from: Option<usize>,
}

impl From<Pooling> for Pooled {
    /// A text of a causal model.
    fn from(pooling: Pooling) -> Self {
        Self { pooling, causal: true, second_from: None }
    }
}

impl NewRequest {
    /// A normal request for one continuation of `prompt` with at most `max_tokens` new tokens.
    pub fn new(prompt: Vec<TokenId>, max_tokens: usize) -> Self {
        Self {
            prompt,
            n_choices: 1,
            max_tokens,
            salt: 0,
            prompt_logits: false,
            pooling: None,
            priority: Priority::Normal,
        }
    }
}

/// Names an admitted request: the id of its first sequence. The others follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl RequestId {
    /// The sequence of one of its choices.
    pub fn choice(self, choice: u32) -> SeqId {
        SeqId(self.0 + u64::from(choice))
    }
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// It could never run, even alone.
    #[error("{n_tokens} tokens do not fit: a sequence can have {max_tokens}")]
    TooLong {
        /// Prompt and new tokens.
        n_tokens: usize,
        /// What fits.
        max_tokens: usize,
    },
    /// Too much of its priority waits already.
    #[error("{waiting} requests are waiting already")]
    Full {
        /// How many.
        waiting: usize,
    },
}

/// What a step gave one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Whose it is. When a prompt's last row arrives, each choice of the request has a result.
    pub seq: SeqId,
    /// The new token, and those that are certain to follow it; none if none was wanted.
    pub tokens: Vec<TokenId>,
    /// Whether the sequence is complete with it.
    pub done: bool,
}

/// Counts of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences that run, paused ones included.
    pub running: usize,
    /// Sequences that wait, preempted ones included.
    pub waiting: usize,
    /// Requests whose first step has not come.
    pub queued_requests: usize,
    /// Their prompt tokens.
    pub queued_tokens: usize,
    /// Blocks without a holder.
    pub blocks_free: usize,
    /// Blocks that only the prefix cache holds.
    pub blocks_cached: usize,
    /// Blocks that sequences hold.
    pub blocks_used: usize,
    /// Since start: preemptions.
    pub preemptions: u64,
    /// Since start: prompt tokens taken from the prefix cache.
    pub cached_tokens: u64,
}

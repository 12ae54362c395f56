//! What goes into the [`Scheduler`](super::Scheduler) and what comes out.

use std::time::Duration;

use ingle_chat::{Pooling, Priority};
use ingle_step::{AdapterUse, BlockId, SeqId, TokenId};

use super::queue::QueueBounds;
use super::shift::Shift;

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
    /// What waits for its first step, at each priority.
    pub queue: QueueBounds,
    /// Whether equal beginnings are computed once.
    pub prefix_cache: bool,
    /// How often one sequence can be preempted.
    pub max_preemptions: u32,
    /// Blocks of preempted sequences that can be kept elsewhere. With 0, everything is computed again.
    pub swap_blocks: usize,
    /// The depth in tokens at which attention costs as much as everything else: what weighs the prefix cache's blocks.
    pub attention_depth: usize,
    /// Whether what comes into the prefix cache is told, by [`Scheduler::take_published`](super::Scheduler).
    pub record_published: bool,
}

/// Blocks that a sequence brought into the prefix cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Whose.
    pub request: RequestId,
    /// From the beginning to the end of the last block, which is not full if it is the sequence's tail.
    pub tokens: Vec<TokenId>,
    /// The first block's number among the sequence's.
    pub first: usize,
    /// The blocks from there on, each with a stamp that tells whether it is still the same later.
    pub blocks: Vec<(BlockId, u64)>,
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
    /// What makes way where a sequence fills the context. `None`: it never adds so many tokens.
    pub shift: Option<Shift>,
    /// Requests with different salts never share cached blocks.
    pub salt: u64,
    /// Whether logits after every prompt token are wanted, not only after the last.
    pub prompt_logits: bool,
    /// Hidden states in place of logits: those that this pooling needs, and always that of the last token. Nothing is
    /// sampled then: one choice, no new tokens, and not `prompt_logits`.
    pub pooling: Option<Pooled>,
    /// What is added to the model's weights. Requests with different ones have different salts.
    pub adapters: Vec<AdapterUse>,
    /// Whether it makes way for others.
    pub priority: Priority,
    /// Its place among those of its priority: lower goes first, 0 is usual.
    pub rank: i16,
    /// With whom it shares: what one tenant has in work comes out of that tenant's part.
    pub tenant: u64,
    /// How large that part is beside others'; at least 1. The newest request's word holds.
    pub weight: u32,
    /// When it must have begun, on the caller's clock.
    pub queue_deadline: Option<Duration>,
    /// When it must have ended.
    pub deadline: Option<Duration>,
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
            shift: None,
            salt: 0,
            prompt_logits: false,
            pooling: None,
            adapters: Vec::new(),
            priority: Priority::Normal,
            rank: 0,
            tenant: 0,
            weight: 1,
            queue_deadline: None,
            deadline: None,
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
    /// Too much of its tenant's waits already, though others may come.
    #[error("{waiting} requests of this tenant are waiting already")]
    TenantFull {
        /// How many.
        waiting: usize,
    },
}

/// How large a step may be. Which tokens come out does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBudget {
    /// Tokens computed in the step; at least 1.
    pub tokens: usize,
    /// The tokens whose time equals what a step costs before its first token. A prompt that could end in a step shares
    /// it with so many tokens of others' prompts beside as many as it has itself, so that the step takes at most twice
    /// the time that it would take alone.
    pub fixed_cost: usize,
}

/// Why a request's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It has not begun.
    Queued,
    /// It has not ended.
    Unfinished,
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
    /// Since start: times that tokens made way in a full context.
    pub shifts: u64,
    /// Since start: how many tokens did.
    pub discarded_tokens: u64,
    /// Blocks of preempted sequences that are kept elsewhere.
    pub blocks_swapped: usize,
    /// Since start: blocks that were moved there.
    pub blocks_swapped_out: u64,
    /// Since start: blocks that came back.
    pub blocks_swapped_in: u64,
}

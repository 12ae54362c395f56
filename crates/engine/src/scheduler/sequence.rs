//! One token stream of a request.

use ingle_chat::Pooling;
use ingle_step::{AdapterUse, BlockId, Input, TokenId, Want};

use super::fairness::Level;
use super::moves::Swapped;
use super::{NewRequest, Pooled, Priority, RequestId, Shift};
use crate::prefix_cache::NodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Running,
}

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub request: RequestId,
    pub priority: Priority,
    pub rank: i16,
    pub tenant: u64,
    pub weight: u32,
    pub state: State,
    /// Its reader is slow.
    pub paused: bool,
    /// Prompt, then what was sampled, without what has made way.
    pub tokens: Vec<TokenId>,
    /// How many tokens have made way.
    pub n_discarded: usize,
    pub n_prompt: usize,
    /// How many first tokens are read before it says something.
    pub n_to_read: usize,
    pub shift: Option<Shift>,
    /// How many tokens it adds at most.
    pub max_tokens: usize,
    /// What it may say next; while a step runs, what of it is in the step.
    pub draft: Vec<TokenId>,
    /// How many leading tokens are in the KV cache.
    pub n_computed: usize,
    /// Covers `n_computed` slots.
    pub blocks: Vec<BlockId>,
    /// Blocks that it will still get without asking.
    pub n_reserved: usize,
    /// K/V that were moved out when it was preempted.
    pub swapped: Option<Swapped>,
    /// Where its blocks end in the prefix cache.
    pub published: NodeId,
    pub n_published: usize,
    pub salt: u64,
    /// Whether a row sees only itself and rows before it. Otherwise all rows are in one step, and none is shared.
    pub causal: bool,
    /// Where the second of two texts begins.
    pub second_from: Option<usize>,
    /// What its rows give.
    pub want: Want,
    /// How many rows before the prompt's last are wanted too, from the first on, and how many have come.
    pub n_early_rows: usize,
    pub early_rows_done: usize,
    /// On the first choice until the prompt's end: how many choices there will be.
    pub unborn: u32,
    pub preemptions: u32,
    /// The step that it was last in.
    pub last_step: u64,
    /// Prompt tokens from the prefix cache at the first start; `None` before it.
    pub cached_tokens: Option<usize>,
    /// What is added to the model's weights.
    pub adapters: Vec<AdapterUse>,
}

impl Sequence {
    /// The first choice of a request.
    pub fn new(id: RequestId, request: NewRequest) -> Self {
        let NewRequest {
            prompt,
            n_choices,
            max_tokens,
            shift,
            salt,
            prompt_logits,
            pooling,
            priority,
            adapters,
            ..
        } = request;
        let all = prompt.len() - 1;
        let n_early_rows = match pooling.map(|pooled| pooled.pooling) {
            None if prompt_logits => all,
            Some(Pooling::Mean) => all,
            Some(Pooling::Cls | Pooling::Rank) => all.min(1),
            None | Some(Pooling::Last) => 0,
        };
        let want = match pooling {
            None => Want::Logits,
            Some(Pooled { pooling: Pooling::Rank, .. }) => Want::Labels,
            Some(_) => Want::Hidden,
        };
        Self {
            request: id,
            priority,
            rank: request.rank,
            tenant: request.tenant,
            weight: request.weight.max(1),
            state: State::Waiting,
            paused: false,
            n_prompt: prompt.len(),
            n_to_read: prompt.len(),
            shift,
            n_discarded: 0,
            tokens: prompt,
            max_tokens,
            draft: Vec::new(),
            n_computed: 0,
            blocks: Vec::new(),
            n_reserved: 0,
            swapped: None,
            published: NodeId::ROOT,
            n_published: 0,
            salt,
            causal: pooling.is_none_or(|pooled| pooled.causal),
            second_from: pooling.and_then(|pooled| pooled.second_from),
            want,
            n_early_rows,
            early_rows_done: 0,
            unborn: n_choices,
            preemptions: 0,
            last_step: 0,
            cached_tokens: None,
            adapters,
        }
    }

    /// Whom it goes before.
    pub fn level(&self) -> Level {
        (self.priority, self.rank)
    }

    pub fn is_background(&self) -> bool {
        self.priority == Priority::Background
    }

    /// Tokens that it has added.
    pub fn n_new(&self) -> usize {
        self.tokens.len() + self.n_discarded - self.n_prompt
    }

    /// Tokens that are known and not computed.
    pub fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    /// How many of its next rows a step with room for `budget` can take: all or none where it is not causal.
    pub fn rows_within(&self, budget: usize) -> usize {
        match self.n_pending() {
            n if n <= budget => n,
            _ if self.causal => budget,
            _ => 0,
        }
    }

    /// What enters the model at a position.
    pub fn input(&self, position: usize) -> Input {
        let token = self.tokens[position];
        if self.second_from.is_some_and(|from| position >= from) {
            Input::Second(token)
        } else {
            Input::Token(token)
        }
    }

    /// Whether all that it reads is computed, or all but a last token.
    pub fn is_decode(&self) -> bool {
        self.n_pending() == 1 || self.n_computed >= self.n_to_read
    }

    pub fn wants_early_rows(&self) -> bool {
        self.early_rows_done < self.n_early_rows
    }

    /// Another choice with the same prompt and, for the caller to count, the same blocks.
    pub fn fork(&self) -> Self {
        Self {
            tokens: self.tokens[..self.n_prompt].to_vec(),
            blocks: self.blocks.clone(),
            n_reserved: 0,
            swapped: None,
            unborn: 0,
            preemptions: 0,
            ..self.clone()
        }
    }

    /// Back to waiting: everything is to be computed again. The blocks are the caller's to release.
    pub fn forget_kv(&mut self) {
        self.state = State::Waiting;
        self.blocks.clear();
        self.n_reserved = 0;
        self.n_computed = 0;
        self.draft.clear();
        self.published = NodeId::ROOT;
        self.n_published = 0;
    }
}

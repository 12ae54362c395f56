//! A request of the simulation: what it is to get, and what it has got.

use std::time::Duration;

use ingle_chat::Pooling;
use ingle_engine::sampling::{DryBreakers, Sampler};
use ingle_engine::scheduler::{Priority, RequestId, Shift};
use ingle_step::{SamplingParams, TokenId};
use ingle_testkit::rng::Rng;
use ingle_testkit::scripted::hashed_logits;

pub const N_VOCAB: usize = 16;
const END: TokenId = TokenId(0);

/// What one request is to get, and what it has got.
pub struct Client {
    pub prompt: Vec<TokenId>,
    pub max_tokens: usize,
    /// It goes on where the context is full, which has so many tokens.
    pub shift: Option<Shift>,
    n_ctx: usize,
    pub prompt_logits: bool,
    pub pooling: Option<Pooling>,
    pub priority: Priority,
    pub rank: i16,
    pub tenant: usize,
    /// On the simulation's clock.
    pub queue_deadline: Option<Duration>,
    pub deadline: Option<Duration>,
    pub samplers: Vec<Sampler>,
    /// Of what is certain to follow; `None` if nothing is.
    jumps: Option<u64>,
    /// One guess in so many is wrong; 0 is none at all.
    pub guesses: usize,
    /// Per choice, as if it ran alone.
    pub expected: Vec<Vec<TokenId>>,
    pub got: Vec<Vec<TokenId>>,
    pub done: Vec<bool>,
    /// For how many steps it could have run and did not.
    pub idle: usize,
    /// It was in a step.
    pub has_begun: bool,
    pub n_prompt_rows: usize,
    pub paused: bool,
}

impl Client {
    pub fn new(rng: &mut Rng, seq_max: usize) -> Self {
        // Few different beginnings, so that they are often shared.
        let mut base = Rng::new(rng.below(3) as u64);
        let n_shared = rng.below(seq_max);
        let n_prompt = (1 + n_shared + rng.below(4)).min(seq_max);
        let prompt: Vec<TokenId> = (0..n_prompt)
            .map(|i| {
                let draw = if i < n_shared { base.below(N_VOCAB) } else { rng.below(N_VOCAB) };
                TokenId(draw as u32)
            })
            .collect();
        let pooling = rng.one_in(4).then(|| Pooling::ALL[rng.below(3)]);
        let may_shift = pooling.is_none() && n_prompt < seq_max;
        let shift = (may_shift && rng.one_in(4)).then(|| {
            let n_keep = rng.below(seq_max - 1);
            Shift { n_keep, n_discard: 1 + rng.below(seq_max - 1 - n_keep) }
        });
        let max_tokens = match (pooling, shift) {
            (Some(_), _) => 0,
            (_, Some(_)) => rng.below(3 * seq_max),
            _ => rng.below(seq_max - n_prompt + 1),
        };
        let params = SamplingParams {
            temperature: if rng.one_in(3) { 0.0 } else { 1.0 },
            seed: rng.next_u64(),
            ..SamplingParams::default()
        };
        let n_choices = if pooling.is_none() && rng.one_in(3) { 1 + rng.below(5) } else { 1 };
        let samplers: Vec<Sampler> = (0..n_choices as u32)
            .map(|choice| {
                let mut sampler = Sampler::new(params.clone(), DryBreakers::default(), choice);
                prompt.iter().for_each(|&t| sampler.accept(t));
                sampler
            })
            .collect();
        let jumps = rng.one_in(3).then(|| rng.next_u64());
        Self {
            prompt,
            max_tokens,
            shift,
            n_ctx: seq_max,
            prompt_logits: pooling.is_none() && rng.one_in(6),
            pooling,
            priority: if rng.one_in(3) { Priority::Background } else { Priority::Normal },
            samplers,
            jumps,
            guesses: rng.below(8),
            expected: Vec::new(),
            rank: 0,
            tenant: 0,
            queue_deadline: None,
            deadline: None,
            got: vec![Vec::new(); n_choices],
            done: vec![false; n_choices],
            idle: 0,
            has_begun: false,
            n_prompt_rows: 0,
            paused: false,
        }
    }

    /// It is admitted: what it would get alone.
    pub fn expect(&mut self) {
        self.expected = self.samplers.iter().map(|sampler| self.alone(sampler.clone())).collect();
    }

    /// One token a step, whatever is certain. Where tokens make way, it goes on from what is left as from any text.
    fn alone(&self, mut sampler: Sampler) -> Vec<TokenId> {
        let (mut tokens, mut text) = (self.prompt.clone(), self.prompt.clone());
        let mut logits = vec![0.0; N_VOCAB];
        let mut ahead = Vec::new().into_iter();
        while tokens.len() < self.prompt.len() + self.max_tokens {
            hashed_logits(&text, &mut logits);
            let forced = ahead.next();
            let token = forced.unwrap_or_else(|| sampler.sample(&mut logits, tokens.len() as u64));
            sampler.accept(token);
            tokens.push(token);
            text.push(token);
            if token == END {
                break;
            }
            if let Some(Shift { n_keep, n_discard }) = self.shift.filter(|_| text.len() == self.n_ctx) {
                text = [&text[..n_keep], &text[n_keep + n_discard..]].concat();
            }
            if forced.is_none()
                && let Some(salt) = self.jumps
            {
                ahead = certain(salt, &tokens).into_iter();
            }
        }
        tokens.split_off(self.prompt.len())
    }

    /// Whom it goes before.
    pub fn level(&self) -> (Priority, i16) {
        (self.priority, self.rank)
    }

    /// It has ended, and got what it gets alone.
    pub fn check(&self, id: RequestId) {
        assert_eq!(self.got, self.expected, "request {} differs from itself alone", id.0);
        assert_eq!(self.n_prompt_rows, self.n_early_rows(), "early rows of request {}", id.0);
    }

    /// How many rows before the prompt's last it gets.
    fn n_early_rows(&self) -> usize {
        let all = self.prompt.len() - 1;
        match self.pooling {
            Some(Pooling::Mean) => all,
            Some(Pooling::Cls | Pooling::Rank) => all.min(1),
            None if self.prompt_logits => all,
            None | Some(Pooling::Last) => 0,
        }
    }

    /// Takes the logits at the end of a choice's sequence.
    pub fn sample(&mut self, choice: usize, logits: &[f32]) -> (Vec<TokenId>, bool) {
        assert!(!self.done[choice], "a finished choice has a result");
        if self.max_tokens == 0 {
            self.done[choice] = true;
            return (Vec::new(), true);
        }
        let mut history = self.prompt.clone();
        history.extend(&self.got[choice]);
        let n_before = history.len();
        let token = self.samplers[choice].sample(&mut logits.to_vec(), n_before as u64);
        history.push(token);
        history.extend(self.jumps.map(|salt| certain(salt, &history)).unwrap_or_default());
        let new = cut(history.split_off(n_before), self.max_tokens - self.got[choice].len());
        new.iter().for_each(|&token| self.samplers[choice].accept(token));
        self.got[choice].extend(&new);
        let done = new.last() == Some(&END) || self.got[choice].len() == self.max_tokens;
        self.done[choice] = done;
        (new, done)
    }
}

/// What follows these tokens whatever anyone would sample: a function of them alone.
fn certain(salt: u64, tokens: &[TokenId]) -> Vec<TokenId> {
    let seed = tokens.iter().fold(salt, |hash, token| {
        (hash ^ u64::from(token.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    });
    let mut rng = Rng::new(seed);
    let n = if rng.one_in(3) { 1 + rng.below(12) } else { 0 };
    (0..n).map(|_| TokenId(rng.below(N_VOCAB) as u32)).collect()
}

/// Up to an end, and no more than so many.
fn cut(mut tokens: Vec<TokenId>, most: usize) -> Vec<TokenId> {
    let n = tokens.iter().position(|&token| token == END).map_or(tokens.len(), |at| at + 1);
    tokens.truncate(n.min(most));
    tokens
}

//! Logits to a token. Pure: the same parameters, history, seed, choice and position pick the same token, on every
//! machine (`math` has its own `exp` and `ln`), in a replay or after a rejected speculation alike (`random` keeps no
//! state).
//!
//! A [`Sampler`] runs llama.cpp's chain with llama.cpp's rules, in the order that the request wants. Until a step cuts
//! candidates, the row of logits itself is the race, so that the usual chain (top-k first) reads 128k logits once and
//! then works on forty. Three things differ on purpose: what top-n-sigma removes is gone (llama.cpp's later steps still
//! count it), mirostat leaves penalties and DRY on, and greedy picks the lowest id among equals.

mod candidates;
mod dry;
mod logprobs;
mod math;
mod random;

use std::collections::{HashMap, VecDeque};

use ingle_step::{Mirostat, SamplerKind, SamplingParams, TokenId, XTC_THRESHOLD_MAX};

use candidates::Candidates;
pub(crate) use candidates::argmax;
use math::{ln, pow};
use random::{Purpose, uniform};

pub use dry::DryBreakers;
pub use logprobs::{log_softmax_of, top_logprobs};

/// Over how many tokens mirostat 1 fits its estimate.
const MIROSTAT_FIT: usize = 100;

/// Picks the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    breakers: DryBreakers,
    choice: u32,
    /// All tokens so far, where DRY reads them.
    history: Vec<TokenId>,
    /// The tokens that penalties see, oldest first, and how often each is among them.
    recent: VecDeque<TokenId>,
    counts: HashMap<u32, u32>,
    /// Mirostat's bar, and where it goes if the sampled token is accepted.
    mu: f64,
    next_mu: Option<(TokenId, f64)>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for one choice of a request, before any token.
    pub fn new(params: SamplingParams, breakers: DryBreakers, choice: u32) -> Self {
        let mu = params.mirostat.map_or(0.0, |m| 2.0 * f64::from(m.tau));
        Self {
            params,
            breakers,
            choice,
            history: Vec::new(),
            recent: VecDeque::new(),
            counts: HashMap::new(),
            mu,
            next_mu: None,
            candidates: Candidates::default(),
        }
    }

    fn has(&self, kind: SamplerKind) -> bool {
        self.params.order.contains(&kind)
    }

    fn penalizes(&self) -> bool {
        let p = &self.params;
        let none = p.repeat_penalty == 1.0 && p.frequency_penalty == 0.0 && p.presence_penalty == 0.0;
        p.repeat_last_n != 0 && !none && self.has(SamplerKind::Penalties)
    }

    fn dries(&self) -> bool {
        let p = &self.params;
        p.dry_multiplier != 0.0
            && p.dry_base >= 1.0
            && p.dry_penalty_last_n != 0
            && self.has(SamplerKind::Dry)
    }

    /// Notes a token of the prompt or one that was sampled.
    pub fn accept(&mut self, token: TokenId) {
        if let Some((sampled, mu)) = self.next_mu.take()
            && sampled == token
        {
            self.mu = mu;
        }
        if self.dries() {
            self.history.push(token);
        }
        if self.penalizes() {
            self.recent.push_back(token);
            *self.counts.entry(token.0).or_insert(0) += 1;
            if let Ok(limit) = usize::try_from(self.params.repeat_last_n)
                && self.recent.len() > limit
                && let Some(old) = self.recent.pop_front()
            {
                match self.counts.get_mut(&old.0) {
                    Some(n) if *n > 1 => *n -= 1,
                    _ => drop(self.counts.remove(&old.0)),
                }
            }
        }
    }

    /// The token at `position`; `logits` is `(n_vocab,)` and is overwritten. Logits that are no number, like those at
    /// minus infinity, are never picked while there is any other.
    pub fn sample(&mut self, logits: &mut [f32], position: u64) -> TokenId {
        self.next_mu = None;
        if let Some(token) = self.sample_greedily(logits) {
            return token;
        }
        self.race(logits, position);
        self.draw(logits, position)
    }

    /// What [`sample`](Self::sample) draws from at `position`: tokens with their probabilities, in no certain order.
    pub fn distribution(&mut self, logits: &mut [f32], position: u64) -> Vec<(TokenId, f32)> {
        self.race(logits, position);
        self.candidates.softmax(logits).iter().map(|c| (TokenId(c.id), c.p as f32)).collect()
    }

    /// Without temperature nothing but the penalties can change which token is best; unless a step removes the best.
    fn sample_greedily(&mut self, logits: &mut [f32]) -> Option<TokenId> {
        let p = &self.params;
        let removes = (p.xtc_probability > 0.0 && self.has(SamplerKind::Xtc))
            || (p.typical_p < 1.0 && self.has(SamplerKind::TypicalP));
        if p.temperature > 0.0 || (removes && p.mirostat.is_none()) {
            return None;
        }
        self.candidates.begin();
        self.bias(logits);
        self.penalize(logits);
        self.dry(logits);
        Some(TokenId(argmax(logits)))
    }

    /// Runs the chain: what is left in the end is drawn from.
    fn race(&mut self, logits: &mut [f32], position: u64) {
        self.candidates.begin();
        self.bias(logits);
        if let Some(mirostat) = self.params.mirostat {
            self.penalize(logits);
            self.dry(logits);
            self.temperature(logits, self.params.temperature);
            self.mirostat(mirostat, logits);
            return;
        }
        for i in 0..self.params.order.len() {
            match self.params.order[i] {
                SamplerKind::Penalties => self.penalize(logits),
                SamplerKind::Dry => self.dry(logits),
                SamplerKind::TopNSigma => self.top_n_sigma(logits),
                SamplerKind::TopK => {
                    if let Some(k) =
                        usize::try_from(self.params.top_k).ok().filter(|k| *k > 0 && *k < logits.len())
                    {
                        self.candidates.keep_top(logits, k);
                    }
                }
                SamplerKind::TypicalP => self.typical(logits),
                SamplerKind::TopP => self.top_p(logits),
                SamplerKind::MinP => self.min_p(logits),
                SamplerKind::Xtc => self.xtc(logits, position),
                SamplerKind::Temperature => self.dynamic_temperature(logits),
            }
        }
        if self.params.temperature <= 0.0 {
            self.candidates.keep_top(logits, 1);
        }
    }

    fn bias(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.params.logit_bias {
            if let Some(logit) = logits.get_mut(token.0 as usize) {
                *logit += bias;
            }
        }
    }

    fn penalize(&mut self, logits: &mut [f32]) {
        if !self.penalizes() {
            return;
        }
        let p = &self.params;
        self.candidates.for_some(logits, &self.counts, |count, logit| {
            // Away from zero for what is unlikely, towards it for what is likely: less likely both ways.
            if *logit <= 0.0 {
                *logit *= p.repeat_penalty;
            } else {
                *logit /= p.repeat_penalty;
            }
            *logit -= count as f32 * p.frequency_penalty + p.presence_penalty;
        });
    }

    fn dry(&mut self, logits: &mut [f32]) {
        if self.dries() {
            let penalties = dry::penalties(&self.params, &self.breakers, &self.history);
            self.candidates.for_some(logits, &penalties, |penalty, logit| *logit -= penalty);
        }
    }

    fn top_n_sigma(&mut self, logits: &mut [f32]) {
        if self.params.top_n_sigma <= 0.0 || self.candidates.len(logits) <= 1 {
            return;
        }
        let (mut n, mut sum) = (0u32, 0.0);
        self.candidates.for_each(logits, |_, l| {
            if *l > f32::NEG_INFINITY {
                n += 1;
                sum += f64::from(*l);
            }
        });
        let mean = sum / f64::from(n.max(1));
        let mut squares = 0.0;
        self.candidates.for_each(logits, |_, l| {
            if *l > f32::NEG_INFINITY {
                squares += (f64::from(*l) - mean) * (f64::from(*l) - mean);
            }
        });
        let sigma = (squares / f64::from(n.max(1))).sqrt();
        let max = self.candidates.max(logits);
        let least = f64::from(max) - f64::from(self.params.top_n_sigma) * sigma;
        self.candidates.cut_below(logits, least as f32);
    }

    fn typical(&mut self, logits: &[f32]) {
        if self.params.typical_p >= 1.0 {
            return;
        }
        self.candidates.softmax(logits);
        let entropy = self.candidates.entropy();
        self.candidates.reorder(|c| (-ln(c.p) - entropy).abs());
        let mut mass = 0.0;
        let list = self.candidates.list(logits);
        let keep = list.iter().enumerate().find_map(|(i, c)| {
            mass += c.p;
            (mass > f64::from(self.params.typical_p) && i + 1 >= self.params.min_keep).then_some(i + 1)
        });
        if let Some(keep) = keep {
            self.candidates.truncate(keep);
        }
    }

    fn top_p(&mut self, logits: &[f32]) {
        if self.params.top_p < 1.0 {
            self.candidates.softmax(logits);
            self.candidates.keep_mass(f64::from(self.params.top_p), self.params.min_keep);
        }
    }

    fn min_p(&mut self, logits: &[f32]) {
        if self.params.min_p <= 0.0 {
            return;
        }
        let least = f64::from(self.candidates.max(logits)) + ln(f64::from(self.params.min_p));
        if self.params.min_keep > 1 {
            let n = self.candidates.list(logits).iter().filter(|c| f64::from(c.logit) >= least).count();
            if n < self.params.min_keep {
                self.candidates.keep_top(logits, self.params.min_keep);
                return;
            }
        }
        self.candidates.cut_below(logits, least as f32);
    }

    fn xtc(&mut self, logits: &[f32], position: u64) {
        let p = &self.params;
        let off = p.xtc_probability <= 0.0
            || p.xtc_threshold > XTC_THRESHOLD_MAX
            || self.candidates.len(logits) < 2;
        if off || uniform(p.seed, self.choice, position, Purpose::Xtc) > f64::from(p.xtc_probability) {
            return;
        }
        self.candidates.softmax(logits);
        self.candidates.sort();
        // All above the threshold go but the last of them.
        let list = self.candidates.list(logits);
        let above = list.iter().take_while(|c| c.p >= f64::from(p.xtc_threshold)).count();
        let drop = above.saturating_sub(1);
        if drop > 0 && list.len() - drop >= p.min_keep {
            self.candidates.drop_first(drop);
        }
    }

    fn dynamic_temperature(&mut self, logits: &mut [f32]) {
        let (t, range) = (self.params.temperature, self.params.dynatemp_range);
        if t <= 0.0 || range <= 0.0 {
            self.temperature(logits, t);
            return;
        }
        let n = self.candidates.list(logits).len();
        if n <= 1 {
            return;
        }
        self.candidates.softmax(logits);
        let certainty = self.candidates.entropy() / ln(n as f64);
        let (low, high) = (f64::from((t - range).max(0.0)), f64::from(t + range));
        let dynamic = low + (high - low) * pow(certainty, f64::from(self.params.dynatemp_exponent));
        self.temperature(logits, dynamic as f32);
    }

    fn temperature(&mut self, logits: &mut [f32], t: f32) {
        if t <= 0.0 {
            self.candidates.keep_top(logits, 1);
        } else if t != 1.0 {
            self.candidates.for_each(logits, |_, l| *l /= t);
        }
    }

    fn mirostat(&mut self, mirostat: Mirostat, logits: &[f32]) {
        let n_vocab = logits.len() as f64;
        self.candidates.softmax(logits);
        if mirostat.version == 1 {
            // The exponent of Zipf's law over the best tokens, by least squares.
            let mut best = self.candidates.clone();
            best.keep_top(logits, MIROSTAT_FIT);
            let best = best.list(logits);
            let (mut both, mut squares) = (0.0, 0.0);
            for (i, pair) in best.windows(2).enumerate().take(MIROSTAT_FIT - 1) {
                let t = ln((i as f64 + 2.0) / (i as f64 + 1.0));
                both += t * ln(pair[0].p / pair[1].p);
                squares += t * t;
            }
            let s = both / squares;
            let epsilon = s - 1.0;
            let surprise = pow(2.0, self.mu);
            let k = pow(epsilon * surprise / (1.0 - pow(n_vocab, -epsilon)), 1.0 / s);
            let k = if k.is_finite() { (k as usize).max(1) } else { 1 };
            self.candidates.keep_top(logits, k);
        } else {
            let least = pow(2.0, -self.mu);
            let list = self.candidates.list(logits);
            if list.iter().any(|c| c.p >= least) {
                list.retain(|c| c.p >= least);
            } else {
                self.candidates.keep_top(logits, 1);
            }
        }
    }

    /// Draws from what is left.
    fn draw(&mut self, logits: &[f32], position: u64) -> TokenId {
        let candidates = self.candidates.softmax(logits);
        let at = uniform(self.params.seed, self.choice, position, Purpose::Token);
        let mut mass = 0.0;
        // Rounding may leave the sum a little below one: then the last possible token is meant.
        let found = candidates.iter().find(|c| {
            mass += c.p;
            mass > at
        });
        let Some(&picked) = found.or_else(|| candidates.iter().rev().find(|c| c.p > 0.0)) else {
            return TokenId(argmax(logits));
        };
        let token = TokenId(picked.id);
        if let Some(mirostat) = self.params.mirostat {
            let surprise = -ln(picked.p) / std::f64::consts::LN_2;
            let mu = self.mu - f64::from(mirostat.eta) * (surprise - f64::from(mirostat.tau));
            self.next_mu = Some((token, mu));
        }
        token
    }
}

#[cfg(test)]
mod tests;

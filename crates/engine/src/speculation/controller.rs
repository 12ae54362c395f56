//! How many draft tokens each sequence gets: as many as make the most tokens of the time. Pure: what steps took and
//! what was accepted are arguments.
//!
//! A further draft row in a step of `n` rows is worth the chance that it is reached and accepted, and costs
//! `cost(n + 1) - cost(n)`. Both are measured as it goes: costs by rows ([`Costs`]), chances by where a draft came from,
//! for each sequence with what all sequences saw as its beginning ([`Record`]). What was guessed and not tried is held
//! against what was said all the same, which costs nothing. [`Controller::plan`] takes the most likely rows first, whosever
//! they are, and stops where tokens per time are most; in big batches, where a row costs as much as a token, that is at
//! none. Where others decode beside those with drafts, a step gets at most [`STRETCH_MAX`] times longer by them: nobody
//! pays much for another's speed.
//!
//! **What it may lose.** Each sequence has an account, in tokens: what accepted drafts have won it, less what all of them
//! took in time. It begins with a little, earns [`LOSS_SHARE`] with each token, and who has nothing left has no drafts.
//! So no answer is much slower than without. What looks like a loss is tried again, a little and ever more seldom, on the
//! same account: texts change.

use super::costs::Costs;
use crate::scheduler::DRAFT_ROWS_MAX;

/// What drafts may lose, as a share of the tokens of an answer.
pub const LOSS_SHARE: f64 = 0.008;
/// And in tokens, so that there can be a beginning: on an account, and beyond it by the last draft.
const LOSS_TOKENS: f64 = 0.5;
const OVERDRAFT_TOKENS: f64 = 1.0;
/// What wins are kept for later losses, in tokens.
const WIN_TOKENS: f64 = 6.0;
/// What a guess that came true without being tried is worth to an empty account, in tokens.
const HIT_TOKENS: f64 = 0.05;
/// By how much drafts must promise to be faster to begin, and to go on.
const GAIN_TO_BEGIN: f64 = 1.06;
const GAIN_TO_GO_ON: f64 = 1.01;
/// How much longer a step may take where it has sequences without drafts: they have nothing of it.
const STRETCH_MAX: f64 = 1.25;
/// How many times the usual a step counts for at most.
const NOISE_MAX: f64 = 1.5;
/// Rows of a trial.
const TRIAL_ROWS: usize = 3;
/// Steps between trials that fail: doubled each time, up to the last.
const TRIAL_GAPS: (u32, u32) = (4, 256);
/// After so many steps with drafts there is one without, to see what that takes now.
const BASELINE_GAP: u32 = 64;
/// How fast the experience of a sequence, and that of all, fades with each new one.
const FADE: f64 = 0.96;
const FADE_ALL: f64 = 0.995;
/// How many tries the experience of all counts for in that of a sequence, and what it begins with in its own.
const PRIOR_TRIES: f64 = 3.0;
const PRIOR_TRIES_ALL: f64 = 8.0;

/// Where a draft comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The text before, where a match had so many tokens.
    Lookup {
        /// How many.
        n_matched: usize,
    },
    /// The answer that the client predicted.
    Prediction,
    /// A draft model.
    Model,
}

const N_ORIGINS: usize = 6;

impl Origin {
    fn index(self) -> usize {
        match self {
            Self::Lookup { n_matched: ..5 } => 0,
            Self::Lookup { n_matched: 5..8 } => 1,
            Self::Lookup { n_matched: 8..16 } => 2,
            Self::Lookup { .. } => 3,
            Self::Prediction => 4,
            Self::Model => 5,
        }
    }

    /// The chance to be accepted before anything is known.
    fn prior(self) -> f64 {
        [0.3, 0.5, 0.65, 0.8, 0.7, 0.6][self.index()]
    }
}

/// How often draft tokens were accepted that were tried: those behind a rejected one were not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tries {
    accepted: f64,
    all: f64,
}

impl Tries {
    fn observe(&mut self, n_accepted: usize, n_drafted: usize, fade: f64) {
        let n_tried = n_accepted + usize::from(n_accepted < n_drafted);
        for i in 0..n_tried {
            self.accepted = self.accepted * fade + if i < n_accepted { 1.0 } else { 0.0 };
            self.all = self.all * fade + 1.0;
        }
    }

    fn chance(self, prior: f64, weight: f64) -> f64 {
        (self.accepted + prior * weight) / (self.all + weight)
    }
}

/// What one sequence saw of each origin, and its account.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    tries: [Tries; N_ORIGINS],
    /// In tokens.
    balance: f64,
}

impl Default for Record {
    fn default() -> Self {
        Self { tries: Default::default(), balance: LOSS_TOKENS }
    }
}

impl Record {
    /// A step is to come: the account earns its share.
    pub fn earn(&mut self) {
        if self.balance < LOSS_TOKENS {
            self.balance = (self.balance + LOSS_SHARE).min(LOSS_TOKENS);
        }
    }

    /// Whether the account pays for a draft.
    pub fn pays(&self) -> bool {
        self.balance > 0.0
    }
}

/// A draft that could be in a step.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What its sequence has seen.
    pub record: &'a Record,
    /// Where it comes from.
    pub origin: Origin,
    /// How many tokens it has.
    pub len: usize,
}

/// A step that ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ran {
    /// Rows of sequences that decode, drafts not counted.
    pub n_decode: usize,
    /// Rows of prompts.
    pub n_prompt: usize,
    /// Draft rows.
    pub n_draft: usize,
    /// Those of them that were accepted: tokens that would have needed further steps.
    pub n_accepted: usize,
    /// What the step took.
    pub step_seconds: f64,
    /// What the draft model took to guess. What it reads is not counted: that is done once.
    pub draft_seconds: f64,
}

/// See the module's description.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    costs: Costs,
    /// Of one step of the draft model, by its rows.
    model_costs: Costs,
    all: [Tries; N_ORIGINS],
    /// Seconds of the draft model for guesses that were not tried in the end.
    wasted: f64,
    is_on: bool,
    /// Steps since the last trial, and how many there are to be before the next.
    since_trial: u32,
    trial_gap: u32,
    is_trial: bool,
    /// Steps with drafts since the last one without.
    since_baseline: u32,
}

impl Controller {
    /// How many tokens of each candidate go into a step in which `n_decode` rows decode, beside `n_prompt` rows of
    /// prompts.
    pub fn plan(&mut self, n_decode: usize, n_prompt: usize, candidates: &[Candidate<'_>]) -> Vec<usize> {
        let mut lens = vec![0; candidates.len()];
        self.since_trial = self.since_trial.saturating_add(1);
        self.is_trial = false;
        let Some(base) = self.costs.of(n_decode).filter(|_| n_decode > 0) else { return lens };
        let rows = self.rows_by_chance(n_decode, base, candidates);
        let Some(&(_, best)) = rows.first() else { return lens };
        if self.since_baseline >= BASELINE_GAP {
            return lens;
        }
        let (n_best, gain) = self.best(n_decode, n_prompt, base, candidates.len(), &rows);
        self.is_on = gain >= if self.is_on { GAIN_TO_GO_ON } else { GAIN_TO_BEGIN };
        if self.is_on {
            rows[..n_best].iter().for_each(|&(_, candidate)| lens[candidate] += 1);
        } else if self.since_trial >= self.trial_gap {
            let len = candidates[best].len.min(TRIAL_ROWS);
            if candidates[best].record.balance >= self.tokens_of(n_decode, len, base) {
                self.is_trial = true;
                lens[best] = len;
            }
        }
        lens
    }

    /// How many tokens so many draft rows cost at most: those that would have been said in the time.
    fn tokens_of(&self, n_decode: usize, n_rows: usize, base: f64) -> f64 {
        let more = self.costs.of(n_decode + n_rows).unwrap_or(base) - base;
        more / base * n_decode as f64
    }

    /// How many tokens a draft model is to guess for each of these sequences, at most `n_max`: as many as make the most
    /// of the time, its own included.
    pub fn model_len(&self, n_decode: usize, n_prompt: usize, sequences: &[&Record], n_max: usize) -> usize {
        let Some(base) = self.costs.of(n_decode) else { return 0 };
        if sequences.is_empty() || self.since_baseline >= BASELINE_GAP {
            return 0;
        }
        let n_seqs = sequences.len();
        let Some(guess) = self.model_costs.of(n_seqs) else { return TRIAL_ROWS.min(n_max) };
        let chances: Vec<f64> = sequences.iter().map(|c| self.chance(c, Origin::Model)).collect();
        let before = self.costs.of(n_decode + n_prompt).unwrap_or(base);
        let (mut best, mut best_gain, mut won) = (0, 1.0, 0.0);
        for len in 1..=n_max {
            won += chances.iter().map(|chance| chance.powi(len as i32)).sum::<f64>();
            let after = self.costs.of(n_decode + n_prompt + n_seqs * len).unwrap_or(before);
            let gain = (1.0 + won / n_decode as f64) * base / (base + after - before + guess * len as f64);
            if gain > best_gain {
                (best, best_gain) = (len, gain);
            }
        }
        match best_gain >= if self.is_on { GAIN_TO_GO_ON } else { GAIN_TO_BEGIN } {
            true => best,
            false if self.since_trial + 1 >= self.trial_gap => TRIAL_ROWS.min(n_max),
            false => 0,
        }
    }

    /// A step of the draft model with so many rows took so long.
    pub fn observe_model(&mut self, n_rows: usize, seconds: f64) {
        self.model_costs.observe(n_rows, seconds);
    }

    /// What became of a sequence's guesses that were not tried: so many of `n_guessed` would have been accepted.
    pub fn observe_untried(&mut self, record: &mut Record, origin: Origin, n_equal: usize, n_guessed: usize) {
        self.count(record, origin, n_equal, n_guessed);
        if record.balance <= 0.0 {
            record.balance += HIT_TOKENS * n_equal as f64;
        }
    }

    /// What became of a sequence's draft in a step that ran, which has been [observed](Self::observe).
    pub fn observe_draft(
        &mut self,
        record: &mut Record,
        origin: Origin,
        n_accepted: usize,
        n_drafted: usize,
        price: f64,
    ) {
        self.count(record, origin, n_accepted, n_drafted);
        record.balance = (record.balance + n_accepted as f64 - price * n_drafted as f64).min(WIN_TOKENS);
    }

    fn count(&mut self, record: &mut Record, origin: Origin, n_accepted: usize, n_drafted: usize) {
        record.tries[origin.index()].observe(n_accepted, n_drafted, FADE);
        self.all[origin.index()].observe(n_accepted, n_drafted, FADE_ALL);
    }

    /// A step ran. Gives the price of each of its draft rows, in tokens.
    pub fn observe(&mut self, ran: &Ran) -> f64 {
        let n_rows = ran.n_decode + ran.n_draft;
        if ran.n_decode == 0 {
            return 0.0;
        }
        if ran.n_prompt == 0 {
            self.costs.observe(n_rows, ran.step_seconds);
        }
        let Some(base) = self.costs.of(ran.n_decode) else { return 0.0 };
        if ran.n_draft == 0 {
            self.since_baseline = 0;
            self.wasted += ran.draft_seconds;
            return 0.0;
        }
        self.since_baseline += 1;
        // What a step takes besides because something else has the machine is not the drafts' doing.
        let usual = self.costs.of(n_rows).unwrap_or(base);
        let step = if ran.n_prompt == 0 { ran.step_seconds.min(NOISE_MAX * usual) } else { usual };
        let spent = step - base + ran.draft_seconds + std::mem::take(&mut self.wasted);
        if std::mem::take(&mut self.is_trial) {
            self.since_trial = 0;
            let (least, most) = TRIAL_GAPS;
            let gain = (1.0 + ran.n_accepted as f64 / ran.n_decode as f64) * base / usual;
            self.trial_gap =
                if gain >= GAIN_TO_BEGIN { least } else { (self.trial_gap * 2).clamp(least, most) };
        }
        spent / base * ran.n_decode as f64 / ran.n_draft as f64
    }

    fn chance(&self, record: &Record, origin: Origin) -> f64 {
        let i = origin.index();
        let of_all = self.all[i].chance(origin.prior(), PRIOR_TRIES_ALL);
        record.tries[i].chance(of_all, PRIOR_TRIES)
    }

    /// All rows that accounts pay for, the likeliest first: the chance to be accepted, and whose they are.
    fn rows_by_chance(&self, n_decode: usize, base: f64, candidates: &[Candidate<'_>]) -> Vec<(f64, usize)> {
        let mut rows = Vec::new();
        for (i, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.record.pays()) {
            let chance = self.chance(candidate.record, candidate.origin);
            let most = candidate.record.balance + OVERDRAFT_TOKENS;
            let paid = (1..=candidate.len).take_while(|&n| self.tokens_of(n_decode, n, base) <= most);
            rows.extend(paid.map(|n| (chance.powi(n as i32), i)));
        }
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        rows.truncate(DRAFT_ROWS_MAX);
        rows
    }

    /// How many of the rows make the most tokens of the time, and by which factor more than none. What prompts take in
    /// the same step is not the drafts' matter.
    fn best(
        &self,
        n_decode: usize,
        n_prompt: usize,
        base: f64,
        n_candidates: usize,
        rows: &[(f64, usize)],
    ) -> (usize, f64) {
        let before = self.costs.of(n_decode + n_prompt).unwrap_or(base);
        let longest = if n_candidates < n_decode { STRETCH_MAX * before } else { f64::INFINITY };
        // What many rows take is found out by and by: a guess at that could be far off.
        let n_known = (2 * self.costs.most_measured() + 1).saturating_sub(n_decode);
        let (mut best, mut best_gain, mut won) = (0, 1.0, 0.0);
        for (i, (chance, _)) in rows.iter().take(n_known).enumerate() {
            won += chance;
            let after = self.costs.of(n_decode + n_prompt + i + 1).unwrap_or(before);
            if after > longest {
                break;
            }
            let gain = (1.0 + won / n_decode as f64) * base / (base + after - before);
            if gain > best_gain {
                (best, best_gain) = (i + 1, gain);
            }
        }
        (best, best_gain)
    }
}

//! Speculation: several tokens of one sequence in one step, where it can be guessed what they are.
//!
//! Guesses come from the text so far ([`lookup`]), from the answer that a client predicted, or from a [`DraftModel`].
//! They are rows of an ordinary step behind the sequence's last token. The request's own sampler then picks token after
//! token from these rows as it always does, and goes on to the next row while what it picked is what was guessed there.
//! So the answer is that of plain decoding, bit for bit, by construction: a guess decides nothing, it only decides
//! whether a row is of use. How many guesses are made is the [`controller`]'s business, by what they win on this
//! machine, in this text, in this batch.

pub mod controller;
pub mod costs;
pub mod lookup;
mod model;
pub mod replay;

use std::collections::BTreeMap;

use ingle_step::{Executor, SeqId, TokenId};

use crate::scheduler::{Scheduler, n_accepted};
use controller::{Candidate, Controller, Origin, Ran, Record};
use lookup::{Index, MATCH_MIN, continuation};
use model::{DraftModel, Wish};

/// Positions of a draft that are counted by themselves; what comes behind counts as the last.
pub const POSITIONS_MAX: usize = 64;
/// How many tokens a draft model reads for each that may still be said.
const READ_TO_SAY: usize = 8;

/// Where guesses come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: one token a step.
    Off,
    /// The text before, and predictions.
    Lookup,
    /// The draft model, and predictions.
    Draft,
    /// All there is.
    #[default]
    Auto,
}

impl Source {
    /// All, by name.
    pub const NAMES: [(&'static str, Self); 4] =
        [("off", Self::Off), ("lookup", Self::Lookup), ("draft", Self::Draft), ("auto", Self::Auto)];

    fn looks_up(self) -> bool {
        matches!(self, Self::Lookup | Self::Auto)
    }

    fn asks_model(self) -> bool {
        matches!(self, Self::Draft | Self::Auto)
    }
}

/// How to speculate.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeculationConfig {
    /// Where guesses come from.
    pub source: Source,
    /// Most guesses for a sequence in a step.
    pub draft_max: usize,
    /// Fewer than this are not worth a step.
    pub draft_min: usize,
    /// The draft model stops where it gives its guess less than this.
    pub p_min: f32,
    /// Whether the number of guesses follows what they win. Otherwise there are as many as there can be.
    pub adaptive: bool,
}

impl Default for SpeculationConfig {
    fn default() -> Self {
        Self { source: Source::Auto, draft_max: 16, draft_min: 0, p_min: 0.0, adaptive: true }
    }
}

/// What a request has to say.
#[derive(Clone, Copy, Debug)]
pub struct Hints<'a> {
    /// How long its prompt is.
    pub n_prompt: usize,
    /// Most guesses at a time; 0 is none.
    pub draft_max: usize,
    /// What its client takes the answer to be; empty if it does not say.
    pub prediction: &'a [TokenId],
}

/// Counts since start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Drafts that were in a step.
    pub drafts: u64,
    /// Their tokens.
    pub drafted: u64,
    /// Those of them that were accepted.
    pub accepted: u64,
    /// Accepted tokens by their position in the draft, up to [`POSITIONS_MAX`].
    pub accepted_at: Vec<u64>,
    /// Why there is no draft model any more.
    pub failure: Option<String>,
}

/// What is known of one sequence.
#[derive(Debug, Default)]
struct Track {
    text: Index,
    prediction: Index,
    /// How many tokens had made way when it was last looked at: what is indexed is another text since.
    n_discarded: usize,
    record: Record,
    /// Where its present draft comes from.
    origin: Option<Origin>,
    /// A guess that was not tried, and how many tokens there were then.
    untried: Option<(Origin, Vec<TokenId>, usize)>,
}

struct Draft {
    seq: SeqId,
    origin: Origin,
    tokens: Vec<TokenId>,
}

/// Makes drafts and learns from what becomes of them.
pub struct Speculator {
    config: SpeculationConfig,
    controller: Controller,
    tracks: BTreeMap<SeqId, Track>,
    model: Option<DraftModel>,
    /// Tokens that there are.
    n_vocab: usize,
    counts: Counts,
}

impl Speculator {
    /// For a model of `n_vocab` tokens. `draft_model` has the same vocabulary.
    pub fn new(config: SpeculationConfig, draft_model: Option<Box<dyn Executor>>, n_vocab: usize) -> Self {
        let model = draft_model.filter(|_| config.source.asks_model()).map(DraftModel::new);
        let counts = Counts::default();
        Self { config, controller: Controller::default(), tracks: BTreeMap::new(), model, n_vocab, counts }
    }

    /// What there was.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Gives sequences of the next step their drafts. `hints` are `None` of what is no answer. Tells how many seconds the
    /// draft model guessed.
    pub fn draft<'a>(
        &mut self,
        scheduler: &mut Scheduler,
        hints: impl Fn(SeqId) -> Option<Hints<'a>>,
    ) -> f64 {
        if self.config.source == Source::Off {
            return 0.0;
        }
        self.tracks.retain(|&id, _| scheduler.tokens(id).is_some());
        if let Some(model) = &mut self.model {
            model.retain(|id| scheduler.tokens(id).is_some());
        }
        let (n_decode, n_prompt) = (scheduler.n_decode_pending(), scheduler.n_prompt_pending());
        let mut room = scheduler.draft_room();
        room.retain_mut(|(id, n_max)| {
            *n_max = hints(*id).map_or(0, |hints| hints.draft_max.min(*n_max));
            *n_max > 0 && self.config.draft_max > 0
        });
        let mut drafts = Vec::new();
        for &(id, n_max) in &room {
            let (Some(tokens), Some(hints)) = (scheduler.tokens(id), hints(id)) else { continue };
            let n_max = n_max.min(self.config.draft_max);
            let n_discarded = scheduler.n_discarded(id);
            self.note_shift(id, n_discarded);
            self.learn(id, tokens);
            // Of a prompt, the oldest have made way.
            let n_prompt = hints.n_prompt.saturating_sub(n_discarded).min(tokens.len());
            let hints = Hints { n_prompt, ..hints };
            let found = self.tracks.entry(id).or_default().look_up(tokens, hints, self.config.source, n_max);
            drafts.extend(found.map(|(origin, tokens)| Draft { seq: id, origin, tokens }));
        }
        let model_seconds = self.ask_model(scheduler, &room, &mut drafts, n_decode, n_prompt);
        let candidates: Vec<Candidate<'_>> = drafts
            .iter()
            .map(|draft| Candidate {
                record: &self.tracks[&draft.seq].record,
                origin: draft.origin,
                len: draft.tokens.len(),
            })
            .collect();
        let lens = if self.config.adaptive {
            self.controller.plan(n_decode, n_prompt, &candidates)
        } else {
            candidates.iter().map(|candidate| candidate.len).collect()
        };
        for (mut draft, len) in drafts.into_iter().zip(lens) {
            let track = self.tracks.entry(draft.seq).or_default();
            if len > 0 && len >= self.config.draft_min {
                draft.tokens.truncate(len);
                track.origin = Some(draft.origin);
                scheduler.set_draft(draft.seq, draft.tokens);
            } else if draft.origin != Origin::Model {
                track.untried = Some((draft.origin, draft.tokens, scheduler.n_tokens(draft.seq)));
            }
        }
        model_seconds
    }

    /// What is known of a sequence's text is of no use if some of it has made way.
    fn note_shift(&mut self, id: SeqId, n_discarded: usize) {
        let track = self.tracks.entry(id).or_default();
        if track.n_discarded == n_discarded {
            return;
        }
        let record = std::mem::take(&mut track.record);
        *track = Track { n_discarded, record, ..Track::default() };
        if let Some(model) = &mut self.model {
            model.retain(|other| other != id);
        }
    }

    /// Holds a sequence's last guess, if it was not tried, against what was said since.
    fn learn(&mut self, id: SeqId, tokens: &[TokenId]) {
        let track = self.tracks.entry(id).or_default();
        track.record.earn();
        if let Some((origin, guess, n_before)) = track.untried.take() {
            let said = &tokens[n_before..];
            let n_guessed = guess.len().min(said.len());
            let n_equal = n_accepted(said, &guess);
            self.controller.observe_untried(&mut track.record, origin, n_equal, n_guessed);
        }
    }

    /// Has the draft model guess for those whom nothing else helps. Tells how many seconds that took.
    fn ask_model(
        &mut self,
        scheduler: &Scheduler,
        room: &[(SeqId, usize)],
        drafts: &mut Vec<Draft>,
        n_decode: usize,
        n_prompt: usize,
    ) -> f64 {
        let Some(model) = &mut self.model else { return 0.0 };
        let Self { controller, tracks, config, .. } = self;
        let mut wishes: Vec<Wish<'_>> = Vec::new();
        for &(seq, n_max) in room.iter().filter(|(id, _)| drafts.iter().all(|draft| draft.seq != *id)) {
            let Some(tokens) = scheduler.tokens(seq) else { continue };
            let pays = !config.adaptive || tracks[&seq].record.pays();
            if pays && model.n_unread(seq, tokens) <= READ_TO_SAY * (config.draft_max + n_max) {
                wishes.push(Wish { seq, tokens, n_max: n_max.min(config.draft_max) });
            }
        }
        let n_max = wishes.iter().map(|wish| wish.n_max).max().unwrap_or(0);
        let len = if config.adaptive {
            let records: Vec<&Record> = wishes.iter().map(|wish| &tracks[&wish.seq].record).collect();
            controller.model_len(n_decode, n_prompt, &records, n_max)
        } else {
            n_max
        };
        wishes.iter_mut().for_each(|wish| wish.n_max = wish.n_max.min(len));
        if len == 0 {
            return 0.0;
        }
        let mut total = 0.0;
        let mut measured = |n_rows, seconds| {
            total += seconds;
            controller.observe_model(n_rows, seconds);
        };
        match model.guess(&wishes, config.p_min, self.n_vocab, &mut measured) {
            Ok(guesses) => {
                for (wish, tokens) in wishes.iter().zip(guesses).filter(|(_, tokens)| !tokens.is_empty()) {
                    drafts.push(Draft { seq: wish.seq, origin: Origin::Model, tokens });
                }
            }
            Err(error) => self.give_up(&error.to_string()),
        }
        total
    }

    /// The draft model is of no use any more; answers go on without it.
    pub fn give_up(&mut self, why: &str) {
        self.model = None;
        self.counts.failure = Some(why.to_owned());
    }

    /// Guessing itself is at fault: there is no more of it.
    pub fn stop(&mut self, why: &str) {
        self.give_up(why);
        self.config.source = Source::Off;
    }

    /// Whether anything is guessed.
    pub fn is_on(&self) -> bool {
        self.config.source != Source::Off && (self.config.source.looks_up() || self.model.is_some())
    }

    /// A sequence's draft was in a step, and these tokens were sampled. `price` is what [`observe`](Self::observe) gave.
    pub fn observe_draft(&mut self, id: SeqId, draft: &[TokenId], sampled: &[TokenId], price: f64) {
        let n_accepted = n_accepted(sampled, draft);
        let counts = &mut self.counts;
        counts.drafts += 1;
        counts.drafted += draft.len() as u64;
        counts.accepted += n_accepted as u64;
        let n_counted = n_accepted.min(POSITIONS_MAX);
        if counts.accepted_at.len() < n_counted {
            counts.accepted_at.resize(n_counted, 0);
        }
        counts.accepted_at[..n_counted].iter_mut().for_each(|n| *n += 1);
        let Some(track) = self.tracks.get_mut(&id) else { return };
        if let Some(origin) = track.origin.take() {
            self.controller.observe_draft(&mut track.record, origin, n_accepted, draft.len(), price);
        }
    }

    /// A step ran. Gives the price of each of its draft rows, in tokens.
    pub fn observe(&mut self, ran: &Ran) -> f64 {
        if self.config.source == Source::Off { 0.0 } else { self.controller.observe(ran) }
    }
}

impl Track {
    /// The longest match of what its text ends with, in the text before or in the prediction.
    fn look_up(
        &mut self,
        tokens: &[TokenId],
        hints: Hints<'_>,
        source: Source,
        n_max: usize,
    ) -> Option<(Origin, Vec<TokenId>)> {
        let predicted = predicted_at(&mut self.prediction, hints.prediction, &tokens[hints.n_prompt..]);
        let found = if source.looks_up() {
            self.text.extend(tokens);
            self.text.find(tokens, tokens)
        } else {
            None
        };
        match (predicted, found) {
            (Some((at, n_matched)), found) if found.is_none_or(|found| found.len <= n_matched) => {
                let n = n_max.min(hints.prediction.len() - at);
                Some((Origin::Prediction, hints.prediction[at..at + n].to_vec()))
            }
            (_, Some(found)) => {
                Some((Origin::Lookup { n_matched: found.len }, continuation(tokens, found.at, n_max)))
            }
            _ => None,
        }
    }
}

/// Where in a prediction an answer goes on, and how many tokens say so: at its beginning those of the answer are all.
fn predicted_at(index: &mut Index, prediction: &[TokenId], answer: &[TokenId]) -> Option<(usize, usize)> {
    let found = if answer.len() < MATCH_MIN || prediction.starts_with(answer) {
        prediction.starts_with(answer).then_some((answer.len(), answer.len().max(MATCH_MIN)))
    } else {
        index.extend(prediction);
        index.find(prediction, answer).map(|found| (found.at, found.len))
    };
    found.filter(|&(at, _)| at < prediction.len())
}

/// How many tokens of an answer its prediction foretold: each token that the prediction has where the answer's tokens
/// before it stand. It depends on the two texts alone.
pub fn n_foretold(prediction: &[TokenId], answer: &[TokenId]) -> usize {
    if prediction.is_empty() {
        return 0;
    }
    let mut index = Index::default();
    let foretold = (0..answer.len()).filter(|&i| {
        let at = predicted_at(&mut index, prediction, &answer[..i]);
        at.is_some_and(|(at, _)| prediction[at] == answer[i])
    });
    foretold.count().min(prediction.len())
}

#[cfg(test)]
mod tests;

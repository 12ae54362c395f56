//! A token's way out: the sampler's pick becomes text, stop strings and end tokens end it, log-probabilities go
//! along. Pure: one [`Answer`] per request, one `Choice` per sequence of it.

use std::sync::Arc;

use ingle_chat::{Event, FinishReason, TokenLogprob};
use ingle_step::TokenId;
use ingle_tokenizer::{Detokenizer, Tokenizer};

use crate::frontend::Prepared;
use crate::sampling::{Sampler, log_softmax_of, top_logprobs};
use crate::stop::StopMatcher;

/// What becomes of one request.
pub struct Answer {
    tokenizer: Arc<Tokenizer>,
    /// Tokens by which the model ends an answer.
    end_tokens: Arc<[TokenId]>,
    request: Prepared,
    /// Those that have begun: who waits costs no more than a prompt.
    choices: Vec<Choice>,
    prompt_logprobs: Vec<TokenLogprob>,
}

/// One of its texts.
struct Choice {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    n_tokens: usize,
    finished: bool,
}

impl Answer {
    /// The beginning: nothing sampled yet. `end_tokens` are the model's.
    pub fn new(request: Prepared, tokenizer: Arc<Tokenizer>, end_tokens: Arc<[TokenId]>) -> Self {
        Self { tokenizer, end_tokens, request, choices: Vec::new(), prompt_logprobs: Vec::new() }
    }

    /// The request that is answered.
    pub fn request(&self) -> &Prepared {
        &self.request
    }

    /// New tokens over all choices.
    pub fn completion_tokens(&self) -> usize {
        self.choices.iter().map(|c| c.n_tokens).sum()
    }

    /// Whether every choice is complete.
    pub fn is_finished(&self) -> bool {
        self.choices.len() == self.request.n_choices as usize && self.choices.iter().all(|c| c.finished)
    }

    /// Takes logits `(n_vocab,)` after the prompt token at `position`, which tell the next one's log-probability.
    pub fn prompt_row(&mut self, position: usize, logits: &[f32]) {
        let Some(n_top) = self.request.prompt_logprobs else { return };
        if self.prompt_logprobs.is_empty() {
            self.prompt_logprobs.push(self.unconditional(self.request.prompt[0]));
        }
        let token = self.request.prompt[position + 1];
        self.prompt_logprobs.push(logprob_of(&self.tokenizer, logits, token, n_top));
    }

    /// What comes before the first token of a choice: the prompt's log-probabilities and the echo.
    fn preamble(&mut self, choice: u32, events: &mut Vec<Event>) {
        if choice == 0 && self.request.prompt_logprobs.is_some() {
            if self.prompt_logprobs.is_empty() {
                self.prompt_logprobs.push(self.unconditional(self.request.prompt[0]));
            }
            events.push(Event::PromptLogprobs(std::mem::take(&mut self.prompt_logprobs)));
        }
        if let Some(text) = &self.request.echo {
            events.push(Event::Text { text: text.clone(), logprobs: Vec::new() });
        }
    }

    /// Takes the logits `(n_vocab,)` at the end of a choice's sequence, picks its next token and tells what that
    /// means for the reader. `position` is the token's place in the sequence; `scratch` is for reuse. Gives the
    /// token (`None` if none was wanted) and whether the choice is complete.
    pub fn sample(
        &mut self,
        choice: u32,
        logits: &[f32],
        position: usize,
        scratch: &mut Vec<f32>,
        events: &mut Vec<Event>,
    ) -> (Option<TokenId>, bool) {
        if self.choices.len() == choice as usize {
            self.choices.push(Choice::new(&self.request, &self.tokenizer, choice));
            self.preamble(choice, events);
        }
        let Self { tokenizer, end_tokens, request, choices, .. } = self;
        let choice = &mut choices[choice as usize];
        assert!(!choice.finished, "a finished choice is not sampled");
        if request.max_tokens == 0 {
            choice.finish(FinishReason::Length, events);
            return (None, true);
        }
        scratch.clear();
        // Output matrices may have more rows than there are tokens: those have no text.
        scratch.extend_from_slice(&logits[..logits.len().min(tokenizer.n_vocab())]);
        let ends = |token: &TokenId| !request.ignore_eos && end_tokens.contains(token);
        if choice.n_tokens < request.min_tokens {
            let own_end = if request.ignore_eos { &[] } else { &**end_tokens };
            for token in own_end.iter().chain(&request.stop_token_ids) {
                if let Some(logit) = scratch.get_mut(token.0 as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let token = choice.sampler.sample(scratch, position as u64);
        choice.sampler.accept(token);
        choice.n_tokens += 1;

        if ends(&token) {
            choice.finish(FinishReason::Stop { matched: None }, events);
        } else if request.stop_token_ids.contains(&token) {
            let matched = Some(tokenizer.token_text(token));
            choice.finish(FinishReason::Stop { matched }, events);
        } else {
            let logprobs = request.logprobs.map(|n_top| logprob_of(tokenizer, logits, token, n_top));
            let piece = choice.detokenizer.push(token);
            let stopped_by = choice.say(&piece, logprobs, choice.n_tokens >= request.min_tokens, events);
            if let Some(stop) = stopped_by {
                choice.finished = true;
                events.push(Event::Finished(FinishReason::Stop { matched: Some(stop) }));
            } else if choice.n_tokens == request.max_tokens {
                choice.finish(FinishReason::Length, events);
            }
        }
        (Some(token), choice.finished)
    }

    fn unconditional(&self, token: TokenId) -> TokenLogprob {
        let bytes = self.tokenizer.token_bytes(token).to_vec();
        TokenLogprob { token, bytes, logprob: None, rank: 0, top: Vec::new() }
    }
}

impl Choice {
    fn new(request: &Prepared, tokenizer: &Arc<Tokenizer>, choice: u32) -> Self {
        let mut sampler = Sampler::new(request.params.clone(), request.dry_breakers.clone(), choice);
        request.prompt.iter().for_each(|&token| sampler.accept(token));
        // An answer to nothing but control tokens begins a text; any other goes on with one.
        let begins = request.prompt.iter().all(|&token| tokenizer.is_control(token));
        let detokenizer = if begins { Detokenizer::at_start } else { Detokenizer::new };
        Self {
            sampler,
            detokenizer: detokenizer(tokenizer.clone(), request.include_special),
            stops: StopMatcher::new(&request.stop),
            n_tokens: 0,
            finished: false,
        }
    }

    /// Sends text on, up to a stop string, which it names. Before `min_tokens` nothing stops an answer.
    fn say(
        &mut self,
        piece: &str,
        logprob: Option<TokenLogprob>,
        may_stop: bool,
        events: &mut Vec<Event>,
    ) -> Option<String> {
        let (text, stopped_by) = if may_stop {
            let released = self.stops.push(piece);
            (released.text, released.stopped_by)
        } else {
            (piece.to_owned(), None)
        };
        if !text.is_empty() || logprob.is_some() {
            events.push(Event::Text { text, logprobs: logprob.into_iter().collect() });
        }
        stopped_by
    }

    /// The last words: what was held back, half a character included, and the reason.
    fn finish(&mut self, reason: FinishReason, events: &mut Vec<Event>) {
        let tail = self.detokenizer.finish();
        let stopped_by = self.say(&tail, None, true, events);
        let held = self.stops.finish();
        if stopped_by.is_none() && !held.is_empty() {
            events.push(Event::Text { text: held, logprobs: Vec::new() });
        }
        self.finished = true;
        let reason = stopped_by.map_or(reason, |stop| FinishReason::Stop { matched: Some(stop) });
        events.push(Event::Finished(reason));
    }
}

fn logprob_of(tokenizer: &Tokenizer, logits: &[f32], token: TokenId, n_top: usize) -> TokenLogprob {
    let (logprob, rank) = log_softmax_of(logits, token);
    let bytes = |id: TokenId| tokenizer.token_bytes(id).to_vec();
    let top = top_logprobs(logits, n_top).into_iter().map(|(id, lp)| (id, bytes(id), lp)).collect();
    TokenLogprob { token, bytes: bytes(token), logprob: Some(logprob), rank, top }
}

//! A token's way out: the sampler's pick becomes text, stop strings and end tokens end it, log-probabilities go
//! along. Pure: one [`Answer`] per request, one `Choice` per sequence of it.
//!
//! **Jumps.** Where a format leaves one text only, its tokens are not picked but taken, as the tokenizer spells them.
//! They follow the last picked token at once, and the next step computes all of them together. Which ones are taken
//! depends on the choice's own tokens and the request alone, so an answer is the same whatever runs beside it. Requests
//! that want log-probabilities take the same tokens one in each step: each needs a row of logits of its own then.

use std::collections::VecDeque;
use std::sync::Arc;

use ingle_chat::output::Phase;
use ingle_chat::{Event, FinishReason, ProviderError, TokenLogprob};
use ingle_grammar::GrammarError;
use ingle_step::TokenId;
use ingle_tokenizer::Tokenizer;

use crate::constraint::{self, Constraint};
use crate::frontend::{Prepared, Thoughts};
use crate::reader::Reader;
use crate::sampling::{Sampler, log_softmax_of, top_logprobs};
use crate::speculation::n_foretold;

/// How many tokens are tried to end a thought without beginning the answer in the same token.
const RESAMPLES_MAX: usize = 64;
/// How many tokens one row of logits gives at most: a picked one, and those that must follow it.
const JUMP_TOKENS_MAX: usize = 256;

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
    reader: Reader,
    constraint: Option<Constraint>,
    /// Tokens of thoughts so far.
    n_thoughts: usize,
    /// Tokens that are said whatever the model would say.
    forced: VecDeque<TokenId>,
    /// Tokens that the format leaves no choice about; `None` if nobody has looked since the last token.
    ahead: Option<VecDeque<TokenId>>,
    n_tokens: usize,
    /// What it has said, if the client has foretold something.
    said: Vec<TokenId>,
    /// Whether what comes before its first token was told.
    has_begun: bool,
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

    /// Those of them that were thoughts.
    pub fn reasoning_tokens(&self) -> usize {
        self.choices.iter().map(|c| c.n_thoughts).sum()
    }

    /// How many tokens of a choice its client foretold.
    pub fn n_foretold(&self, choice: u32) -> usize {
        n_foretold(&self.request.prediction, &self.choices[choice as usize].said)
    }

    /// How often tokens made way in a full context, and how many, over all choices.
    pub fn n_shifts(&self) -> (usize, usize) {
        let Prepared { shift: Some(shift), prompt, n_ctx, .. } = &self.request else { return (0, 0) };
        // Behind the last token of an answer nothing makes way.
        let n_tokens = |c: &Choice| (prompt.len() + c.n_tokens).saturating_sub(usize::from(c.finished));
        let n_shifts = self.choices.iter().map(|c| shift.count(n_tokens(c), *n_ctx)).sum();
        (n_shifts, n_shifts * shift.n_discard)
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

    /// Does what a choice's next row of logits is not needed for. To be called while that row is computed; what goes
    /// wrong is told by [`Self::sample`].
    pub fn prepare(&mut self, choice: u32) {
        self.add(choice);
        let Self { end_tokens, request, choices, .. } = self;
        let choice = &mut choices[choice as usize];
        if !choice.finished && request.max_tokens > 0 {
            // It fails again when the mask is needed.
            _ = choice.prepare(request, end_tokens);
        }
    }

    /// A choice's sequence is there from the end of the prompt.
    fn add(&mut self, choice: u32) {
        if self.choices.len() == choice as usize {
            self.choices.push(Choice::new(&self.request, &self.tokenizer, choice));
        }
    }

    /// What comes before the first token of a choice: the prompt's log-probabilities and the echo.
    fn preamble(&mut self, choice: u32, events: &mut Vec<Event>) {
        if std::mem::replace(&mut self.choices[choice as usize].has_begun, true) {
            return;
        }
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
    /// means for the reader. `position` is the token's place behind the prompt and all that was said; `scratch` is for
    /// reuse. Gives the token with those that must follow it (none if none was wanted), and whether the choice is complete.
    ///
    /// # Errors
    /// If the format that the answer obeys lets nothing follow.
    pub fn sample(
        &mut self,
        choice: u32,
        logits: &[f32],
        position: usize,
        scratch: &mut Vec<f32>,
        events: &mut Vec<Event>,
    ) -> Result<(Vec<TokenId>, bool), ProviderError> {
        self.add(choice);
        self.preamble(choice, events);
        let Self { tokenizer, end_tokens, request, choices, .. } = self;
        let choice = &mut choices[choice as usize];
        assert!(!choice.finished, "a finished choice is not sampled");
        let mut tokens = Vec::new();
        if request.max_tokens == 0 {
            choice.finish(FinishReason::Length, events);
            return Ok((tokens, true));
        }
        let n_vocab = logits.len().min(tokenizer.n_vocab());
        let failed = |error: GrammarError| constraint::failed(&error);
        loop {
            let token = match choice.next_forced(request, end_tokens).map_err(failed)? {
                Some(token) => token,
                None if tokens.is_empty() => {
                    choice.pick(request, end_tokens, &logits[..n_vocab], position, scratch).map_err(failed)?
                }
                None => break,
            };
            tokens.push(token);
            choice.take(request, tokenizer, end_tokens, token, logits, events);
            if choice.finished || request.logprobs.is_some() || tokens.len() == JUMP_TOKENS_MAX {
                break;
            }
        }
        if tokens.len() > 1 {
            join_texts(events);
        }
        Ok((tokens, choice.finished))
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
        let constraint = request.grammar.as_deref().map(Constraint::new);
        Self {
            sampler,
            reader: Reader::new(request, tokenizer),
            constraint,
            n_thoughts: 0,
            forced: VecDeque::new(),
            ahead: None,
            n_tokens: 0,
            said: Vec::new(),
            has_begun: false,
            finished: false,
        }
    }

    /// Makes the mask for the next token, if there will be one.
    fn prepare(&mut self, request: &Prepared, end_tokens: &[TokenId]) -> Result<(), GrammarError> {
        if self.is_free(request)
            || !self.forced.is_empty()
            || !self.look_ahead(request, end_tokens).is_empty()
        {
            return Ok(());
        }
        self.constraint.as_mut().map_or(Ok(()), Constraint::prepare)
    }

    /// Whether it is in thoughts that no format is about.
    fn is_free(&self, request: &Prepared) -> bool {
        self.reader.phase() == Phase::Reasoning && request.thoughts.as_ref().is_none_or(|t| !t.in_grammar)
    }

    /// Whether tokens that the format forces are taken without being picked: not in thoughts, whose tokens are counted,
    /// nor where the model may still begin to think.
    fn may_jump(&self, request: &Prepared) -> bool {
        let may_think = |t: &Thoughts| self.n_tokens == 0 && !t.in_grammar && t.begin.is_some();
        self.forced.is_empty()
            && self.reader.phase() != Phase::Reasoning
            && !request.thoughts.as_ref().is_some_and(may_think)
    }

    /// The tokens that must come next. Those that mean something to the request, an end or a bias, are left to be picked.
    fn look_ahead(&mut self, request: &Prepared, end_tokens: &[TokenId]) -> &mut VecDeque<TokenId> {
        let may_jump = self.may_jump(request);
        let constraint = &mut self.constraint;
        self.ahead.get_or_insert_with(|| {
            let forced = constraint.as_mut().filter(|_| may_jump).map(Constraint::forced).unwrap_or_default();
            let is_plain = |token: &TokenId| {
                !end_tokens.contains(token)
                    && !request.stop_token_ids.contains(token)
                    && !request.params.logit_bias.iter().any(|(biased, _)| biased == token)
            };
            forced.into_iter().take_while(is_plain).collect()
        })
    }

    /// Goes on by the next token, if the format leaves no choice.
    fn next_forced(
        &mut self,
        request: &Prepared,
        end_tokens: &[TokenId],
    ) -> Result<Option<TokenId>, GrammarError> {
        let Some(token) = self.look_ahead(request, end_tokens).pop_front() else { return Ok(None) };
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        Ok(Some(token))
    }

    /// Takes a token that was picked or forced: what it means, and whether the answer ends with it.
    fn take(
        &mut self,
        request: &Prepared,
        tokenizer: &Tokenizer,
        end_tokens: &[TokenId],
        token: TokenId,
        logits: &[f32],
        events: &mut Vec<Event>,
    ) {
        self.sampler.accept(token);
        self.n_tokens += 1;
        if !request.prediction.is_empty() {
            self.said.push(token);
        }
        if request.ends(end_tokens, token) {
            self.reader.end(token, events);
            self.finish(FinishReason::Stop { matched: None }, events);
        } else if request.stop_token_ids.contains(&token) {
            let matched = Some(tokenizer.token_text(token));
            self.finish(FinishReason::Stop { matched }, events);
        } else {
            let logprobs = request.logprobs.map(|n_top| logprob_of(tokenizer, logits, token, n_top));
            let may_stop = self.n_tokens >= request.min_tokens;
            let stopped_by = self.reader.push(token, logprobs, may_stop, events);
            if let Some(stop) = stopped_by {
                self.finished = true;
                events.push(Event::Finished(FinishReason::Stop { matched: Some(stop) }));
            } else if self.is_complete() {
                self.finish(FinishReason::Stop { matched: None }, events);
            } else if self.n_tokens == request.max_tokens {
                self.finish(FinishReason::Length, events);
            }
        }
        // Behind this token others are forced than before it. A jump that began thoughts ends in them.
        if self.ahead.as_ref().is_some_and(VecDeque::is_empty) || !self.may_jump(request) {
            self.ahead = None;
        }
    }

    /// Picks the next token from logits `(n_vocab,)`; `scratch` is for reuse.
    fn pick(
        &mut self,
        request: &Prepared,
        end_tokens: &[TokenId],
        logits: &[f32],
        position: usize,
        scratch: &mut Vec<f32>,
    ) -> Result<TokenId, GrammarError> {
        let own_end = if request.ignore_eos { &[] } else { end_tokens };
        let reset = |scratch: &mut Vec<f32>, may_end: bool| {
            scratch.clear();
            scratch.extend_from_slice(logits);
            if !may_end {
                own_end.iter().chain(&request.stop_token_ids).for_each(|&token| forbid(scratch, token));
            }
        };
        let thinks = self.reader.phase() == Phase::Reasoning;
        let thoughts = request.thoughts.as_ref();
        if thinks {
            let is_spent = |t: &&Thoughts| t.budget.is_some_and(|budget| self.n_thoughts >= budget);
            if let Some(thoughts) = thoughts.filter(is_spent).filter(|_| self.forced.is_empty()) {
                self.forced.extend(thoughts.end.iter());
            }
            self.n_thoughts += 1;
        }
        let is_free = self.is_free(request);
        if let Some(token) = self.forced.pop_front() {
            if !is_free && let Some(constraint) = &mut self.constraint {
                constraint.accept(token)?;
            }
            return Ok(token);
        }
        let may_end = self.n_tokens >= request.min_tokens;
        let Some(constraint) = &mut self.constraint else {
            reset(scratch, may_end);
            return Ok(self.sampler.sample(scratch, position as u64));
        };
        if is_free {
            // Thoughts are free, but an answer must follow them, and begin at its own token.
            let mut banned = Vec::new();
            loop {
                reset(scratch, false);
                banned.iter().for_each(|&token| forbid(scratch, token));
                let token = self.sampler.sample(scratch, position as u64);
                if !self.reader.would_speak(token) || banned.len() == RESAMPLES_MAX {
                    return Ok(token);
                }
                banned.push(token);
            }
        }
        // Whoever has said nothing yet may think first.
        let begin = thoughts.filter(|t| self.n_tokens == 0 && !t.in_grammar).and_then(|t| t.begin);
        let begin = begin.filter(|&token| !self.reader.would_speak(token));
        reset(scratch, may_end);
        constraint.apply(scratch)?;
        if !may_end && scratch.iter().all(|&logit| logit == f32::NEG_INFINITY) {
            // The format ends here, though more tokens were wished.
            reset(scratch, true);
            constraint.apply(scratch)?;
        }
        if let Some(token) = begin
            && let Some(logit) = logits.get(token.0 as usize)
        {
            scratch[token.0 as usize] = *logit;
        }
        let token = self.sampler.sample(scratch, position as u64);
        if begin == Some(token) && !constraint.allows(token) {
            return Ok(token);
        }
        if !constraint.allows(token) {
            return Err(GrammarError::DeadEnd);
        }
        if !end_tokens.contains(&token) {
            constraint.accept(token)?;
        }
        Ok(token)
    }

    /// Whether the format lets nothing follow.
    fn is_complete(&mut self) -> bool {
        self.reader.is_over() || self.constraint.as_mut().is_some_and(Constraint::is_complete)
    }

    /// The last words and the reason.
    fn finish(&mut self, reason: FinishReason, events: &mut Vec<Event>) {
        self.finished = true;
        let reason = match (self.reader.finish(events), reason) {
            (Some(stop), _) => FinishReason::Stop { matched: Some(stop) },
            // Whoever has called waits for what the tool says, however the answer was ended.
            (None, FinishReason::Stop { .. }) if self.reader.has_called() => FinishReason::ToolCalls,
            (None, reason) => reason,
        };
        events.push(Event::Finished(reason));
    }
}

/// Makes one of texts that follow each other: what a jump says.
fn join_texts(events: &mut Vec<Event>) {
    events.dedup_by(|next, last| match (last, next) {
        (Event::Text { text, logprobs }, Event::Text { text: more, logprobs: none })
            if logprobs.is_empty() && none.is_empty() =>
        {
            text.push_str(more);
            true
        }
        (Event::ToolArguments { index, json }, Event::ToolArguments { index: same, json: more })
            if index == same =>
        {
            json.push_str(more);
            true
        }
        _ => false,
    });
}

fn forbid(logits: &mut [f32], token: TokenId) {
    if let Some(logit) = logits.get_mut(token.0 as usize) {
        *logit = f32::NEG_INFINITY;
    }
}

fn logprob_of(tokenizer: &Tokenizer, logits: &[f32], token: TokenId, n_top: usize) -> TokenLogprob {
    let (logprob, rank) = log_softmax_of(logits, token);
    let bytes = |id: TokenId| tokenizer.token_bytes(id).to_vec();
    let top = top_logprobs(logits, n_top).into_iter().map(|(id, lp)| (id, bytes(id), lp)).collect();
    TokenLogprob { token, bytes: bytes(token), logprob: Some(logprob), rank, top }
}

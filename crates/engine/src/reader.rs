//! A choice's text on its way out: tokens become characters, characters get their meaning, stop strings end them.
//!
//! Stop strings are looked for in what is said, neither in thoughts nor in calls of tools: a client means the answer
//! that it reads. Where nothing tells these apart (completions, and whoever wants to see control tokens), they are
//! looked for in all of the text.

use std::sync::Arc;

use ingle_chat::output::{Output, OutputParser, Phase, Piece};
use ingle_chat::{Event, TokenLogprob};
use ingle_step::TokenId;
use ingle_tokenizer::{Detokenizer, Tokenizer};

use crate::frontend::Prepared;
use crate::stop::StopMatcher;

/// Reads one choice's tokens.
pub(crate) struct Reader {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    parser: Option<OutputParser>,
    stops: StopMatcher,
    /// Whether a tool was called.
    has_called: bool,
    /// No second one may be.
    one_call: bool,
    /// A second one would have been: the answer ends before it.
    is_over: bool,
    /// For reuse.
    parsed: Vec<Output>,
}

impl Reader {
    pub fn new(request: &Prepared, tokenizer: &Arc<Tokenizer>) -> Self {
        // An answer to nothing but control tokens begins a text; any other goes on with one.
        let begins = request.prompt.iter().all(|&token| tokenizer.is_control(token));
        let detokenizer = if begins { Detokenizer::at_start } else { Detokenizer::new };
        Self {
            tokenizer: tokenizer.clone(),
            detokenizer: detokenizer(tokenizer.clone(), request.include_special),
            parser: request.parser.clone(),
            stops: StopMatcher::new(&request.stop),
            has_called: false,
            one_call: request.one_tool_call,
            is_over: false,
            parsed: Vec::new(),
        }
    }

    /// Whether a tool was called.
    pub fn has_called(&self) -> bool {
        self.has_called
    }

    /// Whether the answer ends here, since only one call was wanted.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Where the answer is.
    pub fn phase(&self) -> Phase {
        self.parser.as_ref().map_or(Phase::Content, OutputParser::phase)
    }

    /// Whether a token, pushed now, would end the thoughts and begin the answer too.
    pub fn would_speak(&self, token: TokenId) -> bool {
        let Some(parser) = &self.parser else { return false };
        if self.tokenizer.is_control(token) {
            return false;
        }
        let (mut parser, mut parsed) = (parser.clone(), Vec::new());
        let text = self.tokenizer.token_text(token);
        parser.push(Piece::Text(&text), &mut parsed);
        parser.phase() != Phase::Reasoning
            && parsed.iter().any(|output| match output {
                Output::Content(text) => !text.trim().is_empty(),
                Output::Reasoning(_) => false,
                Output::ToolCall { .. } | Output::ToolArguments { .. } => true,
            })
    }

    /// Takes a token, tells what it means, and names the stop string that it completes. `may_stop`: stop strings count.
    pub fn push(
        &mut self,
        token: TokenId,
        logprob: Option<TokenLogprob>,
        may_stop: bool,
        events: &mut Vec<Event>,
    ) -> Option<String> {
        let Some(parser) = &mut self.parser else {
            let text = self.detokenizer.push(token);
            return self.say(&text, logprob, may_stop, events);
        };
        if self.tokenizer.is_control(token) {
            // Half a character before a control token stays half a character.
            let rest = self.detokenizer.finish();
            parser.push(Piece::Text(&rest), &mut self.parsed);
            parser.push(Piece::Control(&self.tokenizer.token_text(token)), &mut self.parsed);
        } else {
            parser.push(Piece::Text(&self.detokenizer.push(token)), &mut self.parsed);
        }
        self.tell(logprob, may_stop, events)
    }

    /// Takes the control token that ends the answer: it has no text, but may end a call.
    pub fn end(&mut self, token: TokenId, events: &mut Vec<Event>) {
        if self.parser.is_some() && self.tokenizer.is_control(token) {
            self.push(token, None, false, events);
        }
    }

    /// The last words: what was held back, half a character included. Names the stop string that they complete.
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Option<String> {
        let tail = self.detokenizer.finish();
        if self.is_over {
            return None;
        }
        let stopped_by = match &mut self.parser {
            None => self.say(&tail, None, true, events),
            Some(parser) => {
                parser.push(Piece::Text(&tail), &mut self.parsed);
                parser.finish(&mut self.parsed);
                self.tell(None, true, events)
            }
        };
        if stopped_by.is_none() {
            self.release(events);
        }
        stopped_by
    }

    /// Sends on what the parser has made out.
    fn tell(
        &mut self,
        mut logprob: Option<TokenLogprob>,
        may_stop: bool,
        events: &mut Vec<Event>,
    ) -> Option<String> {
        let mut parsed = std::mem::take(&mut self.parsed);
        let mut stopped_by = None;
        for output in parsed.drain(..) {
            match output {
                Output::Content(text) => stopped_by = self.say(&text, logprob.take(), may_stop, events),
                Output::Reasoning(text) => {
                    events.push(Event::Reasoning { text, logprobs: logprob.take().into_iter().collect() });
                }
                Output::ToolCall { index, .. } if self.one_call && index > 0 => {
                    self.is_over = true;
                    break;
                }
                Output::ToolCall { index, id, name } => {
                    // What was said before the call is complete.
                    self.release(events);
                    self.has_called = true;
                    events.push(Event::ToolCall { index, id, name });
                }
                Output::ToolArguments { index, json } => events.push(Event::ToolArguments { index, json }),
            }
            if stopped_by.is_some() {
                break;
            }
        }
        self.parsed = parsed;
        self.parsed.clear();
        // A token without text of its own still has a log-probability, apart from those that spell calls: no dialect
        // has a place for theirs.
        if let Some(logprob) = logprob {
            match self.phase() {
                Phase::Reasoning => {
                    events.push(Event::Reasoning { text: String::new(), logprobs: vec![logprob] });
                }
                Phase::Content => events.push(Event::Text { text: String::new(), logprobs: vec![logprob] }),
                Phase::Tool => {}
            }
        }
        stopped_by
    }

    /// Sends text on, up to a stop string, which it names.
    fn say(
        &mut self,
        text: &str,
        logprob: Option<TokenLogprob>,
        may_stop: bool,
        events: &mut Vec<Event>,
    ) -> Option<String> {
        let (text, stopped_by) = if may_stop {
            let released = self.stops.push(text);
            (released.text, released.stopped_by)
        } else {
            (text.to_owned(), None)
        };
        if !text.is_empty() || logprob.is_some() {
            events.push(Event::Text { text, logprobs: logprob.into_iter().collect() });
        }
        stopped_by
    }

    /// Sends the text that might have begun a stop string.
    fn release(&mut self, events: &mut Vec<Event>) {
        let held = self.stops.finish();
        if !held.is_empty() {
            events.push(Event::Text { text: held, logprobs: Vec::new() });
        }
    }
}

//! Keeping an answer to its format: what may not come next is forbidden before a token is picked, and what must come
//! is not picked at all.
//!
//! A mask depends on nothing but the tokens so far. So it is made while a step runs ([`Constraint::prepare`]), and is
//! there when the step's logits are.

use ingle_chat::ProviderError;
use ingle_grammar::{Grammar, GrammarError, Matcher, TokenMask};
use ingle_step::TokenId;

/// What one choice has to obey.
pub(crate) struct Constraint {
    matcher: Matcher,
    mask: TokenMask,
    /// Whether the mask is that of the tokens so far.
    is_prepared: bool,
}

impl Constraint {
    pub fn new(grammar: &Grammar) -> Self {
        Self { matcher: grammar.matcher(), mask: TokenMask::default(), is_prepared: false }
    }

    /// Makes the mask of the next token, if that has not been done.
    pub fn prepare(&mut self) -> Result<(), GrammarError> {
        if !self.is_prepared {
            self.matcher.mask(&mut self.mask)?;
            self.is_prepared = true;
        }
        Ok(())
    }

    /// Forbids in `logits` `(n_vocab,)` what may not come next.
    pub fn apply(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        self.prepare()?;
        self.mask.apply(logits);
        Ok(())
    }

    /// Whether a token is one of those that [`apply`](Self::apply) has left.
    pub fn allows(&self, token: TokenId) -> bool {
        self.mask.allows(token)
    }

    /// Goes on by a token that is no end.
    pub fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        self.is_prepared = false;
        self.matcher.accept(token)
    }

    /// The tokens that must come next, in the tokenizer's own spelling; empty where the model has a choice.
    pub fn forced(&mut self) -> Vec<TokenId> {
        self.matcher.forced()
    }

    /// Whether nothing may follow.
    pub fn is_complete(&mut self) -> bool {
        self.matcher.must_end()
    }
}

/// What a request's client learns of a constraint that fails while its answer runs.
pub(crate) fn failed(error: &GrammarError) -> ProviderError {
    ProviderError::InvalidRequest {
        message: format!("the answer cannot go on within its format: {error}"),
        param: Some("format".into()),
    }
}

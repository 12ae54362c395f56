//! Keeping an answer to its format: what may not come next is forbidden before a token is picked.

use ingle_chat::ProviderError;
use ingle_grammar::{Grammar, GrammarError, Matcher, TokenMask};
use ingle_step::TokenId;

/// What one choice has to obey.
pub(crate) struct Constraint {
    matcher: Matcher,
    mask: TokenMask,
}

impl Constraint {
    pub fn new(grammar: &Grammar) -> Self {
        Self { matcher: grammar.matcher(), mask: TokenMask::default() }
    }

    /// Forbids in `logits` `(n_vocab,)` what may not come next.
    pub fn apply(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        self.matcher.mask(&mut self.mask)?;
        self.mask.apply(logits);
        Ok(())
    }

    /// Whether a token is one of those that [`apply`](Self::apply) has left.
    pub fn allows(&self, token: TokenId) -> bool {
        self.mask.allows(token)
    }

    /// Goes on by a token that is no end.
    pub fn accept(&mut self, token: TokenId) -> Result<(), GrammarError> {
        self.matcher.accept(token)
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

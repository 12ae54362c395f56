//! Whether a request's answer goes on where the context is full, and what makes way then.

use ingle_chat::{ProviderError, Request};
use ingle_step::TokenId;

use super::{CHOICE_TOKENS_MAX, Frontend, invalid};
use crate::scheduler::Shift;

/// How many contexts an answer may fill that goes on in a full one, unless its request says how long it may be.
const CONTEXTS_MAX: usize = 10;

impl Frontend {
    /// What makes way in a context of `n_ctx` tokens; `None` if the context cannot get full, or is the answer's end.
    ///
    /// # Errors
    /// If the request chooses a shift that leaves nothing to go on from, or its prompt fills the context already: no part
    /// of a prompt makes way before it was read.
    pub(super) fn shift(
        &self,
        request: &Request,
        prompt: &[TokenId],
        n_ctx: usize,
    ) -> Result<Option<Shift>, ProviderError> {
        let (own, server) = (&request.sampling, &self.defaults);
        let is_on = own.context_shift.or(server.context_shift).unwrap_or(false);
        let may_fill = request.max_tokens.is_none_or(|n| prompt.len().saturating_add(n as usize) > n_ctx);
        // The one without room for a token is an error as it is everywhere.
        if !is_on || !may_fill || prompt.len() >= n_ctx {
            return Ok(None);
        }
        let n_keep = own.n_keep.or(server.n_keep).unwrap_or(0);
        let begin = usize::from(prompt.first().is_some_and(|&token| self.tokenizer.bos() == Some(token)));
        let n_keep =
            usize::try_from(n_keep).map_or(prompt.len(), |n| n.saturating_add(begin).min(prompt.len()));
        let n_discard = own.n_discard.or(server.n_discard).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let n_discard = if n_discard > 0 { n_discard } else { n_ctx.saturating_sub(n_keep) / 2 };
        if n_discard > 0 && n_keep.saturating_add(n_discard) < n_ctx {
            return Ok(Some(Shift { n_keep, n_discard }));
        }
        let param = if own.n_discard.is_some_and(|n| n > 0) { "n_discard" } else { "n_keep" };
        let message = format!(
            "in a full context {n_keep} tokens are to stay and {n_discard} to make way, which leaves nothing of {n_ctx} to \
             go on from: give a smaller {param}, or set context_shift to false"
        );
        Err(invalid(param, message))
    }
}

/// How many tokens can follow where the context shifts.
///
/// # Errors
/// If the request wants more than are given.
pub(super) fn room(request: &Request, n_ctx: usize) -> Result<usize, ProviderError> {
    let most = CHOICE_TOKENS_MAX / (request.n as usize).max(1);
    match request.max_tokens {
        None => Ok(n_ctx.saturating_mul(CONTEXTS_MAX).min(most)),
        Some(n) if n as usize > most => {
            let message = format!(
                "{n} new tokens are wanted for each of {} answers; at most {most} are given where the context shifts",
                request.n
            );
            Err(invalid("max_tokens", message))
        }
        Some(n) => Ok(n as usize),
    }
}

//! `options`: how tokens are picked, and what Ollama would start a runner with.

use ingle_chat::Request;

use super::refused::{HARMLESS_OPTIONS, REFUSED_OPTIONS};
use crate::RequestError;
use crate::fields::Fields;
use crate::openai::refused;
use crate::openai::sampling::{take_sampling, take_stop};

const I32_MAX: i128 = i32::MAX as i128;

/// Takes `options` into the request. Returns the context that the caller counts on.
pub(super) fn take_options(
    fields: &mut Fields,
    request: &mut Request,
) -> Result<Option<usize>, RequestError> {
    request.cuts_max_tokens = true;
    let Some(options) = fields.take("options") else { return Ok(None) };
    let mut options = Fields::nested(options, "options")?;
    refused::check(&mut options, &[REFUSED_OPTIONS], &[HARMLESS_OPTIONS])?;
    take_sampling(&mut options, &mut request.sampling)?;
    request.stop = take_stop(&mut options, "stop")?;
    request.max_tokens = match options.integer(&["num_predict"], -2, I32_MAX)? {
        // Without end, or until the context is full: an answer ends there in any case.
        None | Some(-2 | -1) => None,
        Some(0) => {
            return Err(options.error(
                "num_predict",
                "`options.num_predict` is 0, which would generate nothing: give -1 for no limit, or leave the \
                 prompt empty to have the model loaded",
            ));
        }
        Some(n) => Some(n as u32),
    };
    // Below zero is as many as the operator lets there be.
    let draft_max = options.integer(&["draft_num_predict"], -1, I32_MAX)?;
    request.draft_max = draft_max.and_then(|n| u32::try_from(n).ok());
    let num_ctx = options.integer(&["num_ctx"], 1, I32_MAX)?.map(|n| n as usize);
    options.finish()?;
    Ok(num_ctx)
}

//! A request's place among others.

use ingle_chat::RANKS;

use crate::RequestError;
use crate::fields::Fields;
use crate::openapi::schema::{Object, integer};

/// Takes `priority`: lower goes first.
pub(crate) fn take_rank(fields: &mut Fields) -> Result<i16, RequestError> {
    let (least, most) = (i128::from(*RANKS.start()), i128::from(*RANKS.end()));
    Ok(fields.integer(&["priority"], least, most)?.map_or(0, |rank| rank as i16))
}

/// `priority`, described.
pub(crate) fn rank(object: Object) -> Object {
    let (least, most) = (i128::from(*RANKS.start()), i128::from(*RANKS.end()));
    object.field(
        "priority",
        integer(least, most),
        "Lower goes first. Below 0, before what others ask, it needs a key with the scope `priority`.",
    )
}

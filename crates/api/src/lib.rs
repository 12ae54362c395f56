//! Wire formats: what clients send and receive, translated to and from the neutral vocabulary of `chat`.
//!
//! One module per dialect ([`openai`], [`anthropic`], [`ollama`]), and [`native`] for what peers have beside them. A
//! dialect turns a body into a [`ingle_chat::Request`] or [`ingle_chat::EmbedRequest`], which is then known to be
//! valid, and turns [`ingle_chat::Delta`]s and vectors into reply bodies or stream events. Nothing here does I/O, reads
//! a clock or serves a route; HTTP serving lives in `server`. [`openapi`] describes all of it.
//!
//! **Nothing is silently ignored.** Each field either does what its documentation says, is accepted because it has
//! no effect on the answer, or is refused with its name and what to do instead. The tables are in
//! [`openai::refused`] and [`anthropic::refused`].
//!
//! [`client`] is the other side: calls of servers, and what their streams say.

pub mod anthropic;
pub mod client;
mod error;
mod fields;
mod json;
mod lora;
pub mod native;
pub mod ollama;
pub mod openai;
pub mod openapi;
pub mod record;
mod tools;
mod truncated;

pub use error::{RequestError, shown};
pub use json::{MAX_NODES, parse_list, parse_object};
pub use truncated::Truncated;

use ingle_chat::Delta;

/// The longest time that a request may be given, in seconds: more than a week is no deadline.
pub const TIMEOUT_SECONDS_MAX: f64 = 604_800.0;

/// Turns an answer's pieces into the bytes of an event stream, framing included.
///
/// Exactly one of [`StreamEncoder::finish`] and [`StreamEncoder::fail`] is called, once, last.
pub trait StreamEncoder: Send {
    /// The stream's media type.
    fn content_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }
    /// What is sent while nothing happens, so that clients and proxies see that the stream lives; `None` if the format
    /// has no such thing.
    fn keep_alive(&self) -> Option<&'static str> {
        // A comment, which clients skip.
        Some(": keep-alive\n\n")
    }
    /// Appends the events for one piece of the answer to prompt `prompt` (0 where there is only one).
    fn push(&mut self, prompt: usize, delta: &Delta, out: &mut String);
    /// Appends the regular end.
    fn finish(&mut self, out: &mut String);
    /// Appends the one event that says that the answer failed.
    fn fail(&mut self, error: &openai::ErrorObject, out: &mut String);
}

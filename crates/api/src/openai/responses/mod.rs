//! The Responses API: the body, the reply, the named events, and what is stored of them.
//!
//! A body's input and a reply's output are lists of *items*: messages, thoughts, calls of functions and what those
//! returned. A stored response keeps its own items; to continue it, the items of all responses before it are put in
//! front of the new ones ([`ResponsesCall::into_request`]).
//!
//! What this server's models do not do is refused by name: tools that the server would run itself, references to
//! files, conversations, prompts kept elsewhere.

mod body;
mod events;
mod input;
mod options;
mod output;
pub mod refused;
mod reply;
pub(crate) mod schema;
mod stored;

pub use crate::tools::TOOLS_MAX;
pub(super) use body::take_metadata;
pub use body::{Echo, ResponsesCall, parse};
pub use events::ResponsesEncoder;
pub use input::ITEMS_MAX;
pub use reply::Reply;
pub use stored::{ItemList, ListOptions, StoredTurn, deleted, input_items, interrupted, is_background};

#[cfg(test)]
mod tests;

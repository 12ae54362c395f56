//! Markdown as models write it, for a terminal: from text that arrives in pieces to styled lines.
//!
//! Everything here is pure. [`Parser`] takes text in and gives the [`Block`]s that are complete, and on request those
//! that are still open, as they would look if the text ended here. [`Layout`] turns a block into lines. What is complete
//! never changes; what is open may, when a table grows or an emphasis closes.

mod block;
mod highlight;
mod inline;
mod parse;
mod table;
mod wrap;

#[cfg(test)]
mod tests;

pub use block::{Block, Layout};
pub use parse::Parser;
pub use wrap::wrap;

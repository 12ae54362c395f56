//! What an answer's text must obey, as masks over tokens.
//!
//! A [`Compiler`] belongs to one loaded model: it turns a [`Format`](ingle_chat::Format) into a [`Grammar`], which is
//! cached, and a grammar gives each answer a [`Matcher`]. Before every token the matcher says which ones may come
//! ([`Matcher::mask`]); after it, it is told which one came ([`Matcher::accept`]).
//!
//! It never fails open. A schema is read keyword by keyword before it is compiled, and what could not be enforced is
//! refused with its JSON pointer; then it is written anew, with only what the recognizer below (llguidance) is known
//! to enforce. Numbers and lengths at which that one would err are made stricter, never looser. Everything has a
//! bound: [`Limits`].
//!
//! Control tokens are no text: no format allows them but where a grammar or a rule names them. The tokens that end an
//! answer are allowed exactly when the text may end.

#![forbid(unsafe_code)]

mod cache;
mod compiler;
mod error;
mod gbnf;
mod lark;
mod limits;
mod mask;
mod matcher;
mod pattern;
mod rule;
mod schema;
mod vocabulary;

pub use compiler::Compiler;
pub use error::GrammarError;
pub use limits::Limits;
pub use mask::TokenMask;
pub use matcher::{Grammar, Matcher};

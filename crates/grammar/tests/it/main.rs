//! What the crate promises, on a small vocabulary made here and, where the shared data is there, on one of 128k.

mod bfcl;
mod common;
mod formats;
mod gbnf;
mod hostile;
mod matchers;
mod rules;
mod schemas;
mod suites;

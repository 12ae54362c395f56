//! Text to tokens and back, with vocabularies made here and those of the shared data.

mod infill;
mod shared_vocabularies;
mod small_vocabularies;
mod split_characters;

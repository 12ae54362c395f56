//! The bounds of formats, and of what comes of them.

use llguidance::api::ParserLimits;

/// Bounds. The defaults are generous to schemas of real tools, and small enough that a hostile one costs half a
/// second and some tens of MiB at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a format, all its schemas and grammars together.
    pub bytes: usize,
    /// How deep a schema, a rule or a grammar's brackets may be nested.
    pub depth: usize,
    /// Properties of a schema, all objects together.
    pub properties: usize,
    /// Values in `enum`s and choices, all together.
    pub enum_values: usize,
    /// Schemas within a schema.
    pub subschemas: usize,
    /// Rules and terminals of a grammar, those too that it is translated to.
    pub definitions: usize,
    /// Bytes of one regular expression.
    pub pattern_bytes: usize,
    /// Bytes of all of them.
    pub patterns_bytes: usize,
    /// The largest number of required repetitions (`minItems`, `minLength`, `{n}`).
    pub repetitions: u32,
    /// States of one answer's lexer, at about 2 kB each.
    pub lexer_states: usize,
    /// Symbols of a compiled grammar.
    pub grammar_symbols: usize,
    /// Work to compile the lexer: 50,000 are about a millisecond.
    pub compile_fuel: u64,
    /// Work of the lexer for one mask: 14,000 are about a millisecond.
    pub mask_fuel: u64,
    /// Items of the parser for one mask: 20,000 are about a millisecond.
    pub mask_items: usize,
    /// Bytes of the cache of compiled grammars.
    pub cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            depth: 64,
            properties: 10_000,
            enum_values: 10_000,
            subschemas: 10_000,
            definitions: 4_000,
            pattern_bytes: 4 << 10,
            patterns_bytes: 128 << 10,
            repetitions: 1 << 16,
            lexer_states: 30_000,
            grammar_symbols: 500_000,
            compile_fuel: 500_000,
            mask_fuel: 200_000,
            mask_items: 200_000,
            cache_bytes: 64 << 20,
        }
    }
}

impl Limits {
    pub(crate) fn parser(&self) -> ParserLimits {
        ParserLimits {
            initial_lexer_fuel: self.compile_fuel,
            step_lexer_fuel: self.mask_fuel,
            step_max_items: self.mask_items,
            max_lexer_states: self.lexer_states,
            max_grammar_size: self.grammar_symbols,
            // As many properties as an object may have, of which any may come next. The sum is bounded by `mask_items`.
            max_items_in_row: self.mask_items / 4,
            // Its errors would carry the grammar and the answer.
            verbose_errors: false,
            ..ParserLimits::default()
        }
    }
}

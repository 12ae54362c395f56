//! Formats to grammars, once each.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ingle_chat::Format;
use ingle_tokenizer::Tokenizer;
use llguidance::api::{GrammarInit, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Logger, ParserFactory};
use toktrie::{InferenceCapabilities, TokEnv};

use crate::cache::Cache;
use crate::lark::Source;
use crate::vocabulary::Vocabulary;
use crate::{Grammar, GrammarError, Limits, TokenMask, gbnf, lark, pattern, rule, schema};

/// Schemas and rules refer to each other in long chains, which the recognizer's compiler follows by recursion. Only what is
/// touched of it becomes memory.
const STACK_BYTES: usize = 128 << 20;
/// How many tokens are generated, to try a grammar.
const TRIED_TOKENS: usize = 2;
/// What a compiled grammar takes at least, and for every byte of its format: estimates, on the high side.
const GRAMMAR_BYTES: usize = 128 << 10;
const GRAMMAR_BYTES_PER_BYTE: usize = 48;

/// Turns formats into grammars for one model's vocabulary. To be shared: all calls may come from many threads.
pub struct Compiler {
    tokenizer: Arc<Tokenizer>,
    limits: Limits,
    /// Made at the first compile: most models are never asked for a format.
    shared: OnceLock<Result<Shared, GrammarError>>,
    cache: Mutex<Cache>,
}

struct Shared {
    vocabulary: Arc<Vocabulary>,
    factory: ParserFactory,
}

impl Compiler {
    /// A compiler for the vocabulary of `tokenizer`.
    pub fn new(tokenizer: &Arc<Tokenizer>, limits: Limits) -> Self {
        Self {
            tokenizer: Arc::clone(tokenizer),
            cache: Mutex::new(Cache::new(limits.cache_bytes)),
            limits,
            shared: OnceLock::new(),
        }
    }

    /// The grammar of a format: from the cache, or compiled, which takes milliseconds and at most about half a second.
    /// The first call also builds the vocabulary's trie.
    ///
    /// # Errors
    /// If the format is wrong, over a limit, or cannot be enforced.
    pub fn compile(&self, format: &Format) -> Result<Arc<Grammar>, GrammarError> {
        check_size(format, &self.limits)?;
        let key = format!("{format:?}");
        if let Some(grammar) = self.cache().get(&key) {
            return Ok(grammar);
        }
        // A thread of its own for its stack. It is also the second wall against a panic in the recognizer: what is
        // known to panic there is refused before, and its own boundary turns most others into errors.
        let work = || {
            let shared = self.shared()?;
            build(shared, format, &self.limits)
        };
        let grammar = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let handle = thread.spawn_scoped(scope, work).map_err(|error| GrammarError::TooComplex {
                reason: format!("no thread to compile it: {error}"),
            })?;
            handle
                .join()
                .unwrap_or_else(|_| Err(GrammarError::unsupported("it makes the grammar compiler fail")))
        })?;
        let grammar = Arc::new(grammar);
        let bytes = GRAMMAR_BYTES + GRAMMAR_BYTES_PER_BYTE * key.len();
        self.cache().insert(key, Arc::clone(&grammar), bytes);
        Ok(grammar)
    }

    /// How many grammars are kept.
    pub fn n_cached(&self) -> usize {
        self.cache().len()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> Result<&Shared, GrammarError> {
        self.shared.get_or_init(|| Shared::new(&self.tokenizer, &self.limits)).as_ref().map_err(Clone::clone)
    }
}

impl Shared {
    fn new(tokenizer: &Arc<Tokenizer>, limits: &Limits) -> Result<Self, GrammarError> {
        let vocabulary = Arc::new(Vocabulary::new(tokenizer)?);
        let env: TokEnv = vocabulary.clone();
        // Parts of the vocabulary whose tokens are allowed or forbidden as a whole, in strings most of all.
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(|error| {
                GrammarError::unsupported(format!("no grammars for this vocabulary: {error:#}"))
            })?;
        factory.quiet();
        *factory.limits_mut() = limits.parser();
        Ok(Self { vocabulary, factory })
    }
}

/// A format's text, in bytes, and its nesting, without recursion.
fn check_size(format: &Format, limits: &Limits) -> Result<(), GrammarError> {
    let bytes = match format {
        Format::JsonObject => 0,
        Format::JsonSchema(schema) => schema::measure(schema, limits)?,
        Format::Regex(text) | Format::Gbnf(text) | Format::Lark(text) => text.len(),
        Format::Choice(choices) => {
            if choices.len() > limits.enum_values {
                let reason = format!("{} choices: at most {} are allowed", choices.len(), limits.enum_values);
                return Err(GrammarError::too_large(reason));
            }
            choices.iter().map(|choice| choice.len() + 1).sum()
        }
        Format::Rule(rule) => rule::measure(rule, limits)?,
    };
    if bytes > limits.bytes {
        let reason = format!("the format is {bytes} bytes long: at most {} are allowed", limits.bytes);
        return Err(GrammarError::too_large(reason));
    }
    Ok(())
}

fn build(shared: &Shared, format: &Format, limits: &Limits) -> Result<Grammar, GrammarError> {
    let vocabulary = &shared.vocabulary;
    let source = match format {
        Format::JsonObject => {
            let object = serde_json::json!({ "type": "object" });
            Source::json(schema::prepare(&object, limits)?)
        }
        Format::JsonSchema(schema) => Source::json(schema::prepare(schema, limits)?),
        Format::Regex(regex) => {
            check_pattern_size(regex, limits)?;
            let regex = pattern::whole(regex).map_err(|fault| fault.into_error(None))?;
            Source::lark(format!("start: {}\n", lark::regex(&regex)))
        }
        Format::Choice(choices) => Source::lark(lark::choice(choices)?),
        Format::Gbnf(text) => gbnf::to_source(text, vocabulary, limits)?,
        Format::Lark(text) => lark::user(text, vocabulary, limits)?,
        Format::Rule(rule) => rule::to_source(rule, vocabulary, limits)?,
    };
    let named = {
        let mut mask = TokenMask::new(vocabulary.n_vocab());
        source.named.iter().for_each(|&id| mask.allow(id));
        mask
    };
    let top = TopLevelGrammar { grammars: source.grammars(), max_tokens: None };
    let parser = shared
        .factory
        .create_parser_from_init_ext(
            GrammarInit::Serialized(top),
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            limits.parser(),
        )
        .map_err(|error| source.explain(&message(&error), limits))?;
    let grammar = Grammar::new(parser, vocabulary, named, !source.no_forcing);
    match try_out(&grammar, vocabulary.n_vocab()) {
        Ok(()) => Ok(grammar),
        Err(GrammarError::DeadEnd) => Err(GrammarError::invalid(
            "no text of this model's tokens can satisfy it: its parts contradict each other, or it never ends",
        )),
        Err(GrammarError::TooComplex { reason }) => {
            Err(GrammarError::too_large(format!("already its beginning is too complex: {reason}")))
        }
        Err(error) => Err(error),
    }
}

/// Takes the first steps: what is too complex, or leads nowhere, mostly is so at once.
fn try_out(grammar: &Grammar, n_vocab: usize) -> Result<(), GrammarError> {
    let mut matcher = grammar.matcher();
    let mut mask = TokenMask::new(n_vocab);
    matcher.mask(&mut mask)?;
    for _ in 0..TRIED_TOKENS {
        let Some(token) = mask.tokens().next() else { break };
        // Another token than this one may lead on.
        match matcher.accept(token).and_then(|()| matcher.mask(&mut mask)) {
            Err(GrammarError::DeadEnd) => break,
            result => result?,
        }
        if matcher.must_end() {
            break;
        }
    }
    Ok(())
}

pub(crate) fn check_pattern_size(pattern: &str, limits: &Limits) -> Result<(), GrammarError> {
    if pattern.len() > limits.pattern_bytes {
        let reason = format!(
            "the regular expression is {} bytes long: at most {} are allowed",
            pattern.len(),
            limits.pattern_bytes
        );
        return Err(GrammarError::too_large(reason));
    }
    Ok(())
}

/// An error of the recognizer, its causes too, without traces.
pub(crate) fn message(error: &dyn std::fmt::Display) -> String {
    let text = format!("{error:#}");
    let text = text.split("\n<backtrace>").next().unwrap_or_default();
    let text = text.split("\n<non-verbose/>").next().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("while processing #")).collect();
    lines.join("\n").trim().to_owned()
}

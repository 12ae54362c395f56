//! Decoding that obeys a JSON Schema, beside decoding that is free.
//!
//! Runs take turns, so that all meet the same minutes of a shared machine: free, constrained, and constrained with jumps
//! over what the schema forces. As in the engine, a mask is made between `submit` and `wait`, and what follows from a
//! token after it.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ingle_chat::Format;
use ingle_engine::sampling::{DryBreakers, Sampler};
use ingle_gguf::GgufFile;
use ingle_grammar::{Compiler, Grammar, Limits, Matcher, TokenMask};
use ingle_step::{SamplingParams, TokenId};
use ingle_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::session::{Run, Session};
use super::{Plan, median};

/// The name of the schema that comes with the program.
pub(super) const BUILT_IN: &str = "built-in";
/// Long names, short values: what tools and extraction ask for.
const SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "customer_reference_number": { "type": "string", "maxLength": 12 },
    "customer_satisfaction_rating": { "type": "integer", "minimum": 1, "maximum": 5 },
    "requires_immediate_attention": { "type": "boolean" },
    "classification_of_the_problem": { "enum": ["billing and payments", "delivery and shipping", "technical difficulty"] },
    "suggested_resolution_steps": { "type": "array", "items": { "type": "string", "maxLength": 24 }, "minItems": 1, "maxItems": 3 },
    "responsible_department": {
      "type": "object",
      "properties": {
        "department_identifier": { "type": "integer", "minimum": 0, "maximum": 999 },
        "department_display_name": { "type": "string", "maxLength": 16 }
      },
      "required": ["department_identifier", "department_display_name"],
      "additionalProperties": false
    }
  },
  "required": [
    "customer_reference_number", "customer_satisfaction_rating", "requires_immediate_attention",
    "classification_of_the_problem", "suggested_resolution_steps", "responsible_department"
  ],
  "additionalProperties": false
}"#;

/// A schema, compiled for a vocabulary.
pub(super) struct Constrained {
    grammar: Arc<Grammar>,
    n_vocab: usize,
}

/// How the tokens of a run are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Free,
    Obeying,
    Jumping,
}

/// One answer after the other, until enough was said.
struct Speaker<'a> {
    constrained: &'a Constrained,
    way: Way,
    sampler: Sampler,
    matcher: Matcher,
    mask: TokenMask,
    scratch: Vec<f32>,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    masks: Vec<Duration>,
    /// All that a constraint costs, masks too.
    spent: Duration,
    n_forced: usize,
}

impl Constrained {
    /// Compiles a schema for the model's vocabulary, or for that of another file.
    pub(super) fn new(schema: &str, vocabulary: Option<&String>, model: &GgufFile) -> Result<Self> {
        let text = match schema {
            BUILT_IN => SCHEMA.to_owned(),
            path => std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?,
        };
        let schema = serde_json::from_str(&text).with_context(|| format!("{schema} is no JSON"))?;
        let tokenizer = match vocabulary {
            None => Tokenizer::from_metadata(model.metadata()),
            Some(path) => {
                let file = GgufFile::open(Path::new(path)).with_context(|| format!("cannot use {path}"))?;
                Tokenizer::from_metadata(file.metadata())
            }
        };
        let tokenizer = Arc::new(tokenizer.context("no vocabulary to make masks of")?);
        let n_vocab = tokenizer.n_vocab();
        let grammar = Compiler::new(&tokenizer, Limits::default())
            .compile(&Format::JsonSchema(schema))
            .context("the schema cannot be enforced")?;
        Ok(Self { grammar, n_vocab })
    }

    /// Runs in turns, and what came of them.
    pub(super) fn measure(&self, session: &mut Session, plan: &Plan) -> Result<Map<String, Value>> {
        if self.n_vocab > session.weights().n_vocab {
            bail!("the vocabulary has {} tokens, the model {}", self.n_vocab, session.weights().n_vocab);
        }
        let ways = [Way::Free, Way::Obeying, Way::Jumping];
        let mut runs: [Vec<f64>; 3] = Default::default();
        let mut tallies: [Tally; 3] = Default::default();
        let mut seconds = [0.0; 3];
        let mut n_tokens = [0; 3];
        for repetition in 0..plan.repetitions {
            for (at, way) in ways.into_iter().enumerate() {
                let mut speaker = Speaker::new(self, way, repetition as u64);
                let run = speaker.run(session, plan.depth, plan.n_gen)?;
                runs[at].push(run.tokens_per_s());
                seconds[at] += run.seconds;
                n_tokens[at] += run.n_tokens;
                tallies[at].add(speaker.tally);
            }
        }
        let [free, obeying, jumping] = runs.map(|mut runs| median(&mut runs));
        let [_, tally, jumps] = &mut tallies;
        tally.masks.sort_unstable();
        let at = |share: f64| {
            let last = tally.masks.len().saturating_sub(1);
            tally.masks.get((last as f64 * share) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        let row = json!({
            "n_tokens": plan.n_gen, "depth": plan.depth, "n_vocab": self.n_vocab,
            "free_tokens_per_s": free, "tokens_per_s": obeying,
            "masks": tally.masks.len(), "mask_median_us": at(0.5), "mask_p99_us": at(0.99), "mask_max_us": at(1.0),
            "share_of_decode": tally.spent.as_secs_f64() / seconds[1],
            "jumping_tokens_per_s": jumping,
            "jumping_share_of_decode": jumps.spent.as_secs_f64() / seconds[2],
            "forced_share_of_tokens": jumps.n_forced as f64 / n_tokens[2] as f64,
        });
        let Value::Object(row) = row else { unreachable!("it is written as an object") };
        Ok(row)
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.masks.extend(other.masks);
        self.spent += other.spent;
        self.n_forced += other.n_forced;
    }
}

impl<'a> Speaker<'a> {
    fn new(constrained: &'a Constrained, way: Way, seed: u64) -> Self {
        let params = SamplingParams { seed, ..SamplingParams::default() };
        Self {
            constrained,
            way,
            sampler: Sampler::new(params, DryBreakers::default(), 0),
            matcher: constrained.grammar.matcher(),
            mask: TokenMask::new(constrained.n_vocab),
            scratch: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Says so many tokens in one sequence, after `depth` that are there already.
    fn run(&mut self, session: &mut Session, depth: usize, n_tokens: usize) -> Result<Run> {
        session.hold(1, depth)?;
        let started = Instant::now();
        let (mut pending, mut n_computed) = (vec![TokenId(0)], 0);
        while n_computed < n_tokens {
            pending.truncate(n_tokens - n_computed);
            let n_before = depth + n_computed;
            n_computed += pending.len();
            // Both want the speaker, one after the other.
            let speaker = RefCell::new(&mut *self);
            let position = n_before + pending.len();
            pending = session.say(
                n_before,
                &pending,
                || speaker.borrow_mut().prepare(),
                |logits| speaker.borrow_mut().pick(logits, position),
            )??;
        }
        Ok(Run { n_tokens, seconds: started.elapsed().as_secs_f64() })
    }

    /// While a step runs: the mask for what it gives.
    fn prepare(&mut self) -> Result<()> {
        if self.way == Way::Free {
            return Ok(());
        }
        let started = Instant::now();
        self.matcher.mask(&mut self.mask)?;
        let took = started.elapsed();
        self.tally.masks.push(took);
        self.tally.spent += took;
        Ok(())
    }

    /// A token, and those that are certain to follow.
    fn pick(&mut self, logits: &[f32], position: usize) -> Result<Vec<TokenId>> {
        self.scratch.clear();
        self.scratch.extend_from_slice(logits);
        if self.way == Way::Free {
            return Ok(vec![self.sampler.sample(&mut self.scratch, position as u64)]);
        }
        let started = Instant::now();
        self.mask.apply(&mut self.scratch);
        self.tally.spent += started.elapsed();
        let token = self.sampler.sample(&mut self.scratch, position as u64);
        let started = Instant::now();
        let mut tokens = vec![token];
        self.accept(token)?;
        if self.way == Way::Jumping {
            for token in self.matcher.forced() {
                self.accept(token)?;
                tokens.push(token);
                self.tally.n_forced += 1;
            }
        }
        self.tally.spent += started.elapsed();
        Ok(tokens)
    }

    /// Goes on by a token; after an end, with the next answer.
    fn accept(&mut self, token: TokenId) -> Result<()> {
        self.matcher.accept(token)?;
        if self.matcher.must_end() {
            self.matcher = self.constrained.grammar.matcher();
        }
        Ok(())
    }
}

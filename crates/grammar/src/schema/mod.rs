//! JSON Schemas: read keyword by keyword, and written anew with only what is enforced.
//!
//! The recognizer takes most of draft 2020-12. It ignores what it does not know, and some of what it does; so nothing
//! reaches it but what [`keywords`] lists as enforced. On the way:
//! - what cannot be enforced is refused, with its pointer and keyword, unless it demands nothing where it stands;
//! - references become short ones into one flat `$defs` ([`references`]);
//! - older drafts' spellings become today's;
//! - numbers that a double cannot hold, and counts beyond any answer, are made stricter.
//!
//! Strings have one spelling each in what is generated: no `\u` escapes. The recognizer compares names of properties
//! by their spelling, and `"\u0061"` would pass for another name than `"a"`. So control characters other than those
//! with a short escape cannot be generated.
//!
//! Properties come in the order of the schema. Between tokens there may be white space as models write it, but no more,
//! or weak ones fill answers with it ([`indents`]).

mod endless;
mod formats;
mod indents;
mod keywords;
mod numbers;
mod references;
mod rewrite;
mod work;

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::lark::validate_schema;
use crate::{GrammarError, Limits};
use references::References;
use rewrite::Rewriter;

/// Escapes of one letter.
const ESCAPES: &str = "nrbtf\\\"";
/// How many schemas within a refused schema are tried alone, to find the guilty one.
const EXPLAINED_MAX: usize = 2_000;
/// And for how long.
const EXPLAINING_MAX: Duration = Duration::from_millis(100);

/// A schema that was read.
pub(crate) struct Prepared {
    /// What the recognizer gets.
    pub compiled: Value,
    original: Value,
}

/// Reads a schema.
pub(crate) fn prepare(schema: &Value, limits: &Limits) -> Result<Prepared, GrammarError> {
    let mut rewriter = Rewriter::new(References::new(schema)?, limits);
    let written = rewriter.schema(schema)?;
    if !endless::ends(&written) {
        let reason = "no value can be valid: each one must have another one in it, without end";
        return Err(GrammarError::invalid(reason).at("", "$ref"));
    }
    work::check(&written)?;
    let compiled = with_options(written)?;
    Ok(Prepared { compiled, original: schema.clone() })
}

fn with_options(schema: Value) -> Result<Value, GrammarError> {
    let white_space = indents::white_space(&schema);
    let mut map = match schema {
        Value::Object(map) => map,
        Value::Bool(true) => Map::new(),
        _ => return Err(GrammarError::invalid("no answer is valid under the schema `false`").at("", "false")),
    };
    map.insert(
        "x-guidance".to_owned(),
        json!({ "whitespace_pattern": white_space, "json_allowed_escapes": ESCAPES }),
    );
    Ok(Value::Object(map))
}

/// What is wrong with a schema that was read, if the recognizer refuses it: the innermost schema that it refuses for
/// the same reason, and the keyword there.
pub(crate) fn explain(schema: &Prepared, limits: &Limits) -> Option<GrammarError> {
    let text = validate_schema(&schema.compiled, limits)?;
    let error = crate::lark::refusal(&text);
    let deadline = Instant::now() + EXPLAINING_MAX;
    let mut rewriter = Rewriter::new(References::new(&schema.original).ok()?, limits).recording();
    let whole = rewriter.schema(&schema.original).ok()?;
    let definitions = whole.get("$defs").cloned().unwrap_or_else(|| json!({}));
    let same_fault = |part: &Map<String, Value>| {
        if Instant::now() > deadline {
            return false;
        }
        let mut part = part.clone();
        part.insert("$defs".to_owned(), definitions.clone());
        let found = with_options(Value::Object(part)).ok().and_then(|part| validate_schema(&part, limits));
        found.is_some_and(|found| text.contains(&found) || found.contains(&text))
    };
    let keyword_of = |part: &Map<String, Value>| {
        let alone = |keyword: &str| {
            let kept = part.iter().filter(|(key, _)| *key == keyword || *key == "type");
            same_fault(&kept.map(|(key, value)| (key.clone(), value.clone())).collect())
        };
        let keywords = || part.keys().filter(|key| *key != "type");
        keywords().find(|key| alone(key)).or(keywords().next()).map_or("type".to_owned(), Clone::clone)
    };
    // Inner schemas were recorded before those that they are in. One that only refers to the guilty one is not meant.
    let mut referring = None;
    for (pointer, part) in rewriter.recorded().iter().take(EXPLAINED_MAX).filter(|(_, part)| same_fault(part))
    {
        let keyword = keyword_of(part);
        if keyword != "$ref" {
            return Some(error.at(pointer, &keyword));
        }
        referring.get_or_insert((pointer, keyword));
    }
    Some(match referring {
        Some((pointer, keyword)) => error.at(pointer, &keyword),
        None => error,
    })
}

/// The size of a schema in bytes, roughly, after its nesting was checked. Without recursion: nothing is known of it.
pub(crate) fn measure(schema: &Value, limits: &Limits) -> Result<usize, GrammarError> {
    let mut bytes = 0;
    let mut todo = vec![(schema, 0)];
    while let Some((value, depth)) = todo.pop() {
        // Each schema takes up to two levels of JSON.
        if depth > 2 * limits.depth {
            let reason = format!("the schema is nested deeper than {} levels", limits.depth);
            return Err(GrammarError::too_large(reason));
        }
        bytes += match value {
            Value::String(text) => text.len() + 3,
            Value::Array(items) => {
                todo.extend(items.iter().map(|item| (item, depth + 1)));
                items.len() + 2
            }
            Value::Object(map) => {
                todo.extend(map.values().map(|value| (value, depth + 1)));
                map.keys().map(|key| key.len() + 4).sum::<usize>() + 2
            }
            _ => 8,
        };
        if bytes > limits.bytes {
            let reason = format!("the schema is longer than {} bytes", limits.bytes);
            return Err(GrammarError::too_large(reason));
        }
    }
    Ok(bytes)
}

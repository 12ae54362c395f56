//! The walk over a schema that writes it anew.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use super::formats;
use super::keywords::{APPLICATORS, EVALUATING, FORMATS, Kind, Shape, TYPES, kind};
use super::numbers;
use super::references::{References, step};
use crate::compiler::check_pattern_size;
use crate::{GrammarError, Limits, pattern};

/// `patternProperties` of one object: they are compared with each other.
const PATTERN_PROPERTIES_MAX: usize = 20;
/// Regular expressions of a schema: each is checked for whether it matches anything.
const PATTERNS_MAX: usize = 500;
/// Properties of one object, and cases of one choice: the recognizer compares each with each.
const SIBLINGS_MAX: usize = 1_000;
/// Schemas that are referred to: the recognizer follows chains of them by recursion.
const REFERRED_MAX: usize = 2_000;
/// A reference to a reference, and so on.
const REFERENCE_CHAIN_MAX: usize = 1_000;
/// Stands for a format among what a keyword becomes, until it is put into `allOf`.
const FORMAT_APART: &str = "\0format";
/// Times [`Limits::repetitions`]: a larger upper bound is taken for this one, which no answer reaches.
const UPPER_BOUND_FACTOR: u64 = 16;

pub(super) struct Rewriter<'a> {
    references: References<'a>,
    limits: &'a Limits,
    /// Numbers of the schemas that are referred to, by their pointers.
    numbers: HashMap<String, usize>,
    /// Those of them that are still to be written.
    pending: Vec<(&'a Value, String)>,
    is_draft4: bool,
    n_schemas: usize,
    n_properties: usize,
    n_enum_values: usize,
    n_patterns: usize,
    patterns_bytes: usize,
    multiples: Vec<(u64, u32)>,
    recorded: Option<Vec<(String, Map<String, Value>)>>,
}

impl<'a> Rewriter<'a> {
    pub fn new(references: References<'a>, limits: &'a Limits) -> Self {
        Self {
            references,
            limits,
            numbers: HashMap::new(),
            pending: Vec::new(),
            is_draft4: false,
            n_schemas: 0,
            n_properties: 0,
            n_enum_values: 0,
            n_patterns: 0,
            patterns_bytes: 0,
            multiples: Vec::new(),
            recorded: None,
        }
    }

    /// Keeps every schema that is written, with its pointer in the original.
    pub fn recording(mut self) -> Self {
        self.recorded = Some(Vec::new());
        self
    }

    pub fn recorded(&self) -> &[(String, Map<String, Value>)] {
        self.recorded.as_deref().unwrap_or_default()
    }

    /// Writes the whole document.
    pub fn schema(&mut self, document: &'a Value) -> Result<Value, GrammarError> {
        let dialect = document.get("$schema").and_then(Value::as_str).unwrap_or_default();
        self.is_draft4 = dialect.contains("json-schema.org/draft-04/");
        let mut root = self.rewrite(document, "", 0)?;
        let mut definitions = Map::new();
        while let Some((schema, pointer)) = self.pending.pop() {
            let name = format!("r{}", self.numbers[&pointer]);
            definitions.insert(name, self.rewrite(schema, &pointer, 0)?);
        }
        if let (Value::Object(root), false) = (&mut root, definitions.is_empty()) {
            root.insert("$defs".to_owned(), Value::Object(definitions));
        }
        Ok(root)
    }

    fn rewrite(&mut self, schema: &'a Value, pointer: &str, depth: usize) -> Result<Value, GrammarError> {
        let too_large =
            |reason: String| Err(GrammarError::TooLarge { pointer: Some(pointer.to_owned()), reason });
        if depth > self.limits.depth {
            return too_large(format!("schemas are nested deeper than {} levels", self.limits.depth));
        }
        self.n_schemas += 1;
        if self.n_schemas > self.limits.subschemas {
            return too_large(format!(
                "the schema has more than {} schemas within it",
                self.limits.subschemas
            ));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => {
                let reason = "a schema is an object, `true` or `false`";
                return Err(GrammarError::Invalid {
                    pointer: Some(pointer.to_owned()),
                    keyword: None,
                    reason: reason.to_owned(),
                });
            }
        };
        let types = types_of(map);
        let mut before = Vec::new();
        let mut simple = Map::new();
        let mut behind = Vec::new();
        let mut apart = None;
        for (keyword, value) in map {
            let concerns = |of: &[&str]| of.len() == TYPES.len() || types.iter().any(|one| of.contains(one));
            match kind(keyword) {
                Kind::Annotation if keyword == "$schema" => check_dialect(value, pointer)?,
                Kind::Annotation => {}
                Kind::Refused(of, _) if !concerns(of) || demands_nothing(keyword, value, map) => {}
                Kind::Refused(_, reason) => match unevaluated(keyword, map) {
                    Some(("", _)) => {}
                    Some((other, value)) => {
                        let value = self.rewrite(value, &step(pointer, keyword), depth + 1)?;
                        simple.insert(other.to_owned(), value);
                    }
                    None => return Err(GrammarError::unsupported(reason).at(pointer, keyword)),
                },
                // It demands nothing of the types that the value may have.
                Kind::Enforced(_, of) if !concerns(of) => {}
                Kind::Enforced(shape, _) => {
                    let keyed = Keyed { keyword, value, map, pointer, depth };
                    for (keyword, value) in self.keyword(shape, &keyed)? {
                        if keyword == FORMAT_APART {
                            apart = Some(value);
                        } else if !APPLICATORS.contains(&keyword.as_str()) {
                            simple.insert(keyword, value);
                        } else if simple.is_empty() {
                            before.push((keyword, value));
                        } else {
                            behind.push((keyword, value));
                        }
                    }
                }
            }
        }
        // The recognizer reads what stands between applicators as schemas of their own. Keywords that know of each
        // other must stand together; the order of the rest is kept, as it is the order of properties.
        let mut written: Map<String, Value> = before.into_iter().chain(simple).chain(behind).collect();
        if let Some(format) = apart {
            let all = written.entry("allOf").or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(all) = all {
                all.push(format);
            }
        }
        if let Some(recorded) = &mut self.recorded {
            recorded.push((pointer.to_owned(), written.clone()));
        }
        Ok(Value::Object(written))
    }

    /// What becomes of a keyword.
    fn keyword(&mut self, shape: Shape, at: &Keyed<'a, '_>) -> Result<Vec<(String, Value)>, GrammarError> {
        let value = at.value;
        let written = match shape {
            Shape::Schema if at.keyword == "additionalItems" => return Ok(Vec::new()),
            Shape::Schema => self.rewrite(value, &step(at.pointer, at.keyword), at.depth + 1)?,
            Shape::Schemas => self.schemas(at)?,
            Shape::Items => match value {
                Value::Array(_) => {
                    if at.map.contains_key("prefixItems") {
                        return Err(at.invalid("a list here, and `prefixItems`, cannot both be"));
                    }
                    let mut written = vec![("prefixItems".to_owned(), self.schemas(at)?)];
                    if let Some(rest) = at.map.get("additionalItems") {
                        let pointer = step(at.pointer, "additionalItems");
                        written.push(("items".to_owned(), self.rewrite(rest, &pointer, at.depth + 1)?));
                    }
                    return Ok(written);
                }
                _ => self.rewrite(value, &step(at.pointer, at.keyword), at.depth + 1)?,
            },
            Shape::Properties => self.properties(at)?,
            Shape::Patterns => self.pattern_properties(at)?,
            Shape::Types => types(at)?,
            Shape::Names => self.names(at)?,
            Shape::Value => {
                check_constant(value, at)?;
                value.clone()
            }
            Shape::Values => self.values(at)?,
            Shape::Count => self.count(at)?,
            Shape::Number => return self.number(at),
            Shape::Pattern => {
                let text = value.as_str().ok_or_else(|| at.invalid("it must be a text"))?;
                Value::from(self.pattern(text, at)?)
            }
            Shape::Format => {
                let name = value.as_str().ok_or_else(|| at.invalid("it must be a text"))?;
                if !FORMATS.contains(&name) {
                    return Err(at.unsupported(&format!(
                        "the format {name:?} is not enforced; these are: {}",
                        FORMATS.join(", ")
                    )));
                }
                let Some((text, longest)) = formats::own(name) else {
                    return Ok(vec![(at.keyword.to_owned(), value.clone())]);
                };
                let mut demands = vec![("pattern".to_owned(), Value::from(text))];
                if let Some(longest) = longest {
                    demands.push(("maxLength".to_owned(), Value::from(longest)));
                }
                // Beside others of the same names, they must stand apart.
                if ["pattern", "maxLength", "allOf"].iter().any(|other| at.map.contains_key(*other)) {
                    return Ok(vec![(FORMAT_APART.to_owned(), Value::Object(demands.into_iter().collect()))]);
                }
                return Ok(demands);
            }
            Shape::Reference => self.reference(at)?,
        };
        Ok(vec![(at.keyword.to_owned(), written)])
    }

    fn schemas(&mut self, at: &Keyed<'a, '_>) -> Result<Value, GrammarError> {
        let Value::Array(items) = at.value else { return Err(at.invalid("it must be a list of schemas")) };
        if items.is_empty() && at.keyword != "prefixItems" && at.keyword != "items" {
            return Err(at.invalid("it must have at least one schema"));
        }
        if items.len() > SIBLINGS_MAX {
            return Err(at.too_large(&format!("{} schemas: at most {SIBLINGS_MAX} are allowed", items.len())));
        }
        let here = step(at.pointer, at.keyword);
        let written = items
            .iter()
            .enumerate()
            .map(|(i, item)| self.rewrite(item, &step(&here, &i.to_string()), at.depth + 1));
        written.collect()
    }

    fn properties(&mut self, at: &Keyed<'a, '_>) -> Result<Value, GrammarError> {
        let Value::Object(properties) = at.value else {
            return Err(at.invalid("it must be an object of schemas"));
        };
        if properties.len() > SIBLINGS_MAX {
            let n = properties.len();
            return Err(
                at.too_large(&format!("{n} properties: at most {SIBLINGS_MAX} are allowed in one object"))
            );
        }
        self.count_properties(properties.len(), at)?;
        let here = step(at.pointer, at.keyword);
        let mut written = Map::new();
        for (name, schema) in properties {
            written.insert(name.clone(), self.rewrite(schema, &step(&here, name), at.depth + 1)?);
        }
        Ok(Value::Object(written))
    }

    fn pattern_properties(&mut self, at: &Keyed<'a, '_>) -> Result<Value, GrammarError> {
        let Value::Object(patterns) = at.value else {
            return Err(at.invalid("it must be an object of schemas"));
        };
        if patterns.len() > PATTERN_PROPERTIES_MAX {
            return Err(at.too_large(&format!("more than {PATTERN_PROPERTIES_MAX} patterns")));
        }
        let here = step(at.pointer, at.keyword);
        let mut written = Map::new();
        for (text, schema) in patterns {
            let text_written = self.pattern(text, at)?;
            let schema = self.rewrite(schema, &step(&here, text), at.depth + 1)?;
            if written.insert(text_written, schema).is_some() {
                return Err(at.unsupported("two patterns are the same: write one"));
            }
        }
        Ok(Value::Object(written))
    }

    fn count_properties(&mut self, n: usize, at: &Keyed) -> Result<(), GrammarError> {
        self.n_properties += n;
        if self.n_properties > self.limits.properties {
            return Err(
                at.too_large(&format!("more than {} properties in the schema", self.limits.properties))
            );
        }
        Ok(())
    }

    fn names(&mut self, at: &Keyed) -> Result<Value, GrammarError> {
        let Value::Array(names) = at.value else {
            return Err(at.invalid("it must be a list of names, in the object's schema"));
        };
        self.count_properties(names.len(), at)?;
        if !names.iter().all(Value::is_string) {
            return Err(at.invalid("it must be a list of names"));
        }
        Ok(at.value.clone())
    }

    fn values(&mut self, at: &Keyed) -> Result<Value, GrammarError> {
        let Value::Array(values) = at.value else { return Err(at.invalid("it must be a list of values")) };
        if values.is_empty() {
            return Err(at.invalid("it must have at least one value"));
        }
        self.n_enum_values += values.len();
        if self.n_enum_values > self.limits.enum_values {
            let limit = self.limits.enum_values;
            return Err(at.too_large(&format!("more than {limit} values of `enum` in the schema")));
        }
        for value in values {
            check_constant(value, at)?;
        }
        Ok(at.value.clone())
    }

    fn count(&mut self, at: &Keyed) -> Result<Value, GrammarError> {
        let largest = u64::from(self.limits.repetitions);
        let count = count_of(at.value).ok_or_else(|| at.invalid("it must be a whole number from 0"))?;
        if at.keyword.starts_with("max") {
            return Ok(Value::from(count.min(largest * UPPER_BOUND_FACTOR)));
        }
        if count > largest {
            return Err(at.too_large(&format!("{count} are demanded: at most {largest} can be")));
        }
        if at.keyword == "minProperties" {
            let n_required = at.map.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
            // Names that are not known could come twice, and would be counted twice.
            if count > n_required + 1 {
                let reason = "it cannot be enforced that so many names differ: name them in `required`";
                return Err(at.unsupported(reason));
            }
        }
        Ok(Value::from(count))
    }

    fn number(&mut self, at: &Keyed) -> Result<Vec<(String, Value)>, GrammarError> {
        let is_upper = at.keyword.ends_with("aximum");
        let value = match (at.keyword, at.value) {
            ("exclusiveMinimum" | "exclusiveMaximum", Value::Bool(exclusive)) => {
                if *exclusive && !self.is_draft4 {
                    return Err(
                        at.invalid("`true` is of draft 4: give the bound itself, and leave the other out")
                    );
                }
                return Ok(Vec::new());
            }
            (_, Value::Number(number)) => number.as_f64().filter(|number| number.is_finite()),
            _ => None,
        };
        let value = value.ok_or_else(|| at.invalid("it must be a number"))?;
        if at.keyword == "multipleOf" {
            if value <= 0.0 {
                return Err(at.invalid("it must be greater than 0"));
            }
            let multiple = numbers::multiple(value).ok_or_else(|| {
                at.unsupported("it has too many digits: 9 at most, before and behind the point")
            })?;
            if !self.multiples.iter().all(|&other| numbers::have_common_multiple(other, multiple)) {
                return Err(
                    at.unsupported("with another `multipleOf` of this schema the numbers become too large")
                );
            }
            self.multiples.push(multiple);
            return Ok(vec![(at.keyword.to_owned(), at.value.clone())]);
        }
        let bound = numbers::bound(value, is_upper)
            .and_then(Number::from_f64)
            .ok_or_else(|| at.unsupported("no number beyond 2^53 can be enforced"))?;
        let other = if is_upper { "exclusiveMaximum" } else { "exclusiveMinimum" };
        // Draft 4: the bound, and whether it is one of the values.
        let name = if at.map.get(other) == Some(&Value::Bool(true)) { other } else { at.keyword };
        Ok(vec![(name.to_owned(), Value::Number(bound))])
    }

    fn pattern(&mut self, text: &str, at: &Keyed) -> Result<String, GrammarError> {
        check_pattern_size(text, self.limits).map_err(|error| error.at(at.pointer, at.keyword))?;
        self.n_patterns += 1;
        self.patterns_bytes += text.len();
        if self.n_patterns > PATTERNS_MAX || self.patterns_bytes > self.limits.patterns_bytes {
            return Err(at.too_large(&format!(
                "more than {PATTERNS_MAX} regular expressions in the schema, or {} bytes of them",
                self.limits.patterns_bytes
            )));
        }
        pattern::whole(text).map_err(|fault| fault.into_error(Some((at.pointer, at.keyword))))
    }

    fn reference(&mut self, at: &Keyed<'a, '_>) -> Result<Value, GrammarError> {
        let mut reference = at.value.as_str().ok_or_else(|| at.invalid("it must be a text"))?;
        let mut from = at.pointer.to_owned();
        for _ in 0..REFERENCE_CHAIN_MAX {
            let (schema, pointer) =
                self.references.resolve(reference, &from).map_err(|reason| at.unsupported(&reason))?;
            // A schema that only refers to another one.
            let only = schema
                .as_object()
                .filter(|map| map.keys().all(|key| key == "$ref" || matches!(kind(key), Kind::Annotation)));
            if let Some(next) = only.and_then(|map| map.get("$ref")).and_then(Value::as_str) {
                reference = next;
                from = pointer;
                continue;
            }
            let next = self.numbers.len();
            if next >= REFERRED_MAX {
                return Err(at.too_large(&format!("more than {REFERRED_MAX} schemas are referred to")));
            }
            let number = *self.numbers.entry(pointer.clone()).or_insert_with(|| {
                self.pending.push((schema, pointer));
                next
            });
            return Ok(Value::from(format!("#/$defs/r{number}")));
        }
        Err(at.invalid("it refers to itself, or there are too many references on the way"))
    }
}

/// A keyword in its schema.
struct Keyed<'a, 'b> {
    keyword: &'b str,
    value: &'a Value,
    map: &'a Map<String, Value>,
    pointer: &'b str,
    depth: usize,
}

impl Keyed<'_, '_> {
    fn invalid(&self, reason: &str) -> GrammarError {
        GrammarError::invalid(reason).at(self.pointer, self.keyword)
    }

    fn unsupported(&self, reason: &str) -> GrammarError {
        GrammarError::unsupported(reason).at(self.pointer, self.keyword)
    }

    fn too_large(&self, reason: &str) -> GrammarError {
        GrammarError::too_large(format!("`{}`: {reason}", self.keyword)).at(self.pointer, self.keyword)
    }
}

/// The types that a value may have at all, as far as the schema says so itself.
fn types_of(map: &Map<String, Value>) -> Vec<&str> {
    let of_value = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match (map.get("type"), map.get("const"), map.get("enum")) {
        (Some(Value::String(one)), _, _) => vec![one],
        (Some(Value::Array(some)), _, _) => some.iter().filter_map(Value::as_str).collect(),
        (_, Some(value), _) => vec![of_value(value)],
        (_, _, Some(Value::Array(values))) => values.iter().map(of_value).collect(),
        _ => TYPES.to_vec(),
    }
}

fn types(at: &Keyed) -> Result<Value, GrammarError> {
    let names: Option<Vec<&str>> = match at.value {
        Value::String(name) => Some(vec![name]),
        Value::Array(names) if !names.is_empty() => names.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let names = names.ok_or_else(|| at.invalid("it must be the name of a type, or a list of names"))?;
    if let Some(unknown) = names.iter().find(|name| !TYPES.contains(name)) {
        return Err(at.invalid(&format!("{unknown:?} is no type; these are: {}", TYPES.join(", "))));
    }
    Ok(at.value.clone())
}

/// Whether a keyword that is not enforced would be fulfilled by any value.
fn demands_nothing(keyword: &str, value: &Value, map: &Map<String, Value>) -> bool {
    let is_any = |schema: &Value| {
        *schema == Value::Bool(true)
            || schema
                .as_object()
                .is_some_and(|map| map.keys().all(|key| matches!(kind(key), Kind::Annotation)))
    };
    let count = |name: &str| map.get(name).and_then(count_of);
    match keyword {
        "not" => *value == Value::Bool(false),
        "if" => !map.contains_key("then") && !map.contains_key("else"),
        "then" | "else" => !map.contains_key("if"),
        "uniqueItems" => *value == Value::Bool(false) || count("maxItems").is_some_and(|max| max <= 1),
        "contains" => count("minContains") == Some(0) && !map.contains_key("maxContains"),
        "minContains" | "maxContains" => {
            !map.contains_key("contains") || count(keyword) == Some(0) && keyword == "minContains"
        }
        "unevaluatedItems" | "unevaluatedProperties" => is_any(value),
        "propertyNames" => {
            is_any(value)
                || value
                    .as_object()
                    .is_some_and(|map| map.len() == 1 && map.get("type") == Some(&"string".into()))
        }
        "dependencies" | "dependentRequired" | "dependentSchemas" => value
            .as_object()
            .is_some_and(|map| map.values().all(|of| is_any(of) || of.as_array().is_some_and(Vec::is_empty))),
        "nullable" => *value == Value::Bool(false),
        _ => false,
    }
}

/// What the `unevaluated` keywords are where nothing else evaluates: the keyword for the rest, and its schema. With
/// an empty name: nothing is left for them.
fn unevaluated<'a>(keyword: &str, map: &'a Map<String, Value>) -> Option<(&'static str, &'a Value)> {
    let rest = match keyword {
        "unevaluatedProperties" => "additionalProperties",
        "unevaluatedItems" => "items",
        _ => return None,
    };
    let value = map.get(keyword)?;
    let is_rest = |value: &Value| rest != "items" || !value.is_array();
    if map.get(rest).is_some_and(is_rest) {
        return Some(("", value));
    }
    let evaluates = EVALUATING.iter().any(|keyword| map.contains_key(*keyword));
    (!evaluates && !map.contains_key(rest)).then_some((rest, value))
}

fn check_dialect(value: &Value, pointer: &str) -> Result<(), GrammarError> {
    match value.as_str() {
        Some(uri) if uri.contains("://json-schema.org/") => Ok(()),
        _ => {
            let reason =
                format!("{value} is no dialect that is known: leave it out, or name one of json-schema.org");
            Err(GrammarError::unsupported(reason).at(pointer, "$schema"))
        }
    }
}

/// Whether a value can be generated as it is.
fn check_constant(value: &Value, at: &Keyed) -> Result<(), GrammarError> {
    match value {
        Value::Number(_) if !numbers::is_exact(value) => Err(
            at.unsupported(&format!("{value} cannot be told from its neighbours: no number beyond 2^53 can"))
        ),
        Value::String(text) => {
            let has_escape = |c: char| matches!(c, '\n' | '\r' | '\t' | '\x08' | '\x0c');
            match text.chars().find(|&c| (c < ' ' || c == '\x7f') && !has_escape(c)) {
                Some(c) => Err(at.unsupported(&format!(
                    "the control character U+{:04X} cannot be generated",
                    u32::from(c)
                ))),
                None => Ok(()),
            }
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_constant(item, at)),
        Value::Object(map) => map.values().try_for_each(|value| check_constant(value, at)),
        _ => Ok(()),
    }
}

/// A whole number from 0; `2.0` is one.
fn count_of(value: &Value) -> Option<u64> {
    let whole = |number: f64| {
        // Up to 2^53 this is exact, and beyond it is too many of anything.
        (number >= 0.0 && number.fract() == 0.0).then_some(number.min(9e15) as u64)
    };
    value.as_u64().or_else(|| value.as_f64().and_then(whole))
}

//! How much work a schema's intersections are.
//!
//! `allOf`, and whatever stands beside `anyOf`, `oneOf` or `$ref`, is an intersection. The recognizer multiplies its
//! cases out and copies what they have in common, and has a bound for the number of cases only: a few kilobytes can
//! keep it busy for minutes. So the same is done here first, on shapes that are cheap to copy, and each copy that the
//! recognizer would make is counted.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::keywords::TYPES;
use crate::GrammarError;

/// Nodes of schemas that are copied or met: about a tenth of a second.
const WORK_MAX: usize = 1 << 19;
/// Objects and lists that cases may multiply to: each becomes a part of the grammar.
const PRODUCTS_MAX: usize = 64;
/// Regular expressions that one text must match: the automaton of all has as many states as theirs multiply to.
const EXPRESSIONS_MAX: usize = 8;
/// Two regular expressions are compared for names that both match: this many copied nodes.
const PATTERN_PAIR_WORK: usize = 1 << 10;
/// Deeper the recognizer gives up.
const DEPTH_MAX: usize = 128;

/// Refuses a schema, written anew, whose intersections are too much work.
pub(super) fn check(schema: &Value) -> Result<(), GrammarError> {
    let definitions = schema.get("$defs").and_then(Value::as_object);
    let mut reader = Reader { definitions, known: HashMap::new(), work: 0 };
    let mut names = definitions.into_iter().flat_map(Map::keys);
    let all = reader.read(schema).and_then(|_| names.try_for_each(|name| reader.definition(name).map(drop)));
    all.map_err(|TooMuch| {
        let reason = "its `allOf`, and what stands beside `anyOf`, `oneOf` or `$ref`, multiply to more cases than can be \
                      written out: give types everywhere, and put fewer choices together";
        GrammarError::too_large(reason)
    })
}

struct TooMuch;

/// What values may be: cases of one type each.
#[derive(Clone)]
enum Shape<'a> {
    Any,
    Cases(Rc<Cases<'a>>),
}

struct Cases<'a> {
    n_nodes: usize,
    list: Vec<Case<'a>>,
}

#[derive(Clone)]
enum Case<'a> {
    Scalar(&'static str),
    /// With so many regular expressions.
    Text(usize),
    Object(Rc<Object<'a>>),
    Array(Rc<Array<'a>>),
    /// To a definition, by its name.
    Reference(&'a str),
}

struct Object<'a> {
    n_nodes: usize,
    properties: BTreeMap<&'a str, Shape<'a>>,
    patterns: BTreeMap<&'a str, Shape<'a>>,
    rest: Shape<'a>,
}

struct Array<'a> {
    n_nodes: usize,
    prefix: Vec<Shape<'a>>,
    rest: Shape<'a>,
}

impl<'a> Shape<'a> {
    fn of(list: Vec<Case<'a>>) -> Self {
        Self::Cases(Rc::new(Cases { n_nodes: 1 + list.iter().map(Case::n_nodes).sum::<usize>(), list }))
    }

    fn n_nodes(&self) -> usize {
        match self {
            Self::Any => 1,
            Self::Cases(cases) => cases.n_nodes,
        }
    }
}

impl<'a> Case<'a> {
    fn object(
        properties: BTreeMap<&'a str, Shape<'a>>,
        patterns: BTreeMap<&'a str, Shape<'a>>,
        rest: Shape<'a>,
    ) -> Self {
        let all = properties.values().chain(patterns.values());
        let n_nodes = all.map(Shape::n_nodes).sum::<usize>() + rest.n_nodes() + 1;
        Self::Object(Rc::new(Object { n_nodes, properties, patterns, rest }))
    }

    fn array(prefix: Vec<Shape<'a>>, rest: Shape<'a>) -> Self {
        let n_nodes = prefix.iter().map(Shape::n_nodes).sum::<usize>() + rest.n_nodes() + 1;
        Self::Array(Rc::new(Array { n_nodes, prefix, rest }))
    }

    fn n_nodes(&self) -> usize {
        match self {
            Self::Object(object) => object.n_nodes,
            Self::Array(array) => array.n_nodes,
            Self::Scalar(_) | Self::Text(_) | Self::Reference(_) => 1,
        }
    }
}

struct Reader<'a> {
    definitions: Option<&'a Map<String, Value>>,
    /// Definitions that were read; `None` while one is.
    known: HashMap<&'a str, Option<Shape<'a>>>,
    work: usize,
}

impl<'a> Reader<'a> {
    fn spend(&mut self, work: usize) -> Result<(), TooMuch> {
        self.work = self.work.saturating_add(work);
        if self.work > WORK_MAX { Err(TooMuch) } else { Ok(()) }
    }

    fn read(&mut self, schema: &'a Value) -> Result<Shape<'a>, TooMuch> {
        self.spend(1)?;
        let Value::Object(map) = schema else {
            return Ok(if *schema == Value::Bool(false) { Shape::of(Vec::new()) } else { Shape::Any });
        };
        let mut shape = Shape::Any;
        let mut was_plain = false;
        for (keyword, value) in map.iter().filter(|(keyword, _)| *keyword != "$defs") {
            let values = || value.as_array().map(Vec::as_slice).unwrap_or_default();
            let part = match keyword.as_str() {
                "const" => constant(value),
                "enum" => one_of(values().iter().map(constant)),
                "anyOf" | "oneOf" => {
                    let cases: Vec<Shape> =
                        values().iter().map(|one| self.read(one)).collect::<Result<_, _>>()?;
                    one_of(cases.into_iter())
                }
                "allOf" => {
                    for one in values() {
                        let part = self.read(one)?;
                        shape = self.meet(&shape, &part, 0)?;
                    }
                    continue;
                }
                "$ref" => {
                    let name = value.as_str().and_then(|uri| uri.strip_prefix("#/$defs/"));
                    Shape::of(name.map(Case::Reference).into_iter().collect())
                }
                // All that is no applicator is read at once, as it stands together.
                _ if was_plain => continue,
                _ => {
                    was_plain = true;
                    self.plain(map)?
                }
            };
            shape = self.meet(&shape, &part, 0)?;
        }
        Ok(shape)
    }

    /// What the keywords say that are no applicators.
    fn plain(&mut self, map: &'a Map<String, Value>) -> Result<Shape<'a>, TooMuch> {
        let types: Vec<&str> = match map.get("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
            _ => TYPES.to_vec(),
        };
        let mut list = Vec::new();
        for name in types {
            list.push(match name {
                "object" => {
                    let properties = self.named(map.get("properties"))?;
                    let patterns = self.named(map.get("patternProperties"))?;
                    self.compare(patterns.len())?;
                    Case::object(properties, patterns, self.rest(map.get("additionalProperties"))?)
                }
                "array" => {
                    let prefix = map.get("prefixItems").and_then(Value::as_array);
                    let prefix =
                        prefix.into_iter().flatten().map(|one| self.read(one)).collect::<Result<_, _>>()?;
                    Case::array(prefix, self.rest(map.get("items"))?)
                }
                "integer" | "number" => Case::Scalar("number"),
                "string" => {
                    Case::Text(["pattern", "format"].iter().filter(|key| map.contains_key(**key)).count())
                }
                name => Case::Scalar(TYPES.into_iter().find(|known| *known == name).unwrap_or_default()),
            });
        }
        Ok(Shape::of(list))
    }

    fn named(&mut self, schemas: Option<&'a Value>) -> Result<BTreeMap<&'a str, Shape<'a>>, TooMuch> {
        let all = schemas.and_then(Value::as_object).into_iter().flatten();
        all.map(|(name, schema)| Ok((name.as_str(), self.read(schema)?))).collect()
    }

    fn rest(&mut self, schema: Option<&'a Value>) -> Result<Shape<'a>, TooMuch> {
        schema.map_or(Ok(Shape::Any), |schema| self.read(schema))
    }

    fn definition(&mut self, name: &'a str) -> Result<Shape<'a>, TooMuch> {
        if let Some(known) = self.known.get(name) {
            // In a circle there is none yet: the recognizer refuses that.
            return Ok(known.clone().unwrap_or(Shape::Any));
        }
        self.known.insert(name, None);
        let schema = self.definitions.and_then(|all| all.get(name));
        let shape = schema.map_or(Ok(Shape::Any), |schema| self.read(schema))?;
        self.known.insert(name, Some(shape.clone()));
        Ok(shape)
    }

    /// What both allow.
    fn meet(&mut self, a: &Shape<'a>, b: &Shape<'a>, depth: usize) -> Result<Shape<'a>, TooMuch> {
        self.spend(1)?;
        let (a, b) = match (a, b) {
            (Shape::Any, other) | (other, Shape::Any) => return Ok(other.clone()),
            (Shape::Cases(a), Shape::Cases(b)) => (a, b),
        };
        let mut list = Vec::new();
        for one in &a.list {
            if a.list.len() > 1 {
                self.spend(b.n_nodes)?;
            }
            for other in &b.list {
                self.spend(if b.list.len() > 1 { one.n_nodes() } else { 1 })?;
                self.meet_cases(one, other, depth, &mut list)?;
            }
        }
        let n_products = n_structures(&list);
        if n_products > PRODUCTS_MAX.max(n_structures(&a.list)).max(n_structures(&b.list)) {
            return Err(TooMuch);
        }
        Ok(Shape::of(list))
    }

    fn meet_cases(
        &mut self,
        a: &Case<'a>,
        b: &Case<'a>,
        depth: usize,
        list: &mut Vec<Case<'a>>,
    ) -> Result<(), TooMuch> {
        match (a, b) {
            _ if depth > DEPTH_MAX => {}
            (Case::Reference(name), other) | (other, Case::Reference(name)) => {
                let definition = self.definition(name)?;
                self.spend(definition.n_nodes())?;
                match self.meet(&definition, &Shape::of(vec![other.clone()]), depth + 1)? {
                    Shape::Cases(cases) => list.extend(cases.list.iter().cloned()),
                    Shape::Any => {}
                }
            }
            (Case::Scalar(a), Case::Scalar(b)) if a == b => list.push(Case::Scalar(a)),
            (Case::Text(a), Case::Text(b)) if a + b <= EXPRESSIONS_MAX => list.push(Case::Text(a + b)),
            (Case::Text(_), Case::Text(_)) => return Err(TooMuch),
            (Case::Object(a), Case::Object(b)) => list.push(self.meet_objects(a, b, depth + 1)?),
            (Case::Array(a), Case::Array(b)) => {
                let n_prefix = a.prefix.len().max(b.prefix.len());
                let at = |array: &Array<'a>, i: usize| array.prefix.get(i).unwrap_or(&array.rest).clone();
                let prefix = (0..n_prefix).map(|i| self.meet(&at(a, i), &at(b, i), depth + 1));
                let prefix = prefix.collect::<Result<_, _>>()?;
                list.push(Case::array(prefix, self.meet(&a.rest, &b.rest, depth + 1)?));
            }
            _ => {}
        }
        Ok(())
    }

    fn meet_objects(&mut self, a: &Object<'a>, b: &Object<'a>, depth: usize) -> Result<Case<'a>, TooMuch> {
        let mut properties = BTreeMap::new();
        for name in a.properties.keys().chain(b.properties.keys()) {
            if !properties.contains_key(name) {
                let one = a.properties.get(name).unwrap_or(&a.rest);
                let other = b.properties.get(name).unwrap_or(&b.rest);
                self.spend(one.n_nodes().min(other.n_nodes()))?;
                properties.insert(*name, self.meet(one, other, depth)?);
            }
        }
        let mut patterns = BTreeMap::new();
        for name in a.patterns.keys().chain(b.patterns.keys()) {
            if !patterns.contains_key(name) {
                let one = a.patterns.get(name).unwrap_or(&a.rest);
                let other = b.patterns.get(name).unwrap_or(&b.rest);
                patterns.insert(*name, self.meet(one, other, depth)?);
            }
        }
        self.compare(patterns.len())?;
        // Each name is looked for among the patterns.
        self.spend(properties.len() * patterns.len())?;
        let rest = self.meet(&a.rest, &b.rest, depth)?;
        Ok(Case::object(properties, patterns, rest))
    }

    /// Each pattern is compared with each.
    fn compare(&mut self, n_patterns: usize) -> Result<(), TooMuch> {
        self.spend(PATTERN_PAIR_WORK.saturating_mul(n_patterns * n_patterns.saturating_sub(1) / 2))
    }
}

fn n_structures(cases: &[Case]) -> usize {
    cases.iter().filter(|case| matches!(case, Case::Object(_) | Case::Array(_))).count()
}

/// One of these.
fn one_of<'a>(shapes: impl Iterator<Item = Shape<'a>>) -> Shape<'a> {
    let mut list = Vec::new();
    for shape in shapes {
        match shape {
            Shape::Any => return Shape::Any,
            Shape::Cases(cases) => list.extend(cases.list.iter().cloned()),
        }
    }
    Shape::of(list)
}

/// One value.
fn constant(value: &Value) -> Shape<'_> {
    Shape::of(vec![match value {
        Value::Null => Case::Scalar("null"),
        Value::Bool(_) => Case::Scalar("boolean"),
        Value::Number(_) => Case::Scalar("number"),
        Value::String(_) => Case::Text(0),
        Value::Array(items) => Case::array(items.iter().map(constant).collect(), Shape::of(Vec::new())),
        Value::Object(map) => {
            let properties = map.iter().map(|(name, value)| (name.as_str(), constant(value))).collect();
            Case::object(properties, BTreeMap::new(), Shape::of(Vec::new()))
        }
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_multiplies_is_counted() {
        let objects = |n: usize, of: &dyn Fn(usize) -> Value| -> Vec<Value> { (0..n).map(of).collect() };
        let large =
            json!({ "type": "object", "properties": { "p": { "enum": (0..5_000).collect::<Vec<_>>() } } });
        let names = |i: usize| -> Map<String, Value> {
            (0..20).map(|n| (format!("^{i}_{n}$"), json!(true))).collect()
        };
        for (name, schema, is_fine) in [
            (
                "a union",
                json!({ "anyOf": objects(1_000, &|n| json!({ "type": "object", "properties": { "a": { "const": n } } })) }),
                true,
            ),
            (
                "a base and more",
                json!({ "allOf": [large, { "type": "object", "properties": { "q": { "type": "null" } } }] }),
                true,
            ),
            (
                "copies",
                json!({ "allOf": [large, { "anyOf": objects(1_000, &|_| json!({ "type": "object" })) }] }),
                false,
            ),
            (
                "types left open",
                json!({ "allOf": ([&[large.clone()][..], &objects(1_000, &|n| json!({ "minimum": n }))[..]].concat()) }),
                false,
            ),
            (
                "products",
                json!({ "allOf": objects(20, &|n| json!({ "anyOf": [{ "properties": { format!("a{n}"): true } }, { "properties": { format!("b{n}"): true } }] })) }),
                false,
            ),
            (
                "patterns",
                json!({ "allOf": objects(10, &|n| json!({ "type": "object", "patternProperties": names(n) })) }),
                false,
            ),
            (
                "expressions",
                json!({ "allOf": objects(9, &|_| json!({ "type": "string", "pattern": "a" })) }),
                false,
            ),
            ("few patterns", json!({ "type": "object", "patternProperties": names(0) }), true),
        ] {
            assert_eq!(check(&schema).is_ok(), is_fine, "{name}");
        }
    }
}

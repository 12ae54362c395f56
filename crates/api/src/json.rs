//! Strict, bounded JSON: what RFC 8259 leaves open is refused.
//!
//! Duplicate keys would let two readers of one body disagree, so they are errors. So are trailing bytes. The number
//! of values is bounded because a value in memory is larger than in a body (`[[],[],…`), objects most of all; depth is
//! bounded by `serde_json` itself (128).

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::RequestError;
use crate::error::quoted;

/// The most values (numbers, strings, lists, objects) in one body; an object counts as [`OBJECT_NODES`].
pub const MAX_NODES: usize = 1_000_000;
/// What an object weighs: its table takes about this many times a number's memory.
const OBJECT_NODES: usize = 10;

/// Reads a body that must be one JSON object.
pub fn parse_object(body: &[u8]) -> Result<Map<String, Value>, RequestError> {
    match parse_value(body)? {
        Value::Object(map) => Ok(map),
        _ => Err(RequestError::body("the body must be a JSON object").with_code("invalid_json")),
    }
}

/// Reads a body that must be one JSON list.
pub fn parse_list(body: &[u8]) -> Result<Vec<Value>, RequestError> {
    match parse_value(body)? {
        Value::Array(list) => Ok(list),
        _ => Err(RequestError::body("the body must be a JSON list").with_code("invalid_json")),
    }
}

fn parse_value(body: &[u8]) -> Result<Value, RequestError> {
    let left = Cell::new(MAX_NODES);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    Node { left: &left }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|e| RequestError::body(format!("the body is not valid JSON: {e}")).with_code("invalid_json"))
}

/// Reads one value and counts it.
#[derive(Clone, Copy)]
struct Node<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count(1)?;
        deserializer.deserialize_any(self)
    }
}

impl Node<'_> {
    fn count<E: Error>(self, nodes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(nodes);
        self.left.set(left.ok_or_else(|| E::custom(format_args!("more than {MAX_NODES} values")))?);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.count(OBJECT_NODES - 1)?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key {}", quoted(&key))));
            }
            let value = access.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<&str, &str>) {
        match (parse_object(body.as_bytes()), expected) {
            (Ok(map), Ok(json)) => assert_eq!(serde_json::to_string(&map).unwrap(), json, "{body}"),
            (Err(e), Err(part)) => assert!(e.message.contains(part), "{body}: {e}"),
            (got, _) => panic!("{body}: {got:?}"),
        }
    }

    #[test]
    fn strict() {
        check(r#"{"a":[1,-2,0.5,"x",null,true,{}]}"#, Ok(r#"{"a":[1,-2,0.5,"x",null,true,{}]}"#));
        check(r#"{"a":1,"a":2}"#, Err("duplicate key `a`"));
        check(r#"{"b":{"a":1,"\u0061":2}}"#, Err("duplicate key `a`"));
        check(r#"{"a":1} x"#, Err("trailing characters"));
        check(r#"{"a":1e999}"#, Err("out of range"));
        check("\u{feff}{}", Err("expected value"));
        check("[]", Err("must be a JSON object"));
        check("", Err("EOF"));
        check(r#"{"a":NaN}"#, Err("expected"));
        check(&format!("{}{}", r#"{"a":"#, "[".repeat(100_000)), Err("recursion limit"));
        check(r#"{"a":"\ud800"}"#, Err("hex escape"));
    }

    #[test]
    fn bounded() {
        let body = format!("{{\"a\":[{}0]}}", "0,".repeat(MAX_NODES));
        check(&body, Err("more than 1000000 values"));
        let body = format!("{{\"a\":[{}0]}}", "{},".repeat(MAX_NODES / OBJECT_NODES));
        check(&body, Err("more than 1000000 values"));
    }
}

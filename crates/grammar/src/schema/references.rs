//! `$ref`: which schema it means. Only schemas of the same document; nothing is ever fetched.

use std::collections::HashMap;

use serde_json::Value;

use super::keywords::{Kind, Shape, kind};
use crate::GrammarError;

/// The places of a document that references may name.
pub(super) struct References<'a> {
    document: &'a Value,
    /// Pointers by `$id`, as it is written, without an empty fragment.
    ids: HashMap<&'a str, String>,
    /// Pointers by the resource they are in (its pointer) and `$anchor`.
    anchors: HashMap<(String, &'a str), String>,
    /// Pointers of schemas with an `$id`: what `#` means within them.
    resources: Vec<String>,
}

/// A step of a JSON pointer.
pub(super) fn step(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

impl<'a> References<'a> {
    /// Looks for names in a document.
    pub fn new(document: &'a Value) -> Result<Self, GrammarError> {
        let mut found =
            Self { document, ids: HashMap::new(), anchors: HashMap::new(), resources: vec![String::new()] };
        // (schema, its pointer, the resource it is in)
        let mut todo = vec![(document, String::new(), String::new())];
        while let Some((schema, pointer, mut resource)) = todo.pop() {
            let Value::Object(map) = schema else { continue };
            if let Some(id) = map.get("$id").and_then(Value::as_str) {
                let (uri, fragment) = id.split_once('#').unwrap_or((id, ""));
                if !uri.is_empty() {
                    resource.clone_from(&pointer);
                    found.resources.push(pointer.clone());
                    if found.ids.insert(uri, pointer.clone()).is_some() {
                        let reason = format!("two schemas have the name {uri:?}");
                        return Err(GrammarError::invalid(reason).at(&pointer, "$id"));
                    }
                }
                // Drafts 6 and 7 wrote anchors so.
                if !fragment.is_empty() {
                    found.anchors.insert((resource.clone(), fragment), pointer.clone());
                }
            }
            for key in ["$anchor", "$dynamicAnchor"] {
                if let Some(anchor) = map.get(key).and_then(Value::as_str) {
                    found.anchors.insert((resource.clone(), anchor), pointer.clone());
                }
            }
            for (key, value) in map {
                let here = step(&pointer, key);
                let mut push = |schema, name: &str| todo.push((schema, step(&here, name), resource.clone()));
                match (kind(key), value) {
                    (Kind::Enforced(Shape::Value | Shape::Values, _), _) => {}
                    (Kind::Enforced(Shape::Properties | Shape::Patterns, _), Value::Object(map)) => {
                        map.iter().for_each(|(name, schema)| push(schema, name));
                    }
                    (Kind::Enforced(Shape::Schemas | Shape::Items, _), Value::Array(items)) => {
                        items.iter().enumerate().for_each(|(at, schema)| push(schema, &at.to_string()));
                    }
                    (Kind::Enforced(Shape::Schema | Shape::Items, _), schema) => {
                        todo.push((schema, here, resource.clone()));
                    }
                    (_, Value::Object(map)) if matches!(key.as_str(), "$defs" | "definitions") => {
                        map.iter().for_each(|(name, schema)| push(schema, name));
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// The schema that `reference` means in the schema at `from`, and its pointer.
    pub fn resolve(&self, reference: &str, from: &str) -> Result<(&'a Value, String), String> {
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resource = if uri.is_empty() {
            let inside = |resource: &&String| {
                from.strip_prefix(resource.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            self.resources
                .iter()
                .filter(inside)
                .max_by_key(|resource| resource.len())
                .cloned()
                .unwrap_or_default()
        } else {
            self.ids.get(uri).cloned().ok_or_else(|| {
                format!(
                    "{reference:?} is outside of this schema, and nothing is fetched: put it into `$defs`"
                )
            })?
        };
        let fragment = decode(fragment).ok_or_else(|| format!("{reference:?} is no proper reference"))?;
        let pointer = if fragment.is_empty() || fragment.starts_with('/') {
            format!("{resource}{fragment}")
        } else {
            let anchor = self.anchors.iter().find(|((of, name), _)| *of == resource && *name == fragment);
            anchor
                .map(|(_, pointer)| pointer.clone())
                .ok_or_else(|| format!("there is no anchor {fragment:?}"))?
        };
        match self.document.pointer(&pointer) {
            Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok((schema, pointer)),
            Some(_) => Err(format!("{reference:?} is no schema")),
            None => Err(format!("{reference:?} does not exist")),
        }
    }
}

/// Undoes `%xx`.
fn decode(fragment: &str) -> Option<String> {
    if !fragment.contains('%') {
        return Some(fragment.to_owned());
    }
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

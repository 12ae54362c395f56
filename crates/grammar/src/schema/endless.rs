//! Schemas that only endless values would satisfy: `{"properties": {"a": {"$ref": "#"}}, "required": ["a"]}`.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Whether a schema that was written anew may have a finite value. Where that is hard to know, it may.
pub(super) fn ends(root: &Value) -> bool {
    let none = Map::new();
    let definitions = root.get("$defs").and_then(Value::as_object).unwrap_or(&none);
    let mut known: HashSet<&str> = HashSet::new();
    loop {
        let before = known.len();
        // Backwards: schemas are mostly referred to before they are defined.
        for (name, schema) in definitions.iter().rev() {
            if !known.contains(name.as_str()) && schema_ends(schema, &known) {
                known.insert(name);
            }
        }
        if known.len() == before || schema_ends(root, &known) {
            return schema_ends(root, &known);
        }
    }
}

fn schema_ends(schema: &Value, known: &HashSet<&str>) -> bool {
    let Value::Object(map) = schema else { return true };
    let list = |keyword: &str| map.get(keyword).and_then(Value::as_array);
    let referred = map.get("$ref").and_then(Value::as_str).and_then(|uri| uri.strip_prefix("#/$defs/"));
    if referred.is_some_and(|name| !known.contains(name)) {
        return false;
    }
    if list("allOf").is_some_and(|all| !all.iter().all(|one| schema_ends(one, known))) {
        return false;
    }
    let some_end = |keyword| list(keyword).is_none_or(|some| some.iter().any(|one| schema_ends(one, known)));
    if !some_end("anyOf") || !some_end("oneOf") {
        return false;
    }
    let is_only = |name: &str| map.get("type").is_some_and(|types| *types == name);
    if is_only("object") {
        let property = |name: &Value| map.get("properties").and_then(|of| of.get(name.as_str()?));
        return list("required")
            .is_none_or(|names| names.iter().filter_map(property).all(|schema| schema_ends(schema, known)));
    }
    if is_only("array") {
        let n_required = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let first = list("prefixItems").map_or(&[][..], Vec::as_slice);
        let needs_rest = n_required > first.len() as u64;
        let required = first.iter().zip(0..n_required).map(|(schema, _)| schema);
        return required
            .chain(map.get("items").filter(|_| needs_rest))
            .all(|schema| schema_ends(schema, known));
    }
    true
}

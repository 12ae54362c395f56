//! Values as Go prints them, and as Go writes them as JSON.

use super::number;
use super::value::{List, ListType, ORDERED, Struct, Value};
use crate::template::json::write_string;
use crate::template::text::{Text, TextBuf};
use crate::template::value::{Eval, Fuel, fail};

/// Appends a value as an action prints it.
pub(super) fn print(value: &Value, fuel: &Fuel, out: &mut TextBuf) -> Eval<()> {
    match value {
        Value::Invalid | Value::Nil => out.push_own("<no value>"),
        // The pointer is followed once.
        Value::Struct(s) if s.shape.is_pointer => structure(s, false, fuel, 0, out)?,
        value => plain(value, false, fuel, 0, out)?,
    }
    Ok(())
}

/// Appends a value as `%v` shows it, or with the names of fields as `%+v`.
pub(super) fn plain(value: &Value, names: bool, fuel: &Fuel, depth: u32, out: &mut TextBuf) -> Eval<()> {
    fuel.charge(1)?;
    if value.shows_itself() {
        return own(value, fuel, out);
    }
    match value {
        Value::Invalid | Value::Nil | Value::NilPointer(_) => out.push_own("<nil>"),
        Value::Bool(b) => out.push_own(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_own(&n.to_string()),
        Value::Uint(n) => out.push_own(&n.to_string()),
        Value::Float(f) => out.push_own(&number::general(*f)),
        Value::Str(s) => {
            fuel.charge_bytes(s.len())?;
            out.push(s);
        }
        Value::List(list) => {
            out.push_own("[");
            for (i, item) in list.items().iter().enumerate() {
                if i > 0 {
                    out.push_own(" ");
                }
                plain(item, names, fuel, depth + 1, out)?;
            }
            out.push_own("]");
        }
        Value::Map(map) => {
            out.push_own("map[");
            for (i, (key, item)) in map.entries.iter().enumerate() {
                if i > 0 {
                    out.push_own(" ");
                }
                fuel.charge_bytes(key.len())?;
                out.push(key);
                out.push_own(":");
                plain(item, names, fuel, depth + 1, out)?;
            }
            out.push_own("]");
        }
        Value::Struct(s) if s.shape.is_pointer && depth > 0 || *s.shape == ORDERED => {
            return fail(format!(
                "it prints a {}, which Go shows as an address of memory: print its fields, or `json` of it",
                s.shape.name
            ));
        }
        Value::Struct(s) => {
            if s.shape.is_pointer {
                out.push_own("&");
            }
            structure(s, names, fuel, depth, out)?;
        }
    }
    Ok(())
}

fn structure(s: &Struct, names: bool, fuel: &Fuel, depth: u32, out: &mut TextBuf) -> Eval<()> {
    if *s.shape == ORDERED {
        return fail("it prints the inside of an ordered map: print `json` of it");
    }
    out.push_own("{");
    for (i, (field, value)) in s.shape.fields.iter().zip(&s.values).enumerate() {
        if i > 0 {
            out.push_own(" ");
        }
        if names {
            out.push_own(field.0);
            out.push_own(":");
        }
        plain(value, names, fuel, depth + 1, out)?;
    }
    out.push_own("}");
    Ok(())
}

fn own(value: &Value, fuel: &Fuel, out: &mut TextBuf) -> Eval<()> {
    match value {
        Value::List(list) if list.ty == ListType::SchemaTypes => {
            match list.items() {
                [] => {}
                [Value::Str(one)] => {
                    fuel.charge_bytes(one.len())?;
                    out.push(one);
                }
                items => {
                    out.push_own("[");
                    for (i, item) in items.iter().enumerate() {
                        if i > 0 {
                            out.push_own(" ");
                        }
                        plain(item, false, fuel, 1, out)?;
                    }
                    out.push_own("]");
                }
            }
            Ok(())
        }
        Value::Map(map) if map.is_nil => {
            out.push_own("{}");
            Ok(())
        }
        value => json(value, fuel, out),
    }
}

/// What a value's own `String` gives.
pub(super) fn own_string(value: &Value, fuel: &Fuel) -> Eval<Text> {
    let mut out = TextBuf::default();
    own(value, fuel, &mut out)?;
    Ok(out.into_text())
}

/// Appends a value as JSON: keys of maps sorted, no blanks, `<`, `>` and `&` escaped.
pub(super) fn json(value: &Value, fuel: &Fuel, out: &mut TextBuf) -> Eval<()> {
    fuel.charge(1)?;
    match value {
        Value::Invalid | Value::Nil | Value::NilPointer(_) => out.push_own("null"),
        Value::Bool(b) => out.push_own(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_own(&n.to_string()),
        Value::Uint(n) => out.push_own(&n.to_string()),
        Value::Float(f) => out.push_own(&number::json(*f)),
        Value::Str(s) => {
            fuel.charge_bytes(s.len())?;
            json_string(s, out);
        }
        Value::List(list) => json_list(list, fuel, out)?,
        Value::Map(map) if map.is_nil => out.push_own("null"),
        Value::Map(map) => {
            out.push_own("{");
            for (i, (key, item)) in map.entries.iter().enumerate() {
                if i > 0 {
                    out.push_own(",");
                }
                fuel.charge_bytes(key.len())?;
                json_string(key, out);
                out.push_own(":");
                json(item, fuel, out)?;
            }
            out.push_own("}");
        }
        Value::Struct(s) if *s.shape == ORDERED => {
            out.push_own("{");
            for (i, pair) in s.values.chunks_exact(2).enumerate() {
                if i > 0 {
                    out.push_own(",");
                }
                json(&pair[0], fuel, out)?;
                out.push_own(":");
                json(&pair[1], fuel, out)?;
            }
            out.push_own("}");
        }
        Value::Struct(s) => {
            out.push_own("{");
            let mut is_first = true;
            for ((_, name, omit), value) in s.shape.fields.iter().zip(&s.values) {
                if *omit && is_empty(value) {
                    continue;
                }
                if !is_first {
                    out.push_own(",");
                }
                is_first = false;
                json_string(&Text::own(name), out);
                out.push_own(":");
                json(value, fuel, out)?;
            }
            out.push_own("}");
        }
    }
    Ok(())
}

fn json_list(list: &List, fuel: &Fuel, out: &mut TextBuf) -> Eval<()> {
    if list.ty == ListType::SchemaTypes
        && let [one] = list.items()
    {
        return json(one, fuel, out);
    }
    if list.is_nil {
        out.push_own("null");
        return Ok(());
    }
    out.push_own("[");
    for (i, item) in list.items().iter().enumerate() {
        if i > 0 {
            out.push_own(",");
        }
        json(item, fuel, out)?;
    }
    out.push_own("]");
    Ok(())
}

/// What `omitempty` leaves out.
fn is_empty(value: &Value) -> bool {
    !matches!(value, Value::Struct(_)) && !value.truth()
}

/// What Go escapes besides, so that JSON may stand in a script.
fn json_string(s: &Text, out: &mut TextBuf) {
    write_string(s, |c| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}'), out);
}

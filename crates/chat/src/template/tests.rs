//! The tests that templates may use after `is`. This list is all there is.

use super::ast::CmpOp;
use super::eval::Interp;
use super::filters;
use super::value::{Eval, Value, fail};

/// Every test.
pub(super) const TESTS: [&str; 39] = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "==",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    ">=",
    "gt",
    ">",
    "greaterthan",
    "in",
    "integer",
    "iterable",
    "le",
    "<=",
    "lower",
    "lt",
    "<",
    "lessthan",
    "mapping",
    "ne",
    "!=",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether there is such a test.
pub(super) fn is_known(name: &str) -> bool {
    TESTS.contains(&name)
}

/// Whether a value passes a test.
pub(super) fn run(interp: &Interp, name: &str, value: &Value, args: Vec<Value>) -> Eval<bool> {
    let wanted = match name {
        "divisibleby" | "eq" | "==" | "equalto" | "ge" | ">=" | "gt" | ">" | "greaterthan" | "in" | "le"
        | "<=" | "lt" | "<" | "lessthan" | "ne" | "!=" | "sameas" => 1,
        _ => 0,
    };
    if !is_known(name) {
        return fail(format!("there is no test `{name}`"));
    }
    if args.len() != wanted {
        return fail(format!("test `{name}` takes {wanted} argument(s), {} given", args.len()));
    }
    let modulo = |by: &Value| {
        if by.truth() || by.as_int().is_none() {
            interp.arith(super::ast::ArithOp::Mod, value.clone(), by.clone())
        } else {
            fail("division by zero")
        }
    };
    let cased = |lower: bool| -> Eval<bool> {
        let text = value.to_text(interp.fuel)?;
        let (mut any, mut all) = (false, true);
        for c in text.as_str().chars() {
            any |= c.is_lowercase() || c.is_uppercase();
            all &= if lower { !c.is_uppercase() } else { !c.is_lowercase() };
        }
        Ok(any && all)
    };
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(..)
        ),
        "iterable" => !matches!(
            value,
            Value::None
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Namespace(_)
                | Value::Func(_)
                | Value::Macro(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Cycler(_)
        ),
        // Undefined values have a call that fails, so Python says they are callable.
        "callable" => matches!(
            value,
            Value::Func(_)
                | Value::Macro(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Undefined(_)
                | Value::Loop(_)
        ),
        "escaped" => value.as_text().is_some_and(super::text::Text::is_markup),
        "even" => modulo(&Value::Int(2))?.equals(&Value::Int(0), interp.fuel)?,
        "odd" => modulo(&Value::Int(2))?.equals(&Value::Int(1), interp.fuel)?,
        "divisibleby" => modulo(&args[0])?.equals(&Value::Int(0), interp.fuel)?,
        "lower" => cased(true)?,
        "upper" => cased(false)?,
        "sameas" => value.same(&args[0]),
        "in" => interp.contains(&args[0], value)?,
        "filter" => value.as_text().is_some_and(|s| filters::is_known(s.as_str())),
        "test" => value.as_text().is_some_and(|s| is_known(s.as_str())),
        _ => {
            let op = match name {
                "eq" | "==" | "equalto" => CmpOp::Eq,
                "ne" | "!=" => CmpOp::Ne,
                "lt" | "<" | "lessthan" => CmpOp::Lt,
                "le" | "<=" => CmpOp::Le,
                "gt" | ">" | "greaterthan" => CmpOp::Gt,
                _ => CmpOp::Ge,
            };
            interp.compare(op, value, &args[0])?
        }
    })
}

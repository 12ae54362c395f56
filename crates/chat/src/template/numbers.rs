//! Texts to numbers and numbers to rounder ones, as Python does both.

use super::lexer::is_space;
use super::value::{Eval, Value, fail};

/// Python's `int(text, base)`.
pub(super) fn parse_int(s: &str, base: i128) -> Option<i128> {
    let s = s.trim_matches(is_space);
    let (negative, digits) = match s.strip_prefix(['+', '-']) {
        Some(rest) => (s.starts_with('-'), rest),
        None => (false, s),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let found = prefixes.iter().find(|(p, b)| (base == *b || base == 0) && lower.starts_with(p));
    let (digits, radix) = match found {
        Some((_, radix)) => (lower[2..].strip_prefix('_').unwrap_or(&lower[2..]), *radix as u32),
        None if base == 0 => (lower.as_str(), 10),
        None => (lower.as_str(), u32::try_from(base).ok().filter(|b| (2..=36).contains(b))?),
    };
    if digits.is_empty() || digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if negative { -value } else { value })
}

/// Python's `float(text)`.
pub(super) fn parse_float(s: &str) -> Option<f64> {
    let s = s.trim_matches(is_space);
    if s.starts_with('_') || s.ends_with('_') || s.contains("__") {
        return None;
    }
    s.replace('_', "").parse().ok()
}

/// Jinja's `round`: to even at exact ties for "common", as Python's `round` works on the shortest decimal.
pub(super) fn round(value: &Value, precision: i128, method: &str) -> Eval<Value> {
    if !matches!(method, "common" | "ceil" | "floor") {
        return fail("method must be common, ceil or floor");
    }
    let Some(f) = value.as_float() else { return fail(format!("cannot round {}", value.type_name())) };
    let precision = precision.clamp(-300, 300) as i32;
    if method != "common" {
        let scale = 10f64.powi(precision);
        let scaled = if method == "ceil" { (f * scale).ceil() } else { (f * scale).floor() };
        return Ok(Value::Float(scaled / scale));
    }
    if let Some(i) = value.as_int() {
        if precision >= 0 {
            return Ok(Value::Int(i));
        }
        let Some(unit) = 10i128.checked_pow(precision.unsigned_abs()) else { return Ok(Value::Int(0)) };
        let (q, r) = (i.div_euclid(unit), i.rem_euclid(unit));
        let up = r * 2 > unit || (r * 2 == unit && q % 2 != 0);
        return Ok(Value::Int((q + i128::from(up)) * unit));
    }
    if !f.is_finite() {
        return Ok(Value::Float(f));
    }
    if precision >= 0 {
        // Rust formats the exact binary value and rounds ties to even, as Python does.
        return Ok(Value::Float(format!("{f:.*}", precision as usize).parse().unwrap_or(f)));
    }
    let unit = 10f64.powi(-precision);
    Ok(Value::Float((f / unit).round_ties_even() * unit))
}

//! Python's two ways to format: `'%d' % x` and `'{:d}'.format(x)`.

use super::eval::{Call, Interp};
use super::text::{Text, TextBuf};
use super::value::{Eval, Value, fail, float_repr};

/// Widths and precisions beyond this are refused.
const WIDTH_MAX: usize = 1 << 16;

#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    grouping: Option<char>,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

fn bounded(digits: &str) -> Eval<usize> {
    match digits.parse::<usize>() {
        Ok(n) if n <= WIDTH_MAX => Ok(n),
        _ => fail(format!("a width or precision is more than {WIDTH_MAX}")),
    }
}

/// `format % args`
pub(super) fn percent(interp: &Interp, format: &Text, args: &Value) -> Eval<Text> {
    interp.fuel.charge_bytes(format.len())?;
    let raw = format.as_str();
    let escape = |v: Value| match v {
        Value::Str(s) if format.is_markup() => Value::Str(s.escaped()),
        other => other,
    };
    let positional: Vec<Value> = match args {
        Value::Tuple(t) => t.0.borrow().iter().cloned().map(escape).collect(),
        other => vec![escape(other.clone())],
    };
    let mut next = positional.iter();
    let mut used_mapping = false;
    let mut buf = TextBuf::default();
    let mut at = 0;
    while let Some(found) = raw[at..].find('%') {
        buf.push_slice(format, at, at + found);
        let mut i = at + found + 1;
        let byte = |i: usize| raw.as_bytes().get(i).copied();
        let mut mapped = None;
        if byte(i) == Some(b'(') {
            let Some(end) = raw[i..].find(')') else { return fail("incomplete format key") };
            let key = format.slice(i + 1, i + end);
            let Value::Dict(_) = args else { return fail("format requires a mapping") };
            mapped = Some(escape(interp.item(args, &Value::Str(key))?));
            used_mapping = true;
            i += end + 1;
        }
        let mut spec = Spec::default();
        while let Some(flag @ (b'-' | b'+' | b' ' | b'0' | b'#')) = byte(i) {
            match flag {
                b'-' => spec.align = Some('<'),
                b'+' => spec.sign = Some('+'),
                b' ' => spec.sign = spec.sign.or(Some(' ')),
                b'0' => spec.zero = true,
                _ => spec.alternate = true,
            }
            i += 1;
        }
        let number = |i: &mut usize, next: &mut std::slice::Iter<Value>| -> Eval<usize> {
            if byte(*i) == Some(b'*') {
                *i += 1;
                return match next.next().and_then(Value::as_int).and_then(|n| usize::try_from(n).ok()) {
                    Some(n) if n <= WIDTH_MAX => Ok(n),
                    _ => fail("* wants an int"),
                };
            }
            let start = *i;
            while byte(*i).is_some_and(|b| b.is_ascii_digit()) {
                *i += 1;
            }
            if start == *i { Ok(0) } else { bounded(&raw[start..*i]) }
        };
        spec.width = number(&mut i, &mut next)?;
        if byte(i) == Some(b'.') {
            i += 1;
            spec.precision = Some(number(&mut i, &mut next)?);
        }
        while matches!(byte(i), Some(b'l' | b'h' | b'L')) {
            i += 1;
        }
        let Some(kind) = raw[i..].chars().next() else { return fail("incomplete format") };
        at = i + kind.len_utf8();
        if kind == '%' {
            buf.push_own("%");
            continue;
        }
        let value = match mapped {
            Some(value) => value,
            None => match next.next() {
                Some(value) => value.clone(),
                None => return fail("not enough arguments for format string"),
            },
        };
        let field = match kind {
            's' => truncated(value.to_text(interp.fuel)?, spec.precision),
            'r' | 'a' => {
                let mut shown = TextBuf::default();
                value.write_repr(&mut shown, interp.fuel, 0)?;
                truncated(shown.into_text(), spec.precision)
            }
            'c' => match &value {
                Value::Str(s) if s.as_str().chars().count() == 1 => s.clone(),
                other => match other.as_int().and_then(|i| u32::try_from(i).ok()).and_then(char::from_u32) {
                    Some(c) => Text::own(c.encode_utf8(&mut [0; 4])),
                    None => return fail("%c requires int or char"),
                },
            },
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                let i = match (&value, kind) {
                    (Value::Float(f), 'd' | 'i' | 'u') if f.is_finite() => f.trunc() as i128,
                    (other, _) => match other.as_int() {
                        Some(i) => i,
                        None => {
                            return fail(format!(
                                "%{kind} format: a number is required, not {}",
                                other.type_name()
                            ));
                        }
                    },
                };
                spec.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
                Text::own(&number_field(&int_digits(i, &spec), i < 0, &spec))
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
                Some(f) => {
                    spec.kind = Some(kind);
                    Text::own(&number_field(
                        &float_digits(f, &spec),
                        f.is_sign_negative() && !f.is_nan(),
                        &spec,
                    ))
                }
                None => return fail(format!("must be real number, not {}", value.type_name())),
            },
            other => return fail(format!("unsupported format character '{other}'")),
        };
        let right = spec.align != Some('<');
        buf.push(&super::methods::pad(interp, &field, spec.width as i128, &Text::own(" "), |total, _| {
            if right { total } else { 0 }
        })?);
        interp.check_size(buf.len())?;
    }
    buf.push_slice(format, at, raw.len());
    if next.next().is_some() && !used_mapping && !matches!(args, Value::Dict(_)) {
        return fail("not all arguments converted during string formatting");
    }
    Ok(buf.into_text().with_markup(format.is_markup()))
}

fn truncated(s: Text, precision: Option<usize>) -> Text {
    match precision.and_then(|n| s.as_str().char_indices().nth(n)) {
        Some((at, _)) => s.slice(0, at),
        None => s,
    }
}

/// The digits of an integer without sign.
fn int_digits(i: i128, spec: &Spec) -> String {
    let n = i.unsigned_abs();
    let (prefix, digits) = match spec.kind {
        Some('x') => ("0x", format!("{n:x}")),
        Some('X') => ("0X", format!("{n:X}")),
        Some('o') => ("0o", format!("{n:o}")),
        Some('b') => ("0b", format!("{n:b}")),
        _ => ("", n.to_string()),
    };
    let digits = match spec.precision {
        Some(p) => format!("{digits:0>p$}"),
        None => digits,
    };
    if spec.alternate { format!("{prefix}{digits}") } else { digits }
}

/// The digits of a float without sign.
fn float_digits(f: f64, spec: &Spec) -> String {
    let f = f.abs();
    let kind = spec.kind.unwrap_or('g');
    let upper = kind.is_ascii_uppercase();
    if !f.is_finite() {
        let shown = if f.is_nan() { "nan" } else { "inf" };
        return if upper { shown.to_uppercase() } else { shown.into() };
    }
    let precision = spec.precision.unwrap_or(6);
    let exponent_form = |precision: usize| {
        let shown = format!("{f:.precision$e}");
        let (digits, exponent) = shown.split_once('e').expect("`{:e}` has an exponent");
        let exponent: i32 = exponent.parse().expect("an exponent is a number");
        (digits.to_owned(), exponent)
    };
    let with_exponent =
        |digits: &str, e: i32| format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs());
    let shown = match kind.to_ascii_lowercase() {
        'f' => format!("{f:.precision$}"),
        '%' => format!("{:.precision$}%", f * 100.0),
        'e' => {
            let (digits, e) = exponent_form(precision);
            with_exponent(&digits, e)
        }
        _ => {
            let precision = precision.max(1);
            let (digits, e) = exponent_form(precision - 1);
            let trim = |s: String| {
                if spec.alternate || !s.contains('.') {
                    s
                } else {
                    s.trim_end_matches('0').trim_end_matches('.').to_owned()
                }
            };
            if e < -4 || e >= precision as i32 {
                with_exponent(&trim(digits), e)
            } else {
                trim(format!("{f:.*}", (precision as i32 - 1 - e).max(0) as usize))
            }
        }
    };
    if upper { shown.to_uppercase() } else { shown }
}

/// Sign, grouping and zero padding.
fn number_field(digits: &str, negative: bool, spec: &Spec) -> String {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let mut digits = digits.to_owned();
    if let Some(separator) = spec.grouping {
        let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let mut grouped = String::new();
        for (i, c) in digits[..whole].chars().enumerate() {
            if i > 0 && (whole - i).is_multiple_of(3) {
                grouped.push(separator);
            }
            grouped.push(c);
        }
        digits = grouped + &digits[whole..];
    }
    // Padding between sign and digits: asked for by `=`, or by a zero before the width.
    if spec.align == Some('=') || (spec.zero && spec.align.is_none()) {
        let has_prefix = spec.alternate && digits.len() > 1 && !digits.as_bytes()[1].is_ascii_digit();
        let (prefix, rest) = digits.split_at(if has_prefix { 2 } else { 0 });
        let n = spec.width.saturating_sub(sign.len() + digits.len());
        let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
        let padding: String = std::iter::repeat_n(fill, n).collect();
        return format!("{sign}{prefix}{padding}{rest}");
    }
    format!("{sign}{digits}")
}

/// `format.format(*args, **kwargs)`
pub(super) fn format(interp: &Interp, format: &Text, call: &Call) -> Eval<Text> {
    let mut auto = 0;
    format_level(interp, format, call, &mut auto, 0)
}

fn format_level(interp: &Interp, format: &Text, call: &Call, auto: &mut usize, level: u32) -> Eval<Text> {
    if level > 2 {
        return fail("Max string recursion exceeded");
    }
    let raw = format.as_str();
    let mut buf = TextBuf::default();
    let mut at = 0;
    while let Some(found) = raw[at..].find(['{', '}']) {
        let brace = at + found;
        buf.push_slice(format, at, brace);
        let c = raw.as_bytes()[brace];
        if raw.as_bytes().get(brace + 1) == Some(&c) {
            buf.push_slice(format, brace, brace + 1);
            at = brace + 2;
            continue;
        }
        if c == b'}' {
            return fail("Single '}' encountered in format string");
        }
        let mut open = 1;
        let mut in_index = false;
        let end = raw[brace + 1..].char_indices().find_map(|(i, c)| {
            match c {
                '[' if open == 1 => in_index = true,
                ']' if open == 1 => in_index = false,
                '{' if !in_index => open += 1,
                '}' if !in_index => open -= 1,
                _ => {}
            }
            (open == 0).then_some(brace + 1 + i)
        });
        let Some(end) = end else { return fail("expected '}' before end of string") };
        let field = format.slice(brace + 1, end);
        at = end + 1;
        let value = replacement(interp, &field, call, auto, level)?;
        interp.fuel.charge_bytes(value.len())?;
        buf.push(&value);
        interp.check_size(buf.len())?;
    }
    buf.push_slice(format, at, raw.len());
    Ok(buf.into_text())
}

fn replacement(interp: &Interp, field: &Text, call: &Call, auto: &mut usize, level: u32) -> Eval<Text> {
    let raw = field.as_str();
    let mut in_index = false;
    let cut = raw.find(|c: char| {
        in_index = (in_index || c == '[') && c != ']';
        !in_index && matches!(c, '!' | ':')
    });
    let (path, rest) = raw.split_at(cut.unwrap_or(raw.len()));
    let (conversion, spec_at) = match rest.strip_prefix('!') {
        Some(after) => match after.chars().next() {
            Some(c @ ('r' | 's' | 'a')) => (Some(c), path.len() + 2),
            _ => return fail("unknown conversion in a format string"),
        },
        None => (None, path.len()),
    };
    let spec = match raw[spec_at..].strip_prefix(':') {
        Some(_) => field.slice(spec_at + 1, raw.len()),
        None if spec_at == raw.len() => Text::own(""),
        None => return fail("expected ':' after conversion specifier"),
    };
    let name_end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut path) = path.split_at(name_end);
    let mut value = if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
        let index = if name.is_empty() {
            *auto += 1;
            *auto - 1
        } else {
            name.parse().unwrap_or(usize::MAX)
        };
        match call.positional.get(index) {
            Some(value) => value.clone(),
            None => return fail(format!("replacement index {name} out of range for positional args")),
        }
    } else {
        match call.named.iter().find(|(n, _)| &**n == name) {
            Some((_, value)) => value.clone(),
            None => return fail(format!("there is no argument '{name}' to format")),
        }
    };
    while !path.is_empty() {
        interp.fuel.charge(1)?;
        if let Some(after) = path.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = interp.attr(&value, &after[..end])?;
            path = &after[end..];
        } else {
            let Some(end) = path.find(']') else { return fail("missing ']' in a format string") };
            let key = &path[1..end];
            let key = key.parse::<i64>().map_or_else(|_| Value::own(key), |i| Value::Int(i.into()));
            value = interp.item(&value, &key)?;
            path = &path[end + 1..];
        }
    }
    match conversion {
        Some('s') => value = Value::Str(value.to_text(interp.fuel)?),
        Some(_) => {
            let mut shown = TextBuf::default();
            value.write_repr(&mut shown, interp.fuel, 0)?;
            value = Value::Str(shown.into_text());
        }
        None => {}
    }
    let spec = format_level(interp, &spec, call, auto, level + 1)?;
    format_value(interp, &value, spec.as_str())
}

fn parse_spec(raw: &str) -> Eval<Spec> {
    let mut spec = Spec::default();
    let chars: Vec<char> = raw.chars().collect();
    let mut i = 0;
    let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '^' | '='));
    if is_align(chars.get(1)) {
        spec.fill = Some(chars[0]);
        spec.align = Some(chars[1]);
        i = 2;
    } else if is_align(chars.first()) {
        spec.align = Some(chars[0]);
        i = 1;
    }
    if let Some(c @ ('+' | '-' | ' ')) = chars.get(i) {
        spec.sign = Some(*c);
        i += 1;
    }
    if chars.get(i) == Some(&'#') {
        spec.alternate = true;
        i += 1;
    }
    if chars.get(i) == Some(&'0') {
        spec.zero = true;
        i += 1;
    }
    let digits = |i: &mut usize| {
        let start = *i;
        while chars.get(*i).is_some_and(char::is_ascii_digit) {
            *i += 1;
        }
        chars[start..*i].iter().collect::<String>()
    };
    let width = digits(&mut i);
    if !width.is_empty() {
        spec.width = bounded(&width)?;
    }
    if let Some(c @ (',' | '_')) = chars.get(i) {
        spec.grouping = Some(*c);
        i += 1;
    }
    if chars.get(i) == Some(&'.') {
        i += 1;
        spec.precision = Some(bounded(&digits(&mut i))?);
    }
    if let Some(c) = chars.get(i) {
        spec.kind = Some(*c);
        i += 1;
    }
    if i != chars.len() { fail("invalid format specifier") } else { Ok(spec) }
}

/// `format(value, spec)`
fn format_value(interp: &Interp, value: &Value, raw: &str) -> Eval<Text> {
    if raw.is_empty() {
        return value.to_text(interp.fuel);
    }
    let mut spec = parse_spec(raw)?;
    let unknown =
        |kind: char| fail(format!("unknown format code '{kind}' for object of type '{}'", value.type_name()));
    let (field, is_number) = match (value, spec.kind) {
        (Value::Str(s), None | Some('s')) => (truncated(s.clone(), spec.precision), false),
        (Value::Str(_), Some(kind)) => return unknown(kind),
        (Value::Int(_) | Value::Bool(_), None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b')) => {
            let i = value.as_int().expect("an int or a bool");
            spec.precision = None;
            (Text::own(&number_field(&int_digits(i, &spec), i < 0, &spec)), true)
        }
        (Value::Int(i), Some('c')) => match u32::try_from(*i).ok().and_then(char::from_u32) {
            Some(c) => (Text::own(c.encode_utf8(&mut [0; 4])), false),
            None => return fail("%c arg not in range(0x110000)"),
        },
        (Value::Float(f), None) if spec.precision.is_none() => {
            (Text::own(&number_field(&float_repr(f.abs()), f.is_sign_negative() && !f.is_nan(), &spec)), true)
        }
        (
            Value::Int(_) | Value::Bool(_) | Value::Float(_),
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%'),
        ) => {
            let f = value.as_float().expect("a number");
            if spec.kind == Some('n') {
                spec.kind = Some('g');
            }
            (
                Text::own(&number_field(&float_digits(f, &spec), f.is_sign_negative() && !f.is_nan(), &spec)),
                true,
            )
        }
        (Value::Int(_) | Value::Bool(_) | Value::Float(_), Some(kind)) => return unknown(kind),
        _ => return fail(format!("unsupported format string passed to {}.__format__", value.type_name())),
    };
    let zero_fill = spec.zero && !is_number;
    let fill = spec.fill.unwrap_or(if zero_fill { '0' } else { ' ' });
    let fill = Text::own(fill.encode_utf8(&mut [0; 4]));
    let align = spec.align.unwrap_or(if is_number { '>' } else { '<' });
    super::methods::pad(interp, &field, spec.width as i128, &fill, |total, _| match align {
        '<' => 0,
        '^' => total / 2,
        _ => total,
    })
}

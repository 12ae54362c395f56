//! `print`, `printf` and `println`.

use super::number;
use super::show;
use super::value::Value;
use crate::template::text::{Text, TextBuf};
use crate::template::value::{Eval, Fuel, fail};

/// The widest padding and the most digits that a format may ask for.
const WIDTH_MAX: usize = 10_000;

/// Values side by side; a blank between two of which neither is a string.
pub(super) fn sprint(args: &[Value], fuel: &Fuel) -> Eval<Text> {
    let mut out = TextBuf::default();
    let mut was_string = true;
    for arg in args {
        let is_string = matches!(arg, Value::Str(_));
        if !is_string && !was_string {
            out.push_own(" ");
        }
        show::plain(arg, false, fuel, 0, &mut out)?;
        was_string = is_string;
    }
    Ok(out.into_text())
}

/// Values with blanks between them, and a line feed.
pub(super) fn sprintln(args: &[Value], fuel: &Fuel) -> Eval<Text> {
    let mut out = TextBuf::default();
    for (i, arg) in args.iter().enumerate() {
        if i > 0 {
            out.push_own(" ");
        }
        show::plain(arg, false, fuel, 0, &mut out)?;
    }
    out.push_own("\n");
    Ok(out.into_text())
}

/// Values in the places of a format.
pub(super) fn sprintf(format: &Text, args: &[Value], fuel: &Fuel) -> Eval<Text> {
    fuel.charge_bytes(format.len())?;
    let mut f = Formatter {
        format,
        args,
        fuel,
        at: 0,
        arg: 0,
        was_indexed: false,
        is_reordered: false,
        is_good: true,
        out: TextBuf::default(),
    };
    f.run()?;
    Ok(f.out.into_text())
}

#[derive(Clone, Copy, Default)]
struct Spec {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

struct Formatter<'a> {
    format: &'a Text,
    args: &'a [Value],
    fuel: &'a Fuel,
    at: usize,
    arg: usize,
    was_indexed: bool,
    is_reordered: bool,
    is_good: bool,
    out: TextBuf,
}

impl Formatter<'_> {
    fn byte(&self) -> Option<u8> {
        self.format.as_str().as_bytes().get(self.at).copied()
    }

    fn run(&mut self) -> Eval<()> {
        let text = self.format.as_str();
        while self.at < text.len() {
            self.is_good = true;
            let n = text[self.at..].find('%').unwrap_or(text.len() - self.at);
            self.out.push_slice(self.format, self.at, self.at + n);
            self.at += n;
            if self.at < text.len() {
                self.at += 1;
                self.verb()?;
            }
        }
        if !self.is_reordered && self.arg < self.args.len() {
            self.out.push_own("%!(EXTRA ");
            for (i, arg) in self.args[self.arg..].iter().enumerate() {
                if i > 0 {
                    self.out.push_own(", ");
                }
                self.typed(arg)?;
            }
            self.out.push_own(")");
        }
        Ok(())
    }

    /// `type=value`
    fn typed(&mut self, arg: &Value) -> Eval<()> {
        if matches!(arg, Value::Nil | Value::Invalid) {
            self.out.push_own("<nil>");
            return Ok(());
        }
        self.out.push_own(arg.type_name());
        self.out.push_own("=");
        show::plain(arg, false, self.fuel, 0, &mut self.out)
    }

    /// What follows a `%`.
    fn verb(&mut self) -> Eval<()> {
        let mut spec = Spec::default();
        while let Some(b) = self.byte() {
            match b {
                b'#' => spec.sharp = true,
                b'0' => spec.zero = true,
                b'+' => spec.plus = true,
                b'-' => spec.minus = true,
                b' ' => spec.space = true,
                _ => break,
            }
            self.at += 1;
        }
        self.was_indexed = false;
        self.index();
        if self.byte() == Some(b'*') {
            self.at += 1;
            match self.int_arg() {
                Some(n) => {
                    spec.width = Some(n.unsigned_abs() as usize);
                    if n < 0 {
                        spec.minus = true;
                        spec.zero = false;
                    }
                }
                None => self.out.push_own("%!(BADWIDTH)"),
            }
            self.was_indexed = false;
        } else {
            spec.width = self.number()?;
            if self.was_indexed && spec.width.is_some() {
                self.is_good = false;
            }
        }
        if self.byte() == Some(b'.') && self.at + 1 < self.format.len() {
            self.at += 1;
            if self.was_indexed {
                self.is_good = false;
            }
            self.index();
            if self.byte() == Some(b'*') {
                self.at += 1;
                spec.precision = self.int_arg().and_then(|n| usize::try_from(n).ok());
                if spec.precision.is_none() {
                    self.out.push_own("%!(BADPREC)");
                }
                self.was_indexed = false;
            } else {
                spec.precision = Some(self.number()?.unwrap_or(0));
            }
        }
        if !self.was_indexed {
            self.index();
        }
        let Some(verb) = self.format.as_str()[self.at..].chars().next() else {
            self.out.push_own("%!(NOVERB)");
            return Ok(());
        };
        self.at += verb.len_utf8();
        if verb == '%' {
            self.out.push_own("%");
        } else if !self.is_good {
            self.out.push_own(&format!("%!{verb}(BADINDEX)"));
        } else if let Some(arg) = self.args.get(self.arg) {
            self.arg += 1;
            self.value(arg, verb, spec, 0)?;
        } else {
            self.out.push_own(&format!("%!{verb}(MISSING)"));
        }
        Ok(())
    }

    /// `[n]`: which argument is next.
    fn index(&mut self) {
        if self.byte() != Some(b'[') {
            return;
        }
        self.is_reordered = true;
        let rest = &self.format.as_str()[self.at + 1..];
        let Some(n) = rest.find(']') else {
            self.is_good = false;
            self.at += 1;
            return;
        };
        self.at += n + 2;
        match rest[..n].parse::<usize>() {
            Ok(index) if (1..=self.args.len()).contains(&index) => {
                self.arg = index - 1;
                self.was_indexed = true;
            }
            _ => self.is_good = false,
        }
    }

    fn number(&mut self) -> Eval<Option<usize>> {
        let rest = &self.format.as_str()[self.at..];
        let n = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += n;
        match rest[..n].parse::<usize>() {
            _ if n == 0 => Ok(None),
            Ok(value) if value <= WIDTH_MAX => Ok(Some(value)),
            _ => fail(format!("a width of a format is at most {WIDTH_MAX}")),
        }
    }

    fn int_arg(&mut self) -> Option<i64> {
        let arg = self.args.get(self.arg)?;
        self.arg += 1;
        match arg {
            Value::Int(n) if n.unsigned_abs() <= WIDTH_MAX as u64 => Some(*n),
            Value::Uint(n) if *n <= WIDTH_MAX as u64 => Some(*n as i64),
            _ => None,
        }
    }

    /// Appends a text with what pads it.
    fn pad(&mut self, text: &Text, spec: Spec) -> Eval<()> {
        let n = spec.width.unwrap_or(0).saturating_sub(text.as_str().chars().count());
        self.fuel.charge_bytes(n + text.len())?;
        let blanks = if spec.zero && !spec.minus { "0" } else { " " }.repeat(n);
        if spec.minus {
            self.out.push(text);
            self.out.push_own(&blanks);
        } else {
            self.out.push_own(&blanks);
            self.out.push(text);
        }
        Ok(())
    }

    /// What a value gives that the verb is not for: its type, and itself with the flags of the verb.
    fn bad_verb(&mut self, arg: &Value, verb: char, spec: Spec) -> Eval<()> {
        self.out.push_own(&format!("%!{verb}({}=", arg.type_name()));
        self.value(arg, 'v', Spec { sharp: false, ..spec }, 0)?;
        self.out.push_own(")");
        Ok(())
    }

    fn value(&mut self, arg: &Value, verb: char, spec: Spec, depth: u32) -> Eval<()> {
        self.fuel.charge(1)?;
        match verb {
            'T' if depth == 0 => return self.string(&Text::own(arg.type_name()), 's', spec, arg),
            'p' => return fail("%p shows addresses of memory: there are none here"),
            'v' if spec.sharp => return fail("%#v shows values as Go's source text: use %v"),
            _ => {}
        }
        if arg.shows_itself() && "vsxXq".contains(verb) {
            let mut own = TextBuf::default();
            show::plain(arg, false, self.fuel, 0, &mut own)?;
            return self.string(&own.into_text(), verb, spec, arg);
        }
        match arg {
            Value::Invalid | Value::Nil if verb == 'v' || depth > 0 => self.pad(&Text::own("<nil>"), spec),
            Value::Invalid | Value::Nil => {
                self.out.push_own(&format!("%!{verb}(<nil>)"));
                Ok(())
            }
            Value::Bool(b) if "tv".contains(verb) => {
                self.pad(&Text::own(if *b { "true" } else { "false" }), spec)
            }
            Value::Int(n) => self.int(i128::from(*n), verb, spec, arg),
            Value::Uint(n) => self.int(i128::from(*n), verb, spec, arg),
            Value::Float(f) => self.float(*f, verb, spec, arg),
            Value::Str(s) => self.string(s, verb, spec, arg),
            Value::List(list) => {
                self.out.push_own("[");
                for (i, item) in list.items().iter().enumerate() {
                    if i > 0 {
                        self.out.push_own(" ");
                    }
                    self.value(item, verb, spec, depth + 1)?;
                }
                self.out.push_own("]");
                Ok(())
            }
            Value::Map(map) => {
                self.out.push_own("map[");
                for (i, (key, item)) in map.entries.iter().enumerate() {
                    if i > 0 {
                        self.out.push_own(" ");
                    }
                    self.value(&Value::Str(key.clone()), verb, spec, depth + 1)?;
                    self.out.push_own(":");
                    self.value(item, verb, spec, depth + 1)?;
                }
                self.out.push_own("]");
                Ok(())
            }
            Value::Struct(_) | Value::NilPointer(_) if verb == 'v' => {
                show::plain(arg, spec.plus, self.fuel, depth, &mut self.out)
            }
            Value::Struct(_) | Value::NilPointer(_) => {
                fail(format!("%{verb} of a {} is not supported: print its fields", arg.type_name()))
            }
            Value::Bool(_) => self.bad_verb(arg, verb, spec),
        }
    }

    fn string(&mut self, s: &Text, verb: char, spec: Spec, arg: &Value) -> Eval<()> {
        self.fuel.charge_bytes(s.len())?;
        let cut = match spec.precision {
            Some(n) if verb != 'x' && verb != 'X' => match s.as_str().char_indices().nth(n) {
                Some((at, _)) => s.slice(0, at),
                None => s.clone(),
            },
            _ => s.clone(),
        };
        match verb {
            'v' | 's' => self.pad(&cut, spec),
            'q' if spec.sharp && !cut.as_str().contains(['`', '\u{feff}']) && is_printable(cut.as_str()) => {
                self.pad(&around("`", &cut), spec)
            }
            'q' => self.pad(&quoted(&cut, spec.plus), spec),
            'x' | 'X' => {
                let n = spec.precision.unwrap_or(s.len()).min(s.len());
                let separator = if spec.space { " " } else { "" };
                let prefix = match (spec.sharp, verb) {
                    (false, _) => "",
                    (true, 'x') => "0x",
                    (true, _) => "0X",
                };
                let digits: Vec<String> = s.as_str().as_bytes()[..n]
                    .iter()
                    .enumerate()
                    .map(|(i, b)| {
                        let digits = if verb == 'x' { format!("{b:02x}") } else { format!("{b:02X}") };
                        if i == 0 || spec.space { format!("{prefix}{digits}") } else { digits }
                    })
                    .collect();
                // Of a stranger's text nothing but digits is left.
                self.pad(&Text::own(&digits.join(separator)), spec)
            }
            _ => self.bad_verb(arg, verb, spec),
        }
    }

    fn int(&mut self, n: i128, verb: char, spec: Spec, arg: &Value) -> Eval<()> {
        let size = n.unsigned_abs();
        let (digits, prefix) = match verb {
            'v' | 'd' => (size.to_string(), ""),
            'b' => (format!("{size:b}"), if spec.sharp { "0b" } else { "" }),
            'o' => (format!("{size:o}"), if spec.sharp { "0" } else { "" }),
            'O' => (format!("{size:o}"), "0o"),
            'x' => (format!("{size:x}"), if spec.sharp { "0x" } else { "" }),
            'X' => (format!("{size:X}"), if spec.sharp { "0X" } else { "" }),
            'c' | 'q' | 'U' => return self.rune(n, verb, spec),
            _ => return self.bad_verb(arg, verb, spec),
        };
        let sign = match (n < 0, spec.plus, spec.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        if spec.precision == Some(0) && n == 0 {
            return self.pad(&Text::own(""), Spec { zero: false, ..spec });
        }
        let wanted = match (spec.precision, spec.width) {
            (Some(n), _) => n,
            (None, Some(width)) if spec.zero && !spec.minus => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let zeros = "0".repeat(wanted.saturating_sub(digits.len()));
        self.pad(&Text::own(&format!("{sign}{prefix}{zeros}{digits}")), Spec { zero: false, ..spec })
    }

    fn rune(&mut self, n: i128, verb: char, spec: Spec) -> Eval<()> {
        let c = u32::try_from(n).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
        let text = match verb {
            'c' => c.to_string(),
            'q' => format!("'{}'", escape(c, '\'', spec.plus)),
            _ => {
                let digits = format!("U+{:04X}", n.unsigned_abs());
                if spec.sharp && is_printable(&c.to_string()) { format!("{digits} '{c}'") } else { digits }
            }
        };
        self.pad(&Text::own(&text), Spec { zero: false, ..spec })
    }

    fn float(&mut self, f: f64, verb: char, spec: Spec, arg: &Value) -> Eval<()> {
        let text = match verb {
            'v' | 'g' => number::format_g(f, spec.precision, 'e'),
            'G' => number::format_g(f, spec.precision, 'E'),
            'e' | 'E' => number::format_e(f, spec.precision.unwrap_or(6), verb),
            'f' | 'F' => number::format_f(f, spec.precision.unwrap_or(6)),
            'x' if spec.precision.is_none() => number::format_x(f),
            'X' if spec.precision.is_none() => number::format_x(f).to_uppercase(),
            'b' | 'x' | 'X' => {
                return fail(format!(
                    "this form of %{verb} of a number with decimals is not supported: use %v or %f"
                ));
            }
            _ => return self.bad_verb(arg, verb, spec),
        };
        if spec.sharp {
            return fail("the flag # for numbers with decimals is not supported: give a precision");
        }
        let sign = match (text.starts_with(['-', '+']), spec.plus, spec.space) {
            (false, true, _) if f.is_finite() => "+",
            (false, _, true) if f.is_finite() => " ",
            _ => "",
        };
        let text = format!("{sign}{text}");
        let is_padded = spec.zero && !spec.minus && f.is_finite();
        let Some(width) = spec.width.filter(|_| is_padded) else {
            return self.pad(&Text::own(&text), Spec { zero: false, ..spec });
        };
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+', ' '])));
        let zeros = "0".repeat(width.saturating_sub(text.len()));
        self.pad(&Text::own(&format!("{sign}{zeros}{digits}")), Spec { zero: false, ..spec })
    }
}

fn around(mark: &str, text: &Text) -> Text {
    let mut out = TextBuf::default();
    out.push_own(mark);
    out.push(text);
    out.push_own(mark);
    out.into_text()
}

/// In double quotes, with escapes as in Go's source text.
fn quoted(text: &Text, ascii: bool) -> Text {
    around("\"", &text.map_chars(|c, out| out.push_str(&escape(c, '"', ascii))))
}

fn escape(c: char, quote: char, ascii: bool) -> String {
    match c {
        c if c == quote || c == '\\' => format!("\\{c}"),
        '\x07' => "\\a".into(),
        '\x08' => "\\b".into(),
        '\x0c' => "\\f".into(),
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        '\x0b' => "\\v".into(),
        c if is_printable(c.encode_utf8(&mut [0; 4])) && (!ascii || c.is_ascii()) => c.to_string(),
        c if u32::from(c) < 0x20 || c == '\x7f' => format!("\\x{:02x}", u32::from(c)),
        c if u32::from(c) < 0x10000 => format!("\\u{:04x}", u32::from(c)),
        c => format!("\\U{:08x}", u32::from(c)),
    }
}

/// Whether all characters are letters, marks, numbers, punctuation, symbols or the blank.
pub(super) fn is_printable(text: &str) -> bool {
    // Behind a first character, Rust escapes exactly what cannot be printed, and quotes.
    let mut utf8 = [0; 5];
    utf8[0] = b'a';
    text.chars().all(|c| {
        let n = 1 + c.encode_utf8(&mut utf8[1..]).len();
        let both = std::str::from_utf8(&utf8[..n]).unwrap_or_default();
        matches!(c, '"' | '\'' | '\\') || both.escape_debug().skip(1).eq([c])
    })
}

//! The parameters of Modelfiles: what each one is, and which values it takes.

use serde_json::{Number, Value};

/// What values a parameter has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamKind {
    /// A whole number within bounds.
    Int(i64, i64),
    /// A number within bounds.
    Float(f64, f64),
    /// Yes or no.
    Bool,
    /// One of these only, as anything else would need what is not there.
    Only(&'static str),
    /// Text; may be given several times.
    Texts,
}

/// A parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub kind: ParamKind,
    /// Whether a model behaves otherwise by it. The others say how Ollama's runner shall use a machine, which is not
    /// the model's to say here: they are kept and have no effect.
    pub is_honoured: bool,
}

const fn honoured(name: &'static str, kind: ParamKind) -> Parameter {
    Parameter { name, kind, is_honoured: true }
}

const fn kept(name: &'static str, kind: ParamKind) -> Parameter {
    Parameter { name, kind, is_honoured: false }
}

const I32: ParamKind = ParamKind::Int(i32::MIN as i64, i32::MAX as i64);

/// All parameters that a Modelfile may set. The bounds are those of requests.
pub const PARAMETERS: &[Parameter] = &[
    honoured("num_ctx", ParamKind::Int(1, i32::MAX as i64)),
    honoured("num_predict", ParamKind::Int(-2, i32::MAX as i64)),
    honoured("temperature", ParamKind::Float(0.0, 100.0)),
    honoured("seed", ParamKind::Int(i64::MIN, i64::MAX)),
    honoured("stop", ParamKind::Texts),
    honoured("top_k", I32),
    honoured("top_p", ParamKind::Float(0.0, 1.0)),
    honoured("min_p", ParamKind::Float(0.0, 1.0)),
    honoured("typical_p", ParamKind::Float(0.0, 1.0)),
    honoured("repeat_last_n", ParamKind::Int(-1, i32::MAX as i64)),
    honoured("repeat_penalty", ParamKind::Float(0.0, 100.0)),
    honoured("presence_penalty", ParamKind::Float(-100.0, 100.0)),
    honoured("frequency_penalty", ParamKind::Float(-100.0, 100.0)),
    honoured("mirostat", ParamKind::Int(0, 2)),
    honoured("mirostat_tau", ParamKind::Float(0.0, 1000.0)),
    honoured("mirostat_eta", ParamKind::Float(0.0, 1000.0)),
    kept("num_keep", I32),
    kept("num_batch", I32),
    kept("num_gpu", I32),
    kept("main_gpu", I32),
    kept("num_thread", I32),
    kept("draft_num_predict", I32),
    kept("use_mmap", ParamKind::Bool),
    kept("use_mlock", ParamKind::Bool),
    kept("numa", ParamKind::Bool),
    kept("low_vram", ParamKind::Bool),
    kept("logits_all", ParamKind::Bool),
    kept("f16_kv", ParamKind::Only("true")),
    kept("vocab_only", ParamKind::Only("false")),
    kept("penalize_newline", ParamKind::Only("true")),
    kept("tfs_z", ParamKind::Only("1")),
];

/// The longest stop string, in bytes.
const STOP_BYTES_MAX: usize = 256;

/// A parameter that cannot be set so. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamProblem {
    /// There is none of this name.
    #[error("there is no parameter `{name}`; there are {}", names())]
    Unknown {
        /// The name, cut where it is long.
        name: String,
    },
    /// It has no such value.
    #[error("`{name}` must be {wanted}, not {given}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What it takes.
        wanted: String,
        /// What was given, cut where it is long.
        given: String,
    },
}

fn names() -> String {
    let honoured = PARAMETERS.iter().filter(|p| p.is_honoured);
    honoured.map(|p| p.name).collect::<Vec<_>>().join(", ")
}

/// The beginning of a text that was given, for a message.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let plain = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    let cut: String = text.chars().take(CHARS_MAX).map(plain).collect();
    if text.chars().count() > CHARS_MAX { format!("{cut}…") } else { cut }
}

fn parameter(name: &str) -> Result<&'static Parameter, ParamProblem> {
    let found = PARAMETERS.iter().find(|p| p.name == name);
    found.ok_or_else(|| ParamProblem::Unknown { name: shown(name) })
}

impl Parameter {
    fn problem(&self, given: &str) -> ParamProblem {
        let wanted = match self.kind {
            ParamKind::Int(i64::MIN, _) => "a whole number".into(),
            ParamKind::Int(min, max) => format!("a whole number from {min} to {max}"),
            ParamKind::Float(min, max) => format!("a number from {min} to {max}"),
            ParamKind::Bool => "true or false".into(),
            ParamKind::Only(value) => format!("{value} (nothing else is available)"),
            ParamKind::Texts => format!("a text of 1 to {STOP_BYTES_MAX} bytes"),
        };
        ParamProblem::Value { name: self.name, wanted, given: shown(given) }
    }

    /// The value that a text spells.
    fn parse(&self, text: &str) -> Result<Value, ParamProblem> {
        let bad = || self.problem(text);
        Ok(match self.kind {
            ParamKind::Int(..) => self.check(&Value::from(text.parse::<i64>().map_err(|_| bad())?))?,
            ParamKind::Float(..) | ParamKind::Only("1") => {
                let number = text.parse::<f64>().ok().and_then(Number::from_f64).ok_or_else(bad)?;
                self.check(&Value::Number(number))?
            }
            ParamKind::Bool | ParamKind::Only(_) => match text {
                // As Go reads them.
                "1" | "t" | "T" | "TRUE" | "true" | "True" => self.check(&Value::Bool(true))?,
                "0" | "f" | "F" | "FALSE" | "false" | "False" => self.check(&Value::Bool(false))?,
                _ => return Err(bad()),
            },
            ParamKind::Texts => self.check(&Value::from(text))?,
        })
    }

    /// A value as it is kept, if it is one of this parameter's.
    fn check(&self, value: &Value) -> Result<Value, ParamProblem> {
        let within = match (self.kind, value) {
            (ParamKind::Int(min, max), Value::Number(n)) => {
                let whole = n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64));
                return match whole.filter(|n| (min..=max).contains(n)) {
                    Some(n) => Ok(Value::from(n)),
                    None => Err(self.problem(&value.to_string())),
                };
            }
            (ParamKind::Float(min, max), Value::Number(n)) => {
                n.as_f64().is_some_and(|f| (min..=max).contains(&f))
            }
            (ParamKind::Bool, Value::Bool(_)) => true,
            (ParamKind::Only("1"), Value::Number(n)) => n.as_f64() == Some(1.0),
            (ParamKind::Only(only), Value::Bool(b)) => b.to_string() == only,
            (ParamKind::Texts, Value::String(s)) => (1..=STOP_BYTES_MAX).contains(&s.len()),
            _ => false,
        };
        if within { Ok(value.clone()) } else { Err(self.problem(&value.to_string())) }
    }
}

/// The value of a parameter that a Modelfile spells.
pub(super) fn parse_parameter(name: &str, text: &str) -> Result<Value, ParamProblem> {
    parameter(name)?.parse(text)
}

/// Checks a parameter that came as JSON, and gives it as it is kept; a list only where one may be given several times.
///
/// # Errors
/// If there is none of this name, or it has no such value.
pub fn check_parameter(name: &str, value: &Value) -> Result<Value, ParamProblem> {
    let parameter = parameter(name)?;
    match value {
        Value::Array(items) if parameter.kind == ParamKind::Texts => {
            items.iter().map(|item| parameter.check(item)).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        Value::String(text) if parameter.kind == ParamKind::Texts => {
            Ok(Value::Array(vec![parameter.parse(text)?]))
        }
        value => parameter.check(value),
    }
}

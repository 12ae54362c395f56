//! Taking an object apart, field by field. Whatever was not taken at the end is refused by name.

use serde_json::{Map, Number, Value};

use crate::RequestError;
use crate::error::quoted;

/// An object whose fields are being taken. `null` counts as absent everywhere.
pub(crate) struct Fields {
    /// Where the object is, as a prefix of its fields' paths: empty, or `messages[0].`.
    prefix: String,
    map: Map<String, Value>,
}

/// What a value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The error for a value of the wrong type.
pub(crate) fn wrong_type(path: &str, wanted: &str, got: &Value) -> RequestError {
    RequestError::field(path, format!("`{path}` must be {wanted}, not {}", kind(got)))
}

/// A whole number; `1.0` is one too, as JavaScript clients write it.
pub(crate) fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)).or_else(|| {
        let float = number.as_f64()?;
        // 2^53: beyond it a float no longer says which integer was meant.
        (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i128)
    })
}

impl Fields {
    /// The fields of a body.
    pub fn new(map: Map<String, Value>) -> Self {
        Self { prefix: String::new(), map }
    }

    /// The fields of an object inside a body; `path` says where.
    pub fn nested(value: Value, path: &str) -> Result<Self, RequestError> {
        match value {
            Value::Object(map) => Ok(Self { prefix: format!("{path}."), map }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// The full path of a field.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// An error about a field.
    pub fn error(&self, name: &str, message: impl Into<String>) -> RequestError {
        RequestError::field(self.path(name), message)
    }

    /// Whether a field is there.
    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|v| !v.is_null())
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        trace::note(self.path(name), trace::Kind::Any);
        // The order of what remains is kept so that the first unknown field is the one that is named.
        self.map.shift_remove(name).filter(|v| !v.is_null())
    }

    /// Takes a field that goes by several names. Given twice, the values must agree.
    pub fn take_any(&mut self, names: &[&str]) -> Result<Option<(String, Value)>, RequestError> {
        let mut found: Option<(String, Value)> = None;
        for name in names {
            let Some(value) = self.take(name) else { continue };
            match &found {
                None => found = Some(((*name).to_owned(), value)),
                Some((first, v)) if *v != value => {
                    return Err(self.error(
                        name,
                        format!(
                            "`{}` and `{}` are the same setting but differ; give one of them",
                            self.path(first),
                            self.path(name)
                        ),
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }

    pub fn bool(&mut self, name: &str) -> Result<Option<bool>, RequestError> {
        #[cfg(test)]
        trace::note(self.path(name), trace::Kind::Bool);
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(wrong_type(&self.path(name), "true or false", &other)),
        }
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, RequestError> {
        #[cfg(test)]
        trace::note(self.path(name), trace::Kind::String);
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, RequestError> {
        #[cfg(test)]
        trace::note(self.path(name), trace::Kind::List);
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(wrong_type(&self.path(name), "a list", &other)),
        }
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, RequestError> {
        #[cfg(test)]
        trace::note(self.path(name), trace::Kind::Object);
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(wrong_type(&self.path(name), "an object", &other)),
        }
    }

    /// A whole number from `min` to `max`, under any of the names.
    pub fn integer(&mut self, names: &[&str], min: i128, max: i128) -> Result<Option<i128>, RequestError> {
        #[cfg(test)]
        names.iter().for_each(|name| trace::note(self.path(name), trace::Kind::Integer(min, max)));
        let Some((name, value)) = self.take_any(names)? else { return Ok(None) };
        let path = self.path(&name);
        let Value::Number(number) = &value else { return Err(wrong_type(&path, "a whole number", &value)) };
        match integer(number) {
            Some(v) if (min..=max).contains(&v) => Ok(Some(v)),
            _ => Err(RequestError::field(
                &path,
                format!("`{path}` must be a whole number from {min} to {max}, not {number}"),
            )),
        }
    }

    /// A number from `min` to `max`, under any of the names.
    pub fn number(&mut self, names: &[&str], min: f64, max: f64) -> Result<Option<f32>, RequestError> {
        #[cfg(test)]
        names.iter().for_each(|name| trace::note(self.path(name), trace::Kind::Number(min, max)));
        let Some((name, value)) = self.take_any(names)? else { return Ok(None) };
        let path = self.path(&name);
        let Value::Number(number) = &value else { return Err(wrong_type(&path, "a number", &value)) };
        match number.as_f64() {
            Some(v) if (min..=max).contains(&v) => Ok(Some(v as f32)),
            _ => Err(RequestError::field(
                &path,
                format!("`{path}` must be a number from {min} to {max}, not {number}"),
            )),
        }
    }

    /// Refuses what was not taken.
    pub fn finish(self) -> Result<(), RequestError> {
        let Some((name, _)) = self.map.into_iter().find(|(_, v)| !v.is_null()) else { return Ok(()) };
        let shown: String = name.chars().take(64).collect();
        Err(RequestError::field(
            format!("{}{shown}", self.prefix),
            format!(
                "unknown field {}: remove it (fields without effect are refused rather than ignored)",
                quoted(&format!("{}{name}", self.prefix))
            ),
        )
        .with_code("unknown_field"))
    }
}

/// What parsers look for, as they do it: so that tests can compare it with what is said about them.
#[cfg(test)]
pub(crate) mod trace {
    use std::cell::RefCell;

    /// What kind of value a field is taken as.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Kind {
        Any,
        Bool,
        String,
        List,
        Object,
        Integer(i128, i128),
        Number(f64, f64),
    }

    thread_local! {
        static TAKEN: RefCell<Vec<(String, Kind)>> = const { RefCell::new(Vec::new()) };
    }

    pub fn note(path: String, kind: Kind) {
        TAKEN.with_borrow_mut(|taken| taken.push((path, kind)));
    }

    /// The paths of all fields that were looked for while `read` ran, whether or not they were there.
    pub fn of(read: impl FnOnce()) -> Vec<(String, Kind)> {
        TAKEN.take();
        read();
        TAKEN.take()
    }
}

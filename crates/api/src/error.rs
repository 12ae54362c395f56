//! The caller's mistakes.

/// A request that cannot be served as it is, always the caller's fault. The message is meant for the caller: it says
/// what is wrong with which field and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// What is wrong and what to do.
    pub message: String,
    /// The field at fault, as a path such as `messages[2].content`.
    pub param: Option<String>,
    /// A stable word for programs.
    pub code: Option<&'static str>,
}

impl RequestError {
    /// A mistake in one field.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.into()), code: None }
    }

    /// A mistake of the body as a whole.
    pub fn body(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None, code: None }
    }

    /// The same with a code.
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
}

/// Text from a client as it may appear in a message: short, on one line, without control characters.
pub fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut shown: String =
        text.chars().take(CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// The same in quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", shown(text))
}

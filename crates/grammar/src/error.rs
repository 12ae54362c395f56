//! Why a format is refused, or an answer cannot go on.

use ingle_step::TokenId;

/// What went wrong. All but [`Self::DeadEnd`] and [`Self::TooComplex`] are the fault of who wrote the format, and are
/// found before anything is generated; [`Self::NotAllowed`] and [`Self::Rollback`] are faults of the caller's code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Sound, but it cannot be enforced.
    #[error("{}{reason}", place(pointer.as_deref(), keyword.as_deref()))]
    Unsupported {
        /// Where in the schema, as a JSON pointer.
        pointer: Option<String>,
        /// The keyword of the schema.
        keyword: Option<String>,
        /// Why, and what to do instead.
        reason: String,
    },
    /// Wrong in itself.
    #[error("{}{reason}", place(pointer.as_deref(), keyword.as_deref()))]
    Invalid {
        /// Where in the schema, as a JSON pointer.
        pointer: Option<String>,
        /// The keyword of the schema.
        keyword: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// A grammar's text is wrong.
    #[error("line {line}, column {column}: {reason}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// Over a limit.
    #[error("{}{reason}", place(pointer.as_deref(), None))]
    TooLarge {
        /// Where in the schema, as a JSON pointer.
        pointer: Option<String>,
        /// What is too large, and the limit.
        reason: String,
    },
    /// No token of the model goes on, and the text may not end.
    #[error("the grammar allows no token here, and no end")]
    DeadEnd,
    /// The answer made the grammar's recognizer too large.
    #[error("the grammar became too complex while the answer was generated: {reason}")]
    TooComplex {
        /// Which limit.
        reason: String,
    },
    /// A token was to be accepted that the mask forbids.
    #[error("token {} is not allowed here", token.0)]
    NotAllowed {
        /// The token.
        token: TokenId,
    },
    /// More was to be taken back than was accepted.
    #[error("cannot take back {wanted} of {accepted} tokens")]
    Rollback {
        /// How many were to be taken back.
        wanted: usize,
        /// How many were accepted.
        accepted: usize,
    },
}

fn place(pointer: Option<&str>, keyword: Option<&str>) -> String {
    match (pointer, keyword) {
        (Some(pointer), Some(keyword)) => format!("at \"{pointer}\", `{keyword}`: "),
        (Some(pointer), None) => format!("at \"{pointer}\": "),
        (None, Some(keyword)) => format!("`{keyword}`: "),
        (None, None) => String::new(),
    }
}

impl GrammarError {
    /// Where in the schema, as a JSON pointer.
    pub fn pointer(&self) -> Option<&str> {
        match self {
            Self::Unsupported { pointer, .. }
            | Self::Invalid { pointer, .. }
            | Self::TooLarge { pointer, .. } => pointer.as_deref(),
            _ => None,
        }
    }

    /// The keyword of the schema.
    pub fn keyword(&self) -> Option<&str> {
        match self {
            Self::Unsupported { keyword, .. } | Self::Invalid { keyword, .. } => keyword.as_deref(),
            _ => None,
        }
    }

    /// Whether the fault is in the format, and not in what came of it.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Unsupported { .. } | Self::Invalid { .. } | Self::Syntax { .. } | Self::TooLarge { .. }
        )
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported { pointer: None, keyword: None, reason: reason.into() }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { pointer: None, keyword: None, reason: reason.into() }
    }

    pub(crate) fn too_large(reason: impl Into<String>) -> Self {
        Self::TooLarge { pointer: None, reason: reason.into() }
    }

    /// The same fault, at a keyword of a schema.
    pub(crate) fn at(self, at: &str, word: &str) -> Self {
        let (pointer, keyword) = (Some(at.to_owned()), Some(word.to_owned()));
        match self {
            Self::Unsupported { reason, .. } => Self::Unsupported { pointer, keyword, reason },
            Self::Invalid { reason, .. } => Self::Invalid { pointer, keyword, reason },
            Self::TooLarge { reason, .. } => Self::TooLarge { pointer, reason },
            other => other,
        }
    }
}

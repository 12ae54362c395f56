//! Requests and replies in no dialect.

use std::fmt;

use serde_json::Value;

/// One turn of a conversation.
#[derive(Clone, Debug)]
pub enum Turn {
    User(&'static str),
    Assistant {
        thoughts: &'static str,
        text: &'static str,
        calls: Vec<Call>,
    },
    /// What a tool gave back.
    Result {
        id: &'static str,
        name: &'static str,
        text: &'static str,
    },
}

#[derive(Clone, Debug)]
pub struct Call {
    pub id: &'static str,
    pub name: &'static str,
    pub arguments: Value,
}

#[derive(Clone, Debug)]
pub struct Tool {
    pub name: &'static str,
    pub description: &'static str,
    pub schema: Value,
    pub strict: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Choice {
    #[default]
    Auto,
    None,
    Required,
    Named(&'static str),
}

#[derive(Clone, Debug)]
pub enum Format {
    Json,
    Schema(Value),
}

#[derive(Clone, Copy, Debug, Default)]
pub enum Thinking {
    #[default]
    Unsaid,
    On,
    Off,
    Budget(u32),
    Effort(&'static str),
}

/// One request, and what comes of it.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub model: Option<&'static str>,
    pub system: Option<&'static str>,
    pub turns: Vec<Turn>,
    pub tools: Vec<Tool>,
    pub choice: Choice,
    pub one_call: bool,
    pub format: Option<Format>,
    pub thinking: Thinking,
    pub stop: Vec<&'static str>,
    pub max_tokens: Option<u32>,
    pub temperature: f64,
    pub seed: Option<i64>,
    pub top_k: Option<i64>,
    pub top_p: Option<f64>,
    /// Raw values for neutral fields, mostly wrong ones; `null` takes a field away.
    pub set: Vec<(&'static str, Value)>,
    /// What becomes of the body's text.
    pub garble: Option<fn(&str) -> Vec<u8>>,
    /// Other headers than usual.
    pub headers: Option<&'static str>,
    /// The neutral field that an error has to name.
    pub about: Option<&'static str>,
    pub expect: Expect,
}

/// A case of one user turn, to which nothing else is said.
pub fn ask(name: &'static str, text: &'static str) -> Case {
    Case {
        name,
        model: None,
        system: None,
        turns: vec![Turn::User(text)],
        tools: Vec::new(),
        choice: Choice::Auto,
        one_call: false,
        format: None,
        thinking: Thinking::Unsaid,
        stop: Vec::new(),
        max_tokens: None,
        temperature: 0.0,
        seed: None,
        top_k: None,
        top_p: None,
        set: Vec::new(),
        garble: None,
        headers: None,
        about: None,
        expect: Expect::Alike,
    }
}

impl Case {
    /// Whether the conversation ends with words in the model's mouth.
    pub fn continues(&self) -> bool {
        matches!(self.turns.last(), Some(Turn::Assistant { calls, .. }) if calls.is_empty())
    }
}

/// What must come of a case.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Any answer, the same in all dialects.
    Alike,
    Says {
        thoughts: &'static str,
        text: String,
        calls: Vec<(&'static str, Value)>,
        finish: Finish,
    },
    Refused(Kind),
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Finish {
    Stop,
    StopString(String),
    Length,
    Calls,
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Invalid,
    UnknownModel,
    TooLong,
    Overloaded,
    Unauthorized,
    MediaType,
    /// Whatever else; its status.
    Other(u16),
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Answered(Answer),
    Refused(Refusal),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub thoughts: String,
    pub text: String,
    /// Those that are complete, with names and arguments.
    pub calls: Vec<(String, Value)>,
    pub finish: Finish,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: Kind,
    pub retry_after: bool,
}

impl Expect {
    /// As far as it is known before.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Alike => None,
            Self::Says { thoughts, text, calls, finish } => Some(Outcome::Answered(Answer {
                thoughts: (*thoughts).to_owned(),
                text: text.clone(),
                calls: calls
                    .iter()
                    .map(|(name, arguments)| ((*name).to_owned(), arguments.clone()))
                    .collect(),
                finish: finish.clone(),
                prompt_tokens: 0,
                completion_tokens: 0,
            })),
            Self::Refused(kind) => {
                Some(Outcome::Refused(Refusal { kind: *kind, retry_after: *kind == Kind::Overloaded }))
            }
        }
    }
}

impl Outcome {
    /// Equal but for the counts.
    pub fn same_meaning(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Answered(a), Self::Answered(b)) => {
                (&a.thoughts, &a.text, &a.calls, &a.finish) == (&b.thoughts, &b.text, &b.calls, &b.finish)
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Refused(Refusal { kind, .. }) => write!(f, "refused: {kind:?}"),
            Self::Answered(Answer { thoughts, text, calls, finish, prompt_tokens, completion_tokens }) => {
                if !thoughts.is_empty() {
                    write!(f, "thinks {thoughts:?}, ")?;
                }
                write!(f, "says {text:?}, ")?;
                for (name, arguments) in calls {
                    write!(f, "calls {name}{arguments}, ")?;
                }
                write!(f, "{finish:?}, {prompt_tokens} + {completion_tokens} tokens")
            }
        }
    }
}

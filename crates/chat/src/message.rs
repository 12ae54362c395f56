//! Messages of a conversation.

use serde_json::Value;

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions from the application.
    System,
    /// Instructions from the application, under the name newer models use.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
    /// A role that only some templates know.
    Other(String),
}

impl Role {
    /// The name in templates and wire formats.
    pub fn name(&self) -> &str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Other(name) => name,
        }
    }

    /// The role of this name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// One part of a message's content.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text(String),
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Nothing: an assistant message that only calls tools.
    None,
    /// Plain text.
    Text(String),
    /// Parts, which templates see as a list.
    Parts(Vec<Part>),
}

/// A call that the model made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The call's id, if it has one.
    pub id: Option<String>,
    /// The number that its sender gave it, which Ollama's templates can show; 0 where there was none.
    pub index: u32,
    /// The function's name.
    pub name: String,
    /// The arguments, as JSON.
    pub arguments: Value,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Content,
    /// The speaker's name, where templates use one.
    pub name: Option<String>,
    /// What the model thought before it spoke.
    pub reasoning: Option<String>,
    /// Calls that an assistant message makes.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool message answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message that is only text.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: Content::Text(text.into()),
            name: None,
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }
}

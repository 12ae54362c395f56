//! What a model's maker says of every request, unless the request says otherwise.

use std::borrow::Cow;

use ingle_chat::{ChatInput, Message, Role};

/// What opens each conversation with a model, and what ends its answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preset {
    /// The system message of conversations that begin with none of their own.
    pub system: Option<String>,
    /// Messages before those of the conversation, behind its system message.
    pub messages: Vec<Message>,
    /// Texts that end answers of requests that name none.
    pub stop: Vec<String>,
    /// The most new tokens of requests that name no number; where there is less room, that much.
    pub max_tokens: Option<u32>,
}

impl Preset {
    /// The conversation with what opens it.
    pub(super) fn open<'a>(&self, input: &'a ChatInput) -> Cow<'a, ChatInput> {
        if input.messages.is_empty() || (self.system.is_none() && self.messages.is_empty()) {
            return Cow::Borrowed(input);
        }
        let is_system = |m: &Message| matches!(m.role, Role::System | Role::Developer);
        let n_system = input.messages.iter().take_while(|m| is_system(m)).count();
        let mut opened = input.clone();
        let own = self.system.as_deref().filter(|text| n_system == 0 && !text.is_empty());
        let system = own.map(|text| Message::text(Role::System, text));
        let opening: Vec<Message> = system.into_iter().chain(self.messages.iter().cloned()).collect();
        opened.messages.splice(n_system..n_system, opening);
        Cow::Owned(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_opened() {
        let text = |role: &str, text: &str| Message::text(Role::from_name(role), text);
        let check = |preset: &Preset, messages: &[(&str, &str)], expected: &[&str]| {
            let messages = messages.iter().map(|(role, said)| text(role, said)).collect();
            let input = ChatInput { messages, ..ChatInput::default() };
            let opened = preset.open(&input);
            let shown: Vec<String> = opened
                .messages
                .iter()
                .map(|m| match &m.content {
                    ingle_chat::Content::Text(said) => format!("{}:{said}", m.role.name()),
                    other => panic!("a text, not {other:?}"),
                })
                .collect();
            assert_eq!(shown, expected);
        };
        let system = Preset { system: Some("S".into()), ..Preset::default() };
        check(&Preset::default(), &[("user", "hi")], &["user:hi"]);
        check(&system, &[("user", "hi")], &["system:S", "user:hi"]);
        check(&system, &[("system", "own"), ("user", "hi")], &["system:own", "user:hi"]);
        check(&system, &[], &[]);
        let both = Preset { messages: vec![text("user", "q"), text("assistant", "a")], ..system };
        check(&both, &[("user", "hi")], &["system:S", "user:q", "assistant:a", "user:hi"]);
        check(
            &both,
            &[("developer", "own"), ("user", "hi")],
            &["developer:own", "user:q", "assistant:a", "user:hi"],
        );
    }
}

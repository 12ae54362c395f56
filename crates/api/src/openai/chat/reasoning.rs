//! Wishes about thinking, in the spellings of all peers.

use ingle_chat::ReasoningWish;
use serde_json::Value;

use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};

/// Words for how hard a model thinks. Which of them a template knows is the model's to say.
pub(crate) const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
const BUDGET_MAX: i128 = i32::MAX as i128;

/// What a body says about thinking.
#[derive(Default)]
pub(super) struct Reasoning {
    /// What the model is asked for.
    pub wish: ReasoningWish,
    /// The reply leaves thoughts out.
    pub is_hidden: bool,
}

/// A wish that goes by several names; all that are given must agree.
struct Agreed<T>(Option<(String, T)>);

impl<T: PartialEq> Agreed<T> {
    fn say(&mut self, path: String, value: T) -> Result<(), RequestError> {
        match &self.0 {
            Some((first, said)) if *said != value => {
                let text = format!("`{first}` and `{path}` contradict each other; give one of them");
                Err(RequestError::field(path, text))
            }
            Some(_) => Ok(()),
            None => {
                self.0 = Some((path, value));
                Ok(())
            }
        }
    }

    fn value(self) -> Option<T> {
        self.0.map(|(_, value)| value)
    }
}

/// What has been said so far.
struct Said {
    enabled: Agreed<bool>,
    effort: Agreed<String>,
    budget: Agreed<Option<u32>>,
    in_text: Agreed<bool>,
    hidden: Agreed<bool>,
}

/// Takes every field about thinking. `chat_template_kwargs` stays what it is: the template's own.
pub(super) fn take_reasoning(fields: &mut Fields) -> Result<Reasoning, RequestError> {
    let mut said = Said {
        enabled: Agreed(None),
        effort: Agreed(None),
        budget: Agreed(None),
        in_text: Agreed(None),
        hidden: Agreed(None),
    };
    if let Some(word) = fields.string("reasoning_effort")? {
        said.effort(&word, "reasoning_effort")?;
    }
    if let Some(value) = fields.take("reasoning") {
        said.reasoning_object(Fields::nested(value, "reasoning")?)?;
    }
    match fields.take("think") {
        None => {}
        Some(Value::Bool(on)) => said.enabled.say("think".into(), on)?,
        Some(Value::String(word)) => said.effort(&word, "think")?,
        Some(other) => return Err(wrong_type("think", "true, false, or how hard", &other)),
    }
    if let Some(on) = fields.bool("enable_thinking")? {
        said.enabled.say("enable_thinking".into(), on)?;
    }
    match fields.take("thinking") {
        None => {}
        Some(Value::Bool(on)) => said.enabled.say("thinking".into(), on)?,
        Some(value) => said.thinking_object(Fields::nested(value, "thinking")?)?,
    }
    for name in ["thinking_token_budget", "thinking_budget_tokens"] {
        said.budget(fields, name)?;
    }
    if let Some(shown) = fields.bool("include_reasoning")? {
        said.hidden.say("include_reasoning".into(), !shown)?;
    }
    if let Some(apart) = fields.bool("separate_reasoning")? {
        said.in_text.say("separate_reasoning".into(), !apart)?;
    }
    if let Some(word) = fields.string("reasoning_format")? {
        let in_text = match word.as_str() {
            "none" => true,
            "auto" | "deepseek" => false,
            other => {
                let text = format!(
                    "`reasoning_format` is {}; it can be none (thoughts stay in the text), auto or deepseek (they \
                     come apart)",
                    quoted(other)
                );
                return Err(fields.error("reasoning_format", text).with_code("unsupported_value"));
            }
        };
        said.in_text.say("reasoning_format".into(), in_text)?;
    }
    said.together()
}

impl Said {
    /// A word for how hard; `none` is not at all.
    fn effort(&mut self, word: &str, path: &str) -> Result<(), RequestError> {
        if !EFFORTS.contains(&word) {
            let text = format!("`{path}` is {}; it can be {}", quoted(word), EFFORTS.join(", "));
            return Err(RequestError::field(path, text));
        }
        if word == "none" {
            return self.enabled.say(path.to_owned(), false);
        }
        self.effort.say(path.to_owned(), word.to_owned())
    }

    /// `{"effort", "max_tokens", "enabled", "exclude"}`.
    fn reasoning_object(&mut self, mut fields: Fields) -> Result<(), RequestError> {
        if let Some(word) = fields.string("effort")? {
            self.effort(&word, &fields.path("effort"))?;
        }
        if let Some(on) = fields.bool("enabled")? {
            self.enabled.say(fields.path("enabled"), on)?;
        }
        self.budget(&mut fields, "max_tokens")?;
        if let Some(hidden) = fields.bool("exclude")? {
            self.hidden.say(fields.path("exclude"), hidden)?;
        }
        fields.finish()
    }

    /// `{"type": "enabled", "budget_tokens"}` or `{"type": "disabled"}`.
    fn thinking_object(&mut self, mut fields: Fields) -> Result<(), RequestError> {
        let on = match fields.string("type")?.as_deref() {
            Some("enabled") => true,
            Some("disabled") => false,
            _ => {
                let text = "`thinking.type` must be \"enabled\" or \"disabled\"";
                return Err(fields.error("type", text));
            }
        };
        self.enabled.say(fields.path("type"), on)?;
        self.budget(&mut fields, "budget_tokens")?;
        fields.finish()
    }

    /// How many tokens of thoughts there may be; -1 is no limit, as llama-server has it.
    fn budget(&mut self, fields: &mut Fields, name: &str) -> Result<(), RequestError> {
        match fields.integer(&[name], -1, BUDGET_MAX)? {
            None => Ok(()),
            Some(tokens) => self.budget.say(fields.path(name), u32::try_from(tokens).ok()),
        }
    }

    /// All of it, if it makes sense together.
    fn together(self) -> Result<Reasoning, RequestError> {
        if let Some((off, false)) = &self.enabled.0 {
            let limit = self.budget.0.as_ref().filter(|(_, tokens)| tokens.is_some_and(|n| n > 0));
            if let Some(more) = self.effort.0.as_ref().map(|(p, _)| p).or(limit.map(|(p, _)| p)) {
                let text = format!("`{off}` turns thinking off and `{more}` says how much; give one of them");
                return Err(RequestError::field(more, text));
            }
        }
        if let (Some((hidden, true)), Some((in_text, true))) = (&self.hidden.0, &self.in_text.0) {
            let text = format!(
                "`{hidden}` leaves thoughts out and `{in_text}` leaves them in the text; give one of them"
            );
            return Err(RequestError::field(in_text, text));
        }
        let wish = ReasoningWish {
            enabled: self.enabled.value(),
            effort: self.effort.value(),
            budget_tokens: self.budget.value().flatten(),
            in_text: self.in_text.value().unwrap_or(false),
        };
        Ok(Reasoning { wish, is_hidden: self.hidden.value().unwrap_or(false) })
    }
}

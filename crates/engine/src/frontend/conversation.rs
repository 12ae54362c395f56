//! Conversations: the template is told what is wished, rendered, and its text becomes tokens.

use std::borrow::Cow;

use ingle_chat::output::OutputContext;
use ingle_chat::template::{ChatTemplate, TemplateError};
use ingle_chat::{ChatInput, ProviderError, ReasoningWish, Segments, ToolChoice};
use serde_json::Value;

use super::{Frontend, Reading, Thoughts, invalid};

/// The variables by which templates switch thinking on and off.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];
/// The variable by which templates are told how hard to think.
const EFFORT: &str = "reasoning_effort";
/// How much of the prompt's end is looked at for thoughts that it has begun.
const PROMPT_END_BYTES: usize = 256;

impl Frontend {
    pub(super) fn read_chat(
        &self,
        input: &ChatInput,
        include_special: bool,
    ) -> Result<Reading, ProviderError> {
        let Some(template) = &self.template else {
            let message = format!(
                "model `{}` has no chat template: load it with one (for example a built-in one), or send a \
                 completion instead",
                self.model.id
            );
            return Err(invalid("messages", message));
        };
        check_tools(input)?;
        let input = self.preset.open(input);
        let input = self.with_wishes(&input, template)?;
        let segments = template.render(&input, (self.now)()).map_err(|error| match error {
            TemplateError::Syntax { .. } => ProviderError::Internal(error.to_string()),
            TemplateError::Reserved { .. } => invalid("template_vars", error.to_string()),
            TemplateError::Raised { .. } | TemplateError::Render { .. } | TemplateError::Limit { .. } => {
                invalid("messages", error.to_string())
            }
        })?;
        let mut tokens = self.tokenizer.encode(&segments, false);
        // Most templates spell the BOS token themselves, some leave it to the tokenizer: one it shall be.
        if let Some(bos) = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos())
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        if tokens.is_empty() {
            return Err(invalid(
                "messages",
                "the chat template made an empty prompt of these messages".into(),
            ));
        }
        // Who wants to see control tokens wants to see all as it is.
        let parser = (!include_special).then(|| {
            let text = segments.text();
            self.format.parser(&OutputContext {
                tools: &input.tools,
                prompt_end: &text[text.floor_char_boundary(text.len().saturating_sub(PROMPT_END_BYTES))..],
                reasoning_in_text: input.reasoning.in_text,
            })
        });
        let thoughts = self.thoughts(&input.reasoning)?.filter(|_| parser.is_some());
        Ok(Reading { tokens, echo: None, parser, thoughts })
    }

    /// How thoughts begin and end.
    fn thoughts(&self, wish: &ReasoningWish) -> Result<Option<Thoughts>, ProviderError> {
        let Some((begin, end)) = self.format.reasoning_marks() else {
            return match wish.budget_tokens {
                None => Ok(None),
                Some(_) => Err(invalid("reasoning", self.does_not_think())),
            };
        };
        let tokens = |mark: &str| self.tokenizer.encode(&Segments::template(mark), false);
        let begin = match tokens(begin)[..] {
            [token] if wish.enabled != Some(false) => Some(token),
            _ => None,
        };
        Ok(Some(Thoughts {
            begin,
            end: tokens(end).into(),
            budget: wish.budget_tokens.map(|n| n as usize),
            in_grammar: self.format.has_heads(),
        }))
    }

    fn does_not_think(&self) -> String {
        format!("model `{}` does not think before it answers", self.model.id)
    }

    /// The conversation with what is wished of tools and thoughts in the template's own words.
    fn with_wishes<'a>(
        &self,
        input: &'a ChatInput,
        template: &ChatTemplate,
    ) -> Result<Cow<'a, ChatInput>, ProviderError> {
        let hides_tools = input.tool_choice == ToolChoice::None && !input.tools.is_empty();
        let ReasoningWish { enabled, effort, .. } = &input.reasoning;
        let is_said = SWITCHES.iter().chain([&EFFORT]).any(|name| input.template_vars.contains_key(*name));
        let unasked = template.thinks_unasked() && effort.is_none() && !is_said;
        let enabled = &enabled.or(unasked.then_some(true));
        if !hides_tools && enabled.is_none() && effort.is_none() {
            return Ok(Cow::Borrowed(input));
        }
        let mut wished = input.clone();
        if hides_tools {
            wished.tools.clear();
        }
        let mut set = |name: &str, value: Value| -> Result<(), ProviderError> {
            match wished.template_vars.insert(name.to_owned(), value.clone()) {
                Some(other) if other != value => Err(invalid(
                    "template_vars",
                    format!(
                        "the template variable `{name}` is {other}, but the request wishes {value}: give one of them"
                    ),
                )),
                _ => Ok(()),
            }
        };
        if let Some(effort) = effort {
            if !template.reads(EFFORT) {
                let message = format!(
                    "model `{}` cannot be told how hard to think: leave `reasoning_effort` out",
                    self.model.id
                );
                return Err(invalid("reasoning_effort", message));
            }
            set(EFFORT, Value::from(effort.as_str()))?;
        }
        if let Some(enabled) = *enabled {
            let switches: Vec<_> = SWITCHES.into_iter().filter(|name| template.reads(name)).collect();
            // Without a switch, a model does what it always does; the wish may be just that.
            if switches.is_empty() && enabled != self.format.has_reasoning() {
                let message = if enabled {
                    self.does_not_think()
                } else {
                    format!(
                        "model `{}` always thinks before it answers: its template has no switch",
                        self.model.id
                    )
                };
                return Err(invalid("reasoning", message));
            }
            for name in switches {
                set(name, Value::from(enabled))?;
            }
        }
        Ok(Cow::Owned(wished))
    }
}

/// Refuses choices of tools that are not there.
fn check_tools(input: &ChatInput) -> Result<(), ProviderError> {
    let names = || input.tools.iter().filter_map(|t| t.pointer("/function/name").and_then(Value::as_str));
    match &input.tool_choice {
        ToolChoice::Auto | ToolChoice::None => Ok(()),
        ToolChoice::Required if input.tools.is_empty() => {
            Err(invalid("tool_choice", "a tool is required, but there are none: give `tools`".into()))
        }
        ToolChoice::Named(name) if !names().any(|n| n == name) => Err(invalid(
            "tool_choice",
            format!("there is no tool `{name}`; there are: {}", names().collect::<Vec<_>>().join(", ")),
        )),
        ToolChoice::Required | ToolChoice::Named(_) => Ok(()),
    }
}

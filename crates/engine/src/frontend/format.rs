//! What an answer has to obey: the format that is asked for, the calls of tools that are, and both together.

use std::sync::Arc;

use ingle_chat::{Format, ProviderError, Request, Rule, Task, ToolChoice};
use ingle_grammar::Grammar;
use serde_json::json;

use super::{Frontend, invalid};

impl Frontend {
    /// The request's constraint, ready to use; `None` if it has none.
    pub(super) fn grammar(&self, request: &Request) -> Result<Option<Arc<Grammar>>, ProviderError> {
        let Some(format) = self.constraint(request)? else { return Ok(None) };
        if request.ignore_eos {
            let message = "an answer ends where its format ends: leave `ignore_eos` out".into();
            return Err(invalid("ignore_eos", message));
        }
        self.compiler.compile(&format).map(Some).map_err(|e| invalid("format", e.to_string()))
    }

    fn constraint(&self, request: &Request) -> Result<Option<Format>, ProviderError> {
        let wished = request.format.clone();
        let Task::Chat(input) = &request.task else { return Ok(wished) };
        if input.tools.is_empty() || input.tool_choice == ToolChoice::None {
            return match wished {
                Some(format) if self.format.has_heads() => {
                    Ok(Some(Format::Rule(self.format.answer_rule(as_rule(format)?))))
                }
                wished => Ok(wished),
            };
        }
        if let Some(message) = self.format.unenforced(&input.tools) {
            return Err(invalid("tools", message));
        }
        let rule = |choice| self.format.tool_rule(&input.tools, choice, input.one_tool_call);
        match (wished, &input.tool_choice) {
            // Either calls, or an answer in the format.
            (Some(format), ToolChoice::Auto) => {
                let calls = rule(&ToolChoice::Required).ok_or_else(|| {
                    invalid(
                        "format",
                        "this model's calls of tools and a format do not go together: give one".into(),
                    )
                })?;
                let answer = self.format.answer_rule(as_rule(format)?);
                Ok(Some(Format::Rule(Rule::Any(vec![calls, answer]))))
            }
            // Calls are certain, and no text is, so a format has nothing to say.
            (_, choice) => match (rule(choice), choice) {
                (Some(rule), _) => Ok(Some(Format::Rule(rule))),
                (None, ToolChoice::Required | ToolChoice::Named(_)) => {
                    Err(invalid("tool_choice", "this model cannot be made to call tools: use `auto`".into()))
                }
                (None, _) => Ok(None),
            },
        }
    }
}

/// A format as a rule, to stand beside others.
fn as_rule(format: Format) -> Result<Rule, ProviderError> {
    Ok(match format {
        Format::JsonObject => Rule::Json(json!({ "type": "object" })),
        Format::JsonSchema(schema) => Rule::Json(schema),
        Format::Regex(regex) => Rule::Regex(regex),
        Format::Choice(texts) => Rule::literal(texts.iter().map(String::as_str)),
        Format::Rule(rule) => rule,
        Format::Gbnf(_) | Format::Lark(_) => {
            return Err(invalid("format", "with tools, or with this model's channels, a format is a JSON schema, a regular expression or a choice".into()));
        }
    })
}

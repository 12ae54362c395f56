//! The body of `POST /v1/responses`.

use ingle_chat::{ChatInput, Request, Task};
use serde_json::{Map, Value};

use super::super::refused::{self, HARMLESS, REFUSED};
use super::super::sampling::{TOP_LOGPROBS_MAX, take_common, take_max_tokens};
use super::super::{Caller, into_string, take_streaming};
use super::input::{Item, messages, take_input};
use super::options::{Reasoning, ToolChoiceField, ToolField, take_format, take_reasoning, take_tools};
use super::refused::{HARMLESS_RESPONSES, REFUSED_RESPONSES};
use super::stored::{StoredTurn, stored_items, turn_items};
use crate::fields::Fields;
use crate::{RequestError, parse_object};

/// The most entries of `metadata`, and the longest keys and values, in characters.
pub(super) const METADATA_MAX: usize = 16;
pub(super) const METADATA_KEY_CHARS_MAX: usize = 64;
pub(super) const METADATA_VALUE_CHARS_MAX: usize = 512;

/// What `include` can name. All but the log-probabilities belong to tools that the server would run, of which there
/// are none; thoughts are never encrypted, they are in their item.
pub(super) const INCLUDE: &[&str] = &[
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];
const LOGPROBS: &str = "message.output_text.logprobs";

/// A body, read. What it continues is not in it yet.
#[derive(Clone, Debug)]
pub struct ResponsesCall {
    /// Everything but the conversation.
    request: Request,
    /// Events instead of one body.
    pub stream: bool,
    /// The stored response that it continues.
    pub previous_response_id: Option<String>,
    /// Whether the response shall be stored, where the body says so.
    pub store: Option<bool>,
    /// Whether the reply comes before the answer, which is then to be asked for.
    pub background: bool,
    items: Vec<Item>,
    echo: Echo,
}

/// What a reply repeats of its body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Echo {
    /// Whether the answer's tokens come with log-probabilities.
    pub(super) with_logprobs: bool,
    pub(super) background: bool,
    pub(super) instructions: Option<String>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) max_tool_calls: Option<u32>,
    pub(super) metadata: Map<String, Value>,
    pub(super) parallel_tool_calls: bool,
    pub(super) previous_response_id: Option<String>,
    pub(super) prompt_cache_key: Option<String>,
    pub(super) reasoning: Reasoning,
    pub(super) safety_identifier: Option<String>,
    pub(super) service_tier: bool,
    pub(super) temperature: Option<f32>,
    pub(super) text_format: Value,
    pub(super) tool_choice: ToolChoiceField,
    pub(super) tools: Vec<ToolField>,
    pub(super) top_logprobs: Option<u32>,
    pub(super) top_p: Option<f32>,
    pub(super) user: Option<String>,
}

/// Reads a body.
pub fn parse(body: &[u8], caller: Caller) -> Result<ResponsesCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    let store = fields.bool("store")?;
    let background = fields.bool("background")?.unwrap_or(false);
    if background && store == Some(false) {
        let text = "`background` needs `store`: the answer is to be asked for later; remove one of the two";
        return Err(fields.error("background", text).with_code("unsupported_value"));
    }
    let mut echo = Echo {
        background,
        instructions: fields.string("instructions")?,
        metadata: take_metadata(&mut fields)?,
        previous_response_id: fields.string("previous_response_id")?,
        prompt_cache_key: fields.string("prompt_cache_key")?,
        safety_identifier: fields.string("safety_identifier")?,
        user: fields.string("user")?,
        max_tool_calls: fields.integer(&["max_tool_calls"], 1, i128::from(u32::MAX))?.map(|n| n as u32),
        ..Echo::default()
    };
    let tier = fields.string("service_tier")?;
    if tier.as_deref().is_some_and(|t| t != "auto" && t != "default") {
        let text = "`service_tier` can be \"auto\" or \"default\": there is one tier here";
        return Err(fields.error("service_tier", text).with_code("unsupported_value"));
    }
    echo.service_tier = tier.is_some();
    refused::check(&mut fields, &[REFUSED_RESPONSES], &[HARMLESS_RESPONSES])?;

    let (choice, tools) = take_tools(&mut fields)?;
    let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
    let reasoning = take_reasoning(&mut fields)?;
    let input = ChatInput {
        tools: tools.iter().map(ToolField::for_template).collect(),
        tool_choice: choice.neutral(),
        one_tool_call: !parallel,
        reasoning: reasoning.wish(),
        template_vars: super::super::chat::take_template_vars(&mut fields)?,
        ..ChatInput::default()
    };
    let (format, text_format) = take_format(&mut fields)?;
    let items = take_input(&mut fields)?;
    let with_logprobs = take_include(&mut fields)?;
    let top_logprobs = fields.integer(&["top_logprobs"], 0, TOP_LOGPROBS_MAX)?.map(|k| k as u32);
    if !with_logprobs && top_logprobs.is_some_and(|k| k > 0) {
        let text = format!("`top_logprobs` needs `{LOGPROBS}` in `include`");
        return Err(fields.error("top_logprobs", text));
    }
    refused::check(&mut fields, &[REFUSED], &[HARMLESS])?;

    let mut request = Request::new(caller.id, caller.principal, Task::Chat(input));
    request.max_tokens = take_max_tokens(&mut fields, &["max_output_tokens"], 1)?;
    request.logprobs = with_logprobs.then(|| top_logprobs.unwrap_or(0));
    take_common(&mut fields, &mut request)?;
    request.terms.rank = crate::openai::terms::take_rank(&mut fields)?;
    request.format = format;
    let streaming = take_streaming(&mut fields)?;
    if background && streaming.stream {
        let text = "`stream` cannot be true with `background`: read the response from time to time instead";
        return Err(fields.error("stream", text).with_code("unsupported_value"));
    }
    fields.finish()?;

    echo.with_logprobs = with_logprobs;
    echo.max_output_tokens = request.max_tokens;
    echo.parallel_tool_calls = parallel;
    echo.reasoning = reasoning;
    echo.temperature = request.sampling.temperature;
    // The least positive number stands for 0 in requests.
    echo.top_p = request.sampling.top_p.map(|p| if p == f32::MIN_POSITIVE { 0.0 } else { p });
    echo.text_format = text_format;
    echo.tool_choice = choice;
    echo.tools = tools;
    echo.top_logprobs = top_logprobs;
    let previous_response_id = echo.previous_response_id.clone();
    let stream = streaming.stream;
    Ok(ResponsesCall { request, stream, previous_response_id, store, background, items, echo })
}

impl ResponsesCall {
    /// The request, which continues the conversation of `turns`, oldest first; and what the reply repeats.
    ///
    /// # Errors
    /// If the conversation is too long, or a call's result has no call.
    pub fn into_request(self, turns: &[StoredTurn]) -> Result<(Request, Echo), RequestError> {
        let Self { mut request, items, echo, .. } = self;
        let mut past = Vec::new();
        for turn in turns {
            turn_items(turn, &mut past)?;
        }
        let messages = messages(echo.instructions.as_deref(), &past, &items)?;
        if let Task::Chat(input) = &mut request.task {
            input.messages = messages;
        }
        Ok((request, echo))
    }

    /// The input's items as JSON, as they are stored and listed; each has an id.
    pub fn stored_input(&self) -> String {
        stored_items(&self.items, &self.request.id)
    }
}

/// Takes `metadata`.
pub(in super::super) fn take_metadata(fields: &mut Fields) -> Result<Map<String, Value>, RequestError> {
    let metadata = fields.object("metadata")?.unwrap_or_default();
    if metadata.len() > METADATA_MAX {
        let text = format!("`metadata` has {} entries; at most {METADATA_MAX} are taken", metadata.len());
        return Err(fields.error("metadata", text));
    }
    for (key, value) in &metadata {
        let is_short = |text: &str, max: usize| text.chars().nth(max).is_none();
        let fits = is_short(key, METADATA_KEY_CHARS_MAX)
            && value.as_str().is_some_and(|v| is_short(v, METADATA_VALUE_CHARS_MAX));
        if !fits {
            let text = format!(
                "the keys of `metadata` may have up to {METADATA_KEY_CHARS_MAX} characters, its values must be strings \
                 of up to {METADATA_VALUE_CHARS_MAX}"
            );
            return Err(fields.error("metadata", text));
        }
    }
    Ok(metadata)
}

/// Takes `include`; says whether log-probabilities are wanted.
fn take_include(fields: &mut Fields) -> Result<bool, RequestError> {
    let mut with_logprobs = false;
    for (i, value) in fields.list("include")?.unwrap_or_default().into_iter().enumerate() {
        let path = format!("include[{i}]");
        let name = into_string(value, &path)?;
        if !INCLUDE.contains(&name.as_str()) {
            let text =
                format!("`{path}` is {}; it can be {}", crate::error::quoted(&name), INCLUDE.join(", "));
            return Err(RequestError::field(path, text).with_code("unsupported_value"));
        }
        with_logprobs |= name == LOGPROBS;
    }
    Ok(with_logprobs)
}

//! SGLang's `/generate`: a raw prompt in, text and `meta_info` out. Streams repeat the text from its beginning in each
//! event, as SGLang's do.

use ingle_chat::{
    AdapterName, AdapterWish, Delta, Echo, Event, FinishReason, Prompt, Request, Task, TokenLogprob, Usage,
};
use serde_json::{Map, Value, json};

use crate::fields::{Fields, wrong_type};
use crate::openai::completion::CHOICES_MAX;
use crate::openai::constraint::take_format;
use crate::openai::refused::{self, Harmless, Refused, harmless, is_false, is_true, refused};
use crate::openai::sampling::{TOP_LOGPROBS_MAX, take_generation, take_max_tokens, take_model, token_ids};
use crate::openai::terms::take_rank;
use crate::openai::{Caller, DONE, ErrorBody, ErrorObject, event, into_string, spelled};
use crate::{RequestError, StreamEncoder, parse_object};

/// How many tokens an answer has unless the request says so, as SGLang does it.
pub const MAX_TOKENS_DEFAULT: u32 = 128;

const TEXT_ONLY: &str = "only text and token ids are taken; remove it";

/// Refused, whatever their value.
pub const REFUSED_GENERATE: &[Refused] = &[
    refused("rid", "send the header `x-request-id`"),
    refused("image_data", TEXT_ONLY),
    refused("video_data", TEXT_ONLY),
    refused("audio_data", TEXT_ONLY),
    refused("input_embeds", TEXT_ONLY),
    refused("session_params", "send the whole text each time; equal beginnings are computed once"),
    refused("token_ids_logprob", "use `top_logprobs_num`"),
    refused("custom_logit_processor", "code never comes with a request; use `logit_bias`"),
];

/// Accepted with values under which the answer stays the same.
pub const HARMLESS_GENERATE: &[Harmless] =
    &[harmless("return_hidden_states", "false", is_false), harmless("log_metrics", "true", is_true)];

fn is_empty_list(v: &Value) -> bool {
    v.as_array().is_some_and(Vec::is_empty)
}

/// The same inside `sampling_params`.
pub const HARMLESS_SAMPLING: &[Harmless] = &[
    harmless("spaces_between_special_tokens", "true", is_true),
    harmless("no_stop_trim", "false", is_false),
    harmless("stop_regex", "an empty list; use `stop`", is_empty_list),
];

/// A body, read.
#[derive(Clone, Debug)]
pub struct GenerateCall {
    /// What is wanted: one request per prompt, alike but for the prompt. Never empty.
    pub requests: Vec<Request>,
    /// Events instead of one body.
    pub stream: bool,
    /// The reply is a list: there are several prompts, or several answers to one.
    is_list: bool,
    logprobs: Option<LogprobWish>,
}

/// Which log-probabilities are shown, and how.
#[derive(Clone, Copy, Debug)]
struct LogprobWish {
    /// From which token of the prompt; `None` is none of it.
    prompt_from: Option<usize>,
    with_top: bool,
    with_text: bool,
}

/// Reads a body.
pub fn parse(body: &[u8], caller: Caller) -> Result<GenerateCall, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    refused::check(&mut fields, &[REFUSED_GENERATE], &[HARMLESS_GENERATE])?;
    let (prompts, is_batch) = take_prompts(&mut fields)?;
    let task = Task::Completion { prompt: Prompt::Text(String::new()), echo: Echo::No };
    let mut request = Request::new(caller.id, caller.principal, task);
    request.model = take_model(&mut fields)?;
    request.adapters = take_lora_path(&mut fields)?;
    request.terms.rank = take_rank(&mut fields)?;
    request.max_tokens = Some(MAX_TOKENS_DEFAULT);
    match fields.take("sampling_params") {
        None => {}
        Some(Value::Array(_)) => {
            let text = "`sampling_params` is a list; give one object for all prompts, or send them apart";
            return Err(fields.error("sampling_params", text).with_code("unsupported_value"));
        }
        Some(params) => take_sampling_params(Fields::nested(params, "sampling_params")?, &mut request)?,
    }
    let stream = fields.bool("stream")?.unwrap_or(false);
    let logprobs = take_logprobs(&mut fields, stream, &mut request)?;
    fields.finish()?;
    let n_choices = prompts.len() * request.n as usize;
    if n_choices > CHOICES_MAX {
        let text =
            format!("{n_choices} answers are wanted; at most {CHOICES_MAX} are given at once: send fewer");
        return Err(RequestError::field("text", text));
    }
    if request.logprobs.is_none() && (stream || request.n > 1) {
        // Log-probabilities come with their tokens, so that each answer's can be counted.
        request.logprobs = Some(0);
    }
    let is_list = is_batch || request.n > 1;
    let one = |(i, prompt)| {
        let id = if is_batch { format!("{}-{i}", request.id) } else { request.id.clone() };
        Request { id, task: Task::Completion { prompt, echo: Echo::No }, ..request.clone() }
    };
    Ok(GenerateCall {
        requests: prompts.into_iter().enumerate().map(one).collect(),
        stream,
        is_list,
        logprobs,
    })
}

/// `lora_path`: the name of an adapter that is loaded.
fn take_lora_path(fields: &mut Fields) -> Result<Option<Vec<AdapterWish>>, RequestError> {
    match fields.take("lora_path") {
        None => Ok(None),
        Some(Value::String(name)) => {
            Ok(Some(vec![AdapterWish { adapter: AdapterName::Name(name), scale: 1.0 }]))
        }
        Some(Value::Array(_)) => {
            let text = "`lora_path` is a list; give one adapter for all prompts, or send them apart";
            Err(fields.error("lora_path", text).with_code("unsupported_value"))
        }
        Some(other) => Err(wrong_type("lora_path", "a string", &other)),
    }
}

/// `text` or `input_ids`: one prompt, or a list of them. Text is read as the peer reads
/// it: control tokens that it spells are meant.
fn take_prompts(fields: &mut Fields) -> Result<(Vec<Prompt>, bool), RequestError> {
    let bounded = |name: &str, list: &[Value]| match list.len() {
        0 => Err(RequestError::field(name, format!("`{name}` is an empty list: give at least one prompt"))),
        n if n > CHOICES_MAX => {
            let text = format!("`{name}` has {n} entries; at most {CHOICES_MAX} prompts are taken");
            Err(RequestError::field(name, text))
        }
        _ => Ok(()),
    };
    match (fields.take("text"), fields.take("input_ids")) {
        (None, None) => {
            let text = "`text` is missing: give the text to continue, or `input_ids`";
            Err(RequestError::field("text", text))
        }
        (Some(_), Some(_)) => {
            Err(RequestError::field("input_ids", "`text` and `input_ids` are two prompts; give one of them"))
        }
        (Some(Value::String(text)), None) => Ok((vec![Prompt::Marked(text)], false)),
        (Some(Value::Array(list)), None) => {
            bounded("text", &list)?;
            let text = |(i, v)| into_string(v, &format!("text[{i}]")).map(Prompt::Marked);
            Ok((list.into_iter().enumerate().map(text).collect::<Result<_, _>>()?, true))
        }
        (Some(other), None) => Err(wrong_type("text", "a string or a list of strings", &other)),
        (None, Some(Value::Array(list))) if list.first().is_some_and(Value::is_array) => {
            bounded("input_ids", &list)?;
            let prompt = |(i, v): (usize, Value)| {
                let path = format!("input_ids[{i}]");
                match v {
                    Value::Array(ids) => token_ids(&ids, &path).map(Prompt::Tokens),
                    other => Err(wrong_type(&path, "a list of token ids", &other)),
                }
            };
            Ok((list.into_iter().enumerate().map(prompt).collect::<Result<_, _>>()?, true))
        }
        (None, Some(Value::Array(list))) => {
            if list.is_empty() {
                return Err(RequestError::field(
                    "input_ids",
                    "`input_ids` is an empty list: give the prompt",
                ));
            }
            Ok((vec![Prompt::Tokens(token_ids(&list, "input_ids")?)], false))
        }
        (None, Some(other)) => {
            Err(wrong_type("input_ids", "a list of token ids, or a list of such lists", &other))
        }
    }
}

fn take_sampling_params(mut fields: Fields, request: &mut Request) -> Result<(), RequestError> {
    refused::check(&mut fields, &[], &[HARMLESS_SAMPLING])?;
    if let Some(max) = take_max_tokens(&mut fields, &["max_new_tokens"], 0)? {
        request.max_tokens = Some(max);
    }
    take_generation(&mut fields, request)?;
    request.format = take_format(&mut fields)?;
    fields.finish()
}

fn take_logprobs(
    fields: &mut Fields,
    stream: bool,
    request: &mut Request,
) -> Result<Option<LogprobWish>, RequestError> {
    let wanted = fields.bool("return_logprob")?.unwrap_or(false);
    let from = fields.integer(&["logprob_start_len"], -1, i128::from(u32::MAX))?;
    let top = fields.integer(&["top_logprobs_num"], 0, TOP_LOGPROBS_MAX)?.unwrap_or(0) as u32;
    let with_text = fields.bool("return_text_in_logprobs")?.unwrap_or(false);
    let prompt_from = from.and_then(|v| usize::try_from(v).ok());
    if !wanted {
        let needless = [("logprob_start_len", prompt_from.is_some()), ("top_logprobs_num", top > 0)];
        return match needless.iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(fields.error(name, format!("`{name}` needs `return_logprob` set to true")))
            }
            None => Ok(None),
        };
    }
    if prompt_from.is_some() && stream {
        let text = "`logprob_start_len` cannot be streamed; set `stream` to false";
        return Err(fields.error("logprob_start_len", text));
    }
    // Whoever wants no answer can only mean the prompt.
    let is_score = from.is_none() && request.max_tokens == Some(0) && !stream;
    let prompt_from = if is_score { Some(0) } else { prompt_from };
    request.logprobs = Some(top);
    request.prompt_logprobs = prompt_from.map(|_| top);
    Ok(Some(LogprobWish { prompt_from, with_top: top > 0, with_text }))
}

/// `[log-probability, token id, text]`, the text only if it is wanted.
fn triple(logprob: Option<f32>, id: u32, bytes: &[u8], with_text: bool) -> Value {
    let text = with_text.then(|| String::from_utf8_lossy(bytes));
    json!([logprob.map(spelled), id, text])
}

/// One answer as it grows.
#[derive(Debug, Default)]
struct Growing {
    text: String,
    /// Tokens, counted if they are reported.
    tokens: u64,
    logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    finish: Option<FinishReason>,
}

/// One prompt's answers.
#[derive(Debug)]
struct Growth {
    id: String,
    prompt_tokens: u64,
    prompt_logprobs: Vec<Value>,
    prompt_top_logprobs: Vec<Value>,
    choices: Vec<Growing>,
    usage: Option<Usage>,
}

/// What collector and encoder share.
#[derive(Debug)]
struct Answers {
    is_list: bool,
    logprobs: Option<LogprobWish>,
    prompts: Vec<Growth>,
}

impl Answers {
    fn new(call: &GenerateCall) -> Self {
        let growth = |request: &Request| Growth {
            id: request.id.clone(),
            prompt_tokens: 0,
            prompt_logprobs: Vec::new(),
            prompt_top_logprobs: Vec::new(),
            choices: (0..request.n).map(|_| Growing::default()).collect(),
            usage: None,
        };
        Self {
            is_list: call.is_list,
            logprobs: call.logprobs,
            prompts: call.requests.iter().map(growth).collect(),
        }
    }

    fn push(&mut self, prompt: usize, delta: &Delta) {
        let Some(growth) = self.prompts.get_mut(prompt) else { return };
        let lists = |tokens: &[TokenLogprob], with_text: bool| -> (Vec<Value>, Vec<Value>) {
            let own = tokens.iter().map(|t| triple(t.logprob, t.token.0, &t.bytes, with_text));
            let top = tokens.iter().map(|t| {
                // The first token of a prompt has no alternatives.
                t.logprob?;
                Some(t.top.iter().map(|(id, bytes, p)| triple(Some(*p), id.0, bytes, with_text)).collect())
            });
            (own.collect(), top.map(|list: Option<Vec<Value>>| Value::from(list)).collect())
        };
        match &delta.event {
            Event::Started { prompt_tokens, .. } => growth.prompt_tokens = *prompt_tokens,
            Event::PromptLogprobs(tokens) => {
                if let Some(LogprobWish { prompt_from: Some(from), with_text, .. }) = self.logprobs {
                    let tokens = tokens.get(from..).unwrap_or_default();
                    (growth.prompt_logprobs, growth.prompt_top_logprobs) = lists(tokens, with_text);
                }
            }
            Event::Text { text, logprobs } => {
                let Some(choice) = growth.choices.get_mut(delta.choice as usize) else { return };
                choice.text.push_str(text);
                choice.tokens += logprobs.len() as u64;
                if let Some(wish) = self.logprobs {
                    let (own, top) = lists(logprobs, wish.with_text);
                    choice.logprobs.extend(own);
                    choice.top_logprobs.extend(top);
                }
            }
            Event::Finished(reason) => {
                if let Some(choice) = growth.choices.get_mut(delta.choice as usize) {
                    choice.finish = Some(reason.clone());
                }
            }
            Event::Done(usage) => growth.usage = Some(*usage),
            _ => {}
        }
    }

    /// An answer as far as it has come.
    fn shown(&self, prompt: usize, choice: usize) -> Option<Value> {
        let growth = self.prompts.get(prompt)?;
        let answer = growth.choices.get(choice)?;
        let mut meta = Map::new();
        let mut put = |name: &str, value: Value| meta.insert(name.to_owned(), value);
        put("id", json!(growth.id));
        let alone = growth.choices.len() == 1;
        let completion_tokens =
            growth.usage.filter(|_| alone).map_or(answer.tokens, |usage| usage.completion_tokens);
        put("finish_reason", finish_reason(answer.finish.as_ref(), completion_tokens));
        put("prompt_tokens", json!(growth.usage.map_or(growth.prompt_tokens, |usage| usage.prompt_tokens)));
        put("completion_tokens", json!(completion_tokens));
        if let Some(usage) = &growth.usage {
            put("cached_tokens", json!(usage.cached_tokens));
            if usage.context_shifts > 0 {
                put("context_shifts", json!(usage.context_shifts));
                put("discarded_tokens", json!(usage.discarded_tokens));
            }
            let latency = (usage.queued + usage.prefill + usage.decode).as_secs_f64();
            put("e2e_latency", json!((latency * 1e6).round() / 1e6));
        }
        if let Some(wish) = self.logprobs {
            put("input_token_logprobs", json!(growth.prompt_logprobs));
            put("output_token_logprobs", json!(answer.logprobs));
            if wish.with_top {
                put("input_top_logprobs", json!(growth.prompt_top_logprobs));
                put("output_top_logprobs", json!(answer.top_logprobs));
            }
        }
        Some(json!({ "text": answer.text, "meta_info": meta }))
    }
}

/// `{"type": …}`; null while the answer goes on.
fn finish_reason(reason: Option<&FinishReason>, completion_tokens: u64) -> Value {
    match reason {
        None => Value::Null,
        Some(FinishReason::Stop { matched }) => json!({ "type": "stop", "matched": matched }),
        Some(FinishReason::ToolCalls) => json!({ "type": "stop", "matched": null }),
        Some(FinishReason::Length) => json!({ "type": "length", "length": completion_tokens }),
        Some(FinishReason::Abort) => json!({ "type": "abort", "message": "the answer was given up" }),
    }
}

/// Collects the pieces of all answers into one reply.
#[derive(Debug)]
pub struct GenerateCollector {
    answers: Answers,
}

impl GenerateCollector {
    /// For the answers to `call`.
    pub fn new(call: &GenerateCall) -> Self {
        Self { answers: Answers::new(call) }
    }

    /// Takes a piece of the answer to prompt `prompt`.
    pub fn push(&mut self, prompt: usize, delta: &Delta) {
        self.answers.push(prompt, delta);
    }

    /// The reply body; `None` if a choice never finished, which is the provider's fault.
    pub fn finish(&self) -> Option<String> {
        let answers = &self.answers;
        if answers.prompts.iter().flat_map(|p| &p.choices).any(|c| c.finish.is_none()) {
            return None;
        }
        let prompts = answers.prompts.iter().enumerate();
        let all = prompts.flat_map(|(p, growth)| (0..growth.choices.len()).map(move |c| (p, c)));
        let mut list = all.map(|(p, c)| answers.shown(p, c)).collect::<Option<Vec<Value>>>()?;
        let reply = if answers.is_list { Value::Array(list) } else { list.pop()? };
        Some(reply.to_string())
    }
}

/// Writes the pieces of all answers as events, each with its answer's text from the beginning.
#[derive(Debug)]
pub struct GenerateEncoder {
    answers: Answers,
}

impl GenerateEncoder {
    /// For the answers to `call`.
    pub fn new(call: &GenerateCall) -> Self {
        Self { answers: Answers::new(call) }
    }

    fn send(&self, prompt: usize, choice: usize, out: &mut String) {
        let Some(mut shown) = self.answers.shown(prompt, choice) else { return };
        if self.answers.is_list
            && let Some(growth) = self.answers.prompts.get(prompt)
        {
            shown["index"] = json!(prompt * growth.choices.len() + choice);
        }
        event(&shown, out);
    }
}

impl StreamEncoder for GenerateEncoder {
    fn push(&mut self, prompt: usize, delta: &Delta, out: &mut String) {
        self.answers.push(prompt, delta);
        match &delta.event {
            Event::Text { text, .. } if !text.is_empty() => self.send(prompt, delta.choice as usize, out),
            // The ends wait for what the request cost.
            Event::Done(_) => {
                let n = self.answers.prompts.get(prompt).map_or(0, |growth| growth.choices.len());
                (0..n).for_each(|choice| self.send(prompt, choice, out));
            }
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut String) {
        out.push_str(DONE);
    }

    fn fail(&mut self, error: &ErrorObject, out: &mut String) {
        event(&ErrorBody { error: error.clone() }, out);
    }
}

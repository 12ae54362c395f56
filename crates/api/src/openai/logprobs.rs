//! Log-probabilities as each route writes them.

use ingle_chat::TokenLogprob;
use ingle_step::TokenId;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// JSON has no infinities: what is impossible is reported as this, as OpenAI does.
const LOGPROB_MIN: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    // A NaN would be our own mistake; as the least it at least misleads nobody into trusting it.
    if logprob.is_nan() { LOGPROB_MIN } else { logprob.clamp(LOGPROB_MIN, 0.0) }
}

/// The f64 that is written with the same digits as the f32: a number is spelled alike wherever a reply has it.
pub(crate) fn spelled(logprob: f32) -> f64 {
    finite(logprob).to_string().parse().expect("a finite number's digits are a number")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `choices[].logprobs` of chat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    /// One per token.
    pub content: Vec<ChatToken>,
    /// Always null: refusals are not told apart from other text.
    pub refusal: Option<()>,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "TokenLogprob")]
pub struct ChatToken {
    #[serde(flatten)]
    token: ChatTop,
    top_logprobs: Vec<ChatTop>,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "TopLogprob")]
pub(crate) struct ChatTop {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatTop {
    pub fn new(bytes: &[u8], logprob: f32) -> Self {
        Self { token: text(bytes), logprob: finite(logprob), bytes: bytes.to_vec() }
    }
}

impl ChatLogprobs {
    /// Appends tokens.
    pub(crate) fn extend(&mut self, tokens: &[TokenLogprob]) {
        self.content.extend(tokens.iter().map(|t| ChatToken {
            token: ChatTop::new(&t.bytes, t.logprob.unwrap_or(f32::NEG_INFINITY)),
            top_logprobs: t.top.iter().map(|(_, bytes, logprob)| ChatTop::new(bytes, *logprob)).collect(),
        }));
    }
}

/// `choices[].logprobs` of completions: four lists of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Their log-probabilities; null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens and the token itself, by text.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token starts in the choice's text, in characters.
    pub text_offset: Vec<usize>,
}

/// Where in its text a choice is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TextOffset {
    chars: usize,
}

/// Characters, counting each with the bytes that begin it.
fn count_chars(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b & 0xC0 != 0x80).count()
}

impl CompletionLogprobs {
    /// Appends new tokens, the first of which starts at `offset`.
    pub(crate) fn extend(&mut self, tokens: &[TokenLogprob], offset: &mut TextOffset) {
        for token in tokens {
            self.push(token, offset.chars);
            offset.chars += count_chars(&token.bytes);
        }
    }

    /// Appends a prompt's tokens, which `prompt` shows: control tokens among them have no text there, and a leading
    /// space that only the tokenizer added is not there either.
    pub(crate) fn extend_prompt(&mut self, tokens: &[TokenLogprob], prompt: &str, offset: &mut TextOffset) {
        let mut rest = prompt.as_bytes();
        for token in tokens {
            self.push(token, offset.chars);
            let bytes = &token.bytes[..];
            let spaceless = bytes.strip_prefix(b" ").unwrap_or(bytes);
            let shown = [bytes, spaceless].into_iter().find(|b| rest.starts_with(b)).unwrap_or_default();
            rest = &rest[shown.len()..];
            offset.chars += count_chars(shown);
        }
    }

    fn push(&mut self, token: &TokenLogprob, offset: usize) {
        self.tokens.push(text(&token.bytes));
        self.token_logprobs.push(token.logprob.map(finite));
        self.top_logprobs.push(token.logprob.map(|own| {
            let mut top = Map::new();
            let others = token.top.iter().map(|(_, bytes, logprob)| (&bytes[..], *logprob));
            // Different tokens can have one text (bytes that are no character); the likelier one stays.
            for (bytes, logprob) in others.chain([(&token.bytes[..], own)]) {
                top.entry(text(bytes)).or_insert_with(|| Value::from(spelled(logprob)));
            }
            top
        }));
        self.text_offset.push(offset);
    }
}

/// One candidate at one place of a prompt, keyed by token id in `prompt_logprobs`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptLogprob {
    logprob: f64,
    /// Only known for the prompt's own token, and for the alternatives from their place in the list.
    rank: u32,
    decoded_token: String,
}

/// `prompt_logprobs`: per prompt token its own entry and the likeliest ones; null for the first.
pub(crate) fn prompt_logprobs(tokens: &[TokenLogprob]) -> Vec<Option<Map<String, Value>>> {
    let entry = |bytes: &[u8], logprob: f32, rank: u32| {
        serde_json::to_value(PromptLogprob { logprob: spelled(logprob), rank, decoded_token: text(bytes) })
            .expect("a plain struct")
    };
    let key = |id: TokenId| id.0.to_string();
    let place = |token: &TokenLogprob| {
        let mut map = Map::new();
        map.insert(key(token.token), entry(&token.bytes, token.logprob?, token.rank));
        for (rank, (id, bytes, logprob)) in (1..).zip(&token.top) {
            map.entry(key(*id)).or_insert_with(|| entry(bytes, *logprob, rank));
        }
        Some(map)
    };
    tokens.iter().map(place).collect()
}

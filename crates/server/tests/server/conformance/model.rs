//! A model that says what its prompt tells it to: what stands in the prompt's last `⟦…⟧`, where a `⇒` parts thoughts
//! from the answer. `⟦*⟧` makes it repeat the whole prompt, with parentheses for angle brackets, and `⟦0x…⟧` say these
//! bytes. Without such words it babbles, as the prompt and the sampling have it.

use std::sync::Arc;
use std::time::Duration;

use ingle_chat::ModelInfo;
use ingle_chat::template::{ChatTemplate, TemplateOptions};
use ingle_engine::{Engine, EngineConfig, Frontend};
use ingle_step::TokenId;
use ingle_testkit::bytes::{EOS, N_VOCAB, byte, byte_of, metadata};
use ingle_testkit::scripted::{ScriptedExecutor, hashed_logits};
use ingle_tokenizer::Tokenizer;

/// Its context in tokens, which are bytes.
pub const N_CTX: usize = 4096;
/// What begins each of its answers.
const BELL: u8 = 7;

/// A template of the family that writes calls as JSON between tags, and thoughts between others.
const TEMPLATE: &str = "\
{%- if tools %}[tools]{% for t in tools %}{{ t | tojson }}{% endfor %}\
For each call return a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n\
{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>{% endif %}\
{% if reasoning_effort %}[effort {{ reasoning_effort }}]{% endif %}\
{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}\u{7}{% endif %}\
{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}\
{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}\
{% if m.content %}{{ m.content }}{% endif %}\
{% for c in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": \
{{ c.function.arguments | tojson }}}\n</tool_call>({{ c.id }}){% endfor %}{% endfor %}\
{% if add_generation_prompt %}[assistant]\u{7}\
{% if enable_thinking or reasoning_effort %}<think>{% else %}<think></think>{% endif %}{% endif %}";

/// An engine with this model.
pub fn engine(config: EngineConfig) -> Engine {
    start(config, Duration::ZERO)
}

/// One each of whose steps takes a while.
pub fn slow_engine(latency: Duration) -> Engine {
    start(EngineConfig::default(), latency)
}

fn start(config: EngineConfig, latency: Duration) -> Engine {
    let tokenizer = Tokenizer::from_metadata(&metadata(&[])).expect("a valid vocabulary");
    let template = ChatTemplate::new(TEMPLATE, TemplateOptions::default()).expect("a valid template");
    let model = ModelInfo {
        id: "parrot".into(),
        n_ctx: N_CTX,
        n_ctx_train: N_CTX,
        n_vocab: N_VOCAB,
        fingerprint: "parrot".into(),
        ..ModelInfo::default()
    };
    let executor = ScriptedExecutor::new(N_VOCAB, N_CTX, 16, 1024).with_logits(speak).with_latency(latency);
    let frontend = Frontend::new(Arc::new(tokenizer), Some(template), model);
    Engine::start(Box::new(executor), frontend, config).expect("it starts")
}

/// Logits that make what the prompt asks for all but certain.
fn speak(history: &[TokenId], logits: &mut [f32]) {
    hashed_logits(history, logits);
    let text: Vec<u8> = history.iter().filter_map(|t| byte_of(*t)).collect();
    let text = with_blanks(&text);
    let Some(bell) = text.iter().rposition(|b| *b == BELL) else { return };
    let (prompt, said) = (&text[..bell], &text[bell + 1..]);
    let Some(script) = script(prompt) else { return };
    let (thoughts, answer) = match find(&script, "⇒".as_bytes()) {
        Some(at) => (&script[..at], &script[at + "⇒".len()..]),
        None => (&[][..], &script[..]),
    };
    let thinks = [thoughts, b"</think>"].concat();
    let next = match (said.strip_prefix(b"<think>"), find(said, b"</think>")) {
        (_, Some(end)) => answer.get(said.len() - end - "</think>".len()),
        (Some(thought), None) => thinks.get(thought.len()),
        // It goes on with what was put into its mouth.
        (None, None) => answer.get(said.len()),
    };
    let next = next.map_or(EOS, |b| byte(*b));
    logits[next.0 as usize] = 20.0;
}

/// What the prompt tells the model to say.
fn script(prompt: &[u8]) -> Option<Vec<u8>> {
    let begin = rfind(prompt, "⟦".as_bytes())? + "⟦".len();
    let len = find(&prompt[begin..], "⟧".as_bytes())?;
    let script = &prompt[begin..begin + len];
    if let Some(digits) = script.strip_prefix(b"0x") {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        return digits.chunks(2).map(byte).collect();
    }
    if script != b"*" {
        return Some(script.to_vec());
    }
    let plain = |b: &u8| match b {
        b'<' => b'(',
        b'>' => b')',
        b => *b,
    };
    Some(prompt.iter().map(plain).filter(|b| *b != BELL).collect())
}

/// The text without the letter that stands for blanks in vocabularies of this kind.
fn with_blanks(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        match rest.strip_prefix("▁".as_bytes()) {
            Some(after) => {
                plain.push(b' ');
                rest = after;
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|w| w == part)
}

fn rfind(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).rposition(|w| w == part)
}

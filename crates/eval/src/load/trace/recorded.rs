//! Sessions from a file: a JSON object per line.
//!
//! | field | what it is |
//! |---|---|
//! | `timestamp` | seconds after the start; on every line or on none |
//! | `prompt` | the text that is sent |
//! | `suffix` | beside `prompt`: the text after the gap between the two, for `/infill`; on every line or on none |
//! | `messages` | in place of `prompt`: a list of `{"role": "system", "user" or "assistant", "content": text}` |
//! | `prompt_tokens` | in place of `prompt`: a text of so many tokens is made |
//! | `prefix`, `prefix_tokens` | beside `prompt_tokens`: its first so many tokens are those of all lines that name this prefix |
//! | `output_tokens` | tokens of the answer; the run's own where it is missing |
//! | `session` | lines of the same session are turns of a conversation, in order; each is sent with those before it, and starts when the answer to the one before has come, not before its own `timestamp` |
//!
//! Blank lines are skipped; any other field is refused.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use ingle_api::client::{Input, Speaker};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::super::rng::Rng;
use super::super::{REQUESTS_MAX, TOKENS_MAX};
use super::{FileError, LINE, PREFIX, Session, Texts, Turn, prompt};

/// The longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 4 << 20;
/// The most text of a file, in bytes: it is held in memory.
const FILE_BYTES_MAX: usize = 512 << 20;
/// The most seconds of a timestamp: a year.
const TIMESTAMP_MAX: f64 = 31_536_000.0;

/// A file, read.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Turns of each session, in the order in which sessions begin.
    sessions: Vec<Vec<Line>>,
    n_requests: u64,
    has_times: bool,
    is_infill: bool,
}

#[derive(Clone, Debug)]
struct Line {
    number: u64,
    at: Option<Duration>,
    session: Option<String>,
    prompt: Prompt,
    output_tokens: u32,
}

#[derive(Clone, Debug)]
enum Prompt {
    Input(Input),
    Made { n_tokens: u32, prefix: Option<(String, u32)> },
}

impl Recorded {
    /// Reads a file. `output_tokens` are those of lines that don't say it.
    ///
    /// # Errors
    /// If it cannot be read; the message names the line.
    pub fn open(path: &Path, output_tokens: u32) -> Result<Self, FileError> {
        let fault = |why: String| FileError { path: path.into(), why };
        let file = std::fs::File::open(path).map_err(|error| fault(error.to_string()))?;
        Self::read(file, output_tokens).map_err(fault)
    }

    /// The same from any source.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn read(source: impl Read, output_tokens: u32) -> Result<Self, String> {
        let mut source = BufReader::new(source);
        let (mut lines, mut text, mut n_bytes) = (Vec::new(), Vec::new(), 0);
        for number in 1u64.. {
            text.clear();
            let read = (&mut source).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text);
            match read {
                Ok(0) => break,
                Ok(n) => n_bytes += n,
                Err(error) => return Err(error.to_string()),
            }
            let fault = |why: String| format!("line {number}: {why}");
            if text.len() > LINE_BYTES_MAX {
                return Err(fault(format!("it has more than {LINE_BYTES_MAX} bytes")));
            }
            if n_bytes > FILE_BYTES_MAX {
                return Err(fault(format!("the file has more than {FILE_BYTES_MAX} bytes; part it")));
            }
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            lines.push(Line::read(&text, number, output_tokens).map_err(fault)?);
            if lines.len() as u64 > REQUESTS_MAX {
                return Err(fault(format!("there are more than {REQUESTS_MAX} requests")));
            }
        }
        Self::new(lines)
    }

    fn new(lines: Vec<Line>) -> Result<Self, String> {
        let Some(first) = lines.first() else { return Err("there is no request in it".into()) };
        let (has_times, is_infill) = (first.at.is_some(), first.is_infill());
        for line in &lines {
            let fault = |field: &str| {
                let (first, other) = (first.number, line.number);
                Err(format!(
                    "line {other}: `{field}` must be on every line or on none; line {first} is the first"
                ))
            };
            if line.at.is_some() != has_times {
                return fault("timestamp");
            }
            if line.is_infill() != is_infill {
                return fault("suffix");
            }
            if is_infill && line.session.is_some() {
                return Err(format!("line {}: gaps have no turns; leave `session` out", line.number));
            }
        }
        let n_requests = lines.len() as u64;
        let (mut sessions, mut by_name): (Vec<Vec<Line>>, HashMap<String, usize>) = Default::default();
        for line in lines {
            match &line.session {
                None => sessions.push(vec![line]),
                Some(name) => {
                    let at = *by_name.entry(name.clone()).or_insert(sessions.len());
                    if at == sessions.len() {
                        sessions.push(Vec::new());
                    }
                    sessions[at].push(line);
                }
            }
        }
        sessions.sort_by_key(|turns| turns[0].at);
        Ok(Self { sessions, n_requests, has_times, is_infill })
    }

    /// How many requests it has.
    pub fn n_requests(&self) -> u64 {
        self.n_requests
    }

    /// Whether lines have times.
    pub fn has_times(&self) -> bool {
        self.has_times
    }

    /// Whether lines are gaps.
    pub fn is_infill(&self) -> bool {
        self.is_infill
    }

    /// Whether a line has a number of tokens in place of text.
    pub fn needs_texts(&self) -> bool {
        self.sessions.iter().flatten().any(|line| matches!(line.prompt, Prompt::Made { .. }))
    }

    pub(super) fn session(&self, number: u64, seed: u64, texts: &Texts) -> Option<Session> {
        let lines = self.sessions.get(usize::try_from(number).ok()?)?;
        let turn = |line: &Line| {
            let input = match &line.prompt {
                Prompt::Input(input) => input.clone(),
                Prompt::Made { n_tokens, prefix } => {
                    let mut own = Rng::new(seed, &[LINE, line.number]);
                    let mut rng =
                        prefix.as_ref().map(|(name, n)| (*n, Rng::new(seed, &[PREFIX, name_number(name)])));
                    let shared = rng.as_mut().map(|(n, rng)| (*n, rng));
                    Input::Messages(vec![(Speaker::User, prompt(texts, *n_tokens, shared, &mut own))])
                }
            };
            Turn { at: line.at, input, output_tokens: line.output_tokens }
        };
        Some(Session { number, turns: lines.iter().map(turn).collect() })
    }
}

/// A number of its own for a name.
fn name_number(name: &str) -> u64 {
    let hash = Sha256::digest(name.as_bytes());
    u64::from_le_bytes(hash[..8].try_into().expect("a hash has more than 8 bytes"))
}

impl Line {
    fn read(text: &[u8], number: u64, output_tokens: u32) -> Result<Self, String> {
        let mut fields: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| format!("it is no JSON object ({error})"))?;
        let mut fields = Fields(&mut fields);
        let at = fields.take("timestamp", "seconds from 0 to a year", |v| {
            let seconds = v.as_f64().filter(|s| (0.0..=TIMESTAMP_MAX).contains(s))?;
            Some(Duration::from_secs_f64(seconds))
        })?;
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let tokens = |v: &Value| {
            v.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=TOKENS_MAX).contains(n))
        };
        let wanted = format!("a number from 1 to {TOKENS_MAX}");
        let session = fields.take("session", "text", text)?;
        let output_tokens = fields.take("output_tokens", &wanted, tokens)?.unwrap_or(output_tokens);
        let plain = fields.take("prompt", "text", text)?;
        let suffix = fields.take("suffix", "text", text)?;
        let shape = "a list of objects with `role` (system, user or assistant) and `content` (text)";
        let messages = fields.take("messages", shape, read_messages)?;
        let n_tokens = fields.take("prompt_tokens", &wanted, tokens)?;
        let prefix = fields.take("prefix", "text", text)?;
        let prefix_tokens = fields.take("prefix_tokens", &wanted, tokens)?;
        if let Some(other) = fields.0.keys().next() {
            return Err(format!("`{other}` is no field of a trace"));
        }
        if suffix.is_some() && plain.is_none() {
            return Err("`suffix` stands beside `prompt`".into());
        }
        if (prefix.is_some() || prefix_tokens.is_some()) && n_tokens.is_none() {
            return Err("`prefix` and `prefix_tokens` stand beside `prompt_tokens`".into());
        }
        let prompt = match (plain, messages, n_tokens) {
            (Some(prefix), None, None) => Prompt::Input(match suffix {
                Some(suffix) => Input::Gap { prefix, suffix },
                None => Input::Messages(vec![(Speaker::User, prefix)]),
            }),
            (None, Some(messages), None) => Prompt::Input(Input::Messages(messages)),
            (None, None, Some(n_tokens)) => Prompt::Made {
                n_tokens,
                prefix: match (prefix, prefix_tokens) {
                    (None, None) => None,
                    (Some(name), Some(n)) if n < n_tokens => Some((name, n)),
                    (Some(_), Some(_)) => return Err("`prefix_tokens` must be below `prompt_tokens`".into()),
                    _ => return Err("`prefix` and `prefix_tokens` stand together".into()),
                },
            },
            _ => return Err("give one of `prompt`, `messages` and `prompt_tokens`".into()),
        };
        Ok(Self { number, at, session, prompt, output_tokens })
    }

    fn is_infill(&self) -> bool {
        matches!(self.prompt, Prompt::Input(Input::Gap { .. }))
    }
}

fn read_messages(value: &Value) -> Option<Vec<(Speaker, String)>> {
    let list = value.as_array().filter(|list| !list.is_empty())?;
    let message = |message: &Value| {
        let speaker = match message["role"].as_str()? {
            "system" => Speaker::System,
            "user" => Speaker::User,
            "assistant" => Speaker::Assistant,
            _ => return None,
        };
        let object = message.as_object().filter(|object| object.len() == 2)?;
        Some((speaker, object.get("content")?.as_str()?.to_owned()))
    };
    list.iter().map(message).collect()
}

/// What is left of a line's fields.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn take<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(value) => read(&value).map(Some).ok_or_else(|| format!("`{name}` must be {wanted}")),
        }
    }
}

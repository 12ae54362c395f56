//! One request: sent, streamed, timed.

use std::time::Duration;

use hyper::body::Bytes;
use ingle_api::client::sse::Parser;
use ingle_api::client::{Call, Input, Spent, error_text};
use tokio::time::Instant;

use super::http::Client;
use super::plan::Plan;

/// Bytes of an answer's text at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Characters of a failure's message.
const MESSAGE_CHARS_MAX: usize = 300;

/// What kind of failure a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// No connection was made.
    Connect,
    /// The connection broke.
    Disconnected,
    /// It took longer than allowed.
    Timeout,
    /// The server answered with this status.
    Status(u16),
    /// The reply is no event stream.
    ContentType,
    /// The stream is no stream of this API.
    Malformed,
    /// The stream ended before its last event.
    Truncated,
    /// The stream ended with an error event.
    InBand,
    /// The stream ended well, without a single piece of output.
    Empty,
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Timeout => f.write_str("timeout"),
            Self::Status(status) => write!(f, "http_{status}"),
            Self::ContentType => f.write_str("content_type"),
            Self::Malformed => f.write_str("malformed"),
            Self::Truncated => f.write_str("truncated"),
            Self::InBand => f.write_str("error_event"),
            Self::Empty => f.write_str("no_output"),
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Failure {
    /// What kind it is.
    pub kind: FailureKind,
    /// What happened, in words; one line.
    pub message: String,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, message: impl AsRef<str>) -> Self {
        let one_line = |c: char| if c.is_control() { ' ' } else { c };
        Self { kind, message: message.as_ref().chars().take(MESSAGE_CHARS_MAX).map(one_line).collect() }
    }
}

/// What came back, as far as it came.
#[derive(Debug)]
pub(super) struct Heard {
    pub sent: Instant,
    /// When the first output came.
    pub first: Option<Instant>,
    /// When the last output came.
    pub last: Option<Instant>,
    pub end: Instant,
    /// Between events with output.
    pub gaps: Vec<Duration>,
    pub text: String,
    pub reasoning: String,
    pub finish_reason: Option<String>,
    pub spent: Option<Spent>,
    pub failure: Option<Failure>,
}

impl Heard {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            sent: now,
            first: None,
            last: None,
            end: now,
            gaps: Vec::new(),
            text: String::new(),
            reasoning: String::new(),
            finish_reason: None,
            spent: None,
            failure: None,
        }
    }

    /// Events that had output.
    pub fn n_events(&self) -> u64 {
        self.gaps.len() as u64 + u64::from(self.first.is_some())
    }

    fn output_came(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.gaps.push(now - last);
        } else {
            self.first = Some(now);
        }
    }
}

impl Plan {
    /// Sends a request to the client of this number, counted around, and reads its answer.
    pub(super) async fn call(&self, client: usize, input: &Input, max_tokens: u32) -> Heard {
        let call = Call {
            model: self.model.as_deref(),
            input,
            max_tokens,
            ignore_eos: self.ignore_eos,
            more: &self.more,
        };
        let body = Bytes::from(self.dialect.body(&call).to_string());
        let mut heard = Heard::new();
        let client = &self.clients[client % self.clients.len()];
        let result = tokio::time::timeout(self.timeout, self.exchange(client, body, &mut heard)).await;
        heard.end = Instant::now();
        heard.failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => {
                let text = format!("no whole answer in {:.1} s", self.timeout.as_secs_f64());
                Some(Failure::new(FailureKind::Timeout, text))
            }
        };
        heard
    }

    async fn exchange(&self, client: &Client, body: Bytes, heard: &mut Heard) -> Result<(), Failure> {
        let mut reply = client.post(self.dialect.path(), body).await?;
        if reply.status() != 200 {
            let body = reply.rest(ERROR_BYTES_MAX).await.unwrap_or_default();
            let text = match serde_json::from_slice::<serde_json::Value>(&body) {
                Ok(value) => error_text(value.get("error").unwrap_or(&value)),
                Err(_) => String::from_utf8_lossy(&body).into_owned(),
            };
            return Err(Failure::new(FailureKind::Status(reply.status()), text));
        }
        if !reply.is("text/event-stream") {
            let text = format!("the reply is {}, not text/event-stream", reply.media_type());
            return Err(Failure::new(FailureKind::ContentType, text));
        }
        let malformed = |why: String| Failure::new(FailureKind::Malformed, why);
        let (mut parser, mut events, mut is_over) = (Parser::new(), Vec::new(), false);
        while let Some(bytes) = reply.piece().await? {
            let now = Instant::now();
            parser.push(&bytes, &mut events).map_err(|fault| malformed(fault.to_string()))?;
            for data in events.drain(..) {
                if is_over {
                    return Err(malformed("there are events after the last one".into()));
                }
                let said = self.dialect.read(&data).map_err(malformed)?;
                if let Some(error) = said.error {
                    return Err(Failure::new(FailureKind::InBand, error));
                }
                if said.is_output() {
                    heard.output_came(now);
                }
                heard.text.push_str(&said.text);
                heard.reasoning.push_str(&said.reasoning);
                if heard.text.len() + heard.reasoning.len() > ANSWER_BYTES_MAX {
                    return Err(malformed(format!("the answer has more than {ANSWER_BYTES_MAX} bytes")));
                }
                heard.finish_reason = said.finish_reason.or(heard.finish_reason.take());
                heard.spent = said.spent.or(heard.spent);
                is_over = said.is_last;
            }
        }
        if !is_over {
            return Err(Failure::new(FailureKind::Truncated, "the stream ended before its last event"));
        }
        if heard.first.is_none() {
            return Err(Failure::new(FailureKind::Empty, "the answer has no output"));
        }
        reply.keep();
        Ok(())
    }
}

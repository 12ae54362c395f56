//! What a run does: whom it calls, with what, at which pace.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ingle_api::client::Dialect;
use serde_json::{Map, Value};

use super::arrivals::Pattern;
use super::http::{Client, Dial, Target};
use super::measured::Record;
use super::trace::Trace;

/// Whom to call, and with what.
pub struct Plan {
    pub(super) clients: Vec<Client>,
    /// Which API.
    pub dialect: Dialect,
    /// The model's name; servers with one model need none.
    pub model: Option<String>,
    /// Ask for answers of exactly the wanted length.
    pub ignore_eos: bool,
    /// Further fields of each request.
    pub more: Map<String, Value>,
    /// How long a request may take as a whole.
    pub timeout: Duration,
    /// Between the end of an answer and the next turn of its session.
    pub think: Duration,
    /// What is sent.
    pub trace: Trace,
    /// Everything random follows from it.
    pub seed: u64,
}

impl Plan {
    /// A plan with the usual choices: fields can be changed after. `headers` go with each request, and so does `key`, as a
    /// bearer token.
    ///
    /// # Errors
    /// If a header or the key cannot be sent.
    pub fn new(
        targets: Vec<Target>,
        dial: Arc<dyn Dial>,
        headers: &[(String, String)],
        key: Option<&str>,
        dialect: Dialect,
        trace: Trace,
    ) -> Result<Self, String> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is no header's name"))?;
            let value =
                HeaderValue::from_str(value).map_err(|_| format!("the value of `{name}` cannot be sent"))?;
            all.append(name, value);
        }
        if let Some(key) = key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| "the key has characters that cannot be sent".to_owned())?;
            value.set_sensitive(true);
            all.insert(AUTHORIZATION, value);
        }
        Ok(Self {
            clients: targets.into_iter().map(|t| Client::new(t, dial.clone(), all.clone())).collect(),
            dialect,
            model: None,
            ignore_eos: true,
            more: Map::new(),
            timeout: Duration::from_secs(600),
            think: Duration::ZERO,
            trace,
            seed: 0,
        })
    }
}

/// How sessions begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many clients, each with one session after the other.
    Closed {
        /// Clients.
        concurrency: u64,
    },
    /// At times of their own.
    Open {
        /// Sessions per second and how they spread; `None` for the times in the trace.
        arrivals: Option<(f64, Pattern)>,
        /// Sessions that go on at once, at most: those beyond start late.
        in_flight: u64,
    },
}

/// How long a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many requests.
    Requests(u64),
    /// Sessions that begin within this time; in the closed loop turns, too.
    Time(Duration),
}

/// Takes part in a run.
pub trait Observer: Send {
    /// A request is over. What comes back is why the run cannot go on.
    fn observe(&mut self, record: &Record) -> Result<(), String>;
}

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct FileError {
    pub(super) path: PathBuf,
    pub(super) why: String,
}

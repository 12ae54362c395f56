//! What is settled of a request before it starts, shown to its client, and written down of it if requests are recorded.
//!
//! Seeds that nobody has chosen are drawn here, so that a reply's head can name them. A record takes part in nothing: it
//! is filled from the pieces that pass by on their way to the client, and handed over when they end. Tokens are told to
//! the server only with their log-probabilities, so those are asked for, and taken out again where the client wants
//! none.

use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ingle_api::record::{
    Outcome, Record, RecordedAdapter, RecordedAnswer, RecordedCall, RecordedChoice, RecordedModel,
    RecordedSampling, RecordedTurn, RecordedUsage, hex,
};
use ingle_chat::{
    AdapterInfo, AdapterName, AdapterWish, Delta, Event, ModelInfo, Principal, Provider, ProviderError,
    Request, Sampling,
};

use crate::App;
use crate::error::Failure;
use crate::routes::{Context, now};

/// Seeds that are drawn are below this: numbers that every JSON reader keeps.
const SEEDS: u64 = 1 << 53;

/// Where records go.
pub trait RecordSink: Debug + Send + Sync {
    /// Takes a record. Must not wait for anything.
    fn put(&self, record: Record);
    /// Records that were written, and that were dropped.
    fn counts(&self) -> (u64, u64);
}

/// What a reply's head says of how to have it again.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The seed; of a list of prompts, the first one's.
    seed: OnceLock<u64>,
    fingerprint: OnceLock<String>,
}

impl Shown {
    /// The seed and the fingerprint, if an answer was started.
    pub fn get(&self) -> Option<(u64, &str)> {
        Some((*self.seed.get()?, self.fingerprint.get()?))
    }
}

/// A request that is run again, instead of one that came over the network.
#[derive(Debug)]
pub(crate) struct Rerun {
    pub principal: Principal,
    /// For each prompt.
    pub sampling: Vec<Sampling>,
    /// For all of them.
    pub adapters: Vec<RecordedAdapter>,
    pub history: Vec<RecordedTurn>,
    /// What came of it.
    pub record: Mutex<Option<Record>>,
}

impl Rerun {
    /// What the request ran with, among the adapters that are here: by what they compute, whatever they are called and
    /// whatever applies to others here.
    ///
    /// # Errors
    /// If one is not here.
    pub fn wishes(&self, here: &[AdapterInfo]) -> Result<Vec<AdapterWish>, ProviderError> {
        let wish = |recorded: &RecordedAdapter| {
            let found = here.iter().find(|info| info.digest == recorded.digest).ok_or_else(|| {
                let message = format!("the adapter `{}` of the record is not here", recorded.name);
                ProviderError::InvalidRequest { message, param: Some("lora".into()) }
            })?;
            Ok(AdapterWish { adapter: AdapterName::Number(found.number), scale: recorded.scale })
        };
        self.adapters.iter().map(wish).collect()
    }
}

/// What is kept of a body that is parsed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// Whether work on the whole of it must not be done where it would keep others waiting.
    pub is_large: bool,
    /// As it came, if it is recorded.
    pub body: Option<Arc<[u8]>>,
    /// What the server had stored of its conversation, if it is recorded.
    pub history: Arc<[RecordedTurn]>,
}

/// A record that is being filled.
pub(crate) struct Recording {
    record: Record,
    kept: Kept,
    to: Target,
    /// Whether the client does not want what the tokens come with.
    is_hidden: bool,
}

enum Target {
    Sink(Arc<dyn RecordSink>),
    Rerun(Arc<Rerun>),
}

/// Settles seeds, and begins a record if there is to be one.
///
/// # Errors
/// If a request is run again whose record has another number of answers than its body asks for.
pub(crate) fn begin(
    app: &App,
    provider: &dyn Provider,
    context: &Context,
    kept: Kept,
    adapters: &[(AdapterInfo, f32)],
    requests: &mut [Request],
) -> Result<Option<Recording>, Failure> {
    let wanted = requests.first().and_then(|request| request.model.as_deref());
    let mut models = provider.models().into_iter();
    let info = models.find(|info| wanted.is_none_or(|id| info.id == id)).unwrap_or_default();
    if let Some(rerun) = &context.rerun {
        if rerun.sampling.len() != requests.len() {
            let message = format!(
                "the record has {} answers, its body asks for {}",
                rerun.sampling.len(),
                requests.len()
            );
            return Err(ProviderError::InvalidRequest { message, param: None }.into());
        }
        for (request, sampling) in requests.iter_mut().zip(&rerun.sampling) {
            request.sampling = sampling.clone();
        }
    }
    let first = requests.first().and_then(|request| request.sampling.seed).or(info.defaults.seed);
    let first = *context.shown.seed.get_or_init(|| first.unwrap_or_else(draw));
    let wishes = requests.first().and_then(|request| request.adapters.as_deref());
    let (_, fingerprint) = provider.adapters_of(&info, wishes)?;
    context.shown.fingerprint.get_or_init(|| fingerprint);
    for (i, request) in requests.iter_mut().enumerate() {
        let seed = || info.defaults.seed.unwrap_or((first + i as u64) % SEEDS);
        request.sampling.seed.get_or_insert_with(seed);
    }
    let to = match (&context.rerun, &app.config.records) {
        (Some(rerun), _) => Target::Rerun(rerun.clone()),
        (None, Some(sink)) if kept.body.is_some() => Target::Sink(sink.clone()),
        (None, _) => return Ok(None),
    };
    let is_hidden = requests.iter().all(|request| request.logprobs.is_none());
    let recorded = |(info, scale): &(AdapterInfo, f32)| RecordedAdapter {
        name: info.name.clone(),
        digest: info.digest.clone(),
        scale: *scale,
    };
    let adapters = adapters.iter().map(recorded).collect();
    let record = Record { adapters, ..draft(context, &info, requests) };
    requests.iter_mut().for_each(|request| _ = request.logprobs.get_or_insert(0));
    Ok(Some(Recording { record, kept, to, is_hidden }))
}

/// A record of requests of which nothing has come yet.
fn draft(context: &Context, info: &ModelInfo, requests: &[Request]) -> Record {
    let answer = |request: &Request| RecordedAnswer {
        sampling: RecordedSampling::from(&request.sampling.clone().or(info.defaults.clone())),
        choices: vec![RecordedChoice::default(); request.n as usize],
        ..RecordedAnswer::default()
    };
    Record {
        id: requests.first().map(|request| request.id.clone()).unwrap_or_default(),
        recorded_at: now(),
        program: concat!("ingle ", env!("CARGO_PKG_VERSION")).into(),
        route: context.route.to_string(),
        dialect: context.dialect.name().into(),
        may_write_control_tokens: context.principal.may_write_control_tokens,
        model: identity(info),
        answers: requests.iter().map(answer).collect(),
        ..Record::default()
    }
}

/// What of a model decides which bytes come.
pub(crate) fn identity(info: &ModelInfo) -> RecordedModel {
    RecordedModel {
        id: info.id.clone(),
        digest: info.details.digest.clone(),
        numeric_path: info.numeric_path.clone(),
        template: info.details.template.as_deref().map(hex),
    }
}

/// A seed that nobody has chosen.
fn draw() -> u64 {
    // Each state is keyed afresh from the system's randomness.
    RandomState::new().hash_one(0) % SEEDS
}

impl Recording {
    /// Writes down a piece, and takes out of it what the client did not want. False if nothing is left of it.
    pub fn take(&mut self, prompt: usize, delta: &mut Delta) -> bool {
        let Some(answer) = self.record.answers.get_mut(prompt) else { return true };
        match &delta.event {
            Event::Started { prompt_tokens, .. } => answer.prompt_tokens = *prompt_tokens,
            Event::Done(usage) => answer.usage = Some(RecordedUsage::from(usage)),
            _ => {}
        }
        let Some(choice) = answer.choices.get_mut(delta.choice as usize) else { return true };
        match &mut delta.event {
            Event::Text { text, logprobs } | Event::Reasoning { text, logprobs } => {
                choice.push_tokens(logprobs);
                if self.is_hidden {
                    logprobs.clear();
                }
                let is_left = !text.is_empty() || !logprobs.is_empty();
                match &delta.event {
                    Event::Reasoning { text, .. } => choice.reasoning.push_str(text),
                    Event::Text { text, .. } => choice.text.push_str(text),
                    _ => unreachable!("it is one of the two"),
                }
                return is_left;
            }
            Event::ToolCall { name, .. } => {
                choice.tool_calls.push(RecordedCall { name: name.clone(), ..RecordedCall::default() });
            }
            Event::ToolArguments { index, json } => {
                if let Some(call) = choice.tool_calls.get_mut(*index as usize) {
                    call.arguments.push_str(json);
                }
            }
            Event::Finished(reason) => choice.finish(reason),
            Event::Started { .. } | Event::PromptLogprobs(_) | Event::Done(_) => {}
        }
        true
    }

    /// Nothing more comes.
    pub fn end(self, outcome: Outcome) {
        let Self { mut record, kept, to, .. } = self;
        record.outcome = outcome;
        record.body = String::from_utf8_lossy(kept.body.as_deref().unwrap_or_default()).into_owned();
        record.history = kept.history.to_vec();
        match to {
            Target::Sink(sink) => sink.put(record),
            Target::Rerun(rerun) => {
                *rerun.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
            }
        }
    }
}

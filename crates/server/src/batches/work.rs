//! One batch: its input is checked as a whole, its lines are answered, its files are shown.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::to_bytes;
use ingle_api::openai::batches::{
    BatchLine, Endpoint, InputError, LineError, answer_line, error_line, read_line,
};
use ingle_chat::{DataClass, Principal, Priority, ProviderError, Terms};
use ingle_ledger::{Batch, BatchStatus, LedgerError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::Instrument;

use super::Shared;
use super::input::{Input, Line};
use crate::App;
use crate::body::BoundedBody;
use crate::error::{Dialect, Failure};
use crate::routes::{
    self, Context, chat_reply, completion_reply, embedding_reply, now, response_reply, unique,
};

/// The most lines of one batch.
const LINES_MAX: u64 = 50_000;
/// How many of an input's errors are told; the first ones.
const ERRORS_MAX: usize = 100;
/// Answers that are written together, where there are several at once.
const ANSWERS_AT_ONCE: usize = 256;
/// How long a line waits that the provider cannot take now.
const KNOCK_PAUSE: Duration = Duration::from_millis(500);
/// How often a line is tried whose answer failed through no fault of its own: by what ran beside it.
const TRIES: u32 = 3;

/// Works off a batch, from where it is to its end.
///
/// # Errors
/// If it cannot be read or written; it stays as it is then.
pub(super) async fn off(shared: &Arc<Shared>, seq: i64) -> Result<(), LedgerError> {
    let files = &shared.files;
    let mut batch = files.batch_by_seq(seq).await?;
    if batch.status == BatchStatus::Validating {
        match check(shared, &batch).await? {
            Ok(total) => {
                let (output, error) = (format!("file-{}", unique()), format!("file-{}", unique()));
                files.begin_batch(seq, total, &output, &error, now()).await?;
            }
            Err(errors) => {
                files.end_batch(seq, BatchStatus::Failed, &InputError::stored(&errors), now()).await?;
            }
        }
        batch = files.batch_by_seq(seq).await?;
    }
    let (end, errors) = match batch.status {
        BatchStatus::InProgress => match answer(shared, &batch).await {
            Ok(end) => (end, String::new()),
            Err(LedgerError::Full { bytes_max }) => {
                let text = format!(
                    "your files would have more than {bytes_max} bytes with the answers; delete some"
                );
                (BatchStatus::Failed, InputError::stored(&[InputError::of_all("storage_full", text)]))
            }
            Err(other) => return Err(other),
        },
        BatchStatus::Cancelling => (BatchStatus::Cancelled, String::new()),
        // As far as it was when the process ended.
        BatchStatus::Finalizing => (BatchStatus::Completed, String::new()),
        _ => return Ok(()),
    };
    if end == BatchStatus::Expired {
        expire(shared, &batch).await?;
    }
    files.end_batch(seq, end, &errors, now()).await?;
    tracing::info!(batch = batch.wanted.id, status = end.name(), lines = batch.total, "batch ended");
    Ok(())
}

/// Where the lines of a batch go.
fn endpoint(batch: &Batch) -> Endpoint {
    Endpoint::from_url(&batch.wanted.endpoint).expect("only known ones are stored")
}

/// Reads the whole input. Gives the number of its lines, or what is wrong with it.
async fn check(shared: &Arc<Shared>, batch: &Batch) -> Result<Result<u64, Vec<InputError>>, LedgerError> {
    let line_bytes_max = shared.app.config.body_bytes_max;
    let mut input = Input::new(&shared.files, batch, line_bytes_max);
    let mut seen =
        Seen { endpoint: endpoint(batch), ids: HashSet::new(), errors: Vec::new(), line_bytes_max };
    let mut total = 0;
    loop {
        let lines = input.next_several().await?;
        if lines.is_empty() {
            break;
        }
        total += lines.len() as u64;
        if total > LINES_MAX {
            let text = format!("the input has more than {LINES_MAX} lines; split it");
            return Ok(Err(vec![InputError::of_all("too_many_lines", text)]));
        }
        // A megabyte of JSON, which others need not wait for.
        let looked = tokio::task::spawn_blocking(move || {
            lines.iter().for_each(|line| seen.look(line));
            seen
        });
        seen = looked.await.map_err(|_| internal("checking the input panicked"))?;
        if seen.errors.len() >= ERRORS_MAX {
            break;
        }
    }
    if total == 0 {
        seen.errors.push(InputError::of_all("empty_file", "the input has no lines"));
    }
    Ok(if seen.errors.is_empty() { Ok(total) } else { Err(seen.errors) })
}

/// What is known of an input.
struct Seen {
    endpoint: Endpoint,
    ids: HashSet<String>,
    errors: Vec<InputError>,
    line_bytes_max: usize,
}

impl Seen {
    fn look(&mut self, line: &Line) {
        let read = self.read(line);
        if let Err(error) = read
            && self.errors.len() < ERRORS_MAX
        {
            self.errors.push(InputError::of_line(line.number, error));
        }
    }

    fn read(&mut self, line: &Line) -> Result<(), LineError> {
        let error = |code, param: Option<&str>, message| LineError {
            custom_id: None,
            code,
            param: param.map(str::to_owned),
            message,
        };
        let text = line.text.as_ref().map_err(|n_bytes| {
            let text = format!("the line has {n_bytes} bytes; at most {} are taken", self.line_bytes_max);
            error("line_too_long", None, text)
        })?;
        let read = read_line(text, &[self.endpoint])?;
        if let Some(refusal) = read.refusal() {
            return Err(refusal);
        }
        let id = read.custom_id;
        if self.ids.contains(&id) {
            let text = format!("`custom_id` is `{}`, as another line's is", ingle_api::shown(&id));
            return Err(error("duplicate_custom_id", Some("custom_id"), text));
        }
        self.ids.insert(id);
        Ok(())
    }
}

/// A line that is to be answered.
struct Asked {
    number: u64,
    custom_id: String,
    body: Vec<u8>,
}

/// The next line that has no answer. What cannot be read again was checked, and is nobody's.
async fn next_line(
    input: &mut Input,
    endpoint: Endpoint,
    answered: &HashSet<u64>,
) -> Result<Option<Asked>, LedgerError> {
    while let Some(line) = input.next().await? {
        if answered.contains(&line.number) {
            continue;
        }
        let read = line.text.ok().and_then(|text| read_line(&text, &[endpoint]).ok());
        if let Some(line_read) = read {
            let BatchLine { custom_id, .. } = &line_read;
            let custom_id = custom_id.clone();
            return Ok(Some(Asked { number: line.number, custom_id, body: line_read.into_body() }));
        }
    }
    Ok(None)
}

/// A place for a line, when it is free.
type Place = Pin<Box<dyn Future<Output = (OwnedSemaphorePermit, OwnedSemaphorePermit)> + Send>>;

fn place(shared: &Arc<Shared>, n_bytes: usize) -> Place {
    let shared = shared.clone();
    Box::pin(async move {
        let kib = n_bytes.div_ceil(1024).clamp(1, shared.memory_kib) as u32;
        let line = shared.lines.clone().acquire_owned().await.expect("never closed");
        (line, shared.memory.clone().acquire_many_owned(kib).await.expect("never closed"))
    })
}

/// Answers the lines that have no answer. Gives the status with which the batch ends.
async fn answer(shared: &Arc<Shared>, batch: &Batch) -> Result<BatchStatus, LedgerError> {
    let (files, seq, endpoint) = (&shared.files, batch.seq(), endpoint(batch));
    let answered: HashSet<u64> = files.answered_lines(seq).await?.into_iter().collect();
    let mut input = Input::new(files, batch, shared.app.config.body_bytes_max);
    let mut cancelled = shared.app.batches.cancelled.subscribe();
    // It may have been cancelled before anyone listened.
    cancelled.mark_changed();
    let time_left = Duration::from_secs(batch.wanted.expires_at.saturating_sub(now()));
    let mut expiry = Box::pin(tokio::time::sleep(time_left));
    let mut running = Running::default();
    let mut waiting: Option<(Asked, Place)> = None;
    let mut is_read = false;
    loop {
        if waiting.is_none() && !is_read {
            match next_line(&mut input, endpoint, &answered).await? {
                Some(asked) => {
                    let place = place(shared, asked.body.len());
                    waiting = Some((asked, place));
                }
                None => is_read = true,
            }
        }
        if waiting.is_none() && running.tasks.is_empty() {
            return Ok(BatchStatus::Completed);
        }
        let has_place = async {
            match &mut waiting {
                Some((_, place)) => place.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut expiry => return Ok(BatchStatus::Expired),
            _ = cancelled.changed() => {
                if files.batch_by_seq(seq).await?.status == BatchStatus::Cancelling {
                    return Ok(BatchStatus::Cancelled);
                }
            }
            Some(done) = running.tasks.join_next_with_id() => {
                let mut answers = vec![running.take(done)];
                while answers.len() < ANSWERS_AT_ONCE
                    && let Some(done) = running.tasks.try_join_next_with_id()
                {
                    answers.push(running.take(done));
                }
                files.answer_lines(seq, &answers).await?;
            }
            permits = has_place => {
                let Some((asked, _)) = waiting.take() else { continue };
                running.start(shared, batch, endpoint, asked, permits);
            }
        }
    }
}

/// The lines that are with the provider. Dropping it aborts them.
#[derive(Default)]
struct Running {
    tasks: JoinSet<(bool, String)>,
    /// Number and name of each.
    lines: HashMap<Id, (u64, String)>,
}

impl Running {
    fn start(
        &mut self,
        shared: &Arc<Shared>,
        batch: &Batch,
        endpoint: Endpoint,
        asked: Asked,
        permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) {
        let Asked { number, custom_id, body } = asked;
        let tenant = batch.tenant.clone();
        let principal = Principal {
            tenant,
            key: batch.wanted.key.clone(),
            class: DataClass::default(),
            // No route that lines go to lets texts spell them.
            may_write_control_tokens: false,
            // They make way for everyone.
            may_go_first: false,
            weight: shared.app.auth.weight(&batch.wanted.key),
        };
        let (app, name) = (shared.app.clone(), custom_id.clone());
        let span =
            tracing::info_span!("line", batch = batch.wanted.id, number, answer = tracing::field::Empty);
        let work = async move {
            let _permits = permits;
            let (status, body) = reply(&app, principal, endpoint, body).await;
            let request_id = format!("req-{}", unique());
            let is_error = status != 200;
            (is_error, answer_line(&result_id(), &name, status, &request_id, &body))
        };
        let id = self.tasks.spawn(work.instrument(span)).id();
        self.lines.insert(id, (number, custom_id));
    }

    /// The answer of a line that is done, as it is stored.
    fn take(&mut self, done: Result<(Id, (bool, String)), JoinError>) -> (u64, bool, String) {
        let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (number, custom_id) = self.lines.remove(&id).expect("each task is a line");
        match done {
            Ok((_, (is_error, text))) => (number, is_error, text),
            Err(_) => {
                let failure = Failure::Panicked;
                failure.log();
                let object = failure.object();
                (number, true, error_line(&result_id(), &custom_id, "internal_error", &object.message))
            }
        }
    }
}

fn result_id() -> String {
    format!("batch_req_{}", unique())
}

/// The status and the body of the reply that the request would have over HTTP. What would only be told to come back
/// later comes back later here.
async fn reply(app: &Arc<App>, principal: Principal, endpoint: Endpoint, body: Vec<u8>) -> (u16, String) {
    let mut tries = 0;
    loop {
        tries += 1;
        let context = Context {
            principal: principal.clone(),
            dialect: Dialect::OpenAi,
            priority: Priority::Background,
            terms: Terms::default(),
            started: Instant::now(),
            route: endpoint.url().into(),
            shown: Arc::default(),
            rerun: None,
        };
        let body = BoundedBody::own(body.clone());
        let reply = match endpoint {
            Endpoint::Chat => chat_reply(app, &context, body).await,
            Endpoint::Completions => completion_reply(app, &context, body).await,
            Endpoint::Responses => response_reply(app, &context, body).await,
            Endpoint::Embeddings => embedding_reply(app, &context, body).await,
        };
        let failure = match whole(reply).await {
            Ok(found) => return found,
            Err(failure) => failure,
        };
        match &failure {
            // These are nobody's fault and pass; the batch's own time bounds the waiting.
            Failure::Loading
            | Failure::LoadFailed
            | Failure::ShuttingDown
            | Failure::TooManyBodies
            | Failure::Provider(
                ProviderError::Overloaded { .. } | ProviderError::Unavailable(_) | ProviderError::Busy(_),
            ) => {}
            Failure::Provider(ProviderError::Internal(_)) if tries < TRIES => {}
            _ => {
                failure.log();
                return (failure.status().as_u16(), failure.object().into_json());
            }
        }
        tokio::time::sleep(KNOCK_PAUSE).await;
    }
}

/// A reply's status and body.
async fn whole(reply: routes::Reply) -> Result<(u16, String), Failure> {
    let reply = reply?;
    let status = reply.status().as_u16();
    // It is in memory already, so there is no bound to be put on it here.
    let bytes = to_bytes(reply.into_body(), usize::MAX).await;
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes.into()).ok());
    let broken = || Failure::Provider(ProviderError::Internal("a reply is no text".into()));
    Ok((status, text.ok_or_else(broken)?))
}

/// Gives every line that has no answer the error that there was no time for it.
async fn expire(shared: &Arc<Shared>, batch: &Batch) -> Result<(), LedgerError> {
    const TEXT: &str = "this request could not be answered before the completion window was over";
    let (files, seq) = (&shared.files, batch.seq());
    let answered: HashSet<u64> = files.answered_lines(seq).await?.into_iter().collect();
    let mut input = Input::new(files, batch, shared.app.config.body_bytes_max);
    let mut errors = Vec::new();
    loop {
        let next = next_line(&mut input, endpoint(batch), &answered).await?;
        if errors.len() == ANSWERS_AT_ONCE || next.is_none() {
            files.answer_lines(seq, &errors).await?;
            errors.clear();
        }
        let Some(asked) = next else { return Ok(()) };
        errors.push((asked.number, true, error_line(&result_id(), &asked.custom_id, "batch_expired", TEXT)));
    }
}

fn internal(problem: &str) -> LedgerError {
    LedgerError::Internal { path: "batches".into(), problem: problem.to_owned() }
}

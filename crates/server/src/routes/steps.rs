//! Replies that tell how far a long piece of work is: a line of JSON for each step, or one object at the end.
//!
//! What fails before there was anything to tell is a reply with its own status; what fails later is the last line.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_core::Stream;
use ingle_api::ollama::transfer::{error_line, success};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Reply;
use crate::error::{Failure, json};

/// Lines ahead of a client that takes them slowly.
const LINES_AHEAD: usize = 64;

/// Where the work tells its steps.
pub(super) type Lines = mpsc::Sender<String>;

/// Work that goes on beside its reply, and ends when nobody waits for it any more.
struct Task(JoinHandle<Result<(), Failure>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Task {
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Failure>> {
        Pin::new(&mut self.0).poll(cx).map(|ended| ended.unwrap_or(Err(Failure::Panicked)))
    }
}

/// Does the work, and replies.
pub(super) async fn reply<Work>(is_streamed: bool, work: impl FnOnce(Lines) -> Work) -> Reply
where
    Work: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (lines, mut receiver) = mpsc::channel(LINES_AHEAD);
    let mut task = Task(tokio::spawn(work(lines)));
    let first = match is_streamed {
        true => receiver.recv().await,
        false => {
            drop(receiver);
            std::future::poll_fn(|cx| task.poll(cx)).await?;
            return Ok(json(StatusCode::OK, success()));
        }
    };
    if first.is_none() {
        std::future::poll_fn(|cx| task.poll(cx)).await?;
        return Ok(json(StatusCode::OK, success()));
    }
    let mut response = Response::new(Body::from_stream(Told { first, receiver, task: Some(task) }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The lines, and at their end what went wrong.
struct Told {
    first: Option<String>,
    receiver: mpsc::Receiver<String>,
    task: Option<Task>,
}

impl Stream for Told {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let line = match self.first.take() {
            Some(first) => Some(first),
            None => ready!(self.receiver.poll_recv(cx)),
        };
        if let Some(line) = line {
            return Poll::Ready(Some(Ok(Bytes::from(line))));
        }
        let Some(task) = &mut self.task else { return Poll::Ready(None) };
        let ended = ready!(task.poll(cx));
        self.task = None;
        Poll::Ready(ended.err().map(|failure| Ok(Bytes::from(error_line(&failure.object().message)))))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use ingle_api::RequestError;

    use super::*;

    /// Lines, and how it ends.
    async fn check(is_streamed: bool, lines: &[&str], error: Option<&str>, expected: Result<&str, u16>) {
        let (lines, error) =
            (lines.iter().map(|l| format!("{l}\n")).collect::<Vec<_>>(), error.map(str::to_owned));
        let work = |to: Lines| async move {
            for line in lines {
                let _ = to.send(line).await;
            }
            error.map_or(Ok(()), |error| Err(RequestError::body(error).into()))
        };
        match (reply(is_streamed, work).await, expected) {
            (Ok(response), Ok(expected)) => {
                let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
                assert_eq!(String::from_utf8_lossy(&body), expected);
            }
            (Err(failure), Err(status)) => assert_eq!(failure.status().as_u16(), status),
            (Ok(_), Err(status)) => panic!("it is no {status}"),
            (Err(failure), Ok(_)) => panic!("{}", failure.object().message),
        }
    }

    #[tokio::test]
    async fn how_work_ends() {
        check(true, &["a", "b"], None, Ok("a\nb\n")).await;
        check(true, &["a"], Some("no"), Ok("a\n{\"error\":\"no\"}\n")).await;
        check(true, &[], Some("no"), Err(400)).await;
        check(true, &[], None, Ok("{\"status\":\"success\"}")).await;
        check(false, &["a"], None, Ok("{\"status\":\"success\"}")).await;
        check(false, &["a"], Some("no"), Err(400)).await;
        // Nobody has to take the lines.
        check(false, &["a"; 200], None, Ok("{\"status\":\"success\"}")).await;
    }

    #[tokio::test]
    async fn whoever_goes_away_ends_it() {
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        let work = |to: Lines| async move {
            let _held = held;
            let _ = to.send("a\n".into()).await;
            std::future::pending().await
        };
        let response = reply(true, work).await.expect("a reply");
        drop(response);
        gone.await.expect_err("the work is dropped");
    }
}

//! Event streams: an answer's pieces as they come, signs of life while none comes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_core::Stream;
use ingle_api::StreamEncoder;
use tokio::time::{Instant, Sleep};

use crate::answer::Answer;

/// Pieces that are ready together travel together, up to this many bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// A streamed reply. The client going away drops it, and with it the answer.
pub(crate) struct EventStream {
    /// `None` after the terminal event.
    answer: Option<Answer>,
    encoder: Box<dyn StreamEncoder>,
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
}

impl EventStream {
    pub fn new(answer: Answer, encoder: Box<dyn StreamEncoder>, silence_max: Duration) -> Self {
        let silence = Box::pin(tokio::time::sleep(silence_max));
        Self { answer: Some(answer), encoder, silence, silence_max }
    }

    pub fn into_response(self) -> Response {
        self.into_response_with(|events| events)
    }

    /// The reply with another stream around this one.
    pub fn into_response_with<S>(self, around: impl FnOnce(Self) -> S) -> Response
    where
        S: Stream<Item = <Self as Stream>::Item> + Send + 'static,
    {
        let content_type = self.encoder.content_type();
        let mut response = Response::new(Body::from_stream(around(self)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Proxies that collect a reply before they pass it on would defeat its purpose.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut out = String::new();
        while out.len() < CHUNK_BYTES {
            let Some(answer) = &mut this.answer else { break };
            match answer.poll_next(cx) {
                Poll::Ready(Some(Ok((prompt, delta)))) => this.encoder.push(prompt, &delta, &mut out),
                Poll::Ready(Some(Err(failure))) => {
                    failure.log();
                    this.encoder.fail(&failure.object(), &mut out);
                    this.answer = None;
                }
                Poll::Ready(None) => {
                    this.encoder.finish(&mut out);
                    this.answer = None;
                }
                Poll::Pending => break,
            }
        }
        if out.is_empty() {
            if this.answer.is_none() {
                return Poll::Ready(None);
            }
            let Some(sign) = this.encoder.keep_alive() else { return Poll::Pending };
            if this.silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            out.push_str(sign);
        }
        this.silence.as_mut().reset(Instant::now() + this.silence_max);
        Poll::Ready(Some(Ok(Bytes::from(out))))
    }
}

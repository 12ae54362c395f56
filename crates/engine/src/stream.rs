//! From the engine thread to one client: a bounded channel, and what remains when it is full.
//!
//! The thread never waits for a client. What does not fit goes to the [`Outlet`]'s backlog, which stays small
//! because its request is paused as long as there is one. The client's end wakes the thread when it makes room.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::Thread;

use futures_core::Stream;
use ingle_chat::{Delta, Event, ProviderError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// What both ends see.
struct Link {
    /// Why the stream ends early. Read when the channel is empty and closed.
    error: Mutex<Option<ProviderError>>,
    /// Whether the thread would like to be woken when there is room.
    wants_room: AtomicBool,
    engine: Thread,
}

/// The engine's end.
pub(crate) struct Outlet {
    sender: Sender<Delta>,
    link: Arc<Link>,
    backlog: VecDeque<Delta>,
}

/// The client's end.
pub(crate) struct AnswerStream {
    receiver: Receiver<Delta>,
    link: Arc<Link>,
    ended: bool,
}

/// Both ends of a channel for `capacity` deltas to a client of the thread `engine`.
pub(crate) fn channel(capacity: usize, engine: Thread) -> (Outlet, AnswerStream) {
    let (sender, receiver) = mpsc::channel(capacity);
    let link = Arc::new(Link { error: Mutex::new(None), wants_room: AtomicBool::new(false), engine });
    let outlet = Outlet { sender, link: link.clone(), backlog: VecDeque::new() };
    (outlet, AnswerStream { receiver, link, ended: false })
}

impl Outlet {
    /// Queues a delta; [`Self::flush`] sends it.
    pub fn push(&mut self, delta: Delta) {
        self.backlog.push_back(delta);
    }

    /// Sends as much as there is room for. True if nothing is left; else the reader will wake the thread.
    pub fn flush(&mut self) -> bool {
        if self.try_flush() {
            return true;
        }
        // The reader may have made room before it could see the wish: look once more.
        self.link.wants_room.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let done = self.try_flush();
        if done {
            self.link.wants_room.store(false, Ordering::Relaxed);
        }
        done
    }

    fn try_flush(&mut self) -> bool {
        while let Some(delta) = self.backlog.pop_front() {
            if let Err(TrySendError::Full(delta)) = self.sender.try_send(delta) {
                self.backlog.push_front(delta);
                return false;
            }
        }
        true
    }

    /// Whether the client has gone.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Ends the stream with an error, after what is in the channel already.
    pub fn fail(self, error: ProviderError) {
        *self.link.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl Stream for AnswerStream {
    type Item = Result<Delta, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(delta) = self.receiver.poll_recv(cx) else { return Poll::Pending };
        fence(Ordering::SeqCst);
        if self.link.wants_room.swap(false, Ordering::Relaxed) {
            self.link.engine.unpark();
        }
        Poll::Ready(Some(match delta {
            Some(delta) => {
                self.ended = matches!(delta.event, Event::Done(_));
                Ok(delta)
            }
            None => {
                self.ended = true;
                let error = self.link.error.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(error
                    .unwrap_or_else(|| ProviderError::Internal("the engine stopped in mid-answer".into())))
            }
        }))
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.receiver.close();
        self.link.engine.unpark();
    }
}

//! One answer: asked for, shown as it comes, and ended early by Ctrl-C.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use ingle_chat::{FinishReason, ProviderError, Usage};
use ingle_runtime::{AnswerStream, Engine, Interrupter, Piece};

use super::terminal;
use super::view::View;
use crate::signals;

/// How often a sign of life is given.
const TICK: Duration = Duration::from_millis(100);
/// How long nothing is said about waiting: what is quick needs no word.
const SILENCE: Duration = Duration::from_millis(250);
/// Pieces that wait to be painted.
const PIECES_MAX: usize = 256;
/// The signs of life, one after the other.
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// What Ctrl-C ends: the answer that is being given, if any.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<Mutex<Option<Interrupter>>>);

impl Interrupt {
    /// Ends the answer that is being given. Whether there is one.
    pub fn raise(&self) -> bool {
        let answer = self.lock();
        answer.iter().for_each(Interrupter::interrupt);
        answer.is_some()
    }

    fn set(&self, answer: Option<Interrupter>) {
        *self.lock() = answer;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Interrupter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    pub text: String,
    pub thoughts: String,
    /// `None` if it was ended early.
    pub finish_reason: Option<FinishReason>,
    pub usage: Option<Usage>,
    pub seed: u64,
}

/// What comes out of the thread that waits for the engine.
enum News {
    Piece(Result<Piece, ProviderError>),
    End(Box<AnswerStream>),
}

/// Shows an answer as it comes, and returns it.
///
/// # Errors
/// If it fails on its way, or cannot be written; what was shown of it stays.
pub fn show(
    engine: &Engine,
    mut stream: AnswerStream,
    view: &mut View<'_>,
    interrupt: &Interrupt,
) -> Result<Answered> {
    let interrupter = stream.interrupter();
    interrupt.set(Some(interrupter.clone()));
    let (sender, news) = mpsc::sync_channel(PIECES_MAX);
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Some(piece) = stream.next_piece() {
                let is_error = piece.is_err();
                if sender.send(News::Piece(piece)).is_err() || is_error {
                    return;
                }
            }
            // Nobody may be there any more to hear it.
            let _ = sender.send(News::End(Box::new(stream)));
        });
        let mut showing = Showing::new(engine, view);
        let result = showing.follow(&news);
        // The thread ends with the stream, and the stream with this, if it has not ended.
        interrupter.interrupt();
        drop(news);
        result
    });
    interrupt.set(None);
    result
}

struct Showing<'a, 'b> {
    engine: &'a Engine,
    view: &'a mut View<'b>,
    answered: Answered,
    started: Instant,
    /// Prompt tokens that were computed before this answer, and those that it has.
    prompt_before: u64,
    prompt_tokens: Option<u64>,
    /// When the thoughts began, until they are over.
    thinking: Option<Instant>,
    n_ticks: usize,
    /// How often the program had been stopped when the screen was last painted.
    n_continued: usize,
}

impl<'a, 'b> Showing<'a, 'b> {
    fn new(engine: &'a Engine, view: &'a mut View<'b>) -> Self {
        let prompt_before = engine.provider().status().prompt_tokens_total;
        let (answered, started) = (Answered::default(), Instant::now());
        Self {
            engine,
            view,
            answered,
            started,
            prompt_before,
            prompt_tokens: None,
            thinking: None,
            n_ticks: 0,
            n_continued: signals::n_continued(),
        }
    }

    /// The window may have changed, and somebody else may have written into it.
    fn look_at_window(&mut self) -> Result<()> {
        let now = signals::n_continued();
        if std::mem::replace(&mut self.n_continued, now) != now {
            self.view.begin_below();
        }
        Ok(self.view.set_size(terminal::size())?)
    }

    fn follow(&mut self, news: &mpsc::Receiver<News>) -> Result<Answered> {
        loop {
            match news.recv_timeout(TICK) {
                Err(RecvTimeoutError::Timeout) => self.tick()?,
                // A bug in the thread, which has said so.
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the answer ended without a word"),
                Ok(News::End(stream)) => {
                    self.end_thoughts()?;
                    let answered = &mut self.answered;
                    answered.finish_reason = stream.finish_reason().cloned();
                    answered.usage = stream.usage().copied();
                    answered.seed = stream.seed();
                    let note = match answered.finish_reason {
                        None => Some("stopped"),
                        Some(FinishReason::Length) => Some("cut at the limit of tokens"),
                        Some(_) => None,
                    };
                    self.view.finish(note)?;
                    return Ok(std::mem::take(answered));
                }
                Ok(News::Piece(Err(error))) => {
                    self.view.finish(None)?;
                    return Err(error.into());
                }
                Ok(News::Piece(Ok(piece))) => self.take(piece)?,
            }
        }
    }

    fn take(&mut self, piece: Piece) -> Result<()> {
        self.look_at_window()?;
        match piece {
            Piece::Started { prompt_tokens } => self.prompt_tokens = Some(prompt_tokens),
            Piece::Reasoning(text) => {
                self.answered.thoughts.push_str(&text);
                self.thinking.get_or_insert_with(Instant::now);
                self.view.set_status(None)?;
                self.view.think(&text)?;
            }
            Piece::Text(text) => {
                self.end_thoughts()?;
                self.answered.text.push_str(&text);
                self.view.set_status(None)?;
                self.view.text(&text)?;
            }
        }
        Ok(())
    }

    fn end_thoughts(&mut self) -> Result<()> {
        if let Some(since) = self.thinking.take() {
            self.view.set_status(None)?;
            self.view.end_thoughts(since.elapsed())?;
        }
        Ok(())
    }

    /// Nothing came for a while: the window may have changed, and the user may wonder.
    fn tick(&mut self) -> Result<()> {
        self.look_at_window()?;
        self.n_ticks += 1;
        if self.started.elapsed() < SILENCE {
            return Ok(());
        }
        let doing = if self.thinking.is_some() {
            let n = self.answered.thoughts.split_whitespace().count();
            format!("thinking, {n} words so far")
        } else if !self.answered.text.is_empty() {
            // The answer itself is the sign of life.
            return Ok(());
        } else {
            self.reading()
        };
        let sign = SPINNER[self.n_ticks % SPINNER.len()];
        self.view.set_status(Some(format!("{sign} {doing}")))?;
        Ok(())
    }

    /// How far the prompt is.
    fn reading(&self) -> String {
        let status = self.engine.provider().status();
        let done = status.prompt_tokens_total.saturating_sub(self.prompt_before);
        match self.prompt_tokens {
            Some(n) if done > 0 && done < n => format!("reading the prompt: {done} of {n} tokens"),
            Some(n) => format!("reading the prompt: {n} tokens"),
            None => "waiting".into(),
        }
    }
}

/// Counts and speeds of an answer, as Ollama tells them.
pub fn timings(answered: &Answered, n_ctx: usize) -> Option<String> {
    let usage = answered.usage?;
    let rate = |n: u64, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let computed = usage.prompt_tokens - usage.cached_tokens;
    let used = usage.prompt_tokens + usage.completion_tokens;
    let total = usage.queued + usage.prefill + usage.decode;
    Some(format!(
        "total {:.2} s; prompt: {} tokens, {} of them cached, {:.1} tokens/s; answer: {} tokens, {:.1} tokens/s; \
         context: {used} of {n_ctx} tokens; seed {}",
        total.as_secs_f64(),
        usage.prompt_tokens,
        usage.cached_tokens,
        rate(computed, usage.prefill),
        usage.completion_tokens,
        rate(usage.completion_tokens.saturating_sub(1), usage.decode),
        answered.seed,
    ))
}

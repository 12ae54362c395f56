//! The chat in the terminal: what is typed, what is answered, and how both look.
//!
//! [`editor`] reads what the user types ([`ahead`]: while an answer comes), [`commands`] tells commands from messages,
//! [`session`] obeys them and asks the engine, [`answer`] follows an answer on its way, and [`view`] shows it: text goes
//! through [`escape`], then through [`markdown`] to styled lines, which [`screen`] paints. Only the last three know what is
//! on the screen, and only [`terminal`] knows that there is one.

mod ahead;
mod answer;
mod commands;
mod editor;
mod escape;
mod images;
mod markdown;
mod parameters;
mod saved;
pub mod screen;
mod session;
mod show;
pub mod style;
pub mod terminal;
mod view;

use anyhow::Result;
use ingle_chat::{Format, ReasoningWish, Request};
use ingle_runtime::{Engine, Generation};

pub use answer::Answered;
pub use escape::{escape, escape_line};
pub use images::refuse as refuse_images;
pub use session::converse;
pub use terminal::{Look, has_colors};

use crate::settings::{Settings, Think};
use answer::Interrupt;
use view::{Appearance, Thoughts, View};

impl Appearance {
    /// As the settings say, for standard output.
    fn new(settings: &Settings) -> Self {
        let thoughts = if settings.hide_thinking { Thoughts::Hidden } else { Thoughts::Shown };
        Self { look: Look::of_stdout(), wraps: !settings.no_word_wrap, thoughts }
    }
}

impl Appearance {
    /// JSON is no Markdown: its stars and underscores mean themselves.
    fn suit(&mut self, request: &Request) {
        let is_json = matches!(request.format, Some(Format::JsonObject | Format::JsonSchema(_)));
        if self.look == Look::Rich && is_json {
            self.look = Look::Plain;
        }
    }
}

/// What is wished about thoughts. Where they are not told from the answer by their looks, they keep the model's own
/// marks.
pub fn reasoning(settings: &Settings, look: Look) -> ReasoningWish {
    let mut wish =
        ReasoningWish { in_text: look == Look::Raw && !settings.hide_thinking, ..ReasoningWish::default() };
    match &settings.think {
        None => {}
        Some(Think::Switched(enabled)) => wish.enabled = Some(*enabled),
        Some(Think::Effort(effort)) => (wish.enabled, wish.effort) = (Some(true), Some(effort.clone())),
    }
    wish
}

/// What a request takes from the settings.
///
/// # Errors
/// If one of them cannot be read.
pub fn configure(request: &mut Request, settings: &Settings) -> Result<()> {
    request.max_tokens = crate::run::max_tokens(settings)?;
    request.stop.clone_from(&settings.stop);
    request.ignore_eos = settings.ignore_eos;
    request.include_special = settings.special;
    request.sampling = crate::sampling::from_settings(settings)?;
    request.draft_max = settings.draft_max;
    request.format = crate::batch::wishes::format(settings)?;
    Ok(())
}

/// One answer on standard output, after the text that stands `before` it. `is_prose`: it is for reading, not the
/// continuation of some text.
///
/// # Errors
/// If the request is refused or fails, or nobody reads the answer.
pub fn answer_once(
    engine: &Engine,
    mut generation: Generation,
    settings: &Settings,
    before: &str,
    is_prose: bool,
) -> Result<Answered> {
    let mut appearance = Appearance::new(settings);
    appearance.suit(generation.request_mut());
    if appearance.look == Look::Rich && !is_prose {
        appearance.look = Look::Plain;
    }
    appearance.wraps &= is_prose;
    if appearance.look != Look::Raw {
        // To know of Ctrl-Z, after which the screen is not as it was.
        crate::signals::watch()?;
    }
    let stream = generation.stream()?;
    // Its first step has begun already, and no token can come before the last weights are there.
    crate::run::finish_loading(engine, settings)?;
    let mut out = std::io::stdout().lock();
    let mut view = View::new(&mut out, appearance, terminal::size());
    // Only now is it known that the request is not refused.
    if !before.is_empty() {
        view.text(before)?;
    }
    answer::show(engine, stream, &mut view, &Interrupt::default())
}

/// Counts and speeds of an answer.
pub fn timings(answered: &Answered, engine: &Engine) -> Option<String> {
    answer::timings(answered, engine.info().n_ctx)
}

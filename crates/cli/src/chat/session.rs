//! A conversation, from the first prompt to the last.

mod keep;

use std::io::Write;

use anyhow::{Context, Result, bail};
use ingle_chat::{ChatInput, Message, Role};
use ingle_runtime::{Engine, Generation, Preset};
use ingle_store::Installed;

use super::ahead::Ahead;
use super::answer::{self, Answered, Interrupt};
use super::commands::{self, Command, Topic};
use super::editor::{Editor, Typed};
use super::escape::escape;
use super::parameters::{self, PARAMETERS, Target};
use super::saved::text_of;
use super::terminal::{self, Look, NoEcho};
use super::view::{Appearance, Thoughts, View};
use super::{configure, images, reasoning, show};
use crate::run::{self, Limit, Loaded};
use crate::settings::{Settings, TABLE, Think};

/// What the context must be filled by before it is spoken of, in percent.
const CONTEXT_SHOWN: u64 = 5;
/// From where on it is a warning.
const CONTEXT_HIGH: u64 = 85;
/// How long a token is about, where a conversation cannot be counted.
const BYTES_PER_TOKEN: usize = 4;

/// Converses until the user leaves.
///
/// # Errors
/// If the terminal is gone, or a model that was there cannot be loaded again.
pub fn converse(loaded: Loaded, settings: &Settings) -> Result<()> {
    // Before lines are edited where progress is shown.
    run::finish_loading(&loaded.engine, settings)?;
    let interrupt = Interrupt::default();
    let of_signal = interrupt.clone();
    // While a line is being edited the terminal is raw and Ctrl-C is a key; this is for answers.
    let _guard = crate::signals::on_interrupt(move || {
        of_signal.raise();
    })?;
    let mut session = Session::new(loaded, settings.clone(), interrupt);
    let mut editor = Editor::new(session.appearance.look == Look::Rich, !settings.no_history)?;
    say!("{}: /? lists the commands, /bye leaves", super::escape_line(&session.engine().info().id));
    session.say_opening();
    loop {
        let line = match editor.read(&session.hint(), &mut session.ahead)? {
            Typed::End => break,
            Typed::Dropped => {
                say!("(Ctrl-D or /bye leaves)");
                continue;
            }
            Typed::Message(line) if line.trim().is_empty() => continue,
            Typed::Message(line) => line,
        };
        let done = match commands::parse(&line) {
            Some(Ok(Command::Bye)) => break,
            Some(Ok(command)) => session.obey(command, &mut editor),
            Some(Err(words)) => {
                say!("{}", escape(&words));
                continue;
            }
            None => session.ask(line),
        };
        match done {
            Ok(()) => {}
            // Nobody reads the answers any more, or nobody is there to give them.
            Err(error) if crate::outcome::is_broken_pipe(&error) || session.engine.is_none() => {
                return Err(error);
            }
            Err(error) => say!("{}", escape(&crate::outcome::in_words(&error))),
        }
        if settings.single_turn {
            break;
        }
    }
    Ok(())
}

struct Session {
    /// Only while a model takes the place of another there is none.
    engine: Option<Engine>,
    /// What the model says of each conversation; what the user says counts more.
    preset: Preset,
    /// What the store has beside the model's files.
    installed: Option<Installed>,
    /// What the user has said.
    settings: Settings,
    appearance: Appearance,
    interrupt: Interrupt,
    /// The instructions first, if there are any.
    messages: Vec<Message>,
    /// What `/set parameter` has set, in order.
    parameters: Vec<(String, String)>,
    last: Answered,
    /// Tokens of the context that the conversation has filled.
    used: u64,
    /// What was typed while answers came.
    ahead: Ahead,
}

impl Session {
    fn new(loaded: Loaded, settings: Settings, interrupt: Interrupt) -> Self {
        let appearance = Appearance::new(&settings);
        let Loaded { engine, preset, installed } = loaded;
        let (messages, parameters, last) = Default::default();
        let engine = Some(engine);
        let mut session = Self {
            engine,
            preset,
            installed,
            settings,
            appearance,
            interrupt,
            messages,
            parameters,
            last,
            used: 0,
            ahead: Ahead::default(),
        };
        session.clear();
        session
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("there is one whenever a command begins")
    }

    /// What holds.
    fn effective(&self) -> Settings {
        run::with_preset(&self.settings, &self.preset)
    }

    /// Starts over, as the model begins.
    fn clear(&mut self) {
        let system = self.effective().system.map(|text| Message::text(Role::System, text));
        self.messages = system.into_iter().chain(self.preset.messages.iter().cloned()).collect();
        self.last = Answered::default();
        self.count();
    }

    /// Says what the model brings along.
    fn say_opening(&self) {
        match self.preset.messages.len() {
            0 => {}
            1 => say!("(the model opens with a message; /show transcript shows it)"),
            n => say!("(the model opens with {n} messages; /show transcript shows them)"),
        }
    }

    /// Counts what the conversation fills, where no answer has just told it.
    fn count(&mut self) {
        self.used = match self.messages.is_empty() {
            true => 0,
            false => self.prompt_tokens(),
        };
    }

    /// Tokens of the conversation as the next question would find it.
    fn prompt_tokens(&self) -> u64 {
        let mut generation = self.generation();
        let prompt = self.engine().provider().prompt(generation.request_mut());
        let n_tokens = prompt.map(|prompt| prompt.tokens.len()).unwrap_or_else(|_| {
            // Templates refuse conversations in which nothing was asked yet.
            self.messages.iter().map(|message| text_of(message).len()).sum::<usize>() / BYTES_PER_TOKEN
        });
        n_tokens as u64
    }

    fn percent_used(&self) -> u64 {
        self.used * 100 / (self.engine().info().n_ctx as u64).max(1)
    }

    /// What stands where nothing is typed.
    fn hint(&self) -> String {
        let hint = "Send a message (/? for help)";
        match self.percent_used() {
            percent if percent >= CONTEXT_SHOWN => format!("{hint}, context {percent} % full"),
            _ => hint.to_owned(),
        }
    }

    /// Asks what the user has typed.
    fn ask(&mut self, text: String) -> Result<()> {
        images::refuse(&text, &self.engine().info().id)?;
        self.messages.push(Message::text(Role::User, text));
        let result = self.answer();
        if result.is_err() {
            // The conversation goes on without the message that could not be answered.
            self.messages.pop();
        }
        result
    }

    /// What goes on with the conversation.
    fn generation(&self) -> Generation {
        let mut wish = reasoning(&self.settings, self.appearance.look);
        if wish.enabled == Some(false) && !self.engine().info().details.has_reasoning {
            wish.enabled = None;
        }
        let input = ChatInput { messages: self.messages.clone(), reasoning: wish, ..ChatInput::default() };
        self.engine().converse(input)
    }

    /// Whether the most tokens of an answer are those of the command line, or else what a model or `/set parameter` says.
    fn limit(&self) -> Limit {
        let is_set = self.parameters.iter().any(|(name, _)| name == "num_predict");
        if self.settings.max_tokens.is_some() && !is_set { Limit::Exact } else { Limit::AtMost }
    }

    /// Answers the last message.
    fn answer(&mut self) -> Result<()> {
        let mut generation = self.generation();
        configure(generation.request_mut(), &self.effective())?;
        self.limit().apply(self.engine(), generation.request_mut());
        let mut appearance = self.appearance;
        appearance.suit(generation.request_mut());
        let stream = generation.stream()?;
        let (answered, quiet) = {
            let mut out = std::io::stdout().lock();
            let mut view = View::new(&mut out, appearance, terminal::size()).quiet();
            let answered = answer::show(self.engine(), stream, &mut view, &self.interrupt)?;
            (answered, view.into_quiet())
        };
        if answered.finish_reason.is_none() {
            // Ctrl-C drops what waits in the terminal, and so what waits here.
            self.ahead.clear();
        }
        // What follows until the next prompt stays in the terminal, key by key as well.
        self.ahead.push(&quiet.as_ref().map(NoEcho::typed).unwrap_or_default());
        if answered.text.is_empty() && answered.finish_reason.is_none() {
            bail!("nothing was answered; the question is taken back");
        }
        if self.appearance.look != Look::Raw {
            writeln!(std::io::stdout())?;
        }
        self.take_in(answered);
        if self.settings.verbose
            && let Some(timings) = answer::timings(&self.last, self.engine().info().n_ctx)
        {
            say!("{timings}");
        }
        if self.percent_used() >= CONTEXT_HIGH {
            let (used, n_ctx) = (self.used, self.engine().info().n_ctx);
            say!(
                "(the context is nearly full: {used} of {n_ctx} tokens; /clear starts over, /undo takes back)"
            );
        }
        Ok(())
    }

    /// The answer becomes a part of the conversation.
    fn take_in(&mut self, answered: Answered) {
        let mut message = Message::text(Role::Assistant, &answered.text);
        message.reasoning = Some(answered.thoughts.clone()).filter(|thoughts| !thoughts.is_empty());
        self.messages.push(message);
        self.last = answered;
        match self.last.usage {
            Some(usage) => self.used = usage.prompt_tokens + usage.completion_tokens,
            None => self.count(),
        }
    }

    fn obey(&mut self, command: Command, editor: &mut Editor) -> Result<()> {
        match command {
            Command::SetParameter(name, value) => return self.set_parameter(name, value),
            Command::ListParameters => {
                let rows = PARAMETERS.iter().map(|p| (p.name.to_owned(), p.help));
                say!("{}", commands::rows(rows, 20, terminal::size_of_stderr().0));
            }
            Command::SetSystem(text) => {
                let said = if text.as_ref().is_some_and(|text| !text.is_empty()) {
                    "instructions are set"
                } else {
                    "there are no instructions any more"
                };
                self.set_system(text);
                say!("({said})");
            }
            Command::Restart(text) => {
                self.set_system(text);
                self.clear();
                say!("(started over)");
            }
            Command::SetHistory(keeps) => {
                editor.keep_history(keeps);
                say!("(what is typed is {}kept)", if keeps { "" } else { "not " });
            }
            Command::SetWordWrap(wraps) => {
                self.appearance.wraps = wraps;
                say!("(words are {}wrapped)", if wraps { "" } else { "not " });
            }
            Command::SetFormat(format) => {
                format.as_deref().map(crate::batch::wishes::named).transpose()?;
                say!(
                    "(answers are {})",
                    format
                        .as_deref()
                        .map_or("any text".into(), |f| format!("JSON: {}", super::escape_line(f)))
                );
                self.settings.format = format;
            }
            Command::SetVerbose(verbose) => {
                self.settings.verbose = verbose;
                say!("(counts and speeds are {}told)", if verbose { "" } else { "not " });
            }
            Command::SetThink(text) => {
                self.set_think(&text)?;
                say!("(thinking: {text})");
            }
            Command::SetThoughts(thoughts) => {
                self.appearance.thoughts = thoughts;
                say!(
                    "(thoughts are {})",
                    match thoughts {
                        Thoughts::Shown => "shown",
                        Thoughts::Folded => "folded when the answer begins",
                        Thoughts::Hidden => "not shown",
                    }
                );
            }
            Command::SetMarkdown(is_rich) => {
                let look = Look::of_stdout();
                self.appearance.look = if look == Look::Rich && !is_rich { Look::Plain } else { look };
                say!(
                    "(answers are {})",
                    if self.appearance.look == Look::Rich { "rendered" } else { "shown as they are written" }
                );
            }
            Command::Show(topic) => return self.show(topic),
            Command::Load(name) => return self.load(&name),
            Command::Save(name) => return self.save(&name),
            Command::Clear => {
                self.clear();
                say!("(started over)");
                self.say_opening();
            }
            Command::Undo => self.undo()?,
            Command::Regenerate => return self.regenerate(),
            Command::Help(help) => say!("{}", help.text(terminal::size_of_stderr().0)),
            Command::Bye => {}
        }
        Ok(())
    }

    fn set_parameter(&mut self, name: String, value: String) -> Result<()> {
        let mut settings = self.settings.clone();
        match parameters::set(&mut settings, &name, &value)? {
            Target::Reload(_) => self.switch(settings)?,
            Target::NoEffect(why) => {
                say!("({name} changes no answer: {why})");
                return Ok(());
            }
            Target::Setting(_) | Target::Refused(_) => {
                // What cannot be is known at once, not at the next answer.
                run::max_tokens(&settings)?;
                self.settings = settings;
            }
        }
        say!("({name} is {})", super::escape_line(&value));
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name, value));
        Ok(())
    }

    fn set_system(&mut self, text: Option<String>) {
        self.messages.retain(|message| message.role != Role::System);
        // None at all is said by an empty text: the model may have instructions of its own.
        let text = text.unwrap_or_default();
        if !text.is_empty() {
            self.messages.insert(0, Message::text(Role::System, &text));
        }
        self.settings.system = Some(text);
        self.count();
    }

    fn set_think(&mut self, text: &str) -> Result<()> {
        let mut settings = self.settings.clone();
        let setting = TABLE.iter().find(|s| s.key == "think").expect("it is in the table");
        (setting.set)(&mut settings, text).map_err(anyhow::Error::msg)?;
        let info = self.engine().info();
        if settings.think != Some(Think::Switched(false)) && !info.details.has_reasoning {
            bail!("{} does not think: its chat template has no marks for thoughts", info.id);
        }
        self.settings = settings;
        Ok(())
    }

    /// Takes the last question and its answer back.
    fn undo(&mut self) -> Result<()> {
        let question = self.messages.iter().rposition(|message| message.role == Role::User);
        let question = question.context("there is nothing to take back")?;
        let text: String = text_of(&self.messages[question]).chars().take(60).collect();
        self.messages.truncate(question);
        self.last = Answered::default();
        self.count();
        say!("(taken back: {})", super::escape_line(&text));
        Ok(())
    }

    fn regenerate(&mut self) -> Result<()> {
        let question = self.messages.iter().rposition(|message| message.role == Role::User);
        let question = question.context("there is nothing to answer again")?;
        if self.settings.seed.0.is_some() {
            say!(
                "(with the seed that is set, the answer will be the same; /set parameter seed -1 draws one)"
            );
        }
        let before = self.messages.split_off(question + 1);
        let result = self.answer();
        if result.is_err() {
            self.messages.extend(before);
        }
        result
    }

    fn show(&self, topic: Topic) -> Result<()> {
        let (info, saved) = (self.engine().info(), self.saved());
        let n_ctx = info.n_ctx;
        let text = match topic {
            Topic::Info => show::info(info, self.installed.as_ref(), &saved),
            Topic::License => show::license(info, self.installed.as_ref()),
            Topic::Modelfile => {
                show::modelfile(self.installed.as_ref(), &saved, info.details.template.as_deref())
            }
            Topic::Parameters => show::parameters(info, self.installed.as_ref(), &saved),
            Topic::System => show::system(&saved).unwrap_or_else(|| "there are no instructions".into()),
            Topic::Template => {
                info.details.template.clone().unwrap_or_else(|| "the model has no template".into())
            }
            Topic::Context => {
                let percent = self.percent_used();
                format!("{} of {n_ctx} tokens ({percent} %), {} messages", self.used, self.messages.len())
            }
            Topic::Thoughts if self.last.thoughts.is_empty() => "there were no thoughts".into(),
            Topic::Thoughts => self.last.thoughts.clone(),
            Topic::Transcript => saved.transcript(),
        };
        let mut out = std::io::stdout().lock();
        let shown = if self.appearance.look == Look::Raw { text } else { escape(&text) };
        writeln!(out, "{}", shown.trim_end())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

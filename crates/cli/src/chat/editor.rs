//! Where messages are typed: one line or several, with a history, and with the user's own editor one key away.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ConditionalEventHandler, Event, EventContext, EventHandler, Helper, KeyCode, KeyEvent, Modifiers,
    RepeatCount,
};

use super::ahead::{Ahead, Said};
use super::commands::{COMMANDS, SETTABLE, Topic};
use super::escape::escape;
use super::parameters::PARAMETERS;

const PROMPT: &str = ">>> ";
/// What is kept of what was typed.
const HISTORY_MAX: usize = 2000;
/// The largest message that is taken from an editor.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// What begins and ends a message of several lines.
const FENCE: &str = "\"\"\"";
/// Line ends that are remembered as the user's own continuations.
const CONTINUATIONS_MAX: usize = 1000;

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    Message(String),
    /// Ctrl-C: what was typed is dropped.
    Dropped,
    /// The end of input.
    End,
}

/// The line editor.
pub struct Editor {
    lines: rustyline::Editor<Aid, FileHistory>,
    history: Option<PathBuf>,
    keeps_history: bool,
    wants_program: Arc<AtomicBool>,
}

impl Editor {
    /// An editor with colours or without.
    ///
    /// # Errors
    /// If the terminal cannot edit lines.
    pub fn new(has_colors: bool, keeps_history: bool) -> Result<Self> {
        // Where the answers go into a file or a pipe, the prompt goes to the terminal itself.
        let behavior = if std::io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let color = if has_colors { rustyline::ColorMode::Enabled } else { rustyline::ColorMode::Disabled };
        let config = rustyline::Config::builder()
            .behavior(behavior)
            .color_mode(color)
            .max_history_size(HISTORY_MAX)?
            .history_ignore_dups(true)?
            .build();
        let mut lines = rustyline::Editor::with_config(config).context("this terminal cannot edit lines")?;
        let wants_program = Arc::new(AtomicBool::new(false));
        lines.set_helper(Some(Aid {
            hint: RefCell::default(),
            continued: RefCell::default(),
            paths: FilenameCompleter::new(),
            wants_program: wants_program.clone(),
            has_colors,
        }));
        for key in [KeyEvent::ctrl('J'), KeyEvent(KeyCode::Enter, Modifiers::ALT), KeyEvent::alt('\r')] {
            lines.bind_sequence(key, Cmd::Newline);
        }
        let handler = ToProgram(wants_program.clone());
        lines.bind_sequence(KeyEvent::ctrl('G'), EventHandler::Conditional(Box::new(handler)));
        let history = history_file();
        if let Some(file) = history.as_ref().filter(|file| keeps_history && file.is_file()) {
            // An unreadable history is an empty one.
            let _ = lines.load_history(file);
        }
        Ok(Self { lines, history, keeps_history, wants_program })
    }

    /// Whether what is typed is kept for later conversations.
    pub fn keep_history(&mut self, keeps: bool) {
        self.keeps_history = keeps;
    }

    /// Lets the user type, after what was typed `ahead`; `hint` stands where nothing is typed yet.
    ///
    /// # Errors
    /// If the terminal is gone, or the user's editor cannot be run.
    pub fn read(&mut self, hint: &str, ahead: &mut Ahead) -> Result<Typed> {
        let mut begun = match ahead.take() {
            Said::Begun(text) => text,
            Said::End => {
                self.show("")?;
                return Ok(Typed::End);
            }
            Said::Line(line, continued) => {
                self.show(&line)?;
                self.remember(&line);
                return Ok(Typed::Message(message(&line, &continued)));
            }
        };
        loop {
            if let Some(aid) = self.lines.helper() {
                *aid.hint.borrow_mut() = hint.to_owned();
                aid.continued.borrow_mut().clear();
            }
            self.wants_program.store(false, Ordering::Relaxed);
            let line = match self.lines.readline_with_initial(PROMPT, (&begun, "")) {
                Ok(line) => line,
                Err(ReadlineError::Eof) => return Ok(Typed::End),
                Err(ReadlineError::Interrupted) => return Ok(Typed::Dropped),
                Err(error) => return Err(error.into()),
            };
            if self.wants_program.swap(false, Ordering::Relaxed) {
                match in_program(&line) {
                    Ok(text) => begun = text,
                    Err(error) => {
                        say!("{}", crate::outcome::in_words(&error));
                        begun = line;
                    }
                }
                continue;
            }
            self.remember(&line);
            let continued = self.lines.helper().map(|aid| aid.continued.borrow().clone()).unwrap_or_default();
            return Ok(Typed::Message(message(&line, &continued)));
        }
    }

    /// A line that needs no editing, as it looks where it was edited.
    fn show(&self, line: &str) -> Result<()> {
        let has_colors = self.lines.helper().is_some_and(|aid| aid.has_colors);
        let prompt = if has_colors { format!("\x1b[1m{PROMPT}\x1b[0m") } else { PROMPT.to_owned() };
        Ok(writeln!(std::io::stderr(), "{prompt}{}", escape(line))?)
    }

    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        // Ctrl-P finds it in this conversation in any case.
        let is_new = self.lines.add_history_entry(line).unwrap_or(false);
        let Some(file) = self.history.as_ref().filter(|_| self.keeps_history && is_new) else { return };
        // That it cannot be kept is no reason to stop a conversation.
        if let Some(folder) = file.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = self.lines.append_history(file);
    }
}

/// Where what was typed is kept: the folder for the state of programs.
fn history_file() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        var("LOCALAPPDATA")
    } else {
        var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local").join("state")))
    };
    Some(base?.join("ingle").join("history"))
}

/// A message as it is meant: without the marks around several lines, and without the backslashes with which the user
/// went on in the next line. Other backslashes at line ends, as pasted scripts have them, stay.
fn message(typed: &str, continued: &[String]) -> String {
    let mut text = typed.to_owned();
    // The last one first, so that the places of those before stay.
    for start in continued.iter().rev() {
        if typed.strip_prefix(start.as_str()).is_some_and(|rest| rest.starts_with('\n')) {
            text.replace_range(start.len() - 1..start.len(), "");
        }
    }
    let trimmed = text.trim();
    match trimmed.strip_prefix(FENCE) {
        Some(inner) => inner.strip_suffix(FENCE).unwrap_or(inner).trim_matches('\n').to_owned(),
        None => text,
    }
}

/// Whether more lines have to follow.
pub(super) fn is_incomplete(text: &str) -> bool {
    let trimmed = text.trim_start();
    let is_fenced = trimmed.starts_with(FENCE)
        || trimmed.starts_with("/set system \"\"\"")
        || trimmed.starts_with("/system \"\"\"");
    is_fenced && trimmed.matches(FENCE).count() % 2 == 1
}

/// A message, written in the editor of the user's choice.
fn in_program(begun: &str) -> Result<String> {
    let chosen = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.trim().is_empty()));
    let command = chosen.unwrap_or_else(|| if cfg!(windows) { "notepad".into() } else { "vi".into() });
    let mut words = command.split_whitespace();
    let program = words.next().context("EDITOR names no program")?;
    let file = Draft::new(begun)?;
    let status = std::process::Command::new(program).args(words).arg(&file.0).status();
    let status = status.with_context(|| format!("cannot run the editor `{command}` (EDITOR says which)"))?;
    if !status.success() {
        bail!("the editor `{command}` ended with {status}; the message is as it was");
    }
    let name = file.0.display().to_string();
    let text = crate::run::read_text(std::fs::File::open(&file.0)?, &name, MESSAGE_BYTES_MAX)?;
    Ok(text.trim_end().to_owned())
}

/// A file for one message, which nobody else can read, and which goes with this value.
struct Draft(PathBuf);

impl Draft {
    fn new(text: &str) -> Result<Self> {
        let unique =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = std::env::temp_dir().join(format!("ingle-{}-{unique}.md", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let draft = Self(path);
        file.write_all(text.as_bytes())?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What is left of it is in the folder for what may be left.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Ctrl-G: the line goes to the user's editor.
struct ToProgram(Arc<AtomicBool>);

impl ConditionalEventHandler for ToProgram {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, _: &EventContext<'_>) -> Option<Cmd> {
        self.0.store(true, Ordering::Relaxed);
        Some(Cmd::AcceptLine)
    }
}

/// What helps while typing.
struct Aid {
    hint: RefCell<String>,
    /// What was typed each time a backslash at the end went on in the next line, backslash included.
    continued: RefCell<Vec<String>>,
    paths: FilenameCompleter,
    wants_program: Arc<AtomicBool>,
    has_colors: bool,
}

impl Helper for Aid {}

impl Validator for Aid {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input();
        if self.wants_program.load(Ordering::Relaxed) {
            return Ok(ValidationResult::Valid(None));
        }
        if text.ends_with('\\') {
            let mut continued = self.continued.borrow_mut();
            if continued.len() < CONTINUATIONS_MAX {
                continued.push(text.to_owned());
            }
            return Ok(ValidationResult::Incomplete);
        }
        Ok(if is_incomplete(text) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

/// Text that stands where nothing is typed, and that no key takes over.
struct Placeholder(String);

impl Hint for Placeholder {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Aid {
    type Hint = Placeholder;

    fn hint(&self, line: &str, _: usize, _: &rustyline::Context<'_>) -> Option<Placeholder> {
        // Without colours it would look as if somebody had typed it.
        (line.is_empty() && self.has_colors).then(|| Placeholder(self.hint.borrow().clone()))
    }
}

impl Highlighter for Aid {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        if self.has_colors { Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m")) } else { Cow::Borrowed(prompt) }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }
}

impl Completer for Aid {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        if ["/load ", "/save ", "/set format "].iter().any(|command| typed.starts_with(command)) {
            return self.paths.complete_path(line, pos);
        }
        Ok(complete_command(typed))
    }
}

/// The commands that go on from what is typed, and where the word begins that they complete.
fn complete_command(typed: &str) -> (usize, Vec<Pair>) {
    if !typed.starts_with('/') {
        return (typed.len(), Vec::new());
    }
    let start = typed.rfind(' ').map_or(0, |at| at + 1);
    let before: Vec<&str> = typed[..start].split_whitespace().collect();
    let words: Vec<&str> = match before[..] {
        [] => COMMANDS.iter().map(|(name, _)| *name).collect(),
        ["/set"] => SETTABLE.iter().map(|(name, _)| *name).collect(),
        ["/set", "parameter"] => PARAMETERS.iter().map(|p| p.name).collect(),
        ["/set", "thoughts"] => vec!["show", "fold", "hide"],
        ["/set", "think"] => vec!["low", "medium", "high", "max"],
        ["/show"] => Topic::ALL.iter().map(|(name, ..)| *name).collect(),
        ["/?" | "/help"] => vec!["set", "show", "shortcuts"],
        _ => Vec::new(),
    };
    let word = &typed[start..];
    let pair = |name: &str| Pair { display: name.to_owned(), replacement: format!("{name} ") };
    (start, words.into_iter().filter(|name| name.starts_with(word)).map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_make_one_message() {
        let check = |typed: &str, continued: &[&str], expected: &str| {
            let continued: Vec<String> = continued.iter().map(|&s| s.to_owned()).collect();
            assert_eq!(message(typed, &continued), expected);
        };
        check("one line", &[], "one line");
        check("\"\"\"two\nlines\"\"\"", &[], "two\nlines");
        check("\"\"\"\n  two\nlines\n\"\"\"", &[], "  two\nlines");
        check("one\\\ntwo\\\nthree", &["one\\", "one\\\ntwo\\"], "one\ntwo\nthree");
        check("ls \\\n  -l", &[], "ls \\\n  -l");
        check("one\\\nls \\\n -l", &["one\\"], "one\nls \\\n -l");
        for (text, expected) in [
            ("x", false),
            ("\"\"\"", true),
            ("\"\"\"a\nb", true),
            ("\"\"\"a\"\"\"", false),
            ("say \"\"\"", false),
            ("/set system \"\"\"a", true),
            ("/set system \"\"\"a\"\"\"", false),
        ] {
            assert_eq!(is_incomplete(text), expected, "{text}");
        }
    }

    #[test]
    fn commands_are_completed() {
        let check = |typed: &str, expected: &[&str]| {
            let found: Vec<String> = complete_command(typed).1.into_iter().map(|pair| pair.display).collect();
            assert_eq!(found, expected, "{typed}");
        };
        check("/s", &["/set", "/show", "/save", "/system"]);
        check("/set no", &["nohistory", "nowordwrap", "noformat", "nothink", "nomarkdown"]);
        check("/set parameter num_c", &["num_ctx"]);
        check("/show t", &["template", "thoughts", "transcript"]);
        check("hello /s", &[]);
        assert_eq!(complete_command("/set verb").0, 5);
    }

    #[cfg(unix)]
    #[test]
    fn drafts_are_private_and_go() {
        use std::os::unix::fs::PermissionsExt;
        let draft = Draft::new("text").expect("written");
        let path = draft.0.clone();
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        drop(draft);
        assert!(!path.exists());
    }
}

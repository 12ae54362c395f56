//! The commands that begin with a slash.

use super::markdown::wrap;
use super::style::{Line, Span, Style};
use super::view::Thoughts;

/// The fewest columns for text beside names.
const TEXT_COLUMNS_MIN: usize = 24;

/// What a line that begins with a slash asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    SetParameter(String, String),
    ListParameters,
    /// Instructions; none takes them away.
    SetSystem(Option<String>),
    /// The same, and the conversation starts over.
    Restart(Option<String>),
    SetHistory(bool),
    SetWordWrap(bool),
    /// A format as `--format` takes it; none is any text.
    SetFormat(Option<String>),
    SetVerbose(bool),
    /// Whether, or how hard, the model thinks.
    SetThink(String),
    SetThoughts(Thoughts),
    SetMarkdown(bool),
    Show(Topic),
    Load(String),
    Save(String),
    Clear,
    Undo,
    Regenerate,
    Bye,
    Help(Help),
}

/// What `/show` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    Info,
    License,
    Modelfile,
    Parameters,
    System,
    Template,
    Context,
    Thoughts,
    Transcript,
}

/// The pages of help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    Commands,
    Set,
    Show,
    Shortcuts,
}

impl Topic {
    pub const ALL: [(&'static str, Self, &'static str); 9] = [
        ("info", Self::Info, "the model: architecture, size, context, capabilities"),
        ("license", Self::License, "its licence"),
        ("modelfile", Self::Modelfile, "all of this as a Modelfile"),
        ("parameters", Self::Parameters, "what was set, and the model's own"),
        ("system", Self::System, "the instructions"),
        ("template", Self::Template, "the chat template"),
        ("context", Self::Context, "how full the context is"),
        ("thoughts", Self::Thoughts, "what the model thought last"),
        ("transcript", Self::Transcript, "the conversation"),
    ];
}

/// What `/set` sets, with help.
pub const SETTABLE: [(&str, &str); 15] = [
    ("parameter", "NAME VALUE: how tokens are picked; alone it lists the names"),
    ("system", "TEXT: instructions; alone it takes them away"),
    ("history", "keep what is typed for later conversations"),
    ("nohistory", "do not"),
    ("wordwrap", "break lines at the window's width"),
    ("nowordwrap", "leave lines as long as they are"),
    ("format", "json, or the file of a schema: what answers are"),
    ("noformat", "any text"),
    ("verbose", "tell counts and speeds after each answer"),
    ("quiet", "do not"),
    ("think", "[low|medium|high|max]: think before answering"),
    ("nothink", "do not"),
    ("thoughts", "show, fold or hide: what is seen of them"),
    ("markdown", "render answers"),
    ("nomarkdown", "show them as they are written"),
];

/// All commands, with help.
pub const COMMANDS: [(&str, &str); 12] = [
    ("/set", "Set what holds in this conversation (/? set)"),
    ("/show", "Show the model and the conversation (/? show)"),
    ("/load", "MODEL: go on with another model, or with a file of /save"),
    ("/save", "NAME: make a model of this; chat.json, chat.md: a file"),
    ("/clear", "Start over"),
    ("/undo", "Take the last question and its answer back"),
    ("/regenerate", "Answer the last question again"),
    ("/system", "TEXT: start over with these instructions"),
    ("/bye", "Leave (so do /exit and Ctrl-D)"),
    ("/exit", "Leave"),
    ("/?", "This; /? shortcuts lists the keys (so does /help)"),
    ("/help", "This"),
];

/// Reads a line. `None`: it is a message, which may begin with a path.
///
/// # Errors
/// If it is a command that does not exist or is not complete, in words.
pub fn parse(line: &str) -> Option<Result<Command, String>> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if !word.starts_with('/') || word[1..].contains('/') {
        return None;
    }
    let rest = rest.trim();
    let alone = |command: Command| match rest {
        "" => Ok(command),
        _ => Err(format!("{word} takes nothing behind it")),
    };
    let one = |what: &str, make: fn(String) -> Command| match rest {
        "" => Err(format!("{word} wants {what} behind it")),
        _ => Ok(make(rest.to_owned())),
    };
    Some(match word {
        "/set" => set(rest),
        "/show" => show(rest),
        "/load" => one("a model, or a file of /save,", Command::Load),
        "/save" => one("a name, or a file such as chat.json,", Command::Save),
        "/clear" => alone(Command::Clear),
        "/undo" => alone(Command::Undo),
        "/regenerate" | "/retry" => alone(Command::Regenerate),
        "/system" => Ok(Command::Restart(text(rest))),
        "/bye" | "/exit" | "/quit" => alone(Command::Bye),
        "/?" | "/help" => match rest.trim_start_matches('/') {
            "" => Ok(Command::Help(Help::Commands)),
            "set" => Ok(Command::Help(Help::Set)),
            "show" => Ok(Command::Help(Help::Show)),
            "shortcut" | "shortcuts" => Ok(Command::Help(Help::Shortcuts)),
            other => Err(format!("there is no help on `{other}`; there is on set, show and shortcuts")),
        },
        _ => Err(format!("there is no command `{word}`; /? lists them")),
    })
}

/// Text, perhaps in quotes of one or three; none if it is empty.
fn text(rest: &str) -> Option<String> {
    let inner = ["\"\"\"", "\""].into_iter().find_map(|quote| rest.strip_prefix(quote)?.strip_suffix(quote));
    Some(inner.unwrap_or(rest).trim().to_owned()).filter(|text| !text.is_empty())
}

fn set(rest: &str) -> Result<Command, String> {
    let (what, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    let alone = |command: Command| match value {
        "" => Ok(command),
        _ => Err(format!("/set {what} takes nothing behind it")),
    };
    match what {
        "" => Ok(Command::Help(Help::Set)),
        "parameter" => match value.split_once(char::is_whitespace) {
            Some((name, value)) => Ok(Command::SetParameter(name.to_owned(), value.trim().to_owned())),
            None if value.is_empty() => Ok(Command::ListParameters),
            None => Err(format!("/set parameter {value} wants a value behind it")),
        },
        "system" => Ok(Command::SetSystem(text(value))),
        "history" => alone(Command::SetHistory(true)),
        "nohistory" => alone(Command::SetHistory(false)),
        "wordwrap" => alone(Command::SetWordWrap(true)),
        "nowordwrap" => alone(Command::SetWordWrap(false)),
        "format" if value.is_empty() => {
            Err("/set format wants `json`, or the file of a schema, behind it".into())
        }
        "format" => Ok(Command::SetFormat(Some(value.to_owned()))),
        "noformat" => alone(Command::SetFormat(None)),
        "verbose" => alone(Command::SetVerbose(true)),
        "quiet" => alone(Command::SetVerbose(false)),
        "think" if value.is_empty() => Ok(Command::SetThink("true".into())),
        "think" => Ok(Command::SetThink(value.to_owned())),
        "nothink" => alone(Command::SetThink("false".into())),
        "thoughts" => match value {
            "show" => Ok(Command::SetThoughts(Thoughts::Shown)),
            "fold" => Ok(Command::SetThoughts(Thoughts::Folded)),
            "hide" => Ok(Command::SetThoughts(Thoughts::Hidden)),
            _ => Err("/set thoughts wants show, fold or hide behind it".into()),
        },
        "markdown" => alone(Command::SetMarkdown(true)),
        "nomarkdown" => alone(Command::SetMarkdown(false)),
        other => Err(format!("there is nothing to set called `{other}`; /? set lists what there is")),
    }
}

fn show(rest: &str) -> Result<Command, String> {
    if rest.is_empty() {
        return Ok(Command::Help(Help::Show));
    }
    let found = Topic::ALL.into_iter().find(|(name, ..)| *name == rest);
    found.map(|(_, topic, _)| Command::Show(topic)).ok_or_else(|| {
        let names: Vec<&str> = Topic::ALL.iter().map(|(name, ..)| *name).collect();
        format!("there is no `{rest}` to show; there are {}", names.join(", "))
    })
}

impl Help {
    /// The page, for a window of so many columns.
    pub fn text(self, columns: usize) -> String {
        let page = |head: &str, names: &[(&str, &'static str)], before: &str| {
            let names = names.iter().map(|&(name, help)| (format!("{before}{name}"), help));
            format!("{head}\n{}", rows(names, 19, columns))
        };
        match self {
            Self::Commands => {
                let fences = "\"\"\" begins a message of several lines, and ends it.";
                format!("{}\n\n{}", page("Commands:", &COMMANDS, ""), wrapped(fences, columns).join("\n"))
            }
            Self::Set => page("What can be set:", &SETTABLE, "/set "),
            Self::Show => {
                let topics = Topic::ALL.map(|(name, _, help)| (name, help));
                page("What can be shown:", &topics, "/show ")
            }
            Self::Shortcuts => page("Keys:", &SHORTCUTS, ""),
        }
    }
}

/// A table of names, which take so many columns with the blanks behind them, and of what is said about each. Where the
/// window leaves little room beside the names, it stands below them.
pub fn rows(
    rows: impl Iterator<Item = (String, &'static str)>,
    name_columns: usize,
    columns: usize,
) -> String {
    let beside = 2 + name_columns;
    let is_beside = columns >= beside + TEXT_COLUMNS_MIN;
    let indent = if is_beside { beside } else { 4 };
    let mut lines = Vec::new();
    for (name, text) in rows {
        let mut name = format!("  {name:name_columns$}");
        if !is_beside || name.chars().count() > beside {
            lines.push(name.trim_end().to_owned());
            name = String::new();
        }
        for (i, line) in wrapped(text, columns.saturating_sub(indent)).into_iter().enumerate() {
            let before = if i == 0 { name.as_str() } else { "" };
            lines.push(format!("{before:indent$}{line}"));
        }
    }
    lines.join("\n")
}

/// Text in lines that end between words.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    wrap(&[Span::new(text, Style::PLAIN)], columns).iter().map(Line::text).collect()
}

const SHORTCUTS: [(&str, &str); 15] = [
    ("Enter", "send the message"),
    ("Ctrl-J, Alt-Enter", "go on in a new line"),
    ("Ctrl-C", "stop the answer and keep it; at the prompt, drop the line"),
    ("Ctrl-D", "leave (on an empty line)"),
    ("Ctrl-G", "write the message in $EDITOR"),
    ("Ctrl-R", "search what was typed before"),
    ("Up, Down", "what was typed before"),
    ("Tab", "complete a command or a path"),
    ("Ctrl-A, Ctrl-E", "to the beginning, to the end"),
    ("Alt-B, Alt-F", "a word back, a word on"),
    ("Ctrl-K, Ctrl-U", "delete to the end, to the beginning"),
    ("Ctrl-W", "delete the word before"),
    ("Ctrl-Y", "put back what was deleted"),
    ("Ctrl-L", "clear the screen"),
    ("Ctrl-_", "take the last change back"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        let check = |line: &str, expected: Command| assert_eq!(parse(line), Some(Ok(expected)), "{line}");
        check("/set parameter temperature 0.5", Command::SetParameter("temperature".into(), "0.5".into()));
        check("/set parameter stop a b", Command::SetParameter("stop".into(), "a b".into()));
        check("/set parameter", Command::ListParameters);
        check("/set system Be brief.", Command::SetSystem(Some("Be brief.".into())));
        check("/set system \"\"\"Two\nlines\"\"\"", Command::SetSystem(Some("Two\nlines".into())));
        check("/set system", Command::SetSystem(None));
        check("/system Anew.", Command::Restart(Some("Anew.".into())));
        check("/set nohistory", Command::SetHistory(false));
        check("/set wordwrap", Command::SetWordWrap(true));
        check("/set format json", Command::SetFormat(Some("json".into())));
        check("/set noformat", Command::SetFormat(None));
        check("/set verbose", Command::SetVerbose(true));
        check("/set quiet", Command::SetVerbose(false));
        check("/set think", Command::SetThink("true".into()));
        check("/set think high", Command::SetThink("high".into()));
        check("/set nothink", Command::SetThink("false".into()));
        check("/set thoughts fold", Command::SetThoughts(Thoughts::Folded));
        check("/set", Command::Help(Help::Set));
        check("/show", Command::Help(Help::Show));
        for (name, topic, _) in Topic::ALL {
            check(&format!("/show {name}"), Command::Show(topic));
        }
        check(" /load a b.gguf ", Command::Load("a b.gguf".into()));
        check("/save x", Command::Save("x".into()));
        check("/clear", Command::Clear);
        check("/bye", Command::Bye);
        check("/exit", Command::Bye);
        check("/?", Command::Help(Help::Commands));
        check("/help", Command::Help(Help::Commands));
        check("/? shortcuts", Command::Help(Help::Shortcuts));
        check("/help set", Command::Help(Help::Set));
        check("/regenerate", Command::Regenerate);
        check("/undo", Command::Undo);
        for message in ["hello", "/etc/passwd, what is this?", "//", "what does /bye do?"] {
            assert_eq!(parse(message), None, "{message}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, words) in [
            ("/nonsense", "there is no command `/nonsense`"),
            ("/set nonsense", "`nonsense`"),
            ("/set parameter temperature", "wants a value"),
            ("/set format", "json"),
            ("/set quiet please", "takes nothing"),
            ("/set thoughts", "show, fold or hide"),
            ("/show everything", "info, license"),
            ("/load", "a model"),
            ("/save", "a name"),
            ("/clear all", "takes nothing"),
            ("/? cooking", "set, show and shortcuts"),
            ("/", "there is no command `/`"),
        ] {
            let error = parse(line).expect("a command").expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    /// Help and parser know the same commands.
    #[test]
    fn help_names_what_there_is() {
        for (name, _) in COMMANDS {
            let found = parse(name).expect("a command");
            assert!(!matches!(&found, Err(error) if error.contains("there is no command")), "{name}");
        }
        for (name, _) in SETTABLE {
            let found = parse(&format!("/set {name}")).expect("a command");
            assert!(!matches!(&found, Err(error) if error.contains("nothing to set")), "{name}");
        }
        for page in [Help::Commands, Help::Set, Help::Show, Help::Shortcuts] {
            assert_eq!(page.text(80), page.text(1000), "nothing is broken at 80 columns");
        }
    }

    /// However narrow the window: lines fit, and end between words.
    #[test]
    fn pages_are_broken_between_words() {
        for columns in [20, 30, 40, 60, 80] {
            for page in [Help::Commands, Help::Set, Help::Show, Help::Shortcuts] {
                let text = page.text(columns);
                let whole = page.text(1000);
                assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}: {text}");
                // The longest word has 22 columns.
                let has_words = text.split_whitespace().eq(whole.split_whitespace());
                assert!(has_words || columns < 26, "{columns}: {text}");
            }
        }
        let names =
            || [("top_k".to_owned(), "keep the best"), ("top_p".to_owned(), "keep a set")].into_iter();
        assert_eq!(rows(names(), 8, 80), "  top_k   keep the best\n  top_p   keep a set");
        assert_eq!(rows(names(), 8, 34), "  top_k   keep the best\n  top_p   keep a set");
        assert_eq!(rows(names(), 8, 33), "  top_k\n    keep the best\n  top_p\n    keep a set");
        assert_eq!(rows(names(), 8, 16), "  top_k\n    keep the\n    best\n  top_p\n    keep a set");
    }
}

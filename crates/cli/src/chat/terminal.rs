//! What is known of the terminal, and how it is kept in order while an answer comes.

use std::io::IsTerminal;

/// Where answers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// To a file or a pipe: the text as it is, byte for byte.
    Raw,
    /// To a terminal, as plain text.
    Plain,
    /// To a terminal, with its Markdown.
    Rich,
}

impl Look {
    /// How answers of a conversation look on standard output.
    pub fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Raw;
        }
        // https://no-color.org: present and not empty.
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if is_set("NO_COLOR") || is_dumb { Self::Plain } else { Self::Rich }
    }
}

/// Columns and rows of the window.
pub fn size() -> (usize, usize) {
    let known = terminal_size::terminal_size_of(std::io::stdout())
        .map(|(columns, rows)| (usize::from(columns.0), usize::from(rows.0)));
    let said = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let (columns, rows) =
        known.unwrap_or_else(|| (said("COLUMNS").unwrap_or(80), said("LINES").unwrap_or(24)));
    // A pseudo terminal that nobody has given a size has none.
    (if columns == 0 { 80 } else { columns }, if rows == 0 { 24 } else { rows })
}

/// While it lives, what is typed does not appear among the answer; it waits for the next prompt. Ctrl-C still works.
pub struct NoEcho {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl NoEcho {
    pub fn new() -> Self {
        #[cfg(unix)]
        {
            use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
            let stdin = std::io::stdin();
            let before = if stdin.is_terminal() { tcgetattr(&stdin).ok() } else { None };
            if let Some(before) = &before {
                let mut quiet = before.clone();
                quiet.local_modes -= LocalModes::ECHO;
                // A terminal that does not do it shows what is typed, and nothing is lost.
                let _ = tcsetattr(&stdin, OptionalActions::Now, &quiet);
            }
            Self { before }
        }
        #[cfg(not(unix))]
        Self {}
    }
}

#[cfg(unix)]
impl Drop for NoEcho {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

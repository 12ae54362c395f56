//! What is known of the terminal, and how it is kept in order while an answer comes.

use std::io::IsTerminal;

/// Where answers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// To a file or a pipe: the text as it is, byte for byte.
    Raw,
    /// To a terminal that knows no more than lines of text: they come as they are, and nothing is painted over.
    Lines,
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
        match (is_dumb(), has_colors()) {
            (true, _) => Self::Lines,
            (false, true) => Self::Rich,
            (false, false) => Self::Plain,
        }
    }
}

/// Whether colours are wanted (<https://no-color.org>: the variable is present and not empty).
pub fn has_colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether the terminal knows no more than lines of text.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}

/// Columns and rows of the window that answers go to.
pub fn size() -> (usize, usize) {
    size_of(terminal_size::terminal_size_of(std::io::stdout()))
}

/// Columns and rows of the window that everything else goes to.
pub fn size_of_stderr() -> (usize, usize) {
    size_of(terminal_size::terminal_size_of(std::io::stderr()))
}

fn size_of(known: Option<(terminal_size::Width, terminal_size::Height)>) -> (usize, usize) {
    let known = known.map(|(columns, rows)| (usize::from(columns.0), usize::from(rows.0)));
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
            let stdin = std::io::stdin();
            // Whoever changes the terminal from the background is stopped by it.
            let is_ours =
                rustix::termios::tcgetpgrp(&stdin).is_ok_and(|ours| ours == rustix::process::getpgrp());
            let before = if is_ours { rustix::termios::tcgetattr(&stdin).ok() } else { None };
            let quiet = Self { before };
            quiet.again();
            quiet
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Once more: after Ctrl-Z shells have the terminal as they like it.
    pub fn again(&self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            use rustix::termios::{LocalModes, OptionalActions, tcsetattr};
            let mut quiet = before.clone();
            quiet.local_modes -= LocalModes::ECHO;
            // A terminal that does not do it shows what is typed, and nothing is lost.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &quiet);
        }
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

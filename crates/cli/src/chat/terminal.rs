//! What is known of the terminal, and how it is kept in order while an answer comes.

use std::io::IsTerminal;

#[cfg(unix)]
use super::ahead::is_unfinished;

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

/// What begins and ends that the terminal marks what is pasted.
#[cfg(unix)]
const PASTES_ARE_MARKED: (&[u8], &[u8]) = (b"\x1b[?2004h", b"\x1b[?2004l");

/// Most that is taken of what was typed ahead; the terminal keeps the rest.
#[cfg(unix)]
const TYPED_BYTES_MAX: usize = 16 << 20;
/// How often, and how long each time, the rest of a paste or of a key is waited for.
#[cfg(unix)]
const PATIENCE_READS: usize = 50;
#[cfg(unix)]
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(10);

/// While it lives, what is typed does not appear among the answer; it waits for the next prompt, key by key as the line
/// editor wants it: Enter stays Enter, and what is pasted is marked as such. Ctrl-C still works.
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

    /// What was typed meanwhile, as far as it waits in the terminal.
    #[cfg(unix)]
    pub fn typed(&self) -> Vec<u8> {
        let mut typed = Vec::new();
        // Where the terminal does not do it, reading would wait.
        if edits_lines() && self.set(0) {
            let mut left = PATIENCE_READS;
            let mut bytes = [0; 4096];
            while typed.len() < TYPED_BYTES_MAX {
                match rustix::io::read(std::io::stdin(), &mut bytes) {
                    Ok(n) if n > 0 => {
                        typed.extend_from_slice(&bytes[..n]);
                        left = PATIENCE_READS;
                    }
                    // Nothing waits, or nobody is there any more.
                    _ if left == 0 || !is_unfinished(&typed) => break,
                    _ => {
                        left -= 1;
                        std::thread::sleep(PATIENCE);
                    }
                }
            }
            self.set(1);
        }
        typed
    }

    #[cfg(not(unix))]
    pub fn typed(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Once more: after Ctrl-Z shells have the terminal as they like it.
    pub fn again(&self) {
        #[cfg(unix)]
        let _ = self.set(1);
    }

    /// Whoever reads waits for so many bytes: none only as long as this reads by itself. Whether the terminal does it.
    #[cfg(unix)]
    fn set(&self, bytes_awaited: u8) -> bool {
        self.before.as_ref().is_some_and(|before| {
            use rustix::termios::{InputModes, LocalModes, OptionalActions, SpecialCodeIndex, tcsetattr};
            let mut quiet = before.clone();
            quiet.local_modes -= LocalModes::ECHO;
            if edits_lines() {
                quiet.local_modes -= LocalModes::ICANON | LocalModes::IEXTEN;
                quiet.input_modes -= InputModes::ICRNL;
                quiet.special_codes[SpecialCodeIndex::VMIN] = bytes_awaited;
                quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
                mark_pastes(PASTES_ARE_MARKED.0);
            }
            // A terminal that does not do it shows what is typed, and nothing is lost.
            tcsetattr(std::io::stdin(), OptionalActions::Now, &quiet).is_ok()
        })
    }
}

/// Whether lines are edited key by key. On other terminals the line editor reads whole lines, as the system gives them.
#[cfg(unix)]
fn edits_lines() -> bool {
    !std::env::var("TERM").is_ok_and(|term| ["dumb", "cons25", "emacs"].contains(&term.as_str()))
}

/// Tells the terminal itself: answers may go to a file.
#[cfg(unix)]
fn mark_pastes(sequence: &[u8]) {
    if let Ok(mut terminal) = std::fs::OpenOptions::new().write(true).open("/dev/tty") {
        // Without it several lines that are pasted meanwhile are several messages.
        let _ = std::io::Write::write_all(&mut terminal, sequence);
    }
}

#[cfg(unix)]
impl Drop for NoEcho {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
            if edits_lines() {
                mark_pastes(PASTES_ARE_MARKED.1);
            }
        }
    }
}

//! The lines below the last prompt that change while something is on its way.
//!
//! Whoever works only says how far it is; a thread paints, ten times a second and without a lock, so that a terminal that
//! takes nothing (Ctrl-S) holds nobody up, and so that a window's new size and what came to stand below us meanwhile
//! (Ctrl-Z) are seen while nothing moves.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bars::{Count, Transfer};
use crate::chat::screen::Screen;
use crate::chat::style::{Line, Style, shortened, width};
use crate::chat::terminal::NoEcho;
use crate::chat::{escape_line, terminal};
use crate::signals;

/// How often it is painted.
const TICK: Duration = Duration::from_millis(100);
/// How long the last painting is waited for when Ctrl-C ends the program.
const PATIENCE: Duration = Duration::from_millis(500);

/// A line that may change, or one that will not.
#[derive(Clone, Debug)]
pub enum Item {
    /// Words.
    Text(String),
    /// Bytes on their way, under this name.
    Transfer(Transfer),
    /// What is counted.
    Count(Count),
}

impl Item {
    fn is_settled(&self) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Transfer(transfer) => transfer.is_over(),
            Self::Count(_) => false,
        }
    }

    fn line(&self, longest: usize, columns: usize) -> Line {
        match self {
            Self::Text(text) => {
                Line::new(shortened(&escape_line(text), columns.saturating_sub(1)), Style::PLAIN)
            }
            Self::Transfer(transfer) => transfer.line(longest, columns),
            Self::Count(count) => count.line(columns),
        }
    }
}

/// What becomes of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// They stay.
    Kept,
    /// They go.
    Wiped,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    end: Option<End>,
    is_painted: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something about the end has changed.
    ends: Condvar,
    /// What is typed would move the cursor, and so would the signs for Ctrl-C.
    quiet: Mutex<Option<NoEcho>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_type(&self) {
        drop(self.quiet.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.ends.notify_all();
    }

    /// The lines stay, the cursor stands below them, and the program ends with these words.
    fn leave(&self, words: &str) {
        self.end(End::Kept);
        let state = self.lock();
        let waited = self.ends.wait_timeout_while(state, PATIENCE, |state| !state.is_painted);
        drop(waited);
        self.let_type();
        say!("{words}");
        std::process::exit(signals::STOPPED.into());
    }
}

/// The lines. They go when this is dropped.
pub struct Live {
    shared: Arc<Shared>,
    painter: Option<JoinHandle<()>>,
    _guard: Option<signals::Guard>,
}

impl Live {
    /// No line yet. Where nobody else answers Ctrl-C, it ends the program with these words.
    pub fn start(on_interrupt: &str) -> Self {
        let quiet = Mutex::new(Some(NoEcho::new()));
        let shared = Arc::new(Shared { quiet, ..Shared::default() });
        let (of_signal, words) = (shared.clone(), on_interrupt.to_owned());
        // Without it, Ctrl-C ends the program all the same.
        let guard = signals::on_interrupt_if_nobody(move || of_signal.leave(&words)).ok().flatten();
        let painted = shared.clone();
        let painter = std::thread::Builder::new().name("progress".into()).spawn(move || paint(&painted));
        // Without the thread nothing is shown, and the work goes on.
        Self { shared, painter: painter.ok(), _guard: guard }
    }

    /// Words below all that is there.
    pub fn say(&self, text: &str) {
        self.shared.lock().items.push(Item::Text(text.to_owned()));
    }

    /// How far something is: in the line of this name, or a new one.
    pub fn transfer(&self, transfer: Transfer) {
        let mut state = self.shared.lock();
        let known = state.items.iter_mut().find_map(|item| match item {
            Item::Transfer(known) if known.name == transfer.name => Some(known),
            _ => None,
        });
        match known {
            Some(known) => *known = transfer,
            None => state.items.push(Item::Transfer(transfer)),
        }
    }

    /// How far counting is: there is one such line.
    pub fn count(&self, count: Count) {
        self.shared.lock().items = vec![Item::Count(count)];
    }

    /// Lets the lines stand as they are.
    pub fn keep(self) {
        self.shared.end(End::Kept);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.end(End::Wiped);
        if let Some(painter) = self.painter.take() {
            // A painter that panicked has said so.
            let _ = painter.join();
        }
        self.shared.let_type();
    }
}

fn paint(shared: &Shared) {
    let (columns, rows) = terminal::size_of_stderr();
    let mut window = Window::new(columns, rows, terminal::has_colors());
    let mut n_continued = signals::n_continued();
    loop {
        let state = shared.lock();
        let waited = shared.ends.wait_timeout_while(state, TICK, |state| state.end.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (items, end) = (state.items.clone(), state.end);
        drop(state);
        let mut out = String::new();
        let now = signals::n_continued();
        if now != n_continued {
            n_continued = now;
            shared.quiet.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(NoEcho::again);
            window.forget();
        }
        let (columns, rows) = terminal::size_of_stderr();
        window.paint(&items, (columns, rows), end, &mut out);
        // That nobody can see it is no reason to stop working.
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(out.as_bytes()).and_then(|()| stderr.flush());
        drop(stderr);
        if end.is_some() {
            shared.lock().is_painted = true;
            shared.ends.notify_all();
            return;
        }
    }
}

/// What is painted of the items.
struct Window {
    screen: Screen,
    has_colors: bool,
    /// Of each item, whether its line stands above those that change.
    is_above: Vec<bool>,
}

impl Window {
    fn new(columns: usize, rows: usize, has_colors: bool) -> Self {
        Self { screen: Screen::new(columns, rows), has_colors, is_above: Vec::new() }
    }

    /// What stands on the screen is not ours any more.
    fn forget(&mut self) {
        self.screen.forget();
    }

    fn paint(&mut self, items: &[Item], size: (usize, usize), end: Option<End>, out: &mut String) {
        self.screen.resize(size.0, size.1, out);
        let (columns, rows) = (self.screen.columns(), self.screen.rows());
        self.is_above.resize(items.len(), false);
        let longest = items.iter().map(|item| match item {
            Item::Transfer(transfer) => width(&escape_line(&transfer.name)),
            _ => 0,
        });
        let longest = longest.max().unwrap_or(0);
        let mut open: Vec<usize> = (0..items.len()).filter(|at| !self.is_above[*at]).collect();
        let mut done = Vec::new();
        let room = rows.saturating_sub(1).max(1);
        // What is settled may scroll away where there is no room for all.
        while open.len() > room
            && let Some(place) = open.iter().position(|at| items[*at].is_settled())
        {
            let at = open.remove(place);
            self.is_above[at] = true;
            done.push(items[at].line(longest, columns));
        }
        let hidden = if end.is_none() { open.len().saturating_sub(room) } else { 0 };
        let shown = open.len() - if hidden > 0 { hidden + 1 } else { 0 };
        let mut live: Vec<Line> = open[..shown].iter().map(|at| items[*at].line(longest, columns)).collect();
        if hidden > 0 {
            live.push(Item::Text(format!("… and {} more", hidden + 1)).line(longest, columns));
        }
        match end {
            Some(End::Kept) => done.append(&mut live),
            Some(End::Wiped) => live.clear(),
            None => {}
        }
        if !self.has_colors {
            done.iter_mut().chain(&mut live).for_each(Line::strip);
        }
        self.screen.update(done, live, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(name: &str, done: u64) -> Item {
        Item::Transfer(Transfer { name: name.into(), done, total: 100, ..Transfer::default() })
    }

    /// What is painted, in a window of which size, and whether it is the last of it.
    type Step = (Vec<Item>, (usize, usize), Option<End>);

    /// What a terminal of this size shows in the end of what is painted step by step.
    fn shown(size: (usize, usize), steps: &[Step]) -> Vec<String> {
        let mut window = Window::new(size.0, size.1, false);
        let mut terminal = crate::chat::screen::emulator::Terminal::new(size.0, size.1);
        for (items, size, end) in steps {
            let mut out = String::new();
            terminal.resize(size.0, size.1);
            window.paint(items, *size, *end, &mut out);
            terminal.write(&out);
        }
        terminal.lines()
    }

    #[test]
    fn kept_lines_stay_in_the_order_in_which_they_came() {
        let size = (40, 10);
        let items =
            |done| vec![Item::Text("pulling manifest".into()), transfer("a", done), transfer("b", done / 2)];
        let mut last = items(100);
        last.push(Item::Text("success".into()));
        let steps = [(items(10), size, None), (items(60), size, None), (last, size, Some(End::Kept))];
        let lines = shown(size, &steps);
        let heads: Vec<&str> = lines.iter().map(|line| &line[..line.len().min(7)]).collect();
        assert_eq!(heads, ["pulling", "a 100% ", "b  50% ", "success"], "{lines:?}");
    }

    #[test]
    fn wiped_lines_leave_nothing() {
        let size = (40, 10);
        let items = vec![transfer("a", 5), transfer("b", 5)];
        assert_eq!(shown(size, &[(items.clone(), size, None), (items, size, Some(End::Wiped))]), [""; 0]);
    }

    /// Where there is no room for all, what is settled scrolls away first, each line once.
    #[test]
    fn more_lines_than_rows() {
        let size = (60, 6);
        let name = |n: usize| format!("file {n}");
        let mut steps = Vec::new();
        for n in 1..12 {
            let items = (1..=n).map(|i| transfer(&name(i), if i + 2 > n { 50 } else { 100 })).collect();
            steps.push((items, size, None));
        }
        let all: Vec<Item> = (1..12).map(|i| transfer(&name(i), 100)).collect();
        steps.push((all, size, Some(End::Kept)));
        let lines = shown(size, &steps);
        for n in 1..12 {
            let about = format!("{} ", name(n));
            let count = lines.iter().filter(|line| line.starts_with(&about)).count();
            assert_eq!(count, 1, "{n}: {lines:#?}");
        }
        let many = (1..12).map(|i| transfer(&name(i), 50)).collect();
        let lines = shown(size, &[(many, size, None)]);
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (5, Some("… and 7 more")), "{lines:?}");
    }
}

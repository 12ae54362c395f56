//! An answer as it appears: thoughts, text, and what goes on meanwhile.

use std::io::{self, Write};
use std::time::Duration;

use super::escape::Escaper;
use super::markdown::{Block, Layout, Parser, wrap};
use super::screen::Screen;
use super::style::{Line, Span, Style, shortened};
use super::terminal::{Look, NoEcho};

/// Lines of thoughts that are shown at a time where they are folded.
const FOLDED_LINES: usize = 4;
/// Most bytes of a line of plain text that are kept open; a longer one goes on as further ones.
const LINE_BYTES_MAX: usize = 8 << 10;

/// What is shown of thoughts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thoughts {
    /// All of them.
    #[default]
    Shown,
    /// The last lines, until the answer begins.
    Folded,
    /// That there are some.
    Hidden,
}

/// How answers look.
#[derive(Clone, Copy, Debug)]
pub struct Appearance {
    pub look: Look,
    /// Whether lines are broken at the window's width.
    pub wraps: bool,
    pub thoughts: Thoughts,
}

/// An answer on its way to the user.
pub struct View<'a> {
    out: &'a mut dyn Write,
    appearance: Appearance,
    screen: Screen,
    escaper: Escaper,
    stage: Stage,
    /// What is going on, below all else.
    status: Option<Line>,
    /// Whether the text so far ends a line: what is no terminal gets a last line break.
    ends_line: bool,
    /// What is typed does not appear among the answer.
    quiet: Option<NoEcho>,
}

enum Stage {
    Nothing,
    Thoughts(Plain),
    Text(Body),
}

enum Body {
    Plain(Plain),
    Rich(Box<Parser>),
}

impl<'a> View<'a> {
    /// A view of a window of so many columns and rows.
    pub fn new(out: &'a mut dyn Write, appearance: Appearance, (columns, rows): (usize, usize)) -> Self {
        let screen = Screen::new(columns, rows);
        Self {
            out,
            appearance,
            screen,
            escaper: Escaper::default(),
            stage: Stage::Nothing,
            status: None,
            ends_line: true,
            quiet: None,
        }
    }

    /// The same, among which nothing of what is typed appears. Ctrl-C must be answered, so that this value gets to end it.
    pub fn quiet(self) -> Self {
        Self { quiet: Some(NoEcho::new()), ..self }
    }

    /// The view is done; what was typed meanwhile waits here.
    pub fn into_quiet(self) -> Option<NoEcho> {
        self.quiet
    }

    /// Whether what is open is painted anew as it changes.
    fn paints(&self) -> bool {
        !matches!(self.appearance.look, Look::Raw | Look::Lines)
    }

    fn layout(&self) -> Layout {
        let width = if self.appearance.wraps { self.screen.columns() } else { usize::MAX >> 1 };
        Layout { width, table_rows: (self.screen.rows() / 2).max(4) }
    }

    /// More of what the model thinks.
    pub fn think(&mut self, text: &str) -> io::Result<()> {
        if self.appearance.look == Look::Raw {
            return Ok(());
        }
        let text = self.escaper.push(text);
        if self.appearance.look == Look::Lines {
            return self.think_in_lines(&text);
        }
        if matches!(self.stage, Stage::Nothing) {
            let head = Line::new("Thinking…", THOUGHT);
            let done = if self.appearance.thoughts == Thoughts::Shown { vec![head] } else { Vec::new() };
            self.stage = Stage::Thoughts(Plain::new(THOUGHT));
            self.paint(done)?;
        }
        let layout = self.layout();
        let shows = self.appearance.thoughts == Thoughts::Shown;
        let Stage::Thoughts(plain) = &mut self.stage else { return Ok(()) };
        let done = plain.push(&text, layout.width);
        if !shows {
            plain.keep_last(done);
            return self.paint(Vec::new());
        }
        self.paint(done)
    }

    /// The thoughts are over; they took so long.
    pub fn end_thoughts(&mut self, took: Duration) -> io::Result<()> {
        let layout = self.layout();
        let Stage::Thoughts(plain) = &mut self.stage else { return Ok(()) };
        let mut done =
            if self.appearance.thoughts == Thoughts::Shown { plain.finish(layout.width) } else { Vec::new() };
        let more = if self.appearance.thoughts == Thoughts::Shown { "" } else { "; /show thoughts" };
        let took = format!("(thought for {:.1} s{more})", took.as_secs_f64());
        if self.appearance.look == Look::Lines {
            self.stage = Stage::Nothing;
            self.end_line()?;
            return self.put(&format!("{took}\n\n"));
        }
        done.push(Line::new(took, THOUGHT));
        done.push(Line::default());
        self.stage = Stage::Nothing;
        self.paint(done)
    }

    /// More of what the model thinks, where nothing can be painted over.
    fn think_in_lines(&mut self, text: &str) -> io::Result<()> {
        let shows = self.appearance.thoughts == Thoughts::Shown;
        let is_first = matches!(self.stage, Stage::Nothing);
        if is_first {
            self.stage = Stage::Thoughts(Plain::new(THOUGHT));
        }
        match shows {
            true if is_first => self.put(&format!("Thinking…\n{text}")),
            true => self.put(text),
            false => Ok(()),
        }
    }

    /// Writes text as it is.
    fn put(&mut self, text: &str) -> io::Result<()> {
        self.ends_line = text.ends_with('\n') || self.ends_line && text.is_empty();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Ends the line that was written, if it is open.
    fn end_line(&mut self) -> io::Result<()> {
        if self.ends_line { Ok(()) } else { self.put("\n") }
    }

    /// More of the answer.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        if self.appearance.look == Look::Raw {
            return self.put(text);
        }
        let text = self.escaper.push(text);
        if self.appearance.look == Look::Lines {
            // Answers do not begin with empty lines.
            let text = match self.stage {
                Stage::Text(_) => &*text,
                _ => text.trim_start(),
            };
            if !text.is_empty() {
                self.stage = Stage::Text(Body::Plain(Plain::new(Style::PLAIN)));
            }
            return self.put(text);
        }
        if !matches!(self.stage, Stage::Text(_)) {
            self.stage = Stage::Text(match self.appearance.look {
                Look::Rich => Body::Rich(Box::default()),
                _ => Body::Plain(Plain::new(Style::PLAIN)),
            });
        }
        let layout = self.layout();
        let done = match &mut self.stage {
            Stage::Text(Body::Rich(parser)) => {
                let mut blocks = Vec::new();
                parser.push(&text, &mut blocks);
                lines(layout, &blocks)
            }
            Stage::Text(Body::Plain(plain)) => plain.push(&text, layout.width),
            _ => Vec::new(),
        };
        self.paint(done)
    }

    /// What is going on meanwhile, in a line of its own; `None` takes it away.
    pub fn set_status(&mut self, status: Option<String>) -> io::Result<()> {
        if !self.paints() {
            return Ok(());
        }
        let columns = self.screen.columns().saturating_sub(1);
        let status = status.map(|text| Line::new(shortened(&text, columns), Style::DIM));
        if status == self.status {
            return Ok(());
        }
        self.status = status;
        self.paint(Vec::new())
    }

    /// The window may have changed.
    pub fn set_size(&mut self, (columns, rows): (usize, usize)) -> io::Result<()> {
        if !self.paints() || (columns, rows) == (self.screen.columns(), self.screen.rows()) {
            return Ok(());
        }
        let mut out = String::new();
        self.screen.resize(columns, rows, &mut out);
        self.out.write_all(out.as_bytes())?;
        self.paint(Vec::new())
    }

    /// What stands on the screen is somebody else's by now: what is open is painted anew, below it.
    pub fn begin_below(&mut self) {
        self.screen.forget();
        self.quiet.iter().for_each(NoEcho::again);
    }

    /// The answer is over; `note` is said below it.
    pub fn finish(&mut self, note: Option<&str>) -> io::Result<()> {
        self.status = None;
        if self.appearance.look == Look::Raw {
            return self.end_line();
        }
        let rest = self.escaper.finish();
        if !rest.is_empty() {
            self.text(rest)?;
        }
        if self.appearance.look == Look::Lines {
            self.stage = Stage::Nothing;
            self.end_line()?;
            return note.map_or(Ok(()), |note| self.put(&format!("({note})\n")));
        }
        let layout = self.layout();
        let mut done = match &mut self.stage {
            Stage::Nothing => Vec::new(),
            Stage::Thoughts(plain) | Stage::Text(Body::Plain(plain)) => plain.finish(layout.width),
            Stage::Text(Body::Rich(parser)) => {
                let mut blocks = Vec::new();
                parser.finish(&mut blocks);
                lines(layout, &blocks)
            }
        };
        self.stage = Stage::Nothing;
        done.extend(note.map(|note| Line::new(format!("({note})"), Style::DIM)));
        self.paint(done)
    }

    /// Paints what is done, and what is open as it is now.
    fn paint(&mut self, mut done: Vec<Line>) -> io::Result<()> {
        let layout = self.layout();
        let mut live = match &self.stage {
            Stage::Nothing => Vec::new(),
            Stage::Thoughts(plain) => match self.appearance.thoughts {
                Thoughts::Shown => plain.open(layout.width),
                Thoughts::Folded => plain.last(layout.width, FOLDED_LINES),
                Thoughts::Hidden => Vec::new(),
            },
            Stage::Text(Body::Plain(plain)) => plain.open(layout.width),
            Stage::Text(Body::Rich(parser)) => lines(layout, &parser.open()),
        };
        live.extend(self.status.clone());
        if self.appearance.look == Look::Plain {
            done.iter_mut().chain(&mut live).for_each(Line::strip);
        }
        let mut out = String::new();
        self.screen.update(done, live, &mut out);
        self.out.write_all(out.as_bytes())?;
        self.out.flush()
    }
}

const THOUGHT: Style = Style { italic: true, ..Style::DIM };

fn lines(layout: Layout, blocks: &[Block]) -> Vec<Line> {
    blocks.iter().flat_map(|block| layout.lines(block)).collect()
}

/// Text without meaning: lines, and words in them.
struct Plain {
    style: Style,
    line: String,
    has_text: bool,
    /// The lines before, as far as they are kept.
    last: Vec<Line>,
}

impl Plain {
    fn new(style: Style) -> Self {
        Self { style, line: String::new(), has_text: false, last: Vec::new() }
    }

    fn wrapped(&self, line: &str, width: usize) -> Vec<Line> {
        let text = line.trim_end().replace('\t', "    ");
        let lines = wrap(&[Span::new(text, self.style)], width);
        if lines.is_empty() { vec![Line::default()] } else { lines }
    }

    /// Takes more text; the lines that are complete by it.
    fn push(&mut self, text: &str, width: usize) -> Vec<Line> {
        let mut done = Vec::new();
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece.strip_suffix('\n').unwrap_or(piece));
            if piece.ends_with('\n') || self.line.len() > LINE_BYTES_MAX {
                let line = std::mem::take(&mut self.line);
                // Answers do not begin with empty lines.
                if self.has_text || !line.trim().is_empty() {
                    self.has_text = true;
                    done.extend(self.wrapped(&line, width));
                }
            }
        }
        done
    }

    fn open(&self, width: usize) -> Vec<Line> {
        if self.line.trim().is_empty() { Vec::new() } else { self.wrapped(&self.line, width) }
    }

    fn finish(&mut self, width: usize) -> Vec<Line> {
        let lines = self.open(width);
        self.line.clear();
        lines
    }

    fn keep_last(&mut self, done: Vec<Line>) {
        self.last.extend(done.into_iter().filter(|line| line.width() > 0));
        let excess = self.last.len().saturating_sub(FOLDED_LINES);
        self.last.drain(..excess);
    }

    /// The last lines of all.
    fn last(&self, width: usize, n: usize) -> Vec<Line> {
        let all: Vec<Line> = self.last.iter().cloned().chain(self.open(width)).collect();
        all[all.len().saturating_sub(n)..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written for an answer in these pieces; `~` before a piece makes it a thought.
    fn written(look: Look, thoughts: Thoughts, pieces: &[&str]) -> String {
        let mut out = Vec::new();
        let mut view = View::new(&mut out, Appearance { look, wraps: true, thoughts }, (40, 20));
        let mut thinks = false;
        for piece in pieces {
            match piece.strip_prefix('~') {
                Some(thought) => {
                    thinks = true;
                    view.think(thought).expect("a buffer");
                }
                None => {
                    if std::mem::take(&mut thinks) {
                        view.end_thoughts(Duration::from_millis(1500)).expect("a buffer");
                    }
                    view.text(piece).expect("a buffer");
                }
            }
        }
        view.finish(None).expect("a buffer");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn files_and_pipes_get_the_text_as_it_is() {
        let pieces = ["**bold** \x1b[31m", "\r\nmore"];
        assert_eq!(written(Look::Raw, Thoughts::Shown, &pieces), "**bold** \x1b[31m\r\nmore\n");
        assert_eq!(written(Look::Raw, Thoughts::Shown, &["done\n"]), "done\n");
    }

    #[test]
    fn plain_text_has_no_styles() {
        let text = written(
            Look::Plain,
            Thoughts::Shown,
            &["**bold** and a line that is longer than the window", "\n`x`"],
        );
        assert_eq!(text, "**bold** and a line that is longer than\r\nthe window\r\n`x`\r\n");
    }

    /// No control sequence of a model's comes through, whatever the pieces: only those that we write.
    #[test]
    fn a_model_cannot_steer_the_terminal() {
        let hostile = "a\x1b]52;c;ZXZpbA==\x07\x1b[2J\u{9b}31m\x1bPq\x1b\\\rx\u{202e} ```\x1b]0;t\x07\n| \x1b[A |\n|---|\n| \x1b[A |\n";
        for look in [Look::Plain, Look::Rich] {
            for n in [1, 2, 5, 1000] {
                let chars: Vec<char> = hostile.chars().collect();
                let pieces: Vec<String> = chars.chunks(n).map(|c| c.iter().collect()).collect();
                let mut all: Vec<String> = pieces.iter().map(|piece| format!("~{piece}")).collect();
                all.extend(pieces);
                let text =
                    written(look, Thoughts::Shown, &all.iter().map(String::as_str).collect::<Vec<_>>());
                let mut rest = text.as_str();
                while let Some(at) = rest.find(|c: char| c.is_control()) {
                    rest = &rest[at..];
                    let own = rest.strip_prefix("\x1b[").and_then(|sequence| {
                        let end = sequence.find(|c: char| !c.is_ascii_digit() && c != ';')?;
                        let n = sequence[..end]
                            .split(';')
                            .filter_map(|n| n.parse::<usize>().ok())
                            .max()
                            .unwrap_or(0);
                        "mACK".contains(&sequence[end..=end]).then_some((2 + end + 1, n))
                    });
                    rest = match own {
                        Some((length, n)) if n < 100 => &rest[length..],
                        _ if rest.starts_with('\r') => &rest[1..],
                        _ if rest.starts_with('\n') => &rest[1..],
                        _ => panic!("{:?} of {text:?}", &rest[..rest.len().min(12)]),
                    };
                }
                assert!(text.contains("␛]52;c;ZXZpbA==␇") && text.contains("\\u{9b}31m"), "{text:?}");
                assert!(!text.contains('\u{202e}') && !text.contains("\x1b[2J"), "{text:?}");
            }
        }
    }

    #[test]
    fn thoughts_are_dim_and_may_be_folded() {
        let pieces = ["~first\n", "~second", "the answer"];
        let dumb = |thoughts| written(Look::Lines, thoughts, &pieces);
        assert!(dumb(Thoughts::Shown).starts_with("Thinking…\nfirst"), "{:?}", dumb(Thoughts::Shown));
        assert_eq!(dumb(Thoughts::Folded), "(thought for 1.5 s; /show thoughts)\n\nthe answer\n");
        let shown = written(Look::Plain, Thoughts::Shown, &pieces);
        assert_eq!(shown, "Thinking…\r\nfirst\r\nsecond\r\n(thought for 1.5 s)\r\n\r\nthe answer\r\n");
        let folded = written(Look::Plain, Thoughts::Folded, &pieces);
        assert!(folded.ends_with("(thought for 1.5 s; /show thoughts)\r\n\r\nthe answer\r\n"), "{folded:?}");
        assert!(folded.contains("first") && folded.contains("\x1b[K"), "{folded:?}");
        let hidden = written(Look::Plain, Thoughts::Hidden, &pieces);
        assert!(!hidden.contains("first"), "{hidden:?}");
        assert!(written(Look::Rich, Thoughts::Shown, &pieces).contains("\x1b[0;2;3mfirst"));
        assert_eq!(written(Look::Raw, Thoughts::Shown, &pieces), "the answer\n");
    }
}

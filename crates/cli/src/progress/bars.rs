//! How far a piece of work is, on one line of a window of any width.
//!
//! From left to right: a name, percent, a bar, how much of how much, the rate, the time left. Where there is no room the
//! bar goes first, then the rate, then the amounts; names are cut in their middle. The last column stays empty, so that
//! no terminal goes on in a new line.

use std::time::Duration;

use crate::chat::escape_line;
use crate::chat::style::{Color, Line, Style, shortened, shortened_in_the_middle, width};

/// The narrowest and the widest bar, in columns.
const BAR_COLUMNS: (usize, usize) = (10, 60);
/// Columns that a name gets before the rate and the bar do.
const NAME_COLUMNS: usize = 12;
/// Columns of `100%`, of `99.9 MB/99.9 GB`, of `99.9 MB/s` and of `59m59s`.
const PERCENT: usize = 4;
const AMOUNT: usize = 15;
const RATE: usize = 9;
const LEFT: usize = 6;

/// Bytes on their way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transfer {
    /// What it is, for readers.
    pub name: String,
    /// Bytes that are there, and bytes altogether.
    pub done: u64,
    pub total: u64,
    /// Bytes per second over the last seconds.
    pub rate: f64,
    /// How long the rest takes at that rate, if that can be told.
    pub left: Option<Duration>,
}

/// Things that are counted one by one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    pub done: u64,
    /// How many there are, if that is known.
    pub total: Option<u64>,
    /// Their name, in the plural.
    pub unit: &'static str,
    /// What else there is to say.
    pub note: String,
    pub left: Option<Duration>,
}

impl Transfer {
    /// Whether all of it is there.
    pub fn is_over(&self) -> bool {
        self.done >= self.total
    }

    /// Percent of it that are there; all of nothing is there.
    pub fn percent(&self) -> u64 {
        (u128::from(self.done) * 100)
            .checked_div(u128::from(self.total))
            .map_or(100, |percent| percent as u64)
    }

    /// Its line in a window of so many columns, where the longest name beside it has `longest`.
    pub fn line(&self, longest: usize, columns: usize) -> Line {
        let columns = columns.saturating_sub(1);
        let fields = Fields::of(columns, longest);
        let name = shortened_in_the_middle(&escape_line(&self.name), fields.name);
        let mut line = Line::default();
        line.push(&format!("{name}{:1$}", "", fields.name - width(&name).min(fields.name)), Style::PLAIN);
        line.push(&format!(" {:>3}%", self.percent()), Style::PLAIN);
        if fields.bar > 0 {
            line.push(" ", Style::PLAIN);
            bar(&mut line, self.done, self.total, fields.bar);
        }
        let is_over = self.is_over();
        if fields.has_amount {
            let amount = if is_over {
                bytes(self.total)
            } else {
                format!("{}/{}", bytes(self.done), bytes(self.total))
            };
            line.push(&format!(" {amount:>AMOUNT$}"), Style::PLAIN);
        }
        if fields.has_rate && !is_over {
            line.push(&format!(" {:>RATE$}", rate(self.rate)), Style::PLAIN);
        }
        if fields.has_left && !is_over {
            line.push(&format!(" {:>LEFT$}", self.left.map_or("--".into(), time)), Style::PLAIN);
        }
        line
    }

    /// The same for a file or a pipe.
    pub fn words(&self) -> String {
        let name = escape_line(&self.name);
        if self.is_over() {
            return format!("{name}: 100 %, {}", bytes(self.total));
        }
        let left = self.left.map(|left| format!(", {} left", time(left))).unwrap_or_default();
        let (percent, done, total) = (self.percent(), bytes(self.done), bytes(self.total));
        format!("{name}: {percent} %, {done} of {total}, {}{left}", rate(self.rate))
    }
}

impl Count {
    /// Its line in a window of so many columns.
    pub fn line(&self, columns: usize) -> Line {
        let columns = columns.saturating_sub(1);
        let unit = self.unit;
        let mut text = match self.total {
            Some(total) => format!("{}/{total} {unit}", self.done),
            None => format!("{} {unit}", self.done),
        };
        if !self.note.is_empty() {
            text.push_str(&format!(", {}", escape_line(&self.note)));
        }
        if let Some(left) = self.left.filter(|_| self.total.is_some_and(|total| self.done < total)) {
            text.push_str(&format!(", {} left", time(left)));
        }
        let text = shortened(&text, columns);
        let mut line = Line::default();
        let room = columns.saturating_sub(width(&text) + 1);
        if let Some(total) = self.total.filter(|_| room >= BAR_COLUMNS.0) {
            bar(&mut line, self.done, total, room.min(30));
            line.push(" ", Style::PLAIN);
        }
        line.push(&text, Style::PLAIN);
        line
    }
}

/// Which fields there is room for.
struct Fields {
    name: usize,
    bar: usize,
    has_amount: bool,
    has_rate: bool,
    has_left: bool,
}

impl Fields {
    /// Of a line of so many columns.
    fn of(columns: usize, longest: usize) -> Self {
        let least = longest.min(NAME_COLUMNS);
        let mut rest = columns.saturating_sub(PERCENT + 1);
        // Each field takes its columns only if the name keeps enough of them.
        let mut take = |field: usize, name: usize| {
            let fits = rest >= field + 1 + name;
            if fits {
                rest -= field + 1;
            }
            fits
        };
        let has_left = take(LEFT, least.min(6));
        let has_amount = has_left && take(AMOUNT, least.min(8));
        let has_rate = has_amount && take(RATE, least);
        let has_bar = has_rate && take(BAR_COLUMNS.0, least);
        // What is left over goes to the name, as far as it has use for it, and then to the bar.
        let name = longest.min(rest);
        let bar = if has_bar { (BAR_COLUMNS.0 + rest - name).min(BAR_COLUMNS.1) } else { 0 };
        Self { name, bar, has_amount, has_rate, has_left }
    }
}

/// A bar, `columns` wide.
fn bar(line: &mut Line, done: u64, total: u64, columns: usize) {
    let share = (u128::from(done.min(total)) * columns as u128).checked_div(u128::from(total));
    let filled = share.map_or(columns, |n| n as usize);
    let color = if filled == columns { Color::Green } else { Color::Cyan };
    line.push(&"━".repeat(filled), Style::PLAIN.color(color));
    line.push(&"─".repeat(columns - filled), Style::DIM);
}

/// Bytes in four columns and a unit of thousands, as hubs write them.
pub fn bytes(n: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.iter().find(|(unit, _)| n >= *unit) {
        None => format!("{n} B"),
        Some((unit, name)) => {
            let value = n as f64 / *unit as f64;
            let digits = if value < 9.995 {
                2
            } else if value < 99.95 {
                1
            } else {
                0
            };
            format!("{value:.digits$} {name}")
        }
    }
}

fn rate(bytes_per_s: f64) -> String {
    if bytes_per_s >= 1.0 { format!("{}/s", bytes(bytes_per_s as u64)) } else { "--".into() }
}

/// A time in at most six columns.
pub fn time(left: Duration) -> String {
    let s = left.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..360_000 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d", (s / 86_400).min(99_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(done: u64) -> Transfer {
        Transfer {
            name: "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf".into(),
            done,
            total: 4_920_000_000,
            rate: 12_300_000.0,
            left: Some(Duration::from_secs(299)),
        }
    }

    #[test]
    fn amounts_and_times_have_their_columns() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (12_345_678, "12.3 MB"),
            (999_400_000, "999 MB"),
            (4_920_000_000, "4.92 GB"),
            (1_500_000_000_000, "1.50 TB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [(5, "5s"), (65, "1m05s"), (3700, "1h01m"), (1_000_000, "11d"), (u64::MAX, "99999d")]
        {
            assert_eq!(time(Duration::from_secs(s)), text);
        }
    }

    #[test]
    fn lines_have_what_there_is_room_for() {
        let check = |columns: usize, expected: &str| {
            let name = transfer(0).name.len();
            assert_eq!(transfer(1_230_000_000).line(name, columns).text(), expected, "at {columns}");
        };
        check(20, "Met…guf  25%  4m59s");
        check(40, "Meta-….gguf  25% 1.23 GB/4.92 GB  4m59s");
        check(80, "Meta-Llama-3.1…uct-Q4_K_M.gguf  25% ━━──────── 1.23 GB/4.92 GB 12.3 MB/s  4m59s");
        check(
            120,
            "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf  25% ━━━━━━━━━━──────────────────────────────── 1.23 GB/4.92 GB 12.3 MB/s  4m59s",
        );
    }

    /// No line is ever wider than its window, and what stands right of the name does not move while numbers grow.
    #[test]
    fn lines_fit_and_stand_still() {
        for name in ["a", "tiny.gguf", "日本語の名前.gguf", "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"] {
            for columns in (1..140).chain([200, 1000]) {
                let mut widths = Vec::new();
                for done in [0, 1, 999, 123_456, 400_000_000, 4_919_999_999] {
                    let line = Transfer { name: name.into(), ..transfer(done) }.line(width(name), columns);
                    assert!(line.width() < columns.max(8), "{name} at {columns}: {}", line.text());
                    widths.push(line.width());
                }
                assert!(widths.iter().all(|w| *w == widths[0]), "{name} at {columns}: {widths:?}");
                let over = transfer(4_920_000_000).line(38, columns);
                assert!(over.width() < columns.max(8) && over.text().contains("100%"), "{}", over.text());
            }
        }
        for columns in 1..140 {
            let count = Count {
                done: 5,
                total: Some(70),
                unit: "lines",
                note: "12 tokens/s".into(),
                left: Some(Duration::from_secs(61)),
            };
            assert!(count.line(columns).width() < columns.max(2), "{}", count.line(columns).text());
        }
    }

    #[test]
    fn counts_are_told() {
        let count = Count { done: 5, unit: "lines", note: "12 tokens/s".into(), ..Count::default() };
        assert_eq!(count.line(80).text(), "5 lines, 12 tokens/s");
        let known = Count { total: Some(10), left: Some(Duration::from_secs(61)), ..count };
        assert_eq!(
            known.line(80).text(),
            format!("{}{} 5/10 lines, 12 tokens/s, 1m01s left", "━".repeat(15), "─".repeat(15))
        );
        assert_eq!(known.line(30).text(), "5/10 lines, 12 tokens/s, 1m0…");
    }

    #[test]
    fn words_tell_the_same() {
        assert_eq!(
            transfer(1_230_000_000).words(),
            "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf: 25 %, 1.23 GB of 4.92 GB, 12.3 MB/s, 4m59s left"
        );
        assert_eq!(Transfer { rate: 0.0, left: None, ..transfer(0) }.words().split(", ").last(), Some("--"));
        let hostile = Transfer { name: "a\x1b[2J\nb".into(), ..transfer(4_920_000_000) };
        assert_eq!(hostile.words(), "a␛[2J␊b: 100 %, 4.92 GB");
        assert!(!hostile.line(8, 80).text().contains(char::is_control));
    }
}

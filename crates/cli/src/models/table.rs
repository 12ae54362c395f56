//! Tables for people: aligned, and cut to the terminal where there is one.

use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

/// The narrowest that the first column becomes.
const FIRST_MIN: usize = 12;
/// Between columns.
const GAP: &str = "    ";

/// Prints rows below headings. Where standard output is a terminal the first column gives way.
pub fn print(headings: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let width = terminal_width();
    let mut out = std::io::stdout().lock();
    for line in lines(headings, rows, width) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Columns of the terminal that standard output is, if it is one.
pub fn terminal_width() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    #[cfg(unix)]
    {
        let size = rustix::termios::tcgetwinsize(&out).ok()?;
        Some(usize::from(size.ws_col)).filter(|n| *n > 0)
    }
    #[cfg(not(unix))]
    Some(80)
}

fn lines(headings: &[&str], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let heading: Vec<String> = headings.iter().map(|&text| text.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&heading).chain(rows).collect();
    let count = |text: &str| text.chars().count();
    let widest = |i: usize| all.iter().map(|row| row.get(i).map_or(0, |text| count(text))).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..headings.len()).map(widest).collect();
    if let (Some(width), Some(first)) = (width, widths.first().copied()) {
        let total: usize = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
        widths[0] = first.saturating_sub(total.saturating_sub(width)).max(FIRST_MIN.min(first));
    }
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(text, &width)| {
            let text = cut(text, width);
            format!("{text}{}", " ".repeat(width.saturating_sub(count(&text))))
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        let line = line.trim_end().to_owned();
        width.map_or(line.clone(), |width| cut(&line, width))
    };
    all.iter().map(line).collect()
}

/// A text of at most so many characters; what is left out is a sign of it.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// How long ago something was, as people say it.
pub fn ago(then: SystemTime) -> String {
    let passed = SystemTime::now().duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    let (n, unit) = match passed {
        0..60 => return "just now".to_owned(),
        60..3600 => (passed / 60, "minute"),
        3600..86_400 => (passed / 3600, "hour"),
        86_400..604_800 => (passed / 86_400, "day"),
        604_800..2_592_000 => (passed / 604_800, "week"),
        2_592_000..31_536_000 => (passed / 2_592_000, "month"),
        _ => (passed / 31_536_000, "year"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a-very-long-name-of-a-model:latest", "abc", "1 GB"]), row(["b", "abcdef", ""])];
        let told = lines(&["NAME", "ID", "SIZE"], &rows, None);
        assert_eq!(
            told,
            [
                "NAME                                  ID        SIZE",
                "a-very-long-name-of-a-model:latest    abc       1 GB",
                "b                                     abcdef",
            ]
        );
        for width in [80, 40, 30, 10] {
            for line in lines(&["NAME", "ID", "SIZE"], &rows, Some(width)) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        assert_eq!(
            lines(&["NAME", "ID", "SIZE"], &rows, Some(40))[1],
            "a-very-long-name-of-a…    abc       1 GB"
        );
    }

    #[test]
    fn times() {
        let check = |s: u64, text: &str| assert_eq!(ago(SystemTime::now() - Duration::from_secs(s)), text);
        check(5, "just now");
        check(61, "1 minute ago");
        check(7300, "2 hours ago");
        check(3 * 86_400, "3 days ago");
        check(400 * 86_400, "1 year ago");
    }
}

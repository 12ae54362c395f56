//! What is painted, seen by a small terminal.

use super::super::markdown::{Layout, Parser};
use super::super::style::Style;
use super::emulator::Terminal;
use super::*;

/// A document as it streams in pieces of so many characters: what the terminal shows at the end, and how many bytes it
/// took.
fn streamed(text: &str, columns: usize, rows: usize, piece: usize) -> (Vec<String>, usize) {
    let (mut parser, mut screen) = (Parser::default(), Screen::new(columns, rows));
    let mut terminal = Terminal::new(columns, rows);
    let layout = Layout { width: columns, table_rows: rows / 2 };
    let lines = |blocks: &[super::super::markdown::Block]| {
        blocks.iter().flat_map(|block| layout.lines(block)).collect()
    };
    let mut n_bytes = 0;
    let chars: Vec<char> = text.chars().collect();
    for piece in chars.chunks(piece) {
        let mut done = Vec::new();
        parser.push(&piece.iter().collect::<String>(), &mut done);
        let mut out = String::new();
        screen.update(lines(&done), lines(&parser.open()), &mut out);
        n_bytes += out.len();
        terminal.write(&out);
    }
    let mut done = Vec::new();
    parser.finish(&mut done);
    let mut out = String::new();
    screen.update(lines(&done), Vec::new(), &mut out);
    terminal.write(&out);
    assert_eq!(terminal.n_wrong, 0, "the cursor left the window");
    (terminal.text(), n_bytes + out.len())
}

const DOCUMENT: &str = "# Sorting **fast**\n\nThe quick brown fox *jumps* over the `lazy` dog, again and again until it is \
    tired.\n\n- one\n- two with **bold** text that is long enough to wrap around at least once\n  - nested 日本語の文章\n\n\
    ```rust\nfn main() {\n    println!(\"a line that is much longer than the window is wide, so that the terminal has to \
    break it\");\n}\n```\n\n| name | value |\n|---|--:|\n| a | 1 |\n| a longer one | 22 |\n| 🙂 | 333 |\n\n> a quote\n\n1. \
    first\n2. second 2*3 and **never closed\n\nThe end.\n";

#[test]
fn streaming_shows_what_the_whole_document_is() {
    for (columns, rows) in [(80, 24), (200, 50), (40, 24), (23, 40)] {
        let (whole, _) = streamed(DOCUMENT, columns, rows, usize::MAX);
        for piece in [1, 2, 3, 7, 50] {
            let (text, _) = streamed(DOCUMENT, columns, rows, piece);
            assert_eq!(text, whole, "{columns} columns, pieces of {piece}");
        }
        assert!(whole.join("\n").contains("Sorting fast\n\nThe quick"), "{whole:#?}");
        assert!(whole.join("\n").contains("**never closed"), "a marker that nothing closes is text");
    }
}

/// Painting is in proportion to the text: no screen is painted again for a word.
#[test]
fn little_is_painted_twice() {
    let prose = "word after word makes a paragraph that goes on, ".repeat(40);
    let (_, n_bytes) = streamed(&prose, 80, 24, 4);
    assert!(n_bytes < prose.len() * 3, "{n_bytes} bytes for {}", prose.len());
    let code = format!("```c\n{}```\n", "int value = 42; // a comment\n".repeat(200));
    let (text, n_bytes) = streamed(&code, 80, 24, 4);
    assert_eq!(text.len(), 203);
    assert!(n_bytes < code.len() * 6, "{n_bytes} bytes for {}", code.len());
}

#[test]
fn tables_beyond_the_window_stay_whole() {
    let rows: String = (0..100).map(|i| format!("| row {i} | {} |\n", "x".repeat(i % 30))).collect();
    let table = format!("| name | value |\n|---|---|\n{rows}\nafter\n");
    for piece in [3, 1000] {
        let (text, _) = streamed(&table, 60, 24, piece);
        for i in 0..100 {
            let n = text
                .iter()
                .filter(|line| line.split('│').next().unwrap_or("").trim() == format!("row {i}"))
                .count();
            assert_eq!(n, 1, "row {i} in pieces of {piece}");
        }
    }
}

#[test]
fn lines_come_and_go() {
    let line = |text: &str| Line::new(text, Style::PLAIN);
    let mut screen = Screen::new(10, 5);
    let mut terminal = Terminal::new(10, 5);
    let mut show = |done: &[&str], live: &[&str], expected: &str| {
        let mut out = String::new();
        screen.update(
            done.iter().map(|t| line(t)).collect(),
            live.iter().map(|t| line(t)).collect(),
            &mut out,
        );
        terminal.write(&out);
        assert_eq!(terminal.text().join("/"), expected, "{out:?}");
    };
    show(&[], &["⠋ wait"], "⠋ wait");
    show(&[], &["⠙ wait"], "⠙ wait");
    show(&[], &[], "");
    show(&[], &["a", "b", "c"], "a/b/c");
    show(&[], &["a"], "a");
    show(&["a"], &[], "a/");
    show(&["done"], &["live"], "a/done/live");
    show(&["live too"], &[], "a/done/live too/");
    show(&[], &["0123456789"], "a/done/live too/0123456789");
    show(&[], &["0123456789ab"], "a/done/live too/0123456789/ab");
    show(&[], &["x"], "a/done/live too/x");
    show(&["日本", "👍🏽b"], &["👍🏽c"], "a/done/live too/日本/👍🏽b/👍🏽c");
    show(&["👍🏽d"], &[], "a/done/live too/日本/👍🏽b/👍🏽d/");
}

#[test]
fn a_window_that_changes_is_painted_anew() {
    let mut screen = Screen::new(20, 10);
    let mut out = String::new();
    screen.update(Vec::new(), vec![Line::new("one two three four", Style::PLAIN)], &mut out);
    let mut narrow = String::new();
    screen.resize(10, 10, &mut narrow);
    // Terminals have broken the line in two by now.
    assert_eq!(narrow, "\r\x1b[2K\x1b[1A\x1b[K");
    let mut again = String::new();
    screen.resize(10, 10, &mut again);
    assert_eq!(again, "");
}

/// Whatever was painted for a wide window is gone from a narrow one, and the other way round.
#[test]
fn resizing_leaves_nothing_behind() {
    let line = |columns: usize, n: usize| Line::new("x".repeat(columns - 1 - n), Style::PLAIN);
    let (mut screen, mut terminal) = (Screen::new(40, 12), Terminal::new(40, 12));
    for columns in [40, 20, 11, 80, 40, 39, 200, 40] {
        terminal.resize(columns, 12);
        let mut out = String::new();
        screen.resize(columns, 12, &mut out);
        for n in [2, 1, 0] {
            screen.update(Vec::new(), vec![line(columns, n), line(columns, n + 1)], &mut out);
        }
        terminal.write(&out);
        assert_eq!(terminal.text(), ["x".repeat(columns - 1), "x".repeat(columns - 2)], "{columns} columns");
    }
    assert_eq!(terminal.n_wrong, 0, "the cursor left the window");
}

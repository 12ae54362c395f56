//! Whole documents, and the same documents in pieces.

use super::super::style::{Color, Line, Style};
use super::{Block, Layout, Parser};

fn blocks(text: &str) -> Vec<Block> {
    let (mut parser, mut out) = (Parser::default(), Vec::new());
    parser.push(text, &mut out);
    parser.finish(&mut out);
    out
}

fn lines(text: &str, width: usize) -> Vec<Line> {
    let layout = Layout { width, table_rows: usize::MAX };
    blocks(text).iter().flat_map(|block| layout.lines(block)).collect()
}

/// What a document looks like, without its styles.
fn check(text: &str, width: usize, expected: &str) {
    let shown: Vec<String> =
        lines(text, width).iter().map(|line| line.text().trim_end().to_owned()).collect();
    assert_eq!(shown.join("\n"), expected, "of:\n{text}");
}

/// The styles of a line: `b(bold)`, `i(italic)`, `s(strike)`, `c(code)`, `l(link)`, `d(dim)`.
fn styled(text: &str) -> String {
    marked(&lines(text, 80)[0])
}

fn marked(line: &Line) -> String {
    let mark = |style: Style, text: &str| {
        let mut marks = String::new();
        for (is_on, c) in [(style.bold, 'b'), (style.italic, 'i'), (style.strike, 's'), (style.dim, 'd')] {
            marks.extend(is_on.then_some(c));
        }
        match style.color {
            Some(Color::Yellow) => marks.push('c'),
            Some(Color::Blue) if style.underline => marks.push('l'),
            _ => {}
        }
        if marks.is_empty() { text.to_owned() } else { format!("{marks}({text})") }
    };
    line.0.iter().map(|span| mark(span.style, &span.text)).collect()
}

#[test]
fn blocks_look_as_they_should() {
    check("one\ntwo\n\n\n\nthree", 40, "one\ntwo\n\nthree");
    check("\n\nfirst", 40, "first");
    check("text\n# Title #\nmore\n\n## Sub\n#no title", 40, "text\n\nTitle\nmore\n\nSub\n#no title");
    check("Title\n=====\ntext", 40, "Title\ntext");
    check("a\n\n---\n\nb", 10, "a\n\n──────────\n\nb");
    check("a\n---\nb", 10, "a\n──────────\nb");
    check(
        "> quoted text that is long\n>\n> more\n\nafter",
        16,
        "│ quoted text\n│ that is long\n│\n│ more\n\nafter",
    );
    check("text\n\n> quote\n\ntext", 20, "text\n\n│ quote\n\ntext");
    check(">> deep\n> less", 20, "│ │ deep\n│ less");
    check("&lt; stays, a_b_c stays, 2 * 3 * 4 stays", 60, "&lt; stays, a_b_c stays, 2 * 3 * 4 stays");
    check("\\*no\\* \\(x_1\\) \\\\", 60, "*no* \\(x_1\\) \\");
    check("    indented code\n\ntext", 60, "    indented code\n\ntext");
}

#[test]
fn lists_are_indented() {
    check("- one\n- two", 40, "• one\n• two");
    check("* a\n  * b\n    * c\n      * d\n* e", 40, "• a\n  ◦ b\n    ▪ c\n      ▪ d\n• e");
    check("1. one\n2. two words and more\n10. ten", 14, "1. one\n2. two words\n   and more\n10. ten");
    check("1. a\n   - b\n   - c\n2. d", 40, "1. a\n   ◦ b\n   ◦ c\n2. d");
    check("1. a\n  - b", 40, "1. a\n   ◦ b");
    check("- a\n\n  more of a\n\n- b", 40, "• a\n\n  more of a\n\n• b");
    check("- a\nlazy\n\ntext", 40, "• a\n  lazy\n\ntext");
    check("- [ ] open\n- [x] done", 40, "☐ open\n☑ done");
    check(
        "- code:\n  ```sh\n  ls\n    -l\n  ```\n- b",
        50,
        "• code:\n  ┌── sh ─────────────────────────────────\n  ls\n    -l\n  └───────────────────────────────────────\n• b",
    );
    check("text\n2024. was a year", 40, "text\n2024. was a year");
    check("text:\n1. one", 40, "text:\n1. one");
    check("-\n- b", 40, "•\n• b");
    check("- - nested", 40, "•\n  ◦ nested");
    check("> - a\n> - b", 40, "│ • a\n│ • b");
    check("-no item\n1.no item\n**bold**", 40, "-no item\n1.no item\nbold");
}

#[test]
fn code_is_left_alone() {
    check(
        "```rust\nlet a = \"**x**\";\n\n\n// # c\n```\nafter",
        20,
        "┌── rust ───────────\nlet a = \"**x**\";\n\n\n// # c\n└───────────────────\nafter",
    );
    check("~~~\n```\n~~~", 10, "┌─────────\n```\n└─────────");
    check("````\n```\n````", 10, "┌─────────\n```\n└─────────");
    check("```\nnever closed", 10, "┌─────────\nnever closed\n└─────────");
    check("```x``` is inline", 40, "x is inline");
    check("> ```\n> quoted\n> ```", 12, "│ ┌─────────\n│ quoted\n│ └─────────");
    check("```make\n\tgcc\n```", 10, "┌── make ─\n    gcc\n└─────────");
}

#[test]
fn indented_code_keeps_its_indent() {
    let same = |text: &str| check(text, 40, text);
    same("Text:\n\n    class C:\n        def f(self):\n            return 1\n\nand more");
    same(
        "    # no title\n    - no item\n      > no quote\n    **a** | b\n    ---\n    ===\n    ```\n    1. x",
    );
    same("a\n\n    one\n\n\n      two\n\nb");
    check("a\n\n\tone\n\t\ttwo\nb", 40, "a\n\n    one\n        two\nb");
    check("    last\n\n\n", 40, "    last");
    check("    `x` y\n    z", 40, "    `x` y\n    z");
    check("# T\n    code", 40, "T\n    code");
    check(">     one\n>       two\n> text\n\nb", 40, "│     one\n│       two\n│ text\n\nb");
    check(">     one\n>\n\n    b", 40, "│     one\n\n    b");
    // What goes on with a paragraph or an item is none, nor is a fence that stands far in.
    check("text\n    goes on", 40, "text\ngoes on");
    check("- a\n\n      more\n\n    - b", 40, "• a\n\n  more\n\n  ◦ b");
    check("a:\n\n    ```\n    x\n    ```", 10, "a:\n\n┌─────────\nx\n└─────────");
}

/// However deep text is, and however narrow the window: no line of prose is wider than it.
#[test]
fn depth_has_an_end() {
    let list: String = (0..14).map(|i| format!("{}- level {i} with words\n", "  ".repeat(i))).collect();
    let quotes: String = (0..14).map(|i| format!("{} quoted words\n\n", ">".repeat(i))).collect();
    let numbers = "1000. a number\n\n       1. inside of it, with words\n";
    for text in [list, quotes, numbers.into(), "```a-very-long-language-name\nx\n```\n".into()] {
        for columns in [10, 13, 20, 30, 80] {
            for line in lines(&text, columns) {
                assert!(line.width() <= columns, "{columns}: {}", line.text());
            }
        }
    }
    check("```rust\nx\n```", 8, "┌── ru…\nx\n└───────");
}

#[test]
fn tables_fit() {
    check(
        "| a | b |\n|---|--:|\n| x | 1 |\n| long | 22 |\n\nafter",
        40,
        "a    │  b\n─────┼───\nx    │  1\nlong │ 22\n\nafter",
    );
    check("a | b\n:-:|---\n1 | 2", 40, "a │ b\n──┼──\n1 │ 2");
    check(
        "| 名前 | 値 |\n|---|---|\n| 🙂 | x |\n| 日本 | `a|b` |",
        40,
        "名前 │ 値\n─────┼────\n🙂   │ x\n日本 │ a|b",
    );
    check(
        "| a | b |\n|---|---|\n| one two three four | x |\n| y | z |",
        14,
        "a          │ b\n───────────┼──\none two    │ x\nthree four │\n───────────┼──\ny          │ z",
    );
    check(
        "| a | b |\n|---|---|\n| 1 |\n| 1 | 2 | 3 |\n| x<br>y | z |",
        40,
        "a │ b\n──┼──────\n1 │\n──┼──────\n1 │ 2 | 3\n──┼──────\nx │ z\ny │",
    );
    check("| a | b | c |\n|---|---|---|\n| one | two | three |", 12, "a: one\nb: two\nc: three");
    check("no | table\nbecause", 40, "no | table\nbecause");
    check("| a | b |\n|---|", 40, "| a | b |\n|---|");
}

#[test]
fn emphasis_follows_commonmark() {
    for (text, expected) in [
        ("a **b** c", "a b(b) c"),
        ("*i* _i_ __b__ ~~s~~", "i(i) i(i) b(b) s(s)"),
        ("***both***", "bi(both)"),
        ("**a *b* c**", "b(a )bi(b)b( c)"),
        ("snake_case_name and __init__", "snake_case_name and b(init)"),
        ("a*b*c", "ai(b)c"),
        ("2*3 and 4 * 5", "2*3 and 4 * 5"),
        ("**open", "**open"),
        ("~5 or ~6~", "~5 or ~6~"),
        ("`a*b*` and ``c`d``", "c(a*b*) and c(c`d)"),
        ("`open *a*", "`open i(a)"),
        ("**`x`**", "bc(x)"),
        ("[text](https://a.b/c_d_e)", "l(text)d( (https://a.b/c_d_e))"),
        ("[https://a.b](https://a.b)", "l(https://a.b)"),
        ("[**b**](u \"t\")", "bl(b)d( (u))"),
        ("[1] and [x] (y)", "[1] and [x] (y)"),
        ("![alt](p.png)", "l(image: alt)d( (p.png))"),
        ("<https://a.b> (https://c.d/e_(f)).", "l(https://a.b) (l(https://c.d/e_(f)))."),
        ("*foo**bar**baz*", "i(foo)bi(bar)i(baz)"),
        ("*a**b*", "i(a**b)"),
        ("a < b > c", "a < b > c"),
    ] {
        assert_eq!(styled(text), expected, "{text}");
    }
}

/// While text is still coming, what is open is styled already, and what may become something else is not shown.
#[test]
fn open_text_is_styled_as_it_comes() {
    let shown = |text: &str| {
        let (mut parser, mut done) = (Parser::default(), Vec::new());
        parser.push(text, &mut done);
        let layout = Layout { width: 40, table_rows: usize::MAX };
        let all = done.into_iter().chain(parser.open());
        all.flat_map(|block| layout.lines(&block)).map(|line| marked(&line)).collect::<Vec<_>>().join("/")
    };
    for (text, expected) in [
        ("a **bo", "a b(bo)"),
        ("a **bo*", "a b(bo)"),
        ("a *", "a"),
        ("a 2*3", "a 2*3"),
        ("use `ls", "use c(ls)"),
        ("use `", "use"),
        ("# Ti", "b(Ti)"),
        ("#", ""),
        ("- ", ""),
        ("- x", "• x"),
        ("12", ""),
        ("12 apples", "12 apples"),
        ("``", ""),
        ("```rus", ""),
        ("| a | b |\n|--", "| a | b |"),
        ("| a | b |\n|---|---|\n", "b(a)d( │ )b(b)/d(──┼──)"),
        ("| a | b |\n|---|---|\n| x", "b(a)d( │ )b(b)/d(──┼──)"),
        ("text\n\n", "text"),
        ("    ", ""),
        ("    -", "    -"),
        ("    `", ""),
        ("    a\n      #", "    a/      #"),
        ("    a\n\n", "    a"),
        ("    a\n\n    ", "    a"),
        ("    a\n\n    `", "    a//    `"),
    ] {
        let of_lists = shown(text).replace("\u{1b}", "");
        assert_eq!(of_lists, expected, "{text:?}");
    }
}

/// A document in pieces, however it is cut, is the document; and what is open at the end is what closes then.
#[test]
fn pieces_make_the_same_document() {
    let words = [
        "# ",
        "- ",
        "1. ",
        "> ",
        "```",
        "rust",
        "\n",
        "\n\n",
        "a",
        "b c",
        "**",
        "*",
        "_",
        "`",
        "| ",
        "|---|",
        "[x](y)",
        "  ",
        "    ",
        "~~",
        "---",
        "===",
        "日本",
        "🙂",
        "\\",
        "<br>",
        "https://a.b ",
        "[ ] ",
        "\t",
        "10) ",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for round in 0..2000 {
        let text: String = (0..1 + random(24)).map(|_| words[random(words.len())]).collect();
        let whole = blocks(&text);
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for c in text.chars() {
            parser.push(c.encode_utf8(&mut [0; 4]), &mut out);
            for block in parser.open() {
                Layout { width: 2 + random(40), table_rows: 3 }.lines(&block);
            }
        }
        parser.finish(&mut out);
        assert_eq!(out, whole, "round {round}: {text:?}");
        let letters = |text: &str| text.chars().filter(|c| "abc日本🙂".contains(*c)).count();
        if ["---", "===", "```", "~~~", "<br>"].iter().all(|mark| !text.contains(mark)) {
            let shown: usize = lines(&text, 30).iter().map(|line| letters(&line.text())).sum();
            assert!(shown >= letters(&text), "nothing is lost: {text:?}");
        }
    }
}

/// Whatever a model writes, the work for it stays small.
#[test]
fn hostile_text_is_cheap() {
    let started = std::time::Instant::now();
    for unit in
        ["*a ", "[", "**_a_", "`", "> ", "- ", "|", "![](", "~~a", "\\", "<", "a*", "_a_*", "(", "1. "]
    {
        let text = unit.repeat(40_000 / unit.len());
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for piece in text.as_bytes().chunks(997) {
            parser.push(std::str::from_utf8(piece).expect("ASCII"), &mut out);
            parser.open().iter().for_each(|block| drop(Layout { width: 80, table_rows: 20 }.lines(block)));
        }
        parser.finish(&mut out);
        out.iter().for_each(|block| drop(Layout { width: 80, table_rows: 20 }.lines(block)));
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}

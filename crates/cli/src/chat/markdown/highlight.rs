//! Code in a few colours: comments, strings, numbers, keywords. A light hand: no grammar, line by line, and what a
//! language's table does not know stays plain.

use super::super::style::{Color, Line, Span, Style};

const COMMENT: Style = Style { dim: true, italic: true, ..Style::PLAIN };
const STRING: Style = Style::PLAIN.color(Color::Green);
const NUMBER: Style = Style::PLAIN.color(Color::Magenta);
const KEYWORD: Style = Style { bold: true, ..Style::PLAIN.color(Color::Blue) };
const ADDED: Style = STRING;
const REMOVED: Style = Style::PLAIN.color(Color::Magenta);

/// What a language's text is made of.
#[derive(Debug, PartialEq, Eq)]
struct Language {
    names: &'static [&'static str],
    /// Each of them parted by blanks.
    keywords: &'static str,
    /// What begins a comment up to the line's end.
    line_comments: &'static [&'static str],
    block_comment: Option<(&'static str, &'static str)>,
    /// What opens and closes a string within a line.
    quotes: &'static str,
    /// What opens and closes a string over several lines.
    long_quotes: &'static [&'static str],
    ignores_case: bool,
}

const C_COMMENT: Option<(&str, &str)> = Some(("/*", "*/"));
const BASE: Language = Language {
    names: &[],
    keywords: "",
    line_comments: &[],
    block_comment: None,
    quotes: "\"'",
    long_quotes: &[],
    ignores_case: false,
};

static LANGUAGES: &[Language] = &[
    Language {
        names: &["rust", "rs"],
        keywords: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod \
                   move mut pub ref return self Self static struct super trait true type unsafe use where while",
        line_comments: &["//"],
        block_comment: C_COMMENT,
        // A single quote is a lifetime more often than a character.
        quotes: "\"",
        ..BASE
    },
    Language {
        names: &["python", "py", "python3"],
        keywords: "and as assert async await break class continue def del elif else except finally for from global if import \
                   in is lambda match case nonlocal not or pass raise return try while with yield None True False self",
        line_comments: &["#"],
        long_quotes: &["\"\"\"", "'''"],
        ..BASE
    },
    Language {
        names: &["javascript", "js", "jsx", "typescript", "ts", "tsx", "mjs"],
        keywords: "abstract any as async await boolean break case catch class const continue debugger declare default delete \
                   do else enum export extends false finally for from function get if implements import in instanceof \
                   interface let namespace new null number of private protected public readonly return set static string \
                   super switch this throw true try type typeof undefined var void while with yield",
        line_comments: &["//"],
        block_comment: C_COMMENT,
        long_quotes: &["`"],
        ..BASE
    },
    Language {
        names: &["c", "h", "cpp", "c++", "cc", "hpp", "cuda", "objc"],
        keywords: "alignas auto bool break case catch char class const constexpr continue default delete do double else enum \
                   explicit extern false float for friend goto if inline int long mutable namespace new noexcept nullptr \
                   operator override private protected public register return short signed sizeof static struct switch \
                   template this throw true try typedef typename union unsigned using virtual void volatile while \
                   #include #define #if #ifdef #ifndef #else #elif #endif #pragma",
        line_comments: &["//"],
        block_comment: C_COMMENT,
        ..BASE
    },
    Language {
        names: &["java", "kotlin", "kt", "csharp", "cs", "c#", "scala", "swift", "dart", "php"],
        keywords: "abstract as async await base bool boolean break byte case catch char class companion const continue data \
                   decimal default def do double else enum extends extension false final finally float for foreach fun func \
                   function guard if implements import in init int interface internal is let long match namespace new null \
                   nil object open operator out override package private protected public record return sealed self short \
                   static string struct super switch this throw throws trait true try type typeof using val var virtual void \
                   when where while with yield",
        line_comments: &["//"],
        block_comment: C_COMMENT,
        long_quotes: &["\"\"\""],
        ..BASE
    },
    Language {
        names: &["go", "golang"],
        keywords: "break case chan const continue default defer else fallthrough false for func go goto if import interface \
                   map nil package range return select struct switch true type var",
        line_comments: &["//"],
        block_comment: C_COMMENT,
        long_quotes: &["`"],
        ..BASE
    },
    Language {
        names: &["bash", "sh", "shell", "zsh", "console", "fish", "dockerfile", "make", "makefile"],
        keywords: "case do done elif else esac export fi for function if in local return select then until while alias cd echo \
                   exit set source sudo unset FROM RUN CMD COPY ENV ENTRYPOINT WORKDIR EXPOSE ARG",
        line_comments: &["#"],
        ..BASE
    },
    Language {
        names: &["ruby", "rb", "elixir", "perl", "r", "julia", "lua"],
        keywords: "alias and begin break case class def do else elsif elseif end ensure false fn for foreach function if in \
                   local lambda library loop module my next nil not or our redo repeat require rescue retry return self sub \
                   super then true undef unless until use using when while yield TRUE FALSE NULL",
        line_comments: &["#", "--"],
        ..BASE
    },
    Language {
        names: &["sql", "postgresql", "mysql", "sqlite"],
        keywords: "add all alter and as asc begin between by case check column commit constraint create cross default delete \
                   desc distinct drop else end exists foreign from full group having if in index inner insert into is join \
                   key left like limit not null offset on or order outer primary references returning right rollback select \
                   set table then transaction union unique update using values view when where with",
        line_comments: &["--"],
        block_comment: C_COMMENT,
        ignores_case: true,
        ..BASE
    },
    Language {
        names: &["json", "jsonc", "json5"],
        keywords: "true false null",
        line_comments: &["//"],
        ..BASE
    },
    Language {
        names: &["yaml", "yml", "toml", "ini", "conf", "properties"],
        keywords: "true false null yes no on off",
        line_comments: &["#", ";"],
        ..BASE
    },
    Language { names: &["html", "xml", "svg", "vue"], block_comment: Some(("<!--", "-->")), ..BASE },
    Language { names: &["css", "scss", "less"], block_comment: C_COMMENT, ..BASE },
    Language {
        names: &["haskell", "hs", "elm"],
        keywords: "case class data deriving do else if import in infixl infixr instance let module newtype of then type where",
        line_comments: &["--"],
        block_comment: Some(("{-", "-}")),
        quotes: "\"",
        ..BASE
    },
];

/// A highlighter within a block of code: its language, and what is still open from the lines before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Highlighter {
    language: Option<&'static Language>,
    is_diff: bool,
    /// What ends the comment or string that is open, and its style.
    open: Option<(&'static str, Style)>,
}

impl Highlighter {
    /// For the language that a fence names; unknown ones stay plain.
    pub fn new(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let language = LANGUAGES.iter().find(|language| language.names.contains(&&*name));
        Self { language, is_diff: matches!(&*name, "diff" | "patch"), open: None }
    }

    /// The next line.
    pub fn line(&mut self, text: &str) -> Vec<Span> {
        if self.is_diff {
            let style = match text.as_bytes().first() {
                Some(b'+') => ADDED,
                Some(b'-') => REMOVED,
                Some(b'@') => KEYWORD,
                _ => Style::PLAIN,
            };
            return vec![Span::new(text, style)];
        }
        let Some(language) = self.language else { return vec![Span::new(text, Style::PLAIN)] };
        let mut line = Line::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (n, style) = self.token(language, rest);
            line.push(&rest[..n], style);
            rest = &rest[n..];
        }
        line.0
    }

    /// The token at the beginning of `rest`, which is not empty: its length and its style.
    fn token(&mut self, language: &'static Language, rest: &str) -> (usize, Style) {
        if let Some((end, style)) = self.open {
            return match rest.find(end) {
                Some(at) => {
                    self.open = None;
                    (at + end.len(), style)
                }
                None => (rest.len(), style),
            };
        }
        if language.line_comments.iter().any(|mark| rest.starts_with(mark)) {
            return (rest.len(), COMMENT);
        }
        if let Some((start, end)) = language.block_comment
            && rest.starts_with(start)
        {
            self.open = Some((end, COMMENT));
            return (start.len(), COMMENT);
        }
        if let Some(quote) = language.long_quotes.iter().find(|quote| rest.starts_with(**quote)) {
            self.open = Some((quote, STRING));
            return (quote.len(), STRING);
        }
        let first = rest.chars().next().expect("it is not empty");
        if language.quotes.contains(first) {
            return match string_end(rest, first) {
                Some(n) => (n, STRING),
                None => (first.len_utf8(), Style::PLAIN),
            };
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if is_word(first) || first == '#' {
            let n =
                rest[first.len_utf8()..].find(|c| !is_word(c)).map_or(rest.len(), |n| n + first.len_utf8());
            return (n, word_style(language, &rest[..n]));
        }
        (first.len_utf8(), Style::PLAIN)
    }
}

fn word_style(language: &Language, word: &str) -> Style {
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return NUMBER;
    }
    let same = |keyword: &str| {
        if language.ignores_case { keyword.eq_ignore_ascii_case(word) } else { keyword == word }
    };
    if language.keywords.split_whitespace().any(same) { KEYWORD } else { Style::PLAIN }
}

/// How long the string is that begins here, if it ends on this line.
fn string_end(rest: &str, quote: char) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            c if c == quote => return Some(i + c.len_utf8()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines with their coloured parts in marks: `«keyword»`, `"string"` as `‹…›`, `⟨comment⟩`, `#number#`.
    fn marked(language: &str, text: &str) -> String {
        let mut highlighter = Highlighter::new(language);
        let lines: Vec<String> = text
            .split('\n')
            .map(|line| {
                let spans = highlighter.line(line);
                assert_eq!(
                    spans.iter().map(|s| s.text.as_str()).collect::<String>(),
                    line,
                    "nothing is lost"
                );
                let mark = |span: &Span| match span.style {
                    KEYWORD => format!("«{}»", span.text),
                    STRING => format!("‹{}›", span.text),
                    COMMENT => format!("⟨{}⟩", span.text),
                    NUMBER => format!("#{}#", span.text),
                    _ => span.text.clone(),
                };
                spans.iter().map(mark).collect()
            })
            .collect();
        lines.join("\n")
    }

    #[test]
    fn tokens_have_their_colours() {
        for (language, text, expected) in [
            ("rust", "let x = 5; // five", "«let» x = #5#; ⟨// five⟩"),
            ("rust", "fn f<'a>(s: &'a str) -> \"x\\\"y\"", "«fn» f<'a>(s: &'a str) -> ‹\"x\\\"y\"›"),
            ("rust", "a /* b\nc */ d", "a ⟨/* b⟩\n⟨c */⟩ d"),
            (
                "python",
                "def f():\n    \"\"\"doc\n    more\"\"\"\n    return 'x'  # end",
                "«def» f():\n    ‹\"\"\"doc›\n‹    more\"\"\"›\n    «return» ‹'x'›  ⟨# end⟩",
            ),
            ("SQL", "SELECT a FROM t -- all", "«SELECT» a «FROM» t ⟨-- all⟩"),
            ("js", "const s = `a\nb`;", "«const» s = ‹`a›\n‹b`›;"),
            ("json", "{\"a\": null}", "{‹\"a\"›: «null»}"),
            ("c", "#include <x.h>", "«#include» <x.h>"),
            ("sh", "echo \"it's\" 'don", "«echo» ‹\"it's\"› 'don"),
            ("brainfuck", "let x = 'y'", "let x = 'y'"),
            ("", "#!plain", "#!plain"),
        ] {
            assert_eq!(marked(language, text), expected);
        }
        assert_eq!(Highlighter::new("diff").line("+x")[0].style, ADDED);
    }

    #[test]
    fn no_language_has_another_s_name() {
        let mut names: Vec<&str> = LANGUAGES.iter().flat_map(|l| l.names.iter().copied()).collect();
        names.sort_unstable();
        let n = names.len();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}

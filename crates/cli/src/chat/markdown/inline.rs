//! What stands within a block: emphasis, code, links.
//!
//! Emphasis follows CommonMark's rules of flanking. Where the text is still coming, what a marker has opened counts as
//! closed at the end, so that bold text is bold from its first word on; a marker at the very end waits for what follows.

use super::super::style::{Color, Span, Style};

/// Most markers of emphasis that wait for their other half; beyond, they are text.
const OPENERS_MAX: usize = 64;
/// Most bytes of a code span, of a link's label and of its target; longer ones are text.
const SPAN_BYTES_MAX: usize = 2000;
/// How deep links and images may hold others.
const DEPTH_MAX: usize = 3;

/// Whether the text goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Open,
    Closed,
}

/// The styled text of a block. `base` is the style of all of it.
pub fn spans(text: &str, base: Style, ending: Ending) -> Vec<Span> {
    let mut pieces = tokenize(text, base, ending, 0);
    emphasize(&mut pieces, ending);
    let mut line = super::super::style::Line::default();
    for piece in pieces {
        match piece.what {
            What::Text(text) => line.push(&text, piece.style),
            What::Marker { c, left, .. } => line.push(&c.to_string().repeat(left), piece.style),
        }
    }
    line.0
}

struct Piece {
    what: What,
    style: Style,
}

enum What {
    Text(String),
    /// A run of one character, of which `left` have no meaning so far.
    Marker {
        c: char,
        left: usize,
        opens: bool,
        closes: bool,
        begins_word: bool,
    },
}

const CODE: Style = Style::PLAIN.color(Color::Yellow);
const LINK: Style = Style { underline: true, ..Style::PLAIN.color(Color::Blue) };

fn tokenize(text: &str, base: Style, ending: Ending, depth: usize) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    let flush = |plain: &mut String, pieces: &mut Vec<Piece>| {
        if !plain.is_empty() {
            pieces.push(Piece { what: What::Text(std::mem::take(plain)), style: base });
        }
    };
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let before = text[..at].chars().next_back();
        let styled: Option<(usize, Vec<(String, Style)>)> = match c {
            '\\' => escaped(rest).map(|c| (1 + c.len_utf8(), vec![(c.to_string(), base)])),
            '`' => code(rest, before, ending).map(|(n, text)| (n, vec![(text, base.and(CODE))])),
            '[' | '!' if depth < DEPTH_MAX => link(rest).map(|(n, shown)| {
                let label = spans_of_label(&shown.label, base.and(LINK), depth);
                (
                    n,
                    label
                        .into_iter()
                        .chain(shown.target.map(|url| (format!(" ({url})"), base.and(Style::DIM))))
                        .collect(),
                )
            }),
            '<' => angle(rest, base),
            'h' if before.is_none_or(|c| !c.is_alphanumeric()) => {
                address(rest).map(|n| (n, vec![(rest[..n].to_owned(), base.and(LINK))]))
            }
            _ => None,
        };
        if let Some((n, parts)) = styled {
            flush(&mut plain, &mut pieces);
            pieces.extend(parts.into_iter().map(|(text, style)| Piece { what: What::Text(text), style }));
            at += n;
            continue;
        }
        if matches!(c, '*' | '_' | '~') {
            flush(&mut plain, &mut pieces);
            let run = rest.chars().take_while(|&other| other == c).count();
            let after = rest[run..].chars().next();
            pieces.push(Piece { what: marker(c, run, before, after), style: base });
            at += run;
            continue;
        }
        // A run of backticks that opens nothing is text as a whole.
        let n = if c == '`' { rest.bytes().take_while(|&b| b == b'`').count() } else { c.len_utf8() };
        plain.push_str(&rest[..n]);
        at += n;
    }
    // What a code span may begin with waits.
    if ending == Ending::Open {
        let n = plain.len() - plain.trim_end_matches('`').len();
        plain.truncate(plain.len() - n);
    }
    flush(&mut plain, &mut pieces);
    pieces
}

fn spans_of_label(label: &str, style: Style, depth: usize) -> Vec<(String, Style)> {
    let mut pieces = tokenize(label, style, Ending::Closed, depth + 1);
    emphasize(&mut pieces, Ending::Closed);
    let text = |piece: Piece| match piece.what {
        What::Text(text) => (text, piece.style),
        What::Marker { c, left, .. } => (c.to_string().repeat(left), piece.style),
    };
    pieces.into_iter().map(text).collect()
}

/// The character that a backslash takes its meaning from. Brackets keep theirs: `\(` and `\[` open formulas.
fn escaped(rest: &str) -> Option<char> {
    rest[1..].chars().next().filter(|c| c.is_ascii_punctuation() && !"()[]".contains(*c))
}

/// A code span at the beginning of `rest`: how many bytes it has, and its text.
fn code(rest: &str, before: Option<char>, ending: Ending) -> Option<(usize, String)> {
    let run = rest.bytes().take_while(|&b| b == b'`').count();
    let body = start_of(&rest[run..]);
    let mut at = 0;
    while let Some(found) = body[at..].find('`') {
        let start = at + found;
        let n = body[start..].bytes().take_while(|&b| b == b'`').count();
        if n == run {
            let text = body[..start].replace('\n', " ");
            let inner = text.strip_prefix(' ').and_then(|t| t.strip_suffix(' '));
            let text = inner.filter(|t| !t.trim().is_empty()).unwrap_or(&text).to_owned();
            return Some((run + start + n, text));
        }
        at = start + n;
    }
    let begins_word = before.is_none_or(|c| !c.is_alphanumeric());
    let is_whole = run + body.len() == rest.len();
    if ending == Ending::Open && run < 3 && begins_word && is_whole && !body.is_empty() {
        return Some((rest.len(), body.trim_end_matches('`').to_owned()));
    }
    None
}

struct Link {
    label: String,
    /// Where it leads, if the label does not say so.
    target: Option<String>,
}

/// `[label](target "title")` or the same with `!` before it. Where a link leads is always shown: a label says nothing
/// about that.
fn link(rest: &str) -> Option<(usize, Link)> {
    let is_image = rest.starts_with('!');
    let body = rest.strip_prefix('!').unwrap_or(rest).strip_prefix('[')?;
    // Most brackets are no links, and that is cheap to see.
    let near = start_of(body);
    near[near.find("](")?..].find(')')?;
    let close = closing(body, '[', ']')?;
    let target_part = body[close + 1..].strip_prefix('(')?;
    let end = closing(target_part, '(', ')')?;
    let inside = target_part[..end].trim();
    let target = inside.split_whitespace().next().unwrap_or("").trim_matches(['<', '>']);
    if target.is_empty() && !inside.is_empty() || inside.contains('\n') {
        return None;
    }
    let label = &body[..close];
    let n = usize::from(is_image) + 1 + close + 2 + end + 1;
    let shown = if is_image { format!("image: {label}") } else { label.to_owned() };
    let said = label.trim() == target || target.is_empty();
    Some((n, Link { label: shown, target: (!said).then(|| target.to_owned()) }))
}

/// As much of a text as a span may have.
fn start_of(text: &str) -> &str {
    &text[..text.floor_char_boundary(SPAN_BYTES_MAX)]
}

/// Where the bracket closes that is open before `text`.
fn closing(text: &str, open: char, close: char) -> Option<usize> {
    let text = start_of(text);
    let mut depth = 0;
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            c if c == close && depth == 0 => return Some(i),
            c if c == close => depth -= 1,
            c if c == open => depth += 1,
            _ => {}
        }
    }
    None
}

/// `<https://…>`, and the line break that models write in tables.
fn angle(rest: &str, base: Style) -> Option<(usize, Vec<(String, Style)>)> {
    for tag in ["<br>", "<br/>", "<br />"] {
        if rest.len() >= tag.len()
            && rest.is_char_boundary(tag.len())
            && rest[..tag.len()].eq_ignore_ascii_case(tag)
        {
            return Some((tag.len(), vec![("\n".into(), base)]));
        }
    }
    let end = start_of(rest).find('>')?;
    let inside = &rest[1..end];
    let is_address = inside.starts_with("http://") || inside.starts_with("https://");
    let whole = is_address && !inside.contains(char::is_whitespace);
    whole.then(|| (end + 1, vec![(inside.to_owned(), base.and(LINK))]))
}

/// How long a bare address at the beginning of `rest` is.
fn address(rest: &str) -> Option<usize> {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| rest.starts_with(scheme))?;
    let end = rest.find(|c: char| c.is_whitespace() || "<>\"`*|".contains(c)).unwrap_or(rest.len());
    let mut address = rest[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '~']);
    // A bracket around it is not part of it.
    while address.ends_with(')') && address.matches(')').count() > address.matches('(').count() {
        address = &address[..address.len() - 1];
    }
    (address.len() > scheme.len()).then_some(address.len())
}

fn marker(c: char, run: usize, before: Option<char>, after: Option<char>) -> What {
    let is_space = |c: Option<char>| c.is_none_or(char::is_whitespace);
    let is_punctuation = |c: Option<char>| c.is_some_and(|c| !c.is_alphanumeric() && !c.is_whitespace());
    let left = !is_space(after) && (!is_punctuation(after) || is_space(before) || is_punctuation(before));
    let right = !is_space(before) && (!is_punctuation(before) || is_space(after) || is_punctuation(after));
    let (opens, closes) = match c {
        '_' => (left && (!right || is_punctuation(before)), right && (!left || is_punctuation(after))),
        // One tilde means about.
        '~' => (left && run == 2, right && run == 2),
        _ => (left, right),
    };
    What::Marker { c, left: run, opens, closes, begins_word: is_space(before) || is_punctuation(before) }
}

/// Finds the pairs of markers, and gives what is between them its style.
fn emphasize(pieces: &mut [Piece], ending: Ending) {
    let mut openers: Vec<usize> = Vec::new();
    for i in 0..pieces.len() {
        let What::Marker { c, closes, opens, .. } = pieces[i].what else { continue };
        if closes && !(ending == Ending::Open && may_grow(pieces, &openers, i)) {
            while let Some(k) = opener(pieces, &openers, i) {
                let n = if left(&pieces[openers[k]]) >= 2 && left(&pieces[i]) >= 2 { 2 } else { 1 };
                let from = openers[k];
                apply(&mut pieces[from + 1..i], c, n);
                openers.truncate(k + 1);
                take(&mut pieces[from], n);
                take(&mut pieces[i], n);
                if left(&pieces[from]) == 0 {
                    openers.truncate(k);
                }
            }
        }
        if opens && left(&pieces[i]) > 0 && openers.len() < OPENERS_MAX {
            openers.push(i);
        }
    }
    if ending == Ending::Open {
        close_all(pieces, &openers);
    }
}

/// Whether the closer `i` is the text's last character so far, and the first half of one that closes `**`.
fn may_grow(pieces: &[Piece], openers: &[usize], i: usize) -> bool {
    let is_half = i + 1 == pieces.len() && left(&pieces[i]) == 1;
    is_half && opener(pieces, openers, i).is_some_and(|k| left(&pieces[openers[k]]) >= 2)
}

/// The nearest opener that the closer `i` closes.
fn opener(pieces: &[Piece], openers: &[usize], i: usize) -> Option<usize> {
    let What::Marker { c, left: n, opens, .. } = pieces[i].what else { return None };
    if n == 0 {
        return None;
    }
    openers.iter().rposition(|&k| match pieces[k].what {
        What::Marker { c: other, left, closes, .. } => {
            // Of markers that could be both, a sum of three is no pair: `*a**b*` has one emphasis.
            let may_be_both = opens || closes;
            let is_odd = may_be_both && (left + n) % 3 == 0 && (left % 3 != 0 || n % 3 != 0);
            other == c && left > 0 && !is_odd
        }
        What::Text(_) => false,
    })
}

fn left(piece: &Piece) -> usize {
    match piece.what {
        What::Marker { left, .. } => left,
        What::Text(_) => 0,
    }
}

fn take(piece: &mut Piece, n: usize) {
    if let What::Marker { left, .. } = &mut piece.what {
        *left -= n;
    }
}

fn apply(pieces: &mut [Piece], c: char, n: usize) {
    let style = match (c, n) {
        ('~', _) => Style { strike: true, ..Style::PLAIN },
        (_, 1) => Style { italic: true, ..Style::PLAIN },
        _ => Style { bold: true, ..Style::PLAIN },
    };
    pieces.iter_mut().for_each(|piece| piece.style = piece.style.and(style));
}

/// The text goes on: what is open is taken to be closed at its end, and a marker there to be the beginning of more.
fn close_all(pieces: &mut [Piece], openers: &[usize]) {
    let end = pieces.len();
    for &k in openers {
        let What::Marker { c, left: n, begins_word: true, .. } = pieces[k].what else { continue };
        if k + 1 == end {
            continue;
        }
        for n in if n >= 3 { vec![2, 1] } else { vec![n.min(2)] } {
            apply(&mut pieces[k + 1..], c, n);
            take(&mut pieces[k], n);
        }
    }
    if let Some(Piece { what: What::Marker { left, .. }, .. }) = pieces.last_mut() {
        *left = 0;
    }
}

//! Calls that are a name, a mark, and one JSON object.

use super::family::{Head, NamedShape};
use super::input::{At, Find, JsonScan, Marks};
use super::io::{Io, Step};
use super::tools::{escape, is_name};

/// The longest head.
const HEAD_BYTES_MAX: usize = 512;
/// What some models put around the arguments.
const FENCES: [&str; 2] = ["```json", "```"];

#[derive(Clone, Debug)]
enum State {
    /// A section has begun: a call follows, or its head.
    Section,
    Head,
    /// The line with the name, behind the separator.
    NameLine,
    Body,
    /// Arguments that go out as they come.
    Pass(JsonScan),
    /// A program, which goes out as one argument.
    Program,
    /// Behind the arguments.
    After,
}

/// What a mark means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Call,
    End,
    SectionEnd,
    Fence,
}

/// Reads calls with their names in front.
#[derive(Clone, Debug)]
pub(super) struct NamedCalls {
    shape: &'static NamedShape,
    separators: Marks,
    /// What may stand around arguments, and what each means.
    marks: Marks,
    kinds: Vec<Kind>,
    calls: Marks,
    state: State,
    name: String,
    id: Option<String>,
    /// Where text may go on as something else: behind the last call.
    back: usize,
    n_calls: u32,
}

impl NamedCalls {
    /// Begins behind a mark: that of a section, or of a call.
    pub fn new(shape: &'static NamedShape, section: bool) -> Self {
        let groups = [
            (shape.calls, Kind::Call),
            (shape.ends, Kind::End),
            (shape.section_ends, Kind::SectionEnd),
            (&FENCES, Kind::Fence),
        ];
        let marks = groups.iter().flat_map(|(marks, kind)| marks.iter().map(|mark| (*mark, *kind)));
        let (marks, kinds): (Vec<_>, Vec<_>) = marks.unzip();
        Self {
            shape,
            separators: Marks::new(shape.separators.iter().copied()),
            marks: Marks::new(marks),
            kinds,
            calls: Marks::new(shape.calls.iter().copied()),
            state: if section { State::Section } else { State::Head },
            name: String::new(),
            id: None,
            back: 0,
            n_calls: 0,
        }
    }

    /// A program for this tool, to the end of the answer.
    pub fn program_of(shape: &'static NamedShape, name: &str, io: &mut Io) -> Self {
        io.call(None, name);
        io.emit.arguments(program_begins(io.tools.text_parameter(name)));
        Self { state: State::Program, ..Self::new(shape, false) }
    }

    pub fn step(&mut self, io: &mut Io) -> Step {
        loop {
            let step = match &mut self.state {
                State::Section => self.section(io),
                State::Head => self.head(io),
                State::NameLine => self.name_line(io),
                State::Body => self.body(io),
                State::Pass(scan) => {
                    if io.pass_json(scan) {
                        self.over(io);
                        None
                    } else {
                        Some(Step::More)
                    }
                }
                State::Program => self.program(io),
                State::After => self.after(io),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// The mark that stands here, if any; `Err` if that is not certain yet.
    fn mark(&self, io: &Io) -> Result<Option<(Kind, usize)>, Step> {
        match self.marks.at(io.input.rest(), io.input.eof) {
            At::Perhaps => Err(Step::More),
            At::Mark(mark) => Ok(Some((self.kinds[mark], self.marks.len_of(mark)))),
            At::No => Ok(None),
        }
    }

    fn section(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        match self.mark(io) {
            Err(step) => return Some(step),
            Ok(Some((Kind::Call, n))) => io.input.advance(n),
            Ok(Some(_)) => return Some(Step::NotACall),
            Ok(None) => {}
        }
        self.state = State::Head;
        None
    }

    fn head(&mut self, io: &mut Io) -> Option<Step> {
        let rest = io.input.rest();
        let (n, mark) = match self.separators.find_before(rest, HEAD_BYTES_MAX + 1, io.input.eof) {
            Find::Mark(n, mark) => (n, mark),
            Find::None(n) => {
                let head = rest[..n].trim_ascii();
                let free = matches!(self.shape.head, Head::NameAndId | Head::Kimi | Head::DeepSeek);
                let name = if free { !head.contains('\n') } else { head.is_empty() || is_name(head) };
                let possible = n <= HEAD_BYTES_MAX && name;
                return Some(if possible { Step::More } else { Step::NotACall });
            }
        };
        let head = rest[..n].trim_ascii();
        let (name, id) = match self.shape.head {
            Head::NameAndId => match head.split_once("[CALL_ID]") {
                Some((name, id)) => (name.trim_ascii(), Some(id.trim_ascii())),
                None => (head, None),
            },
            Head::Kimi => {
                let name = head.strip_prefix("functions.").unwrap_or(head);
                let index = |i: &str| !i.is_empty() && i.bytes().all(|b| b.is_ascii_digit());
                (name.rsplit_once(':').filter(|(_, i)| index(i)).map_or(name, |(name, _)| name), Some(head))
            }
            Head::Name | Head::DeepSeek | Head::Recipient => (head, None),
        };
        let recipient = self.shape.head == Head::Recipient;
        let all = recipient && name == "all";
        if !is_name(name) || !(all || io.may_call(name)) {
            return Some(Step::NotACall);
        }
        (self.name, self.id) = (name.to_owned(), id.map(str::to_owned));
        io.input.advance(n + self.separators.len_of(mark));
        if all {
            // Said to the user: no call, but no text is lost.
            io.input.release();
            return Some(Step::Done);
        }
        self.state = State::Body;
        None
    }

    fn name_line(&mut self, io: &mut Io) -> Option<Step> {
        let rest = io.input.rest();
        let Some(n) = rest.bytes().take(HEAD_BYTES_MAX + 1).position(|b| b == b'\n') else {
            return Some(if rest.len() > HEAD_BYTES_MAX { Step::NotACall } else { Step::More });
        };
        let name = rest[..n].trim_ascii();
        if !is_name(name) || !io.may_call(name) {
            return Some(Step::NotACall);
        }
        self.name = name.to_owned();
        io.input.advance(n);
        self.state = State::Body;
        None
    }

    /// Before the arguments.
    fn body(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() && !io.input.eof {
            return Some(Step::More);
        }
        match self.mark(io) {
            Err(step) => return Some(step),
            Ok(Some((Kind::Fence, n))) => {
                io.input.advance(n);
                return None;
            }
            Ok(Some((Kind::End | Kind::SectionEnd, _))) => {
                io.call(self.id.take(), &self.name);
                io.emit.arguments("{}".into());
                self.over(io);
                return None;
            }
            Ok(_) => {}
        }
        match io.input.first() {
            Some(b'{') => {
                io.call(self.id.take(), &self.name);
                self.state = State::Pass(JsonScan::default());
                None
            }
            None => Some(Step::More),
            Some(_) if self.shape.head == Head::Recipient => {
                io.call(self.id.take(), &self.name);
                io.emit.arguments(program_begins(io.tools.text_parameter(&self.name)));
                self.state = State::Program;
                None
            }
            // The word was the kind of tool.
            Some(_) if self.shape.head == Head::DeepSeek && self.name == "function" => {
                self.state = State::NameLine;
                None
            }
            Some(_) => Some(Step::NotACall),
        }
    }

    fn program(&mut self, io: &mut Io) -> Option<Step> {
        let (n, ends) = match self.calls.find(io.input.rest(), io.input.eof) {
            Find::Mark(n, _) => (n, true),
            Find::None(n) => (n, io.input.eof),
        };
        let text = io.input.take(n);
        let mut json = String::with_capacity(text.len() + 2);
        escape(&text, &mut json);
        if ends {
            json.push_str("\"}");
            self.over(io);
        }
        io.emit.arguments(json);
        (!ends).then_some(Step::More)
    }

    /// A call is complete.
    fn over(&mut self, io: &mut Io) {
        self.n_calls += 1;
        self.back = io.input.pos();
        io.input.hold_from(self.back);
        self.state = State::After;
    }

    fn after(&mut self, io: &mut Io) -> Option<Step> {
        let over = |this: &Self, io: &mut Io| {
            io.input.back_to(this.back);
            io.input.release();
            Some(Step::Done)
        };
        if !io.input.skip_space() {
            return if io.input.eof { over(self, io) } else { Some(Step::More) };
        }
        match self.mark(io) {
            Err(step) => return Some(step),
            Ok(None) => return over(self, io),
            Ok(Some((kind, n))) => {
                io.input.advance(n);
                match kind {
                    Kind::Call => self.state = State::Head,
                    Kind::SectionEnd => {
                        io.input.release();
                        return Some(Step::Done);
                    }
                    Kind::End | Kind::Fence => {
                        self.back = io.input.pos();
                        io.input.hold_from(self.back);
                    }
                }
            }
        }
        None
    }
}

/// The arguments of a call that is a program, up to its text.
fn program_begins(parameter: &str) -> String {
    let mut json = String::from("{\"");
    escape(parameter, &mut json);
    json.push_str("\": \"");
    json
}

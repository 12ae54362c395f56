//! The machine around the engines: what is said, what is thought, where calls begin.

use super::family::{BUILTIN, Begin, Dialect, Engine, Family, PROGRAM, TAGGED_JSON, Thoughts};
use super::harmony::Harmony;
use super::input::{At, Find, Input, Marks};
use super::io::{Emit, Io, Step};
use super::json_calls::JsonCalls;
use super::loose_calls::{BUILTIN_SUFFIX, LooseCalls, is_builtin_call};
use super::named_calls::NamedCalls;
use super::tools::Tools;
use super::xml_calls::XmlCalls;
use super::{Output, OutputContext, Phase, Piece};

/// How much of a call's beginning is looked at.
const WINDOW_BYTES: usize = 64;
/// What ends a call where a block has no mark of its own.
const XML_ENDS: &[&str] = &["</tool_call>"];
/// Tools that may run a program that comes without a name.
const INTERPRETERS: [&str; 3] = ["python", "ipython", "code_interpreter"];
/// What only a turn's own marks hold: text in which one of these stands is more than the answer's beginning.
const TURN_MARKS: [&str; 9] =
    ["<|", "<｜", "</s>", "[/INST]", "<end_of_turn>", "<start_of_turn>", "]~b]", "<role>", "\n\nAssistant:"];

/// What a mark means where something is said or thought.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    Open,
    Close,
    Call(usize),
    Noise,
    WrapOpen,
    WrapClose,
}

/// Marks, and what each means.
#[derive(Clone, Debug)]
struct Meanings {
    marks: Marks,
    meanings: Vec<Meaning>,
}

impl Meanings {
    fn new(marks: Vec<(&'static str, Meaning)>) -> Self {
        let (marks, meanings): (Vec<_>, Vec<_>) = marks.into_iter().unzip();
        Self { marks: Marks::new(marks), meanings }
    }
}

/// White space that may be layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// There is none: text has begun.
    No,
    /// Nothing was said yet, or a call ended. What comes before a mark or the end is dropped, all else is text.
    Perhaps,
    /// Thoughts ended: it is dropped.
    Surely,
}

#[derive(Clone, Debug)]
enum State {
    Content(Gap),
    /// `true`: nothing was thought yet.
    Reasoning(bool),
    /// A call's first mark was there.
    Begins(Engine, bool),
    Json(JsonCalls),
    Named(NamedCalls),
    Xml(XmlCalls),
    Loose(LooseCalls),
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    input: Input,
    tools: Tools,
    state: State,
    thoughts: Option<Thoughts>,
    in_text: bool,
    begins: Vec<Begin>,
    /// Every mark that the format has: other control tokens are dropped.
    known_marks: Vec<&'static str>,
    /// Where an answer begins, where it goes on, and in thoughts.
    fresh: Meanings,
    flow: Meanings,
    inside: Meanings,
    /// White space that waits: it may be layout.
    space: String,
    /// Thoughts began on a new line, so the line's end before their end is layout too.
    lines: bool,
    /// The wrap around what is said was opened.
    wrapped: bool,
    /// What is held came out of thoughts.
    from_thoughts: bool,
    /// The current call counts only if its tool is known.
    known: bool,
    n_calls: u32,
    /// What the prompt had of the thoughts' mark, if it goes into the text.
    prefix: String,
    harmony: Option<Harmony>,
}

impl Machine {
    pub fn new(family: Family, thoughts: Option<Thoughts>, context: &OutputContext) -> Self {
        let table = family.table();
        let tools = Tools::new(context.tools);
        // A recipient is named even where only the user can be one.
        let addressed = family == Family::Functionary32;
        let begins = if tools.is_empty() && !addressed { Vec::new() } else { table.begins };
        let calls = |fresh: bool| {
            let begins = begins.iter().enumerate().filter(move |(_, b)| fresh || !b.fresh);
            begins.flat_map(|(i, b)| b.marks.iter().map(move |mark| (*mark, Meaning::Call(i))))
        };
        let noise = || table.noise.iter().map(|mark| (*mark, Meaning::Noise));
        let mut fresh: Vec<_> = calls(true).chain(noise()).collect();
        let mut flow: Vec<_> = calls(false).chain(noise()).collect();
        let mut inside: Vec<_> = if table.calls_in_thoughts { calls(false).collect() } else { Vec::new() };
        if let Some(thoughts) = thoughts {
            // Noise that thoughts end with is what ends them there.
            fresh.retain(|(mark, _)| *mark != thoughts.close);
            fresh.extend([(thoughts.open, Meaning::Open), (thoughts.close, Meaning::Noise)]);
            inside.push((thoughts.close, Meaning::Close));
            if thoughts.anywhere {
                flow.push((thoughts.open, Meaning::Open));
            }
        }
        if let Some((open, close)) = table.wrap {
            fresh.push((open, Meaning::WrapOpen));
            flow.push((close, Meaning::WrapClose));
        }
        let mut known_marks: Vec<&'static str> =
            fresh.iter().chain(&flow).chain(&inside).map(|(mark, _)| *mark).collect();
        known_marks.extend(begins.iter().flat_map(Begin::inner_marks));
        let harmony = (family == Family::Harmony).then(|| Harmony::new(context));
        let mut machine = Self {
            input: Input::default(),
            tools,
            state: State::Content(Gap::Perhaps),
            thoughts,
            in_text: context.reasoning_in_text,
            begins,
            known_marks,
            fresh: Meanings::new(fresh),
            flow: Meanings::new(flow),
            inside: Meanings::new(inside),
            space: String::new(),
            lines: false,
            wrapped: false,
            from_thoughts: false,
            known: false,
            n_calls: 0,
            prefix: String::new(),
            harmony,
        };
        machine.read_prompt(family, context.prompt_end);
        machine
    }

    /// Where the prompt leaves the answer: inside of thoughts, in the middle of a text, or at a recipient.
    fn read_prompt(&mut self, family: Family, prompt: &str) {
        if family == Family::Functionary32 && prompt.ends_with(">>>") {
            self.input.hold_from(0);
            self.known = true;
            self.state = State::Begins(self.begins[0].engine, false);
            return;
        }
        let Some(thoughts) = self.thoughts else { return };
        let Some(open) = prompt.rfind(thoughts.open) else { return };
        let behind = &prompt[open + thoughts.open.len()..];
        if behind.contains(thoughts.close) || TURN_MARKS.iter().any(|mark| behind.contains(mark)) {
            return;
        }
        self.lines = behind.starts_with('\n');
        let nothing_yet = behind.trim_ascii().is_empty();
        if nothing_yet && self.in_text {
            self.prefix = prompt[open..].to_owned();
        }
        self.state = State::Reasoning(nothing_yet);
    }

    pub fn push(&mut self, piece: Piece, out: &mut Vec<Output>) {
        let (text, control) = match piece {
            Piece::Text(text) => (text, false),
            Piece::Control(text) => (text, true),
        };
        if text.is_empty() {
            return;
        }
        if let Some(harmony) = &mut self.harmony {
            return harmony.push(text, control, &self.tools, &mut self.n_calls, out);
        }
        if control && !self.known_marks.iter().any(|mark| mark.contains(text)) {
            return;
        }
        // Most text is plain: nothing waits, and no mark begins in it.
        if let State::Content(Gap::No) = self.state
            && !control
            && self.input.is_empty()
            && self.flow.marks.find(text, false) == Find::None(text.len())
        {
            return out.push(Output::Content(text.to_owned()));
        }
        self.input.push(text, control);
        self.run(out);
    }

    pub fn finish(&mut self, out: &mut Vec<Output>) {
        if let Some(harmony) = &mut self.harmony {
            return harmony.finish(&self.tools, &mut self.n_calls, out);
        }
        self.input.eof = true;
        self.run(out);
    }

    pub fn phase(&self) -> Phase {
        if let Some(harmony) = &self.harmony {
            return harmony.phase();
        }
        match &self.state {
            State::Content(_) => Phase::Content,
            State::Reasoning(_) => Phase::Reasoning,
            _ if self.input.held().is_some() && self.from_thoughts => Phase::Reasoning,
            _ => Phase::Tool,
        }
    }

    fn run(&mut self, out: &mut Vec<Output>) {
        let mut n_calls = self.n_calls;
        let mut emit = Emit::new(out, &mut n_calls);
        if !self.prefix.is_empty() {
            emit.content(std::mem::take(&mut self.prefix));
        }
        loop {
            let progress = match self.state {
                State::Content(gap) => self.content(gap, &mut emit),
                State::Reasoning(fresh) => self.reasoning(fresh, &mut emit),
                _ => self.calls(&mut emit),
            };
            if !progress {
                break;
            }
        }
        self.n_calls = n_calls;
        self.input.compact();
    }

    fn think(&self, text: String, emit: &mut Emit) {
        if self.in_text { emit.content(text) } else { emit.reasoning(text) }
    }

    /// Uses `n` bytes, which are said.
    fn say_next(&mut self, n: usize, emit: &mut Emit) {
        let text = self.input.take(n);
        emit.content(text);
    }

    fn content(&mut self, gap: Gap, emit: &mut Emit) -> bool {
        if gap != Gap::No {
            let rest = self.input.rest();
            let n = rest.len() - rest.trim_ascii_start().len();
            // A mark may begin with white space.
            let n = self.fresh.marks.first_before(rest, n, self.input.eof);
            let space = self.input.take(n);
            if gap == Gap::Perhaps || self.in_text {
                self.space.push_str(&space);
            }
            let (rest, eof) = (self.input.rest(), self.input.eof);
            if rest.is_empty() {
                if eof && gap == Gap::Perhaps && emit.calls() == 0 {
                    emit.content(std::mem::take(&mut self.space));
                }
                return false;
            }
            match self.fresh.marks.at(rest, eof) {
                At::Perhaps => return false,
                At::Mark(mark) => {
                    self.meets(self.fresh.meanings[mark], self.fresh.marks.len_of(mark), emit);
                    return true;
                }
                At::No => {
                    emit.content(std::mem::take(&mut self.space));
                    self.state = State::Content(Gap::No);
                }
            }
        }
        match self.flow.marks.find(self.input.rest(), self.input.eof) {
            Find::Mark(at, mark) => {
                self.say_next(at, emit);
                self.meets(self.flow.meanings[mark], self.flow.marks.len_of(mark), emit);
                true
            }
            Find::None(at) => {
                self.say_next(at, emit);
                false
            }
        }
    }

    /// A mark stands here, where something is said.
    fn meets(&mut self, meaning: Meaning, len: usize, emit: &mut Emit) {
        match meaning {
            Meaning::Noise | Meaning::Close => self.input.advance(len),
            Meaning::Open => {
                self.space.clear();
                self.input.advance(len);
                if self.in_text {
                    emit.content(self.thoughts.map_or("", |t| t.open).to_owned());
                }
                self.lines = false;
                self.state = State::Reasoning(true);
            }
            Meaning::WrapOpen => {
                self.space.clear();
                self.input.advance(len);
                self.wrapped = true;
                self.state = State::Content(Gap::Surely);
            }
            Meaning::WrapClose if self.wrapped => {
                self.input.advance(len);
                self.wrapped = false;
                self.state = State::Content(Gap::Surely);
            }
            Meaning::WrapClose => self.say_next(len, emit),
            Meaning::Call(begin) => self.call_begins(begin, len, false),
        }
    }

    fn call_begins(&mut self, begin: usize, len: usize, from_thoughts: bool) {
        let begin = self.begins[begin];
        self.input.hold_from(self.input.pos());
        // Where there is no mark, the first byte belongs to the call.
        let bare = match begin.engine {
            Engine::Json(shape) => shape.bare,
            Engine::Loose(shape) => shape.dialect == Dialect::BarePython,
            _ => false,
        };
        // The mark of a section or a block comes before that of a call.
        let mark = &self.input.rest()[..len];
        let outer = match begin.engine {
            Engine::Named(shape) => shape.sections.contains(&mark),
            Engine::Xml(shape) => mark.ends_with(shape.block.0),
            _ => false,
        };
        if !bare {
            self.input.advance(len);
        }
        self.from_thoughts = from_thoughts;
        self.known = begin.known || from_thoughts;
        self.state = State::Begins(begin.engine, outer);
    }

    fn reasoning(&mut self, fresh: bool, emit: &mut Emit) -> bool {
        let Some(thoughts) = self.thoughts else { return false };
        if fresh {
            // Layout before the first word; and the mark again, which some models repeat.
            let rest = self.input.rest();
            let n = rest.len() - rest.trim_ascii_start().len();
            // A mark may begin with white space.
            let n = self.inside.marks.first_before(rest, n, self.input.eof);
            self.lines |= rest[..n].starts_with('\n');
            let space = self.input.take(n);
            if self.in_text {
                emit.content(space);
            }
            let (rest, eof) = (self.input.rest(), self.input.eof);
            if rest.is_empty()
                || (!eof && rest.len() < thoughts.open.len() && thoughts.open.starts_with(rest))
            {
                return false;
            }
            if rest.starts_with(thoughts.open) {
                self.input.advance(thoughts.open.len());
                return true;
            }
            if self.inside.marks.at(rest, eof) == At::Perhaps {
                return false;
            }
            self.state = State::Reasoning(false);
        }
        let found = self.inside.marks.find(self.input.rest(), self.input.eof);
        let (Find::Mark(at, _) | Find::None(at)) = found;
        // White space waits: before the end it may be layout.
        let text = self.input.take(at);
        let kept = text.trim_ascii_end().len();
        if kept > 0 {
            let mut thought = std::mem::take(&mut self.space);
            thought.push_str(&text[..kept]);
            self.think(thought, emit);
        }
        self.space.push_str(&text[kept..]);
        let Find::Mark(_, mark) = found else {
            if self.input.eof {
                let space = std::mem::take(&mut self.space);
                self.think(space, emit);
            }
            return false;
        };
        if self.in_text || !self.lines {
            let space = std::mem::take(&mut self.space);
            self.think(space, emit);
        }
        let len = self.inside.marks.len_of(mark);
        if let Meaning::Call(begin) = self.inside.meanings[mark] {
            self.call_begins(begin, len, true);
        } else {
            self.space.clear();
            self.input.advance(len);
            if self.in_text {
                emit.content(thoughts.close.to_owned());
            }
            self.state = State::Content(Gap::Surely);
        }
        true
    }

    fn calls(&mut self, emit: &mut Emit) -> bool {
        let before = emit.calls();
        let step = self.engine(emit);
        if emit.calls() > before {
            self.space.clear();
            self.from_thoughts = false;
        }
        match step {
            None => true,
            Some(Step::More) if !self.input.eof => false,
            Some(Step::Done) => {
                self.input.release();
                self.state = State::Content(if emit.calls() > 0 { Gap::Perhaps } else { Gap::No });
                true
            }
            // It was no call, or will not become one: what is held is text.
            Some(step) => {
                if step == Step::More {
                    self.input.advance(self.input.rest().len());
                }
                let held = self.input.held().unwrap_or(self.input.pos());
                let text = std::mem::take(&mut self.space) + &self.input.text(held..self.input.pos());
                self.input.release();
                if self.from_thoughts {
                    self.think(text, emit);
                    self.state = State::Reasoning(false);
                } else {
                    emit.content(text);
                    self.state = State::Content(Gap::No);
                }
                true
            }
        }
    }

    /// Runs the engine; `None` if another one takes over.
    fn engine(&mut self, emit: &mut Emit) -> Option<Step> {
        let mut io = Io { input: &mut self.input, tools: &self.tools, emit, known: self.known };
        match &mut self.state {
            State::Json(calls) => Some(calls.step(&mut io)),
            State::Named(calls) => Some(calls.step(&mut io)),
            State::Xml(calls) => Some(calls.step(&mut io)),
            State::Loose(calls) => Some(calls.step(&mut io)),
            State::Begins(engine, outer) => match begins(*engine, *outer, &mut io) {
                Ok(state) => {
                    self.state = state;
                    None
                }
                Err(step) => Some(step),
            },
            State::Content(_) | State::Reasoning(_) => None,
        }
    }
}

/// Chooses what reads a call, by how it begins.
fn begins(engine: Engine, outer: bool, io: &mut Io) -> Result<State, Step> {
    let json = |shape, ends, io: &Io| Ok(State::Json(JsonCalls::new(shape, ends, io.input.pos())));
    match engine {
        Engine::Json(shape) => json(shape, shape.ends, io),
        Engine::Named(shape) => Ok(State::Named(NamedCalls::new(shape, outer))),
        Engine::JsonOrNamed(list, named) => {
            io.input.skip_space();
            match io.input.first().ok_or(Step::More)? {
                b'{' | b'[' => json(list, list.ends, io),
                _ => Ok(State::Named(NamedCalls::new(named, false))),
            }
        }
        Engine::Xml(shape) => {
            if outer {
                io.input.skip_space();
                if matches!(io.input.first().ok_or(Step::More)?, b'{' | b'[') {
                    let ends = if shape.block.1.is_empty() { XML_ENDS } else { shape.block.1 };
                    return json(&TAGGED_JSON, ends, io);
                }
            }
            Ok(State::Xml(XmlCalls::new(shape, outer)))
        }
        Engine::Loose(shape) => {
            let loose = Ok(State::Loose(LooseCalls::new(shape, "")));
            if shape.dialect != Dialect::Python {
                return loose;
            }
            io.input.skip_space();
            // JSON, after all: `{`, or `[` and then `{`, near enough to be seen.
            let rest = io.input.rest();
            let window = &rest[..rest.floor_char_boundary(WINDOW_BYTES)];
            let item = window.strip_prefix('[').unwrap_or(window).trim_ascii_start();
            match item.as_bytes().first() {
                Some(b'{') => json(&TAGGED_JSON, shape.ends, io),
                None if rest.len() < WINDOW_BYTES => Err(Step::More),
                _ => loose,
            }
        }
        Engine::PythonTag => {
            io.input.skip_space();
            if io.input.first().ok_or(Step::More)? == b'{' {
                return json(&TAGGED_JSON, &[], io);
            }
            if is_builtin_call(io.input.rest(), io.input.eof).ok_or(Step::More)? {
                return Ok(State::Loose(LooseCalls::new(&BUILTIN, BUILTIN_SUFFIX)));
            }
            let name = INTERPRETERS.into_iter().find(|name| io.tools.has(name)).unwrap_or(INTERPRETERS[0]);
            Ok(State::Named(NamedCalls::program_of(&PROGRAM, name, io)))
        }
    }
}

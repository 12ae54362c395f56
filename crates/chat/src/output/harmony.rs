//! Harmony, the format of gpt-oss: messages with a channel, and perhaps a recipient.
//!
//! What goes to the channel `analysis` is thought, all else is said, and what is addressed to `functions.NAME` is a
//! call, on whatever channel. What is addressed to something else than the request's tools (the model knows a browser
//! and an interpreter from its training) is neither for the user nor for the caller, and is left out. A message to a
//! function that is no JSON object is said.

use super::family::HARMONY;
use super::input::{At, Find, Input, JsonScan, Marks};
use super::io::{Emit, Io};
use super::tools::Tools;
use super::{Output, OutputContext, Phase};

/// The longest header.
const HEADER_BYTES_MAX: usize = 1024;
const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
/// What may stand in a header.
const HEADER_MARKS: [&str; 3] = [CHANNEL, MESSAGE, "<|constrain|>"];
/// What ends a message.
const ENDS: [&str; 5] = ["<|end|>", "<|return|>", "<|call|>", START, CHANNEL];

#[derive(Clone, Debug)]
enum State {
    /// A message's header. `true`: nothing says yet that it is one.
    Header(bool),
    /// What is thought.
    Thought,
    /// What is said.
    Said,
    /// What is for nobody here.
    Nobody,
    /// A call's arguments follow.
    Call(String),
    Pass(JsonScan),
    /// Behind the arguments.
    Rest,
    /// Behind a message.
    Between,
}

/// Reads an answer in Harmony.
#[derive(Clone, Debug)]
pub(super) struct Harmony {
    input: Input,
    ends: Marks,
    messages: Marks,
    state: State,
    in_text: bool,
    calls: bool,
}

impl Harmony {
    /// Begins where the prompt leaves the answer.
    pub fn new(context: &OutputContext) -> Self {
        let mut harmony = Self {
            input: Input::default(),
            ends: Marks::new(ENDS),
            messages: Marks::new([MESSAGE]),
            state: State::Header(true),
            in_text: context.reasoning_in_text,
            calls: !context.tools.is_empty(),
        };
        if let Some(at) = context.prompt_end.rfind(START) {
            let (mut out, mut calls) = (Vec::new(), 0);
            let mut emit = Emit::new(&mut out, &mut calls);
            emit.mute = true;
            let prompt = context.prompt_end[at + START.len()..].trim_ascii_start();
            let prompt = prompt.strip_prefix("assistant").unwrap_or(prompt);
            harmony.input.push(prompt, false);
            harmony.run(&Tools::default(), &mut emit);
        }
        harmony
    }

    pub fn push(&mut self, text: &str, control: bool, tools: &Tools, calls: &mut u32, out: &mut Vec<Output>) {
        if control && !ENDS.iter().chain(&HEADER_MARKS).any(|mark| *mark == text) {
            return;
        }
        if matches!(self.state, State::Said)
            && !control
            && self.input.is_empty()
            && self.ends.find(text, false) == Find::None(text.len())
        {
            return out.push(Output::Content(text.to_owned()));
        }
        self.input.push(text, control);
        self.run(tools, &mut Emit::new(out, calls));
    }

    pub fn finish(&mut self, tools: &Tools, calls: &mut u32, out: &mut Vec<Output>) {
        self.input.eof = true;
        self.run(tools, &mut Emit::new(out, calls));
    }

    pub fn phase(&self) -> Phase {
        match self.state {
            State::Thought => Phase::Reasoning,
            State::Call(_) | State::Pass(_) | State::Rest | State::Nobody => Phase::Tool,
            State::Header(_) | State::Said | State::Between => Phase::Content,
        }
    }

    fn run(&mut self, tools: &Tools, emit: &mut Emit) {
        while self.step(tools, emit) {}
        self.input.compact();
    }

    fn step(&mut self, tools: &Tools, emit: &mut Emit) -> bool {
        match &mut self.state {
            State::Header(open) => {
                let open = *open;
                self.header(open, tools, emit)
            }
            State::Between => {
                if !self.input.skip_space() {
                    return false;
                }
                // What follows is a message, or text of one whose beginning is missing.
                self.state = State::Header(true);
                true
            }
            State::Call(name) => {
                if !self.input.skip_space() && !self.input.eof {
                    return false;
                }
                let mark = self.ends.at(self.input.rest(), self.input.eof);
                if mark == At::Perhaps {
                    return false;
                }
                let name = std::mem::take(name);
                let mut io = Io { input: &mut self.input, tools, emit, known: false };
                self.state = match (mark, io.input.first()) {
                    (At::No, Some(b'{')) => {
                        io.call(None, &name);
                        State::Pass(JsonScan::default())
                    }
                    (At::No, Some(_)) => State::Said,
                    _ => {
                        io.call(None, &name);
                        io.emit.arguments("{}".into());
                        State::Rest
                    }
                };
                true
            }
            State::Pass(scan) => {
                let mut io = Io { input: &mut self.input, tools, emit, known: false };
                if !io.pass_json(scan) {
                    return false;
                }
                self.state = State::Rest;
                true
            }
            State::Rest => {
                if !self.input.skip_space() {
                    return false;
                }
                match self.ends.at(self.input.rest(), self.input.eof) {
                    At::Perhaps => false,
                    At::Mark(_) => self.body(emit),
                    At::No => {
                        self.state = State::Said;
                        true
                    }
                }
            }
            State::Thought | State::Said | State::Nobody => self.body(emit),
        }
    }

    fn header(&mut self, open: bool, tools: &Tools, emit: &mut Emit) -> bool {
        let (rest, eof) = (self.input.rest(), self.input.eof);
        if open {
            // Without a header, everything is said.
            let start = rest.trim_ascii_start();
            let begins = |mark: &str| start.starts_with(mark) || (!eof && mark.starts_with(start));
            let begun = [START, "to=", "<|end|>", "<|return|>"].into_iter().chain(HEADER_MARKS).any(begins);
            if !begun {
                self.state = State::Said;
                return !rest.is_empty();
            }
            if let Some(mark) = [START, "<|end|>", "<|return|>"].into_iter().find(|m| start.starts_with(m)) {
                let n = rest.len() - start.len() + mark.len();
                self.input.advance(n);
                self.state = State::Header(mark != START);
                return true;
            }
        }
        let n = match self.messages.find_before(rest, HEADER_BYTES_MAX + 1, eof) {
            Find::Mark(n, _) => n,
            Find::None(n) if n <= HEADER_BYTES_MAX => return false,
            Find::None(_) => {
                self.state = State::Said;
                return true;
            }
        };
        let header = &rest[..n];
        let words = || header.split(|c: char| c.is_ascii_whitespace() || c == '<' || c == '>' || c == '|');
        let recipient = words().filter_map(|word| word.strip_prefix("to=")).next_back();
        let channel = header.rsplit(CHANNEL).next().filter(|_| header.contains(CHANNEL)).unwrap_or("");
        let thought = channel.trim_ascii_start().starts_with("analysis");
        let state = match recipient {
            None | Some("assistant" | "user" | "") => {
                if thought {
                    State::Thought
                } else {
                    State::Said
                }
            }
            Some(name) => match name.strip_prefix("functions.") {
                Some(name) if self.calls && !name.is_empty() => State::Call(name.to_owned()),
                _ if tools.has(name) => State::Call(name.to_owned()),
                _ => State::Nobody,
            },
        };
        self.input.advance(n + MESSAGE.len());
        if self.in_text && matches!(state, State::Thought) {
            emit.content(HARMONY.open.to_owned());
        }
        self.state = state;
        true
    }

    /// Text of a message, up to its end.
    fn body(&mut self, emit: &mut Emit) -> bool {
        let found = self.ends.find(self.input.rest(), self.input.eof);
        let (Find::Mark(n, _) | Find::None(n)) = found;
        let text = self.input.take(n);
        let thought = matches!(self.state, State::Thought);
        match self.state {
            State::Said => emit.content(text),
            State::Thought if self.in_text => emit.content(text),
            State::Thought => emit.reasoning(text),
            _ => {}
        }
        let Find::Mark(_, mark) = found else { return false };
        if thought && self.in_text {
            emit.content(HARMONY.close.to_owned());
        }
        self.state = match self.ends.spelling(mark) {
            START => {
                self.input.advance(START.len());
                State::Header(false)
            }
            // The next message, with its beginning left out.
            CHANNEL => State::Header(false),
            other => {
                self.input.advance(other.len());
                State::Between
            }
        };
        true
    }
}

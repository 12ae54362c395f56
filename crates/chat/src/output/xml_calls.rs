//! Calls as tags around a name and each argument.
//!
//! The name is reported as soon as it is complete. Texts go out as they come, other values when they are complete,
//! since only then it is certain that they are JSON. Where the tags stop making sense, the call is closed and what
//! follows is said.

use super::family::XmlShape;
use super::input::{At, Find, Marks};
use super::io::{Io, Step};
use super::tools::{TypedValue, Types, escape, is_name};

/// The longest name of a function or a parameter.
const NAME_BYTES_MAX: usize = 256;

#[derive(Clone, Debug)]
enum State {
    /// Behind a block's mark: a function follows.
    Block,
    Name,
    /// Between parameters.
    Parameters,
    Key,
    /// Between a parameter's name and its value.
    ValueMark,
    /// Before the first byte of a value.
    ValueBegins,
    Value,
    /// Behind a function.
    After,
}

/// What a mark between parameters means.
const PARAMETER: usize = 0;
const FUNCTION_END: usize = 1;

/// Reads calls as tags.
#[derive(Clone, Debug)]
pub(super) struct XmlCalls {
    shape: &'static XmlShape,
    between: Marks,
    function: Marks,
    block_ends: Marks,
    name_end: Marks,
    key_end: Marks,
    value_mark: Marks,
    value_end: Marks,
    state: State,
    name: String,
    /// Parameters of the current call.
    n_parameters: u32,
    /// The value began on a line of its own.
    own_line: bool,
    value: Option<TypedValue>,
    back: usize,
}

impl XmlCalls {
    /// Begins behind a mark: that of a block, or of a function.
    pub fn new(shape: &'static XmlShape, block: bool) -> Self {
        Self {
            shape,
            between: Marks::new([shape.parameter.0, shape.function_end]),
            function: Marks::new([shape.function.0].into_iter().filter(|mark| !mark.is_empty())),
            block_ends: Marks::new(shape.block.1.iter().copied()),
            name_end: Marks::new([shape.function.1].into_iter().filter(|mark| !mark.is_empty())),
            key_end: Marks::new([shape.parameter.1]),
            value_mark: Marks::new([shape.value].into_iter().filter(|mark| !mark.is_empty())),
            value_end: Marks::new([shape.parameter_end]),
            state: if block { State::Block } else { State::Name },
            name: String::new(),
            n_parameters: 0,
            own_line: false,
            value: None,
            back: 0,
        }
    }

    /// Whether a call without its block's mark can begin here.
    pub fn has_function_mark(&self) -> bool {
        !self.shape.function.0.is_empty()
    }

    pub fn step(&mut self, io: &mut Io) -> Step {
        loop {
            let step = match &self.state {
                State::Block => self.block(io),
                State::Name => self.name(io),
                State::Parameters => self.parameters(io),
                State::Key => self.key(io),
                State::ValueMark => self.value_mark(io),
                State::ValueBegins => self.value_begins(io),
                State::Value => self.value(io),
                State::After => self.after(io),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn block(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        if self.has_function_mark() {
            match self.function.at(io.input.rest(), io.input.eof) {
                At::Perhaps => return Some(Step::More),
                At::No => return Some(Step::NotACall),
                At::Mark(mark) => io.input.advance(self.function.len_of(mark)),
            }
        }
        self.state = State::Name;
        None
    }

    fn name(&mut self, io: &mut Io) -> Option<Step> {
        let rest = io.input.rest();
        let (n, used) = if self.shape.function.1.is_empty() {
            // The name ends where its line does, or where a tag begins.
            match rest.bytes().take(NAME_BYTES_MAX + 1).position(|b| b == b'\n' || b == b'<') {
                Some(n) => (n, n),
                None => (rest.len(), usize::MAX),
            }
        } else {
            match self.name_end.find_before(rest, NAME_BYTES_MAX + 1, io.input.eof) {
                Find::Mark(n, mark) => (n, n + self.name_end.len_of(mark)),
                Find::None(n) => (n, usize::MAX),
            }
        };
        if n > NAME_BYTES_MAX {
            return Some(Step::NotACall);
        }
        let name = rest[..n].trim_ascii();
        if used == usize::MAX {
            let possible = name.is_empty() || is_name(name);
            return Some(if possible { Step::More } else { Step::NotACall });
        }
        if !is_name(name) || !io.may_call(name) {
            return Some(Step::NotACall);
        }
        self.name = name.to_owned();
        io.input.advance(used);
        io.call(None, &self.name);
        self.n_parameters = 0;
        self.state = State::Parameters;
        None
    }

    /// The call is complete, or has to be.
    fn close(&mut self, io: &mut Io) {
        io.emit.arguments(if self.n_parameters == 0 { "{}".into() } else { "}".into() });
    }

    fn parameters(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        match self.between.at(io.input.rest(), io.input.eof) {
            At::Perhaps => return Some(Step::More),
            At::Mark(PARAMETER) => {
                io.input.advance(self.between.len_of(PARAMETER));
                self.state = State::Key;
            }
            At::Mark(_) => {
                io.input.advance(self.between.len_of(FUNCTION_END));
                self.close(io);
                if self.block_ends_with_function() {
                    return Some(Step::Done);
                }
                self.back = io.input.pos();
                io.input.hold_from(self.back);
                self.state = State::After;
            }
            At::No => {
                // The end of the function may be missing before that of the block.
                self.close(io);
                if self.block_ends_with_function() {
                    return Some(Step::Done);
                }
                self.back = io.input.pos();
                io.input.hold_from(self.back);
                self.state = State::After;
            }
        }
        None
    }

    fn block_ends_with_function(&self) -> bool {
        self.shape.block.1.is_empty()
    }

    fn key(&mut self, io: &mut Io) -> Option<Step> {
        let rest = io.input.rest();
        let (n, mark) = match self.key_end.find_before(rest, NAME_BYTES_MAX + 1, io.input.eof) {
            Find::Mark(n, mark) if n <= NAME_BYTES_MAX => (n, mark),
            Find::None(n) if n <= NAME_BYTES_MAX => return Some(Step::More),
            _ => {
                self.close(io);
                return Some(Step::Done);
            }
        };
        let head = rest[..n].trim_ascii();
        let (key, types) = match head.split_once("\" string=\"").filter(|_| self.shape.says_string) {
            Some((key, "true")) => (key, Some(Types::STRING)),
            Some((key, _)) => (key, Some(Types::ANY)),
            None => (head, None),
        };
        let types = types.unwrap_or_else(|| io.tools.types(&self.name, key));
        let mut json = String::from(if self.n_parameters == 0 { "{\"" } else { ", \"" });
        escape(key, &mut json);
        json.push_str("\": ");
        let value = TypedValue::new(types, &mut json);
        io.emit.arguments(json);
        io.input.advance(n + self.key_end.len_of(mark));
        self.n_parameters += 1;
        self.own_line = false;
        self.state = if self.shape.value.is_empty() { State::ValueBegins } else { State::ValueMark };
        self.value = Some(value);
        None
    }

    fn value_mark(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        match self.value_mark.at(io.input.rest(), io.input.eof) {
            At::Perhaps => return Some(Step::More),
            At::Mark(mark) => io.input.advance(self.value_mark.len_of(mark)),
            At::No => {}
        }
        self.state = State::ValueBegins;
        None
    }

    fn value_begins(&mut self, io: &mut Io) -> Option<Step> {
        if self.shape.lines {
            let Some(first) = io.input.first() else { return Some(Step::More) };
            self.own_line = first == b'\n';
            io.input.advance(usize::from(self.own_line));
        }
        self.state = State::Value;
        None
    }

    fn value(&mut self, io: &mut Io) -> Option<Step> {
        let rest = io.input.rest();
        let eof = io.input.eof;
        let (mut n, mark) = match self.value_end.find(rest, eof) {
            Find::Mark(n, mark) => (n, Some(mark)),
            Find::None(n) => (n, None),
        };
        // The line's end before the mark is no part of the value, so it waits.
        let line_end = usize::from(self.own_line && !(eof && mark.is_none()) && rest[..n].ends_with('\n'));
        n -= line_end;
        let text = io.input.take(n);
        let mut json = String::with_capacity(text.len() + 2);
        if let Some(value) = &mut self.value {
            value.push(&text, &mut json);
        }
        if let Some(mark) = mark {
            io.input.advance(line_end + self.value_end.len_of(mark));
            if let Some(value) = self.value.take() {
                value.finish(&mut json);
            }
            self.state = State::Parameters;
        } else if eof && let Some(value) = self.value.take() {
            value.cut(&mut json);
        }
        io.emit.arguments(json);
        mark.is_none().then_some(Step::More)
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
        let rest = io.input.rest();
        match (self.block_ends.at(rest, io.input.eof), self.function.at(rest, io.input.eof)) {
            (At::Mark(mark), _) => {
                io.input.advance(self.block_ends.len_of(mark));
                io.input.release();
                Some(Step::Done)
            }
            (_, At::Mark(mark)) => {
                io.input.advance(self.function.len_of(mark));
                self.state = State::Name;
                None
            }
            (At::Perhaps, _) | (_, At::Perhaps) => Some(Step::More),
            _ => over(self, io),
        }
    }
}

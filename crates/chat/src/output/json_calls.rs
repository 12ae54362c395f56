//! Calls as JSON: objects with a name and arguments, one by one or in lists.
//!
//! Arguments pass as they come as soon as the name is known, which is at once where models write the name first. Keys
//! are taken for what they say, whatever the family: `name`, `tool_name` and `function`; `arguments` and
//! `parameters`; `id` and `tool_call_id`. Arguments may be a string that holds JSON, or `null`.

use serde_json::Value;

use super::family::JsonShape;
use super::input::{At, JsonScan, Marks};
use super::io::{Io, Step};

/// The longest key of a call, and how many keys it has.
const KEY_BYTES_MAX: usize = 256;
const KEYS_MAX: u32 = 64;

#[derive(Clone, Debug)]
enum State {
    /// Before an object, or after one.
    Between,
    Key,
    Colon,
    Value,
    /// A value that is looked at when it is complete. It began here.
    Skip(JsonScan, usize),
    /// The same for a number or a word.
    Scalar(usize),
    /// Arguments that go out as they come.
    Pass(JsonScan),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Name,
    Arguments,
    Id,
    Function,
    Other,
}

/// Reads calls as JSON.
#[derive(Clone, Debug)]
pub(super) struct JsonCalls {
    shape: &'static JsonShape,
    ends: Marks,
    state: State,
    key: Key,
    /// Inside of a list: not yet, now, no more.
    list: Option<bool>,
    /// Where text may go on as something else: behind the last call.
    back: usize,
    /// How many objects were calls.
    calls: u32,
    keys: u32,
    /// Objects around the call that only wrap it.
    wrappers: u32,
    name: Option<String>,
    id: Option<String>,
    arguments: Option<String>,
    /// The current object's call was reported.
    reported: bool,
}

impl JsonCalls {
    /// Begins at a position; blocks end with one of `ends`.
    pub fn new(shape: &'static JsonShape, ends: &'static [&'static str], at: usize) -> Self {
        Self {
            shape,
            ends: Marks::new(ends.iter().copied()),
            state: State::Between,
            key: Key::Other,
            list: None,
            back: at,
            calls: 0,
            keys: 0,
            wrappers: 0,
            name: None,
            id: None,
            arguments: None,
            reported: false,
        }
    }

    pub fn step(&mut self, io: &mut Io) -> Step {
        loop {
            let step = match &mut self.state {
                State::Between => self.between(io),
                State::Key => self.key(io),
                State::Colon => {
                    if !io.input.skip_space() {
                        return Step::More;
                    }
                    if io.input.first() != Some(b':') {
                        return self.broken(io);
                    }
                    io.input.advance(1);
                    self.state = State::Value;
                    None
                }
                State::Value => self.value(io),
                State::Skip(scan, from) => {
                    let from = *from;
                    if io.skip_json(scan) { self.value_ends(io, from) } else { Some(Step::More) }
                }
                State::Scalar(from) => {
                    let (from, rest) = (*from, io.input.rest());
                    let end = rest.bytes().position(|b| b",}]".contains(&b) || b.is_ascii_whitespace());
                    let n = end.unwrap_or(rest.len());
                    io.input.advance(n);
                    if end.is_some() { self.value_ends(io, from) } else { Some(Step::More) }
                }
                State::Pass(scan) => {
                    if io.pass_json(scan) {
                        self.state = State::Key;
                        None
                    } else {
                        Some(Step::More)
                    }
                }
            };
            match step {
                Some(step) => return step,
                None => continue,
            }
        }
    }

    fn between(&mut self, io: &mut Io) -> Option<Step> {
        let over = |this: &Self, io: &mut Io| {
            if this.calls == 0 {
                return Step::NotACall;
            }
            io.input.back_to(this.back);
            io.input.release();
            Step::Done
        };
        if !io.input.skip_space() {
            return Some(if io.input.eof { over(self, io) } else { Step::More });
        }
        match (io.input.first(), self.list) {
            (Some(b'['), None) if self.calls == 0 => self.list = Some(true),
            (Some(b']'), Some(true)) => {
                self.list = Some(false);
                self.back = io.input.pos() + 1;
            }
            (Some(b','), Some(true)) | (Some(b';'), None) if self.calls > 0 => {}
            (Some(b'{'), None | Some(true)) => {
                if self.calls > 0 {
                    io.input.hold_from(self.back);
                }
                self.state = State::Key;
                (self.keys, self.wrappers, self.reported) = (0, 0, false);
                (self.name, self.id, self.arguments) = (None, None, None);
            }
            _ => {
                return Some(match self.ends.at(io.input.rest(), io.input.eof) {
                    At::Perhaps => Step::More,
                    At::Mark(mark) if self.calls > 0 => {
                        io.input.advance(self.ends.len_of(mark));
                        io.input.release();
                        Step::Done
                    }
                    _ => over(self, io),
                });
            }
        }
        io.input.advance(1);
        None
    }

    /// A key, or the end of the object.
    fn key(&mut self, io: &mut Io) -> Option<Step> {
        loop {
            if !io.input.skip_space() {
                return Some(Step::More);
            }
            match io.input.first() {
                Some(b',') if self.keys > 0 => io.input.advance(1),
                Some(b'"') => break,
                Some(b'}') => {
                    io.input.advance(1);
                    if self.wrappers == 0 {
                        return self.object_ends(io);
                    }
                    self.wrappers -= 1;
                }
                _ => return Some(self.broken(io)),
            }
        }
        let rest = io.input.rest();
        let window = &rest.as_bytes()[..rest.len().min(KEY_BYTES_MAX + 1)];
        let Some(n) = JsonScan::default().scan(window) else {
            let long = rest.len() > KEY_BYTES_MAX;
            return Some(if long { self.broken(io) } else { Step::More });
        };
        let key = serde_json::from_str::<String>(&rest[..n]).ok().filter(|_| n <= KEY_BYTES_MAX);
        self.keys += 1;
        let (Some(key), true) = (key, self.keys <= KEYS_MAX) else { return Some(self.broken(io)) };
        self.key = if self.shape.key_is_name {
            if self.reported {
                // One object for several calls: this one is not certain yet.
                io.input.hold_from(io.input.pos());
            }
            (self.name, self.reported) = (Some(key), false);
            Key::Arguments
        } else {
            match key.as_str() {
                "name" | "tool_name" => Key::Name,
                "arguments" | "parameters" => Key::Arguments,
                "id" | "tool_call_id" => Key::Id,
                "function" => Key::Function,
                "type" => Key::Other,
                _ if self.shape.bare && !self.reported => return Some(Step::NotACall),
                _ => Key::Other,
            }
        };
        io.input.advance(n);
        self.state = State::Colon;
        None
    }

    fn value(&mut self, io: &mut Io) -> Option<Step> {
        if !io.input.skip_space() {
            return Some(Step::More);
        }
        let at = io.input.pos();
        let first = io.input.first();
        self.state = match (self.key, first) {
            (Key::Arguments, Some(b'{')) if !self.reported && self.name.is_some() && !self.shape.id_last => {
                let name = self.name.take().unwrap_or_default();
                if !io.may_call(&name) {
                    return Some(Step::NotACall);
                }
                io.call(self.id.take(), &name);
                self.reported = true;
                State::Pass(JsonScan::default())
            }
            (Key::Function, Some(b'{')) if self.wrappers == 0 => {
                self.wrappers = 1;
                io.input.advance(1);
                State::Key
            }
            (_, Some(b'{' | b'[' | b'"')) => State::Skip(JsonScan::default(), at),
            _ => State::Scalar(at),
        };
        None
    }

    /// A value that was waited for is complete.
    fn value_ends(&mut self, io: &mut Io, from: usize) -> Option<Step> {
        self.state = State::Key;
        if self.reported {
            return None;
        }
        let text = io.input.text(from..io.input.pos());
        match self.key {
            Key::Name | Key::Function => {
                let Ok(name) = serde_json::from_str::<String>(&text) else { return Some(Step::NotACall) };
                if !io.may_call(&name) {
                    return Some(Step::NotACall);
                }
                self.name = Some(name);
            }
            Key::Id => {
                self.id = Some(serde_json::from_str::<String>(&text).unwrap_or(text));
            }
            Key::Arguments => {
                let Some(arguments) = arguments(text) else { return Some(Step::NotACall) };
                self.arguments = Some(arguments);
                if self.shape.key_is_name {
                    return self.report(io).err();
                }
            }
            Key::Other => {}
        }
        None
    }

    fn report(&mut self, io: &mut Io) -> Result<(), Step> {
        let name = self.name.take().filter(|name| io.may_call(name)).ok_or(Step::NotACall)?;
        let arguments = self.arguments.take();
        if self.shape.bare && arguments.is_none() {
            return Err(Step::NotACall);
        }
        io.call(self.id.take(), &name);
        io.emit.arguments(arguments.unwrap_or_else(|| "{}".into()));
        self.reported = true;
        Ok(())
    }

    fn object_ends(&mut self, io: &mut Io) -> Option<Step> {
        if !self.reported
            && let Err(step) = self.report(io)
        {
            return Some(step);
        }
        self.calls += 1;
        self.back = io.input.pos();
        io.input.hold_from(self.back);
        self.state = State::Between;
        None
    }

    /// The object is no JSON any more. What was reported stays a call.
    fn broken(&mut self, io: &mut Io) -> Step {
        if !self.reported {
            return Step::NotACall;
        }
        self.calls += 1;
        self.back = io.input.pos();
        io.input.hold_from(self.back);
        self.list = Some(false);
        self.state = State::Between;
        self.step(io)
    }
}

/// Arguments that are no object yet.
fn arguments(text: String) -> Option<String> {
    match text.as_bytes().first() {
        Some(b'{') => Some(text),
        Some(b'"') => {
            let inner: String = serde_json::from_str(&text).ok()?;
            if inner.trim_ascii().is_empty() {
                return Some("{}".into());
            }
            serde_json::from_str::<Value>(&inner).ok()?.is_object().then_some(inner)
        }
        _ => (text == "null").then(|| "{}".into()),
    }
}

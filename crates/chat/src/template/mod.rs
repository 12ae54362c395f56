//! Chat templates: a conversation to the text that a model was trained on, typed by provenance.
//!
//! Model files carry their chat format as a Jinja program, written for Python's Jinja under Hugging Face's settings.
//! This module is an interpreter of that language with Python's semantics: `str` and `repr`, generators that are
//! always true, attributes before items (`d.items` is a method whatever the dict holds), keys by equality.
//!
//! **Why not a library.** A model file is unsigned program text, and what it renders mixes instructions with the words
//! of strangers. Two things are needed that no engine at hand can give from outside: every byte of the output must know
//! whether the template or a message wrote it (so that user text never becomes a control token), and one budget must
//! bound time *and* memory, intermediate strings included. Both live inside the interpreter: strings carry provenance
//! (`text`), and whatever builds or walks something pays fuel first (`value::Fuel`).
//!
//! **What is a control token.** [`ChatTemplate::render`] gives segments. [`Segment::Content`] marks the places where
//! outside text spells a special token, wholly or together with text of the template; all else is
//! [`Segment::Template`]. So each special token in template text was written by the template alone, and wherever no
//! message spells one, the whole prompt is one template segment and its tokens are those that every peer computes for
//! the whole string. Without a list of special tokens, all outside text is content.
//!
//! [`Segment::Content`]: crate::Segment::Content
//! [`Segment::Template`]: crate::Segment::Template
//!
//! **Safety.** There is one constructor of the environment ([`Interp`](eval::Interp)), no I/O, no clock, no loader;
//! filters, tests and methods are fixed lists; names that start with `_` don't exist. Lists and dicts can be changed
//! in place, as llama.cpp allows and some templates need.

mod ast;
mod builtin;
mod eval;
mod filters;
mod gotemplate;
mod input;
mod json;
mod lexer;
mod methods;
mod numbers;
mod ops;
mod parser;
mod scope;
mod segments;
mod strfmt;
mod tests;
mod text;
mod time;
mod value;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::output::OutputFormat;
use crate::{ChatInput, Segments};
use eval::Interp;
use gotemplate::GoTemplate;
use value::{Fuel, Value};

pub use builtin::{BUILTIN_TEMPLATES, builtin_template};
pub use time::CivilTime;

/// Why a template cannot be used, or a conversation not rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is no valid template: the model file's fault.
    #[error("the chat template is invalid at line {line}: {message}")]
    Syntax {
        /// Where.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// The template refuses the conversation: the caller's fault.
    #[error("the model's chat template refuses this conversation: {message}")]
    Raised {
        /// What the template says.
        message: String,
    },
    /// The template cannot handle the conversation, or is wrong.
    #[error("the chat template failed at line {line}: {message}")]
    Render {
        /// Where.
        line: u32,
        /// What happened.
        message: String,
    },
    /// A bound was reached.
    #[error("the chat template exceeds a limit: {what} (at most {limit})")]
    Limit {
        /// What there was too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A template variable has a name that the engine uses: the caller's fault.
    #[error("`{name}` cannot be set as a template variable: the name is reserved")]
    Reserved {
        /// The name.
        name: String,
    },
}

impl TemplateError {
    /// With a line, if it has none yet.
    fn at_line(mut self, at: u32) -> Self {
        if let Self::Render { line, .. } = &mut self
            && *line == 0
        {
            *line = at;
        }
        self
    }
}

/// What a template needs to know about its model, and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateOptions {
    /// The spelling of the token that begins a text (`bos_token`); empty if there is none.
    pub bos_token: String,
    /// The spelling of the token that ends one (`eos_token`); empty if there is none.
    pub eos_token: String,
    /// The spellings of all control and user-defined tokens, which outside text must not produce. Empty: unknown, and
    /// all outside text is typed as content.
    pub special_tokens: Vec<String>,
    /// The longest template, in bytes.
    pub source_bytes_max: usize,
    /// Steps of the interpreter for one rendering; four more for each byte of input. A step is well below a
    /// microsecond, or 128 bytes copied.
    pub fuel: u64,
    /// The longest text, intermediate ones included, in bytes.
    pub output_bytes_max: usize,
}

impl Default for TemplateOptions {
    fn default() -> Self {
        Self {
            bos_token: String::new(),
            eos_token: String::new(),
            special_tokens: Vec::new(),
            source_bytes_max: 256 << 10,
            fuel: 1_000_000,
            output_bytes_max: 16 << 20,
        }
    }
}

/// The language of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Jinja, as model files and Hugging Face have it.
    Jinja,
    /// Go's `text/template`, as Ollama's models have it.
    Go,
}

impl Syntax {
    /// The language that a text is most likely in, where nobody says: only Jinja has statements in `{%`.
    pub fn of(source: &str) -> Self {
        if source.contains("{%") { Self::Jinja } else { Self::Go }
    }
}

/// A chat template, ready to render. Shared freely between threads.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    program: Program,
    options: TemplateOptions,
    special: segments::SpecialTokens,
}

/// What a template says, in its language.
#[derive(Debug)]
enum Program {
    Jinja(Jinja),
    Go(GoTemplate),
}

#[derive(Debug, Default)]
struct Jinja {
    body: Vec<ast::Stmt>,
    /// Every name that it reads.
    names: BTreeSet<Arc<str>>,
    /// What the template expects of messages, found by trying.
    wants: input::Wants,
}

impl ChatTemplate {
    /// Parses a Jinja template and tries which shapes of messages it understands.
    ///
    /// # Errors
    /// If the source is too long or no valid template.
    pub fn new(source: &str, options: TemplateOptions) -> Result<Self, TemplateError> {
        Self::with_syntax(source, Syntax::Jinja, options)
    }

    /// Parses a template of either language. A Jinja template is tried with a few small conversations, to find which
    /// shapes of messages it understands.
    ///
    /// # Errors
    /// If the source is too long or no valid template.
    pub fn with_syntax(
        source: &str,
        syntax: Syntax,
        options: TemplateOptions,
    ) -> Result<Self, TemplateError> {
        if source.len() > options.source_bytes_max {
            return Err(TemplateError::Limit {
                what: "bytes of template",
                limit: options.source_bytes_max as u64,
            });
        }
        let special = segments::SpecialTokens::new(&options.special_tokens);
        let program = match syntax {
            Syntax::Go => Program::Go(GoTemplate::new(source)?),
            Syntax::Jinja => {
                let (body, names) = parser::parse(source)?;
                Program::Jinja(Jinja { body, names, wants: input::Wants::default() })
            }
        };
        let mut template = Self { source: source.to_owned(), program, options, special };
        let wants = match &template.program {
            Program::Jinja(jinja) => input::Wants::probe(&template, jinja),
            Program::Go(_) => return Ok(template),
        };
        if let Program::Jinja(jinja) = &mut template.program {
            jinja.wants = wants;
        }
        Ok(template)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The template's language.
    pub fn syntax(&self) -> Syntax {
        match self.program {
            Program::Jinja(_) => Syntax::Jinja,
            Program::Go(_) => Syntax::Go,
        }
    }

    /// How a model of this template spells thoughts and calls of tools.
    pub fn output_format(&self) -> OutputFormat {
        let Program::Go(go) = &self.program else { return OutputFormat::detect(&self.source) };
        // What Jinja templates call these, for the same marks.
        let mut source = self.source.clone();
        for (field, name) in [("tools", " tools tojson"), ("toolcalls", " tool_calls")] {
            if go.names(field) {
                source.push_str(name);
            }
        }
        OutputFormat::detect(&source)
    }

    /// Whether the template reads a variable of this name: setting it may then change something.
    pub fn reads(&self, name: &str) -> bool {
        match &self.program {
            Program::Jinja(jinja) => jinja.names.contains(name),
            Program::Go(go) => go.reads(name),
        }
    }

    /// Whether the model is told to think where nobody says: Ollama tells so all whose templates show thoughts and have a
    /// switch for them.
    pub fn thinks_unasked(&self) -> bool {
        match &self.program {
            Program::Jinja(_) => false,
            Program::Go(go) => go.names("thinking") && go.reads("enable_thinking"),
        }
    }

    /// Renders a conversation to typed segments. `now` is the local time that the template may ask for.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails, exceeds a limit, or a template variable has a reserved name.
    pub fn render(&self, input: &ChatInput, now: CivilTime) -> Result<Segments, TemplateError> {
        input::check_vars(&input.template_vars)?;
        let (text, foreign) = match &self.program {
            Program::Jinja(jinja) => self.run(jinja, &jinja.wants.variables(input), now)?,
            Program::Go(go) => go.render(input, &self.options, now)?,
        };
        let (text, foreign) = input::continued(text, foreign, input);
        Ok(self.special.segments(&text, &foreign))
    }

    /// Renders a gap between two texts, or `None` if the template knows no gaps: only Go templates do, by `.Suffix`.
    ///
    /// # Errors
    /// If the template fails or exceeds a limit.
    pub fn render_gap(
        &self,
        prefix: &str,
        suffix: &str,
        now: CivilTime,
    ) -> Result<Option<Segments>, TemplateError> {
        match &self.program {
            Program::Go(go) if go.names("suffix") => {
                let (text, foreign) = go.render_gap(prefix, suffix, &self.options, now)?;
                Ok(Some(self.special.segments(&text, &foreign)))
            }
            _ => Ok(None),
        }
    }

    /// Renders any variables to text: `messages`, `tools`, `add_generation_prompt` and so on, as Python's Jinja sees
    /// them, or as Go sees any JSON. In Jinja, `bos_token` and `eos_token` come from the options where the variables
    /// don't have them.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_vars(&self, vars: &Map<String, Json>, now: CivilTime) -> Result<String, TemplateError> {
        match &self.program {
            Program::Jinja(jinja) => Ok(self.run(jinja, vars, now)?.0),
            Program::Go(go) => Ok(go.render_vars(vars, &self.options, now)?.0),
        }
    }

    /// Renders to text and the ranges in it that came from outside.
    fn run(
        &self,
        jinja: &Jinja,
        vars: &Map<String, Json>,
        now: CivilTime,
    ) -> Result<(String, Vec<(u32, u32)>), TemplateError> {
        let input_bytes: usize = vars.values().map(input::json_bytes).sum();
        let fuel = Fuel::new(self.options.fuel.saturating_add(4 * input_bytes as u64));
        let interp = Interp::new(&fuel, now, self.options.output_bytes_max);
        let mut values: Vec<(Arc<str>, Value)> = Vec::with_capacity(vars.len() + 2);
        for (name, text) in [("bos_token", &self.options.bos_token), ("eos_token", &self.options.eos_token)] {
            if !vars.contains_key(name) {
                values.push((name.into(), Value::own(text)));
            }
        }
        for (name, json) in vars {
            let value = input::variable(&interp, name, json)?;
            values.push((name.as_str().into(), value));
        }
        Ok(interp.render(&jinja.body, values)?.into_parts())
    }
}

//! What the settings wish for all lines, where a line says nothing itself.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ingle_chat::{Format, Message, Request, Role, Task};
use ingle_step::TokenId;
use serde_json::{Map, Value};

use crate::run::{max_tokens, read_text};
use crate::settings::Settings;

/// The largest schema that is read from a file.
const SCHEMA_BYTES_MAX: u64 = 4 << 20;

/// The fields by which a line says what its answer obeys: with one of them, the settings' format is out.
const FORMAT_FIELDS: &[&str] = &[
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "regex",
    "grammar",
    "ebnf",
    "structural_tag",
];

/// Wishes for all lines. Those about sampling are the engine's own defaults instead, apart from `logit_bias`, which
/// would add to a line's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Outer: whether there is a wish at all; inner: `None` is no limit.
    pub max_tokens: Option<Option<u32>>,
    pub stop: Vec<String>,
    pub ignore_eos: bool,
    pub include_special: bool,
    pub logit_bias: Vec<(TokenId, f32)>,
    pub system: Option<String>,
    pub format: Option<Format>,
}

impl Wishes {
    /// Those of the settings; `logit_bias` are theirs, read.
    ///
    /// # Errors
    /// If one cannot be read, or two contradict each other.
    pub fn new(s: &Settings, logit_bias: Vec<(TokenId, f32)>) -> Result<Self> {
        let limit = max_tokens(s)?;
        Ok(Self {
            max_tokens: s.max_tokens.map(|_| limit),
            stop: s.stop.clone(),
            ignore_eos: s.ignore_eos,
            include_special: s.special,
            logit_bias,
            system: s.system.clone(),
            format: format(s)?,
        })
    }

    /// Puts the wishes into a request whose body, `said`, has the fields that its line has.
    pub fn apply(&self, request: &mut Request, said: &Map<String, Value>) {
        let says = |names: &[&str]| names.iter().any(|name| said.get(*name).is_some_and(|v| !v.is_null()));
        if let Some(limit) = self.max_tokens.filter(|_| !says(&["max_tokens", "max_completion_tokens"])) {
            request.max_tokens = limit;
        }
        if !says(&["stop"]) {
            request.stop.clone_from(&self.stop);
        }
        if !says(&["ignore_eos"]) {
            request.ignore_eos = self.ignore_eos;
        }
        if !says(&["skip_special_tokens"]) {
            request.include_special = self.include_special;
        }
        if !says(&["logit_bias"]) {
            request.sampling.logit_bias.clone_from(&self.logit_bias);
        }
        if !says(FORMAT_FIELDS) {
            request.format.clone_from(&self.format);
        }
        if let (Some(text), Task::Chat(input)) = (&self.system, &mut request.task) {
            let instructs = |m: &Message| matches!(m.role, Role::System | Role::Developer);
            if !input.messages.iter().any(instructs) {
                input.messages.insert(0, Message::text(Role::System, text));
            }
        }
    }
}

/// What the settings say that answers obey.
///
/// # Errors
/// If a schema cannot be read, or two settings contradict each other.
pub fn format(s: &Settings) -> Result<Option<Format>> {
    let choice = (!s.choice.is_empty()).then(|| Format::Choice(s.choice.clone()));
    let regex = s.regex.clone().map(Format::Regex);
    let schema =
        s.json_schema.as_deref().map(schema).transpose().context("--json-schema")?.map(Format::JsonSchema);
    let named = s.format.as_deref().map(named).transpose()?;
    let mut all = [choice, schema, regex, named].into_iter().flatten();
    let first = all.next();
    if all.next().is_some() {
        bail!("--format, --choice, --json-schema and --regex each say what an answer is; give one of them");
    }
    Ok(first)
}

/// A format as Ollama names it: `json`, or a schema or its file.
///
/// # Errors
/// If it is neither.
pub fn named(text: &str) -> Result<Format> {
    if text == "json" {
        return Ok(Format::JsonObject);
    }
    schema(text).map(Format::JsonSchema).context("--format: neither `json` nor a schema")
}

/// A schema, or the file that holds it.
fn schema(text: &str) -> Result<Value> {
    let is_json = text.trim_start().starts_with('{');
    let (text, from) = if is_json {
        (text.to_owned(), "its value".to_owned())
    } else {
        let name = Path::new(text).display().to_string();
        let file = std::fs::File::open(text)
            .with_context(|| format!("cannot read {name}, and a schema begins with `{{`"))?;
        (read_text(file, &name, SCHEMA_BYTES_MAX)?, name)
    };
    let schema = ingle_api::parse_object(text.as_bytes());
    let schema = schema.with_context(|| format!("{from} is no JSON object"))?;
    Ok(Value::Object(schema))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ingle_chat::{ChatInput, Principal};
    use serde_json::json;

    use super::*;

    fn applied(wishes: &Wishes, said: Value) -> Request {
        let input = ChatInput { messages: vec![Message::text(Role::User, "x")], ..ChatInput::default() };
        let mut request = Request::new("id", Principal::local(), Task::Chat(input));
        request.max_tokens = Some(1);
        let Value::Object(said) = said else { panic!("{said} is no object") };
        wishes.apply(&mut request, &said);
        request
    }

    #[test]
    fn a_wish_holds_unless_the_line_says_otherwise() {
        let wishes = Wishes {
            max_tokens: Some(None),
            stop: vec!["end".into()],
            ignore_eos: true,
            include_special: true,
            logit_bias: vec![(TokenId(3), 1.0)],
            system: Some("be brief".into()),
            format: Some(Format::JsonObject),
        };
        let all = applied(&wishes, json!({}));
        assert_eq!(all.max_tokens, None);
        assert_eq!((all.stop, all.ignore_eos, all.include_special), (vec!["end".into()], true, true));
        assert_eq!(all.sampling.logit_bias, [(TokenId(3), 1.0)]);
        assert_eq!(all.format, Some(Format::JsonObject));
        let Task::Chat(input) = all.task else { panic!("a conversation") };
        assert_eq!(input.messages[0], Message::text(Role::System, "be brief"));

        let own = json!({
            "max_completion_tokens": 1, "stop": [], "ignore_eos": false, "skip_special_tokens": true,
            "logit_bias": {}, "response_format": { "type": "text" },
        });
        let none = applied(&wishes, own);
        assert_eq!((none.max_tokens, none.stop.len(), none.ignore_eos), (Some(1), 0, false));
        assert!(!none.include_special && none.sampling.logit_bias.is_empty());
        assert_eq!(none.format, None, "a line can ask for any text");
        assert_eq!(applied(&wishes, json!({ "stop": null })).stop, ["end"], "null counts as absent");
    }

    #[test]
    fn a_conversation_keeps_its_own_instructions() {
        let wishes = Wishes { system: Some("be brief".into()), ..Wishes::default() };
        let messages = vec![Message::text(Role::Developer, "be long"), Message::text(Role::User, "x")];
        let input = ChatInput { messages: messages.clone(), ..ChatInput::default() };
        let mut request = Request::new("id", Principal::local(), Task::Chat(input));
        wishes.apply(&mut request, &Map::new());
        assert!(matches!(request.task, Task::Chat(input) if input.messages == messages));
    }

    #[test]
    fn formats_come_from_the_settings() {
        let read = |s: &Settings| Wishes::new(s, Vec::new()).map(|w| w.format);
        assert_eq!(read(&Settings::default()).unwrap(), None);
        let choice = Settings { choice: vec!["yes".into(), "no".into()], ..Settings::default() };
        assert_eq!(read(&choice).unwrap(), Some(Format::Choice(vec!["yes".into(), "no".into()])));
        let regex = Settings { regex: Some("[0-9]+".into()), ..Settings::default() };
        assert_eq!(read(&regex).unwrap(), Some(Format::Regex("[0-9]+".into())));
        let inline = |text: &str| Settings { json_schema: Some(text.into()), ..Settings::default() };
        let expected = Some(Format::JsonSchema(json!({ "type": "object" })));
        assert_eq!(read(&inline(r#"{"type": "object"}"#)).unwrap(), expected);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, r#"{{"type": "object"}}"#).unwrap();
        assert_eq!(read(&inline(file.path().to_str().unwrap())).unwrap(), expected);

        let both = Settings { regex: Some("x".into()), ..choice };
        for (settings, expected) in [
            (both, "give one of them"),
            (inline("{"), "is no JSON object"),
            (inline("/nonexistent"), "cannot read /nonexistent"),
        ] {
            let error = crate::outcome::in_words(&read(&settings).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}

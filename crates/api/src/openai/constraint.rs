//! What an answer's text must obey, in the spellings of all peers: one neutral [`Format`] comes out, or an error.
//!
//! Whether the constraint can be enforced is the provider's to say, before anything runs.

use ingle_chat::{Format, Rule};
use serde_json::Value;

use super::into_string;
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::{RequestError, parse_object};

/// The longest schema, grammar, expression or list of choices, in bytes.
pub const CONSTRAINT_BYTES_MAX: usize = 1 << 20;
/// The longest name of a schema in bytes.
pub(super) const SCHEMA_NAME_BYTES_MAX: usize = 64;
/// The most choices.
pub const CHOICES_MAX: usize = 10_000;
/// The most structures of a structural tag, and triggers.
pub const STRUCTURES_MAX: usize = 1024;

/// Reads the constraint in a field's value; `None` if the value says that there is none.
type Read = fn(Value, &str) -> Result<Option<Format>, RequestError>;

/// The fields that constrain an answer. At most one may be given.
const CONSTRAINTS: &[(&str, Read)] = &[
    ("response_format", response_format),
    ("structured_outputs", structured_outputs),
    ("json_schema", schema_or_text),
    ("guided_json", schema_or_text),
    ("regex", regex),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("grammar", gbnf),
    ("ebnf", gbnf),
    ("guided_grammar", gbnf_or_lark),
    ("structural_tag", structural_tag),
];

/// The same inside vLLM's `structured_outputs`.
const STRUCTURED_OUTPUTS: &[(&str, Read)] = &[
    ("json", schema_or_text),
    ("regex", regex),
    ("choice", choice),
    ("grammar", gbnf_or_lark),
    ("json_object", json_object),
    ("structural_tag", structural_tag),
];

/// Names of the fields, for documentation and tests.
pub fn constraint_fields() -> impl Iterator<Item = &'static str> {
    CONSTRAINTS.iter().map(|(name, _)| *name)
}

/// Takes the constraint, whatever it is called.
pub(crate) fn take_format(fields: &mut Fields) -> Result<Option<Format>, RequestError> {
    take_one(fields, CONSTRAINTS)
}

fn take_one(fields: &mut Fields, table: &[(&str, Read)]) -> Result<Option<Format>, RequestError> {
    let mut found: Option<(String, Format)> = None;
    for (name, read) in table {
        let Some(value) = fields.take(name) else { continue };
        let path = fields.path(name);
        let Some(format) = read(value, &path)? else { continue };
        if let Some((first, _)) = &found {
            let text = format!("`{first}` and `{path}` both constrain the answer; give one of them");
            return Err(RequestError::field(path, text));
        }
        found = Some((path, format));
    }
    Ok(found.map(|(_, format)| format))
}

fn missing(path: &str, advice: &str) -> RequestError {
    RequestError::field(path, format!("`{path}` is missing: {advice}"))
}

fn bounded(bytes: usize, path: &str) -> Result<(), RequestError> {
    if bytes <= CONSTRAINT_BYTES_MAX {
        return Ok(());
    }
    let text = format!("`{path}` has {bytes} bytes; at most {CONSTRAINT_BYTES_MAX} are taken");
    Err(RequestError::field(path, text))
}

/// A text that constrains; an empty one does not.
fn text(value: Value, path: &str) -> Result<Option<String>, RequestError> {
    let text = into_string(value, path)?;
    bounded(text.len(), path)?;
    Ok(Some(text).filter(|t| !t.trim().is_empty()))
}

fn schema(value: Value, path: &str) -> Result<Value, RequestError> {
    if !value.is_object() {
        return Err(wrong_type(path, "a JSON schema (an object)", &value));
    }
    bounded(value.to_string().len(), path)?;
    Ok(value)
}

/// A schema, or one that is written as text.
fn schema_or_text(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    let value = match value {
        Value::String(text) => {
            bounded(text.len(), path)?;
            let object = parse_object(text.as_bytes()).map_err(|_| {
                let text = format!("`{path}` must be a JSON schema: an object, or one written as text");
                RequestError::field(path, text)
            })?;
            Value::Object(object)
        }
        other => other,
    };
    schema(value, path).map(|schema| Some(Format::JsonSchema(schema)))
}

fn regex(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    Ok(text(value, path)?.map(Format::Regex))
}

fn choice(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    let list = match value {
        Value::Array(list) if (1..=CHOICES_MAX).contains(&list.len()) => list,
        Value::Array(list) => {
            let text = format!("`{path}` has {} entries; 1 to {CHOICES_MAX} are taken", list.len());
            return Err(RequestError::field(path, text));
        }
        other => return Err(wrong_type(path, "a list of strings", &other)),
    };
    let entry = |(i, v)| into_string(v, &format!("{path}[{i}]"));
    let choices: Vec<String> = list.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
    bounded(choices.iter().map(String::len).sum(), path)?;
    Ok(Some(Format::Choice(choices)))
}

fn json_object(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    match value {
        Value::Bool(wanted) => Ok(wanted.then_some(Format::JsonObject)),
        other => Err(wrong_type(path, "true or false", &other)),
    }
}

/// llguidance's own directive, with which a grammar is Lark's whatever the field is called.
fn is_marked_lark(text: &str) -> bool {
    text.trim_start().starts_with("%llguidance")
}

fn gbnf(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    let grammar = |text: String| if is_marked_lark(&text) { Format::Lark(text) } else { Format::Gbnf(text) };
    Ok(text(value, path)?.map(grammar))
}

/// A grammar in either notation, told by how it defines its first rule: `name ::= …` or `name: …`.
fn gbnf_or_lark(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    let is_gbnf = |text: &str| {
        let defines = |line: &str| {
            let (name, _) = line.split_once("::=")?;
            let name = name.trim();
            let fits = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
            (!name.is_empty() && name.chars().all(fits)).then_some(())
        };
        !is_marked_lark(text) && text.lines().any(|line| defines(line).is_some())
    };
    let grammar = |text: String| if is_gbnf(&text) { Format::Gbnf(text) } else { Format::Lark(text) };
    Ok(text(value, path)?.map(grammar))
}

/// OpenAI's, with llama-server's `schema` beside `type`.
fn response_format(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let kind = fields.string("type")?;
    let format = match kind.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(match fields.take("schema") {
            None => Format::JsonObject,
            Some(value) => Format::JsonSchema(schema(value, &fields.path("schema"))?),
        }),
        Some("json_schema") => {
            let (named, inline) = (fields.path("json_schema"), fields.path("schema"));
            let schema = match (fields.take("json_schema"), fields.take("schema")) {
                (Some(value), None) => named_schema(value, &named)?,
                (None, Some(value)) => schema(value, &inline)?,
                (None, None) => return Err(missing(&named, "give the schema")),
                (Some(_), Some(_)) => {
                    let text = format!("`{named}` and `{inline}` both give a schema; give one of them");
                    return Err(RequestError::field(inline, text));
                }
            };
            Some(Format::JsonSchema(schema))
        }
        Some("structural_tag") => return tagged(fields).map(Some),
        Some(other) => {
            let text = format!(
                "`{path}.type` is {}; it can be text, json_object, json_schema or structural_tag",
                quoted(other)
            );
            return Err(fields.error("type", text).with_code("unsupported_value"));
        }
        None => {
            return Err(missing(&fields.path("type"), "text, json_object, json_schema or structural_tag"));
        }
    };
    fields.finish()?;
    Ok(format)
}

/// `{"name", "description", "schema", "strict"}`. The schema is enforced whether or not it is called strict.
pub(crate) struct NamedSchema {
    pub name: Option<String>,
    pub description: Option<String>,
    pub schema: Value,
    pub strict: Option<bool>,
}

impl NamedSchema {
    /// Takes the fields of one.
    pub fn take(fields: &mut Fields) -> Result<Self, RequestError> {
        let name = fields.string("name")?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if let Some(name) = &name
            && !((1..=SCHEMA_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits))
        {
            let text = format!(
                "`{}` is {}; it must be 1 to {SCHEMA_NAME_BYTES_MAX} of the characters a-z, A-Z, 0-9, `_` and `-`",
                fields.path("name"),
                quoted(name)
            );
            return Err(fields.error("name", text));
        }
        let (description, strict) = (fields.string("description")?, fields.bool("strict")?);
        let path = fields.path("schema");
        let value =
            fields.take("schema").ok_or_else(|| missing(&path, "give the schema, or ask for json_object"))?;
        Ok(Self { name, description, schema: schema(value, &path)?, strict })
    }
}

fn named_schema(value: Value, path: &str) -> Result<Value, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let named = NamedSchema::take(&mut fields)?;
    fields.finish()?;
    Ok(named.schema)
}

/// vLLM's.
fn structured_outputs(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let format = take_one(&mut fields, STRUCTURED_OUTPUTS)?;
    for name in ["disable_any_whitespace", "disable_additional_properties", "disable_fallback"] {
        if fields.bool(name)? == Some(true) {
            let text = format!("`{path}.{name}` is not supported; say it in the schema");
            return Err(fields.error(name, text).with_code("unsupported_value"));
        }
    }
    fields.finish()?;
    if format.is_none() {
        let names = STRUCTURED_OUTPUTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        return Err(RequestError::field(path, format!("`{path}` constrains nothing; give one of {names}")));
    }
    Ok(format)
}

/// A structural tag, or one that is written as text.
fn structural_tag(value: Value, path: &str) -> Result<Option<Format>, RequestError> {
    let value = match value {
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => {
            bounded(text.len(), path)?;
            let object = parse_object(text.as_bytes()).map_err(|_| {
                let text = format!("`{path}` must be an object, or one written as text");
                RequestError::field(path, text)
            })?;
            Value::Object(object)
        }
        other => other,
    };
    let mut fields = Fields::nested(value, path)?;
    if let Some(kind) = fields.string("type")?
        && kind != "structural_tag"
    {
        let text = format!("`{path}.type` is {}; it must be structural_tag", quoted(&kind));
        return Err(fields.error("type", text));
    }
    tagged(fields).map(Some)
}

/// One structure of a structural tag.
struct Structure {
    begin: String,
    rule: Rule,
}

/// `{"structures": [{"begin", "schema", "end"}], "triggers": […]}`: free text; where a trigger comes up in it, one of
/// the structures that begin with it follows.
fn tagged(mut fields: Fields) -> Result<Format, RequestError> {
    if fields.take("format").is_some() {
        let text = format!("`{}` is not supported: send `structures` and `triggers`", fields.path("format"));
        return Err(fields.error("format", text).with_code("unsupported_field"));
    }
    let list = |fields: &mut Fields, name: &str| {
        let path = fields.path(name);
        match fields.list(name)? {
            Some(list) if (1..=STRUCTURES_MAX).contains(&list.len()) => Ok((list, path)),
            Some(list) => {
                let text = format!("`{path}` has {} entries; 1 to {STRUCTURES_MAX} are taken", list.len());
                Err(RequestError::field(path, text))
            }
            None => Err(missing(&path, "a structural tag has `structures` and `triggers`")),
        }
    };
    let (structures, path) = list(&mut fields, "structures")?;
    bounded(structures.iter().map(|s| s.to_string().len()).sum(), &path)?;
    let structures: Vec<Structure> = structures
        .into_iter()
        .enumerate()
        .map(|(i, value)| structure(value, &format!("{path}[{i}]")))
        .collect::<Result<_, _>>()?;
    let (triggers, triggers_path) = list(&mut fields, "triggers")?;
    let triggers: Vec<String> = triggers
        .into_iter()
        .enumerate()
        .map(|(i, v)| into_string(v, &format!("{triggers_path}[{i}]")))
        .collect::<Result<_, _>>()?;
    fields.finish()?;
    let mut tags: Vec<(String, Rule)> = Vec::new();
    for (i, trigger) in triggers.iter().enumerate() {
        let path = format!("{triggers_path}[{i}]");
        if trigger.is_empty() {
            return Err(RequestError::field(&path, format!("`{path}` is empty")));
        }
        let alike = |other: &&String| other.starts_with(trigger) || trigger.starts_with(*other);
        if let Some(other) = triggers[..i].iter().find(alike) {
            let text = format!("`{path}` and {} begin alike; give only the shorter one", quoted(other));
            return Err(RequestError::field(path, text));
        }
        let follows = structures.iter().filter_map(|structure| {
            let rest = structure.begin.strip_prefix(trigger.as_str())?;
            Some(Rule::Sequence(vec![Rule::Text(rest.to_owned()), structure.rule.clone()]))
        });
        let mut follows: Vec<Rule> = follows.collect();
        let rule = match follows.len() {
            0 => {
                let text = format!("no structure begins with {}; remove `{path}`", quoted(trigger));
                return Err(RequestError::field(path, text));
            }
            1 => follows.swap_remove(0),
            _ => Rule::Any(follows),
        };
        tags.push((trigger.clone(), rule));
    }
    if let Some(i) = structures.iter().position(|s| !triggers.iter().any(|t| s.begin.starts_with(t))) {
        let path = format!("{path}[{i}].begin");
        let text = format!("`{path}` begins with none of the triggers; it could never come");
        return Err(RequestError::field(path, text));
    }
    Ok(Format::Rule(Rule::Tagged { tags, at_least_one: false, at_most_one: false }))
}

fn structure(value: Value, path: &str) -> Result<Structure, RequestError> {
    let mut fields = Fields::nested(value, path)?;
    let mut text = |name: &str| {
        let text = fields.string(name)?;
        text.ok_or_else(|| missing(&format!("{path}.{name}"), "a structure has `begin`, `schema` and `end`"))
    };
    let (begin, end) = (text("begin")?, text("end")?);
    if begin.is_empty() {
        return Err(fields.error("begin", format!("`{path}.begin` is empty")));
    }
    let schema_path = fields.path("schema");
    let value = fields
        .take("schema")
        .ok_or_else(|| missing(&schema_path, "a structure has `begin`, `schema` and `end`"))?;
    let schema = schema(value, &schema_path)?;
    fields.finish()?;
    Ok(Structure { begin, rule: Rule::Sequence(vec![Rule::Json(schema), Rule::Text(end)]) })
}

#[cfg(test)]
mod tests {
    use ingle_chat::Principal;
    use serde_json::json;

    use super::*;
    use crate::openai::{Caller, chat, completion};

    /// The constraint of a body, which both routes must read alike.
    fn read(more: &Value) -> Result<Option<Format>, RequestError> {
        let body = |mut body: Value| {
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            body.to_string()
        };
        let caller = || Caller { id: "id".into(), principal: Principal::local() };
        let chat = body(json!({ "messages": [{ "role": "user", "content": "hi" }] }));
        let chat = chat::parse(chat.as_bytes(), caller()).map(|call| call.request.format);
        let completion = body(json!({ "prompt": "hi" }));
        let completion = completion::parse(completion.as_bytes(), caller());
        assert_eq!(chat, completion.map(|call| call.requests[0].format.clone()), "{more}");
        chat
    }

    #[track_caller]
    fn check(more: Value, expected: Option<Format>) {
        assert_eq!(read(&more).unwrap_or_else(|e| panic!("{more}: {e}")), expected, "{more}");
    }

    #[track_caller]
    fn check_refused(more: Value, param: &str, part: &str) {
        let error = read(&more).expect_err("not valid");
        assert_eq!(error.param.as_deref(), Some(param), "{more}: {error}");
        assert!(error.message.contains(part), "{more}: {error}");
    }

    #[test]
    fn every_spelling() {
        let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
        let text = schema.to_string();
        let of_schema = || Some(Format::JsonSchema(schema.clone()));
        let format = |format: Value| json!({ "response_format": format });
        let outputs = |outputs: Value| json!({ "structured_outputs": outputs });
        check(json!({}), None);
        check(format(json!({ "type": "text" })), None);
        check(format(json!({ "type": "json_object" })), Some(Format::JsonObject));
        check(format(json!({ "type": "json_object", "schema": schema })), of_schema());
        check(format(json!({ "type": "json_schema", "schema": schema })), of_schema());
        for named in [
            json!({ "name": "n", "description": "d", "schema": schema, "strict": true }),
            json!({ "name": "n", "schema": schema, "strict": null }),
            json!({ "schema": schema, "strict": false }),
        ] {
            check(format(json!({ "type": "json_schema", "json_schema": named })), of_schema());
        }
        for name in ["json_schema", "guided_json"] {
            for value in [schema.clone(), json!(text)] {
                let mut more = json!({});
                more[name] = value;
                check(more, of_schema());
            }
        }
        let regex = || Some(Format::Regex("a+".into()));
        check(json!({ "regex": "a+" }), regex());
        check(json!({ "guided_regex": "a+" }), regex());
        let choice = || Some(Format::Choice(vec!["a".into(), "b".into()]));
        check(json!({ "guided_choice": ["a", "b"] }), choice());
        let (gbnf, lark) = ("# c\nroot ::= \"a\"", "start: \"a ::= b\"");
        let (of_gbnf, of_lark) = (Some(Format::Gbnf(gbnf.into())), Some(Format::Lark(lark.into())));
        check(json!({ "grammar": gbnf }), of_gbnf.clone());
        check(json!({ "ebnf": gbnf }), of_gbnf.clone());
        check(json!({ "guided_grammar": gbnf }), of_gbnf.clone());
        check(json!({ "guided_grammar": lark }), of_lark.clone());
        let marked = "%llguidance {}\nstart: /a ::= b/";
        for name in ["grammar", "ebnf", "guided_grammar"] {
            let mut more = json!({});
            more[name] = marked.into();
            check(more.clone(), Some(Format::Lark(marked.into())));
            more[name] = "".into();
            check(more, None);
        }
        check(outputs(json!({ "json": schema })), of_schema());
        check(outputs(json!({ "json": text, "disable_any_whitespace": false })), of_schema());
        check(outputs(json!({ "regex": "a+" })), regex());
        check(outputs(json!({ "choice": ["a", "b"] })), choice());
        check(outputs(json!({ "grammar": lark })), of_lark);
        check(outputs(json!({ "grammar": gbnf })), of_gbnf);
        check(outputs(json!({ "json_object": true })), Some(Format::JsonObject));
        // What says nothing beside what does is no second constraint.
        check(json!({ "response_format": { "type": "text" }, "grammar": "", "regex": "a+" }), regex());
    }

    #[test]
    fn structural_tags() {
        let schema = json!({ "type": "object" });
        let structure = |begin: &str| json!({ "begin": begin, "schema": schema, "end": "</f>" });
        let tag = json!({
            "type": "structural_tag", "triggers": ["<f=", "<g>"],
            "structures": [structure("<f=a>"), structure("<g>"), structure("<f=b>")],
        });
        let call = |rest: &str| {
            let body = Rule::Sequence(vec![Rule::Json(schema.clone()), Rule::Text("</f>".into())]);
            Rule::Sequence(vec![Rule::Text(rest.into()), body])
        };
        let tags =
            vec![("<f=".to_owned(), Rule::Any(vec![call("a>"), call("b>")])), ("<g>".to_owned(), call(""))];
        let expected = Format::Rule(Rule::Tagged { tags, at_least_one: false, at_most_one: false });
        check(json!({ "response_format": tag }), Some(expected.clone()));
        check(json!({ "structural_tag": tag }), Some(expected.clone()));
        check(json!({ "structural_tag": tag.to_string() }), Some(expected.clone()));
        check(json!({ "structured_outputs": { "structural_tag": tag } }), Some(expected));
        let refused = |triggers: Value, structures: Value, param: &str, part: &str| {
            let tag = json!({ "triggers": triggers, "structures": structures });
            check_refused(json!({ "structural_tag": tag }), &format!("structural_tag.{param}"), part);
        };
        let one = || json!([structure("<f>")]);
        refused(json!(["<"]), json!([]), "structures", "1 to 1024");
        refused(json!([]), one(), "triggers", "1 to 1024");
        refused(json!([""]), one(), "triggers[0]", "empty");
        refused(json!(["<", "<f"]), one(), "triggers[1]", "begin alike");
        refused(json!(["<f", "<g"]), one(), "triggers[1]", "no structure begins");
        refused(
            json!(["<g"]),
            json!([structure("<g>"), structure("<f>")]),
            "structures[1].begin",
            "none of the",
        );
        refused(json!(["<"]), json!([{ "begin": "<", "end": "" }]), "structures[0].schema", "missing");
        let newer = json!({ "type": "structural_tag", "format": {} });
        check_refused(json!({ "response_format": newer }), "response_format.format", "send `structures`");
    }

    #[test]
    fn refusals() {
        let format = |format: Value| json!({ "response_format": format });
        check_refused(format(json!("json")), "response_format", "an object");
        check_refused(format(json!({})), "response_format.type", "missing");
        check_refused(format(json!({ "type": "xml" })), "response_format.type", "`xml`; it can be text");
        check_refused(
            format(json!({ "type": "text", "schema": {} })),
            "response_format.schema",
            "unknown field",
        );
        let schema_path = "response_format.json_schema";
        check_refused(format(json!({ "type": "json_schema" })), schema_path, "missing");
        let inner = |inner: Value| format(json!({ "type": "json_schema", "json_schema": inner }));
        check_refused(inner(json!({ "name": "n" })), "response_format.json_schema.schema", "missing");
        check_refused(
            inner(json!({ "name": "a b", "schema": {} })),
            "response_format.json_schema.name",
            "1 to 64",
        );
        check_refused(inner(json!({ "schema": [] })), "response_format.json_schema.schema", "an object");
        check_refused(
            inner(json!({ "schema": {}, "x": 1 })),
            "response_format.json_schema.x",
            "unknown field",
        );
        let both = json!({ "type": "json_schema", "schema": {}, "json_schema": { "schema": {} } });
        check_refused(format(both), "response_format.schema", "both give a schema");
        check_refused(json!({ "guided_json": "{" }), "guided_json", "a JSON schema");
        check_refused(json!({ "guided_json": "[]" }), "guided_json", "a JSON schema");
        check_refused(json!({ "guided_choice": [] }), "guided_choice", "1 to 10000");
        check_refused(json!({ "guided_choice": [1] }), "guided_choice[0]", "a string");
        check_refused(json!({ "regex": 5 }), "regex", "a string");
        check_refused(
            json!({ "grammar": "x".repeat(CONSTRAINT_BYTES_MAX + 1) }),
            "grammar",
            "at most 1048576",
        );
        check_refused(json!({ "structured_outputs": {} }), "structured_outputs", "constrains nothing");
        let more = json!({ "structured_outputs": { "regex": "a", "whitespace_pattern": " " } });
        check_refused(more, "structured_outputs.whitespace_pattern", "unknown field");
        let more = json!({ "structured_outputs": { "regex": "a", "disable_any_whitespace": true } });
        check_refused(more, "structured_outputs.disable_any_whitespace", "not supported");
        let two = json!({ "regex": "a", "response_format": { "type": "json_object" } });
        check_refused(two, "regex", "`response_format` and `regex` both constrain the answer");
        let two = json!({ "structured_outputs": { "regex": "a", "choice": ["b"] } });
        let part = "`structured_outputs.regex` and `structured_outputs.choice` both";
        check_refused(two, "structured_outputs.choice", part);
    }
}

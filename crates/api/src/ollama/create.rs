//! `/api/create`: what a model is made from.

use serde_json::{Map, Value};

use super::refused::{Refused, check_empty};
use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, wrong_type};
use crate::parse_object;

/// The most files and adapters, licences, and messages.
const LIST_MAX: usize = 1000;
/// The longest name of a file, in bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

/// Taken only where they say nothing.
pub(super) const REFUSED_CREATE: &[Refused] = &[
    Refused { name: "quantize", advice: "models are not quantized here yet; send a file that is" },
    Refused { name: "quantization", advice: "models are not quantized here yet; send a file that is" },
    Refused { name: "draft_files", advice: "the operator names the draft model where the model is served" },
    Refused {
        name: "draft_quantize",
        advice: "the operator names the draft model where the model is served",
    },
    Refused { name: "remote_host", advice: "models of other servers are not served here" },
    Refused {
        name: "modelfile",
        advice: "send its parts: `from`, `files`, `template`, `system`, `parameters`, ...",
    },
    Refused {
        name: "path",
        advice: "files come as blobs: send them to /api/blobs, then name them in `files`",
    },
];

/// A request for a new model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CreateCall {
    /// What it will be called.
    pub model: String,
    /// The model that it is made from.
    pub from: Option<String>,
    /// Blobs with weights: what each was called in its folder, and its digest. The names are relative, without `..`.
    pub files: Vec<(String, String)>,
    /// Blobs with adapters.
    pub adapters: Vec<(String, String)>,
    /// The chat template.
    pub template: Option<String>,
    /// The system message.
    pub system: Option<String>,
    /// Licences.
    pub licenses: Vec<String>,
    /// Parameters.
    pub parameters: Map<String, Value>,
    /// Who says what at the beginning of each conversation.
    pub messages: Vec<(String, String)>,
    /// The least version of Ollama.
    pub requires: Option<String>,
    /// The code of Ollama's that makes prompts.
    pub renderer: Option<String>,
    /// The code of Ollama's that reads answers.
    pub parser: Option<String>,
    /// Each step is told.
    pub stream: bool,
}

impl CreateCall {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is not one, or asks for what is not available.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(parse_object(body)?);
        check_nothing(&mut fields)?;
        check_empty(&mut fields, &[REFUSED_CREATE])?;
        let named = [fields.string("model")?, fields.string("name")?];
        let model = named.into_iter().flatten().find(|name| !name.is_empty());
        let model =
            model.ok_or_else(|| fields.error("model", "`model` is missing: what shall it be called?"))?;
        let mut text =
            |name: &str| Ok::<_, RequestError>(fields.string(name)?.filter(|text| !text.is_empty()));
        let (from, template, system) = (text("from")?, text("template")?, text("system")?);
        let (requires, renderer, parser) = (text("requires")?, text("renderer")?, text("parser")?);
        let files = take_blobs(&mut fields, "files")?;
        let adapters = take_blobs(&mut fields, "adapters")?;
        if from.is_none() && files.is_empty() {
            return Err(fields.error("from", "neither `from` nor `files` says what the model is made from"));
        }
        if from.is_some() && !files.is_empty() {
            return Err(
                fields.error("from", "`from` and `files` both say what the model is made from; give one")
            );
        }
        let licenses = take_licenses(&mut fields)?;
        let messages = take_messages(&mut fields)?;
        let parameters = fields.object("parameters")?.unwrap_or_default();
        let stream = fields.bool("stream")?.unwrap_or(true);
        fields.finish()?;
        Ok(Self {
            model,
            from,
            files,
            adapters,
            template,
            system,
            licenses,
            parameters,
            messages,
            requires,
            renderer,
            parser,
            stream,
        })
    }
}

/// `info`, which says of a model what its file says.
fn check_nothing(fields: &mut Fields) -> Result<(), RequestError> {
    match fields.object("info")? {
        Some(info) if !info.is_empty() => Err(fields
            .error("info", "`info` is not supported: a model is what its file says")
            .with_code("unsupported_field")),
        _ => Ok(()),
    }
}

/// Names of files and digests. A name is what a file was called, and never a place on this server.
fn take_blobs(fields: &mut Fields, field: &str) -> Result<Vec<(String, String)>, RequestError> {
    let blobs = fields.object(field)?.unwrap_or_default();
    if blobs.len() > LIST_MAX {
        return Err(fields.error(field, format!("`{field}` has more than {LIST_MAX} entries")));
    }
    let one = |(name, digest): (String, Value)| {
        let Value::String(digest) = digest else {
            return Err(wrong_type(&format!("{field}.{}", quoted(&name)), "a digest (sha256:...)", &digest));
        };
        let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
        if name.len() > FILE_NAME_BYTES_MAX
            || !name.split('/').all(is_plain)
            || name.chars().any(char::is_control)
        {
            let text = format!("`{field}` names {}, which is no relative path of a file", quoted(&name));
            return Err(fields.error(field, text));
        }
        Ok((name, digest))
    };
    blobs.into_iter().map(one).collect()
}

/// `license`: a text, or a list of them.
fn take_licenses(fields: &mut Fields) -> Result<Vec<String>, RequestError> {
    let list = match fields.take("license") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type("license", "a string or a list of strings", &other)),
    };
    if list.len() > LIST_MAX {
        return Err(fields.error("license", format!("`license` has more than {LIST_MAX} entries")));
    }
    let text = |value| match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_type("license", "a string or a list of strings", &other)),
    };
    let texts = list.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

/// `messages`: who says what. Nothing else of a message is kept with a model.
fn take_messages(fields: &mut Fields) -> Result<Vec<(String, String)>, RequestError> {
    let list = fields.list("messages")?.unwrap_or_default();
    if list.len() > LIST_MAX {
        return Err(fields.error("messages", format!("`messages` has more than {LIST_MAX} entries")));
    }
    let one = |(i, value): (usize, Value)| {
        let mut fields = Fields::nested(value, &format!("messages[{i}]"))?;
        check_empty(&mut fields, &[super::messages::IMAGES])?;
        let role = fields.string("role")?.unwrap_or_default().to_lowercase();
        if !["system", "user", "assistant"].contains(&role.as_str()) {
            let text =
                format!("`messages[{i}].role` is {}; it can be system, user or assistant", quoted(&role));
            return Err(fields.error("role", text));
        }
        let content = fields.string("content")?;
        let content =
            content.ok_or_else(|| fields.error("content", format!("`messages[{i}].content` is missing")))?;
        fields.finish()?;
        Ok((role, content))
    };
    list.into_iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies() {
        let body = json!({
            "model": "mario", "from": "tiny", "template": "{{ .Prompt }}", "system": "You are Mario.",
            "license": ["MIT", ""], "parameters": {"temperature": 1}, "stream": false,
            "messages": [{"role": "User", "content": "hi"}], "quantize": "", "info": {}, "requires": "0.14.0",
        });
        let call = CreateCall::parse(body.to_string().as_bytes()).expect("a body");
        assert_eq!((call.model.as_str(), call.from.as_deref(), call.stream), ("mario", Some("tiny"), false));
        assert_eq!((call.licenses, call.messages), (vec!["MIT".into()], vec![("user".into(), "hi".into())]));
        assert_eq!(call.parameters["temperature"], json!(1));
        let files =
            json!({"name": "m", "files": {"a/x.gguf": "sha256:0"}, "adapters": {"l.gguf": "sha256:1"}});
        let call = CreateCall::parse(files.to_string().as_bytes()).expect("a body");
        assert_eq!(call.files, [("a/x.gguf".to_owned(), "sha256:0".to_owned())]);
        assert!(call.stream);
    }

    #[test]
    fn what_is_refused() {
        let check = |body: Value, expected: &str| {
            let error = CreateCall::parse(body.to_string().as_bytes()).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(json!({"from": "x"}), "`model` is missing");
        check(json!({"model": "m"}), "neither `from` nor `files`");
        check(json!({"model": "m", "from": "x", "files": {"a": "sha256:0"}}), "both say");
        check(json!({"model": "m", "from": "x", "quantize": "q4_K_M"}), "models are not quantized here yet");
        check(json!({"model": "m", "modelfile": "FROM x"}), "send its parts");
        check(json!({"model": "m", "from": "x", "info": {"a": 1}}), "`info` is not supported");
        check(
            json!({"model": "m", "from": "x", "messages": [{"role": "tool", "content": ""}]}),
            "messages[0].role",
        );
        check(json!({"model": "m", "from": "x", "license": 3}), "a string or a list of strings");
        check(json!({"model": "m", "from": "x", "parameters": []}), "parameters");
        for name in ["/etc/passwd", "../x", "a/../x", "", "a//b", "c:\\x", "a\0b"] {
            check(json!({"model": "m", "files": {name: "sha256:0"}}), "no relative path");
        }
    }
}

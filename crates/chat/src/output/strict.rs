//! What a tool's schema asks for and a format cannot promise.
//!
//! Where a family writes JSON, the whole schema is enforced. Where it writes tags with plain text between them, a text
//! is anything up to its end, and only the properties themselves, one by one, are looked at.

use serde_json::Value;

use super::family::Family;
use super::tools;

/// What narrows a text down.
const ABOUT_TEXT: [&str; 4] = ["pattern", "minLength", "maxLength", "format"];
/// What an object's schema may have besides its annotations.
const ABOUT_OBJECTS: [&str; 6] =
    ["type", "properties", "required", "additionalProperties", "$defs", "definitions"];
const ANNOTATIONS: [&str; 8] =
    ["title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"];

/// The first thing that the schema of a tool marked `strict` asks for in vain: the tool, the parameter (none if it is
/// about the whole), the keyword.
pub(super) fn unenforced(family: Family, tools: &[Value]) -> Option<(String, Option<String>, String)> {
    if !writes_texts(family) {
        return None;
    }
    tools.iter().filter(|tool| tools::strict(tool)).find_map(|tool| {
        let name = tools::name(tool)?.to_owned();
        let schema = tool.pointer("/function/parameters")?.as_object()?;
        let known = |key: &str| ABOUT_OBJECTS.contains(&key) || ANNOTATIONS.contains(&key);
        if let Some(key) = schema.keys().find(|key| !known(key)) {
            return Some((name, None, key.clone()));
        }
        let properties = schema.get("properties")?.as_object()?;
        properties.iter().find_map(|(parameter, part)| {
            let keyword = ABOUT_TEXT.iter().find(|key| part.get(**key).is_some())?;
            Some((name.clone(), Some(parameter.clone()), (*keyword).to_owned()))
        })
    })
}

/// Whether parameters stand between tags, texts as they are.
fn writes_texts(family: Family) -> bool {
    matches!(
        family,
        Family::QwenXml
            | Family::SeedOss
            | Family::MiniMaxM2
            | Family::DeepSeekV32
            | Family::DeepSeekV4
            | Family::Glm
            | Family::Gemma4
            | Family::FunctionGemma
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(parameters: Value, strict: bool, expected: Option<(Option<&str>, &str)>) {
        let tool = json!({ "type": "function", "function": {
            "name": "f", "strict": strict, "parameters": parameters,
        } });
        let expected = expected
            .map(|(parameter, keyword)| ("f".to_owned(), parameter.map(str::to_owned), keyword.to_owned()));
        assert_eq!(unenforced(Family::QwenXml, std::slice::from_ref(&tool)), expected, "{tool}");
        assert_eq!(unenforced(Family::Hermes, &[tool]), None, "JSON is enforced as a whole");
    }

    #[test]
    fn texts_and_wholes() {
        let of = |part: Value| json!({ "type": "object", "properties": { "a": part }, "required": ["a"] });
        check(of(json!({ "type": "string", "description": "d", "enum": ["x"] })), true, None);
        check(of(json!({ "type": "integer", "minimum": 3 })), true, None);
        check(of(json!({ "type": "string", "pattern": "^a" })), true, Some((Some("a"), "pattern")));
        check(of(json!({ "type": "string", "pattern": "^a" })), false, None);
        check(json!({ "anyOf": [of(json!({}))] }), true, Some((None, "anyOf")));
    }
}

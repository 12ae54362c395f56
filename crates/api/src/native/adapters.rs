//! Adapters at run time: llama-server's `/lora-adapters`, vLLM's and SGLang's routes to load and unload them.

use ingle_chat::{AdapterInfo, AdapterName, AdapterWish, LoadAdapter};
use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::{RequestError, lora, parse_list, parse_object};

/// The reply of `GET /lora-adapters`. Paths of files are nobody's business: `path` is the name.
pub fn list(adapters: &[AdapterInfo]) -> String {
    let entry = |adapter: &AdapterInfo| {
        json!({
            "id": adapter.number,
            "path": adapter.name,
            "scale": adapter.scale,
            "task_name": adapter.task_name,
            "prompt_prefix": adapter.prompt_prefix,
            "name": adapter.name,
            "rank": adapter.rank,
            "matrices": adapter.n_matrices,
            "memory_bytes": adapter.memory_bytes,
            "digest": adapter.digest,
        })
    };
    Value::from(adapters.iter().map(entry).collect::<Vec<_>>()).to_string()
}

/// Reads a body of `POST /lora-adapters`: what applies to requests that choose no adapters.
pub fn parse_scales(body: &[u8]) -> Result<Vec<AdapterWish>, RequestError> {
    lora::wishes(parse_list(body)?, "")
}

/// The reply of `POST /lora-adapters`.
pub fn scales_reply() -> String {
    json!({ "success": true }).to_string()
}

/// Reads a body of vLLM's `/v1/load_lora_adapter`.
pub fn parse_load(body: &[u8]) -> Result<LoadAdapter, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    let name = required(&mut fields, "lora_name")?;
    let path = required(&mut fields, "lora_path")?;
    let model = fields.string("base_model_name")?;
    let replace = fields.bool("load_inplace")?.unwrap_or(false);
    fields.finish()?;
    Ok(LoadAdapter { model, name, path, replace })
}

/// Reads a body of vLLM's `/v1/unload_lora_adapter`, and of SGLang's.
pub fn parse_unload(body: &[u8]) -> Result<AdapterName, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    let name = required(&mut fields, "lora_name")?;
    fields.finish()?;
    Ok(AdapterName::Name(name))
}

/// Reads a body of SGLang's `/load_lora_adapter`. `pinned` changes nothing: adapters stay in memory until they are
/// unloaded.
pub fn parse_sglang_load(body: &[u8]) -> Result<LoadAdapter, RequestError> {
    let mut fields = Fields::new(parse_object(body)?);
    let name = required(&mut fields, "lora_name")?;
    let path = required(&mut fields, "lora_path")?;
    fields.bool("pinned")?;
    fields.finish()?;
    Ok(LoadAdapter { model: None, name, path, replace: false })
}

/// The reply of vLLM's routes.
pub fn done(name: &str, what: &str) -> String {
    format!("Success: LoRA adapter '{name}' {what} successfully.")
}

/// The reply of SGLang's routes: all adapters that are loaded now.
pub fn loaded(adapters: &[AdapterInfo]) -> String {
    let all: Map<String, Value> =
        adapters.iter().map(|adapter| (adapter.name.clone(), adapter.name.clone().into())).collect();
    json!({ "success": true, "error_message": "", "loaded_adapters": all }).to_string()
}

fn required(fields: &mut Fields, name: &str) -> Result<String, RequestError> {
    let value = fields.string(name)?.filter(|value| !value.is_empty());
    value.ok_or_else(|| fields.error(name, format!("`{name}` is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let name = |name: &str| AdapterName::Name(name.into());
        let scales = parse_scales(br#"[{"id":1,"scale":0.5},{"id":0,"scale":-1}]"#).expect("valid");
        let wish = |number, scale| AdapterWish { adapter: AdapterName::Number(number), scale };
        assert_eq!(scales, [wish(1, 0.5), wish(0, -1.0)]);
        assert_eq!(parse_scales(b"[]").expect("valid"), []);
        let load = parse_load(br#"{"lora_name":"a","lora_path":"b/c","load_inplace":true}"#).expect("valid");
        let expected = LoadAdapter { model: None, name: "a".into(), path: "b/c".into(), replace: true };
        assert_eq!(load, expected);
        assert_eq!(parse_unload(br#"{"lora_name":"a"}"#).expect("valid"), name("a"));
        let load = parse_sglang_load(br#"{"lora_name":"a","lora_path":"b","pinned":true}"#).expect("valid");
        assert!(!load.replace);
    }

    #[test]
    fn wrong_bodies() {
        let check = |result: Result<(), RequestError>, param: Option<&str>| {
            assert_eq!(result.expect_err("refused").param.as_deref(), param);
        };
        let scales = |body: &str| parse_scales(body.as_bytes()).map(drop);
        check(scales("{}"), None);
        check(scales("[1]"), Some("[0]"));
        check(scales(r#"[{"id":0}]"#), Some("[0].scale"));
        check(scales(r#"[{"scale":1}]"#), Some("[0].id"));
        check(scales(r#"[{"id":-1,"scale":1}]"#), Some("[0].id"));
        check(scales(r#"[{"id":0,"scale":1e9}]"#), Some("[0].scale"));
        check(scales(r#"[{"id":0,"scale":1,"name":"x"}]"#), Some("[0].name"));
        let load = |body: &str| parse_load(body.as_bytes()).map(drop);
        check(load(r#"{"lora_name":"a"}"#), Some("lora_path"));
        check(load(r#"{"lora_name":"","lora_path":"b"}"#), Some("lora_name"));
        check(load(r#"{"lora_name":"a","lora_path":"b","lora_int_id":1}"#), Some("lora_int_id"));
        check(parse_unload(br#"{"lora_int_id":1}"#).map(drop), Some("lora_name"));
    }
}

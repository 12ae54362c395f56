//! Lists of models, a page at a time.

use std::time::Duration;

use ingle_chat::ModelInfo;
use serde_json::{Value, json};

use crate::RequestError;
use crate::error::shown;
use crate::ollama::rfc3339;

/// How many models a page has unless it is said, and at most.
const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 1000;

/// Which page of the list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    limit: usize,
    after_id: Option<String>,
    before_id: Option<String>,
    /// Models here are all active; a list of others is empty.
    active: bool,
}

impl ListQuery {
    /// Reads the query's names and values.
    pub fn parse<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, RequestError> {
        let mut query = Self { limit: LIMIT_DEFAULT, after_id: None, before_id: None, active: true };
        let mut lifecycles: Option<bool> = None;
        for (name, value) in pairs {
            match name {
                "limit" => {
                    let limit = value.parse().ok().filter(|n| (1..=LIMIT_MAX).contains(n));
                    query.limit = limit.ok_or_else(|| {
                        RequestError::field(
                            "limit",
                            format!("`limit` must be a whole number from 1 to {LIMIT_MAX}"),
                        )
                    })?;
                }
                "after_id" => query.after_id = Some(value.to_owned()),
                "before_id" => query.before_id = Some(value.to_owned()),
                "lifecycle" | "lifecycle[]" => {
                    for word in value.split(',') {
                        if !["active", "deprecated", "retired"].contains(&word) {
                            let text = format!(
                                "`lifecycle` is `{}`; it can be active, deprecated, retired",
                                shown(word)
                            );
                            return Err(RequestError::field("lifecycle", text));
                        }
                        lifecycles = Some(lifecycles == Some(true) || word == "active");
                    }
                }
                // How clients ask for routes of betas.
                "beta" => {}
                other => {
                    let name = shown(other);
                    let text = format!("unknown parameter `{name}`: remove it");
                    return Err(RequestError::field(name, text).with_code("unknown_field"));
                }
            }
        }
        if query.after_id.is_some() && query.before_id.is_some() {
            let text = "`after_id` and `before_id` are two places; give one of them";
            return Err(RequestError::field("before_id", text));
        }
        query.active = lifecycles.unwrap_or(true);
        Ok(query)
    }
}

/// One model, as a reply body.
pub fn model(name: &str, info: &ModelInfo) -> String {
    entry(name, info).to_string()
}

fn entry(name: &str, info: &ModelInfo) -> Value {
    json!({
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": rfc3339(Duration::from_secs(info.created)),
        "lifecycle": "active",
        // Prompt and answer share the context.
        "max_input_tokens": info.n_ctx,
        "max_tokens": info.n_ctx,
    })
}

/// A page of the list, as a reply body.
///
/// # Errors
/// If the page begins at a model that is not there.
pub fn list(models: &[(String, ModelInfo)], query: &ListQuery) -> Result<String, RequestError> {
    let all = if query.active { models } else { &[] };
    let place = |param: &str, id: &String| {
        all.iter().position(|(name, _)| name == id).ok_or_else(|| {
            RequestError::field(param, format!("`{param}` is `{}`, which is no model here", shown(id)))
        })
    };
    let (page, has_more) = match (&query.after_id, &query.before_id) {
        (_, Some(id)) => {
            let before = &all[..place("before_id", id)?];
            let page = &before[before.len().saturating_sub(query.limit)..];
            (page, page.len() < before.len())
        }
        (after_id, None) => {
            let after = match after_id {
                Some(id) => &all[place("after_id", id)? + 1..],
                None => all,
            };
            let page = &after[..query.limit.min(after.len())];
            (page, page.len() < after.len())
        }
    };
    let id = |entry: Option<&(String, ModelInfo)>| entry.map(|(name, _)| name.clone());
    let data: Vec<Value> = page.iter().map(|(name, info)| entry(name, info)).collect();
    let (first_id, last_id) = (id(page.first()), id(page.last()));
    Ok(json!({ "data": data, "has_more": has_more, "first_id": first_id, "last_id": last_id }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &[(&str, &str)], expected: Result<(&[&str], bool), &str>) {
        let models: Vec<(String, ModelInfo)> =
            ["a", "b", "c", "d"].map(|name| (name.to_owned(), ModelInfo::default())).into();
        let page = ListQuery::parse(query.iter().copied()).and_then(|query| list(&models, &query));
        match (page, expected) {
            (Ok(page), Ok((names, has_more))) => {
                let page: Value = serde_json::from_str(&page).expect("JSON");
                let ids: Vec<&str> = page["data"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|m| m["id"].as_str().expect("an id"))
                    .collect();
                assert_eq!(ids, names, "{query:?}");
                assert_eq!(page["has_more"], has_more, "{query:?}");
                assert_eq!(page["first_id"], json!(names.first()));
                assert_eq!(page["last_id"], json!(names.last()));
            }
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{query:?}: {error}"),
            (page, _) => panic!("{query:?}: {page:?}"),
        }
    }

    #[test]
    fn pages() {
        check(&[], Ok((&["a", "b", "c", "d"], false)));
        check(&[("limit", "2")], Ok((&["a", "b"], true)));
        check(&[("limit", "2"), ("after_id", "b")], Ok((&["c", "d"], false)));
        check(&[("limit", "2"), ("before_id", "d")], Ok((&["b", "c"], true)));
        check(&[("before_id", "b")], Ok((&["a"], false)));
        check(&[("after_id", "d")], Ok((&[], false)));
        check(&[("lifecycle", "retired,deprecated")], Ok((&[], false)));
        check(
            &[("lifecycle[]", "retired"), ("lifecycle[]", "active"), ("beta", "true")],
            Ok((&["a", "b", "c", "d"], false)),
        );
        check(&[("limit", "0")], Err("from 1 to 1000"));
        check(&[("limit", "x")], Err("from 1 to 1000"));
        check(&[("after_id", "x")], Err("`x`, which is no model here"));
        check(&[("after_id", "a"), ("before_id", "b")], Err("give one of them"));
        check(&[("order", "asc")], Err("unknown parameter `order`"));
        check(&[("lifecycle", "old")], Err("it can be active"));
    }

    #[test]
    fn one_model() {
        let info = ModelInfo { created: 1_700_000_000, n_ctx: 4096, ..ModelInfo::default() };
        let entry: Value = serde_json::from_str(&model("m", &info)).expect("JSON");
        assert_eq!(entry["type"], "model");
        assert!(
            entry["created_at"].as_str().is_some_and(|t| t.starts_with("2023-11-14T22:13:20")),
            "{entry}"
        );
        assert_eq!(entry["max_input_tokens"], 4096);
    }
}

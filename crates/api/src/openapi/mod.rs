//! The description of the HTTP API, in the form of OpenAPI 3.1: what `/openapi.json` says.
//!
//! Its parts cannot drift from what is served:
//! - Bodies are taken apart by hand, field by field. Beside each parser stands a function that describes what it takes
//!   (`schema.rs` of its dialect), partly out of the parser's own tables. Tests run the parsers, note what fields they
//!   look for, as what and within which bounds, and compare.
//! - Replies are described by their types, except for a few small ones that have no type.
//! - Operations stand in [`operations`]; a test of `server` compares them with the routes that it serves.
//!
//! `docs/openapi.json` is the whole document; a test compares it, `ingle openapi > docs/openapi.json` makes it again.
//! Routes of peers that are always refused are not in it.

mod operation;
mod routes;
pub(crate) mod schema;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{anthropic, ollama};
use operation::Dialect;
use schema::Schema;

const DESCRIPTION: &str = "Language models on one's own machine, in the dialects of OpenAI, Anthropic and Ollama, with \
    routes of llama-server, vLLM and SGLang. Nothing is silently ignored: a field does what is said here, or is \
    refused with its name. A field that is `null` counts as absent. Where the server has no keys, none is asked for.";

/// Where schemas of their own name stand.
const SCHEMAS: &str = "/components/schemas";

/// Schemas that operations refer to by name.
pub(crate) struct Components {
    generator: SchemaGenerator,
    written: Map<String, Value>,
}

impl Components {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
        });
        Self { generator: settings.into_generator(), written: Map::new() }
    }

    /// The schema of what a type is written as.
    pub fn derived<T: JsonSchema>(&mut self) -> Value {
        self.generator.subschema_for::<T>().to_value()
    }

    /// A schema under a name of its own.
    pub fn put(&mut self, name: &str, schema: impl FnOnce() -> Schema) -> Value {
        if !self.written.contains_key(name) {
            self.written.insert(name.to_owned(), schema().into_value());
        }
        json!({ "$ref": format!("#{SCHEMAS}/{name}") })
    }

    /// All of them, by name.
    fn into_value(mut self) -> Value {
        let mut all: BTreeMap<String, Value> = self.generator.take_definitions(true).into_iter().collect();
        for (name, schema) in self.written {
            let twice = all.insert(name.clone(), schema);
            assert!(twice.is_none(), "two schemas are called {name}");
        }
        all.into_iter().collect::<Map<_, _>>().into()
    }
}

/// Method (in capitals) and path of every operation that is described.
pub fn operations() -> Vec<(&'static str, &'static str)> {
    routes::all().iter().map(|operation| (operation.method, operation.path)).collect()
}

/// The document, as JSON that people can read.
pub fn document() -> String {
    let text = serde_json::to_string_pretty(&build()).expect("a value has string keys");
    format!("{text}\n")
}

fn build() -> Value {
    let mut components = Components::new();
    let mut paths: Map<String, Value> = Map::new();
    for operation in routes::all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = operation.describe(&mut components);
    }
    let openai = components.derived::<crate::openai::ErrorBody>();
    let anthropic = components.put(operation::error_schema(Dialect::Anthropic), anthropic::schema::error);
    let ollama = components.put(operation::error_schema(Dialect::Ollama), ollama::schema::error);
    let openai_or_anthropic = json!({ "anyOf": [openai.clone(), anthropic.clone()] });
    let errors: Map<String, Value> = [
        (Dialect::OpenAi, openai),
        (Dialect::Anthropic, anthropic),
        (Dialect::Ollama, ollama),
        (Dialect::OpenAiOrAnthropic, openai_or_anthropic),
    ]
    .into_iter()
    .flat_map(|(dialect, schema)| operation::errors(dialect, &schema))
    .collect();
    let tags: Vec<Value> =
        routes::TAGS.iter().map(|tag| json!({ "name": tag.name, "description": tag.text })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ingle",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "key": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": components.into_value(),
            "responses": errors,
            "parameters": operation::shared_parameters(),
            "headers": operation::headers(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
        },
    })
}

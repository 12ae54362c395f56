//! The body and the reply of embeddings, described: see [`crate::openapi`].

use ingle_chat::EMBED_INPUTS_MAX;
use serde_json::{Value, json};

use super::embeddings::{DIMENSIONS_MAX, HARMLESS_EMBEDDINGS, Reply, Row};
use super::schema::model;
use crate::openapi::Components;
use crate::openapi::schema::{
    Object, Schema, boolean, either, exactly, integer, list, string, token_id, words,
};

/// The body: OpenAI's, or with `content` llama-server's.
pub(crate) fn body() -> Schema {
    let shared = |object: Object| {
        model(object)
            .field(
                "dimensions",
                integer(1, DIMENSIONS_MAX),
                "Only the first so many numbers, of length 1 again.",
            )
            .field(
                "truncate",
                boolean(),
                "The end of a text that is too long is left out, and that is reported.",
            )
            .field("truncate_prompt_tokens", truncate_to(), TRUNCATE_TO)
            .field("normalize", boolean(), "`false`: not of length 1.")
            .field(
                "embd_normalize",
                either([exactly(2.into()), exactly((-1).into())]),
                "-1: not of length 1.",
            )
            .harmless(&[HARMLESS_EMBEDDINGS])
    };
    let openai = shared(Object::new().must("input", texts(), "A text, or several."));
    let llama = shared(Object::new().must("content", texts(), "The same in llama-server's shape."));
    either([
        openai
            .field("encoding_format", words(&["float", "base64"]), "Numbers, or their bytes in Base64.")
            .schema(),
        llama.field("encoding_format", words(&["float"]), "Numbers.").schema(),
    ])
}

/// One text or several, as text or as tokens.
fn texts() -> Schema {
    let tokens = || list(token_id()).with("minItems", 1);
    either([
        string().with("minLength", 1),
        list(string().with("minLength", 1)).entries(1, EMBED_INPUTS_MAX),
        tokens(),
        list(tokens()).entries(1, EMBED_INPUTS_MAX),
    ])
}

/// The reply in either shape.
pub(crate) fn reply(components: &mut Components) -> Value {
    let (openai, row) = (components.derived::<Reply>(), components.derived::<Row>());
    components.put("EmbeddingReply", || either([Schema::of(openai), list(Schema::of(row))]))
}

/// What `truncate_prompt_tokens` is told as.
pub(crate) const TRUNCATE_TO: &str =
    "Texts with more tokens than this are cut as by `truncate`; -1 is as many as the model reads.";

/// How many tokens stay of a text.
pub(crate) fn truncate_to() -> Schema {
    integer(-1, u32::MAX.into()).with("not", json!({ "const": 0 }))
}

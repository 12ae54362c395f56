//! The bodies of the routes that peers have beside the dialects, described: see [`crate::openapi`].

use ingle_chat::EMBED_INPUTS_MAX;
use serde_json::Value;

use super::generate::{HARMLESS_GENERATE, HARMLESS_SAMPLING};
use super::infill::{FILES_MAX, HARMLESS_INFILL};
use super::rerank::{HARMLESS_RERANK, Reranked, Scores};
use crate::lora;
use crate::openai::chat;
use crate::openai::completion::CHOICES_MAX;
use crate::openai::embeddings_schema::{TRUNCATE_TO, truncate_to};
use crate::openai::sampling::TOP_LOGPROBS_MAX;
use crate::openai::schema::{I32_MAX, LORA, constraints, generation, model};
use crate::openai::terms::rank;
use crate::openapi::Components;
use crate::openapi::schema::{
    Object, Schema, any, boolean, count_of, either, exactly, exactly_false, integer, list, map, nullable,
    number, string, token_id, word, words,
};

/// The body of `/tokenize`: llama-server's, vLLM's of text, or vLLM's of a conversation.
pub(crate) fn tokenize_body() -> Schema {
    let strings = "What each token spells.";
    let content = Object::new()
        .must("content", string(), "The text.")
        .field("add_special", boolean(), "With what the model wants around a prompt.")
        .field("parse_special", boolean(), "The text may spell control tokens; true without it.")
        .field("with_pieces", boolean(), strings);
    let prompt = Object::new()
        .must("prompt", string(), "The text, which cannot spell control tokens.")
        .field("add_special_tokens", boolean(), "With what the model wants around it; true without it.")
        .field("return_token_strs", boolean(), strings);
    let conversation = chat::schema::body()
        .field("add_special_tokens", exactly_false(), "The template decides.")
        .field("return_token_strs", boolean(), strings);
    either([model(content).schema(), model(prompt).schema(), conversation.schema()])
}

/// The body of `/detokenize`.
pub(crate) fn detokenize_body() -> Schema {
    model(Object::new()).must("tokens", list(token_id()), "Their ids.").schema()
}

/// The body of `/generate`, whose prompt is text or tokens.
pub(crate) fn generate_body() -> Schema {
    let tokens = || list(token_id());
    let text = either([string(), list(string()).entries(1, CHOICES_MAX)]);
    let ids = either([tokens().with("minItems", 1), list(tokens()).entries(1, CHOICES_MAX)]);
    either([
        shared(Object::new().must("text", text, "The text to continue, or several.")),
        shared(Object::new().must("input_ids", ids, "The same as tokens.")),
    ])
}

fn shared(object: Object) -> Schema {
    let params =
        Object::new().field("max_new_tokens", integer(0, I32_MAX), "The most new tokens; 128 without it.");
    let params = constraints(generation(params)).harmless(&[HARMLESS_SAMPLING]);
    rank(model(object))
        .field("sampling_params", params.schema(), "For all prompts.")
        .field("lora_path", string(), "The name of an adapter that is added.")
        .field("stream", boolean(), "Events instead of one body.")
        .field("return_logprob", boolean(), "Log-probabilities of tokens.")
        .field(
            "logprob_start_len",
            integer(-1, i128::from(u32::MAX)),
            "From which token of the prompt; -1 is none of it.",
        )
        .field("top_logprobs_num", integer(0, TOP_LOGPROBS_MAX), "So many alternatives with each.")
        .field("return_text_in_logprobs", boolean(), "With the tokens' text.")
        .harmless(&[HARMLESS_GENERATE])
        .schema()
}

/// The reply of `/tokenize`, in the shape of the body.
pub(crate) fn tokens() -> Schema {
    let piece = Object::new().must("id", token_id(), "").must(
        "piece",
        either([string(), list(integer(0, 255))]),
        "Bytes, where they are no text.",
    );
    let plain = Object::new().must("tokens", either([list(token_id()), list(piece.schema())]), "");
    let counted = Object::new()
        .must("count", count_of(), "")
        .must("max_model_len", count_of(), "The model's context.")
        .must("tokens", list(token_id()), "")
        .must("token_strs", nullable(list(string())), "");
    either([plain.schema(), counted.schema()])
}

/// The reply of `/detokenize`.
pub(crate) fn text() -> Schema {
    Object::new().must("content", string(), "").must("prompt", string(), "The same.").schema()
}

/// The reply of `/apply-template`.
pub(crate) fn prompt() -> Schema {
    Object::new().must("prompt", string(), "Control tokens spelled out.").schema()
}

/// The reply of `/generate`: one answer, or a list of them.
pub(crate) fn answers(components: &mut Components) -> Value {
    let one = components.put("GenerateAnswer", answer);
    components.put("GenerateReply", || either([Schema::of(one.clone()), list(Schema::of(one))]))
}

/// An answer as far as it has come.
pub(crate) fn answer() -> Schema {
    let finish = Object::new()
        .must("type", words(&["stop", "length", "abort"]), "")
        .field("matched", string(), "The stop string; null at the model's own end.")
        .field("length", count_of(), "")
        .field("message", string(), "");
    // Log-probability, token, text.
    let triple = || list(any()).entries(3, 3);
    let tops = || list(nullable(list(triple())));
    let meta = Object::new()
        .must("id", string(), "")
        .must("finish_reason", nullable(finish.schema()), "Null while the answer goes on.")
        .must("prompt_tokens", count_of(), "")
        .must("completion_tokens", count_of(), "")
        .field("cached_tokens", count_of(), "")
        .field("context_shifts", count_of(), "How often tokens made way in a full context.")
        .field("discarded_tokens", count_of(), "How many did.")
        .field("e2e_latency", any().with("type", "number"), "Seconds.")
        .fields(&["input_token_logprobs", "output_token_logprobs"], &list(triple()), "")
        .fields(&["input_top_logprobs", "output_top_logprobs"], &tops(), "");
    Object::new()
        .must("text", string(), "")
        .must("meta_info", meta.schema(), "")
        .field("index", count_of(), "Which answer; in streams of several.")
        .schema()
}

/// llama-server's page about the model that runs.
pub(crate) fn props() -> Schema {
    let settings = Object::new().must("n_ctx", count_of(), "").must("params", map(), "");
    Object::new()
        .must("default_generation_settings", settings.schema(), "")
        .must("total_slots", count_of(), "How many answers are computed at a time.")
        .must("model_alias", string(), "")
        .must("model_path", string(), "The model's name, not a file's.")
        .must("modalities", map(), "")
        .must("chat_template", string(), "")
        .must("chat_template_caps", map(), "")
        .must("build_info", string(), "")
        .must("is_sleeping", boolean(), "")
        .schema()
}

/// Its places for answers.
pub(crate) fn slots() -> Schema {
    let slot = Object::new()
        .must("id", count_of(), "")
        .must("n_ctx", count_of(), "")
        .must("speculative", boolean(), "")
        .must("is_processing", boolean(), "");
    list(slot.schema())
}

/// SGLang's page about the model that runs.
pub(crate) fn model_info() -> Schema {
    Object::new()
        .must("model_path", string(), "The model's name, not a file's.")
        .must("tokenizer_path", string(), "")
        .must("is_generation", boolean(), "")
        .must("preferred_sampling_params", any().with("type", "null"), "")
        .must("weight_version", string(), "")
        .must("model_type", string(), "")
        .must("has_image_understanding", boolean(), "")
        .must("has_audio_understanding", boolean(), "")
        .schema()
}

/// Whether requests are answered now, and how busy the server is.
pub(crate) fn health() -> Schema {
    let error = Object::new().must("code", integer(503, 503), "").must("message", string(), "").must(
        "type",
        string(),
        "",
    );
    let speed = || any().with("type", "number");
    let requests = Object::new().must("running", count_of(), "").must("waiting", count_of(), "");
    let speeds = Object::new().must("prefill", speed(), "").must("decode", speed(), "");
    let blocks = Object::new().must("used", count_of(), "").must("cached", count_of(), "").must(
        "total",
        count_of(),
        "",
    );
    Object::new()
        .must("status", string(), "`ok`, or what is the matter.")
        .must("live", boolean(), "")
        .must("ready", boolean(), "")
        .must("version", string(), "")
        .must("uptime_s", count_of(), "")
        .field("progress", number(0.0, 1.0), "Of loading.")
        .field("models", list(string()), "")
        .field(
            "model_states",
            map(),
            "Where models come and go: the state of each, and its share of the memory.",
        )
        .field("memory_budget_bytes", count_of(), "What models may have of the memory, if there is a limit.")
        .field("requests", requests.schema(), "")
        .field("memory_bytes", count_of(), "")
        .field("tokens_per_second", speeds.schema(), "")
        .field("kv_blocks", blocks.schema(), "")
        .field("error", error.schema(), "If requests are not answered now.")
        .schema()
}

/// Whether the process lives.
pub(crate) fn live() -> Schema {
    Object::new().must("status", word("ok"), "").must("live", boolean(), "").schema()
}

/// Whether a token came out.
pub(crate) fn generates() -> Schema {
    Object::new().must("status", word("ok"), "").schema()
}

/// What this server is.
pub(crate) fn version() -> Schema {
    Object::new().must("name", word("ingle"), "").must("version", string(), "").schema()
}

/// The body of `/infill`.
pub(crate) fn infill_body() -> Schema {
    let file = Object::new().must("text", string(), "").field("filename", string(), "");
    let around = |required: &str, other: &str| {
        let object = Object::new()
            .must(required, string(), "What stands on one side of the gap.")
            .field(other, string(), "What stands on the other.")
            .field(
                "input_extra",
                list(file.clone().schema()).entries(0, FILES_MAX),
                "Other texts of the project.",
            )
            .field("prompt", string(), "How the filling begins.")
            .field(
                "n_predict",
                integer(-1, I32_MAX),
                "The most new tokens; -1 is as many as the context holds.",
            )
            .field("lora", lora::schema(), LORA)
            .field("stream", boolean(), "Events instead of one body.");
        constraints(generation(model(object)))
            .field("n", exactly(1.into()), "The reply has one answer.")
            .harmless(&[HARMLESS_INFILL])
            .schema()
    };
    either([around("input_prefix", "input_suffix"), around("input_suffix", "input_prefix")])
}

/// The reply of `/infill`, and the last of its events.
pub(crate) fn filling() -> Schema {
    Object::new()
        .must("index", count_of(), "")
        .must("content", string(), "What fills the gap.")
        .must("stop", boolean(), "")
        .must("model", string(), "")
        .must("tokens_predicted", count_of(), "")
        .must("tokens_evaluated", count_of(), "")
        .must("tokens_cached", count_of(), "")
        .must("has_new_line", boolean(), "")
        .must("truncated", boolean(), "Whether tokens made way in a full context.")
        .field("context_shifts", count_of(), "How often they did.")
        .field("discarded_tokens", count_of(), "How many they were.")
        .must("stop_type", words(&["eos", "limit", "word", "none"]), "")
        .must("stopping_word", string(), "The stop string, if one matched.")
        .must("timings", map(), "")
        .schema()
}

/// An event of `/infill`.
pub(crate) fn filling_event(components: &mut Components) -> Value {
    let last = components.put("Infilling", filling);
    let piece = Object::new()
        .must("index", count_of(), "")
        .must("content", string(), "What comes next.")
        .must("stop", exactly_false(), "");
    components.put("InfillingEvent", || either([piece.schema(), Schema::of(last)]))
}

/// The body of `/rerank`.
pub(crate) fn rerank_body() -> Schema {
    let document = Object::new().must("text", string().with("minLength", 1), "");
    let texts = list(either([some_text(), document.schema()])).entries(1, EMBED_INPUTS_MAX - 1);
    let object = Object::new()
        .must("query", some_text(), "What is looked for.")
        .must("documents", texts, "What is put in order.")
        .field("top_n", integer(0, I32_MAX), "Only the best so many; 0 is all.")
        .field("return_documents", boolean(), "`false` leaves the texts out.");
    compared(object)
}

/// The body of `/score`: one and one, one and many, or as many of both.
pub(crate) fn score_body() -> Schema {
    let texts = || either([some_text(), list(some_text()).entries(1, EMBED_INPUTS_MAX - 1)]);
    let first = ["text_1", "queries", "data_1"];
    let second = ["text_2", "documents", "items", "data_2"];
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (*a, *b)));
    let side = "A text, or several.";
    either(pairs.map(|(a, b)| compared(Object::new().must(a, texts(), side).must(b, texts(), side))))
}

fn some_text() -> Schema {
    string().with("minLength", 1)
}

fn compared(object: Object) -> Schema {
    rank(model(object))
        .field("truncate", boolean(), "The end of a text that is too long is left out, and that is reported.")
        .field("truncate_prompt_tokens", truncate_to(), TRUNCATE_TO)
        .field(
            "use_activation",
            boolean(),
            "`false`: the number that a head gives, not its logistic function.",
        )
        .harmless(&[HARMLESS_RERANK])
        .schema()
}

/// The reply of `/rerank`.
pub(crate) fn ranking(components: &mut Components) -> Value {
    components.derived::<Reranked>()
}

/// The reply of `/score`.
pub(crate) fn scores(components: &mut Components) -> Value {
    components.derived::<Scores>()
}

/// SGLang's page about the server.
pub(crate) fn server_info() -> Schema {
    let state = Object::new().must("last_gen_throughput", any().with("type", "number"), "Tokens per second.");
    Object::new()
        .must("model_path", string(), "The model's name, not a file's.")
        .must("tokenizer_path", string(), "")
        .must("served_model_name", string(), "")
        .must("context_length", count_of(), "")
        .must("max_running_requests", count_of(), "")
        .must("version", string(), "")
        .must("status", words(&["ready", "starting"]), "")
        .must("internal_states", list(state.schema()), "")
        .schema()
}

/// The body of `/models/load`.
pub(crate) fn load_body() -> Schema {
    change().field("keep_alive", crate::ollama::schema::duration(), "How long it stays unused.").schema()
}

/// The body of `/models/unload` and `/models/reload`.
pub(crate) fn change_body() -> Schema {
    change().schema()
}

fn change() -> Object {
    Object::new().must("model", string(), "Which model.")
}

/// The reply of either.
pub(crate) fn changed() -> Schema {
    Object::new().must("success", boolean(), "").schema()
}

/// The body of `/flush_cache`.
pub(crate) fn flush_body() -> Schema {
    Object::new().field("empty_cache", boolean(), "Without effect.").schema()
}

/// The reply of `GET /lora-adapters`.
pub(crate) fn adapters() -> Schema {
    let adapter = Object::new()
        .must("id", count_of(), "What `lora` calls it.")
        .must("path", string(), "Its name, not a file's.")
        .must("scale", number(-1000.0, 1000.0), "How strongly it is added to requests that choose none.")
        .must("task_name", string(), "")
        .must("prompt_prefix", string(), "")
        .must("name", string(), "What `model` calls it.")
        .must("rank", count_of(), "")
        .must("matrices", count_of(), "How many it changes.")
        .must("memory_bytes", count_of(), "")
        .must("digest", string(), "SHA-256 over what it computes.");
    list(adapter.schema())
}

/// The reply of `POST /lora-adapters`.
pub(crate) fn scales_set() -> Schema {
    Object::new().must("success", exactly(true.into()), "").schema()
}

/// The body of `/v1/load_lora_adapter`.
pub(crate) fn load_adapter_body() -> Schema {
    loaded_from()
        .field("base_model_name", string(), "The model that it is for; without it, the default one.")
        .field("load_inplace", boolean(), "It takes the place of one of this name.")
        .schema()
}

fn loaded_from() -> Object {
    Object::new().must("lora_name", string().with("minLength", 1), "What requests will call it.").must(
        "lora_path",
        string().with("minLength", 1),
        "A file or folder beneath the one of `--lora-dir`.",
    )
}

/// The body of `/load_lora_adapter`.
pub(crate) fn sglang_load_body() -> Schema {
    loaded_from().field("pinned", boolean(), "Without effect: it stays in memory.").schema()
}

/// The body of `/v1/unload_lora_adapter` and of `/unload_lora_adapter`.
pub(crate) fn unload_adapter_body() -> Schema {
    Object::new().must("lora_name", string().with("minLength", 1), "Its name.").schema()
}

/// The reply of SGLang's routes.
pub(crate) fn adapters_loaded() -> Schema {
    Object::new()
        .must("success", boolean(), "")
        .must("error_message", string(), "")
        .must("loaded_adapters", map(), "All that are loaded now.")
        .schema()
}

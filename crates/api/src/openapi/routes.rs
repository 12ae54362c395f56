//! Every operation that is served, by tag.
//!
//! To add one: a line here, with the functions that describe its body and its reply. For a body that is parsed, write
//! the function beside the parser, and compare the two in the tests. Bodies have an example, which the tests read.

use serde_json::{Value, json};

use super::Components;
use super::operation::{BYTES, Dialect, EVENTS, LINES, Operation, TEXT, Tag};
use super::schema::{Schema, integer, map, string, word, words};
use crate::openai::{chat, completion_schema as completion, responses};
use crate::{anthropic, native, ollama};

const OPENAI: Tag = Tag { name: "OpenAI", text: "OpenAI's API.", dialect: Dialect::OpenAi };
const ANTHROPIC: Tag = Tag { name: "Anthropic", text: "Anthropic's messages.", dialect: Dialect::Anthropic };
const OLLAMA: Tag = Tag { name: "Ollama", text: "Ollama's API.", dialect: Dialect::Ollama };
const NATIVE: Tag = Tag {
    name: "Peers",
    text: "Routes of llama-server, vLLM and SGLang beside the dialects.",
    dialect: Dialect::OpenAi,
};
const SERVER: Tag = Tag { name: "Server", text: "Health, metrics, versions.", dialect: Dialect::OpenAi };

/// Routes that a header puts into Anthropic's shape.
const MODELS: Tag = Tag { dialect: Dialect::OpenAiOrAnthropic, ..OPENAI };

/// All tags.
pub(super) const TAGS: &[Tag] = &[OPENAI, ANTHROPIC, OLLAMA, NATIVE, SERVER];

/// All operations.
pub(super) fn all() -> Vec<Operation> {
    [openai(), vectors(), batches(), anthropic(), ollama(), native(), server()]
        .into_iter()
        .flatten()
        .collect()
}

/// A shape that is written by hand, under its name.
fn named(name: &'static str, schema: fn() -> Schema) -> impl Fn(&mut Components) -> Value + 'static {
    move |components| components.put(name, schema)
}

/// The shortest conversation.
fn hello() -> Value {
    json!([{ "role": "user", "content": "Hello." }])
}

fn openai() -> Vec<Operation> {
    let chat_body = || named("ChatCompletionRequest", || chat::schema::body().schema());
    let chat = |path| {
        Operation::post(path, OPENAI, "Continue a conversation.", chat_body())
            .example(json!({ "messages": hello(), "max_tokens": 8 }))
            .json(chat::schema::reply)
            .gives(EVENTS, chat::schema::chunk)
            .generates()
    };
    let either_shape = |openai: Value, anthropic: Value| json!({ "anyOf": [openai, anthropic] });
    let models = move |components: &mut Components| {
        let openai = components.derived::<crate::openai::models::ModelList>();
        either_shape(openai, components.put("AnthropicModelList", anthropic::schema::model_list))
    };
    let model = move |components: &mut Components| {
        let openai = components.derived::<crate::openai::models::Model>();
        either_shape(openai, components.put("AnthropicModel", anthropic::schema::model))
    };
    let include = || string();
    let id = "The response's id.";
    vec![
        chat("/v1/chat/completions"),
        chat("/chat/completions"),
        Operation::post(
            "/v1/completions",
            OPENAI,
            "Continue a raw prompt.",
            named("CompletionRequest", || completion::body().schema()),
        )
        .example(json!({ "prompt": "Once upon a time", "max_tokens": 8 }))
        .json(completion::reply)
        .gives(EVENTS, completion::chunk)
        .generates(),
        Operation::post(
            "/v1/responses",
            OPENAI,
            "Answer items, or continue a stored response.",
            named("ResponseRequest", || responses::schema::body().schema()),
        )
        .example(json!({ "input": "Hello.", "max_output_tokens": 8 }))
        .json(responses::schema::reply)
        .gives(EVENTS, named("ResponseEvent", responses::schema::event))
        .generates(),
        Operation::get("/v1/responses/{id}", OPENAI, "A stored response.")
            .id(id)
            .query("stream", word("false"), "A stored response is not streamed again.")
            .query("include", include(), "Without effect: everything is there.")
            .query("include[]", include(), "The same.")
            .json(responses::schema::reply)
            .fails(&[400, 503]),
        Operation::delete("/v1/responses/{id}", OPENAI, "Delete a stored response.")
            .id(id)
            .written("ResponseDeleted", responses::schema::deleted)
            .fails(&[503]),
        Operation::get("/v1/responses/{id}/input_items", OPENAI, "What was new in its input.")
            .id(id)
            .query("limit", integer(1, 100), "How many; 20 without it.")
            .query("order", words(&["asc", "desc"]), "Newest first without it.")
            .query("after", string(), "Only what follows this item.")
            .query("include", include(), "Without effect: everything is there.")
            .query("include[]", include(), "The same.")
            .json(responses::schema::items)
            .fails(&[400, 503]),
        Operation::bare_post("/v1/responses/{id}/cancel", OPENAI, "Stop a response in the background.")
            .id(id)
            .json(responses::schema::reply)
            .fails(&[400, 503]),
        Operation::get(
            "/v1/models",
            MODELS,
            "All models, under each of their names; in Anthropic's shape with its header.",
        )
        .headers(&["anthropic-version"])
        .query("limit", integer(1, 1000), "In Anthropic's shape: how many; 20 without it.")
        .query("after_id", string(), "In Anthropic's shape: only what follows this model.")
        .query("before_id", string(), "In Anthropic's shape: only what comes before it.")
        .json(models)
        .fails(&[400, 503]),
        Operation::get("/models", OPENAI, "The same, where llama-server's clients look.")
            .json(|components: &mut Components| components.derived::<crate::openai::models::ModelList>())
            .fails(&[400, 503]),
        Operation::get("/v1/models/{id}", MODELS, "A model; in Anthropic's shape with its header.")
            .headers(&["anthropic-version"])
            .id("Its name.")
            .json(model)
            .fails(&[503]),
    ]
}

fn vectors() -> Vec<Operation> {
    use crate::openai::embeddings_schema as schema;
    let embeddings = |path| {
        Operation::post(path, OPENAI, "Texts to vectors.", named("EmbeddingRequest", schema::body))
            .example(json!({ "input": "Hello." }))
            .json(schema::reply)
            .embeds()
    };
    let rerank = |path| {
        let body = named("RerankRequest", native::schema::rerank_body);
        Operation::post(path, NATIVE, "Documents, the nearest to a query first.", body)
            .example(json!({ "query": "Rome", "documents": ["A city.", "A river."] }))
            .json(native::schema::ranking)
            .embeds()
    };
    let score = |path| {
        let body = named("ScoreRequest", native::schema::score_body);
        Operation::post(path, NATIVE, "How near texts are to each other.", body)
            .example(json!({ "text_1": "Rome", "text_2": ["A city.", "A river."] }))
            .json(native::schema::scores)
            .embeds()
    };
    vec![
        embeddings("/v1/embeddings"),
        embeddings("/embeddings"),
        embeddings("/embedding"),
        rerank("/v1/rerank"),
        rerank("/v2/rerank"),
        rerank("/rerank"),
        rerank("/v1/reranking"),
        rerank("/reranking"),
        score("/v1/score"),
        score("/score"),
    ]
}

fn batches() -> Vec<Operation> {
    use crate::openai::batches_schema as schema;
    let id = "The file's id.";
    let batch_id = "The batch's id.";
    vec![
        Operation::upload("/v1/files", OPENAI, "Store a file.", schema::upload_form).json(schema::file),
        Operation::get("/v1/files", OPENAI, "The files of the caller's key.")
            .query("purpose", words(&["batch", "user_data", "batch_output"]), "Only those for this.")
            .query("limit", integer(1, 10_000), "How many; 10,000 without it.")
            .query("order", words(&["asc", "desc"]), "Newest first without it.")
            .query("after", string(), "Only what follows this file.")
            .json(schema::file_list)
            .fails(&[400, 404, 503]),
        Operation::get("/v1/files/{id}", OPENAI, "A file.").id(id).json(schema::file).fails(&[503]),
        Operation::delete("/v1/files/{id}", OPENAI, "Delete a file.")
            .id(id)
            .written("FileDeleted", schema::deleted)
            .fails(&[400, 503]),
        Operation::get("/v1/files/{id}/content", OPENAI, "What is in a file.")
            .id(id)
            .gives(BYTES, |_| string().into_value())
            .reply_headers(&["content-disposition"])
            .fails(&[503]),
        Operation::post(
            "/v1/batches",
            OPENAI,
            "Answer the lines of a file, where other requests leave room.",
            named("BatchRequest", || schema::body().schema()),
        )
        .example(json!({
            "input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h",
        }))
        .json(schema::batch),
        Operation::get("/v1/batches", OPENAI, "The batches of the caller's key, the newest first.")
            .query("limit", integer(1, 100), "How many; 20 without it.")
            .query("after", string(), "Only what follows this batch.")
            .json(schema::batch_list)
            .fails(&[400, 404, 503]),
        Operation::get("/v1/batches/{id}", OPENAI, "A batch.").id(batch_id).json(schema::batch).fails(&[503]),
        Operation::bare_post("/v1/batches/{id}/cancel", OPENAI, "Stop a batch.")
            .id(batch_id)
            .json(schema::batch)
            .fails(&[400, 503]),
    ]
}

fn anthropic() -> Vec<Operation> {
    const HEADERS: &[&str] = &["anthropic-version", "anthropic-beta"];
    use anthropic::schema;
    let messages = named("MessageRequest", || schema::body().schema());
    let count = named("MessageCountRequest", || schema::count_body().schema());
    vec![
        Operation::post("/v1/messages", ANTHROPIC, "Continue a conversation.", messages)
            .headers(HEADERS)
            .example(json!({ "messages": hello(), "max_tokens": 8 }))
            .json(schema::reply)
            .gives(EVENTS, schema::event)
            .generates(),
        Operation::post("/v1/messages/count_tokens", ANTHROPIC, "How many tokens a prompt has.", count)
            .headers(HEADERS)
            .example(json!({ "messages": hello() }))
            .written("MessageCount", schema::count),
    ]
}

fn ollama() -> Vec<Operation> {
    use ollama::schema;
    let generate = named("OllamaGenerateRequest", || schema::generate_body().schema());
    let chat = named("OllamaChatRequest", || schema::chat_body().schema());
    let embed = named("OllamaEmbedRequest", || schema::embed_body().schema());
    let embeddings = named("OllamaEmbeddingsRequest", || schema::embeddings_body().schema());
    let create = named("OllamaCreateRequest", || schema::create_body().schema());
    let show = named("OllamaShowRequest", || schema::show_body().schema());
    let pull = named("OllamaPullRequest", || schema::pull_body().schema());
    let push = named("OllamaPushRequest", || schema::push_body().schema());
    let line = || |components: &mut Components| components.put("OllamaTransferLine", schema::transfer_line);
    vec![
        Operation::post("/api/generate", OLLAMA, "Answer a prompt.", generate)
            .example(json!({ "prompt": "Hello.", "stream": false, "options": { "num_predict": 8 } }))
            .json(schema::generate_reply)
            .gives(LINES, schema::generate_reply)
            .generates(),
        Operation::post("/api/chat", OLLAMA, "Continue a conversation.", chat)
            .example(json!({ "messages": hello(), "options": { "num_predict": 8 } }))
            .json(schema::chat_reply)
            .gives(LINES, schema::chat_reply)
            .generates(),
        Operation::post("/api/embed", OLLAMA, "Texts to vectors.", embed)
            .example(json!({ "input": "Hello." }))
            .json(schema::embed_reply)
            .embeds(),
        Operation::post("/api/embeddings", OLLAMA, "A text to a vector, in the older shape.", embeddings)
            .example(json!({ "prompt": "Hello." }))
            .json(schema::embeddings_reply)
            .embeds(),
        Operation::get("/api/tags", OLLAMA, "All models, under each of their names.")
            .json(schema::tags)
            .fails(&[503]),
        Operation::get("/api/ps", OLLAMA, "The models in memory.").json(schema::running).fails(&[503]),
        Operation::post("/api/show", OLLAMA, "A model.", show)
            .example(json!({ "model": "default" }))
            .json(schema::page),
        Operation::post(
            "/api/create",
            OLLAMA,
            "Make a model of the store; one that it is made from is fetched.",
            create,
        )
        .example(json!({ "model": "mario", "from": "tiny", "system": "You are Mario." }))
        .fails(&[502])
        .json(line())
        .gives(LINES, line()),
        Operation::post(
            "/api/copy",
            OLLAMA,
            "Give a model of the store a second name.",
            named("OllamaCopyRequest", schema::copy_body),
        )
        .example(json!({ "source": "llama3.1:8b", "destination": "mine" }))
        .gives(TEXT, |_| string().into_value()),
        Operation::delete_of(
            "/api/delete",
            OLLAMA,
            "Take a model out of the store.",
            named("OllamaDeleteRequest", schema::delete_body),
        )
        .gives(TEXT, |_| string().into_value()),
        Operation::post("/api/pull", OLLAMA, "Fetch a model into the store.", pull)
            .example(json!({ "model": "llama3.1:8b", "stream": false }))
            .fails(&[502])
            .json(line())
            .gives(LINES, line()),
        Operation::post("/api/push", OLLAMA, "Send a model of the store to its registry.", push)
            .example(json!({ "model": "registry.example/team/model:tag", "stream": false }))
            .fails(&[502])
            .json(line())
            .gives(LINES, line()),
        Operation::get(
            "/api/blobs/{digest}",
            OLLAMA,
            "A blob of the store, for other nodes; ranges are served.",
        )
        .digest()
        .gives(BYTES, |_| string().into_value()),
        Operation::put_bytes("/api/blobs/{digest}", OLLAMA, "Put a blob with this digest into the store.")
            .digest()
            .says(200, "It was there already.")
            .says(201, "It is there now."),
        Operation::get("/api/version", OLLAMA, "The version of Ollama whose API this is.")
            .written("OllamaVersion", schema::version),
    ]
}

fn native() -> Vec<Operation> {
    use native::schema;
    let tokenize = |path| {
        Operation::post(
            path,
            NATIVE,
            "Text or a conversation to tokens.",
            named("TokenizeRequest", schema::tokenize_body),
        )
        .example(json!({ "content": "Hello." }))
        .written("Tokens", schema::tokens)
    };
    let detokenize = |path| {
        Operation::post(path, NATIVE, "Tokens to text.", named("DetokenizeRequest", schema::detokenize_body))
            .example(json!({ "tokens": [72, 101] }))
            .written("TokensText", schema::text)
    };
    let model_info = |path| {
        Operation::get(path, NATIVE, "SGLang's page about the model that runs.")
            .written("ModelInfo", schema::model_info)
            .fails(&[503])
    };
    let server_info = |path| {
        Operation::get(path, NATIVE, "SGLang's page about the server.")
            .written("ServerInfo", schema::server_info)
            .fails(&[503])
    };
    let template = named("ChatCompletionRequest", || chat::schema::body().schema());
    let unload = |path, summary| {
        Operation::post(path, NATIVE, summary, named("UnloadAdapterRequest", schema::unload_adapter_body))
            .example(json!({ "lora_name": "sql" }))
    };
    let change = |path, text, body: fn() -> Schema, name| {
        Operation::post(path, NATIVE, text, named(name, body))
            .example(json!({ "model": "default" }))
            .written("ModelChanged", schema::changed)
    };
    vec![
        tokenize("/tokenize"),
        tokenize("/v1/tokenize"),
        detokenize("/detokenize"),
        detokenize("/v1/detokenize"),
        Operation::post("/apply-template", NATIVE, "The prompt that a chat body would run with.", template)
            .example(json!({ "messages": hello() }))
            .written("TemplatePrompt", schema::prompt),
        Operation::post(
            "/generate",
            NATIVE,
            "SGLang's: continue a raw prompt.",
            named("GenerateRequest", schema::generate_body),
        )
        .example(json!({ "text": "Once upon a time", "sampling_params": { "max_new_tokens": 8 } }))
        .json(schema::answers)
        .gives(EVENTS, named("GenerateAnswer", schema::answer))
        .generates(),
        Operation::post(
            "/infill",
            NATIVE,
            "llama-server's: fill the gap between two texts.",
            named("InfillRequest", schema::infill_body),
        )
        .example(json!({ "input_prefix": "Once ", "input_suffix": " a time", "n_predict": 8 }))
        .written("Infilling", schema::filling)
        .gives(EVENTS, schema::filling_event)
        .generates(),
        Operation::post(
            "/flush_cache",
            NATIVE,
            "SGLang's: forget what is cached for the caller's key.",
            named("FlushRequest", schema::flush_body),
        )
        .example(json!({}))
        .body_optional()
        .gives(TEXT, |_| string().into_value()),
        Operation::get("/lora-adapters", NATIVE, "llama-server's: the adapters that are loaded.")
            .written("Adapters", schema::adapters)
            .fails(&[404, 503]),
        Operation::post(
            "/lora-adapters",
            NATIVE,
            "llama-server's: what applies to requests that choose no adapters.",
            named("AdapterScales", crate::lora::schema),
        )
        .example(json!([{ "id": 0, "scale": 0.5 }]))
        .written("AdapterScalesSet", schema::scales_set),
        Operation::post(
            "/v1/load_lora_adapter",
            NATIVE,
            "vLLM's: load an adapter.",
            named("LoadAdapterRequest", schema::load_adapter_body),
        )
        .example(json!({ "lora_name": "sql", "lora_path": "sql.gguf" }))
        .gives(TEXT, |_| string().into_value()),
        unload("/v1/unload_lora_adapter", "vLLM's: unload an adapter.")
            .gives(TEXT, |_| string().into_value()),
        Operation::post(
            "/load_lora_adapter",
            NATIVE,
            "SGLang's: load an adapter.",
            named("SglangLoadAdapterRequest", schema::sglang_load_body),
        )
        .example(json!({ "lora_name": "sql", "lora_path": "sql.gguf" }))
        .written("AdaptersLoaded", schema::adapters_loaded),
        unload("/unload_lora_adapter", "SGLang's: unload an adapter.")
            .written("AdaptersLoaded", schema::adapters_loaded),
        change(
            "/models/load",
            "Load a model; `/models` shows how far it is.",
            schema::load_body,
            "ModelLoadRequest",
        ),
        change(
            "/models/unload",
            "Take a model out of memory, when nobody uses it any more.",
            schema::change_body,
            "ModelChangeRequest",
        ),
        change(
            "/models/reload",
            "Load a model's file anew; requests are answered meanwhile. Replies when it is done.",
            schema::change_body,
            "ModelChangeRequest",
        ),
        server_info("/get_server_info"),
        server_info("/server_info"),
        Operation::get("/props", NATIVE, "llama-server's page about the model that runs.")
            .query("model", string(), "Which model; without it the default one.")
            .written("Props", schema::props)
            .fails(&[404, 503]),
        Operation::get("/slots", NATIVE, "llama-server's places for answers.")
            .query("model", string(), "Which model; without it the default one.")
            .query("fail_on_no_slot", words(&["0", "1"]), "`1`: 503 if every place is taken.")
            .written("Slots", schema::slots)
            .fails(&[400, 404, 503]),
        model_info("/get_model_info"),
        model_info("/model_info"),
    ]
}

fn server() -> Vec<Operation> {
    use native::schema;
    let health = |path| {
        Operation::get(path, SERVER, "Whether requests are answered at once; memory, speed, queue.")
            .written("Health", schema::health)
            .unavailable(named("Health", schema::health))
            .public()
    };
    let text = |_: &mut Components| string().into_value();
    vec![
        health("/health"),
        health("/v1/health"),
        health("/health/ready"),
        Operation::get("/health/live", SERVER, "Whether the process lives.")
            .written("Live", schema::live)
            .public(),
        Operation::get("/health_generate", SERVER, "Whether a token comes out within 20 seconds.")
            .written("Generates", schema::generates)
            .generates()
            .fails(&[400, 429, 503]),
        Operation::get("/metrics", SERVER, "Prometheus' text format.").gives(TEXT, text),
        Operation::get("/version", SERVER, "Name and version.").written("Version", schema::version),
        Operation::get("/", SERVER, "`Ollama is running`; to browsers, what this is.").gives(TEXT, text),
        Operation::get("/openapi.json", SERVER, "This description.")
            .written("Description", || {
                // It is what it describes; more would say it twice.
                map().with("required", vec!["openapi", "info", "paths", "components"])
            })
            .public(),
    ]
}

//! The table itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ingle_chat::Pooling;
use ingle_runtime::GuessSource;
use ingle_runtime::models::OnMissing;
use ingle_step::KvType;

use super::address::ServerAddress;
use super::value::{Auto, Budget, Keep, Seed, Slot, Think};
use super::{Commands, Setting, Shape};

macro_rules! settings {
    ($(
        $key:ident : $ty:ty, $shape:ident, $commands:ident, $flag:literal $(, short $short:literal)?
        $(, also [$($alias:literal),*])? $(, dash [$($dash:literal),*])? $(, env [$($env:literal),*])?,
        $value_name:literal, default $default:literal, $help:literal;
    )*) => {
        /// What was set; `None`, `false` and empty lists mean the default.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Settings { $(#[doc = $help] pub $key: $ty,)* }

        /// All settings, in the order of the documentation.
        pub static TABLE: &[Setting] = &[$(Setting {
            key: stringify!($key),
            flag: $flag,
            short: settings!(@short $($short)?),
            aliases: &[$($($alias),*)?],
            dash: &[$($($dash),*)?],
            env_aliases: &[$($($env),*)?],
            commands: Commands::$commands,
            shape: Shape::$shape,
            value_name: $value_name,
            default: $default,
            help: $help,
            set: |settings, text| Slot::put(&mut settings.$key, text),
        }),*];
    };
    (@short) => { None };
    (@short $short:literal) => { Some($short) };
}

settings! {
    model: Vec<PathBuf>, Many, LOAD, "model", short 'm', env ["LLAMA_ARG_MODEL"],
        "[NAME=]FILE", default "the model that ships with Ingle", "Model to load: a GGUF file (of a split model, the first one), or the name of one in the store. `serve` takes several, each perhaps with a name: the first is the default.";
    models_dir: Option<PathBuf>, One, SERVE, "models-dir", env ["LLAMA_ARG_MODELS_DIR"],
        "DIR", default "none", "Folder whose GGUF files are served too, loaded when they are asked for.";
    store_dir: Option<PathBuf>, One, MODELS, "store-dir", env ["INGLE_MODELS"],
        "DIR", default "ingle/models where the system keeps users' data", "Folder of the model store: models that have names. Its layout is Ollama's.";
    shared_store: Vec<PathBuf>, Many, MODELS, "shared-store",
        "DIR", default "none", "Store of the same layout whose models may be used too; it is only read. May be given several times.";
    hf_home: Option<PathBuf>, One, MODELS, "hf-home", env ["HF_HOME"],
        "DIR", default "huggingface where the system keeps users' caches", "Cache of Hugging Face's libraries, whose GGUF files may be used too; it is only read. An empty value is none.";
    ollama_models: Option<PathBuf>, One, MODELS, "ollama-models", env ["OLLAMA_MODELS"],
        "DIR", default ".ollama/models in the user's home", "Ollama's store, whose models may be used too; it is only read. An empty value is none.";
    catalogue: Vec<PathBuf>, Many, MODELS, "catalogue",
        "FILE", default "Ollama's library", "What short names of models mean (TOML): a table `models` of names and references, and `registry` for all others. May be given several times.";
    serve_store: bool, Switch, SERVE, "serve-store",
        "", default "only if no model is named", "Serve the models of the store too, beside those that are named, as they come and go.";
    memory_budget: Option<Budget>, One, SERVE_PULL, "memory-budget", also ["memory"],
        "BYTES|PERCENT", default "80% of what is free", "Memory that all models together may have, as in 12G, 12GB or 50%; models nobody uses go when others need it. `pull` warns of models that need more.";
    keep_alive: Option<Keep>, One, SERVE, "keep-alive", also ["sleep-idle-seconds"], env ["OLLAMA_KEEP_ALIVE"],
        "DURATION", default "always", "How long a model stays in memory unused: seconds, a duration such as 5m, or always (or below 0).";
    on_missing: Option<OnMissing>, One, SERVE, "on-missing",
        "wait|refuse|never", default "wait", "What a request finds whose model is not loaded: it waits for it, it is told to come back, or only /models/load loads models.";
    model_wait_s: Option<u32>, One, SERVE, "model-wait-s",
        "SECONDS", default "300", "How long a request waits for its model to load.";
    max_model_queue: Option<u32>, One, SERVE, "max-model-queue",
        "N", default "256", "Requests that may wait for models to load; further ones are refused with 429 and Retry-After.";
    preload: Vec<String>, Many, SERVE, "preload",
        "NAME", default "the default model", "Model to load at the start, of several; may be given several times. `none` loads none.";
    pin: Vec<String>, Many, SERVE, "pin",
        "NAME", default "none", "Model that stays in memory once it is loaded, whatever others need; may be given several times.";
    ctx_size: Auto, One, ANSWER, "ctx-size", short 'c', also ["max-model-len", "num-ctx", "context-length"], env ["LLAMA_ARG_CTX_SIZE", "OLLAMA_CONTEXT_LENGTH"],
        "TOKENS", default "what the model was trained for, at most 8192", "Longest sequence: prompt and answer together. 0 is all that the model was trained for.";
    threads: Auto, One, LOAD, "threads", short 't', env ["LLAMA_ARG_THREADS"],
        "N", default "all cores", "Threads that compute, for all models together.";
    kv_type: Option<KvType>, One, LOAD, "kv-type", also ["cache-type-k", "cache-type-v", "kv-cache-dtype"], dash ["ctk", "ctv"], env ["OLLAMA_KV_CACHE_TYPE"],
        "TYPE", default "f16", "How keys and values are stored: f32, f16, bf16, q8_0 or q4_0.";
    kv_tokens: Option<u32>, One, ANSWER_REPLAY, "kv-tokens",
        "TOKENS", default "the context for each of up to 4 sequences", "Tokens that the KV cache holds, over all sequences and the prefix cache.";
    parallel: Auto, One, ANSWER_REPLAY, "parallel", also ["max-num-seqs"], dash ["np"], env ["LLAMA_ARG_N_PARALLEL", "OLLAMA_NUM_PARALLEL"],
        "N", default "64", "Sequences that run at the same time; more wait.";
    batch_tokens: Option<u32>, One, LOAD, "max-num-batched-tokens", short 'b', also ["batch-size"], env ["LLAMA_ARG_BATCH"],
        "TOKENS", default "512", "Most tokens that one step computes; longer prompts are computed in chunks.";
    no_prefix_cache: bool, Switch, ANSWER_REPLAY, "no-enable-prefix-caching", also ["no-cache-prompt", "disable-radix-cache"],
        "", default "prefixes are cached", "Do not keep the KV blocks of earlier prompts for later ones.";
    lora: Vec<String>, Many, LOAD, "lora",
        "FILE", default "none", "Adapter (LoRA) to add to the model: a GGUF file or a folder of PEFT's; may be given several times.";
    lora_scaled: Vec<String>, Many, LOAD, "lora-scaled",
        "FILE:SCALE", default "none", "The same with a strength; may be given several times.";
    lora_init_without_apply: bool, Switch, LOAD, "lora-init-without-apply",
        "", default "off", "Load the adapters of --lora and --lora-scaled, and add them only to requests that choose them.";
    lora_modules: Vec<String>, Many, SERVE_BATCH, "lora-modules", also ["lora-paths"],
        "NAME=PATH", default "none", "Adapter that requests choose by this name, as their model; may be given several times.";
    lora_dir: Option<PathBuf>, One, SERVE, "lora-dir",
        "DIR", default "none", "Folder beneath which adapters may be loaded while the server runs.";

    context_shift: Option<bool>, Switch, ANSWER, "context-shift", env ["LLAMA_ARG_CONTEXT_SHIFT"],
        "", default "an answer ends where the context is full", "Answers go on in a full context: its first tokens stay (--keep), half of the others make way. Requests may say otherwise (`context_shift`, Ollama's `shift`).";
    n_keep: Option<i32>, One, ANSWER, "keep",
        "N", default "0", "How many first tokens of the prompt stay where the context shifts, beside the token that begins every text; -1 is all of the prompt.";
    kv_cache_dir: Option<PathBuf>, One, ANSWER, "kv-cache-dir",
        "DIR", default "prefixes are kept in memory only", "Folder where the KV blocks of prompts and answers are kept, so that they are known again after a restart. One process uses it at a time.";
    kv_cache_mb: Option<u32>, One, ANSWER, "kv-cache-mb",
        "MB", default "4096", "Size of that folder; what is worth least is removed.";
    kv_swap_mb: Option<u32>, One, ANSWER, "kv-swap-mb",
        "MB", default "256", "Memory for the keys and values of sequences that make way for others, taken as it is needed; with 0 they are computed again.";
    speculation: Option<GuessSource>, One, ANSWER, "speculation", also ["spec-type", "speculative-algorithm"],
        "SOURCE", default "auto", "Where guesses at coming tokens are taken from: lookup (the text so far), draft (a draft model), auto (both), or off. They make answers faster where they can, and change none.";
    draft_model: Option<PathBuf>, One, ANSWER, "model-draft", also ["spec-draft-model", "draft-model", "speculative-model", "speculative-draft-model-path"], dash ["md"], env ["LLAMA_ARG_MODEL_DRAFT"],
        "FILE", default "none", "GGUF file of a small model with the same vocabulary, which guesses for the model.";
    draft_max: Option<u32>, One, ANSWER, "draft-max", also ["draft", "draft-n", "spec-draft-n-max", "num-speculative-tokens", "speculative-num-draft-tokens"], env ["LLAMA_ARG_DRAFT_MAX"],
        "N", default "16", "Most tokens that are guessed at a time, up to 64; how many it is follows what they win.";
    draft_min: Option<u32>, One, ANSWER, "draft-min", also ["draft-n-min", "spec-draft-n-min"], env ["LLAMA_ARG_DRAFT_MIN"],
        "N", default "0", "Fewer guesses than this are not tried.";
    draft_p_min: Option<f32>, One, ANSWER, "draft-p-min", also ["spec-draft-p-min"], env ["LLAMA_ARG_DRAFT_P_MIN"],
        "P", default "0", "The draft model stops guessing where it is less sure than this.";
    speculative_config: Option<String>, One, ANSWER, "speculative-config", dash ["sc"],
        "JSON", default "none", "The same in vLLM's form: method (ngram, suffix, draft_model), model, num_speculative_tokens.";

    offline: bool, Switch, NETWORK, "offline", env ["LLAMA_ARG_OFFLINE", "HF_HUB_OFFLINE"],
        "", default "off", "Nothing is fetched from hubs, registries or sites; other nodes (--peer) are still asked.";
    yes: bool, Switch, NETWORK, "yes", short 'y',
        "", default "a terminal is asked", "Fetch a model that is missing, or that cannot run here, without asking.";
    hf_endpoint: Option<String>, One, NETWORK, "hf-endpoint", env ["HF_ENDPOINT"],
        "URL", default "https://huggingface.co", "The hub that repositories (hf.co/user/repo) are fetched from.";
    registry_mirror: Option<String>, One, NETWORK, "registry-mirror",
        "URL", default "none", "Registry that is asked in place of registry.ollama.ai, where short names stand.";
    peers: Vec<String>, Many, NETWORK, "peer",
        "URL", default "none", "Node of the same operator that is asked for files before the hub is; may be given several times.";
    pull_streams: Option<u32>, One, NETWORK, "pull-streams",
        "N", default "8", "Parts of a file that are fetched at the same time, up to 64.";
    allow_hosts: Vec<String>, Many, NETWORK, "allow-host",
        "HOST", default "any public host", "Only these hosts are fetched from, redirects included: example.org, *.example.org, each perhaps with a port; may be given several times.";
    private_hosts: Vec<String>, Many, NETWORK, "private-host",
        "HOST", default "none", "Host that may have an address of this machine or site; may be given several times.";
    insecure_hosts: Vec<String>, Many, NETWORK, "insecure-host",
        "HOST", default "none", "Host that may be fetched from without encryption; may be given several times.";
    ca_file: Option<PathBuf>, One, NETWORK_CLIENT, "ca-file",
        "FILE", default "the system's certificates", "Certificates (PEM) that are trusted beside the system's.";
    credentials_file: Option<PathBuf>, One, NETWORK, "credentials-file",
        "FILE", default "ingle/credentials.json where the system keeps configuration", "Where `ingle login` keeps tokens, each for one origin.";

    prompt: Option<String>, One, RUN, "prompt", short 'p',
        "TEXT", default "a conversation", "Answer this and stop.";
    file: Option<PathBuf>, One, RUN, "file", short 'f',
        "FILE", default "", "Take the prompt from a file; `-` is standard input.";
    escape: bool, Switch, RUN, "escape", short 'e',
        "", default "the prompt is taken as it is", "Read \\n, \\t, \\\\, \\' and \\\" in the prompt as what they stand for.";
    max_tokens: Option<i32>, One, RUN_BATCH, "n-predict", short 'n', also ["predict", "max-tokens", "num-predict"],
        "TOKENS", default "until the model ends or the context is full", "Most new tokens; -1 is no limit.";
    no_display_prompt: bool, Switch, RUN, "no-display-prompt",
        "", default "a completion starts with its prompt", "Print only what is new.";
    raw: bool, Switch, RUN_BATCH, "raw", also ["no-conversation", "completion"], dash ["no-cnv"],
        "", default "a conversation if the model has a chat template", "Continue the prompt as plain text, without the chat template.";
    system: Option<String>, One, RUN_BATCH, "system-prompt", also ["system"], dash ["sys"],
        "TEXT", default "none", "Instructions that open the conversation.";
    single_turn: bool, Switch, RUN, "single-turn", dash ["st"],
        "", default "a prompt alone is answered once", "Answer once, then stop.";
    verbose: bool, Switch, RUN, "verbose", short 'v', also ["show-timings"],
        "", default "off", "Print counts and speeds after each answer.";
    format: Option<String>, One, RUN, "format",
        "json|FILE|JSON", default "any text", "An answer is JSON: `json` for any object, or one that is valid under this schema.";
    think: Option<Think>, Optional, RUN, "think",
        "true|false|low|medium|high|max", default "as the model likes", "Whether the model thinks before it answers, and how hard.";
    hide_thinking: bool, Switch, RUN, "hidethinking", also ["hide-thinking"],
        "", default "off", "Do not show what the model thinks.";
    no_word_wrap: bool, Switch, RUN, "nowordwrap", also ["no-word-wrap"],
        "", default "words are wrapped at the terminal's width", "Leave lines as long as they are.";
    no_history: bool, Switch, RUN, "nohistory", also ["no-history"], env ["OLLAMA_NOHISTORY"],
        "", default "off", "Do not keep what is typed for later conversations.";
    truncate: Option<bool>, Optional, RUN, "truncate",
        "true|false", default "true", "Of a model that embeds: leave out the end of a text that is too long, and say so; false makes it an error.";
    dimensions: Option<u32>, One, RUN, "dimensions",
        "N", default "all", "Of a model that embeds: give the first so many numbers, for models that were trained for it.";

    chat_template: Option<String>, One, ANSWER_REPLAY, "chat-template", also ["chat-template-file"], env ["LLAMA_ARG_CHAT_TEMPLATE"],
        "NAME|FILE", default "the model's own", "Chat template: a built-in name such as chatml or llama3, or a Jinja file.";

    pooling: Option<Pooling>, One, SERVE, "pooling", env ["LLAMA_ARG_POOLING"],
        "TYPE", default "the file's", "How a text's hidden states become its embedding: mean, cls or last; or rank, with the head that the model has for it.";

    choice: Vec<String>, Many, RUN_BATCH, "choice",
        "TEXT", default "any text", "Text that an answer may be; given several times, an answer is one of them.";
    json_schema: Option<String>, One, RUN_BATCH, "json-schema", short 'j', also ["json-schema-file"], dash ["jf"],
        "FILE|JSON", default "any text", "An answer is JSON that is valid under this schema.";
    regex: Option<String>, One, RUN_BATCH, "regex",
        "REGEX", default "any text", "An answer is text that this regular expression matches as a whole.";

    listen: Vec<SocketAddr>, Many, SERVE_CLIENT, "listen",
        "ADDR:PORT", default "host and port", "Address to serve on; may be given several times.";
    server: Option<ServerAddress>, One, SERVE_CLIENT, "server", env ["OLLAMA_HOST"],
        "ADDRESS", default "host and port", "The server's address as Ollama writes it: HOST, HOST:PORT or http://HOST:PORT; the port is 11434 if none is named. `ps` and `stop` ask there, and `serve` listens there unless --listen, --host or --port is said.";
    host: Option<String>, One, SERVE_CLIENT, "host", env ["LLAMA_ARG_HOST"],
        "HOST", default "127.0.0.1", "Address to serve on, with --port. Anything but loopback needs a key or --no-auth.";
    port: Option<u16>, One, SERVE_CLIENT, "port", env ["LLAMA_ARG_PORT"],
        "PORT", default "8080", "Port to serve on; 0 picks a free one.";
    api_key: Vec<String>, Many, SERVE_CLIENT, "api-key", env ["LLAMA_API_KEY", "VLLM_API_KEY"],
        "KEY", default "none", "Key that every route but health asks for; may be given several times. `ps` and `stop` show the first.";
    api_key_file: Option<PathBuf>, One, SERVE, "api-key-file",
        "FILE", default "none", "File with one key a line; behind a key may stand scopes (`control-tokens`: its raw prompts may spell control tokens; `adapters`: it may load adapters; `models`: it may load and unload models; `priority`: its requests may go before others') and `weight=N`, its part of the machine beside keys with 1.";
    no_auth: bool, Switch, SERVE, "no-auth",
        "", default "off", "Serve beyond loopback without a key: anyone who can reach the port can use it.";
    allowed_hosts: Vec<String>, Many, SERVE, "allowed-host",
        "NAME", default "localhost and IP addresses", "Host name under which a server without keys may be addressed; may be given several times.";
    cors_origins: Vec<String>, Many, SERVE, "cors-origin", also ["cors-origins", "allowed-origins"], env ["OLLAMA_ORIGINS"],
        "ORIGIN", default "none", "Web origin whose pages may call the server, or `*`; may be given several times.";
    served_names: Vec<String>, Many, SERVE_BATCH, "served-model-name", short 'a', also ["alias"],
        "NAME", default "the file's name", "Name of the model in the API; further ones are aliases.";
    max_queue: Option<u32>, One, SERVE, "max-queue", also ["max-waiting"], env ["OLLAMA_MAX_QUEUE"],
        "N", default "256", "Requests that may wait; further ones are refused with 429 and Retry-After.";
    max_queue_tokens: Option<u32>, One, SERVE, "max-queue-tokens",
        "TOKENS", default "1048576", "Prompt tokens that may wait.";
    max_queue_per_key: Option<u32>, One, SERVE, "max-queue-per-key",
        "N", default "half of all where there are several keys", "Requests of one key that may wait.";
    max_queue_tokens_per_key: Option<u32>, One, SERVE, "max-queue-tokens-per-key",
        "TOKENS", default "half of all where there are several keys", "Prompt tokens of one key that may wait.";
    queue_timeout_s: Option<u32>, One, SERVE, "queue-timeout-s",
        "SECONDS", default "600", "How long a request may wait before it begins; `X-Queue-Timeout` makes it shorter.";
    request_timeout_s: Option<u32>, One, SERVE, "request-timeout-s",
        "SECONDS", default "0", "How long a request may take altogether; 0 is as long as it takes. `X-Request-Timeout` makes it shorter.";
    step_time_ms: Option<u32>, One, SERVE, "step-time-ms",
        "MS", default "200", "How long a step may take where several requests share it: fewer prompt tokens go into it. 0 is as long as it takes.";
    max_body_mb: Option<u32>, One, SERVE, "max-body-mb",
        "MB", default "32", "Largest request body.";
    data_dir: Option<PathBuf>, One, SERVE, "data-dir",
        "DIR", default "ingle where the system keeps users' data", "Folder for stored responses, files and batches; with an empty value nothing is stored.";
    store_days: Option<u32>, One, SERVE, "store-days",
        "DAYS", default "30", "How long a stored response is kept; 0 stores nothing.";
    store_count: Option<u32>, One, SERVE, "store-count",
        "N", default "10000", "Stored responses that each key may have; the oldest go first. 0 stores nothing.";
    store_mb: Option<u32>, One, SERVE, "store-mb",
        "MB", default "1024", "Size of the stored responses that each key may have; the oldest go first. 0 stores nothing.";
    max_file_mb: Option<u32>, One, SERVE, "max-file-mb",
        "MB", default "200", "Largest file that may be uploaded, for batches among others.";
    store_files_mb: Option<u32>, One, SERVE, "store-files-mb",
        "MB", default "4096", "Size of the files that each key may have, outputs of batches included; what exceeds it is refused. 0 takes none.";
    record: Option<PathBuf>, One, SERVE, "record",
        "DIR", default "nothing is recorded", "Folder for a record of each request, prompt and answer in it, to be run again with `ingle replay`.";
    record_mb: Option<u32>, One, SERVE, "record-mb",
        "MB", default "1024", "Size of all records together; the oldest go first.";
    record_days: Option<u32>, One, SERVE, "record-days",
        "DAYS", default "30", "How long a record is kept.";
    shutdown_grace_s: Option<u32>, One, SERVE, "shutdown-grace-s",
        "SECONDS", default "30", "How long streams may finish after SIGTERM; a second signal stops at once.";

    trust: Vec<String>, Many, IMPORT, "trust",
        "KEY|FILE", default "the keys in `trusted-keys` beside the configuration file", "Public key whose bundles are taken, or a file with such keys; may be given several times.";
    allow_unsigned: bool, Switch, IMPORT, "allow-unsigned",
        "", default "off", "Take bundles also that nobody signed, or somebody who is not trusted. A wrong signature is refused all the same.";

    temperature: Option<f32>, One, ANSWER, "temp", also ["temperature"],
        "T", default "the model's, else 0.8", "Divides logits; 0 is greedy.";
    top_k: Option<i32>, One, ANSWER, "top-k",
        "K", default "the model's, else 40", "Keep the k most likely tokens; 0 is off.";
    top_p: Option<f32>, One, ANSWER, "top-p",
        "P", default "the model's, else 0.95", "Keep the smallest set with this much probability; 1 is off.";
    min_p: Option<f32>, One, ANSWER, "min-p",
        "P", default "the model's, else 0.05", "Keep tokens at least this likely relative to the best; 0 is off.";
    typical_p: Option<f32>, One, ANSWER, "typical", also ["typical-p"],
        "P", default "1", "Keep locally typical tokens; 1 is off.";
    top_n_sigma: Option<f32>, One, ANSWER, "top-nsigma", also ["top-n-sigma"],
        "N", default "-1", "Keep logits within n standard deviations of the best; below 0 is off.";
    xtc_probability: Option<f32>, One, ANSWER, "xtc-probability",
        "P", default "0", "Chance of excluding top choices; 0 is off.";
    xtc_threshold: Option<f32>, One, ANSWER, "xtc-threshold",
        "P", default "0.1", "Tokens above this are top choices for XTC.";
    repeat_penalty: Option<f32>, One, ANSWER, "repeat-penalty", also ["repetition-penalty"],
        "R", default "1", "Penalty on tokens that were said; 1 is off.";
    repeat_last_n: Option<i32>, One, ANSWER, "repeat-last-n",
        "N", default "64", "How many tokens back penalties look; -1 is all.";
    presence_penalty: Option<f32>, One, ANSWER, "presence-penalty",
        "X", default "0", "Subtracted once from tokens that were said.";
    frequency_penalty: Option<f32>, One, ANSWER, "frequency-penalty",
        "X", default "0", "Subtracted each time a token was said.";
    dry_multiplier: Option<f32>, One, ANSWER, "dry-multiplier",
        "X", default "0", "Strength of the DRY penalty on repeated runs; 0 is off.";
    dry_base: Option<f32>, One, ANSWER, "dry-base",
        "X", default "1.75", "Base of the DRY penalty's growth.";
    dry_allowed_length: Option<i32>, One, ANSWER, "dry-allowed-length",
        "N", default "2", "Runs up to this long are free of the DRY penalty.";
    dry_penalty_last_n: Option<i32>, One, ANSWER, "dry-penalty-last-n",
        "N", default "-1", "How many tokens back DRY looks; -1 is all.";
    dry_sequence_breakers: Vec<String>, Many, ANSWER, "dry-sequence-breaker",
        "TEXT", default "newline, colon, quote, star", "Text that ends a run for DRY; may be given several times.";
    dynatemp_range: Option<f32>, One, ANSWER, "dynatemp-range",
        "X", default "0", "Half-width of the dynamic temperature; 0 is off.";
    dynatemp_exponent: Option<f32>, One, ANSWER, "dynatemp-exp",
        "X", default "1", "Exponent of the dynamic temperature.";
    mirostat: Option<u8>, One, ANSWER, "mirostat",
        "0|1|2", default "0", "Mirostat version in place of the truncating samplers; 0 is off.";
    mirostat_eta: Option<f32>, One, ANSWER, "mirostat-lr", also ["mirostat-eta"],
        "X", default "0.1", "Mirostat's learning rate.";
    mirostat_tau: Option<f32>, One, ANSWER, "mirostat-ent", also ["mirostat-tau"],
        "X", default "5", "Mirostat's target surprise.";
    samplers: Option<String>, One, ANSWER, "samplers",
        "LIST", default "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature", "The samplers in order, parted by semicolons.";
    seed: Seed, One, ANSWER, "seed", short 's',
        "N", default "drawn afresh", "Seed: the same one gives the same answer. -1 draws one.";
    stop: Vec<String>, Many, RUN_BATCH, "reverse-prompt", short 'r', also ["stop"],
        "TEXT", default "none", "Text that ends the answer; may be given several times.";
    ignore_eos: bool, Switch, RUN_BATCH, "ignore-eos",
        "", default "off", "Go on past the model's own end.";
    logit_bias: Vec<String>, Many, RUN_BATCH, "logit-bias", short 'l',
        "TOKEN±BIAS", default "none", "Change a token's logit, as in 15043+1; may be given several times.";
    special: bool, Switch, RUN_BATCH, "special", dash ["sp"],
        "", default "off", "Print control tokens.";
    json: bool, Switch, REPORT, "json",
        "", default "off", "Print for machines.";
}

impl Settings {
    /// The file of the one model of commands that have one: the last that was named.
    pub fn model_file(&self) -> Option<&Path> {
        self.model.last().map(PathBuf::as_path)
    }
}

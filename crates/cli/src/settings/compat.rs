//! The peers' options that are no settings of ours.
//!
//! Command lines of `llama-cli`, `llama-server` and `vllm serve` shall run with only the program's name changed.
//! What is always on, or has nothing to act on here, is accepted with a note; what contradicts the facts, or asks
//! for something that is not there, is refused with the reason.

use std::ffi::OsString;

use anyhow::Result;
use clap::ArgMatches;

use super::Commands;

/// What options are held against.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Accelerators that this build can use and this machine has.
    pub n_gpus: u32,
}

/// What to do about an option: a note for the user, or an error.
type Verdict = fn(value: &str, facts: &Facts) -> std::result::Result<Option<String>, String>;

/// A peer's option.
pub struct CompatOption {
    pub flag: &'static str,
    pub aliases: &'static [&'static str],
    pub dash: &'static [&'static str],
    pub commands: Commands,
    pub takes_value: bool,
    /// `--flag` and `--flag=value` are both written.
    pub value_optional: bool,
    verdict: Verdict,
}

/// How the user spelled the option `flag` or one of its other names, `args` being respelled.
pub fn spelled(args: &[OsString], flag: &str, aliases: &[&str], dash: &[&str]) -> String {
    let names = args.iter().filter_map(|a| a.to_str()?.strip_prefix("--"));
    let given = names
        .map(|name| name.split_once('=').map_or(name, |(name, _)| name))
        .find(|name| *name == flag || aliases.contains(name) || dash.contains(name));
    match given {
        Some(name) if dash.contains(&name) => format!("-{name}"),
        Some(name) => format!("--{name}"),
        None => format!("--{flag}"),
    }
}

/// Holds the given options against the facts; the notes are for the user. `args` are what `matches` came from.
pub fn check(
    matches: &ArgMatches,
    args: &[OsString],
    command: Commands,
    facts: &Facts,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for option in OPTIONS.iter().filter(|o| o.commands.contains(command)) {
        let values: Vec<String> = if option.takes_value {
            matches.get_many::<String>(option.flag).unwrap_or_default().cloned().collect()
        } else if matches.get_flag(option.flag) {
            vec![String::new()]
        } else {
            continue;
        };
        let name = spelled(args, option.flag, option.aliases, option.dash);
        for value in values {
            match (option.verdict)(&value, facts) {
                Ok(None) => {}
                Ok(Some(note)) => notes.push(format!("{name}: {note}")),
                Err(why) => misuse!("{name}: {why}"),
            }
        }
    }
    Ok(notes)
}

macro_rules! verdict {
    (note $text:literal) => {
        |_, _| Ok(Some($text.into()))
    };
    (silent) => {
        |_, _| Ok(None)
    };
    (refuse $text:literal) => {
        |_, _| Err($text.into())
    };
    (check $check:expr) => {
        $check
    };
}

macro_rules! options {
    ($($commands:ident $shape:ident $flag:literal $(also [$($alias:literal),*])? $(dash [$($dash:literal),*])? => $verdict:ident $($arg:expr)?;)*) => {
        /// All of them.
        pub static OPTIONS: &[CompatOption] = &[$(CompatOption {
            flag: $flag,
            aliases: { const A: &[&str] = &[$($($alias,)*)? $($($dash,)*)?]; A },
            dash: &[$($($dash),*)?],
            commands: Commands::$commands,
            takes_value: options!(@takes $shape),
            value_optional: options!(@optional $shape),
            verdict: verdict!($verdict $($arg)?),
        }),*];
    };
    (@takes switch) => { false };
    (@takes value) => { true };
    (@takes maybe) => { true };
    (@optional maybe) => { true };
    (@optional $other:ident) => { false };
}

options! {
    // Always on.
    ANSWER switch "cont-batching" dash ["cb"] => note "continuous batching is always on";
    ANSWER switch "no-cont-batching" dash ["nocb"] => refuse "continuous batching is always on; use --parallel 1 to run one sequence at a time";
    ANSWER switch "metrics" => note "/metrics of a server is always on";
    ANSWER maybe "enable-prefix-caching" also ["cache-prompt"] => check |value, _| match value {
        "off" | "false" | "0" => Err("use --no-enable-prefix-caching".into()),
        _ => Ok(Some("prefixes are cached by default".into())),
    };
    ANSWER maybe "enable-chunked-prefill" => check |value, _| match value {
        "off" | "false" | "0" => Err("prefill is always chunked; --max-num-batched-tokens sets the size".into()),
        _ => Ok(Some("prefill is always chunked".into())),
    };
    ANSWER switch "no-enable-chunked-prefill" => refuse "prefill is always chunked; --max-num-batched-tokens sets the size";
    ANSWER switch "jinja" => note "templates are always Jinja";
    ANSWER switch "no-jinja" => refuse "templates are always Jinja; give one with --chat-template";
    LOAD maybe "flash-attn" dash ["fa"] => check flash_attention;

    // Files and memory.
    LOAD switch "mmap" => note "files are read, and weights repacked into memory of their own";
    LOAD switch "no-mmap" => note "weights are repacked into memory of their own in any case";
    LOAD switch "mlock" => refuse "locking memory is not supported yet; disable swap instead";
    LOAD value "load-mode" dash ["lm"] => check |value, _| match value {
        "auto" | "none" | "mmap" => Ok(Some("files are read, and weights repacked into memory of their own".into())),
        other => Err(format!("`{other}` is not supported: files are read, and weights repacked into memory")),
    };
    LOAD value "lazy-mode" dash ["lzm"] => check |value, _| match value {
        "auto" | "off" => Ok(Some("weights are always in memory".into())),
        _ => Err("weights are always in memory; reading them on demand is not supported".into()),
    };
    LOAD switch "direct-io" also ["no-direct-io"] dash ["dio", "ndio"] => note "files are always read through the system's cache";
    LOAD switch "repack" => note "weights are always repacked into what the kernels read";
    LOAD switch "no-repack" dash ["nr"] => refuse "weights are always repacked into what the kernels read";
    LOAD switch "no-host" => note "there are no host buffers to bypass";
    LOAD switch "check-tensors" => refuse "weights are not searched for invalid values; a model that gives such logits is an error when it runs";
    LOAD switch "no-warmup" also ["warmup"] => note "the model is ready once it is loaded; nothing to warm up";
    LOAD value "numa" => refuse "NUMA placement is not supported yet; start the process under numactl instead";
    LOAD switch "numa-bind" => refuse "NUMA placement is not supported yet; start the process under numactl instead";
    LOAD value "rpc" => refuse "computing on other machines is not supported yet";
    LOAD maybe "fit" dash ["fit"] => note "settings are never changed to fit; what does not fit is an error";
    LOAD value "fit-target" also ["fit-ctx"] dash ["fitt", "fitc"] => note "settings are never changed to fit; what does not fit is an error";
    LOAD value "override-kv" => refuse "metadata cannot be overridden yet";
    LOAD value "override-tensor" dash ["ot"] => check |value, facts| {
        match value.split(',').find(|rule| !rule.rsplit('=').next().unwrap_or_default().starts_with("CPU")) {
            None => Ok(Some("everything is computed on the CPU".into())),
            Some(rule) => Err(format!("`{rule}`: this machine has {} devices that Ingle can use", facts.n_gpus)),
        }
    };

    // Steps, threads and the cache.
    LOAD value "ubatch-size" dash ["ub"] => note "one step has one size here: --max-num-batched-tokens";
    LOAD value "threads-batch" dash ["tb"] => note "one pool serves decode and prefill: --threads";
    LOAD value "threads-http" => note "requests are handled by threads of their own";
    LOAD value "poll" also ["poll-batch"] => note "waiting threads spin briefly, then sleep";
    LOAD value "prio" also ["prio-batch"] => note "the process's own priority holds; start it under nice instead";
    LOAD value "cpu-mask" also ["cpu-range", "cpu-mask-batch", "cpu-range-batch"] dash ["C", "Cr", "Cb", "Crb"] => refuse "threads are not pinned to cores; start the process under taskset instead";
    LOAD value "cpu-strict" also ["cpu-strict-batch"] => check |value, _| match value {
        "0" => Ok(Some("threads are not pinned to cores".into())),
        _ => Err("threads are not pinned to cores; start the process under taskset instead".into()),
    };
    LOAD value "block-size" => note "KV blocks have a fixed size";
    LOAD value "defrag-thold" dash ["dt"] => note "the cache is made of blocks and does not fragment";
    LOAD switch "swa-full" => note "the cache keeps every position in any case";
    LOAD value "ctx-checkpoints" also ["swa-checkpoints", "checkpoint-min-step", "checkpoint-every-n-tokens"] dash ["ctxcp", "cms", "cpent"] => note "the cache keeps every position; there are no checkpoints";
    LOAD value "cache-ram" dash ["cram"] => note "earlier prompts stay in the KV cache itself, whose size is --kv-tokens";
    LOAD switch "kv-unified" dash ["kvu"] => note "all sequences share one KV cache";
    LOAD switch "no-kv-unified" dash ["no-kvu"] => refuse "all sequences share one KV cache; --ctx-size limits each of them";
    LOAD value "kv-unified-per-slot" => refuse "use --ctx-size for the longest sequence and --kv-tokens for the cache";
    LOAD switch "cache-idle-slots" also ["no-cache-idle-slots"] => note "the prefix cache is shared by all sequences";
    ANSWER switch "no-context-shift" => note "an answer ends where the context ends, unless --context-shift or `context_shift` of the configuration says otherwise";
    LOAD value "grp-attn-n" also ["grp-attn-w"] dash ["gan", "gaw"] => refuse "self-extend is not supported";

    // Ollama's.
    RUN value "keepalive" also ["keep-alive"] => note "the model is in memory as long as this command runs; `ingle serve --keep-alive` keeps one beyond that";

    // The log.
    LOAD switch "perf" also ["no-perf"] => note "timings are in --verbose and in /metrics";
    LOAD switch "log-disable" => note "only warnings are printed by default";
    LOAD value "log-verbosity" also ["verbosity", "uvicorn-log-level"] dash ["lv"] => note "set the environment variable RUST_LOG instead";
    LOAD switch "log-timestamps" also ["no-log-timestamps", "log-prefix", "no-log-prefix", "no-log-colors", "no-log-jsonl"] => note "the log's form is fixed";
    LOAD maybe "log-colors" => note "the log is coloured on terminals";
    LOAD switch "log-jsonl" => refuse "the log is text; JSON is not supported yet";
    LOAD value "log-file" => refuse "the log goes to standard error; redirect it with 2> FILE";
    SERVE switch "verbose" also ["log-verbose"] dash ["v"] => note "set the environment variable RUST_LOG instead";
    RUN switch "log-verbose" => note "set the environment variable RUST_LOG instead";
    SERVE switch "disable-log-requests" also ["disable-log-stats", "no-enable-log-requests", "disable-uvicorn-access-log"] => note "requests are not logged by default, and prompts never";
    SERVE switch "enable-log-requests" also ["enable-log-outputs", "log-error-stack"] => refuse "prompts and answers are never logged";
    SERVE value "max-log-len" => note "prompts are never logged";
    SERVE value "log-config-file" => refuse "the log's form is fixed; RUST_LOG sets its level";

    // llama-cli's manners.
    RUN switch "conversation" dash ["cnv"] => note "a model with a chat template converses by default";
    RUN maybe "color" dash ["co"] => silent;
    RUN switch "simple-io" => silent;
    RUN switch "no-escape" => silent;
    RUN switch "interactive" also ["interactive-first"] dash ["i", "if"] => note "without a prompt, a conversation starts by itself";
    RUN switch "multiline-input" dash ["mli"] => note "end a line with a backslash to go on in the next";
    RUN switch "display-prompt" => note "a completion starts with its prompt by default";
    RUN switch "no-show-timings" => note "timings are shown only with --verbose";
    RUN value "in-prefix" also ["in-suffix"] => refuse "the chat template decides what stands around a message";
    RUN switch "in-prefix-bos" also ["instruct", "chatml"] dash ["ins", "cml"] => refuse "the chat template decides what stands around a message; choose one with --chat-template";
    RUN switch "verbose-prompt" => refuse "`ingle tokenize` prints a prompt's tokens";
    RUN value "print-token-count" dash ["ptc"] => refuse "use --verbose for the counts of each answer";
    RUN value "system-prompt-file" dash ["sysf"] => refuse "use --system-prompt \"$(cat FILE)\"";
    RUN value "binary-file" dash ["bf"] => refuse "prompts are UTF-8 text; use --file";
    RUN value "prompt-cache" => refuse "prompt cache files are not supported yet";
    RUN switch "prompt-cache-all" also ["prompt-cache-ro"] => refuse "prompt cache files are not supported yet";
    RUN value "cfg-negative-prompt" also ["cfg-negative-prompt-file", "cfg-scale"] => refuse "classifier-free guidance is not supported";
    RUN switch "infill" also ["interactive-specials"] => refuse "infilling is not supported yet";
    LOAD switch "version" => refuse "`ingle --version` prints it";
    LOAD switch "usage" => refuse "`--help` prints it";
    LOAD switch "license" => refuse "Ingle is licensed under MIT or Apache-2.0, at your choice";
    LOAD switch "completion-bash" => refuse "shell completion is not supported yet";
    LOAD switch "list-devices" => refuse "this build computes on the CPU; there are no devices to list";
    LOAD switch "cache-list" dash ["cl"] => refuse "nothing is downloaded, so there is no list; models are files of yours";

    // Sampling.
    ANSWER value "sampler-seq" also ["sampling-seq"] => refuse "use --samplers with names";
    ANSWER value "adaptive-target" also ["adaptive-decay"] => refuse "adaptive-p sampling is not supported yet";
    ANSWER value "tfs" => refuse "tail-free sampling is not supported; use --min-p or --top-p";
    ANSWER switch "backend-sampling" dash ["bs"] => note "sampling runs on the CPU, as everything does";
    ANSWER switch "no-penalize-nl" => refuse "penalties treat all tokens alike; use --logit-bias for one of them";
    ANSWER switch "penalize-nl" => note "penalties treat all tokens alike";
    SERVE value "n-predict" also ["predict"] dash ["n"] => check |value, _| match value {
        "-1" | "-2" => Ok(Some("requests say how long answers may be".into())),
        _ => Err("requests say how long answers may be (`max_tokens`); a limit for all is not supported yet".into()),
    };
    SERVE switch "ignore-eos" => refuse "requests say so themselves (`ignore_eos`)";
    SERVE value "reverse-prompt" dash ["r"] => refuse "requests say what stops them (`stop`)";
    SERVE value "logit-bias" dash ["l"] => refuse "requests say so themselves (`logit_bias`)";
    SERVE switch "special" dash ["sp"] => refuse "requests say so themselves (`skip_special_tokens`)";
    SERVE switch "escape" also ["no-escape"] dash ["e"] => note "prompts come as JSON, which has its own escapes";
    SERVE value "max-logprobs" => check |value, _| match value.parse::<u32>() {
        Ok(0..=20) => Ok(Some("requests may ask for up to 20".into())),
        _ => Err("requests may ask for up to 20".into()),
    };
    SERVE value "logprobs-mode" => check |value, _| match value {
        "raw_logprobs" => Ok(Some("logprobs are the model's own".into())),
        other => Err(format!("`{other}` is not supported: logprobs are the model's own")),
    };
    SERVE value "generation-config" => check |value, _| match value {
        "auto" => Ok(Some("the model's recommended settings are in its file".into())),
        _ => Err("recommended settings come from the model file; override them with --temp and the like".into()),
    };
    SERVE value "override-generation-config" => refuse "use --temp, --top-p and the like";
    SERVE value "logits-processors" also ["logits-processor-pattern"] => refuse "code is never loaded into the server";

    // The server.
    SERVE value "slot-prompt-similarity" dash ["sps"] => note "the prefix cache is shared by all sequences";
    SERVE value "cache-reuse" => check |value, _| match value {
        "0" => Ok(None),
        _ => Err("only whole prefixes are reused: shifting cached keys would change the answers".into()),
    };
    SERVE value "slot-save-path" => refuse "slots are not saved one by one; --kv-cache-dir keeps all prompts";
    SERVE switch "slots" also ["props"] => refuse "there are no slots; see /metrics and /health";
    SERVE switch "no-slots" => note "there are no slots to show";
    SERVE switch "no-webui" also ["no-ui", "disable-fastapi-docs"] => note "there is no web page to switch off";
    SERVE switch "webui" also ["ui"] => refuse "there is no web page; point a client at /v1";
    SERVE value "webui-config" also ["ui-config", "webui-config-file", "ui-config-file", "path"] => refuse "there is no web page; point a client at /v1";
    SERVE switch "webui-mcp-proxy" also ["ui-mcp-proxy", "agent"] dash ["ag"] => refuse "the server runs no tools; clients do";
    SERVE switch "no-webui-mcp-proxy" also ["no-ui-mcp-proxy", "no-agent"] dash ["no-ag"] => note "the server runs no tools";
    SERVE value "tools" also ["tools-runtime", "mcp-servers-config", "mcp-servers-json", "tool-server"] => refuse "the server runs no tools; clients do";
    SERVE value "timeout" dash ["to"] => note "streams have no time limit; a client that goes away is noticed";
    SERVE value "sse-ping-interval" => note "how often idle streams get a comment is fixed";
    SERVE switch "reuse-port" => refuse "sharing a port is not supported";
    SERVE value "api-prefix" also ["root-path"] => refuse "a path prefix is not supported yet; let a reverse proxy strip it";
    SERVE value "uds" => refuse "Unix sockets are not supported yet; use --host and --port";
    SERVE value "cors-methods" also ["cors-headers", "allowed-methods", "allowed-headers"] => refuse "methods and headers follow from the routes; --cors-origin says who may call them";
    SERVE switch "cors-credentials" also ["allow-credentials"] => refuse "credentials of web pages are not supported; send a key";
    SERVE switch "no-cors-credentials" => note "credentials of web pages are not supported";
    SERVE value "ssl-key-file" also ["ssl-cert-file", "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers"] => refuse "TLS is not supported yet; put a reverse proxy in front";
    SERVE switch "enable-ssl-refresh" => refuse "TLS is not supported yet; put a reverse proxy in front";
    SERVE value "middleware" => refuse "code is never loaded into the server";
    SERVE value "h11-max-incomplete-event-size" also ["h11-max-header-count"] => refuse "limits of HTTP headers are fixed";
    SERVE value "api-server-count" dash ["asc"] => check |value, _| match value {
        "1" => Ok(None),
        _ => Err("one process serves".into()),
    };
    SERVE switch "enable-request-id-headers" => note "every reply has X-Request-Id";
    SERVE switch "enable-prompt-tokens-details" => note "`usage` always has them";
    SERVE switch "disable-frontend-multiprocessing" => note "one process serves";
    SERVE switch "enable-force-include-usage" => refuse "requests ask for it (`stream_options.include_usage`)";
    SERVE switch "return-tokens-as-token-ids" also ["enable-tokenizer-info-endpoint", "enable-server-load-tracking"] => refuse "it is not supported yet";
    SERVE value "response-role" => check |value, _| match value {
        "assistant" => Ok(None),
        _ => Err("answers come from the assistant".into()),
    };
    SERVE value "models-preset" => refuse "models are described in the configuration file, each in a table [[models]]";
    SERVE value "models-max" => refuse "models are limited by their memory (--memory-budget), not by their number";
    SERVE switch "models-autoload" => note "models are loaded when they are asked for, unless --on-missing says otherwise";
    SERVE switch "no-models-autoload" => refuse "use --on-missing never";
    SERVE switch "enable-sleep-mode" => refuse "use --keep-alive, or unload models with /models/unload";
    SERVE value "tags" => note "tags are not shown anywhere";
    SERVE value "media-path" also ["allowed-local-media-path", "allowed-media-domains"] => refuse "images are not supported yet";
    SERVE value "chat-template-content-format" => check |value, _| match value {
        "auto" => Ok(Some("it is read from the template".into())),
        _ => Err("it is read from the template and cannot be forced yet".into()),
    };
    SERVE value "chat-template-kwargs" also ["default-chat-template-kwargs"] => refuse "requests say so themselves (`chat_template_kwargs`)";
    SERVE switch "trust-request-chat-template" => refuse "templates come from the model or from --chat-template";
    SERVE value "otlp-traces-endpoint" also ["collect-detailed-traces"] => refuse "traces are not exported yet; see /metrics";
    SERVE value "show-hidden-metrics-for-version" => refuse "there are no hidden metrics";
    SERVE switch "kv-cache-metrics" also ["cudagraph-metrics", "enable-mfu-metrics", "enable-layerwise-nvtx-tracing"] => refuse "there are no such metrics; see /metrics";

    // vLLM's engine.
    SERVE maybe "enforce-eager" => note "there are no graphs to capture on a CPU";
    SERVE switch "no-enforce-eager" => note "there are no graphs to capture on a CPU";
    SERVE value "max-seq-len-to-capture" also ["max-context-len-to-capture", "cuda-graph-sizes", "cudagraph-capture-sizes", "max-cudagraph-capture-size"] => note "there are no graphs to capture on a CPU";
    SERVE value "compilation-config" also ["optimization-level"] dash ["cc", "O"] => note "kernels are compiled ahead; nothing is compiled at start";
    SERVE switch "optimize" dash ["O0", "O1", "O2", "O3"] => note "kernels are compiled ahead; nothing is compiled at start";
    SERVE value "swap-space" => note "--kv-swap-mb says how much memory preempted sequences have";
    SERVE value "cpu-offload-gb" => note "weights are in main memory in any case";
    SERVE value "kv-cache-memory-bytes" also ["num-gpu-blocks-override"] => refuse "use --kv-tokens";
    SERVE switch "calculate-kv-scales" => refuse "keys and values have no scales; --kv-type says how they are stored";
    SERVE value "prefix-caching-hash-algo" => note "the prefix cache has its own keys";
    SERVE value "kv-transfer-config" also ["kv-events-config", "kv-offloading-size", "kv-offloading-backend", "ec-transfer-config"] => refuse "the KV cache stays in this process";
    SERVE switch "kv-sharing-fast-prefill" => refuse "it is not supported yet";
    SERVE value "max-num-partial-prefills" also ["max-long-partial-prefills", "long-prefill-token-threshold"] => refuse "the scheduler decides how prompts share a step; --max-num-batched-tokens sets its size";
    SERVE value "scheduling-policy" => check |value, _| match value {
        "fcfs" => Ok(Some("first come, first served is the only order".into())),
        other => Err(format!("`{other}` is not supported: first come, first served is the only order")),
    };
    SERVE value "num-scheduler-steps" also ["scheduler-delay-factor", "preemption-mode"] => note "the scheduler has no such stages";
    SERVE switch "async-scheduling" also ["no-async-scheduling", "use-v2-block-manager", "multi-step-stream-outputs", "disable-hybrid-kv-cache-manager", "no-disable-hybrid-kv-cache-manager", "disable-chunked-mm-input", "disable-cascade-attn", "disable-async-output-proc"] => note "there is one scheduler and one attention";
    SERVE switch "disable-sliding-window" => refuse "the model file says how far its attention looks";
    SERVE value "stream-interval" => check |value, _| match value {
        "1" => Ok(None),
        _ => Err("every piece of text is sent as soon as it is there".into()),
    };
    SERVE value "attention-backend" also ["attention-config", "additional-config", "model-loader-extra-config", "worker-cls", "worker-extension-cls", "scheduler-cls"] => refuse "there is no such part to configure";
    SERVE value "model-impl" => check |value, _| match value {
        "auto" => Ok(None),
        other => Err(format!("`{other}` is not supported: each architecture has one implementation")),
    };
    SERVE value "load-format" also ["config-format"] => check |value, _| match value {
        "auto" | "gguf" => Ok(Some("models are GGUF files".into())),
        other => Err(format!("`{other}` cannot be loaded: models are GGUF files")),
    };
    SERVE value "safetensors-load-strategy" also ["ignore-patterns", "pt-load-map-location"] => refuse "models are GGUF files";
    SERVE value "tokenizer" also ["hf-config-path"] => refuse "the tokenizer is part of the model file";
    SERVE value "tokenizer-mode" => check |value, _| match value {
        "auto" => Ok(None),
        other => Err(format!("`{other}` is not supported: the model file says which tokenizer it has")),
    };
    SERVE switch "skip-tokenizer-init" => refuse "the tokenizer is part of the model file";
    SERVE switch "trust-remote-code" => note "no code is ever loaded with a model";
    SERVE switch "use-tqdm-on-load" also ["no-use-tqdm-on-load"] => note "progress is shown on terminals only";
    SERVE value "revision" also ["code-revision", "tokenizer-revision", "download-dir"] => refuse "models are local files here";
    SERVE value "distributed-executor-backend" => check |value, _| match value {
        "mp" | "uni" => Ok(Some("one process computes".into())),
        other => Err(format!("`{other}` is not supported: one process computes")),
    };
    SERVE value "max-parallel-loading-workers" => note "one process loads, with all threads";
    SERVE switch "disable-custom-all-reduce" => note "one process computes; there is nothing to reduce";
    SERVE switch "worker-use-ray" also ["ray-workers-use-nsight", "headless"] => refuse "one process computes";
    SERVE value "nnodes" => check |value, _| match value {
        "1" => Ok(None),
        _ => Err("computing on several machines is not supported".into()),
    };
    SERVE value "node-rank" also ["master-addr", "master-port", "data-parallel-address", "data-parallel-rpc-port", "data-parallel-backend", "data-parallel-rank", "data-parallel-start-rank"] => refuse "computing on several machines is not supported";
    SERVE switch "enable-expert-parallel" also ["enable-eplb"] dash ["ep"] => refuse "experts in parallel need several devices";

    // The model's own facts.
    LOAD value "quantization" dash ["q"] => check |value, _| match value {
        "gguf" | "auto" | "none" | "None" => Ok(Some("the file says how it is quantized".into())),
        other => Err(format!("the model file says how it is quantized; `{other}` cannot be applied to it")),
    };
    LOAD value "quantization-param-path" => refuse "the model file says how it is quantized";
    LOAD value "dtype" => check |value, _| match value {
        "auto" | "half" | "float16" | "bfloat16" | "float" | "float32" =>
            Ok(Some("each weight type has one arithmetic; see --kv-type for keys and values".into())),
        other => Err(format!("`{other}` is no data type")),
    };
    LOAD value "rope-scaling" also ["rope-freq-base", "rope-freq-scale", "rope-scale", "rope-theta", "yarn-orig-ctx", "yarn-ext-factor", "yarn-attn-factor", "yarn-beta-slow", "yarn-beta-fast", "hf-overrides"] => refuse "rope scaling comes from the model file and cannot be overridden yet";

    // Accelerators.
    LOAD value "n-gpu-layers" also ["gpu-layers"] dash ["ngl"] => check |value, facts| match value {
        "0" => Ok(None),
        "auto" | "all" => no_gpu(facts),
        n => match n.parse::<i32>() {
            Ok(_) => no_gpu(facts),
            Err(_) => Err(format!("`{n}` is no number of layers")),
        },
    };
    LOAD value "tensor-parallel-size" dash ["tp"] => check devices;
    LOAD value "pipeline-parallel-size" dash ["pp"] => check devices;
    LOAD value "data-parallel-size" also ["data-parallel-size-local"] dash ["dp", "dpl"] => check devices;
    LOAD value "decode-context-parallel-size" also ["prefill-context-parallel-size"] dash ["dcp", "pcp"] => check devices;
    LOAD value "tensor-split" dash ["ts"] => check |value, facts| {
        let parts: Vec<&str> = value.split([',', '/']).collect();
        if parts.iter().any(|p| p.trim().parse::<f32>().is_err()) {
            return Err(format!("`{value}` is no list of numbers"));
        }
        if parts.len() > 1 && parts.len() > facts.n_gpus as usize {
            return Err(format!("it names {} devices, this machine has {}", parts.len(), facts.n_gpus));
        }
        no_gpu(facts)
    };
    LOAD value "split-mode" dash ["sm"] => check |value, facts| match value {
        "none" | "layer" | "row" | "tensor" => no_gpu(facts),
        other => Err(format!("`{other}` is none of none, layer, row, tensor")),
    };
    LOAD value "main-gpu" dash ["mg"] => check |value, facts| match value.parse::<u32>() {
        Ok(0) => no_gpu(facts),
        Ok(n) if n >= facts.n_gpus => Err(format!("there is no device {n}: this machine has {}", facts.n_gpus)),
        Ok(_) => no_gpu(facts),
        Err(_) => Err(format!("`{value}` is no device number")),
    };
    LOAD value "device" dash ["dev"] => check |value, facts| match value {
        "cpu" | "none" | "auto" => Ok(None),
        other => Err(format!("there is no device `{other}`: this machine has {} that Ingle can use", facts.n_gpus)),
    };
    LOAD value "gpu-memory-utilization" => check |value, facts| match value.parse::<f32>() {
        Ok(x) if x > 0.0 && x <= 1.0 => no_gpu(facts),
        _ => Err(format!("`{value}` is no share between 0 and 1")),
    };
    LOAD switch "kv-offload" also ["op-offload"] dash ["kvo"] => check |_, facts| no_gpu(facts);
    LOAD switch "no-kv-offload" also ["no-op-offload"] dash ["nkvo"] => note "everything is in main memory";
    LOAD switch "cpu-moe" dash ["cmoe"] => note "everything is computed on the CPU";
    LOAD value "n-cpu-moe" also ["n-cpu-ffn", "moe-cache-mib"] dash ["ncmoe", "ncffn"] => note "everything is computed on the CPU";

    // Not there yet: refused rather than ignored.
    SERVE value "grammar" also ["grammar-file", "json-schema", "json-schema-file"] dash ["j", "jf"] => refuse "requests say so themselves (`response_format`, `structured_outputs`)";
    RUN_BATCH value "grammar" also ["grammar-file"] => refuse "a grammar cannot be set here; use --json-schema, --regex or --choice";
    SERVE value "guided-decoding-backend" also ["structured-outputs-config"] => refuse "structured output is not supported yet";
    LOAD value "lora-base" also ["control-vector", "control-vector-scaled", "lora-extra-vocab-size", "default-mm-loras", "prompt-adapters"] => refuse "only low-rank adapters are added to a model, with --lora";
    LOAD value "max-loras" also ["max-lora-rank", "max-cpu-loras", "max-loras-per-batch", "max-loaded-loras", "lora-dtype", "lora-backend", "lora-target-modules"] => note "adapters are computed in float, of any rank up to 1024, up to 256 of them, all in one batch";
    SERVE switch "enable-lora" also ["fully-sharded-loras"] => note "adapters need no switch; --lora-dir says from where they may be loaded";
    SERVE switch "enable-lora-bias" also ["enable-prompt-adapter"] => refuse "only low-rank adapters are added to a model, with --lora";
    RUN value "lora-modules" also ["lora-paths", "lora-dir"] => refuse "nothing chooses adapters here; use --lora";
    BENCH value "lora-modules" also ["lora-paths", "lora-dir"] => refuse "nothing chooses adapters here; use --lora";
    LOAD value "mmproj" also ["mmproj-url", "mmproj-device", "image", "audio", "video", "image-min-tokens", "image-max-tokens", "mtmd-batch-max-tokens", "video-fps", "limit-mm-per-prompt", "mm-processor-kwargs", "mm-processor-cache-gb", "mm-encoder-tp-mode", "media-io-kwargs"] dash ["mm", "mmu", "mmdev"] => refuse "images and sound are not supported yet";
    LOAD switch "mmproj-auto" also ["mmproj-offload", "enable-mm-embeds", "interleave-mm-strings"] => refuse "images and sound are not supported yet";
    LOAD switch "no-mmproj" also ["no-mmproj-auto", "no-mmproj-offload", "language-model-only", "skip-mm-profiling"] => note "models take text only";
    ANSWER value "ctx-size-draft" dash ["cd"] => note "a draft model guesses within the model's context";
    ANSWER value "threads-draft" also ["threads-batch-draft"] dash ["td", "tbd"] => note "all models share the threads of --threads";
    ANSWER value "n-gpu-layers-draft" also ["gpu-layers-draft", "device-draft", "override-tensor-draft"] dash ["ngld", "devd", "otd"] => check |_, facts| no_gpu(facts);
    ANSWER value "cache-type-k-draft" also ["cache-type-v-draft", "spec-draft-type-k", "spec-draft-type-v"] dash ["ctkd", "ctvd"] => note "a draft model's keys and values are stored as the model's";
    ANSWER value "draft-p-split" => note "guesses are one run of tokens; they never branch";
    ANSWER value "num-lookahead-slots" also ["speculative-num-steps"] => note "how many tokens are guessed follows what they win; --draft-max bounds it";
    ANSWER value "speculative-eagle-topk" => check |value, _| match value {
        "1" => Ok(None),
        _ => Err("guesses are one run of tokens; they never branch".into()),
    };
    ANSWER value "spec-replace" => refuse "a draft model has the model's own vocabulary";
    ANSWER value "lookup-cache-static" also ["lookup-cache-dynamic"] dash ["lcs", "lcd"] => refuse "guesses are looked up in the request's own text; files of n-grams are not read";
    ANSWER value "hf-repo-draft" dash ["hfd", "hfrd"] => refuse "downloading models is not supported yet; give a file with --model-draft";
    BENCH value "model-draft" also ["draft-max", "draft-min"] dash ["md"] => refuse "this measures plain steps; --speculation tells what guesses would make of them";
    LOAD value "hf-repo" also ["hf-file", "hf-token", "hf-repo-v", "hf-file-v", "docker-repo", "model-url"] dash ["hf", "hfr", "hff", "hft", "hfv", "hfrv", "hffv", "dr", "mu"] => refuse "downloading models is not supported yet; give a file with --model";
    SERVE switch "embedding" also ["embeddings"] => note "embeddings are always served, beside generation";
    SERVE switch "reranking" also ["rerank"] => note "a model with a head that ranks uses it at /v1/rerank and /v1/score; others compare embeddings there";
    SERVE value "embd-normalize" => check |value, _| match value {
        "2" => Ok(None),
        _ => Err("embeddings have the length 1 unless a request says otherwise with `normalize`".into()),
    };
    SERVE value "pooler-config" also ["override-pooler-config"] => refuse "use --pooling";
    SERVE value "runner" also ["task"] => check |value, _| match value {
        "auto" | "generate" => Ok(None),
        "pooling" | "embed" | "embedding" => Ok(Some("embeddings are always served, beside generation".into())),
        other => Err(format!("`{other}` is not supported yet: models generate and embed text")),
    };
    SERVE value "convert" => check |value, _| match value {
        "auto" | "none" | "embed" => Ok(None),
        other => Err(format!("`{other}` is not supported yet: models generate and embed text")),
    };
    SERVE switch "spm-infill" => refuse "infilling is not supported yet";
    ANSWER value "reasoning-format" => check |value, _| match value {
        "none" => Ok(Some("thoughts stay in the text as the model writes them".into())),
        other => Err(format!("`{other}` is not supported yet: thoughts stay in the text (`none`)")),
    };
    ANSWER value "reasoning-budget" => check |value, _| match value {
        "-1" => Ok(None),
        _ => Err("a budget for thoughts is not supported yet".into()),
    };
    ANSWER value "reasoning-budget-message" also ["reasoning-effort", "reasoning-parser", "reasoning-parser-plugin", "reasoning"] dash ["rea"] => refuse "thoughts are not told from text yet";
    ANSWER switch "reasoning-preserve" also ["no-reasoning-preserve", "enable-reasoning"] => refuse "thoughts are not told from text yet";
    SERVE value "tool-call-parser" also ["tool-parser-plugin"] => refuse "tool calls are not parsed yet";
    SERVE switch "enable-auto-tool-choice" also ["exclude-tools-when-tool-choice-none"] => refuse "tool calls are not parsed yet";
    SERVE switch "prefill-assistant" also ["no-prefill-assistant", "skip-chat-parsing", "no-skip-chat-parsing"] => refuse "whether an answer goes on with the last message is said by requests (`continue_final_message`)";
}

fn flash_attention(value: &str, _: &Facts) -> std::result::Result<Option<String>, String> {
    match value {
        "off" | "false" | "0" => Err("attention has one, block-wise form; it cannot be switched off".into()),
        _ => Ok(Some("attention is always block-wise".into())),
    }
}

fn no_gpu(facts: &Facts) -> std::result::Result<Option<String>, String> {
    if facts.n_gpus == 0 {
        Ok(Some(
            "no accelerator is used: this machine has none that Ingle can use; everything runs on the CPU"
                .into(),
        ))
    } else {
        Ok(None)
    }
}

/// Parallelism over devices: one is what there always is, more must exist.
fn devices(value: &str, facts: &Facts) -> std::result::Result<Option<String>, String> {
    match value.parse::<u32>() {
        Ok(0) | Err(_) => Err(format!("`{value}` is no number of devices")),
        Ok(1) => no_gpu(facts),
        Ok(n) if n > facts.n_gpus => {
            Err(format!("{n} devices were asked for, this machine has {} that Ingle can use", facts.n_gpus))
        }
        Ok(_) => Ok(None),
    }
}

//! The peers' options that are no settings of ours.
//!
//! Command lines of `llama-cli`, `llama-server` and `vllm serve` shall run with only the program's name changed.
//! What is always on, or has nothing to act on here, is accepted with a note; what contradicts the facts, or asks
//! for something that is not there, is refused with the reason.

use anyhow::{Result, bail};
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

/// Holds the given options against the facts; the notes are for the user.
pub fn check(matches: &ArgMatches, command: Commands, facts: &Facts) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for option in OPTIONS.iter().filter(|o| o.commands.contains(command)) {
        let values: Vec<String> = if option.takes_value {
            matches.get_many::<String>(option.flag).unwrap_or_default().cloned().collect()
        } else if matches.get_flag(option.flag) {
            vec![String::new()]
        } else {
            continue;
        };
        for value in values {
            match (option.verdict)(&value, facts) {
                Ok(None) => {}
                Ok(Some(note)) => notes.push(format!("--{}: {note}", option.flag)),
                Err(why) => bail!("--{}: {why}", option.flag),
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
    SERVE switch "cont-batching" dash ["cb"] => note "continuous batching is always on";
    SERVE switch "no-cont-batching" dash ["nocb"] => refuse "continuous batching is always on; use --parallel 1 to run one sequence at a time";
    SERVE switch "metrics" => note "/metrics is always on";
    SERVE maybe "enable-prefix-caching" also ["cache-prompt"] => check |value, _| match value {
        "off" | "false" | "0" => Err("use --no-enable-prefix-caching".into()),
        _ => Ok(Some("prefixes are cached by default".into())),
    };
    SERVE maybe "enable-chunked-prefill" => check |value, _| match value {
        "off" | "false" | "0" => Err("prefill is always chunked; --max-num-batched-tokens sets the size".into()),
        _ => Ok(Some("prefill is always chunked".into())),
    };
    SERVE switch "no-enable-chunked-prefill" => refuse "prefill is always chunked; --max-num-batched-tokens sets the size";
    RUN_SERVE switch "jinja" => note "templates are always Jinja";
    RUN_SERVE switch "no-jinja" => refuse "templates are always Jinja; give one with --chat-template";
    LOAD maybe "flash-attn" dash ["fa"] => check |value, _| match value {
        "off" | "false" | "0" => Err("attention has one, block-wise form; it cannot be switched off".into()),
        _ => Ok(Some("attention is always block-wise".into())),
    };
    LOAD switch "no-warmup" also ["warmup"] => note "the model is ready once it is loaded; nothing to warm up";
    LOAD switch "no-mmap" => note "weights are repacked into memory of their own in any case";
    LOAD switch "mmap" => note "files are always mapped";
    LOAD switch "mlock" => refuse "locking memory is not supported yet; raise the process's priority or disable swap instead";
    LOAD value "numa" => refuse "NUMA placement is not supported yet; start the process under numactl instead";
    LOAD value "ubatch-size" dash ["ub"] => note "one step has one size here: --max-num-batched-tokens";
    LOAD value "threads-batch" dash ["tb"] => note "one pool serves decode and prefill: --threads";
    RUN_SERVE value "threads-http" => note "requests are handled by a runtime of their own size";
    LOAD value "poll" => note "waiting threads spin briefly, then sleep";
    LOAD value "prio" => note "the process's own priority holds; start it under nice instead";
    LOAD switch "perf" also ["no-perf"] => note "timings are in --verbose and in /metrics";
    LOAD switch "log-disable" => note "only warnings are printed by default";
    LOAD value "log-verbosity" also ["verbosity", "uvicorn-log-level"] dash ["lv"] => note "set the environment variable RUST_LOG instead";
    LOAD switch "log-timestamps" also ["log-prefix", "log-colors"] => note "the log's form is fixed";
    LOAD value "block-size" => note "KV blocks have a fixed size";
    LOAD switch "check-tensors" => note "every count, offset and size in the file is always checked";
    SERVE value "slot-prompt-similarity" dash ["sps"] => note "the prefix cache is shared by all sequences";
    SERVE value "cache-reuse" => note "the prefix cache shares whole blocks; shifted reuse would change results";
    SERVE switch "slots" also ["no-slots", "props"] => note "there are no slots: see /metrics and /health";
    SERVE switch "disable-log-requests" also ["disable-log-stats", "no-enable-log-requests"] => note "prompts are never logged";
    SERVE switch "no-webui" also ["no-ui"] => note "there is no web page to switch off";
    SERVE value "timeout" dash ["to"] => note "streams have no time limit; a client that goes away is noticed";
    SERVE switch "enforce-eager" => note "there are no graphs to capture on a CPU";
    SERVE value "swap-space" => note "preempted sequences are computed again, nothing is swapped";
    SERVE value "load-format" => check |value, _| match value {
        "auto" | "gguf" => Ok(Some("models are GGUF files".into())),
        other => Err(format!("`{other}` cannot be loaded: models are GGUF files")),
    };
    SERVE value "generation-config" => check |value, _| match value {
        "auto" => Ok(Some("the model's recommended settings are in its file".into())),
        _ => Err("recommended settings come from the model file; override them with --temp and the like".into()),
    };
    SERVE value "tokenizer" also ["hf-config-path"] => refuse "the tokenizer is part of the model file";
    SERVE value "tokenizer-mode" => note "there is one tokenizer";
    SERVE switch "trust-remote-code" => note "no code is ever loaded with a model";
    SERVE value "revision" also ["download-dir"] => refuse "models are local files here";
    SERVE value "distributed-executor-backend" => note "one process computes";
    // The model's own facts.
    LOAD value "quantization" dash ["q"] => check |value, _| match value {
        "gguf" | "auto" | "none" => Ok(Some("the file says how it is quantized".into())),
        other => Err(format!("the model file says how it is quantized; `{other}` cannot be applied to it")),
    };
    LOAD value "dtype" => check |value, _| match value {
        "auto" | "half" | "float16" | "bfloat16" | "float" | "float32" =>
            Ok(Some("each weight type has one arithmetic; see --kv-type for keys and values".into())),
        other => Err(format!("`{other}` is no data type")),
    };
    // Accelerators.
    LOAD value "n-gpu-layers" also ["gpu-layers"] dash ["ngl"] => check |value, facts| match value {
        "0" => Ok(None),
        "auto" | "all" => no_gpu(facts),
        n => match n.parse::<i32>() {
            Ok(_) => no_gpu(facts),
            Err(_) => Err(format!("`{n}` is no number of layers")),
        },
    };
    LOAD value "tensor-parallel-size" dash ["tp"] => check |value, facts| devices(value, facts);
    LOAD value "pipeline-parallel-size" dash ["pp"] => check |value, facts| devices(value, facts);
    LOAD value "data-parallel-size" dash ["dp"] => check |value, facts| devices(value, facts);
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
        other => Err(format!("`{other}` is none of none, layer, row")),
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
    LOAD switch "no-kv-offload" dash ["nkvo"] => note "keys and values are in main memory";
    LOAD switch "cpu-moe" dash ["cmoe"] => note "everything is computed on the CPU";
    // llama-cli's manners.
    RUN switch "conversation" dash ["cnv"] => note "a model with a chat template converses by default";
    RUN maybe "color" dash ["co"] => silent;
    RUN switch "simple-io" => silent;
    RUN switch "no-escape" => silent;
    RUN switch "interactive" also ["interactive-first"] dash ["i", "if"] => note "without a prompt, a conversation starts by itself";
    RUN switch "multiline-input" dash ["mli"] => note "end a line with a backslash to go on in the next";
    RUN switch "display-prompt" => note "a completion starts with its prompt by default";
    RUN value "keep" => note "nothing is ever dropped from the context in silence";
    RUN value "in-prefix" also ["in-suffix"] => refuse "the chat template decides what stands around a message";
    RUN switch "context-shift" also ["no-context-shift"] => note "an answer ends where the context ends; nothing is dropped in silence";
    SERVE switch "no-context-shift" => note "an answer ends where the context ends; nothing is dropped in silence";
    SERVE switch "context-shift" => refuse "dropping the start of a conversation is not supported yet; an answer ends where the context ends";
    // Not there yet: refused rather than ignored.
    RUN_SERVE value "grammar" also ["grammar-file", "json-schema", "json-schema-file"] dash ["j", "jf"] => refuse "structured output is not supported yet";
    LOAD value "lora" also ["lora-scaled", "lora-modules", "control-vector"] => refuse "adapters are not supported yet";
    LOAD value "mmproj" dash ["mm"] => refuse "images are not supported yet";
    LOAD value "model-draft" also ["draft-model", "speculative-config"] dash ["md"] => refuse "speculative decoding is not supported yet";
    LOAD value "hf-repo" dash ["hf", "hfr"] => refuse "downloading models is not supported yet; give a file with --model";
    LOAD value "model-url" dash ["mu"] => refuse "downloading models is not supported yet; give a file with --model";
    LOAD value "rope-scaling" also ["rope-freq-base", "rope-freq-scale", "rope-scale", "yarn-orig-ctx", "yarn-ext-factor", "yarn-attn-factor", "yarn-beta-slow", "yarn-beta-fast", "hf-overrides"] => refuse "rope scaling comes from the model file and cannot be overridden yet";
    LOAD value "override-kv" also ["override-tensor"] dash ["ot"] => refuse "metadata cannot be overridden yet";
    SERVE switch "embedding" also ["embeddings", "reranking", "rerank"] => refuse "embeddings and reranking are not supported yet";
    SERVE value "pooling" also ["runner", "task"] => refuse "only text generation is supported yet";
    SERVE value "ssl-key-file" also ["ssl-cert-file", "ssl-keyfile", "ssl-certfile"] => refuse "TLS is not supported yet; put a reverse proxy in front";
    SERVE value "tool-call-parser" also ["reasoning-parser", "reasoning-format", "reasoning-budget"] => refuse "tool calls and reasoning are not parsed yet";
    SERVE switch "enable-auto-tool-choice" => refuse "tool calls are not parsed yet";
    SERVE switch "enable-lora" => refuse "adapters are not supported yet";
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

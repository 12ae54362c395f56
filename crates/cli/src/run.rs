//! `ingle run`: one answer, or a conversation in the terminal.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Arg;
use ingle_chat::{ChatInput, FinishReason, Message, Request, Role};
use ingle_runtime::{Engine, Generation, LoadOptions, Preset, TemplateChoice};
use ingle_store::Installed;

use crate::chat::{self, Look};
use crate::models::chosen;
use crate::progress::LoadProgress;
use crate::sampling;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
use crate::speculation;

pub const USAGE: Usage = Usage {
    name: "run",
    about: "Answer a prompt, or converse in the terminal.\n\n\
            With a prompt (as arguments, by --prompt, from --file, or on standard input) the answer goes to\n\
            standard output: `cat log | ingle run m \"what failed?\"` puts what is piped in before the question.\n\
            Without one, a conversation starts. Without a model, the small one that ships with Ingle is used.\n\n\
            A model that embeds prints its vector as a JSON array.",
    command: Commands::RUN,
    positional: &[
        ("MODEL", "GGUF file to load; left out where --model names it"),
        ("PROMPT...", "Answer these words and stop; `-` is standard input"),
    ],
};

/// Longest prompt that is read from a file or a pipe.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

/// What `ingle run` has besides its settings.
pub fn options() -> [Arg; 1] {
    [crate::commands::flag(
        "insecure",
        "Ask the model's host without encryption, where the model has to be fetched",
    )]
}

/// A model that was loaded for a command.
pub struct Loaded {
    pub engine: Engine,
    /// What the model says of conversations and answers. It is not the engine's: what the user says counts more, also
    /// that there is to be no limit.
    pub preset: Preset,
    /// What the store has beside its files, if it is a model of the store.
    pub installed: Option<Installed>,
}

/// `ingle run`
pub fn main(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(USAGE, &options(), args, &Facts::default())?;
    let mut settings = parsed.settings;
    let mut positional = parsed.positional.into_iter().peekable();
    // The first is the model, unless that has a flag: the environment and the file yield to the command line.
    if !m.contains_id("model")
        && let Some(model) = positional.next_if(|first| first != "-")
    {
        settings.model = vec![model.into()];
    }
    let words: Vec<String> = positional.collect();
    if !words.is_empty() {
        if m.contains_id("prompt") {
            bail!("there are two prompts: `{}` and the one of --prompt", words.join(" "));
        }
        settings.prompt = Some(words.join(" "));
    }
    max_tokens(&settings)?;
    if m.get_flag("insecure") {
        crate::pull::allow_insecure(&mut settings)?;
    }
    chosen(&settings)?;
    for note in &parsed.notes {
        say!("note: {note}");
    }
    let prompt = prompt(&settings, !words.is_empty())?;
    // `ingle run MODEL ""`, as Ollama's users write it: the model is looked at and loaded, and asked nothing.
    let loads_only = !words.is_empty() && prompt.as_deref() == Some("");
    let prompt = prompt.map(|text| if settings.escape { unescape(&text) } else { text });
    if settings.model_file().is_none() {
        say!("note: no model was named; this is the small one that ships with Ingle");
    }
    let Loaded { engine, preset, installed } = load(&settings)?;
    if loads_only {
        return finish_loading(&engine, &settings);
    }
    if let Some(text) = prompt.as_ref().filter(|_| embeds(&engine)) {
        return embedding(&engine, &settings, text);
    }
    if settings.truncate.is_some() || settings.dimensions.is_some() {
        bail!("--truncate and --dimensions are for models that embed, and this one generates text");
    }
    let as_chat = engine.has_template() && !settings.raw;
    if !as_chat && settings.system.is_some() {
        bail!(
            "--system-prompt needs a chat template: plain text that is continued has no place for instructions"
        );
    }
    let effective = with_preset(&settings, &preset);
    let limit = if settings.max_tokens.is_some() { Limit::Exact } else { Limit::AtMost };
    match prompt {
        Some(prompt) if as_chat => one_shot(&engine, &effective, limit, &preset.messages, &prompt),
        Some(prompt) => completion(&engine, &effective, limit, &prompt),
        None if settings.json => bail!("--json wants a prompt: a conversation is for people"),
        None if as_chat => chat::converse(Loaded { engine, preset, installed }, &settings),
        None if embeds(&engine) => bail!("the model embeds texts, and does not converse: give it a text"),
        None => bail!(
            "the model has no chat template, so it can only continue text: give a prompt, or a template with \
             --chat-template"
        ),
    }
}

/// Whether the model is for vectors: its file says how texts become them, or it has nothing to generate with.
fn embeds(engine: &Engine) -> bool {
    let details = &engine.info().details;
    details.metadata.contains_key(&format!("{}.pooling_type", details.architecture))
}

/// The prompt, if there is one: from the arguments, a file, or a pipe. `takes_pipe`: what is piped in stands before the
/// words of the command line.
fn prompt(settings: &Settings, takes_pipe: bool) -> Result<Option<String>> {
    if let Some(path) = &settings.file {
        if settings.prompt.is_some() {
            bail!("there are two prompts: one by --file, one by --prompt");
        }
        if path == Path::new("-") {
            return stdin().map(Some);
        }
        let name = path.display().to_string();
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
        return read_prompt(file, &name).map(Some);
    }
    match &settings.prompt {
        Some(prompt) if prompt == "-" => stdin().map(Some),
        Some(prompt) if takes_pipe && !std::io::stdin().is_terminal() => Ok(Some(match stdin()? {
            piped if piped.trim().is_empty() => prompt.clone(),
            piped if prompt.is_empty() => piped,
            piped => format!("{piped}\n\n{prompt}"),
        })),
        Some(prompt) => Ok(Some(prompt.clone())),
        None if !std::io::stdin().is_terminal() => match stdin()? {
            text if text.is_empty() => {
                bail!("there is no prompt: standard input is empty, and no terminal to converse in")
            }
            text => Ok(Some(text)),
        },
        None => Ok(None),
    }
}

fn stdin() -> Result<String> {
    read_prompt(std::io::stdin(), "standard input")
}

/// A prompt from a file or a pipe.
fn read_prompt(reader: impl Read, name: &str) -> Result<String> {
    let mut text = read_text(reader, name, PROMPT_BYTES_MAX)?;
    // As llama.cpp does: the newline that editors end files with is not part of the prompt.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// The text of a file or a pipe, either of which may never end.
pub fn read_text(reader: impl Read, name: &str, bytes_max: u64) -> Result<String> {
    let mut bytes = Vec::new();
    reader.take(bytes_max + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > bytes_max {
        bail!("{name} has more than the {bytes_max} bytes that are read; give less");
    }
    String::from_utf8(bytes).with_context(|| format!("{name} is not valid UTF-8"))
}

/// The most new tokens, if there is a limit.
pub fn max_tokens(settings: &Settings) -> Result<Option<u32>> {
    match settings.max_tokens {
        // llama.cpp: -1 is no limit, -2 until the context is full; both are one here.
        None | Some(-1 | -2) => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => bail!("--n-predict: {n} is no number of tokens; -1 is no limit"),
        },
    }
}

/// What a number of new tokens means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There must be room for all of them: somebody has asked for this answer with this number.
    Exact,
    /// As `num_predict` of a Modelfile or of the chat: so many, or as many as there is room for.
    AtMost,
}

impl Limit {
    /// Makes the request's number what it means.
    pub fn apply(self, engine: &Engine, request: &mut Request) {
        let Some(n) = request.max_tokens.filter(|_| self == Self::AtMost) else { return };
        let shifts = request.sampling.context_shift.or(engine.info().defaults.context_shift);
        // Where the context shifts there is always room, and without a number the answer would be longer.
        if shifts == Some(true) {
            return;
        }
        // What is wrong with a prompt is said when its answer is asked for.
        let Ok(prompt) = engine.provider().prompt(request) else { return };
        if prompt.tokens.len().saturating_add(n as usize) > engine.info().n_ctx {
            request.max_tokens = None;
        }
    }
}

/// Reads the escapes that llama.cpp reads; any other backslash stays.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let plain = match rest[at + 1..].chars().next() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(c @ ('\\' | '\'' | '"')) => c,
            _ => {
                out.push('\\');
                rest = &rest[at + 1..];
                continue;
            }
        };
        out.push(plain);
        rest = &rest[at + 2..];
    }
    out + rest
}

/// Loads the model that the settings name; its weights may still be on their way.
///
/// # Errors
/// If the file, or something in it, cannot be used.
pub fn load(settings: &Settings) -> Result<Loaded> {
    let chosen = chosen(settings)?;
    // Requests say themselves how tokens are picked: a conversation may change it, and biases would add up.
    let said = LoadOptions { sampling: Default::default(), ..load_options(settings)? };
    let mut options = chosen.options(said);
    let preset = std::mem::take(&mut options.preset);
    let engine = Engine::start(&chosen.source, &options);
    let engine = engine.with_context(|| format!("cannot load {}", model_name(settings)))?;
    Ok(Loaded { engine, preset, installed: chosen.installed })
}

/// What holds: what the user has said, and else what the model says.
pub fn with_preset(settings: &Settings, preset: &Preset) -> Settings {
    let mut settings = settings.clone();
    settings.system = settings.system.or_else(|| preset.system.clone()).filter(|text| !text.is_empty());
    settings.max_tokens = settings.max_tokens.or(preset.max_tokens.and_then(|n| i32::try_from(n).ok()));
    if settings.stop.is_empty() {
        settings.stop.clone_from(&preset.stop);
    }
    settings
}

/// Shows how far the model is on its way into memory, until it is there.
pub fn finish_loading(engine: &Engine, settings: &Settings) -> Result<()> {
    say_notices(engine);
    let name = model_name(settings);
    let progress = LoadProgress::new(&name);
    let loaded = engine.wait_until_loaded(&mut |done, total| progress.report(done, total));
    loaded.with_context(|| format!("cannot load {name}"))
}

pub fn model_name(settings: &Settings) -> String {
    settings.model_file().map_or("the shipped model".into(), |p| p.display().to_string())
}

/// How to load, as the settings say: shared with `serve` and `batch`.
pub fn load_options(s: &Settings) -> Result<LoadOptions> {
    if s.threads.0 == Some(0) {
        bail!("--threads: at least one thread must compute");
    }
    if s.parallel.0 == Some(0) {
        bail!("--parallel: at least one sequence must run");
    }
    if s.batch_tokens == Some(0) {
        bail!("--max-num-batched-tokens: a step must compute at least one token");
    }
    if s.queue_timeout_s == Some(0) {
        bail!("--queue-timeout-s: a request must be given at least a second to begin");
    }
    let n = |x: Option<u32>| x.map(|x| x as usize);
    let (speculation, draft_model) = speculation::from_settings(s)?;
    let seconds = |x: Option<u32>| x.map(|s| Duration::from_secs(s.into()));
    Ok(LoadOptions {
        preset: Preset::default(),
        speculation,
        draft_model,
        n_ctx: n(s.ctx_size.0),
        n_ctx_preferred: None,
        n_threads: n(s.threads.0),
        kv_type: s.kv_type,
        kv_tokens: n(s.kv_tokens),
        max_running_seqs: n(s.parallel.0),
        step_token_budget: n(s.batch_tokens),
        max_waiting_requests: n(s.max_queue),
        max_waiting_tokens: n(s.max_queue_tokens),
        max_waiting_requests_per_tenant: n(s.max_queue_per_key),
        max_waiting_tokens_per_tenant: n(s.max_queue_tokens_per_key),
        step_time_max: s.step_time_ms.map(|ms| Duration::from_millis(ms.into())),
        queue_timeout: seconds(s.queue_timeout_s),
        request_timeout: seconds(s.request_timeout_s).filter(|time| !time.is_zero()),
        is_shared: false,
        no_prefix_cache: s.no_prefix_cache,
        kv_cache_dir: s.kv_cache_dir.clone().filter(|dir| !dir.as_os_str().is_empty()),
        kv_cache_bytes: s.kv_cache_mb.map(megabytes),
        kv_swap_bytes: s.kv_swap_mb.map(megabytes),
        template: s.chat_template.clone().map_or(TemplateChoice::Model, TemplateChoice::NameOrFile),
        pooling: s.pooling,
        sampling: sampling::from_settings(s)?,
        name: s.served_names.first().cloned(),
        adapters: crate::adapters::sources(s)?,
        adapter_dir: s.lora_dir.clone(),
        weight: None,
    })
}

fn megabytes(n: u32) -> u64 {
    u64::from(n) << 20
}

/// Says what the user should know about how a model was loaded.
pub fn say_notices(engine: &Engine) {
    for notice in engine.notices() {
        say!("note: {notice}");
    }
}

/// What a generation takes from the settings.
fn configure(
    engine: &Engine,
    mut generation: Generation,
    settings: &Settings,
    limit: Limit,
) -> Result<Generation> {
    chat::configure(generation.request_mut(), settings)?;
    limit.apply(engine, generation.request_mut());
    Ok(generation)
}

/// A raw prompt: the text goes on where it ends.
fn completion(engine: &Engine, settings: &Settings, limit: Limit, prompt: &str) -> Result<()> {
    let shown = if settings.no_display_prompt { "" } else { prompt };
    let generation = configure(engine, engine.generate(prompt), settings, limit)?;
    answer(engine, generation, settings, shown, false)
}

/// One message behind those that open each conversation, one answer.
fn one_shot(
    engine: &Engine,
    settings: &Settings,
    limit: Limit,
    opening: &[Message],
    prompt: &str,
) -> Result<()> {
    chat::refuse_images(prompt, &engine.info().id)?;
    let look = if settings.json { Look::Raw } else { Look::of_stdout() };
    let system = settings.system.iter().map(|text| Message::text(Role::System, text));
    let messages = system.chain(opening.iter().cloned()).chain([Message::text(Role::User, prompt)]).collect();
    let mut reasoning = chat::reasoning(settings, look);
    if reasoning.enabled == Some(false) && !engine.info().details.has_reasoning {
        reasoning.enabled = None;
    }
    let input = ChatInput { messages, reasoning, ..ChatInput::default() };
    answer(engine, configure(engine, engine.converse(input), settings, limit)?, settings, "", true)
}

/// An answer as the settings want to see it.
fn answer(
    engine: &Engine,
    generation: Generation,
    settings: &Settings,
    before: &str,
    is_prose: bool,
) -> Result<()> {
    if settings.json {
        return report(engine, generation, settings);
    }
    let answered = chat::answer_once(engine, generation, settings, before, is_prose)?;
    if let Some(timings) = chat::timings(&answered, engine).filter(|_| settings.verbose) {
        say!("{timings}");
    }
    Ok(())
}

/// An answer for machines.
fn report(engine: &Engine, generation: Generation, settings: &Settings) -> Result<()> {
    let mut stream = generation.stream()?;
    finish_loading(engine, settings)?;
    let mut text = String::new();
    for piece in &mut stream {
        text.push_str(&piece?);
    }
    let usage = stream.usage().copied();
    let reason = match stream.finish_reason() {
        Some(FinishReason::Length) => "length",
        Some(FinishReason::Stop { .. } | FinishReason::ToolCalls) => "stop",
        Some(FinishReason::Abort) | None => "abort",
    };
    let report = serde_json::json!({
        "text": text,
        "finish_reason": reason,
        "seed": stream.seed(),
        "prompt_tokens": usage.map(|u| u.prompt_tokens),
        "cached_tokens": usage.map(|u| u.cached_tokens),
        "completion_tokens": usage.map(|u| u.completion_tokens),
        "context_shifts": usage.map(|u| u.context_shifts),
        "discarded_tokens": usage.map(|u| u.discarded_tokens),
        "prefill_s": usage.map(|u| u.prefill.as_secs_f64()),
        "decode_s": usage.map(|u| u.decode.as_secs_f64()),
    });
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

/// The vector of a text, as a JSON array.
fn embedding(engine: &Engine, settings: &Settings, text: &str) -> Result<()> {
    let mut embed = engine.embed([text]);
    embed.request_mut().truncate = settings.truncate.unwrap_or(true);
    embed.request_mut().dimensions = settings.dimensions;
    let made = embed.run()?;
    finish_loading(engine, settings)?;
    let item = made.items.first().context("the model gave no vector")?;
    if let Some(n) = item.truncated_from {
        say!("note: only the first {} of {n} tokens went into the vector", item.n_tokens);
    }
    writeln!(std::io::stdout(), "{}", serde_json::json!(item.vector))?;
    if settings.verbose {
        say!(
            "{} tokens, {} numbers, {:.3} s",
            item.n_tokens,
            item.vector.len(),
            made.usage.prefill.as_secs_f64()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_count_more_than_models() {
        let preset = Preset {
            system: Some("Be brief.".into()),
            stop: vec!["END".into()],
            max_tokens: Some(5),
            ..Preset::default()
        };
        let nothing = with_preset(&Settings::default(), &preset);
        assert_eq!((nothing.system.as_deref(), nothing.max_tokens), (Some("Be brief."), Some(5)));
        assert_eq!(nothing.stop, ["END"]);
        let said = Settings {
            system: Some(String::new()),
            stop: vec!["x".into()],
            max_tokens: Some(-1),
            ..Settings::default()
        };
        let all = with_preset(&said, &preset);
        assert_eq!((all.system, all.max_tokens, all.stop), (None, Some(-1), vec!["x".to_owned()]));
    }

    #[test]
    fn escapes() {
        for (text, expected) in
            [("a\\nb", "a\nb"), ("\\\\n", "\\n"), ("\\q\\", "\\q\\"), ("\\\"x\\'", "\"x'"), ("é\\té", "é\té")]
        {
            assert_eq!(unescape(text), expected);
        }
    }
}

//! `ingle run`: one answer, or a conversation in the terminal.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ingle_chat::{ChatInput, FinishReason, Message, ReasoningWish, Role};
use ingle_runtime::{Engine, Generation, Interrupter, LoadOptions, Source, TemplateChoice};

use rustyline::config::Behavior;

use crate::progress::LoadProgress;
use crate::sampling;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
use crate::speculation;

const USAGE: Usage = Usage {
    name: "run",
    about: "Answer a prompt, or converse in the terminal.\n\n\
            With a prompt (as an argument, by --prompt, from --file, or on standard input) the answer goes to\n\
            standard output. Without one, a conversation starts. Without a model, the small one that ships with\n\
            Ingle is used.",
    command: Commands::RUN,
    positional: &[
        ("MODEL", "GGUF file to load; left out where --model names it"),
        ("PROMPT", "Answer this and stop; `-` is standard input"),
    ],
};

/// Longest prompt that is read from a file or a pipe.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

pub fn main(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(USAGE, &[], args, &Facts::default())?;
    let mut settings = parsed.settings;
    let mut positional = parsed.positional.into_iter().peekable();
    // The first is the model, unless that has a flag: the environment and the file yield to the command line.
    if !m.contains_id("model")
        && let Some(model) = positional.next_if(|first| first != "-")
    {
        settings.model = vec![model.into()];
    }
    if let Some(prompt) = positional.next() {
        if m.contains_id("prompt") {
            bail!("there are two prompts: `{prompt}` and the one of --prompt");
        }
        settings.prompt = Some(prompt);
    }
    if let Some(extra) = positional.next() {
        bail!("`{extra}` is one argument too many: with --model, only a prompt follows");
    }
    max_tokens(&settings)?;
    check_model(&settings)?;
    for note in &parsed.notes {
        say!("note: {note}");
    }
    let prompt = prompt(&settings)?.map(|text| if settings.escape { unescape(&text) } else { text });
    let engine = load(&settings)?;
    let as_chat = engine.has_template() && !settings.raw;
    if !as_chat && settings.system.is_some() {
        bail!(
            "--system-prompt needs a chat template: plain text that is continued has no place for instructions"
        );
    }
    match prompt {
        Some(prompt) if as_chat => one_shot(&engine, &settings, &prompt),
        Some(prompt) => completion(&engine, &settings, &prompt),
        None if as_chat => converse(&engine, &settings),
        None => bail!(
            "the model has no chat template, so it can only continue text: give a prompt, or a template with \
             --chat-template"
        ),
    }
}

/// The prompt, if there is one: from the arguments, a file, or a pipe.
fn prompt(settings: &Settings) -> Result<Option<String>> {
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

/// Says what is missing where people expect a model to be found.
pub fn check_model(settings: &Settings) -> Result<()> {
    match settings.model_file() {
        Some(path) if !path.exists() => bail!(
            "there is no file `{}`; a model is a GGUF file on this machine, and without one the small model that \
             ships with Ingle is used",
            path.display()
        ),
        _ => Ok(()),
    }
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

fn load(settings: &Settings) -> Result<Engine> {
    let source = settings.model_file().map_or(Source::Shipped, |path| Source::File(path.into()));
    if source == Source::Shipped {
        say!("note: no model was named; this is the small one that ships with Ingle");
    }
    let options = load_options(settings)?;
    Engine::start(&source, &options).with_context(|| format!("cannot load {}", model_name(settings)))
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
        speculation,
        draft_model,
        n_ctx: n(s.ctx_size.0),
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
fn configure(mut generation: Generation, settings: &Settings) -> Generation {
    let request = generation.request_mut();
    request.max_tokens = max_tokens(settings).expect("it was checked at the start");
    request.stop = settings.stop.clone();
    request.ignore_eos = settings.ignore_eos;
    request.include_special = settings.special;
    generation
}

/// A raw prompt: the text goes on where it ends.
fn completion(engine: &Engine, settings: &Settings, prompt: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let shown = if settings.no_display_prompt || settings.json { "" } else { prompt };
    let generation = configure(engine.generate(prompt), settings);
    answer(engine, generation, settings, &Interrupt::default(), shown, &mut out)?;
    Ok(())
}

/// One message, one answer.
fn one_shot(engine: &Engine, settings: &Settings, prompt: &str) -> Result<()> {
    let generation = configure(engine.converse(conversation(opening(settings, Some(prompt)))), settings);
    answer(engine, generation, settings, &Interrupt::default(), "", &mut std::io::stdout().lock())?;
    Ok(())
}

/// Messages as a conversation whose thoughts are shown as they come, with the model's own marks.
fn conversation(messages: Vec<Message>) -> ChatInput {
    let reasoning = ReasoningWish { in_text: true, ..ReasoningWish::default() };
    ChatInput { messages, reasoning, ..ChatInput::default() }
}

/// The messages that a conversation opens with.
fn opening(settings: &Settings, first: Option<&str>) -> Vec<Message> {
    let system = settings.system.iter().map(|text| Message::text(Role::System, text));
    system.chain(first.map(|text| Message::text(Role::User, text))).collect()
}

/// What Ctrl-C ends: the answer that is being given, if any.
type Interrupt = Arc<Mutex<Option<Interrupter>>>;

/// Streams an answer to `out`, after the text that stands `before` it, and returns it. It can be ended early through `interrupt`.
fn answer(
    engine: &Engine,
    generation: Generation,
    settings: &Settings,
    interrupt: &Interrupt,
    before: &str,
    out: &mut impl Write,
) -> Result<String> {
    let mut stream = generation.stream()?;
    // Its first step has begun already, and no token can come before the last weights are there.
    finish_loading(engine, settings)?;
    *lock(interrupt) = Some(stream.interrupter());
    // Only now is it known that the request is not refused.
    write!(out, "{before}")?;
    out.flush()?;
    let mut text = String::new();
    for piece in &mut stream {
        let piece = piece?;
        text.push_str(&piece);
        if !settings.json {
            write!(out, "{piece}")?;
            out.flush()?;
        }
    }
    *lock(interrupt) = None;
    let usage = stream.usage().copied();
    if settings.json {
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
        writeln!(out, "{report}")?;
    } else if !text.ends_with('\n') {
        writeln!(out)?;
    }
    if let Some(u) = usage.filter(|_| settings.verbose) {
        let computed = u.prompt_tokens - u.cached_tokens;
        say!(
            "prompt: {} tokens, {} of them cached, {:.1} tokens/s; answer: {} tokens, {:.1} tokens/s; seed {}",
            u.prompt_tokens,
            u.cached_tokens,
            computed as f64 / u.prefill.as_secs_f64().max(1e-9),
            u.completion_tokens,
            u.completion_tokens.saturating_sub(1) as f64 / u.decode.as_secs_f64().max(1e-9),
            stream.seed(),
        );
    }
    if let Some(u) = usage.filter(|u| u.context_shifts > 0) {
        say!(
            "note: the context was full; {} tokens made way ({} shifts)",
            u.discarded_tokens,
            u.context_shifts
        );
    }
    Ok(text)
}

fn lock(interrupt: &Interrupt) -> MutexGuard<'_, Option<Interrupter>> {
    interrupt.lock().unwrap_or_else(PoisonError::into_inner)
}

const CHAT_HELP: &str = "\
/clear          start over
/system TEXT    start over with these instructions
/help           this
/bye            leave (so does Ctrl-D)
A line that ends with a backslash goes on in the next. Ctrl-C ends an answer.";

/// A conversation, until the user leaves.
fn converse(engine: &Engine, settings: &Settings) -> Result<()> {
    // Before lines are edited where progress is shown.
    finish_loading(engine, settings)?;
    let mut settings = settings.clone();
    let interrupt = Interrupt::default();
    {
        let interrupt = Arc::clone(&interrupt);
        // While a line is being edited the terminal is raw and Ctrl-C is a key; this is for answers.
        crate::signals::on_interrupt(move || {
            if let Some(answer) = lock(&interrupt).as_ref() {
                answer.interrupt();
            }
        })?;
    }
    // Where the answers go into a file or a pipe, the prompt goes to the terminal itself.
    let behavior = if std::io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
    let config = rustyline::Config::builder().behavior(behavior).build();
    let mut editor =
        rustyline::DefaultEditor::with_config(config).context("this terminal cannot edit lines")?;
    say!("{}: /help lists the commands, /bye leaves", engine.info().id);
    let mut messages = opening(&settings, None);
    while let Some(line) = read_message(&mut editor)? {
        match line.trim() {
            "" => continue,
            "/bye" | "/exit" | "/quit" => break,
            "/help" | "/?" => say!("{CHAT_HELP}"),
            "/clear" => {
                messages = opening(&settings, None);
                say!("(started over)");
            }
            command if command == "/system" || command.starts_with("/system ") => {
                let text = command["/system".len()..].trim();
                settings.system = (!text.is_empty()).then(|| text.to_owned());
                messages = opening(&settings, None);
                say!("(started over)");
            }
            command if command.starts_with('/') => say!("there is no command `{command}`\n{CHAT_HELP}"),
            _ => {
                let _ = editor.add_history_entry(&line);
                messages.push(Message::text(Role::User, line));
                let generation = configure(engine.converse(conversation(messages.clone())), &settings);
                match answer(engine, generation, &settings, &interrupt, "", &mut std::io::stdout().lock()) {
                    Ok(text) => messages.push(Message::text(Role::Assistant, text)),
                    // Nobody reads the answers any more.
                    Err(error) if crate::is_broken_pipe(&error) => return Err(error),
                    Err(error) => {
                        // The conversation goes on without the message that could not be answered.
                        messages.pop();
                        say!("{}", crate::in_words(&error));
                    }
                }
                if settings.single_turn {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Reads lines until one does not end with a backslash; `None` at the end of input.
fn read_message(editor: &mut rustyline::DefaultEditor) -> Result<Option<String>> {
    use rustyline::error::ReadlineError;
    let mut message = String::new();
    loop {
        match editor.readline(if message.is_empty() { ">>> " } else { "... " }) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(start) => {
                    message.push_str(start);
                    message.push('\n');
                }
                None => return Ok(Some(message + &line)),
            },
            Err(ReadlineError::Eof) => return Ok(None),
            Err(ReadlineError::Interrupted) if message.is_empty() => {
                say!("(Ctrl-D or /bye leaves)");
            }
            Err(ReadlineError::Interrupted) => message.clear(),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, expected) in
            [("a\\nb", "a\nb"), ("\\\\n", "\\n"), ("\\q\\", "\\q\\"), ("\\\"x\\'", "\"x'"), ("é\\té", "é\té")]
        {
            assert_eq!(unescape(text), expected);
        }
    }
}

//! `ingle run`: one answer, or a conversation in the terminal.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use ingle_chat::{ChatInput, FinishReason, Message, Role};
use ingle_runtime::{Engine, Generation, LoadOptions, Source, TemplateChoice};

use crate::progress::LoadProgress;
use crate::sampling;
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};

const USAGE: Usage = Usage {
    name: "run",
    about: "Answer a prompt, or converse in the terminal.\n\n\
            With a prompt (as an argument, by --prompt, from --file, or on standard input) the answer goes to\n\
            standard output. Without one, a conversation starts. Without a model, the small one that ships with\n\
            Ingle is used.",
    command: Commands::RUN,
    positional: "MODEL] [PROMPT",
    positional_max: 2,
};

/// Longest prompt that is read from a file or a pipe.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

pub fn main(args: &[OsString]) -> Result<()> {
    let (parsed, _) = parse(USAGE, &[], args, &Facts::default())?;
    let mut settings = parsed.settings;
    let mut positional = parsed.positional.into_iter();
    if settings.model.is_none() {
        settings.model = positional.next().map(PathBuf::from);
    }
    if let Some(prompt) = positional.next() {
        if settings.prompt.is_some() {
            bail!("there are two prompts: `{prompt}` and the one of --prompt");
        }
        settings.prompt = Some(prompt);
    }
    for note in &parsed.notes {
        eprintln!("note: {note}");
    }
    let prompt = prompt(&settings)?.map(|text| if settings.escape { unescape(&text) } else { text });
    let engine = load(&settings)?;
    let as_chat = engine.has_template() && !settings.raw;
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
        None if !std::io::stdin().is_terminal() => stdin().map(|text| (!text.is_empty()).then_some(text)),
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
    let source = settings.model.clone().map_or(Source::Shipped, Source::File);
    if source == Source::Shipped {
        eprintln!("note: no model was named; this is the small one that ships with Ingle");
    }
    let options = load_options(settings)?;
    let name = settings.model.as_deref().map_or("the shipped model".into(), |p| p.display().to_string());
    let progress = LoadProgress::new(&name);
    Engine::load_with(&source, &options, &mut |done, total| progress.report(done, total))
        .with_context(|| format!("cannot load {name}"))
}

/// How to load, as the settings say: shared with `serve`.
pub fn load_options(s: &Settings) -> Result<LoadOptions> {
    if s.threads == Some(0) {
        bail!("--threads: at least one thread must compute");
    }
    if s.parallel == Some(0) {
        bail!("--parallel: at least one sequence must run");
    }
    if s.batch_tokens == Some(0) {
        bail!("--max-num-batched-tokens: a step must compute at least one token");
    }
    let n = |x: Option<u32>| x.map(|x| x as usize);
    Ok(LoadOptions {
        n_ctx: n(s.ctx_size),
        n_threads: n(s.threads),
        kv_type: s.kv_type,
        kv_tokens: n(s.kv_tokens),
        max_running_seqs: n(s.parallel),
        step_token_budget: n(s.batch_tokens),
        max_waiting_requests: n(s.max_queue),
        max_waiting_tokens: n(s.max_queue_tokens),
        no_prefix_cache: s.no_prefix_cache,
        template: s.chat_template.clone().map_or(TemplateChoice::Model, TemplateChoice::NameOrFile),
        sampling: sampling::from_settings(s)?,
        name: s.served_names.first().cloned(),
    })
}

/// What a generation takes from the settings.
fn configure(mut generation: Generation, settings: &Settings) -> Generation {
    let request = generation.request_mut();
    request.max_tokens = settings.max_tokens.and_then(|n| u32::try_from(n).ok());
    request.stop = settings.stop.clone();
    request.ignore_eos = settings.ignore_eos;
    request.include_special = settings.special;
    generation
}

/// A raw prompt: the text goes on where it ends.
fn completion(engine: &Engine, settings: &Settings, prompt: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if !settings.no_display_prompt && !settings.json {
        write!(out, "{prompt}")?;
    }
    answer(configure(engine.generate(prompt), settings), settings, &AtomicBool::new(false), &mut out)?;
    Ok(())
}

/// One message, one answer.
fn one_shot(engine: &Engine, settings: &Settings, prompt: &str) -> Result<()> {
    let input = ChatInput { messages: opening(settings, Some(prompt)), ..ChatInput::default() };
    let generation = configure(engine.converse(input), settings);
    answer(generation, settings, &AtomicBool::new(false), &mut std::io::stdout().lock())?;
    Ok(())
}

/// The messages that a conversation opens with.
fn opening(settings: &Settings, first: Option<&str>) -> Vec<Message> {
    let system = settings.system.iter().map(|text| Message::text(Role::System, text));
    system.chain(first.map(|text| Message::text(Role::User, text))).collect()
}

/// Streams an answer to `out`, and returns its text. Raising `interrupt` ends it early.
fn answer(
    generation: Generation,
    settings: &Settings,
    interrupt: &AtomicBool,
    out: &mut impl Write,
) -> Result<String> {
    let mut stream = generation.stream()?;
    let mut text = String::new();
    for piece in &mut stream {
        let piece = piece?;
        text.push_str(&piece);
        if !settings.json {
            write!(out, "{piece}")?;
            out.flush()?;
        }
        if interrupt.load(Ordering::Relaxed) {
            break;
        }
    }
    let usage = stream.usage().copied();
    if settings.json {
        let reason = match stream.finish_reason() {
            Some(FinishReason::Length) => "length",
            Some(FinishReason::Stop { .. }) => "stop",
            Some(FinishReason::Abort) | None => "abort",
        };
        let report = serde_json::json!({
            "text": text,
            "finish_reason": reason,
            "seed": stream.seed(),
            "prompt_tokens": usage.map(|u| u.prompt_tokens),
            "cached_tokens": usage.map(|u| u.cached_tokens),
            "completion_tokens": usage.map(|u| u.completion_tokens),
            "prefill_s": usage.map(|u| u.prefill.as_secs_f64()),
            "decode_s": usage.map(|u| u.decode.as_secs_f64()),
        });
        writeln!(out, "{report}")?;
    } else if !text.ends_with('\n') {
        writeln!(out)?;
    }
    if let Some(u) = usage.filter(|_| settings.verbose) {
        let computed = u.prompt_tokens - u.cached_tokens;
        eprintln!(
            "prompt: {} tokens, {} of them cached, {:.1} tokens/s; answer: {} tokens, {:.1} tokens/s; seed {}",
            u.prompt_tokens,
            u.cached_tokens,
            computed as f64 / u.prefill.as_secs_f64().max(1e-9),
            u.completion_tokens,
            u.completion_tokens.saturating_sub(1) as f64 / u.decode.as_secs_f64().max(1e-9),
            stream.seed(),
        );
    }
    Ok(text)
}

const CHAT_HELP: &str = "\
/clear          start over
/system TEXT    start over with these instructions
/help           this
/bye            leave (so does Ctrl-D)
A line that ends with a backslash goes on in the next. Ctrl-C ends an answer.";

/// A conversation, until the user leaves.
fn converse(engine: &Engine, settings: &Settings) -> Result<()> {
    let mut settings = settings.clone();
    let interrupt = Arc::new(AtomicBool::new(false));
    {
        let interrupt = Arc::clone(&interrupt);
        // While a line is being edited the terminal is raw and Ctrl-C is a key; this is for answers.
        crate::signals::on_interrupt(move || interrupt.store(true, Ordering::Relaxed))?;
    }
    let mut editor = rustyline::DefaultEditor::new().context("this terminal cannot edit lines")?;
    eprintln!("{}: /help lists the commands, /bye leaves", engine.info().id);
    let mut messages = opening(&settings, None);
    while let Some(line) = read_message(&mut editor)? {
        match line.trim() {
            "" => continue,
            "/bye" | "/exit" | "/quit" => break,
            "/help" | "/?" => eprintln!("{CHAT_HELP}"),
            "/clear" => {
                messages = opening(&settings, None);
                eprintln!("(started over)");
            }
            command if command.starts_with("/system") => {
                let text = command["/system".len()..].trim();
                settings.system = (!text.is_empty()).then(|| text.to_owned());
                messages = opening(&settings, None);
                eprintln!("(started over)");
            }
            command if command.starts_with('/') => eprintln!("there is no command `{command}`\n{CHAT_HELP}"),
            _ => {
                let _ = editor.add_history_entry(&line);
                messages.push(Message::text(Role::User, line));
                let input = ChatInput { messages: messages.clone(), ..ChatInput::default() };
                interrupt.store(false, Ordering::Relaxed);
                let generation = configure(engine.converse(input), &settings);
                match answer(generation, &settings, &interrupt, &mut std::io::stdout().lock()) {
                    Ok(text) => messages.push(Message::text(Role::Assistant, text)),
                    Err(error) => {
                        // The conversation goes on without the message that could not be answered.
                        messages.pop();
                        eprintln!("{error:#}");
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
                eprintln!("(Ctrl-D or /bye leaves)");
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

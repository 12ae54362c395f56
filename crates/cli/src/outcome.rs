//! How a command ends: its exit status, and what whoever reads standard output as JSON finds there of an error.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde_json::json;

use crate::signals::{STOPPED, Stopped};

/// What is said where only the report is missing.
const DONE: &str = "what was asked for is done, but cannot be told";

/// The status of a command line that is wrong, as clap has it.
const MISUSED: u8 = 2;

/// Whether settings ask for JSON: a flag, the environment or the configuration file.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Says that this command's report is JSON, and so what is told of its errors.
pub fn report_as_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

/// Whether JSON is asked for: by settings, or by a command line, as far as that can be seen before it is understood.
fn asks_for_json(args: &[OsString]) -> bool {
    let of_line = || args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    IS_JSON.load(Ordering::Relaxed) || of_line()
}

fn print_as_json(words: &str) {
    let _ = writeln!(std::io::stdout(), "{}", json!({ "error": words }));
}

/// A command line whose words are wrong, where that shows only after clap has taken it in.
#[derive(Debug)]
pub struct Misused(pub String);

impl std::fmt::Display for Misused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misused {}

/// The same of an error that only the words of a command line can have caused.
pub fn misused(error: anyhow::Error) -> anyhow::Error {
    Misused(in_words(&error)).into()
}

/// An error that the report on standard output has told already.
#[derive(Debug)]
pub struct Reported(pub String);

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reported {}

/// What a command writes when it has done something: that nobody reads it any more changes nothing of what was done, nor
/// of how it ends.
///
/// # Errors
/// Those of writing, but for a reader that is gone. They say that it is standard output: `No space left on device` alone
/// reads as if it were the disk of the store.
pub fn unless_unread(written: Result<()>) -> Result<()> {
    match written {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}

/// The last that a command writes which has changed something: whoever reads that it failed must not do it again.
///
/// # Errors
/// Those of [`unless_unread`] or [`tell`], whose result it is given.
pub fn when_done(written: Result<()>) -> Result<()> {
    written.context(DONE)
}

/// Writes a line to standard output, as [`unless_unread`] has it.
///
/// # Errors
/// As there.
pub fn tell(line: impl std::fmt::Display) -> Result<()> {
    unless_unread(writeln!(std::io::stdout(), "{line}").map_err(Into::into))
}

/// Tells the error of a command, if there is one, and gives its exit status; `success` is that without.
pub fn end(command: &OsString, args: &[OsString], result: Result<()>, success: ExitCode) -> ExitCode {
    // What is still in the buffer counts too: a full disk is an error, not a short file.
    let result = result.and_then(|()| unless_unread(std::io::stdout().flush().map_err(Into::into)));
    let Err(error) = result else { return success };
    // Who only prints, and whose reader closed the pipe, has printed what was wanted. Others go on without a reader, and
    // those who get here wrote what they were asked for to standard output, and not all of it.
    if is_broken_pipe(&error) && command != "export" {
        return ExitCode::SUCCESS;
    }
    let (words, code) = match error.downcast_ref::<Stopped>() {
        Some(stopped) => (stopped.to_string(), ExitCode::from(STOPPED)),
        None if error.is::<Misused>() => (in_words(&error), ExitCode::from(MISUSED)),
        None => (in_words(&error), ExitCode::FAILURE),
    };
    match error.is::<Stopped>() {
        true => say!("{words}"),
        false => say!("ingle {}: {words}", command.display()),
    }
    if asks_for_json(args) && !error.is::<Reported>() {
        print_as_json(&words);
    }
    code
}

/// Refuses what is no command, or an environment in which none can run.
pub fn refuse(words: &str, args: &[OsString]) -> ExitCode {
    say!("ingle: {words}");
    if asks_for_json(args) {
        print_as_json(words);
    }
    ExitCode::from(MISUSED)
}

/// Ends the process where clap has something to say: help, or what is wrong with a command line.
pub fn leave(error: &clap::Error, args: &[OsString]) -> ! {
    if error.use_stderr() {
        if asks_for_json(args) {
            let text = error.render().to_string();
            let words = text.lines().next().unwrap_or_default();
            print_as_json(words.strip_prefix("error: ").unwrap_or(words));
        }
        error.exit()
    }
    // Help is what was asked for: whoever does not get it is told.
    let printed = error.print().and_then(|()| std::io::stdout().flush());
    let status = match unless_unread(printed.map_err(Into::into)) {
        Ok(()) => 0,
        Err(error) => {
            say!("ingle: {}", in_words(&error));
            1
        }
    };
    std::process::exit(status)
}

/// An error and its causes, without those that the one before has told already.
pub fn in_words(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether the reader of the output is gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

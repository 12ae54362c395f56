//! How a command ends: its exit status, and what whoever reads standard output as JSON finds there of an error.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde_json::json;

use crate::signals::{STOPPED, Stopped};

/// Whether settings ask for JSON: a flag, the environment or the configuration file.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Says that this command's report is JSON, and so what is told of its errors.
pub fn report_as_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

/// Whether a command line asks for JSON, as far as that can be seen before it is understood.
fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
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
/// Those of writing, but for a reader that is gone.
pub fn unless_unread(written: Result<()>) -> Result<()> {
    match written {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        written => written,
    }
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
        None => (in_words(&error), ExitCode::FAILURE),
    };
    match error.is::<Stopped>() {
        true => say!("{words}"),
        false => say!("ingle {}: {words}", command.display()),
    }
    if (asks_for_json(args) || IS_JSON.load(Ordering::Relaxed)) && !error.is::<Reported>() {
        let _ = writeln!(std::io::stdout(), "{}", json!({ "error": words }));
    }
    code
}

/// Ends the process where clap has something to say: help, or what is wrong with a command line.
pub fn leave(error: &clap::Error, args: &[OsString]) -> ! {
    if error.use_stderr() && asks_for_json(args) {
        let text = error.render().to_string();
        let words = text.lines().next().unwrap_or_default();
        let words = words.strip_prefix("error: ").unwrap_or(words);
        let _ = writeln!(std::io::stdout(), "{}", json!({ "error": words }));
    }
    error.exit()
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

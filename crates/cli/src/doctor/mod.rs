//! `ingle doctor`: looks over this machine and what Ingle is set to, and says of each what to do.
//!
//! [`machine`] has what computes: instruction sets, cores, memory, graphics cards, the clock. [`site`] has what is around:
//! settings, ports, limits, disks, the store of models, the way out. Each check reads what the system says of itself; none
//! connects to anything. docs/sizing.md says what each can find.

mod machine;
mod site;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Arg, value_parser};
use serde_json::json;

use crate::outcome::{Misused, unless_unread};
use crate::settings::compat::Facts;
use crate::settings::{Commands, Usage, matches, parse, wants_json};

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warn,
    /// Something will not work.
    Fail,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    pub status: Status,
    /// How it is.
    pub what: String,
    /// What to do about it, where something is to be done.
    pub advice: Option<String>,
}

impl Finding {
    pub fn ok(subject: &'static str, what: impl Into<String>) -> Self {
        Self { subject, status: Status::Ok, what: what.into(), advice: None }
    }

    pub fn warn(subject: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { subject, status: Status::Warn, what: what.into(), advice: Some(advice.into()) }
    }

    pub fn fail(subject: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { subject, status: Status::Fail, what: what.into(), advice: Some(advice.into()) }
    }
}

pub const USAGE: Usage = Usage {
    name: "doctor",
    about: "Look over this machine and its settings, and say what to do. The exit status is 1 if something fails.",
    command: Commands::PULL,
    positional: &[],
};

/// What `ingle doctor` has besides its settings.
pub fn options() -> [Arg; 1] {
    [Arg::new("port")
        .long("port")
        .value_name("PORT")
        .value_parser(value_parser!(u16).range(1..))
        .default_value("11434")
        .help("Port that a server would listen on")]
}

/// `ingle doctor`
pub fn main(args: &[OsString]) -> Result<ExitCode> {
    // A command line that is wrong is refused; a configuration file that is, is a finding.
    let (_, m) = matches(USAGE, &options(), args);
    let port = *m.get_one::<u16>("port").expect("it has a default");
    let as_json = wants_json(&m);
    let settings = match parse(USAGE, &options(), args, &Facts::default()) {
        Err(error) if error.is::<Misused>() => return Err(error),
        parsed => parsed.map(|(parsed, _)| parsed.settings),
    };
    let mut findings = machine::findings();
    findings.extend(site::findings(port, &settings));
    let worst = worst(&findings);
    unless_unread(print(&findings, worst, as_json))?;
    Ok(if worst == Status::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(findings: &[Finding], worst: Status, as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let list: Vec<_> = findings
            .iter()
            .map(|f| json!({ "check": f.subject, "status": f.status.name(), "found": f.what, "advice": f.advice }))
            .collect();
        let report = json!({ "status": worst.name(), "checks": list });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        for f in findings {
            writeln!(out, "{:4}  {:15} {}", f.status.name(), f.subject, f.what)?;
            if let Some(advice) = &f.advice {
                writeln!(out, "      {:15} → {advice}", "")?;
            }
        }
    }
    Ok(())
}

fn worst(findings: &[Finding]) -> Status {
    let has = |status| findings.iter().any(|f| f.status == status);
    match (has(Status::Fail), has(Status::Warn)) {
        (true, _) => Status::Fail,
        (_, true) => Status::Warn,
        _ => Status::Ok,
    }
}

/// Bytes in GiB, for people.
pub(super) fn gib(n: u64) -> String {
    format!("{:.1} GiB", n as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_counts() {
        let ok = || Finding::ok("a", "fine");
        let warn = || Finding::warn("b", "slow", "do");
        let fail = || Finding::fail("c", "broken", "do");
        assert_eq!(worst(&[ok()]), Status::Ok);
        assert_eq!(worst(&[ok(), warn()]), Status::Warn);
        assert_eq!(worst(&[fail(), warn(), ok()]), Status::Fail);
    }
}

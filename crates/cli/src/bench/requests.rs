//! `ingle bench --stdin`: one process that keeps its model and measures what it is asked for, so that a program can
//! let it alternate with others.
//!
//! Requests and answers are JSON objects, one per line. The first line of the output describes what was loaded.
//!
//! ```text
//! {"measure": "prefill", "n_tokens": 512}
//!     {"n_tokens": 512, "seconds": 0.84, "tokens_per_s": 610.2, "linear_gops": 1187.0}
//! {"measure": "decode", "n_tokens": 128, "n_seqs": 1, "depth": 0, "max_seconds": 20}
//!     {"n_tokens": 128, "seconds": 2.5, "tokens_per_s": 51.2, "file_gb_per_s": 40.9}
//! {"measure": "limits"}
//!     {"int8_gops": 1800.0, "bf16_gops": 920.0, "f32_gops": 460.0, "read_gb_per_s": 50.1}
//! ```
//!
//! A request that cannot be measured is answered by `{"error": "..."}`; the next one is read. Nothing is repeated and
//! nothing warmed up: who asks decides.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use ingle_kernels::limits;
use serde_json::{Value, json};

use super::session::{Session, compute_limits};

/// Answers requests until the input ends.
pub(super) fn answer(session: &mut Session, input: impl BufRead, mut output: impl Write) -> Result<()> {
    writeln!(output, "{}", Value::Object(session.description()))?;
    output.flush()?;
    for line in input.lines() {
        let answer =
            measure(session, &line?).unwrap_or_else(|why| json!({ "error": crate::outcome::in_words(&why) }));
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn measure(session: &mut Session, line: &str) -> Result<Value> {
    let Value::Object(request) = serde_json::from_str(line)? else { bail!("a request is a JSON object") };
    let known: &[&str] = match request.get("measure").and_then(Value::as_str) {
        Some("prefill") => &["n_tokens"],
        Some("decode") => &["n_tokens", "n_seqs", "depth", "max_seconds"],
        Some("limits") => &[],
        _ => bail!("`measure` must be \"prefill\", \"decode\" or \"limits\""),
    };
    if let Some(key) = request.keys().find(|key| *key != "measure" && !known.contains(&&***key)) {
        bail!("`{key}` has no effect here");
    }
    let number = |key: &str, default: Option<u32>, least: u32| match request.get(key) {
        None if default.is_some() => Ok(default.unwrap_or_default() as usize),
        value => match value.and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()) {
            Some(n) if n >= least => Ok(n as usize),
            _ => bail!("`{key}` must be a whole number of at least {least}"),
        },
    };
    let pool = session.pool();
    let (run, rate, per_s) = match request["measure"].as_str() {
        Some("limits") => {
            let mut found = compute_limits(pool);
            found.insert("read_gb_per_s".into(), json!(limits::read_gbs(pool)));
            return Ok(found.into());
        }
        Some("prefill") => {
            let run = session.prefill(number("n_tokens", None, 1)?)?;
            (run, "linear_gops", session.weights().ops_per_prompt_token)
        }
        _ => {
            let (n_seqs, depth) = (number("n_seqs", Some(1), 1)?, number("depth", Some(0), 0)?);
            let time = match request.get("max_seconds").map(|s| s.as_f64().map(Duration::try_from_secs_f64)) {
                None => None,
                Some(Some(Ok(time))) => Some(time),
                Some(_) => bail!("`max_seconds` must be a number of at least 0"),
            };
            let run = session.decode(n_seqs, depth, number("n_tokens", None, 1)?, time)?;
            (run, "file_gb_per_s", session.weights().bytes_per_token as f64 / n_seqs as f64)
        }
    };
    let mut answer = json!({
        "n_tokens": run.n_tokens, "seconds": run.seconds, "tokens_per_s": run.tokens_per_s(),
    });
    answer[rate] = json!(run.tokens_per_s() * per_s / 1e9);
    Ok(answer)
}

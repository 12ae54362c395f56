//! What was measured, as JSON and as a table.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::measured::{Measured, Record};
use super::plan::{Extent, Pace};
use super::prepare::{Counting, Prepared};
use super::slo::Slo;
use super::stats::Summary;

/// A latency by name.
type Latency = (&'static str, &'static str, fn(&Record) -> Option<f64>);

/// Latencies of requests: name in reports, name in tables, what it is in seconds.
const LATENCIES: [Latency; 4] = [
    ("ttft_ms", "TTFT", |r| Some((r.first?.saturating_sub(r.sent)).as_secs_f64())),
    ("tpot_ms", "time per token", |r| Some(r.tpot()?.as_secs_f64())),
    ("e2e_ms", "end to end", |r| Some(r.end.saturating_sub(r.sent).as_secs_f64())),
    ("lag_ms", "late start", |r| Some(r.sent.saturating_sub(r.scheduled).as_secs_f64())),
];
/// The same from the intended start, in the open loop.
const CORRECTED: [Latency; 2] = [
    ("ttft_corrected_ms", "TTFT, corrected", |r| Some(r.first?.saturating_sub(r.scheduled).as_secs_f64())),
    ("e2e_corrected_ms", "end to end, corrected", |r| Some(r.end.saturating_sub(r.scheduled).as_secs_f64())),
];

/// Seconds to the first output from the sending.
pub fn ttft(record: &Record) -> Option<f64> {
    LATENCIES[0].2(record)
}

/// Seconds to the end from the sending.
pub fn e2e(record: &Record) -> Option<f64> {
    LATENCIES[2].2(record)
}

/// How prompts were counted, as JSON.
pub fn counting(prepared: &Prepared) -> Value {
    let (by, tokens_per_word) = match prepared.counting {
        Counting::Tokenize => ("tokenize", None),
        Counting::Usage(average) => ("usage", Some(average)),
        Counting::Guess(average) => ("guess", Some(average)),
        Counting::Given => ("given", None),
    };
    json!({ "by": by, "tokens_per_word": tokens_per_word, "overhead_tokens": prepared.texts.overhead })
}

/// A run as JSON.
pub fn json(measured: &Measured, slo: &Slo) -> Value {
    let mut report = Map::new();
    let mut put = |key: &str, value: Value| {
        report.insert(key.into(), value);
    };
    put("load", load(measured.pace));
    put("duration_s", measured.duration.as_secs_f64().into());
    let n_answered = measured.answered().count() as u64;
    put(
        "requests",
        json!({
            "sent": measured.records.len() as u64 + measured.cut_off, "answered": n_answered,
            "failed": measured.records.len() as u64 - n_answered, "cut_off": measured.cut_off,
            "turns_skipped": measured.skipped,
        }),
    );
    let errors = measured
        .failures()
        .into_iter()
        .map(|(kind, (n, message))| json!({ "kind": kind.to_string(), "count": n, "first": message }));
    put("errors", errors.collect());
    put("throughput", throughput(measured));
    put("tokens", tokens(measured));
    put("itl_ms", milliseconds(measured.gaps.summary()));
    for (key, _, value) in latencies(measured) {
        put(key, milliseconds(measured.summary(value)));
    }
    if !slo.0.is_empty() {
        put("goodput", goodput(measured, slo));
    }
    let answers = measured.answers();
    put(
        "answers",
        json!({
            "distinct_prompts": answers.prompts, "distinct_answers": answers.answers,
            "prompts_with_several_answers": answers.unsteady, "digest": answers.digest,
        }),
    );
    put("partial", measured.is_partial.into());
    report.into()
}

fn latencies(measured: &Measured) -> impl Iterator<Item = Latency> {
    let is_open = matches!(measured.pace, Pace::Open { .. });
    LATENCIES.into_iter().chain(CORRECTED.into_iter().filter(move |_| is_open))
}

fn load(pace: Pace) -> Value {
    match pace {
        Pace::Closed { concurrency } => json!({ "loop": "closed", "concurrency": concurrency }),
        Pace::Open { arrivals, in_flight } => json!({
            "loop": "open", "rate": arrivals.map(|(rate, _)| rate),
            "arrivals": arrivals.map_or_else(|| "trace".into(), |(_, pattern)| pattern.to_string()),
            "max_in_flight": in_flight,
        }),
    }
}

fn prompt_tokens(record: &Record) -> u64 {
    record.prompt_tokens.unwrap_or(0)
}

fn throughput(measured: &Measured) -> Value {
    let (prompt, output) = (measured.total(prompt_tokens), measured.total(Record::output_tokens));
    json!({
        "requests_per_s": measured.per_second(measured.answered().count() as u64),
        "output_tokens_per_s": measured.per_second(output),
        "prompt_tokens_per_s": measured.per_second(prompt),
        "total_tokens_per_s": measured.per_second(prompt + output),
    })
}

/// Counts, as the server says them.
fn tokens(measured: &Measured) -> Value {
    let tells = measured.answered().all(|record| record.completion_tokens.is_some());
    let cached = measured.answered().any(|record| record.cached_tokens.is_some());
    let other = |r: &&Record| r.output_tokens() != u64::from(r.asked_tokens);
    json!({
        "prompt": summary(measured.summary(|r| r.prompt_tokens.map(|n| n as f64)), 1.0),
        "prompt_total": measured.total(prompt_tokens),
        "cached_total": cached.then(|| measured.total(|r| r.cached_tokens.unwrap_or(0))),
        "output": summary(measured.summary(|r| Some(r.output_tokens() as f64)), 1.0),
        "output_total": measured.total(Record::output_tokens),
        "output_counted_by": if tells { "usage" } else { "events" },
        "other_length_than_asked": measured.answered().filter(other).count(),
    })
}

/// Requests that keep all bounds: of all that ended, and per second.
fn goodput(measured: &Measured, slo: &Slo) -> Value {
    let (n_kept, each) = kept(measured, slo);
    let bounds = slo.0.iter().zip(each).map(|((objective, bound), n)| {
        let bound = json!({ "bound_ms": bound.as_secs_f64() * 1e3, "kept": n });
        (objective.name().to_owned(), bound)
    });
    json!({
        "requests_per_s": measured.per_second(n_kept), "kept": n_kept,
        "share": share(n_kept, measured.records.len() as u64),
        "objectives": bounds.collect::<Map<_, _>>(),
    })
}

/// How many requests keep all bounds, and how many each of them.
fn kept(measured: &Measured, slo: &Slo) -> (u64, Vec<u64>) {
    let (mut all, mut each) = (0, vec![0; slo.0.len()]);
    for record in &measured.records {
        let kept: Vec<bool> = slo.kept(record).collect();
        all += u64::from(kept.iter().all(|kept| *kept));
        each.iter_mut().zip(kept).for_each(|(n, kept)| *n += u64::from(kept));
    }
    (all, each)
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn milliseconds(seconds: Summary) -> Value {
    summary(seconds, 1e3)
}

fn summary(s: Summary, scale: f64) -> Value {
    let value = |v: f64| v * scale;
    json!({
        "n": s.n, "mean": value(s.mean), "min": value(s.min), "p50": value(s.p50), "p90": value(s.p90),
        "p95": value(s.p95), "p99": value(s.p99), "max": value(s.max),
    })
}

/// A request as a line of a file of records.
pub fn record(record: &Record, run: usize) -> Value {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let hex = |hash: &[u8; 16]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "run": run, "session": record.session, "turn": record.turn, "target": record.target,
        "scheduled_ms": ms(record.scheduled), "sent_ms": ms(record.sent), "first_ms": record.first.map(ms),
        "last_ms": record.last.map(ms), "end_ms": ms(record.end),
        "itl_ms": record.gaps.iter().copied().map(ms).collect::<Vec<_>>(),
        "prompt_tokens": record.prompt_tokens, "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens(), "asked_tokens": record.asked_tokens,
        "finish_reason": record.finish_reason, "prompt": hex(&record.prompt_hash), "answer": hex(&record.answer_hash),
        "error": record.outcome.as_ref().err().map(ToString::to_string),
    })
}

/// A run in a line.
pub fn headline(measured: &Measured) -> String {
    let load = match measured.pace {
        Pace::Closed { concurrency } => {
            format!("{concurrency} client{}, closed loop", if concurrency == 1 { "" } else { "s" })
        }
        Pace::Open { arrivals: Some((rate, pattern)), .. } => {
            format!("{rate} sessions/s ({pattern}), open loop")
        }
        Pace::Open { arrivals: None, .. } => "times of the trace, open loop".to_owned(),
    };
    let extent = match measured.extent {
        Extent::Requests(_) => String::new(),
        Extent::Time(time) => format!(", begun within {:.0} s", time.as_secs_f64()),
    };
    let partial = if measured.is_partial { "; stopped before its end" } else { "" };
    format!(
        "{load}: {} requests{extent}, done in {:.2} s{partial}",
        measured.records.len(),
        measured.duration.as_secs_f64()
    )
}

/// A run as a table.
pub fn table(measured: &Measured, slo: &Slo) -> String {
    let mut out = headline(measured);
    out.push('\n');
    for (kind, (n, message)) in measured.failures() {
        let _ = writeln!(out, "  {n} failed ({kind}): {message}");
    }
    for (n, what) in [
        (measured.cut_off, "cut off when it was stopped"),
        (measured.skipped, "turns not sent, as the one before has no answer"),
    ] {
        if n > 0 {
            let _ = writeln!(out, "  {n} {what}");
        }
    }
    if measured.answered().next().is_none() {
        return out;
    }
    totals(measured, &mut out);
    let _ = writeln!(
        out,
        "  {:24}{:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "ms", "mean", "P50", "P90", "P95", "P99", "max"
    );
    let mut line = |name: &str, s: Summary| {
        if s.n > 0 {
            let values =
                [s.mean, s.p50, s.p90, s.p95, s.p99, s.max].map(|v| format!("{:>9}", number(v * 1e3)));
            let _ = writeln!(out, "  {name:24}{}", values.join(" "));
        }
    };
    for (at, (_, name, value)) in latencies(measured).enumerate() {
        line(name, measured.summary(value));
        if at == 0 {
            line("between events (ITL)", measured.gaps.summary());
        }
    }
    if !slo.0.is_empty() {
        let (n, each) = kept(measured, slo);
        let parts = slo.0.iter().zip(each).map(|((objective, bound), n)| {
            format!("{} within {} ms: {n}", objective.name(), number(bound.as_secs_f64() * 1e3))
        });
        let _ = writeln!(
            out,
            "  goodput {} requests/s: {n} of {} keep all ({})",
            number(measured.per_second(n)),
            measured.records.len(),
            parts.collect::<Vec<_>>().join(", ")
        );
    }
    let answers = measured.answers();
    let _ = writeln!(
        out,
        "  {} prompts, {} answers, {} prompts with several; digest {}",
        answers.prompts, answers.answers, answers.unsteady, answers.digest
    );
    out
}

fn totals(measured: &Measured, out: &mut String) {
    let output = measured.total(Record::output_tokens);
    let prompt = measured.total(prompt_tokens);
    let n_answered = measured.answered().count() as u64;
    let _ = writeln!(
        out,
        "  {} output tokens/s, {} prompt tokens/s, {} requests/s",
        number(measured.per_second(output)),
        number(measured.per_second(prompt)),
        number(measured.per_second(n_answered))
    );
    let prompts = measured.summary(|r| r.prompt_tokens.map(|n| n as f64));
    let outputs = measured.summary(|r| Some(r.output_tokens() as f64));
    let range = |s: Summary| {
        if s.min == s.max { format!("{}", s.min) } else { format!("{:.0} ({} to {})", s.mean, s.min, s.max) }
    };
    let cached = measured.total(|r| r.cached_tokens.unwrap_or(0));
    let cached = if cached > 0 {
        format!(", {:.0} % of them cached", 100.0 * share(cached, prompt))
    } else {
        String::new()
    };
    let prompts = if prompts.n > 0 { range(prompts) } else { "an untold number of".into() };
    let _ = writeln!(out, "  {prompts} prompt tokens{cached}, {} output tokens each", range(outputs));
}

/// As many digits as a figure can bear.
pub fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

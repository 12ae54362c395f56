//! What speculation makes of decoding: answers that are known, in the real scheduler with the real controller, on steps
//! whose cost was measured here.
//!
//! A large model need not say anything for that, which random weights could not. Its steps are measured by their rows;
//! which guesses come true is a matter of texts alone. These are of three kinds: **quotes**, scripted answers that copy
//! from their prompts, edit them or take fields out of them; **copies** of the shipped model, greedily, where a text has
//! begun to repeat; and **free** text of the shipped model, sampled. Guesses are looked up in the text so far. In a batch
//! the traces of a kind run side by side, and what counts is tokens per second while all of them do.

use std::io::Write;

use anyhow::{Context, Result};
use ingle_engine::speculation::replay::{Trace, replay, replay_plain};
use ingle_engine::speculation::{SpeculationConfig, Speculator};
use ingle_runtime::{Engine, Generation};
use serde_json::{Map, Value, json};

use super::session::Session;
use super::{Plan, median, texts};

/// Rows of a step that are measured; between them lies a line.
const ROWS: [usize; 24] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 24, 32, 40, 48, 64, 80];
/// The most rows of a step.
pub(super) const ROWS_MAX: usize = ROWS[ROWS.len() - 1];
/// Sequences that decode together.
const BATCHES: [usize; 3] = [1, 4, 16];
/// Tokens of an answer of the shipped model.
const ANSWER_TOKENS: u32 = 200;

/// Seconds of steps by their rows, by the place in [`ROWS`].
struct StepCosts([f64; ROWS.len()]);

impl StepCosts {
    /// Takes turns over all numbers of rows, so that all meet the same minutes of a shared machine.
    fn measure(session: &mut Session, plan: &Plan) -> Result<Self> {
        let mut runs = ROWS.map(|_| Vec::new());
        session.verify(plan.depth, ROWS_MAX)?;
        for _ in 0..plan.repetitions {
            for (runs, &n) in runs.iter_mut().zip(&ROWS) {
                runs.push(session.verify(plan.depth, n)?.seconds);
            }
        }
        Ok(Self(runs.map(|mut runs| median(&mut runs))))
    }

    /// What a step of so many rows takes.
    fn of(&self, n_rows: usize) -> f64 {
        let above = ROWS.partition_point(|&n| n < n_rows).clamp(1, ROWS.len() - 1);
        let below = above - 1;
        let share = (n_rows as f64 - ROWS[below] as f64) / (ROWS[above] - ROWS[below]) as f64;
        self.0[below] + share * (self.0[above] - self.0[below])
    }

    fn report(&self) -> Vec<Value> {
        let rows = ROWS.iter().zip(&self.0);
        rows.map(|(n, seconds)| json!({ "rows": n, "ms": seconds * 1e3, "times_one": seconds / self.0[0] }))
            .collect()
    }
}

/// Traces by name, of each kind.
type Kinds = [(&'static str, Vec<(String, Trace)>); 3];

/// Measures steps and replays traces of all kinds.
pub(super) fn measure(session: &mut Session, plan: &Plan) -> Result<Map<String, Value>> {
    let kinds = kinds()?;
    let costs = StepCosts::measure(session, plan)?;
    let mut report = replay_all(&kinds, &mut |n| costs.of(n));
    report.insert("depth".into(), json!(plan.depth));
    report.insert("steps".into(), costs.report().into());
    Ok(report)
}

fn kinds() -> Result<Kinds> {
    Ok([("quotes", quotes()?), ("copies", copies()?), ("free", free()?)])
}

/// Replays all traces, kind after kind in turns, in one process that at first knows nothing: what it learned of quotes
/// meets free text, and the other way round.
fn replay_all(kinds: &Kinds, cost: &mut dyn FnMut(usize) -> f64) -> Map<String, Value> {
    let (mut rows, mut summary) = (Vec::new(), Map::new());
    let n_turns = kinds.iter().map(|(_, traces)| traces.len()).max().unwrap_or(0);
    for n_seqs in BATCHES {
        let mut speculator = Speculator::new(SpeculationConfig::default(), None, usize::MAX);
        let mut factors = [(); 3].map(|()| Vec::new());
        for turn in 0..n_turns {
            for ((kind, traces), factors) in kinds.iter().zip(&mut factors) {
                let Some((name, _)) = traces.get(turn) else { continue };
                let wave: Vec<Trace> =
                    (0..n_seqs).map(|i| traces[(turn + i) % traces.len()].1.clone()).collect();
                let fast = replay(&mut speculator, &wave, cost);
                let factor = fast.rate() / replay_plain(&wave, cost).rate();
                factors.push(factor);
                rows.push(json!({
                    "kind": kind, "trace": name, "n_seqs": n_seqs, "tokens": fast.tokens, "steps": fast.steps,
                    "drafted": fast.drafted, "accepted": fast.accepted, "times_plain": factor,
                }));
            }
        }
        for ((kind, _), factors) in kinds.iter().zip(factors) {
            let worst = factors.iter().copied().fold(f64::INFINITY, f64::min);
            let mean = factors.iter().sum::<f64>() / factors.len() as f64;
            summary.insert(format!("{kind} x{n_seqs}"), json!({ "worst": worst, "mean": mean }));
        }
    }
    let mut report = Map::new();
    report.insert("traces".into(), rows.into());
    report.insert("summary".into(), summary.into());
    report
}

/// Prints what [`measure`] found.
pub(super) fn print(report: &Value, out: &mut impl Write) -> Result<()> {
    let f = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    writeln!(out, "steps after {} tokens, by rows:", report["depth"])?;
    for step in list("steps") {
        writeln!(
            out,
            "  {:3} rows {:9.3} ms  {:6.2} x one",
            step["rows"],
            f(&step["ms"]),
            f(&step["times_one"])
        )?;
    }
    for trace in list("traces") {
        writeln!(
            out,
            "{:7} {:22} x{:<3} {:5} tokens in {:4} steps, {:4} of {:4} guesses accepted  {:6.3} x plain",
            trace["kind"].as_str().unwrap_or_default(),
            trace["trace"].as_str().unwrap_or_default(),
            trace["n_seqs"],
            trace["tokens"],
            trace["steps"],
            trace["accepted"],
            trace["drafted"],
            f(&trace["times_plain"]),
        )?;
    }
    for (what, found) in report["summary"].as_object().into_iter().flatten() {
        writeln!(out, "{what:12} worst {:6.3} x plain, mean {:6.3}", f(&found["worst"]), f(&found["mean"]))?;
    }
    Ok(())
}

/// Scripted answers that repeat their prompts in part.
fn quotes() -> Result<Vec<(String, Trace)>> {
    let engine = Engine::shipped()?;
    let provider = engine.provider();
    let tokens = |text: &str| provider.tokenize(None, text, false, false).context("a text that comes along");
    let trace = |(name, prompt, answer): (&str, String, String)| {
        Ok((
            name.to_owned(),
            Trace { prompt: tokens(&prompt)?, answer: tokens(&answer)?, prediction: Vec::new() },
        ))
    };
    texts::quotes().into_iter().map(trace).collect()
}

/// The shipped model where a text has begun to repeat itself.
fn copies() -> Result<Vec<(String, Trace)>> {
    let engine = Engine::shipped()?;
    let begun = texts::PASSAGES.iter().map(|(name, text)| {
        let repeated: String = text.chars().take(text.chars().count() / 4).collect();
        (*name, format!("{text}\n\n{text}\n\n{repeated}"))
    });
    begun
        .map(|(name, prompt)| {
            Ok((name.to_owned(), said(&engine, engine.generate(&prompt).temperature(0.0))?))
        })
        .collect()
}

/// The shipped model, sampled: questions about what it knows, and texts to go on with.
fn free() -> Result<Vec<(String, Trace)>> {
    let engine = Engine::shipped()?;
    let mut traces = Vec::new();
    for (seed, question) in (1..).zip(texts::QUESTIONS) {
        let generation = engine.chat(question).temperature(0.8).seed(seed);
        traces.push((format!("question {seed}"), said(&engine, generation)?));
    }
    for (seed, opening) in (1..).zip(texts::OPENINGS) {
        let generation = engine.generate(opening).temperature(1.0).seed(seed);
        traces.push((format!("opening {seed}"), said(&engine, generation)?));
    }
    traces.retain(|(_, trace)| trace.answer.len() > 8);
    Ok(traces)
}

/// An answer as tokens.
fn said(engine: &Engine, generation: Generation) -> Result<Trace> {
    let provider = engine.provider();
    let mut generation = generation.max_tokens(ANSWER_TOKENS);
    let prompt = provider.prompt(generation.request_mut())?.tokens;
    let answer = provider.tokenize(None, &generation.run()?.text, false, false)?;
    Ok(Trace { prompt, answer, prediction: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On machines where a row costs this share of a step of one: quotes come faster, and free text as fast as ever.
    #[test]
    fn quotes_come_faster_and_free_text_does_not_suffer() {
        let kinds = kinds().expect("the shipped model answers");
        for (share, least) in [(0.05, 2.0), (0.15, 1.5), (0.25, 1.3), (1.0, 0.97)] {
            let report = replay_all(&kinds, &mut |n| 0.02 * (1.0 + share * (n as f64 - 1.0)));
            let summary = &report["summary"];
            let of = |what: &str, which: &str| summary[what][which].as_f64().expect("a number");
            println!("rows of {share}: {summary:#}");
            assert!(of("quotes x1", "mean") > least, "rows of {share}: {:#}", report["traces"]);
            for n_seqs in BATCHES {
                let worst = of(&format!("free x{n_seqs}"), "worst");
                assert!(worst > 0.97, "rows of {share}: {summary:#}\n{:#}", report["traces"]);
            }
        }
    }

    #[test]
    fn between_measured_steps_lies_a_line() {
        let costs = StepCosts(ROWS.map(|n| 1.0 + n as f64));
        for n in [1, 2, 17, 18, 19, 22, 50, 79, 80] {
            assert!((costs.of(n) - (1.0 + n as f64)).abs() < 1e-9, "{n}");
        }
    }
}

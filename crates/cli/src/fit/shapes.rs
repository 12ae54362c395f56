//! What a machine can run: published models, each in the mixture and with the context that are best on it.

use std::io::Write;

use anyhow::Result;
use clap::ArgMatches;
use ingle_model::sizing::shapes::{SHAPES, Shape};
use ingle_model::sizing::{Advice, Machine, Mixture, Summary, advise};
use ingle_runtime::outlook::swap_bytes;
use serde_json::{Value, json};

use super::report::{between, count, gib, range_json};

/// A published model on a machine.
struct Row {
    shape: &'static Shape,
    summary: Summary,
    advice: Advice,
}

/// Prints what can run on a machine, the largest first.
pub(super) fn print(m: &ArgMatches, machine: &Machine, as_json: bool) -> Result<()> {
    let mut rows = SHAPES.iter().map(|shape| row(m, machine, shape)).collect::<Result<Vec<_>>>()?;
    rows.sort_by_key(|row| std::cmp::Reverse(row.summary.n_parameters));
    let (fitting, others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.advice.take.is_some());
    let mut out = std::io::stdout().lock();
    if as_json {
        let report = json!({
            "machine": machine.name, "memory_bytes": machine.memory, "read_gb_per_s": machine.read_gbs,
            "models": fitting.iter().map(json_of).collect::<Vec<_>>(),
            "others": others.iter().map(|row| json!({ "name": row.shape.name, "why": row.advice.reason })).collect::<Vec<_>>(),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    let speed = machine.read_gbs.map(|gbs| format!(", memory at {gbs:.1} GB/s")).unwrap_or_default();
    writeln!(out, "On {}: {} for a model{speed}", machine.name, gib(machine.memory))?;
    writeln!(
        out,
        "\n  {:24} {:>14} {:8} {:>10} {:>9} {:>11}",
        "published model", "parameters", "mixture", "total", "context", "tokens/s"
    )?;
    for row in &fitting {
        let Some((mixture, n_ctx)) = row.advice.take else { continue };
        let mixture = mixture.unwrap_or(Mixture::Q8_0);
        let alternative = row.advice.alternatives.iter().find(|a| a.mixture == mixture);
        let speed = alternative.and_then(|a| a.speed.decode).map_or_else(|| "-".to_owned(), between);
        writeln!(
            out,
            "  {:24} {:>14} {:8} {:>10} {n_ctx:>9} {speed:>11}",
            row.shape.name,
            count(row.summary.n_parameters),
            mixture.name(),
            alternative.map_or_else(|| "-".to_owned(), |a| gib(a.total)),
        )?;
    }
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|row| row.shape.name).collect();
        writeln!(out, "\nNot here ({}): {}", why(machine), names.join(", "))?;
    }
    writeln!(out, "\n`ingle fit MODEL` says more of one: of a file, a folder, a name or a repository.")?;
    Ok(())
}

fn why(machine: &Machine) -> &'static str {
    if machine.is_cpu { "too large, or not run by Ingle" } else { "too large" }
}

/// The best of a published model, of which the mixtures are those that advice offers.
fn row(m: &ArgMatches, machine: &Machine, shape: &'static Shape) -> Result<Row> {
    let summary = Summary::from_gguf(&shape.header(Mixture::Q8_0)?)?;
    let asked = m.get_one::<u32>("ctx-size").copied().map_or_else(|| summary.n_ctx_default(), u64::from);
    let demand = super::demand_of(m, asked.min(summary.n_ctx_train))?;
    let extra = if machine.is_cpu { swap_bytes(&summary, &demand) } else { 0 };
    let advice = advise(&summary, machine, &demand, extra);
    Ok(Row { shape, summary, advice })
}

fn json_of(row: &Row) -> Value {
    let (mixture, n_ctx) = row.advice.take.unwrap_or((None, 0));
    let mixture = mixture.unwrap_or(Mixture::Q8_0);
    let alternative = row.advice.alternatives.iter().find(|a| a.mixture == mixture);
    json!({
        "name": row.shape.name, "parameters": row.summary.n_parameters, "mixture": mixture.name(), "context": n_ctx,
        "total_bytes": alternative.map(|a| a.total),
        "decode_tokens_per_s": alternative.and_then(|a| a.speed.decode).map(range_json),
        "reason": row.advice.reason,
    })
}

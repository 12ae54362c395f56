//! The models of a repository, each with its verdict.
//!
//! One header is read. The others differ from it in the types of their weights alone: what those weigh is known from the
//! sizes of their files, and what repacking adds from the mixture that their names say.

use std::fmt::Write;

use ingle_model::sizing::{Demand, Machine, Mixture, Range, Summary};
use serde_json::{Value, json};

use super::Extras;
use super::remote::Choice;
use super::report::{between, gib, range_json};
use super::subject::Subject;

/// A context below this is no choice where there is another.
const CONTEXT_WANTED: u64 = 4096;
/// Above so many bytes for a number nothing is gained that shows: Q8_0 has 34/32.
const BYTES_PER_NUMBER: f64 = 1.1;

/// All of them.
pub(super) struct Choices<'a> {
    rows: Vec<Row<'a>>,
    /// The place of the best that fits.
    best: Option<usize>,
    n_ctx: u64,
}

struct Row<'a> {
    choice: &'a Choice,
    /// Bytes that it needs with the demanded sequences, about.
    total: u64,
    n_ctx_max: Option<u64>,
    decode: Option<Range>,
}

impl<'a> Choices<'a> {
    pub fn new(subject: &'a Subject, machine: &Machine, demand: &Demand, extras: Extras) -> Self {
        let row = |choice: &'a Choice| {
            let summary = of_size(&subject.summary, choice);
            let weights = held(machine, &summary, demand, choice.n_bytes);
            let rest = extras.total().saturating_add(weights.1);
            let total =
                machine.needs(&summary, demand).total().saturating_sub(weights.0).saturating_add(rest);
            // The difference between this summary's weights and the file's is the same for every context.
            let beside = i128::from(rest) - i128::from(weights.0);
            let room = i128::from(machine.memory) - beside;
            let machine_of = Machine { memory: u64::try_from(room).unwrap_or(0), ..machine.clone() };
            Row {
                choice,
                total,
                n_ctx_max: machine_of.n_ctx_max(&summary, demand, 0),
                decode: machine.speed(&summary, demand).decode,
            }
        };
        let mut rows: Vec<Row<'a>> = subject.choices.iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.choice.n_bytes));
        let runs = !machine.is_cpu || subject.summary.runs_here();
        let best = best(&rows, subject.summary.n_parameters, demand.n_ctx).filter(|_| runs);
        Self { rows, best, n_ctx: demand.n_ctx }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::from("\nIn the repository (totals follow from the sizes of the files):\n");
        let _ = writeln!(
            out,
            "  {:16} {:>10} {:>10} {:>9} {:>11}",
            "quantization", "files", "total", "context", "tokens/s"
        );
        for (i, row) in self.rows.iter().enumerate() {
            let n_ctx = row.n_ctx_max.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let speed = row.decode.map_or_else(|| "-".to_owned(), between);
            let _ = writeln!(
                out,
                "  {:16} {:>10} {:>10} {n_ctx:>9} {speed:>11}  {}{}",
                row.choice.quant.escape_debug().to_string(),
                gib(row.choice.n_bytes),
                gib(row.total),
                self.verdict(row),
                if self.best == Some(i) { ", the best that does" } else { "" },
            );
        }
        let _ = match self.best() {
            Some(row) => writeln!(
                out,
                "\nTake: {}, with --ctx-size {}",
                row.choice.name.escape_debug(),
                row.n_ctx_max.unwrap_or(self.n_ctx).min(self.n_ctx)
            ),
            None => writeln!(out, "\nTake: nothing: none of them fits, or Ingle does not run the model"),
        };
        out
    }

    fn verdict(&self, row: &Row<'_>) -> String {
        match row.n_ctx_max {
            None => "does not fit".to_owned(),
            Some(n) if n < self.n_ctx => format!("fits up to {n}"),
            Some(_) => "fits".to_owned(),
        }
    }

    fn best(&self) -> Option<&Row<'a>> {
        self.rows.get(self.best?)
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let row = |row: &Row<'_>| {
            json!({
                "quantization": row.choice.quant, "name": row.choice.name, "file_bytes": row.choice.n_bytes,
                "total_bytes": row.total, "context_max": row.n_ctx_max,
                "fits": row.n_ctx_max.is_some_and(|n| n >= self.n_ctx),
                "decode_tokens_per_s": row.decode.map(range_json),
            })
        };
        json!({
            "choices": self.rows.iter().map(row).collect::<Vec<_>>(),
            "best": self.best().map(|row| &row.choice.name),
        })
    }
}

/// The model as it would be in the mixture that a choice's name says; as it is where that is not known.
fn of_size(summary: &Summary, choice: &Choice) -> Summary {
    let name = choice.quant.strip_prefix("UD-").unwrap_or(&choice.quant);
    let mixture = Mixture::from_name(name);
    mixture.and_then(|mixture| summary.in_mixture(mixture).ok()).unwrap_or_else(|| summary.clone())
}

/// Bytes in which a machine would hold the summary's weights, and those of a file of `n_bytes`.
fn held(machine: &Machine, summary: &Summary, demand: &Demand, n_bytes: u64) -> (u64, u64) {
    let held = machine.needs(summary, demand).weights;
    let ratio = held as f64 / summary.weight_bytes.max(1) as f64;
    (held, (n_bytes as f64 * ratio) as u64)
}

/// The largest that fits with the whole context, else with one that is of use; of those above 8 bits only where there is
/// no other.
fn best(rows: &[Row<'_>], n_parameters: u64, n_ctx: u64) -> Option<usize> {
    let is_plenty = |row: &Row<'_>| row.choice.n_bytes as f64 > n_parameters as f64 * BYTES_PER_NUMBER;
    let fits = |row: &Row<'_>, n: u64| row.n_ctx_max.is_some_and(|max| max >= n.min(n_ctx));
    let wishes: [&dyn Fn(&Row<'_>) -> bool; 4] = [
        &|row| fits(row, n_ctx) && !is_plenty(row),
        &|row| fits(row, CONTEXT_WANTED) && !is_plenty(row),
        &|row| fits(row, CONTEXT_WANTED),
        &|row| fits(row, 1),
    ];
    wishes.iter().find_map(|wish| rows.iter().position(wish))
}

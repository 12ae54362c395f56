//! What is printed: the needs, the verdict, the speed, and what to take.

use std::fmt::Write;

use ingle_model::sizing::{Advice, BLOCK_SIZE, Demand, Machine, Needs, Range, Rule, Speed, Verdict, advise};
use serde_json::{Value, json};

use super::Extras;
use super::subject::Subject;

/// Everything that there is to say about a model on a machine.
pub(super) struct Report<'a> {
    subject: &'a Subject,
    machine: &'a Machine,
    demand: Demand,
    extras: Extras,
    needs: Needs,
    speed: Speed,
    advice: Advice,
}

impl<'a> Report<'a> {
    pub fn new(subject: &'a Subject, machine: &'a Machine, demand: Demand, extras: Extras) -> Self {
        let summary = &subject.summary;
        let needs = Needs {
            draft: extras.draft,
            extras: extras.adapters.saturating_add(extras.projector),
            text: extras.text,
            swap: extras.swap,
            ..machine.needs(summary, &demand)
        };
        Self {
            subject,
            machine,
            demand,
            extras,
            needs,
            speed: machine.speed(summary, &demand),
            advice: advise(summary, machine, &demand, extras.total()),
        }
    }

    /// Whether the numbers are Ingle's own, or by the rules of others.
    fn is_own(&self) -> bool {
        self.machine.is_cpu && self.subject.summary.runs_here()
    }

    /// What one more token takes.
    fn kv_per_token(&self) -> u64 {
        let (summary, kv_type) = (&self.subject.summary, self.demand.kv_type);
        match &summary.own {
            Ok(own) if self.machine.is_cpu => {
                own.kv_bytes(kv_type, BLOCK_SIZE, BLOCK_SIZE as u64) / BLOCK_SIZE as u64
            }
            _ => summary.kv_bytes_per_token(kv_type),
        }
    }

    /// What is kept if layers with windows keep only those, where that is less than what is counted.
    fn kv_with_windows(&self) -> Option<(Rule, u64)> {
        let summary = &self.subject.summary;
        let counted = if self.is_own() { Rule::AllPositions } else { Rule::LlamaCpp };
        let other = if self.is_own() { Rule::LlamaCpp } else { Rule::AllPositions };
        let bytes = |rule| summary.kv_bytes(&self.demand, rule);
        (bytes(counted) != bytes(other)).then(|| (other, bytes(other)))
    }

    /// For people; with what to take, unless that is said elsewhere.
    pub fn text(&self, has_advice: bool) -> String {
        let mut out = String::new();
        self.put_model(&mut out);
        self.put_needs(&mut out);
        self.put_machine(&mut out);
        if has_advice {
            self.put_alternatives(&mut out);
            let _ = writeln!(out, "\nTake: {}", self.take());
        }
        out
    }

    fn put_model(&self, out: &mut String) {
        let s = &self.subject.summary;
        let name = s.name.as_deref().unwrap_or(&self.subject.name);
        let _ = write!(
            out,
            "{} ({}), {} parameters",
            name.escape_debug(),
            s.arch.escape_debug(),
            count(s.n_parameters)
        );
        // A tenth less is the embedding table.
        if s.n_parameters_active < s.n_parameters / 10 * 8 {
            let _ = write!(out, ", {} of them active", count(s.n_parameters_active));
        }
        out.push('\n');
        if let Some(assumption) = &self.subject.assumption {
            let _ = writeln!(out, "  assumed: {assumption}");
        }
        let _ = writeln!(out, "  layers: {}", s.memory_in_words());
        let _ = writeln!(out, "  trained for a context of {}", s.n_ctx_train);
        for note in &s.notes {
            let _ = writeln!(out, "  note: {note}");
        }
        if let Err(why) = &s.own {
            let _ = writeln!(out, "  Ingle does not run it: {why}");
        }
    }

    fn put_needs(&self, out: &mut String) {
        let s = &self.subject.summary;
        let d = &self.demand;
        let by = if self.is_own() { "as Ingle holds it" } else { "as llama.cpp holds it" };
        let _ =
            writeln!(out, "\nNeeds with {} × {} tokens of {} ({by}):", d.n_seqs, d.n_ctx, d.kv_type.name());
        let mut row = |what: &str, bytes: u64, more: String| {
            let _ = writeln!(out, "  {what:16} {:>10}  {more}", gib(bytes));
        };
        let parts: Vec<String> =
            s.mixture.iter().take(4).map(|(ty, _, bytes)| format!("{ty} {}", gib(*bytes))).collect();
        row(
            "weights",
            self.needs.weights,
            format!("in the file {}: {}", gib(s.weight_bytes), parts.join(", ")),
        );
        let state = s.state_bytes(d.n_seqs);
        let mut of_kv = format!("{} a token", bytes_exactly(self.kv_per_token()));
        if state > 0 {
            let _ = write!(of_kv, ", and a state of {}", gib(state));
        }
        row("keys and values", self.needs.kv, of_kv);
        if let Some((rule, bytes)) = self.kv_with_windows() {
            let what = match rule {
                Rule::AllPositions => "if layers with windows kept all positions",
                _ => "as llama.cpp keeps it: only the window in layers that have one",
            };
            row("", bytes, what.to_owned());
        }
        row("buffers", self.needs.buffers, format!("at most, in steps of {} tokens", d.n_rows));
        if self.extras.swap > 0 {
            row(
                "moved sequences",
                self.extras.swap,
                "at most, for those that make way for others".to_owned(),
            );
        }
        for (what, bytes) in [
            ("tokenizer", self.extras.text),
            ("draft model", self.extras.draft),
            ("adapters", self.extras.adapters),
            ("projector", self.extras.projector),
        ] {
            if bytes > 0 {
                row(what, bytes, String::new());
            }
        }
        row("total", self.needs.total(), String::new());
    }

    fn put_machine(&self, out: &mut String) {
        let m = self.machine;
        let source = if self.is_measured() { "measured" } else { "published" };
        let speed = m.read_gbs.map(|gbs| format!(", memory at {gbs:.1} GB/s ({source})")).unwrap_or_default();
        let _ = writeln!(out, "\nOn {}: {} for a model{speed}", m.name, gib(m.memory));
        let verdict = match &self.advice.verdict {
            Verdict::Fits { left } => format!("fits; {} are left", gib(*left)),
            Verdict::Shorter { n_ctx } => format!("fits only with a context of up to {n_ctx}"),
            Verdict::TooLarge { needs, memory } => {
                format!("does not fit: the least is {}, there are {}", gib(*needs), gib(*memory))
            }
            Verdict::Unsupported { .. } => "is not run by Ingle".to_owned(),
        };
        let _ = writeln!(out, "  it {verdict}");
        if let Some(n_ctx) = self.advice.n_ctx_max {
            let _ = writeln!(out, "  longest context that fits: {n_ctx}");
        }
        self.put_speed(out, "decoding", self.speed.decode_max, self.speed.decode);
        self.put_speed(out, "prompts", self.speed.prefill_max, self.speed.prefill);
    }

    /// Whether the machine's speed was measured, and not published.
    fn is_measured(&self) -> bool {
        self.machine.arithmetic.is_some()
    }

    fn put_speed(&self, out: &mut String, what: &str, max: Option<f64>, expected: Option<Range>) {
        let Some(max) = max else { return };
        let expected = match expected {
            Some(range) if self.is_measured() => format!("; {} are to be expected", between(range)),
            Some(range) if self.machine.is_cpu => format!("; {} may be reached", between(range)),
            Some(range) => format!("; other engines are reported to reach {}", between(range)),
            None => String::new(),
        };
        let of = if what == "decoding" { " at that context" } else { "" };
        let _ = writeln!(out, "  {what}: at most {} tokens/s{of}{expected}", per_second(max));
    }

    fn put_alternatives(&self, out: &mut String) {
        if self.advice.alternatives.is_empty() {
            return;
        }
        let _ = writeln!(
            out,
            "\n  {:8} {:>10} {:>10} {:>9} {:>11}",
            "mixture", "file", "total", "context", "tokens/s"
        );
        for a in &self.advice.alternatives {
            let n_ctx = a.n_ctx_max.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let speed = a.speed.decode.map_or_else(|| "-".to_owned(), between);
            let _ = writeln!(
                out,
                "  {:8} {:>10} {:>10} {n_ctx:>9} {speed:>11}",
                a.mixture.name(),
                gib(a.file_bytes),
                gib(a.total)
            );
        }
    }

    fn take(&self) -> String {
        match &self.advice.take {
            None => format!("nothing: {}", self.advice.reason),
            Some((mixture, n_ctx)) => {
                let what = mixture.map_or("it as it is", |mixture| mixture.name());
                let d = &self.demand;
                let mut flags = format!("--ctx-size {n_ctx} --parallel {}", d.n_seqs);
                if d.n_seqs > 1 {
                    let _ = write!(flags, " --kv-tokens {}", d.n_seqs.saturating_mul(*n_ctx));
                }
                if d.kv_type != ingle_step::KvType::F16 {
                    let _ = write!(flags, " --kv-type {}", d.kv_type.name());
                }
                format!("{what}, with {flags}: {}", self.advice.reason)
            }
        }
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let s = &self.subject.summary;
        let d = &self.demand;
        let verdict = match &self.advice.verdict {
            Verdict::Fits { left } => json!({ "fits": true, "left_bytes": left }),
            Verdict::Shorter { n_ctx } => json!({ "fits": false, "fits_with_context": n_ctx }),
            Verdict::TooLarge { needs, memory } => {
                json!({ "fits": false, "least_bytes": needs, "memory_bytes": memory })
            }
            Verdict::Unsupported { why } => json!({ "fits": false, "unsupported": why }),
        };
        let alternatives: Vec<Value> = self
            .advice
            .alternatives
            .iter()
            .map(|a| {
                json!({
                    "mixture": a.mixture.name(), "file_bytes": a.file_bytes, "total_bytes": a.total,
                    "context_max": a.n_ctx_max, "decode_tokens_per_s": a.speed.decode.map(range_json),
                })
            })
            .collect();
        let mixture: Vec<Value> = s
            .mixture
            .iter()
            .map(|(ty, n, bytes)| json!({ "type": ty, "tensors": n, "bytes": bytes }))
            .collect();
        let kv = |rule| s.kv_bytes(d, rule);
        json!({
            "model": self.subject.name,
            "name": s.name,
            "assumption": self.subject.assumption,
            "architecture": s.arch,
            "runs_here": s.runs_here(),
            "why_not": s.own.as_ref().err(),
            "parameters": s.n_parameters,
            "parameters_active": s.n_parameters_active,
            "context_trained": s.n_ctx_train,
            "layers": s.memory_in_words(),
            "notes": s.notes,
            "file": { "weight_bytes": s.weight_bytes, "active_bytes": s.active_bytes, "types": mixture },
            "demand": {
                "context": d.n_ctx, "sequences": d.n_seqs, "kv_type": d.kv_type.name(), "batch_tokens": d.n_rows,
            },
            "kv_bytes_per_token": self.kv_per_token(),
            "kv_bytes": { "all_positions": kv(Rule::AllPositions), "llama_cpp": kv(Rule::LlamaCpp), "windows": kv(Rule::Windows) },
            "state_bytes": s.state_bytes(d.n_seqs),
            "needs": {
                "as": if self.is_own() { "ingle" } else { "llama.cpp" },
                "weights_bytes": self.needs.weights, "kv_bytes": self.needs.kv, "buffer_bytes": self.needs.buffers,
                "draft_bytes": self.extras.draft, "adapter_bytes": self.extras.adapters,
                "projector_bytes": self.extras.projector, "text_bytes": self.extras.text,
                "swap_bytes": self.extras.swap, "total_bytes": self.needs.total(),
            },
            "machine": {
                "name": self.machine.name, "memory_bytes": self.machine.memory, "read_gb_per_s": self.machine.read_gbs,
                "speed_is": if self.is_measured() { "measured" } else { "published" },
                "published_gops": self.machine.gops,
                "measured_gops": self.machine.arithmetic.map(|a| {
                    json!({ "int8": a.int8_gops, "bf16": a.bf16_gops, "f32": a.f32_gops })
                }),
            },
            "verdict": verdict,
            "context_max": self.advice.n_ctx_max,
            "decode_tokens_per_s_max": self.speed.decode_max,
            "decode_tokens_per_s": self.speed.decode.map(range_json),
            "prefill_tokens_per_s_max": self.speed.prefill_max,
            "prefill_tokens_per_s": self.speed.prefill.map(range_json),
            "alternatives": alternatives,
            "take": self.advice.take.map(|(mixture, n_ctx)| {
                json!({ "mixture": mixture.map(|m| m.name()), "context": n_ctx })
            }),
            "reason": self.advice.reason,
        })
    }
}

/// `4.58 GiB`
pub(super) fn gib(n: u64) -> String {
    const KIB: f64 = 1024.0;
    let n = n as f64;
    match n {
        n if n >= KIB * KIB * KIB * 0.1 => format!("{:.2} GiB", n / (KIB * KIB * KIB)),
        n if n >= KIB * KIB * 0.1 => format!("{:.1} MiB", n / (KIB * KIB)),
        n => format!("{:.1} KiB", n / KIB),
    }
}

/// `131072 bytes`
fn bytes_exactly(n: u64) -> String {
    format!("{n} bytes")
}

/// `8.03 billion`
pub(super) fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.0} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}

fn per_second(x: f64) -> String {
    if x < 10.0 { format!("{x:.1}") } else { format!("{x:.0}") }
}

/// `28 to 33`
pub(super) fn between(range: Range) -> String {
    format!("{} to {}", per_second(range.low), per_second(range.high))
}

pub(super) fn range_json(range: Range) -> Value {
    json!({ "low": range.low, "high": range.high })
}

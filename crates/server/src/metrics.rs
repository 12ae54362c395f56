//! The metrics page, in Prometheus' text format.
//!
//! Ours are called `ingle_…`. Those that vLLM's dashboards read are repeated under vLLM's names. Labels take only
//! values that we chose: routes, statuses, reasons, the models of the catalogue, and a bounded number of adapters.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingle_chat::{Condition, ModelEntry, ModelState, Usage};

/// Bounds of latencies that people wait for, in seconds.
const WAITS: &[f64] = &[
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
/// Bounds of the time between tokens, in seconds.
const STEPS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0];

/// A histogram of times.
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// Per bound, and one for what is beyond all; not cumulative.
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_us: AtomicU64::new(0) }
    }

    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let i = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[i].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(time.as_micros() as u64, Relaxed);
    }

    fn render(&self, name: &str, label: &str, out: &mut String) {
        let mut total = 0;
        for (count, bound) in self.counts.iter().zip(self.bounds) {
            total += count.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{label},le=\"{bound}\"}} {total}");
        }
        total += self.counts[self.bounds.len()].load(Relaxed);
        let _ = writeln!(out, "{name}_bucket{{{label},le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{{{label}}} {}", self.sum_us.load(Relaxed) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{{{label}}} {total}");
    }
}

/// How a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Completely.
    Finished,
    /// With an error.
    Failed,
    /// The client went away.
    Aborted,
}

/// What the server itself counts; the rest comes from the provider's entries.
#[derive(Default)]
pub(crate) struct Metrics {
    /// By the model's name. Names are those of a catalogue, and at most [`MODELS_MAX`].
    models: Mutex<BTreeMap<String, Arc<ModelMetrics>>>,
    /// By route and status. Routes are our own patterns, so this stays small.
    http: Mutex<BTreeMap<(String, u16), u64>>,
}

/// The most models that are counted each by itself.
const MODELS_MAX: usize = 2048;

/// The most adapters of a model that are counted each by itself, whatever comes and goes; further ones are [`OTHER`].
const ADAPTERS_MAX: usize = 256;
/// The label of what is not counted by itself.
const OTHER: &str = "other";

/// What is counted of replies with one adapter.
#[derive(Default)]
pub(crate) struct AdapterMetrics {
    requests: AtomicU64,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
}

impl AdapterMetrics {
    /// Counts an answer that is complete.
    pub fn ended(&self, usage: &Usage) {
        self.prompt_tokens.fetch_add(usage.prompt_tokens, Relaxed);
        self.generated_tokens.fetch_add(usage.completion_tokens, Relaxed);
    }
}

/// What is counted of one model's replies.
pub(crate) struct ModelMetrics {
    pub time_to_first_token: Histogram,
    pub inter_token_latency: Histogram,
    pub queue_time: Histogram,
    pub prefill_time: Histogram,
    pub decode_time: Histogram,
    e2e_latency: Histogram,
    finished: Mutex<BTreeMap<&'static str, u64>>,
    outcomes: Mutex<BTreeMap<Outcome, u64>>,
    /// By name, [`OTHER`] included.
    adapters: Mutex<BTreeMap<String, Arc<AdapterMetrics>>>,
}

impl Default for ModelMetrics {
    fn default() -> Self {
        Self {
            time_to_first_token: Histogram::new(WAITS),
            inter_token_latency: Histogram::new(STEPS),
            queue_time: Histogram::new(WAITS),
            prefill_time: Histogram::new(WAITS),
            decode_time: Histogram::new(WAITS),
            e2e_latency: Histogram::new(WAITS),
            finished: Mutex::new(["stop", "length", "abort"].map(|r| (r, 0)).into()),
            outcomes: Mutex::new(
                [Outcome::Finished, Outcome::Failed, Outcome::Aborted].map(|o| (o, 0)).into(),
            ),
            adapters: Mutex::default(),
        }
    }
}

impl ModelMetrics {
    /// Counts a choice that ended for a reason.
    pub fn finished(&self, reason: &'static str) {
        *self.finished.lock().expect(LOCK).entry(reason).or_default() += 1;
    }

    /// Counts a reply that begins with an adapter.
    pub fn adapter_begins(&self, name: &str) -> Arc<AdapterMetrics> {
        let mut adapters = self.adapters.lock().expect(LOCK);
        let name = if adapters.contains_key(name) || adapters.len() < ADAPTERS_MAX { name } else { OTHER };
        let adapter = adapters.entry(name.to_owned()).or_default().clone();
        adapter.requests.fetch_add(1, Relaxed);
        adapter
    }

    /// Counts a reply that ended.
    pub fn ended(&self, outcome: Outcome, elapsed: Duration) {
        *self.outcomes.lock().expect(LOCK).entry(outcome).or_default() += 1;
        if outcome == Outcome::Finished {
            self.e2e_latency.observe(elapsed);
        }
    }
}

/// A number on the page: of each model.
struct Value<'a> {
    names: &'a [&'a str],
    kind: &'static str,
    help: &'static str,
    value: fn(&ModelEntry) -> f64,
}

/// Picks one of a model's histograms.
type PickHistogram = fn(&ModelMetrics) -> &Histogram;

const LOCK: &str = "nothing panics while it counts";

#[rustfmt::skip]
const VALUES: &[Value<'static>] = &[
    value(&["ingle_ready"], "gauge", "Whether requests are answered now.", |e| f64::from(u8::from(e.status.ready))),
    value(&["ingle_sequences_running", "vllm:num_requests_running"], "gauge", "Sequences that run.", |e| e.status.running as f64),
    value(&["ingle_sequences_waiting", "vllm:num_requests_waiting"], "gauge", "Sequences that wait.", |e| e.status.waiting as f64),
    value(&["ingle_tenants_waiting"], "gauge", "Keys of whose requests some have not begun.", |e| e.status.tenants_waiting as f64),
    value(&["ingle_kv_cache_usage", "vllm:kv_cache_usage_perc"], "gauge", "Share of KV blocks that sequences hold, 0 to 1.", |e| match e.status.kv_blocks_total {
        0 => 0.0,
        total => e.status.kv_blocks_used as f64 / total as f64,
    }),
    value(&["ingle_kv_blocks_used"], "gauge", "KV blocks that sequences hold.", |e| e.status.kv_blocks_used as f64),
    value(&["ingle_kv_blocks_cached"], "gauge", "KV blocks that only the prefix cache holds.", |e| e.status.kv_blocks_cached as f64),
    value(&["ingle_kv_blocks"], "gauge", "KV blocks in all.", |e| e.status.kv_blocks_total as f64),
    value(&["ingle_memory_bytes"], "gauge", "Bytes of weights and KV cache.", |e| e.status.memory_bytes as f64),
    value(&["ingle_prefill_tokens_per_second"], "gauge", "Prompt tokens computed per second, lately.", |e| e.status.prefill_tokens_per_s),
    value(&["ingle_decode_tokens_per_second"], "gauge", "Tokens generated per second, lately.", |e| e.status.decode_tokens_per_s),
    value(&["ingle_prompt_tokens_total"], "counter", "Prompt tokens computed.", |e| e.status.prompt_tokens_total as f64),
    value(&["ingle_cached_tokens_total", "vllm:prompt_tokens_cached_total"], "counter", "Prompt tokens taken from the prefix cache.", |e| e.status.cached_tokens_total as f64),
    // vLLM counts a prompt's tokens whether or not they were cached.
    value(&["vllm:prompt_tokens_total"], "counter", "Prompt tokens, cached ones included.", |e| (e.status.prompt_tokens_total + e.status.cached_tokens_total) as f64),
    value(&["ingle_generated_tokens_total", "vllm:generation_tokens_total"], "counter", "Tokens generated.", |e| e.status.generated_tokens_total as f64),
    value(&["ingle_preemptions_total", "vllm:num_preemptions_total"], "counter", "Sequences preempted.", |e| e.status.preemptions_total as f64),
    value(&["ingle_context_shifts_total"], "counter", "Times that tokens made way in a full context.", |e| e.status.context_shifts_total as f64),
    value(&["ingle_discarded_tokens_total"], "counter", "Tokens that did.", |e| e.status.discarded_tokens_total as f64),
    value(&["ingle_kv_swap_blocks"], "gauge", "KV blocks of preempted sequences kept in memory.", |e| e.status.kv_tiers.swap_blocks as f64),
    value(&["ingle_kv_swap_blocks_max"], "gauge", "KV blocks that can be kept so.", |e| e.status.kv_tiers.swap_blocks_total as f64),
    value(&["ingle_kv_swapped_out_blocks_total"], "counter", "KV blocks moved out at preemptions.", |e| e.status.kv_tiers.swapped_out_total as f64),
    value(&["ingle_kv_swapped_in_blocks_total"], "counter", "KV blocks that came back from there.", |e| e.status.kv_tiers.swapped_in_total as f64),
    value(&["ingle_kv_disk_blocks"], "gauge", "KV blocks on disk.", |e| e.status.kv_tiers.disk_blocks as f64),
    value(&["ingle_kv_disk_bytes"], "gauge", "Bytes of their files.", |e| e.status.kv_tiers.disk_bytes as f64),
    value(&["ingle_kv_disk_read_tokens_total"], "counter", "Prompt tokens whose K/V came from the disk.", |e| e.status.kv_tiers.disk_tokens_read_total as f64),
    value(&["ingle_kv_disk_written_blocks_total"], "counter", "KV blocks written to the disk.", |e| e.status.kv_tiers.disk_blocks_written_total as f64),
    value(&["ingle_kv_disk_dropped_blocks_total"], "counter", "KV blocks that the disk did not take in time.", |e| e.status.kv_tiers.disk_blocks_dropped_total as f64),
    value(&["ingle_kv_disk_refused_blocks_total"], "counter", "Files of KV blocks that were damaged or foreign, and were removed.", |e| e.status.kv_tiers.disk_blocks_refused_total as f64),
    value(&["ingle_drafts_total", "vllm:spec_decode_num_drafts_total"], "counter", "Drafts: guesses at coming tokens that a step tried.", |e| e.status.speculation.drafts_total as f64),
    value(&["ingle_draft_tokens_total", "vllm:spec_decode_num_draft_tokens_total"], "counter", "Tokens that were guessed and tried.", |e| e.status.speculation.draft_tokens_total as f64),
    value(&["ingle_draft_tokens_accepted_total", "vllm:spec_decode_num_accepted_tokens_total"], "counter", "Guessed tokens that answers have.", |e| e.status.speculation.accepted_tokens_total as f64),
    value(&["ingle_steps_total"], "counter", "Steps run.", |e| e.status.steps_total as f64),
    value(&["ingle_requests_finished_total"], "counter", "Requests that the provider finished.", |e| e.status.requests_finished_total as f64),
    value(&["ingle_requests_aborted_total"], "counter", "Requests that the provider aborted.", |e| e.status.requests_aborted_total as f64),
    value(&["ingle_requests_overdue_total"], "counter", "Of these, requests whose time was over.", |e| e.status.requests_overdue_total as f64),
    value(&["ingle_model_suspect"], "gauge", "Whether the model has gone wrong several times of late, or can be used no more.", |e| f64::from(u8::from(e.status.condition != Condition::Sound))),
    value(&["ingle_model_loaded"], "gauge", "Whether the model is in memory.", |e| f64::from(u8::from(e.state == ModelState::Loaded))),
    value(&["ingle_model_memory_bytes"], "gauge", "Bytes of memory that are set aside for the model.", |e| e.memory_bytes as f64),
    value(&["ingle_model_requests"], "gauge", "Requests that hold the model.", |e| e.in_use as f64),
    value(&["ingle_model_loads_total"], "counter", "Times that the model was loaded.", |e| e.loads_total as f64),
    value(&["ingle_model_unloads_total"], "counter", "Times that it was unloaded, for whatever reason.", |e| e.unloads_total as f64),
    value(&["ingle_model_evictions_total"], "counter", "Times that it was unloaded because others needed its memory.", |e| e.evictions_total as f64),
    value(&["ingle_model_load_failures_total"], "counter", "Times that loading it failed.", |e| e.failures_total as f64),
];

const fn value(
    names: &'static [&'static str],
    kind: &'static str,
    help: &'static str,
    value: fn(&ModelEntry) -> f64,
) -> Value<'static> {
    Value { names, kind, help, value }
}

/// Accepted guesses by their place in the draft.
fn render_accepted(models: &[(String, &ModelEntry, Arc<ModelMetrics>)], out: &mut String) {
    for name in [
        "ingle_draft_tokens_accepted_per_position_total",
        "vllm:spec_decode_num_accepted_tokens_per_pos_total",
    ] {
        let help = "Guessed tokens that answers have, by their place in the draft.";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (label, entry, _) in models {
            for (position, n) in entry.status.speculation.accepted_tokens_per_position.iter().enumerate() {
                let _ = writeln!(out, "{name}{{{label},position=\"{position}\"}} {n}");
            }
        }
    }
}

/// What is counted of each adapter.
fn render_adapters(models: &[(&str, &ModelMetrics)], out: &mut String) {
    type Pick = fn(&AdapterMetrics) -> &AtomicU64;
    #[rustfmt::skip]
    let counters: [(&str, &str, Pick); 3] = [
        ("ingle_adapter_requests_total", "Requests that began with the adapter.", |a| &a.requests),
        ("ingle_adapter_prompt_tokens_total", "Prompt tokens of their complete answers, cached ones included.", |a| &a.prompt_tokens),
        ("ingle_adapter_generated_tokens_total", "Tokens of their complete answers.", |a| &a.generated_tokens),
    ];
    for (name, help, pick) in counters {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (label, metrics) in models {
            for (adapter, counted) in &*metrics.adapters.lock().expect(LOCK) {
                let n = pick(counted).load(Relaxed);
                let _ = writeln!(out, "{name}{{{label},adapter=\"{}\"}} {n}", escaped(adapter));
            }
        }
    }
}

impl Metrics {
    /// Counts a reply's head.
    pub fn http(&self, route: &str, status: u16) {
        *self.http.lock().expect(LOCK).entry((route.to_owned(), status)).or_default() += 1;
    }

    /// What is counted of a model, by its own name.
    pub fn of(&self, model: Option<&str>) -> Arc<ModelMetrics> {
        let mut models = self.models.lock().expect(LOCK);
        let name = model.unwrap_or_default();
        match models.get(name) {
            Some(metrics) => metrics.clone(),
            // No list is without bound, though nobody has so many.
            None if models.len() >= MODELS_MAX => Arc::default(),
            None => models.entry(name.to_owned()).or_default().clone(),
        }
    }

    /// The page about these models, or about none yet.
    pub fn render(&self, entries: &[ModelEntry], budget: Option<u64>) -> String {
        let nothing = [ModelEntry::default()];
        // What an adapter adds to is what runs.
        let mut entries: Vec<&ModelEntry> =
            entries.iter().filter(|entry| entry.info.parent.is_none()).collect();
        if entries.is_empty() {
            entries.extend(&nothing);
        }
        let label = |entry: &ModelEntry| format!("model_name=\"{}\"", escaped(&entry.info.id));
        let models: Vec<(String, &ModelEntry, Arc<ModelMetrics>)> =
            entries.iter().map(|&entry| (label(entry), entry, self.of(Some(&entry.info.id)))).collect();
        let mut out = String::with_capacity(16 * 1024 * entries.len());
        for Value { names, kind, help, value } in VALUES {
            for name in *names {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
                for (label, entry, _) in &models {
                    let _ = writeln!(out, "{name}{{{label}}} {}", value(entry));
                }
            }
        }
        render_accepted(&models, &mut out);
        let tasks = tokio::runtime::Handle::try_current().map_or(0, |h| h.metrics().num_alive_tasks());
        let _ = writeln!(
            out,
            "# HELP ingle_tasks Tasks of the server's runtime that have not ended.\n# TYPE ingle_tasks gauge\n\
             ingle_tasks{{{}}} {tasks}",
            models[0].0
        );
        if let Some(budget) = budget {
            let name = "ingle_memory_budget_bytes";
            let _ = writeln!(
                out,
                "# HELP {name} Bytes that all models together may have.\n# TYPE {name} gauge\n{name} {budget}"
            );
        }
        #[rustfmt::skip]
        let histograms: [(&[&str], &str, PickHistogram); 6] = [
            (&["ingle_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"], "From a request's arrival to its first token.", |m| &m.time_to_first_token),
            (&["ingle_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"], "Between two pieces of text of one choice.", |m| &m.inter_token_latency),
            (&["ingle_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"], "From a request's arrival to the end of its reply.", |m| &m.e2e_latency),
            (&["ingle_request_queue_time_seconds", "vllm:request_queue_time_seconds"], "From admission to the first step.", |m| &m.queue_time),
            (&["ingle_request_prefill_time_seconds", "vllm:request_prefill_time_seconds"], "From the first step to the first token.", |m| &m.prefill_time),
            (&["ingle_request_decode_time_seconds", "vllm:request_decode_time_seconds"], "From the first token to the last.", |m| &m.decode_time),
        ];
        for (names, help, histogram) in histograms {
            for name in names {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
                for (label, _, metrics) in &models {
                    histogram(metrics).render(name, label, &mut out);
                }
            }
        }
        let counted: Vec<_> = models.iter().map(|(label, _, metrics)| (label.as_str(), &**metrics)).collect();
        self.render_counters(&counted, &mut out);
        out
    }

    fn render_counters(&self, models: &[(&str, &ModelMetrics)], out: &mut String) {
        for name in ["ingle_choices_finished_total", "vllm:request_success_total"] {
            let _ = writeln!(out, "# HELP {name} Choices that ended, by reason.\n# TYPE {name} counter");
            for (label, metrics) in models {
                for (reason, count) in &*metrics.finished.lock().expect(LOCK) {
                    let _ = writeln!(out, "{name}{{{label},finished_reason=\"{reason}\"}} {count}");
                }
            }
        }
        render_adapters(models, out);
        let name = "ingle_replies_total";
        let _ = writeln!(out, "# HELP {name} Replies by how they ended.\n# TYPE {name} counter");
        for (label, metrics) in models {
            for (outcome, count) in &*metrics.outcomes.lock().expect(LOCK) {
                let outcome = match outcome {
                    Outcome::Finished => "finished",
                    Outcome::Failed => "failed",
                    Outcome::Aborted => "aborted",
                };
                let _ = writeln!(out, "{name}{{{label},outcome=\"{outcome}\"}} {count}");
            }
        }
        let name = "ingle_http_requests_total";
        let _ = writeln!(out, "# HELP {name} Requests by route and status.\n# TYPE {name} counter");
        for ((route, status), count) in &*self.http.lock().expect(LOCK) {
            let _ = writeln!(out, "{name}{{route=\"{}\",status=\"{status}\"}} {count}", escaped(route));
        }
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_is_cumulative() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for ms in [100, 50, 500, 5000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut out = String::new();
        histogram.render("x", "m=\"a\"", &mut out);
        let expected = "x_bucket{m=\"a\",le=\"0.1\"} 2\nx_bucket{m=\"a\",le=\"1\"} 3\n\
                        x_bucket{m=\"a\",le=\"+Inf\"} 4\nx_sum{m=\"a\"} 5.65\nx_count{m=\"a\"} 4\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn adapters_beyond_the_bound_are_counted_together() {
        let model = ModelMetrics::default();
        let usage = Usage { prompt_tokens: 5, completion_tokens: 2, ..Usage::default() };
        for round in 0..2 {
            for i in 0..ADAPTERS_MAX + 10 {
                let adapter = model.adapter_begins(&format!("a{i}\""));
                if round == 0 {
                    adapter.ended(&usage);
                }
            }
        }
        let mut page = String::new();
        render_adapters(&[("m=\"x\"", &model)], &mut page);
        let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 3 * (ADAPTERS_MAX + 1));
        for expected in [
            r#"ingle_adapter_requests_total{m="x",adapter="a0\""} 2"#,
            r#"ingle_adapter_requests_total{m="x",adapter="other"} 20"#,
            r#"ingle_adapter_prompt_tokens_total{m="x",adapter="other"} 50"#,
            r#"ingle_adapter_generated_tokens_total{m="x",adapter="a255\""} 2"#,
        ] {
            assert!(lines.contains(&expected), "{expected} is not in\n{page}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let info = ingle_chat::ModelInfo { id: "a\"b\\c\nd".into(), ..Default::default() };
        let page = Metrics::default().render(&[ModelEntry { info, ..ModelEntry::default() }], None);
        assert!(page.contains(r#"ingle_ready{model_name="a\"b\\c\nd"} 0"#), "{page}");
    }
}

//! The metrics page, in Prometheus' text format.
//!
//! Ours are called `ingle_…`. Those that vLLM's dashboards read are repeated under vLLM's names. Labels take only
//! values that we chose: routes, statuses, reasons, the default model.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ingle_chat::{Condition, ProviderStatus};

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

/// What the server itself counts; the rest comes from the provider's status.
pub(crate) struct Metrics {
    pub time_to_first_token: Histogram,
    pub inter_token_latency: Histogram,
    pub queue_time: Histogram,
    pub prefill_time: Histogram,
    pub decode_time: Histogram,
    e2e_latency: Histogram,
    /// By route and status. Routes are our own patterns, so this stays small.
    http: Mutex<BTreeMap<(String, u16), u64>>,
    finished: Mutex<BTreeMap<&'static str, u64>>,
    outcomes: Mutex<BTreeMap<Outcome, u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            time_to_first_token: Histogram::new(WAITS),
            inter_token_latency: Histogram::new(STEPS),
            queue_time: Histogram::new(WAITS),
            prefill_time: Histogram::new(WAITS),
            decode_time: Histogram::new(WAITS),
            e2e_latency: Histogram::new(WAITS),
            http: Mutex::default(),
            finished: Mutex::new(["stop", "length", "abort"].map(|r| (r, 0)).into()),
            outcomes: Mutex::new(
                [Outcome::Finished, Outcome::Failed, Outcome::Aborted].map(|o| (o, 0)).into(),
            ),
        }
    }
}

/// A number on the page.
struct Value<'a> {
    names: &'a [&'a str],
    kind: &'static str,
    help: &'static str,
    value: f64,
}

const LOCK: &str = "nothing panics while it counts";

impl Metrics {
    /// Counts a reply's head.
    pub fn http(&self, route: &str, status: u16) {
        *self.http.lock().expect(LOCK).entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Counts a choice that ended for a reason.
    pub fn finished(&self, reason: &'static str) {
        *self.finished.lock().expect(LOCK).entry(reason).or_default() += 1;
    }

    /// Counts a reply that ended.
    pub fn ended(&self, outcome: Outcome, elapsed: Duration) {
        *self.outcomes.lock().expect(LOCK).entry(outcome).or_default() += 1;
        if outcome == Outcome::Finished {
            self.e2e_latency.observe(elapsed);
        }
    }

    /// The page. `model` is the default model's name, empty while there is none.
    pub fn render(&self, model: &str, status: &ProviderStatus) -> String {
        let label = format!("model_name=\"{}\"", escaped(model));
        let mut out = String::with_capacity(16 * 1024);
        let blocks_used = status.kv_blocks_used as f64;
        let kv_usage =
            if status.kv_blocks_total == 0 { 0.0 } else { blocks_used / status.kv_blocks_total as f64 };
        let value = |names, kind, help, value| Value { names, kind, help, value };
        #[rustfmt::skip]
        let values = [
            value(&["ingle_ready"], "gauge", "Whether requests are answered now.", f64::from(u8::from(status.ready))),
            value(&["ingle_model_suspect"], "gauge", "Whether the model has gone wrong several times of late, or can be used no more.", f64::from(u8::from(status.condition != Condition::Sound))),
            value(&["ingle_sequences_running", "vllm:num_requests_running"], "gauge", "Sequences that run.", status.running as f64),
            value(&["ingle_sequences_waiting", "vllm:num_requests_waiting"], "gauge", "Sequences that wait.", status.waiting as f64),
            value(&["ingle_kv_cache_usage", "vllm:kv_cache_usage_perc"], "gauge", "Share of KV blocks that sequences hold, 0 to 1.", kv_usage),
            value(&["ingle_kv_blocks_used"], "gauge", "KV blocks that sequences hold.", blocks_used),
            value(&["ingle_kv_blocks_cached"], "gauge", "KV blocks that only the prefix cache holds.", status.kv_blocks_cached as f64),
            value(&["ingle_kv_blocks"], "gauge", "KV blocks in all.", status.kv_blocks_total as f64),
            value(&["ingle_memory_bytes"], "gauge", "Bytes of weights and KV cache.", status.memory_bytes as f64),
            value(&["ingle_tasks"], "gauge", "Tasks of the server's runtime that have not ended.", tokio::runtime::Handle::try_current().map_or(0, |h| h.metrics().num_alive_tasks()) as f64),
            value(&["ingle_prefill_tokens_per_second"], "gauge", "Prompt tokens computed per second, lately.", status.prefill_tokens_per_s),
            value(&["ingle_decode_tokens_per_second"], "gauge", "Tokens generated per second, lately.", status.decode_tokens_per_s),
            value(&["ingle_prompt_tokens_total"], "counter", "Prompt tokens computed.", status.prompt_tokens_total as f64),
            value(&["ingle_cached_tokens_total", "vllm:prompt_tokens_cached_total"], "counter", "Prompt tokens taken from the prefix cache.", status.cached_tokens_total as f64),
            // vLLM counts a prompt's tokens whether or not they were cached.
            value(&["vllm:prompt_tokens_total"], "counter", "Prompt tokens, cached ones included.", (status.prompt_tokens_total + status.cached_tokens_total) as f64),
            value(&["ingle_generated_tokens_total", "vllm:generation_tokens_total"], "counter", "Tokens generated.", status.generated_tokens_total as f64),
            value(&["ingle_preemptions_total", "vllm:num_preemptions_total"], "counter", "Sequences preempted.", status.preemptions_total as f64),
            value(&["ingle_steps_total"], "counter", "Steps run.", status.steps_total as f64),
            value(&["ingle_requests_finished_total"], "counter", "Requests that the provider finished.", status.requests_finished_total as f64),
            value(&["ingle_requests_aborted_total"], "counter", "Requests that the provider aborted.", status.requests_aborted_total as f64),
        ];
        for Value { names, kind, help, value } in values {
            for name in names {
                let _ =
                    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{label}}} {value}");
            }
        }
        #[rustfmt::skip]
        let histograms: [(&[&str], &str, &Histogram); 6] = [
            (&["ingle_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"], "From a request's arrival to its first token.", &self.time_to_first_token),
            (&["ingle_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"], "Between two pieces of text of one choice.", &self.inter_token_latency),
            (&["ingle_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"], "From a request's arrival to the end of its reply.", &self.e2e_latency),
            (&["ingle_request_queue_time_seconds", "vllm:request_queue_time_seconds"], "From admission to the first step.", &self.queue_time),
            (&["ingle_request_prefill_time_seconds", "vllm:request_prefill_time_seconds"], "From the first step to the first token.", &self.prefill_time),
            (&["ingle_request_decode_time_seconds", "vllm:request_decode_time_seconds"], "From the first token to the last.", &self.decode_time),
        ];
        for (names, help, histogram) in histograms {
            for name in names {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
                histogram.render(name, &label, &mut out);
            }
        }
        self.render_counters(&label, &mut out);
        out
    }

    fn render_counters(&self, label: &str, out: &mut String) {
        for name in ["ingle_choices_finished_total", "vllm:request_success_total"] {
            let _ = writeln!(out, "# HELP {name} Choices that ended, by reason.\n# TYPE {name} counter");
            for (reason, count) in &*self.finished.lock().expect(LOCK) {
                let _ = writeln!(out, "{name}{{{label},finished_reason=\"{reason}\"}} {count}");
            }
        }
        let name = "ingle_replies_total";
        let _ = writeln!(out, "# HELP {name} Replies by how they ended.\n# TYPE {name} counter");
        for (outcome, count) in &*self.outcomes.lock().expect(LOCK) {
            let outcome = match outcome {
                Outcome::Finished => "finished",
                Outcome::Failed => "failed",
                Outcome::Aborted => "aborted",
            };
            let _ = writeln!(out, "{name}{{{label},outcome=\"{outcome}\"}} {count}");
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
    fn labels_are_escaped() {
        let page = Metrics::default().render("a\"b\\c\nd", &ProviderStatus::default());
        assert!(page.contains(r#"ingle_ready{model_name="a\"b\\c\nd"} 0"#), "{page}");
    }
}

//! Runs as a picture: an SVG file without scripts or fonts of its own, readable on light and on dark pages.
//!
//! One run shows how its latencies are distributed; several show latency and throughput against the load.

use std::fmt::Write as _;

use super::measured::{Measured, Record};
use super::plan::Pace;
use super::report::{e2e, number, ttft};

const STYLE: &str = r#"
  .card { fill: #ffffff; stroke: #d0d7de; } .text { fill: #1f2328; } .faint { fill: #59636e; }
  .grid { stroke: #d0d7de; } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
  .s0 { stroke: #0969da; } .s1 { stroke: #bc4c00; } .s2 { stroke: #8250df; }
  .t0 { fill: #0969da; } .t1 { fill: #bc4c00; } .t2 { fill: #8250df; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117; stroke: #3d444d; } .text { fill: #f0f6fc; } .faint { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .s0 { stroke: #4493f8; } .s1 { stroke: #f0883e; } .s2 { stroke: #ab7df8; }
    .t0 { fill: #4493f8; } .t1 { fill: #f0883e; } .t2 { fill: #ab7df8; }
  }
  text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; }
"#;
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 448.0;
/// Where panels begin and end.
const TOP: f64 = 112.0;
const BOTTOM: f64 = 340.0;
/// Points of a curve at most.
const POINTS_MAX: usize = 240;
/// Letters of a caption's line.
const CAPTION: usize = 120;

/// A named curve.
struct Series {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// A picture of the runs; `None` if none has an answer. `caption` stands below.
pub fn svg(runs: &[Measured], title: &str, caption: &str) -> Option<String> {
    let runs: Vec<&Measured> = runs.iter().filter(|run| run.answered().next().is_some()).collect();
    let mut out = Canvas(String::new());
    let label = |text: &str| escape(text);
    let _ = writeln!(
        out.0,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{}">
<style>{STYLE}</style>
<rect x="0.5" y="0.5" width="{}" height="{}" rx="8" class="card"/>"#,
        label(title),
        WIDTH - 1.0,
        HEIGHT - 1.0
    );
    let bold = r#" style="font-size: 18px" font-weight="600""#;
    out.text(24.0, 34.0, title, "text", "start", bold);
    match runs.as_slice() {
        [] => return None,
        [run] => distribution(run, &mut out),
        runs => against_load(runs, &mut out),
    }
    for (i, line) in wrapped(caption).iter().enumerate() {
        out.text(24.0, HEIGHT - 36.0 + 18.0 * i as f64, line, "faint", "start", "");
    }
    out.0.push_str("</svg>\n");
    Some(out.0)
}

/// At most two lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is a line");
        if last.len() + word.len() < CAPTION || last.is_empty() {
            let space = if last.is_empty() { "" } else { " " };
            let _ = write!(last, "{space}{word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.truncate(2);
    lines
}

/// Shares of requests, or of gaps, that took at most so long.
fn distribution(run: &Measured, out: &mut Canvas) {
    let from_start = |value: fn(&Record) -> Option<f64>| {
        let is_open = matches!(run.pace, Pace::Open { .. });
        let lag =
            move |r: &Record| if is_open { r.sent.saturating_sub(r.scheduled).as_secs_f64() } else { 0.0 };
        let mut values = run.values(|r| Some(value(r)? + lag(r)));
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        values.iter().enumerate().map(|(i, v)| (v * 1e3, (i + 1) as f64 / n)).collect::<Vec<_>>()
    };
    let gaps = run.gaps.curve().into_iter().map(|(seconds, share)| (seconds * 1e3, share)).collect();
    let series = [
        Series { name: "to the first token", points: from_start(ttft) },
        Series { name: "between events (ITL)", points: gaps },
        Series { name: "end to end", points: from_start(e2e) },
    ];
    // A logarithm needs what is above 0; below a hundredth of a millisecond nothing is told apart.
    let bounded = |x: f64| x.max(0.01);
    let xs = || series.iter().flat_map(|s| s.points.iter().map(|(x, _)| bounded(*x)));
    let (low, high) = (xs().fold(f64::MAX, f64::min), xs().fold(0.0, f64::max));
    let ticks = log_ticks(low, high);
    let (low, high) = (ticks[0].min(low), ticks[ticks.len() - 1].max(high));
    let (left, right) = (70.0, WIDTH - 30.0);
    let x = |v: f64| left + (right - left) * (bounded(v) / low).ln() / (high / low).ln().max(1e-9);
    let y = |share: f64| BOTTOM - (BOTTOM - TOP) * share;
    legend(&series, 24.0, out);
    for share in [0.0, 0.25, 0.5, 0.75, 0.9, 1.0] {
        out.rule(left, y(share), right, y(share));
        out.text(left - 8.0, y(share) + 4.0, &format!("{:.0} %", share * 100.0), "faint", "end", "");
    }
    for tick in ticks {
        out.rule(x(tick), TOP, x(tick), BOTTOM);
        out.text(x(tick), BOTTOM + 18.0, &short(tick), "faint", "middle", "");
    }
    out.text((left + right) / 2.0, BOTTOM + 36.0, "at most so many ms", "faint", "middle", "");
    for (i, series) in series.iter().enumerate() {
        let mut points = vec![(series.points.first().map_or(low, |p| p.0), 0.0)];
        points.extend(thinned(&series.points));
        out.line(points.into_iter().map(|(v, share)| (x(v), y(share))), i, false);
    }
}

/// Latency and throughput of each run.
fn against_load(runs: &[&Measured], out: &mut Canvas) {
    let is_open = matches!(runs[0].pace, Pace::Open { .. });
    let loads: Vec<String> = runs.iter().map(|run| load(run.pace)).collect();
    let of = |pick: fn(&super::stats::Summary) -> f64| {
        runs.iter()
            .enumerate()
            .map(|(i, run)| (i as f64, pick(&run.summary(first_from_start)) * 1e3))
            .collect()
    };
    let latencies = [
        Series { name: "P50", points: of(|s| s.p50) },
        Series { name: "P95", points: of(|s| s.p95) },
        Series { name: "P99", points: of(|s| s.p99) },
    ];
    let speed =
        runs.iter().enumerate().map(|(i, run)| (i as f64, run.per_second(run.total(Record::output_tokens))));
    let speed = [Series { name: "output tokens/s", points: speed.collect() }];
    let below = if is_open { "sessions per second" } else { "clients at once" };
    out.text(24.0, 66.0, "Time to the first token, ms", "text", "start", r#" font-weight="600""#);
    out.text(WIDTH / 2.0 + 24.0, 66.0, "Output tokens per second", "text", "start", r#" font-weight="600""#);
    legend(&latencies, 24.0, out);
    for (series, left) in [(&latencies[..], 70.0), (&speed[..], WIDTH / 2.0 + 70.0)] {
        panel(series, &loads, below, left, left + WIDTH / 2.0 - 110.0, out);
    }
}

fn first_from_start(record: &Record) -> Option<f64> {
    Some(record.first?.saturating_sub(record.scheduled).as_secs_f64())
}

fn load(pace: Pace) -> String {
    match pace {
        Pace::Closed { concurrency } => concurrency.to_string(),
        Pace::Open { arrivals: Some((rate, _)), .. } => short(rate),
        Pace::Open { arrivals: None, .. } => "trace".into(),
    }
}

fn panel(series: &[Series], loads: &[String], below: &str, left: f64, right: f64, out: &mut Canvas) {
    let high = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).fold(0.0, f64::max);
    let step = nice_step(high);
    let n_steps = (high / step).ceil().max(1.0);
    let y = |v: f64| BOTTOM - (BOTTOM - TOP) * v / (step * n_steps);
    let margin = 20.0;
    let x = |i: f64| left + margin + (right - left - 2.0 * margin) * i / (loads.len() - 1).max(1) as f64;
    for i in 0..=n_steps as usize {
        let value = step * i as f64;
        out.rule(left, y(value), right, y(value));
        out.text(left - 8.0, y(value) + 4.0, &short(value), "faint", "end", "");
    }
    for (i, load) in loads.iter().enumerate() {
        out.text(x(i as f64), BOTTOM + 18.0, load, "faint", "middle", "");
    }
    out.text((left + right) / 2.0, BOTTOM + 36.0, below, "faint", "middle", "");
    for (i, series) in series.iter().enumerate() {
        out.line(series.points.iter().map(|&(at, v)| (x(at), y(v))), i, true);
        if let Some(&(at, v)) = series.points.last() {
            out.text(x(at), y(v) - 8.0, &number(v), &format!("t{i}"), "middle", "");
        }
    }
}

fn legend(series: &[Series], left: f64, out: &mut Canvas) {
    let mut x = left;
    for (i, series) in series.iter().enumerate() {
        let _ = writeln!(out.0, r#"<path d="M{x:.0} 86h18" class="line s{i}"/>"#);
        out.text(x + 24.0, 90.0, series.name, "text", "start", "");
        x += 44.0 + 7.0 * series.name.len() as f64;
    }
}

/// 1, 2 and 5 times powers of ten that span the range; only powers where it is wide.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let factors: &[f64] = if to - from > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all: Vec<f64> = (from..=to).flat_map(|p| factors.iter().map(move |f| f * 10f64.powi(p))).collect();
    let first = all.iter().rposition(|tick| *tick <= low).unwrap_or(0);
    let last = all.iter().position(|tick| *tick >= high).unwrap_or(all.len() - 1);
    all[first..=last.max(first)].to_vec()
}

/// A step of 1, 2 or 5 times a power of ten, of which at most five reach the value.
fn nice_step(high: f64) -> f64 {
    let power = 10f64.powf((high.max(1e-3) / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|f| f * power)
        .find(|step| step * 5.0 >= high)
        .unwrap_or(10.0 * power)
}

fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(POINTS_MAX).max(1);
    let last = points.last().copied();
    points.iter().copied().step_by(step).chain(last).collect()
}

/// `0.5`, `20`, `1500`.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What has been drawn.
struct Canvas(String);

impl Canvas {
    fn text(&mut self, x: f64, y: f64, content: &str, class: &str, anchor: &str, extra: &str) {
        let content = escape(content);
        let _ = writeln!(
            self.0,
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}" text-anchor="{anchor}"{extra}>{content}</text>"#
        );
    }

    fn rule(&mut self, x1: f64, y1: f64, x2: f64, y2: f64) {
        let _ = writeln!(self.0, r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" class="grid"/>"#);
    }

    fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, series: usize, with_dots: bool) {
        let points: Vec<_> = points.collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(self.0, r#"<path d="M{}" class="line s{series}"/>"#, path.join("L"));
        for (x, y) in points.iter().filter(|_| with_dots) {
            let _ = writeln!(self.0, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" class="t{series}"/>"#);
        }
    }
}

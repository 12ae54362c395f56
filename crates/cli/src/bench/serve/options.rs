//! The command line of `ingle bench serve`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use ingle_api::client::Dialect;
use ingle_eval::load::arrivals::Pattern;
use ingle_eval::load::lengths::Lengths;
use ingle_eval::load::slo::Slo;
use ingle_eval::load::trace::{Recorded, Synthetic, Trace};
use ingle_eval::load::{Extent, Pace, Plan, REQUESTS_MAX, Target, Tcp, parse_time};
use serde_json::{Map, Value, json};

const ABOUT: &str = "\
Send requests to servers that speak OpenAI's API, and measure how they are answered.

Closed loop: --concurrency clients, each of which waits for its answer before it asks again. Open loop: --rate sessions \
arrive per second, however long answers take; latencies are then reported from the sending and from the intended start. \
Several values, as in `--concurrency 1,8,32`, are measured one after the other.

Before the first run the server's tokens are counted (/tokenize where it has it, and a request or two for one token), so \
that prompts have the length that is asked for.

Exit codes: 0 if every request was answered, 3 if some failed, 130 if it was stopped, 1 if it failed, 2 if the command \
line is wrong.";

/// Servers at most.
const TARGETS_MAX: usize = 64;
/// Runs at most.
const RUNS_MAX: usize = 64;
/// Clients, and sessions that go on at once, at most: each has a connection.
const CONCURRENCY_MAX: u64 = 16_384;
const IN_FLIGHT_DEFAULT: u64 = 1024;
const REQUESTS_DEFAULT: u64 = 100;
const WARM_UP_DEFAULT: u64 = 4;
const KEY_BYTES_MAX: u64 = 64 << 10;

/// What is to be done.
pub struct Options {
    pub plan: Plan,
    pub paces: Vec<Pace>,
    pub extent: Extent,
    /// Warm-up requests, and how many at once.
    pub warm_up: (u64, u64),
    /// Each run sends the same prompts.
    pub repeats_prompts: bool,
    pub slo: Slo,
    pub outputs: Outputs,
    /// All of it, for the report.
    pub settings: Value,
}

/// Where results go.
pub struct Outputs {
    /// The report goes to standard output, in place of the tables.
    pub json_to_stdout: bool,
    pub json: Option<PathBuf>,
    pub records: Option<PathBuf>,
    pub svg: Option<PathBuf>,
    pub title: String,
    pub caption: String,
}

fn arguments() -> Vec<Arg> {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let number = |name, help| option(name, "N", help).value_parser(value_parser!(u64));
    let time = |name, help| option(name, "TIME", help).value_parser(parse_time);
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let lengths =
        |name, help| option(name, "LENGTH", help).value_parser(|text: &str| text.parse::<Lengths>());
    vec![
        option(
            "url",
            "URL",
            "A server's address; several times: sessions go round [default: http://127.0.0.1:8080]",
        )
        .action(ArgAction::Append),
        option("api", "NAME", "Which API: chat or completions [default: chat]")
            .value_parser(["chat", "completions"]),
        option("model", "NAME", "The model that is asked for; servers with one model need none").short('m'),
        option("api-key", "KEY", "Sent as bearer token").conflicts_with_all(["api-key-env", "api-key-file"]),
        option("api-key-env", "NAME", "Take the key from this environment variable")
            .conflicts_with("api-key-file"),
        option("api-key-file", "FILE", "Take the key from a file"),
        option("header", "NAME:VALUE", "Sent with every request; several times").action(ArgAction::Append),
        option("extra-body", "JSON", "An object of further fields for every request, such as {\"seed\": 1}"),
        option("temperature", "T", "The requests' temperature [default: 0]").value_parser(value_parser!(f64)),
        option("concurrency", "N,..", "Closed loop: so many clients [default: 1]")
            .short('c')
            .conflicts_with("rate"),
        option("rate", "R,..", "Open loop: so many sessions arrive per second"),
        option(
            "arrivals",
            "PATTERN",
            "How they spread: poisson, constant, burst:N, gamma:CV [default: poisson]",
        )
        .requires("rate")
        .value_parser(|text: &str| text.parse::<Pattern>()),
        number(
            "max-in-flight",
            "Open loop: sessions at once; those beyond start late, which latencies show [default: 1024]",
        )
        .conflicts_with("concurrency"),
        number(
            "requests",
            "Requests of each run [default: 100, or 4 for each client, or all of a trace file]",
        )
        .short('n')
        .conflicts_with("seconds"),
        option("seconds", "S", "Begin no request after this time, in place of a number")
            .value_parser(value_parser!(f64)),
        number("warmup", "Requests before the first run, which don't count [default: 4; 0 for a trace file]"),
        option(
            "trace",
            "WHAT",
            "synthetic, infill (gaps for /infill), or a file of requests [default: synthetic]",
        ),
        lengths(
            "prompt-tokens",
            "Tokens of a prompt: 512, uniform:64-1024, lognormal:MEDIAN,SIGMA[,MAX] [default: 512]",
        ),
        lengths("output-tokens", "Tokens of an answer, in the same way [default: 128]"),
        flag("respect-eos", "Let answers end where the model ends them, before --output-tokens"),
        number(
            "shared-prefix",
            "Tokens at the beginning that all prompts share, of those of --prompt-tokens [default: 0]",
        ),
        number("prefix-groups", "Groups of prompts, each with a shared prefix of its own [default: 1]")
            .requires("shared-prefix"),
        number("turns", "Turns of a conversation; each sends what was said so far [default: 1]"),
        lengths("turn-tokens", "Tokens that the user says in later turns [default: 64]").requires("turns"),
        time("think-time", "Between an answer and the next turn [default: 0s]"),
        number("prompts", "Different sessions, after which they come again [default: all differ]"),
        flag("repeat-prompts", "Send the same prompts in each run: do answers depend on the load?"),
        number("seed", "Prompts, lengths and arrivals follow from it [default: 0]"),
        time("timeout", "The longest that a request may take [default: 600s]"),
        option("slo", "BOUNDS", "What a good answer keeps, such as ttft=200ms,itl=50ms,tpot=40ms,e2e=5s")
            .value_parser(|text: &str| text.parse::<Slo>()),
        option(
            "json",
            "FILE",
            "Write the report to a file; `-`, or no value: to standard output, without tables",
        )
        .num_args(0..=1)
        .default_missing_value("-"),
        option("records", "FILE", "Write a line of JSON for each request"),
        option("svg", "FILE", "Draw latencies: of one run their distribution, of several against the load"),
    ]
}

/// The command, as clap knows it.
pub fn command() -> Command {
    Command::new("serve").bin_name("ingle bench serve").about(ABOUT).no_binary_name(true).args(arguments())
}

impl Options {
    pub fn parse(args: &[OsString]) -> Result<Self> {
        let m =
            command().try_get_matches_from(args).unwrap_or_else(|error| crate::outcome::leave(&error, args));
        Self::new(&m)
    }

    fn new(m: &ArgMatches) -> Result<Self> {
        let seed = number(m, "seed", 0, 0..=u64::MAX)?;
        let trace = trace(m)?;
        let dialect = match (trace.is_infill(), m.get_one::<String>("api").map(String::as_str)) {
            (true, None) => Dialect::Infill,
            (true, Some(_)) => misuse!("--api: gaps go to /infill; leave it out"),
            (false, Some("completions")) => Dialect::Completions,
            (false, _) => Dialect::Chat,
        };
        let paces = paces(m, &trace)?;
        let extent = extent(m, &paces, &trace)?;
        let key = key(m)?;
        let targets = targets(m)?;
        let urls: Vec<String> = targets.iter().map(|target| target.url.clone()).collect();
        let mut plan = Plan::new(targets, Arc::new(Tcp), &headers(m)?, key.as_deref(), dialect, trace)
            .map_err(anyhow::Error::msg)?;
        plan.model = m.get_one::<String>("model").cloned();
        plan.ignore_eos = !m.get_flag("respect-eos");
        plan.more = more(m)?;
        plan.timeout = time(m, "timeout").unwrap_or(plan.timeout);
        plan.think = time(m, "think-time").unwrap_or_default();
        plan.seed = seed;
        let is_file = plan.trace.n_requests().is_some();
        let warm_up = number(m, "warmup", if is_file { 0 } else { WARM_UP_DEFAULT }, 0..=REQUESTS_MAX)?;
        let at_once = paces.iter().map(|pace| match pace {
            Pace::Closed { concurrency } => *concurrency,
            Pace::Open { .. } => WARM_UP_DEFAULT,
        });
        let warm_up = (warm_up, at_once.max().unwrap_or(1));
        let settings = settings(m, &plan, &urls, extent, warm_up.0);
        let json = m.get_one::<String>("json");
        let path = |name: &str| m.get_one::<String>(name).map(PathBuf::from);
        Ok(Self {
            outputs: Outputs {
                json_to_stdout: json.is_some_and(|to| to == "-"),
                json: json.filter(|to| *to != "-").map(PathBuf::from),
                records: path("records"),
                svg: path("svg"),
                title: format!("Latencies of {}", plan.model.as_deref().unwrap_or(&urls[0])),
                caption: caption(m, &plan, &urls),
            },
            plan,
            paces,
            extent,
            warm_up,
            repeats_prompts: m.get_flag("repeat-prompts"),
            slo: m.get_one::<Slo>("slo").cloned().unwrap_or_default(),
            settings,
        })
    }
}

fn number(m: &ArgMatches, name: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
    let value = m.get_one::<u64>(name).copied().unwrap_or(default);
    if !range.contains(&value) {
        misuse!("--{name}: {value} is not from {} to {}", range.start(), range.end());
    }
    Ok(value)
}

fn time(m: &ArgMatches, name: &str) -> Option<Duration> {
    m.get_one::<Duration>(name).copied()
}

fn length(m: &ArgMatches, name: &str, default: u32) -> Lengths {
    m.get_one::<Lengths>(name).copied().unwrap_or(Lengths::Fixed(default))
}

/// Options that a file of requests leaves nothing to say for.
const SYNTHETIC_ONLY: [&str; 6] =
    ["prompt-tokens", "shared-prefix", "prefix-groups", "turns", "turn-tokens", "prompts"];

fn trace(m: &ArgMatches) -> Result<Trace> {
    let output = length(m, "output-tokens", 128);
    let what = m.get_one::<String>("trace").map_or("synthetic", String::as_str);
    if !["synthetic", "infill"].contains(&what) {
        if let Some(name) = SYNTHETIC_ONLY.into_iter().find(|name| m.contains_id(name)) {
            misuse!("--{name}: the file of --trace says it; leave it out");
        }
        let Lengths::Fixed(output) = output else {
            misuse!("--output-tokens: beside a file of --trace, a number for the lines that don't say it");
        };
        return Ok(Trace::Recorded(Recorded::open(what.as_ref(), output).context("--trace")?));
    }
    let prompt = length(m, "prompt-tokens", 512);
    let tokens = u64::from(ingle_eval::load::TOKENS_MAX - 1);
    let shared_prefix = number(m, "shared-prefix", 0, 0..=tokens)? as u32;
    if let Some(least) = prompt.least().filter(|least| *least <= shared_prefix) {
        misuse!(
            "--shared-prefix: prompts of {least} tokens have no {shared_prefix} to share and one of their own"
        );
    }
    let infill = what == "infill";
    let turns = number(m, "turns", 1, 1..=1000)? as u32;
    if infill && turns > 1 {
        misuse!("--turns: gaps are no conversations; leave it out");
    }
    Ok(Trace::Synthetic(Synthetic {
        prompt,
        output,
        shared_prefix,
        prefix_groups: number(m, "prefix-groups", 1, 1..=REQUESTS_MAX)?,
        turns,
        turn: length(m, "turn-tokens", 64),
        distinct: m.contains_id("prompts").then(|| number(m, "prompts", 0, 1..=REQUESTS_MAX)).transpose()?,
        infill,
    }))
}

/// Numbers parted by commas.
fn list<T: std::str::FromStr>(
    name: &str,
    text: &str,
    fits: impl Fn(&T) -> bool,
    wanted: &str,
) -> Result<Vec<T>> {
    let values: Option<Vec<T>> = text.split(',').map(|part| part.trim().parse().ok().filter(&fits)).collect();
    let values =
        values.with_context(|| format!("--{name}: `{text}` is not {wanted}, or several parted by commas"))?;
    if values.len() > RUNS_MAX {
        misuse!("--{name}: {} values; at most {RUNS_MAX} runs follow each other", values.len());
    }
    Ok(values)
}

fn paces(m: &ArgMatches, trace: &Trace) -> Result<Vec<Pace>> {
    let in_flight = number(m, "max-in-flight", IN_FLIGHT_DEFAULT, 1..=CONCURRENCY_MAX)?;
    if let Some(rates) = m.get_one::<String>("rate") {
        let pattern = m.get_one::<Pattern>("arrivals").copied().unwrap_or(Pattern::Poisson);
        let rates =
            list("rate", rates, |rate: &f64| (1e-3..=1e6).contains(rate), "a number from 0.001 to 1000000")?;
        return Ok(rates
            .into_iter()
            .map(|r| Pace::Open { arrivals: Some((r, pattern)), in_flight })
            .collect());
    }
    if trace.has_times() && !m.contains_id("concurrency") {
        return Ok(vec![Pace::Open { arrivals: None, in_flight }]);
    }
    if m.contains_id("max-in-flight") {
        misuse!("--max-in-flight belongs to the open loop: give --rate, or a trace with timestamps");
    }
    if trace.has_times() {
        say!("note: --concurrency is a closed loop: the timestamps of the trace are not used");
    }
    let clients = m.get_one::<String>("concurrency").map_or("1", String::as_str);
    let wanted = format!("a number from 1 to {CONCURRENCY_MAX}");
    let clients = list("concurrency", clients, |n: &u64| (1..=CONCURRENCY_MAX).contains(n), &wanted)?;
    Ok(clients.into_iter().map(|concurrency| Pace::Closed { concurrency }).collect())
}

fn extent(m: &ArgMatches, paces: &[Pace], trace: &Trace) -> Result<Extent> {
    if let Some(&seconds) = m.get_one::<f64>("seconds") {
        if !(0.01..=1e7).contains(&seconds) {
            misuse!("--seconds: {seconds} is not from 0.01 to 10000000");
        }
        return Ok(Extent::Time(Duration::from_secs_f64(seconds)));
    }
    let clients = paces.iter().map(|pace| match pace {
        Pace::Closed { concurrency } => *concurrency,
        Pace::Open { .. } => 0,
    });
    let default = REQUESTS_DEFAULT.max(4 * clients.max().unwrap_or(0));
    let available = trace.n_requests();
    let n = number(m, "requests", available.unwrap_or(default), 1..=REQUESTS_MAX)?;
    if let Some(available) = available.filter(|available| n > *available) {
        bail!("--requests: the trace has {available}, not {n}");
    }
    Ok(Extent::Requests(n))
}

fn targets(m: &ArgMatches) -> Result<Vec<Target>> {
    let urls: Vec<&str> = match m.get_many::<String>("url") {
        Some(urls) => urls.map(String::as_str).collect(),
        None => vec!["http://127.0.0.1:8080"],
    };
    if urls.len() > TARGETS_MAX {
        misuse!("--url: {} servers; at most {TARGETS_MAX} are called", urls.len());
    }
    urls.into_iter().map(|url| Target::parse(url).context("--url")).collect()
}

fn key(m: &ArgMatches) -> Result<Option<String>> {
    if let Some(key) = m.get_one::<String>("api-key") {
        return Ok(Some(key.clone()));
    }
    if let Some(name) = m.get_one::<String>("api-key-env") {
        let key = std::env::var(name).with_context(|| format!("--api-key-env: {name}"))?;
        return Ok(Some(key));
    }
    let Some(path) = m.get_one::<String>("api-key-file") else { return Ok(None) };
    let file = std::fs::File::open(path).with_context(|| format!("--api-key-file: cannot read {path}"))?;
    let text = crate::run::read_text(file, path, KEY_BYTES_MAX)?;
    Ok(Some(text.trim().to_owned()))
}

fn headers(m: &ArgMatches) -> Result<Vec<(String, String)>> {
    let given = m.get_many::<String>("header").into_iter().flatten();
    given
        .map(|text| {
            let (name, value) =
                text.split_once(':').with_context(|| format!("--header: `{text}` is not NAME:VALUE"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// Further fields of each request.
fn more(m: &ArgMatches) -> Result<Map<String, Value>> {
    let mut more: Map<String, Value> = match m.get_one::<String>("extra-body") {
        Some(text) => serde_json::from_str(text).context("--extra-body is no JSON object")?,
        None => Map::new(),
    };
    if let Err(name) = Dialect::check_more(&more) {
        misuse!("--extra-body: `{name}` is set by other options; leave it out");
    }
    if more.contains_key("temperature") && m.contains_id("temperature") {
        misuse!("--extra-body: `temperature` is given by --temperature, too");
    }
    let temperature = m.get_one::<f64>("temperature").copied().unwrap_or(0.0);
    more.entry("temperature").or_insert_with(|| temperature.into());
    Ok(more)
}

/// What was asked for, without the key.
fn settings(m: &ArgMatches, plan: &Plan, urls: &[String], extent: Extent, warm_up: u64) -> Value {
    let (requests, seconds) = match extent {
        Extent::Requests(n) => (Some(n), None),
        Extent::Time(time) => (None, Some(time.as_secs_f64())),
    };
    let trace = match &plan.trace {
        Trace::Synthetic(t) => json!({
            "kind": if t.infill { "infill" } else { "synthetic" }, "prompt_tokens": t.prompt.to_string(),
            "output_tokens": t.output.to_string(), "shared_prefix": t.shared_prefix,
            "prefix_groups": t.prefix_groups, "turns": t.turns, "turn_tokens": t.turn.to_string(),
            "prompts": t.distinct,
        }),
        Trace::Recorded(t) => json!({
            "kind": "file", "file": m.get_one::<String>("trace"), "requests": t.n_requests(),
        }),
    };
    json!({
        "urls": urls, "api": plan.dialect.path(), "model": plan.model, "seed": plan.seed, "requests": requests,
        "seconds": seconds, "warmup": warm_up, "trace": trace, "ignore_eos": plan.ignore_eos, "body": plan.more,
        "repeat_prompts": m.get_flag("repeat-prompts"), "think_time_s": plan.think.as_secs_f64(),
        "timeout_s": plan.timeout.as_secs_f64(),
    })
}

fn caption(m: &ArgMatches, plan: &Plan, urls: &[String]) -> String {
    let trace = match &plan.trace {
        Trace::Synthetic(t) => format!(
            "prompts of {} tokens, {} of them shared; answers of {}",
            t.prompt, t.shared_prefix, t.output
        ),
        Trace::Recorded(_) => {
            format!("requests of {}", m.get_one::<String>("trace").map_or("a file", String::as_str))
        }
    };
    format!("{}{}: {trace}; seed {}.", urls.join(", "), plan.dialect.path(), plan.seed)
}

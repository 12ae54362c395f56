//! `ingle fit`: what a model needs, whether a machine can run it and how fast, from the model's header alone.
//!
//! [`subject`] finds the header: a GGUF file, a folder in Hugging Face's layout, or a shape and a mixture that
//! `--params` and `--quant` name; [`remote`] finds models by name, in the store or elsewhere, where only headers are
//! fetched. [`report`] compares what it needs with this machine, or with one of the catalogue, and prints. Where a name
//! leads to a repository, [`choices`] does so for each of its models; where there is no name at all, [`shapes`] for
//! published ones. [`check`] loads the model, and compares the estimate with what was really taken.

mod check;
mod choices;
mod remote;
mod report;
mod shapes;
mod subject;

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use ingle_kernels::{Pool, limits};
use ingle_model::sizing::devices::Catalogue;
use ingle_model::sizing::{Arithmetic, Demand, Machine, Summary};
use ingle_runtime::outlook::swap_bytes;
use ingle_step::KvType;

use self::subject::Subject;
use crate::outcome::{Misused, misused};
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};

pub const USAGE: Usage = Usage {
    name: "fit",
    about: "Say what a model needs and whether it can run here, from its header alone.\n\n\
        Without MODEL, published models are named that can. --params and --quant name a size and a mixture, of the\n\
        published model nearest to them.",
    command: Commands::PULL,
    positional: &[(
        "MODEL",
        "GGUF file (of a split model, the first), folder with config.json and safetensors, name of the store, or a name \
         or URL from which a model could be pulled (hf.co/user/repo:QUANT, llama3.1:8b, https://...), of which only the \
         header is fetched",
    )],
};

/// What else is loaded, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Extras {
    draft: u64,
    adapters: u64,
    projector: u64,
    /// Its tokenizer, its template and its metadata.
    text: u64,
    /// K/V of sequences that make way for others, at most.
    swap: u64,
}

impl Extras {
    fn total(self) -> u64 {
        let parts = [self.adapters, self.projector, self.text, self.swap];
        parts.iter().fold(self.draft, |all, part| all.saturating_add(*part))
    }

    /// What belongs to a subject, besides what was named.
    fn with(self, subject: &Subject, machine: &Machine, demand: &Demand) -> Self {
        // What others take for these is not known.
        let is_own = machine.is_cpu && subject.summary.runs_here();
        Self {
            draft: self.draft,
            adapters: self.adapters.saturating_add(subject.adapters),
            projector: self.projector.saturating_add(subject.projector),
            text: if is_own { subject.text } else { 0 },
            swap: if is_own { swap_bytes(&subject.summary, demand) } else { 0 },
        }
    }
}

/// `ingle fit`
pub fn main(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(USAGE, &options(), args, &Facts::default())?;
    parsed.notes.iter().for_each(|note| say!("note: {note}"));
    let settings = &parsed.settings;
    if m.get_flag("devices") {
        return devices(m.get_flag("markdown"), settings.json);
    }
    if m.get_flag("markdown") {
        misuse!("--markdown belongs to --devices");
    }
    let name = parsed.positional.first().map(String::as_str);
    let Some(subject) = subject(&m, name, settings)? else {
        if m.get_flag("check") || m.contains_id("quant") {
            misuse!("name a model: a file or a folder, or a size with --params, such as --params 8b");
        }
        return shapes::print(&m, &machine(&m, settings)?, settings.json);
    };
    let demand = demand(&m, &subject.summary)?;
    let extras = extras(&m, &demand)?;
    if m.get_flag("check") {
        let comparison = check::check(&subject, &demand)?;
        return check::print(&comparison, settings.json);
    }
    let machine = machine(&m, settings)?;
    let extras = extras.with(&subject, &machine, &demand);
    let choices = choices::Choices::new(&subject, &machine, &demand, extras);
    let report = report::Report::new(&subject, &machine, demand, extras);
    let mut out = std::io::stdout().lock();
    if settings.json {
        let mut report = report.json();
        if !subject.choices.is_empty() {
            report["repository"] = choices.json();
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else if subject.choices.is_empty() {
        write!(out, "{}", report.text(true))?;
    } else {
        write!(out, "{}{}", report.text(false), choices.text())?;
    }
    Ok(())
}

/// The model that the command line names, if it names one.
fn subject(m: &ArgMatches, name: Option<&str>, settings: &Settings) -> Result<Option<Subject>> {
    // Without a name nothing is read: whatever is wrong then is what --params and --quant say.
    let without_name = subject::find(m, None, settings).map_err(misused)?;
    match (name, without_name) {
        (None, found) => Ok(found),
        (Some(_), Some(_)) => subject::find(m, name, settings).map_err(misused),
        (Some(_), None) => subject::find(m, name, settings),
    }
}

/// What `ingle fit` has besides its settings.
pub fn options() -> Vec<Arg> {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let number = |name: &'static str, value: &'static str, help: &'static str| {
        text(name, value, help).value_parser(value_parser!(u32).range(1..))
    };
    vec![
        number(
            "ctx-size",
            "TOKENS",
            "Longest sequence [default: what the model was trained for, at most 8192]",
        )
        .short('c')
        .visible_alias("ctx"),
        number("parallel", "N", "Sequences of that length at the same time").default_value("1"),
        text("kv-type", "TYPE", "How keys and values are stored: f32, f16, bf16, q8_0 or q4_0")
            .default_value("f16"),
        number("batch-tokens", "TOKENS", "Most tokens that one step computes").default_value("512"),
        text("model-draft", "FILE", "GGUF file of a draft model beside it"),
        text("lora", "FILE", "Adapter beside it, as GGUF; may be given several times")
            .action(ArgAction::Append),
        text("mmproj", "FILE", "GGUF file of a projector beside it, which turns images into embeddings"),
        text("params", "N", "Size of a model without a file, such as 70b, or a name such as llama-3.1-70b"),
        text(
            "quant",
            "MIXTURE",
            "Its mixture, such as Q4_K_M; with a file, the mixture that it would be made to",
        ),
        text(
            "on",
            "DEVICE",
            "Device to size it for, such as a10, 4090x2 or m3max-64, instead of this machine",
        ),
        text("bandwidth", "GB/S", "Speed of the memory, instead of measuring it")
            .value_parser(value_parser!(f64)),
        flag("devices", "List the devices that --on knows"),
        flag("markdown", "The list as the page docs/hardware.md"),
        flag("check", "Load the model, and compare the estimate with what it really takes"),
    ]
}

fn devices(as_markdown: bool, as_json: bool) -> Result<()> {
    let catalogue = Catalogue::built_in();
    let mut out = std::io::stdout().lock();
    if as_markdown {
        write!(out, "{}", catalogue.markdown())?;
        return Ok(());
    }
    if as_json {
        let devices: Vec<_> = catalogue
            .devices
            .iter()
            .map(|d| {
                serde_json::json!({
                    "name": d.name, "aliases": d.aliases, "kind": d.kind.name(), "memory_gib": d.memory_gib,
                    "read_gb_per_s": d.read_gbs, "tflops": d.tflops, "source": d.source, "seen": d.seen,
                })
            })
            .collect();
        let list = serde_json::json!({ "date": catalogue.date, "devices": devices });
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    for d in &catalogue.devices {
        let sizes: Vec<String> = d.memory_gib.iter().map(|size| format!("{size}")).collect();
        writeln!(
            out,
            "{:16} {:44} {:>20} GiB {:7} GB/s",
            d.aliases[0],
            d.name,
            sizes.join(", "),
            d.read_gbs
        )?;
    }
    Ok(())
}

fn demand(m: &ArgMatches, summary: &Summary) -> Result<Demand> {
    let asked = m.get_one::<u32>("ctx-size").copied().map(u64::from);
    if let Some(n_ctx) = asked.filter(|&n| summary.n_ctx_train > 0 && n > summary.n_ctx_train) {
        bail!(
            "--ctx-size: the model was trained for {} tokens, {n_ctx} are more; ask for a shorter context",
            summary.n_ctx_train
        );
    }
    demand_of(m, asked.unwrap_or_else(|| summary.n_ctx_default()))
}

/// What the command line asks, with this context.
fn demand_of(m: &ArgMatches, n_ctx: u64) -> Result<Demand> {
    let n = |name: &str| m.get_one::<u32>(name).copied().map(u64::from);
    let kv_type = m.get_one::<String>("kv-type").expect("it has a default");
    let kv_type = KvType::from_name(&kv_type.to_ascii_lowercase());
    Ok(Demand {
        n_ctx,
        n_seqs: n("parallel").expect("it has a default"),
        kv_type: kv_type.ok_or_else(|| Misused("--kv-type: give f32, f16, bf16, q8_0 or q4_0".into()))?,
        n_rows: n("batch-tokens").expect("it has a default"),
    })
}

fn extras(m: &ArgMatches, demand: &Demand) -> Result<Extras> {
    let open = |path: &str| subject::open(path);
    let mut extras = Extras::default();
    if let Some(path) = m.get_one::<String>("model-draft") {
        let summary = Summary::from_gguf(&open(path)?).with_context(|| format!("draft model {path}"))?;
        let n_ctx =
            if summary.n_ctx_train == 0 { demand.n_ctx } else { demand.n_ctx.min(summary.n_ctx_train) };
        let demand = Demand { n_ctx, ..*demand };
        let needs = match &summary.own {
            Ok(own) => own.needs_for(&demand),
            Err(why) => bail!("draft model {path}: {why}"),
        };
        // It works in the model's buffers' time, and has its own: small beside them.
        extras.draft = needs.weights.saturating_add(needs.kv);
    }
    for path in m.get_many::<String>("lora").into_iter().flatten() {
        // Adapters are held in floats.
        let numbers = open(path)?.tensors().iter().map(|t| t.n_elements()).fold(0, u64::saturating_add);
        extras.adapters = extras.adapters.saturating_add(numbers.saturating_mul(4));
    }
    if let Some(path) = m.get_one::<String>("mmproj") {
        extras.projector =
            open(path)?.tensors().iter().map(|t| t.n_bytes() as u64).fold(0, u64::saturating_add);
    }
    Ok(extras)
}

/// The machine that is asked about: one of the catalogue, or this one, measured.
fn machine(m: &ArgMatches, settings: &Settings) -> Result<Machine> {
    let bandwidth = m.get_one::<f64>("bandwidth").copied();
    if bandwidth.is_some_and(|gbs| !gbs.is_finite() || gbs <= 0.0) {
        misuse!("--bandwidth: give a number above 0, in GB/s");
    }
    if let Some(name) = m.get_one::<String>("on") {
        if m.contains_id("memory_budget") {
            misuse!("--memory-budget is of this machine; with --on the device's own memory counts");
        }
        let machine = Catalogue::built_in().machine(name).map_err(|error| misused(error.into()))?;
        return Ok(Machine { read_gbs: bandwidth.or(machine.read_gbs), ..machine });
    }
    let memory = crate::serve::memory_budget(settings)
        .context("give it with --memory-budget, such as --memory-budget 16G")?;
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(n_threads);
    Ok(Machine {
        name: "this machine".into(),
        memory,
        read_gbs: Some(bandwidth.unwrap_or_else(|| limits::read_gbs(&pool))),
        gops: None,
        arithmetic: Some(Arithmetic {
            int8_gops: limits::int8_gops(&pool),
            bf16_gops: limits::bf16_gops(&pool),
            f32_gops: limits::f32_gops(&pool),
        }),
        is_cpu: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        crate::settings::clap_command(USAGE, &options()).debug_assert();
    }
}

//! `ingle fit`: what a model needs, whether a machine can run it and how fast, from the model's header alone.
//!
//! [`subject`] finds the header: a GGUF file, a folder in Hugging Face's layout, or a shape and a mixture that
//! `--params` and `--quant` name; [`remote`] finds models by name, in the store or elsewhere, where only the header is
//! fetched. [`report`] compares what it needs with this machine, or with one of the catalogue, and
//! prints. [`check`] loads the model, and compares the estimate with what was really taken.

mod check;
mod remote;
mod report;
mod subject;

pub(crate) use self::remote::store_config;

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use ingle_kernels::{Pool, limits};
use ingle_model::sizing::devices::Catalogue;
use ingle_model::sizing::{Demand, Machine, Summary};
use ingle_runtime::models::available_memory;
use ingle_step::KvType;

const ABOUT: &str = "Say what a model needs and whether it can run here, from its header alone.\n\n\
    MODEL is a GGUF file, a folder with config.json and safetensors, a name of the store, or a name or URL from which a \
    model could be pulled (hf.co/user/repo:QUANT, llama3.1:8b, https://...): of those only the header is fetched. \
    Without one, --params and --quant name a size and a mixture, of the published model nearest to them.";

/// The part of the free memory that is left to others: other programs, and what the system keeps for itself.
const MEMORY_SHARE: f64 = 0.95;

/// What else is loaded, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Extras {
    draft: u64,
    adapters: u64,
    projector: u64,
}

impl Extras {
    fn total(self) -> u64 {
        self.draft.saturating_add(self.adapters).saturating_add(self.projector)
    }
}

/// `ingle fit`
pub fn main(args: &[OsString]) -> Result<()> {
    let m = command().try_get_matches_from(args).unwrap_or_else(|error| error.exit());
    if m.get_flag("devices") {
        return devices(&m);
    }
    let subject = subject::find(&m)?;
    let summary = &subject.summary;
    let demand = demand(&m, summary)?;
    let mut extras = extras(&m, &demand)?;
    extras.adapters = extras.adapters.saturating_add(subject.adapters);
    extras.projector = extras.projector.saturating_add(subject.projector);
    if m.get_flag("check") {
        let comparison = check::check(&subject, &demand)?;
        return check::print(&comparison, m.get_flag("json"));
    }
    let machine = machine(&m)?;
    let report = report::Report::new(&subject, &machine, demand, extras);
    let mut out = std::io::stdout().lock();
    if m.get_flag("json") {
        writeln!(out, "{}", serde_json::to_string_pretty(&report.json())?)?;
    } else {
        write!(out, "{}", report.text())?;
    }
    Ok(())
}

/// The options of `ingle fit`.
pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let number = |name: &'static str, value: &'static str, help: &'static str| {
        text(name, value, help).value_parser(value_parser!(u32).range(1..))
    };
    Command::new("fit").bin_name("ingle fit").about(ABOUT).no_binary_name(true).args([
        Arg::new("model")
            .value_name("MODEL")
            .help("GGUF file (of a split model, the first), folder, name or URL"),
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
        text("params", "N", "Size of a model without a file, such as 70b, or a name such as llama-3.1-70b")
            .conflicts_with("model"),
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
        text("memory", "BYTES", "Memory that it may have, such as 16G, instead of what is free")
            .conflicts_with("on"),
        text("bandwidth", "GB/S", "Speed of the memory, instead of measuring it")
            .value_parser(value_parser!(f64)),
        flag("devices", "List the devices that --on knows"),
        flag("markdown", "The list as the page docs/hardware.md").requires("devices"),
        flag("check", "Load the model, and compare the estimate with what it really takes"),
        flag("json", "Print for machines"),
    ])
}

fn devices(m: &ArgMatches) -> Result<()> {
    let catalogue = Catalogue::built_in();
    let mut out = std::io::stdout().lock();
    if m.get_flag("markdown") {
        write!(out, "{}", catalogue.markdown())?;
        return Ok(());
    }
    if m.get_flag("json") {
        let devices: Vec<_> = catalogue
            .devices
            .iter()
            .map(|d| {
                serde_json::json!({
                    "name": d.name, "aliases": d.aliases, "kind": d.kind.name(), "memory_gib": d.memory_gib,
                    "read_gb_per_s": d.read_gbs, "tflops": d.tflops, "source": d.source,
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
    let n = |name: &str| m.get_one::<u32>(name).copied().map(u64::from);
    let kv_type = m.get_one::<String>("kv-type").expect("it has a default");
    let kv_type = KvType::from_name(&kv_type.to_ascii_lowercase());
    let n_ctx = n("ctx-size").unwrap_or_else(|| summary.n_ctx_default());
    if summary.n_ctx_train > 0 && n_ctx > summary.n_ctx_train {
        bail!(
            "--ctx-size: the model was trained for {} tokens, {n_ctx} are more; ask for a shorter context",
            summary.n_ctx_train
        );
    }
    Ok(Demand {
        n_ctx,
        n_seqs: n("parallel").expect("it has a default"),
        kv_type: kv_type.context("--kv-type: give f32, f16, bf16, q8_0 or q4_0")?,
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
fn machine(m: &ArgMatches) -> Result<Machine> {
    let bandwidth = m.get_one::<f64>("bandwidth").copied();
    if bandwidth.is_some_and(|gbs| !gbs.is_finite() || gbs <= 0.0) {
        bail!("--bandwidth: give a number above 0, in GB/s");
    }
    if let Some(name) = m.get_one::<String>("on") {
        let machine = Catalogue::built_in().machine(name)?;
        return Ok(Machine { read_gbs: bandwidth.or(machine.read_gbs), ..machine });
    }
    let memory = match m.get_one::<String>("memory") {
        Some(text) => {
            bytes_of(text).with_context(|| format!("--memory: `{text}` is no size such as 16G or 12GB"))?
        }
        None => {
            let free = available_memory().context(
                "the system does not say how much memory is free; give it with --memory, such as --memory 16G",
            )?;
            (free as f64 * MEMORY_SHARE) as u64
        }
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(n_threads);
    Ok(Machine {
        name: "this machine".into(),
        memory,
        read_gbs: Some(bandwidth.unwrap_or_else(|| limits::read_gbs(&pool))),
        gops: Some(limits::int8_gops(&pool)),
        is_cpu: true,
    })
}

/// `16G` and `16GiB` are powers of 1024, `16GB` of 1000.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    let unit: f64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "tb" => 1e12,
        _ => return None,
    };
    let bytes = number * unit;
    (1.0..1e18).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let cases = [
            ("1024", Some(1024)),
            ("16G", Some(16 << 30)),
            ("12gb", Some(12_000_000_000)),
            ("1.5k", Some(1536)),
        ];
        for (text, expected) in
            cases.into_iter().chain([("", None), ("-1G", None), ("G", None), ("1X", None), ("0", None)])
        {
            assert_eq!(bytes_of(text), expected, "{text}");
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }
}

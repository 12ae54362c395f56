//! The catalogue of devices: what models can be sized for that are not at hand.
//!
//! The figures are in `devices.toml`, with their date and the makers' pages. Names are written without spaces, a size of
//! memory and a number of devices behind them where that is needed: `m3max-64`, `4090x2`.

use std::sync::LazyLock;

use crate::error::ModelError;
use crate::sizing::machine::Machine;

const TEXT: &str = include_str!("devices.toml");
const GIB: f64 = (1_u64 << 30) as f64;
/// Most devices that are counted together.
const DEVICES_MAX: u64 = 64;
/// The largest memory that is believed of one device.
const MEMORY_GIB_MAX: f64 = 65_536.0;

/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A graphics card or accelerator with memory of its own.
    Gpu,
    /// Its memory is the processor's.
    Unified,
    /// A processor.
    Cpu,
}

/// A device of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What its maker calls it.
    pub name: String,
    /// What `--on` calls it.
    pub aliases: Vec<String>,
    /// What kind it is.
    pub kind: Kind,
    /// Sizes of memory that it comes with, in GiB.
    pub memory_gib: Vec<f64>,
    /// Bytes read per second in 10^9.
    pub read_gbs: f64,
    /// Operations per second in 10^12, where the maker says so.
    pub tflops: Option<f64>,
    /// The maker's page of it.
    pub source: String,
    /// A page on which its bandwidth was seen as it stands here, or `computed` where it follows from the memory in the
    /// name; `None` if it could not be confirmed.
    pub seen: Option<String>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue {
    /// The day of which the figures are.
    pub date: String,
    /// In the order of the file.
    pub devices: Vec<Device>,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Unified => "unified",
            Self::Cpu => "cpu",
        }
    }

    /// The part of the memory that a model may take. Drivers and their contexts, or the system and what else runs, take
    /// the rest; macOS lets the graphics part of a chip have two thirds of small memories and three quarters of others.
    pub fn usable_share(self, memory_gib: f64) -> f64 {
        match self {
            Self::Gpu => 0.95,
            Self::Unified if memory_gib <= 36.0 => 2.0 / 3.0,
            Self::Unified => 0.75,
            Self::Cpu => 0.9,
        }
    }
}

impl Catalogue {
    /// The catalogue that comes with Ingle.
    ///
    /// # Panics
    /// Never: a test reads it.
    pub fn built_in() -> &'static Self {
        static CATALOGUE: LazyLock<Catalogue> =
            LazyLock::new(|| Catalogue::parse(TEXT).expect("the built-in catalogue is well formed"));
        &CATALOGUE
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    /// If an entry lacks something, or says it twice.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let bad = |what: String| ModelError::Options(format!("catalogue of devices: {what}"));
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| bad(error.to_string()))?;
        let date = table.get("date").and_then(toml::Value::as_str);
        let date = date.ok_or_else(|| bad("`date` is missing".into()))?.to_owned();
        let list = table.get("device").and_then(toml::Value::as_array);
        let list = list.ok_or_else(|| bad("there is no device".into()))?;
        let devices: Vec<Device> = list
            .iter()
            .map(|entry| device(entry).ok_or_else(|| bad(format!("an entry is not complete: {entry}"))))
            .collect::<Result<_, _>>()?;
        let mut names: Vec<&String> = devices.iter().flat_map(|d| &d.aliases).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad(format!("two devices are called `{}`", twice[0])));
        }
        Ok(Self { date, devices })
    }

    /// The machine of this name, such as `a10`, `4090x2` or `m3max-64`.
    ///
    /// # Errors
    /// If there is none, or it comes with several sizes of memory and none is named; the message lists what there is.
    pub fn machine(&self, name: &str) -> Result<Machine, ModelError> {
        let wanted: String = name.to_ascii_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
        let (single, n) = match wanted.rsplit_once('x').map(|(single, n)| (single, n.parse::<u64>())) {
            Some((single, Ok(n))) if self.find(&wanted).is_none() => (single.to_owned(), n),
            _ => (wanted, 1),
        };
        if n == 0 || n > DEVICES_MAX {
            return Err(ModelError::Options(format!("`{name}`: {n} devices are not 1 to {DEVICES_MAX}")));
        }
        let (device, memory_gib) = self.find(&single).ok_or_else(|| self.unknown(name))?;
        let memory_gib = match (memory_gib, device.memory_gib.as_slice()) {
            (Some(gib), _) => gib,
            (None, [only]) => *only,
            (None, sizes) => {
                let alias = &device.aliases[0];
                let names: Vec<String> = sizes.iter().map(|size| format!("{alias}-{size}")).collect();
                let what =
                    format!("`{name}` comes with several sizes of memory: say which ({})", names.join(", "));
                return Err(ModelError::Options(what));
            }
        };
        let usable = memory_gib * GIB * device.kind.usable_share(memory_gib);
        let times = if n > 1 { format!(" × {n}") } else { String::new() };
        Ok(Machine {
            name: format!("{}, {memory_gib} GiB{times}", device.name),
            memory: (usable as u64).saturating_mul(n),
            // Layers are divided among the devices, and a token goes through one after the other.
            read_gbs: Some(device.read_gbs),
            gops: device.tflops.map(|tflops| tflops * 1e3),
            arithmetic: None,
            is_cpu: device.kind == Kind::Cpu,
        })
    }

    /// A device, and the size of memory that the name ends in.
    fn find(&self, name: &str) -> Option<(&Device, Option<f64>)> {
        let device = |name: &str| self.devices.iter().find(|d| d.aliases.iter().any(|alias| alias == name));
        if let Some(device) = device(name) {
            return Some((device, None));
        }
        let (alias, gib) = name.rsplit_once('-')?;
        let gib: f64 = gib.strip_suffix("gb").unwrap_or(gib).parse().ok()?;
        let device = device(alias)?;
        // A processor takes any memory, a chip only what it is made with.
        let is_there = device.memory_gib.contains(&gib)
            || (device.kind == Kind::Cpu && (1.0..=MEMORY_GIB_MAX).contains(&gib));
        is_there.then_some((device, Some(gib)))
    }

    fn unknown(&self, name: &str) -> ModelError {
        let stem: String = name.to_ascii_lowercase();
        let stem = stem.rsplit_once('-').map_or(stem.as_str(), |(stem, _)| stem);
        let similar = self
            .devices
            .iter()
            .filter(|d| d.aliases.iter().any(|a| a.contains(stem) || stem.contains(a.as_str())));
        let names: Vec<String> = similar
            .take(8)
            .flat_map(|d| match d.memory_gib.as_slice() {
                [_] => vec![d.aliases[0].clone()],
                sizes => sizes.iter().map(|size| format!("{}-{size}", d.aliases[0])).collect(),
            })
            .collect();
        let advice = if names.is_empty() {
            "`ingle fit --devices` lists those that are known".to_owned()
        } else {
            format!("did you mean {}? `ingle fit --devices` lists all", names.join(", "))
        };
        ModelError::Options(format!(
            "there is no device `{}` in the catalogue; {advice}",
            name.escape_debug()
        ))
    }

    /// The page `docs/hardware.md`.
    pub fn markdown(&self) -> String {
        let n_seen = self.devices.iter().filter(|d| d.seen.is_some()).count();
        let mut page = format!(
            "# Hardware\n\nDevices that `ingle fit --on NAME` knows, with figures of {}. Names may end in a size of memory \
             (`m3max-64`) and a\nnumber of devices (`4090x2`). Of the memory, a model may have 95 % on a card, 90 % on a \
             processor, and of memory that\nboth share three quarters, or two thirds where it is 36 GiB or less.\n\nThese \
             figures are published, not measured: they are ceilings ([sizing.md](sizing.md) says what to expect below them).\n\
             The last column is the maker's page of the device; it was not read for this table. \"Seen\" is another page, on \
             which the\nbandwidth was seen as it stands here, on the date above: of {n_seen} of {} devices. \"computed\" is \
             channels × transfers per\nsecond × 8 bytes, from the memory in the name. Where the column is empty, the figures are from \
             memory and could not be\nconfirmed. TFLOP/s were not confirmed one by one.\n\nIngle computes on the processor. \
             What the other devices would need and do is counted as llama.cpp does it.\n\nThis page is made by `ingle fit \
             --devices --markdown`; a test compares the two.\n",
            self.date,
            self.devices.len(),
        );
        for (kind, title) in [
            (Kind::Gpu, "Cards and accelerators"),
            (Kind::Unified, "Chips that share memory"),
            (Kind::Cpu, "Processors"),
        ] {
            page += &format!(
                "\n## {title}\n\n| device | names | memory, GiB | bandwidth, GB/s | TFLOP/s, BF16 or FP16 | seen | maker's page |\n\
                 |---|---|---|---|---|---|---|\n"
            );
            for d in self.devices.iter().filter(|d| d.kind == kind) {
                let sizes: Vec<String> = d.memory_gib.iter().map(ToString::to_string).collect();
                let names: Vec<String> = d.aliases.iter().map(|alias| format!("`{alias}`")).collect();
                page += &format!(
                    "| {} | {} | {} | {} | {} | {} | <{}> |\n",
                    d.name,
                    names.join(" "),
                    sizes.join(", "),
                    d.read_gbs,
                    d.tflops.map(|t| t.to_string()).unwrap_or_default(),
                    match d.seen.as_deref() {
                        Some(page) if page.starts_with("http") => format!("<{page}>"),
                        seen => seen.unwrap_or_default().to_owned(),
                    },
                    d.source
                );
            }
        }
        page
    }
}

fn device(entry: &toml::Value) -> Option<Device> {
    let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
    let float = |value: &toml::Value| value.as_float().or_else(|| Some(value.as_integer()? as f64));
    let list = |key: &str| entry.get(key)?.as_array();
    let aliases: Vec<String> =
        list("aliases")?.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    let memory_gib: Vec<f64> = list("memory_gib")?.iter().map(float).collect::<Option<_>>()?;
    let device = Device {
        name: text("name")?,
        aliases,
        kind: match text("kind")?.as_str() {
            "gpu" => Kind::Gpu,
            "unified" => Kind::Unified,
            "cpu" => Kind::Cpu,
            _ => return None,
        },
        memory_gib,
        read_gbs: float(entry.get("read_gbs")?)?,
        tflops: entry.get("tflops").and_then(float),
        source: text("source")?,
        seen: text("seen"),
    };
    let is_complete = !device.aliases.is_empty() && !device.memory_gib.is_empty() && device.read_gbs > 0.0;
    is_complete.then_some(device)
}

//! Whether a model elsewhere will run here: asked before it is fetched, and answered from its header.
//!
//! [`Outlook::of`] finds the files that a reference means, reads the model's header by ranges, and compares what serving
//! one sequence of the default context needs with the memory that there is. Where the header cannot be had, the size of
//! the files stands for the weights. Nothing is written.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ingle_engine::{EngineConfig, SWAP_MAX};
use ingle_gguf::{Array, GgufError, GgufFile, Metadata, ReadAt, Value};
use ingle_model::sizing::{Demand, Machine, Needs, Sizing, Summary, Verdict, verdict};
use ingle_store::pull::{PullError, PullOptions, Puller, RemoteChoice, RemoteFile};
use ingle_store::{HubPick, Reference};
use ingle_tokenizer::Tokenizer;
use tokio::runtime::Handle;

use crate::models::human;
use crate::prepare::TEMPLATE_MEMORY;

/// How long a header is waited for; after that the size of the files has to do.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// What is to be expected of a model that is not here.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// Bytes to fetch: weights, adapters, a projector.
    pub download: u64,
    /// Bytes of memory that it needs with `n_ctx` tokens. Without a header, those of its files.
    pub needs: u64,
    /// Bytes of memory that there are for it.
    pub memory: u64,
    /// The context that it was sized for. Without a header, `None`.
    pub n_ctx: Option<u64>,
    /// Why it will not run, if it will not.
    pub problem: Option<Problem>,
    /// Other quantizations of its repository that would, by the sizes of their files, the largest first.
    pub instead: Vec<RemoteChoice>,
}

/// Why a model will not run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Its architecture, or a type of its tensors, is not computed here.
    Unsupported(String),
    /// It needs more memory than there is, whatever the context.
    TooLarge,
    /// Only so short a context fits.
    Shorter {
        /// Tokens of the longest that does.
        n_ctx: u64,
    },
}

impl Outlook {
    /// What is to be expected of what a reference means, with so much memory.
    ///
    /// # Errors
    /// If it cannot be found, as pulling it would say. That its header cannot be read is none.
    pub async fn of(
        puller: &Puller,
        reference: &Reference,
        options: PullOptions,
        memory: u64,
    ) -> Result<Self, PullError> {
        let found = puller.look(reference, options).await?;
        let beside = found.adapters.iter().chain(&found.projector).map(RemoteFile::n_bytes);
        let beside = beside.fold(0, u64::saturating_add);
        let weights = found.model.iter().map(RemoteFile::n_bytes).fold(0, u64::saturating_add);
        let read = tokio::time::timeout(HEADER_TIMEOUT, header(found.model)).await;
        let sized = read.ok().and_then(Result::ok).and_then(|file| {
            let summary = Summary::from_gguf(&file).ok()?;
            Some((summary, text_bytes(&file)))
        });
        let mut outlook = Self {
            download: weights.saturating_add(beside),
            needs: weights.saturating_add(beside),
            memory,
            n_ctx: None,
            problem: None,
            instead: Vec::new(),
        };
        match sized {
            Some((summary, text)) => outlook.judge(&summary, text.saturating_add(beside)),
            None if outlook.needs > memory => outlook.problem = Some(Problem::TooLarge),
            None => {}
        }
        if matches!(outlook.problem, Some(Problem::TooLarge | Problem::Shorter { .. })) {
            // What does not depend on the quantization stays the same.
            let rest = outlook.needs.saturating_sub(weights);
            outlook.instead = smaller(puller, reference, weights, memory.saturating_sub(rest)).await;
        }
        Ok(outlook)
    }

    /// Compares what the header says with what there is, beside `extra` bytes.
    fn judge(&mut self, summary: &Summary, extra: u64) {
        let demand = Demand { n_ctx: summary.n_ctx_default(), ..Demand::default() };
        let extra = extra.saturating_add(swap_bytes(summary, &demand));
        let machine = Machine {
            name: String::new(),
            memory: self.memory,
            read_gbs: None,
            gops: None,
            arithmetic: None,
            is_cpu: true,
        };
        self.needs = machine.needs(summary, &demand).total().saturating_add(extra);
        self.n_ctx = Some(demand.n_ctx);
        self.problem = match verdict(summary, &machine, &demand, extra) {
            Verdict::Fits { .. } => None,
            Verdict::Shorter { n_ctx } => Some(Problem::Shorter { n_ctx }),
            Verdict::TooLarge { .. } => Some(Problem::TooLarge),
            Verdict::Unsupported { why } => Some(Problem::Unsupported(why)),
        };
    }
}

impl fmt::Display for Outlook {
    /// A sentence for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (needs, memory) = (human(self.needs), human(self.memory));
        let of_context = self.n_ctx.map(|n| format!(" with a context of {n}")).unwrap_or_default();
        match &self.problem {
            None => write!(f, "it needs {needs}{of_context}, and there are {memory} for it")?,
            Some(Problem::Unsupported(why)) => write!(f, "Ingle cannot run it: {why}")?,
            Some(Problem::TooLarge) => {
                write!(f, "it does not fit: it needs {needs}{of_context}, and there are {memory} for it")?;
            }
            Some(Problem::Shorter { n_ctx }) => write!(
                f,
                "it needs {needs}{of_context}, and there are {memory} for it: it fits with --ctx-size {n_ctx}"
            )?,
        }
        if let Some(best) = self.instead.first() {
            let size = best.n_bytes.map(|n| format!(" ({})", human(n))).unwrap_or_default();
            write!(f, "; of the same repository {}{size} would fit", best.quant.escape_debug())?;
        }
        Ok(())
    }
}

/// The GGUF models of a reference's repository whose weights fit into `room` bytes and are smaller than `weights`, the
/// largest first. None where that cannot be asked.
async fn smaller(puller: &Puller, reference: &Reference, weights: u64, room: u64) -> Vec<RemoteChoice> {
    let Ok(Some(repo)) = puller.browse(reference).await else { return Vec::new() };
    let fits = |choice: &RemoteChoice| choice.n_bytes.is_some_and(|n| n < weights && n <= room);
    let mut choices: Vec<RemoteChoice> = repo.choices().into_iter().filter(fits).collect();
    choices.sort_by_key(|choice| std::cmp::Reverse(choice.n_bytes));
    choices
}

/// How a reference names a choice of its repository: by its quantization, or by its file where that says more.
pub fn named(reference: &Reference, choice: &RemoteChoice) -> Option<Reference> {
    let Reference::Hub { repo, revision, .. } = reference else { return None };
    let pick = match choice.quant.bytes().any(|b| b.is_ascii_digit()) {
        true => HubPick::Quant(choice.quant.clone()),
        false => HubPick::File(choice.files.first()?.clone()),
    };
    Some(Reference::Hub { repo: repo.clone(), revision: revision.clone(), pick })
}

/// The header of a model elsewhere: growing ranges of its files are asked for until it is whole.
///
/// # Errors
/// If they do not come, or are no model's.
///
/// # Panics
/// Outside of a runtime that lets threads block.
pub async fn header(files: Vec<RemoteFile>) -> Result<GgufFile, GgufError> {
    let handle = Handle::current();
    let read = move || {
        let ranged = |file| Arc::new(Ranged { file, handle: handle.clone() }) as Arc<dyn ReadAt>;
        let mut files = files.into_iter().map(ranged);
        let first = files.next().ok_or_else(|| GgufError::Header("there is no file".into()))?;
        GgufFile::open_elsewhere(first, &mut |i, count| {
            let missing = || GgufError::Split(format!("part {} of {count} is not there", i + 1));
            files.next().ok_or_else(missing)
        })
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(outcome) => outcome,
        Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Err(GgufError::Header("the runtime is ending".into())),
    }
}

/// A file elsewhere, of which ranges are asked for.
#[derive(Debug)]
struct Ranged {
    file: RemoteFile,
    handle: Handle,
}

impl ReadAt for Ranged {
    fn name(&self) -> String {
        self.file.name()
    }

    fn n_bytes(&self) -> u64 {
        self.file.n_bytes()
    }

    fn read_exact_at(&self, start: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = start.saturating_add(buf.len() as u64);
        let bytes = self.handle.block_on(self.file.range(start, end)).map_err(io::Error::other)?;
        if bytes.len() != buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

/// What the engine may take for sequences that make way for others: of models that Ingle runs.
pub fn swap_bytes(summary: &Summary, demand: &Demand) -> u64 {
    let of = |own: &Sizing| {
        let kv = own.needs_for(demand).kv;
        EngineConfig::default().swap_bytes.min(kv.saturating_mul(SWAP_MAX as u64))
    };
    summary.own.as_ref().map_or(0, of)
}

/// What a model's tokenizer, its template and its metadata take, from its header.
pub fn text_bytes(file: &GgufFile) -> u64 {
    let md = file.metadata();
    let tokenizer = Tokenizer::from_metadata(md).map_or(0, |tokenizer| tokenizer.memory_bytes() as u64);
    let template = md.opt_str("tokenizer.chat_template").ok().flatten().map_or(0, str::len) as u64;
    tokenizer.saturating_add(template.saturating_mul(TEMPLATE_MEMORY)).saturating_add(metadata_bytes(md))
}

/// What metadata take: lists of tokens and merges, above all.
pub(crate) fn metadata_bytes(md: &Metadata) -> u64 {
    let of_array = |array: &Array| match array {
        Array::String(strings) => strings.memory_bytes(),
        Array::U8(_) | Array::I8(_) | Array::Bool(_) => array.len(),
        Array::U16(_) | Array::I16(_) => array.len().saturating_mul(2),
        Array::U32(_) | Array::I32(_) | Array::F32(_) => array.len().saturating_mul(4),
        Array::U64(_) | Array::I64(_) | Array::F64(_) => array.len().saturating_mul(8),
    };
    let of = |value: &Value| match value {
        Value::String(text) => text.len(),
        Value::Array(array) => of_array(array),
        _ => 0,
    };
    md.iter()
        .map(|(key, value)| (key.len() + size_of::<Value>() + of(value)) as u64)
        .fold(0, u64::saturating_add)
}

/// What serving a model takes, as [`ModelSpec`](crate::ModelSpec) accounts for it, from its header: `parallel` is the
/// demand's number of sequences. `None` if Ingle does not run it.
pub fn served(file: &GgufFile, summary: &Summary, demand: &Demand) -> Option<Needs> {
    let own = summary.own.as_ref().ok()?;
    Some(Needs { text: text_bytes(file), swap: swap_bytes(summary, demand), ..own.needs_for(demand) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ingle_egress::{Class, Egress, EgressConfig, HostRule, Policy, Target};
    use ingle_step::KvType;
    use ingle_store::pull::Network;
    use ingle_store::{Catalogue, Store, StoreConfig};
    use ingle_testkit::hub::{Fault, FaultKind, Hub};
    use ingle_testkit::tiny::{Arch, TinySpec};

    use super::*;
    use crate::prepare::Prepared;
    use crate::{LoadOptions, Source};

    /// What `served` says is what the server's budget counts, part by part.
    #[test]
    fn the_budget_counts_what_was_foretold() {
        let dir = tempfile::tempdir().expect("a folder");
        for (arch, kv_type, n_seqs) in
            [(Arch::Llama, KvType::F16, 1), (Arch::Qwen2, KvType::Q8_0, 4), (Arch::Qwen3, KvType::F32, 3)]
        {
            let path = dir.path().join(format!("{}.gguf", arch.name()));
            std::fs::write(&path, TinySpec::new(arch).wide().bytes()).expect("written");
            let (n_ctx, file) = (96, GgufFile::open(&path).expect("a model"));
            let summary = Summary::from_gguf(&file).expect("a model");
            let demand = Demand { n_ctx, n_seqs, kv_type, n_rows: 512 };
            let foretold = served(&file, &summary, &demand).expect("it is one of ours");
            let options = LoadOptions {
                n_ctx: Some(n_ctx as usize),
                kv_type: Some(kv_type),
                kv_tokens: Some((n_ctx * n_seqs) as usize),
                max_running_seqs: Some(n_seqs as usize),
                ..LoadOptions::default()
            };
            let counted = Prepared::new(&Source::File(path), &options).expect("it can be loaded").needs;
            assert_eq!(foretold, counted, "{} with {} sequences", arch.name(), n_seqs);
            assert!(foretold.text > 0 && foretold.total() > summary.weight_bytes);
        }
    }

    /// A hub, and a way to it.
    fn puller(hub: &Hub, dir: &tempfile::TempDir) -> Puller {
        let target = Target::parse(&hub.url()).expect("an address");
        // It sends those who want large files to another port.
        let rule = HostRule::parse("127.0.0.1").expect("a host");
        let policy = Policy {
            private: vec![(Some(Class::Hub), rule.clone())],
            insecure: vec![rule],
            ..Policy::default()
        };
        let egress = Egress::new(EgressConfig { policy, ..EgressConfig::default() }).expect("a door");
        let config = StoreConfig { root: dir.path().join("models"), ..StoreConfig::default() };
        let store = Store::open(config).expect("a store");
        Puller::new(store, Network { hub: target, ..Network::new(egress) })
    }

    #[test]
    fn what_will_not_run_is_foreseen() {
        let (hub, dir) = (Hub::start(), tempfile::tempdir().expect("a folder"));
        let puller = puller(&hub, &dir);
        let of = |ty| TinySpec { n_layers: 8, ..TinySpec::new(Arch::Llama).wide().weight_type(ty) }.bytes();
        let (large, small) = (of(ingle_gguf::TensorType::F32), of(ingle_gguf::TensorType::Q4_0));
        hub.commit("a/b", &[("m-F32.gguf", &large), ("m-Q4_0.gguf", &small)]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let look = |name: &str, memory: u64| {
            let reference = Reference::parse(name, &Catalogue::default()).expect("a reference");
            runtime.block_on(Outlook::of(&puller, &reference, PullOptions::default(), memory))
        };
        let much = look("hf.co/a/b:F32", 1 << 30).expect("it is there");
        assert_eq!((much.problem.clone(), much.download), (None, large.len() as u64));
        assert_eq!(much.n_ctx, Some(512));
        assert!(much.needs > much.download && much.instead.is_empty(), "{much:?}");
        // As the file itself says.
        let file = Arc::new(GgufFile::from_bytes(large.clone()).expect("a model"));
        let summary = Summary::from_gguf(&file).expect("a model");
        let demand = Demand { n_ctx: 512, ..Demand::default() };
        assert_eq!(Some(much.needs), served(&file, &summary, &demand).map(|needs| needs.total()));

        let little = look("hf.co/a/b:F32", much.needs - large.len() as u64 / 2).expect("it is there");
        assert!(matches!(little.problem, Some(Problem::TooLarge)), "{little:?}");
        assert_eq!(little.instead.iter().map(|c| c.quant.as_str()).collect::<Vec<_>>(), ["Q4_0"]);
        assert!(
            little.to_string().contains("does not fit") && little.to_string().contains("Q4_0"),
            "{little}"
        );
        let reference = Reference::parse("hf.co/a/b:F32", &Catalogue::default()).expect("a reference");
        let name = named(&reference, &little.instead[0]).expect("a name");
        assert_eq!(name.to_string(), "hf.co/a/b:Q4_0");
        assert!(look("hf.co/a/absent", 1 << 30).is_err());

        hub.fault(Fault::new("GET", FaultKind::NoRanges));
        let blind = look("hf.co/a/b:F32", 1 << 20).expect("it is there");
        assert_eq!((blind.needs, blind.n_ctx), (blind.download, None), "the size of the files counts");
        assert_eq!(blind.problem, Some(Problem::TooLarge));
        assert_eq!(look("hf.co/a/b:F32", 1 << 30).expect("it is there").problem, None);
    }
}

//! A model that was opened and checked, and for which no memory is taken yet.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ingle_chat::ModelInfo;
use ingle_chat::template::{ChatTemplate, Syntax, TemplateOptions, builtin_template};
use ingle_engine::{EngineConfig, Frontend};
use ingle_gguf::GgufFile;
use ingle_kernels::Pool;
use ingle_model::sizing::{BLOCK_SIZE, LOGITS_KEPT, Needs};
use ingle_model::{AdapterFile, CpuExecutor, ModelError, Planned};
use ingle_step::{Executor, KvType};
use ingle_tokenizer::Tokenizer;

use crate::adapters::{AdapterMemory, AdapterSource, AdapterTable};
use crate::details::details;
use crate::draft::Draft;
use crate::embed::pooling;
use crate::fingerprint::{digest, fingerprint};
use crate::kv_cache;
use crate::load::{
    Engine, FULL_SEQS_DEFAULT, LoadError, LoadOptions, LoadingProvider, Source, TEMPLATE_BYTES_MAX,
    TemplateChoice,
};
use crate::outlook::metadata_bytes;
use crate::recommended;

/// The longest context that is configured without being asked for.
const N_CTX_DEFAULT_MAX: usize = 8192;
/// What a template takes for each byte of its source, as a tree of expressions.
pub(crate) const TEMPLATE_MEMORY: u64 = 32;

/// A model that has passed every check that needs no memory for it, and is not loaded.
pub(crate) struct Prepared {
    file: Arc<GgufFile>,
    executor: ingle_model::LoadOptions,
    frontend: Frontend,
    config: EngineConfig,
    has_template: bool,
    draft: Option<Draft>,
    adapters: Vec<AdapterSource>,
    adapter_dir: Option<PathBuf>,
    /// Where the prefix cache is kept, and how large it may become.
    kv_cache: Option<(PathBuf, Option<u64>)>,
    kv_cache_identity: String,
    /// What it will be.
    pub info: ModelInfo,
    /// What it will need.
    pub needs: Needs,
    /// What its user should know.
    notices: Vec<String>,
}

/// What would be told of a model that is loaded so; it is opened and checked, and no memory is taken for it.
///
/// # Errors
/// If it cannot be loaded.
pub fn examine(source: &Source, options: &LoadOptions) -> Result<Vec<String>, LoadError> {
    Prepared::new(source, options).map(|prepared| prepared.notices)
}

impl Prepared {
    /// Opens and checks a model.
    ///
    /// # Errors
    /// If the file, or something in it, cannot be used.
    pub fn new(source: &Source, options: &LoadOptions) -> Result<Self, LoadError> {
        if options.kv_cache_dir.is_some() && options.no_prefix_cache {
            return Err(LoadError::KvCacheOff);
        }
        source.files().iter().try_for_each(|path| ingle_store::check_sample(path))?;
        let file = Arc::new(source.open()?);
        let md = file.metadata();
        if md.opt_str("general.type")? == Some("adapter") {
            let what = "the file is an adapter, not a model: give the model that it is for, and this file with --lora";
            return Err(ModelError::Options(what.into()).into());
        }
        let tokenizer = Arc::new(Tokenizer::from_metadata(md)?);
        let template = template(&file, &tokenizer, &options.template)?;

        let template_bytes =
            template.as_ref().map_or(0, |t| TEMPLATE_MEMORY.saturating_mul(t.source().len() as u64));

        let arch = md.str("general.architecture")?;
        let n_ctx_train = md.u64(&format!("{arch}.context_length"))? as usize;
        let mut notices = Vec::new();
        let n_ctx = match options.n_ctx.or(options.n_ctx_preferred) {
            None => n_ctx_train.min(N_CTX_DEFAULT_MAX),
            Some(0) => n_ctx_train,
            Some(n) if options.n_ctx.is_none() && n > n_ctx_train => reached(&file, n, &mut notices)?,
            Some(n) => n,
        };
        let defaults = EngineConfig::default();
        let max_running_seqs = options.max_running_seqs.unwrap_or(defaults.max_running_seqs);
        let kv_tokens = options
            .kv_tokens
            .unwrap_or(n_ctx.saturating_mul(max_running_seqs.min(FULL_SEQS_DEFAULT)))
            .max(n_ctx.saturating_add(BLOCK_SIZE));
        let executor = ingle_model::LoadOptions {
            n_ctx: Some(n_ctx),
            kv_type: options.kv_type.unwrap_or(KvType::F16),
            kv_tokens,
            block_size: BLOCK_SIZE,
            weight: options.weight.unwrap_or(1),
            ..ingle_model::LoadOptions::default()
        };
        let Planned { sizing, info: planned } = CpuExecutor::plan(&file, &executor)?;
        if tokenizer.n_vocab() > planned.n_vocab {
            return Err(LoadError::VocabMismatch {
                tokenizer: tokenizer.n_vocab(),
                weights: planned.n_vocab,
            });
        }
        let draft = options.draft_model.as_ref();
        let draft = draft.map(|source| Draft::prepare(source, &tokenizer, &executor)).transpose()?;
        let digest = digest(&file)?;
        let info = ModelInfo {
            id: options.name.clone().unwrap_or_else(|| default_name(source)),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            n_ctx,
            n_ctx_train,
            n_vocab: planned.n_vocab,
            n_embd: planned.n_embd,
            n_params: file.tensors().iter().map(ingle_gguf::TensorInfo::n_elements).sum(),
            size_bytes: file.n_bytes(),
            fingerprint: format!("{}-{}", fingerprint(&digest), planned.numeric_path),
            numeric_path: planned.numeric_path.to_string(),
            defaults: options.sampling.clone().or(recommended::sampling(md)?),
            parent: None,
            details: details(&file, digest, template.as_ref(), tokenizer.has_infill()),
        };
        // A model that reads in both directions reads a text in one step.
        let whole_text = if planned.causal { 0 } else { n_ctx };
        let step_tokens = defaults.step_token_budget.max(whole_text);
        let max_requests = options.max_waiting_requests.unwrap_or(defaults.max_waiting_requests);
        let max_tokens = options.max_waiting_tokens.unwrap_or(defaults.max_waiting_tokens);
        let half = |all: usize| options.is_shared.then_some(all.div_ceil(2));
        let config = EngineConfig {
            max_running_seqs,
            swap_bytes: options.kv_swap_bytes.unwrap_or(defaults.swap_bytes),
            step_token_budget: options.step_token_budget.unwrap_or(step_tokens),
            max_waiting_requests: max_requests,
            max_waiting_tokens: max_tokens,
            max_waiting_requests_per_tenant: options.max_waiting_requests_per_tenant.or(half(max_requests)),
            max_waiting_tokens_per_tenant: options.max_waiting_tokens_per_tenant.or(half(max_tokens)),
            step_time_max: options.step_time_max.unwrap_or(defaults.step_time_max),
            is_shared: options.is_shared,
            queue_timeout: options.queue_timeout.unwrap_or(defaults.queue_timeout),
            request_timeout: options.request_timeout,
            prefix_cache: !options.no_prefix_cache,
            speculation: options.speculation.clone(),
            ..defaults
        };
        let n_rows = config.step_token_budget.max(max_running_seqs);
        // Rows of logits on their way, kept for the next step, and the samplers' own.
        let n_logits = max_running_seqs + LOGITS_KEPT;
        let needs = Needs {
            draft: draft.as_ref().map_or(0, |draft| draft.bytes),
            text: tokenizer.memory_bytes() as u64 + template_bytes + metadata_bytes(file.metadata()),
            extras: adapter_bytes(&options.adapters)?,
            swap: config.swap_bytes.min(planned.kv_bytes.saturating_mul(ingle_engine::SWAP_MAX as u64)),
            ..sizing.needs(executor.kv_type, BLOCK_SIZE, kv_tokens as u64, n_rows, n_logits)
        };
        let has_template = template.is_some();
        let mut frontend = Frontend::new(tokenizer, template, info.clone());
        frontend.defaults = info.defaults.clone();
        frontend.preset = options.preset.clone();
        frontend.pooling = pooling(md, arch, options.pooling, &planned)?;
        frontend.check_defaults().map_err(|error| LoadError::Sampling(error.to_string()))?;
        Ok(Self {
            executor,
            frontend,
            config,
            has_template,
            draft,
            adapters: options.adapters.clone(),
            adapter_dir: options.adapter_dir.clone(),
            kv_cache: options.kv_cache_dir.clone().map(|dir| (dir, options.kv_cache_bytes)),
            kv_cache_identity: kv_cache::identity(source, &info.details.digest, &planned),
            info,
            needs,
            notices,
            file,
        })
    }

    /// Takes memory for it and returns while its weights are on their way there.
    ///
    /// # Errors
    /// If there is no memory, or no thread, or what comes with the model cannot be used.
    pub fn start(self, pool: Arc<Pool>, memory: Option<Arc<dyn AdapterMemory>>) -> Result<Engine, LoadError> {
        let Self { mut frontend, mut config, info, has_template, .. } = self;
        let executor = CpuExecutor::start(self.file, Arc::clone(&pool), &self.executor)?;
        let adapters = executor.adapters().clone();
        let adapters = AdapterTable::new(adapters, info.clone(), self.adapter_dir, &self.adapters, memory);
        let adapters = Arc::new(adapters.map_err(|(path, source)| LoadError::Adapter { path, source })?);
        frontend.adapter_directory = Some(Arc::<AdapterTable>::clone(&adapters));
        let mut notices = self.notices;
        if let Some((dir, bytes)) = &self.kv_cache {
            config.disk = kv_cache::open(dir, *bytes, &self.kv_cache_identity, &mut notices)?;
        }
        let draft = self.draft.map(|draft| draft.start(pool)).transpose()?;
        let loading = executor.loading().clone();
        let draft_loading = draft.as_ref().map(|draft| draft.loading().clone());
        let draft = draft.map(|executor| Box::new(executor) as Box<dyn Executor>);
        let engine = ingle_engine::Engine::start_with_draft(Box::new(executor), draft, frontend, config)
            .map_err(LoadError::Thread)?;
        let provider = Arc::new(LoadingProvider { engine, loading, draft_loading, adapters });
        Ok(Engine { provider, info, has_template, notices })
    }
}

/// The context of a model whose maker asks for more than it was trained for: as far as it reaches.
fn reached(file: &GgufFile, asked: usize, notices: &mut Vec<String>) -> Result<usize, LoadError> {
    let wish = ingle_model::LoadOptions { n_ctx: Some(asked), ..ingle_model::LoadOptions::default() };
    match CpuExecutor::plan(file, &wish) {
        Err(ModelError::Context { max, .. }) => {
            notices.push(format!(
                "its Modelfile asks for a context of {asked} tokens (num_ctx) and the model reaches {max}: it has {max}"
            ));
            Ok(max)
        }
        planned => Ok(planned.map(|_| asked)?),
    }
}

/// Bytes for the adapters that come with a model, the reading of the largest included.
fn adapter_bytes(sources: &[AdapterSource]) -> Result<u64, LoadError> {
    let (mut held, mut reading) = (0_u64, 0);
    for AdapterSource { path, .. } in sources {
        let size = AdapterFile::size(path)
            .map_err(|error| LoadError::Adapter { path: path.clone(), source: error.into() })?;
        held = held.saturating_add(size.held);
        reading = reading.max(size.reading);
    }
    Ok(held.saturating_add(reading))
}

fn template(
    file: &GgufFile,
    tokenizer: &Tokenizer,
    choice: &TemplateChoice,
) -> Result<Option<ChatTemplate>, LoadError> {
    let own = file.metadata().opt_str("tokenizer.chat_template")?;
    let mut language = Syntax::Jinja;
    let (source, from) = match (choice, own) {
        (TemplateChoice::Model | TemplateChoice::Text { is_fallback: true, .. }, Some(source)) => {
            (source.to_owned(), "of the model".to_owned())
        }
        (TemplateChoice::Model, None) => return Ok(None),
        (TemplateChoice::Text { text, syntax, .. }, _) => {
            language = *syntax;
            (text.clone(), "of the Modelfile".to_owned())
        }
        (TemplateChoice::NameOrFile(name), _) => match builtin_template(name) {
            Some(source) => (source.to_owned(), name.clone()),
            // Peers take the template itself in the same place.
            None if name.contains("{%") || name.contains("{{") => (name.clone(), "of the options".to_owned()),
            None => {
                let mut source = String::new();
                std::fs::File::open(name)
                    .and_then(|file| file.take(TEMPLATE_BYTES_MAX + 1).read_to_string(&mut source))
                    .map_err(|error| LoadError::NoTemplate { name: name.clone(), error })?;
                if source.len() as u64 > TEMPLATE_BYTES_MAX {
                    return Err(LoadError::LongTemplate(name.clone()));
                }
                (source, name.clone())
            }
        },
    };
    let text = |id: Option<ingle_step::TokenId>| id.map(|id| tokenizer.token_text(id)).unwrap_or_default();
    let options = TemplateOptions {
        bos_token: text(tokenizer.bos()),
        eos_token: text(tokenizer.eos()),
        special_tokens: tokenizer.special_tokens().map(|(_, text)| text.to_owned()).collect(),
        ..TemplateOptions::default()
    };
    ChatTemplate::with_syntax(&source, language, options)
        .map(Some)
        .map_err(|source| LoadError::Template { from, source })
}

fn default_name(source: &Source) -> String {
    match (source, source.files().first()) {
        (Source::Shipped, _) => "ingle-tiny".into(),
        (_, None) => "model".into(),
        (_, Some(path)) => path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
    }
}

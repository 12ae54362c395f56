//! From a file to an engine that answers.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use ingle_chat::template::{ChatTemplate, TemplateError, TemplateOptions, builtin_template};
use ingle_chat::{
    ChatInput, EmbedFuture, EmbedRequest, ModelInfo, Pooling, Principal, Prompted, Provider, ProviderError,
    ProviderStatus, Request, Sampling, StartFuture, Task,
};
use ingle_engine::{EngineConfig, Frontend};
use ingle_gguf::{GgufError, GgufFile};
use ingle_kernels::Pool;
use ingle_model::{CpuExecutor, Loading, ModelError};
use ingle_step::{Executor, KvType, TokenId};
use ingle_tokenizer::{Tokenizer, TokenizerError};

use crate::details::details;
use crate::embed::{Embed, pooling};
use crate::fingerprint::{digest, fingerprint};
use crate::generation::{Generation, one_message, raw_prompt};
use crate::recommended;

/// The model that ships with Ingle.
static SHIPPED: &[u8] = include_bytes!("../../../models/ingle-tiny.gguf");

/// The longest context that is configured without being asked for.
const N_CTX_DEFAULT_MAX: usize = 8192;
/// How many sequences of full length the KV cache holds unless it is told otherwise.
const FULL_SEQS_DEFAULT: usize = 4;
/// Slots in a KV block.
const BLOCK_SIZE: usize = 32;
/// Largest chat template file that is read.
const TEMPLATE_BYTES_MAX: u64 = 256 * 1024;

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Source {
    /// The small model inside this program.
    #[default]
    Shipped,
    /// A GGUF file, or the first of a split model.
    File(PathBuf),
    /// A GGUF file in memory.
    Bytes(Vec<u8>),
}

/// Which chat template to use.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TemplateChoice {
    /// The model's own.
    #[default]
    Model,
    /// A built-in one by name, such as `chatml`, or else a Jinja file of that path, or the Jinja text itself.
    NameOrFile(String),
}

/// How to load. `None` everywhere is a good default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Longest sequence; 0 is all that the model was trained for. Default: that, but at most 8192.
    pub n_ctx: Option<usize>,
    /// Threads that compute, for all models of the process together. Default: all cores, or as many as the models
    /// that are loaded already use.
    pub n_threads: Option<usize>,
    /// How keys and values are stored. Default: F16.
    pub kv_type: Option<KvType>,
    /// Tokens that the KV cache holds. Default: four full sequences.
    pub kv_tokens: Option<usize>,
    /// Sequences that run at the same time.
    pub max_running_seqs: Option<usize>,
    /// Most tokens of a step.
    pub step_token_budget: Option<usize>,
    /// Most requests that wait.
    pub max_waiting_requests: Option<usize>,
    /// Most prompt tokens that wait.
    pub max_waiting_tokens: Option<usize>,
    /// Do not reuse earlier prompts' KV blocks.
    pub no_prefix_cache: bool,
    /// The chat template.
    pub template: TemplateChoice,
    /// How texts become vectors. Default: as the file says, else by the last token's hidden state.
    pub pooling: Option<Pooling>,
    /// Sampling settings that hold unless a request says otherwise; what is `None` is the model's own.
    pub sampling: Sampling,
    /// The model's name in the API. Default: the file's name.
    pub name: Option<String>,
}

/// Why a model is not in memory.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is no GGUF file that can be read.
    #[error(transparent)]
    File(#[from] GgufError),
    /// Its tokenizer cannot be used.
    #[error("the model's tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// Its weights or hyperparameters cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A chat template cannot be used.
    #[error("chat template {from}: {source}")]
    Template {
        /// Which one.
        from: String,
        /// Why.
        source: TemplateError,
    },
    /// There is no such template.
    #[error(
        "chat template `{name}` is neither a built-in name (such as chatml, llama3, mistral-v7) nor a file \
         that can be read ({error})"
    )]
    NoTemplate {
        /// What was asked for.
        name: String,
        /// Why it is no file.
        error: std::io::Error,
    },
    /// A template file is too long to be one.
    #[error("chat template file {0} has more than {TEMPLATE_BYTES_MAX} bytes")]
    LongTemplate(String),
    /// Another model of this process computes with another number of threads.
    #[error("{asked} threads were asked for, but the models already loaded share a pool of {running}")]
    Threads {
        /// Threads of the pool there is.
        running: usize,
        /// What was asked for.
        asked: usize,
    },
    /// The system has no thread for it.
    #[error("the system refuses a thread to run the model on: {0}")]
    Thread(std::io::Error),
    /// A sampling setting, the model's own or a chosen one, is out of range.
    #[error("sampling settings, the model's or the chosen ones: {0}; choose another value")]
    Sampling(String),
    /// The file names a way to make vectors that nobody knows.
    #[error("`{key}` is {n}: of the ways to pool, 0 (none) to 4 (rank) are known; choose one in the options")]
    Pooling {
        /// The key in the file.
        key: String,
        /// What it says.
        n: u64,
    },
    /// Tokenizer and weights do not belong together.
    #[error(
        "the tokenizer has {tokenizer} tokens, the weights only {weights}: the file's parts do not fit together"
    )]
    VocabMismatch {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the output matrix.
        weights: usize,
    },
}

/// Told how many bytes of how many are loaded.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A model in memory that answers.
pub struct Engine {
    provider: Arc<LoadingProvider>,
    info: ModelInfo,
    has_template: bool,
}

impl Engine {
    /// Loads a GGUF file with the defaults.
    ///
    /// # Errors
    /// If the file, or something in it, cannot be used.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let source = Source::File(path.as_ref().to_owned());
        Self::load_with(&source, &LoadOptions::default(), &mut |_, _| {})
    }

    /// Loads the small model that ships with Ingle.
    ///
    /// # Errors
    /// None that the program itself does not cause.
    pub fn shipped() -> Result<Self, LoadError> {
        Self::load_with(&Source::Shipped, &LoadOptions::default(), &mut |_, _| {})
    }

    /// Loads a model as the options say, telling `progress` how far it is, and returns when it is in memory.
    ///
    /// # Errors
    /// If the file, or something in it, cannot be used.
    pub fn load_with(
        source: &Source,
        options: &LoadOptions,
        progress: Progress<'_>,
    ) -> Result<Self, LoadError> {
        let engine = Self::start(source, options)?;
        engine.wait_until_loaded(progress)?;
        Ok(engine)
    }

    /// Checks everything about a model and returns while its weights are still on their way into memory. It takes
    /// requests at once; their first steps wait for the layers that they come to.
    ///
    /// # Errors
    /// If the file, or something in it, cannot be used.
    pub fn start(source: &Source, options: &LoadOptions) -> Result<Self, LoadError> {
        let file = Arc::new(source.open()?);
        let md = file.metadata();
        let tokenizer = Arc::new(Tokenizer::from_metadata(md)?);
        let template = template(&file, &tokenizer, &options.template)?;

        let arch = md.str("general.architecture")?;
        let n_ctx_train = md.u64(&format!("{arch}.context_length"))? as usize;
        let n_ctx = match options.n_ctx {
            None => n_ctx_train.min(N_CTX_DEFAULT_MAX),
            Some(0) => n_ctx_train,
            Some(n) => n,
        };
        let defaults = EngineConfig::default();
        let max_running_seqs = options.max_running_seqs.unwrap_or(defaults.max_running_seqs);
        let kv_tokens = options
            .kv_tokens
            .unwrap_or(n_ctx.saturating_mul(max_running_seqs.min(FULL_SEQS_DEFAULT)))
            .max(n_ctx.saturating_add(BLOCK_SIZE));
        let executor = CpuExecutor::start(
            Arc::clone(&file),
            process_pool(options.n_threads)?,
            &ingle_model::LoadOptions {
                n_ctx: Some(n_ctx),
                kv_type: options.kv_type.unwrap_or(KvType::F16),
                kv_tokens,
                block_size: BLOCK_SIZE,
                ..ingle_model::LoadOptions::default()
            },
        )?;
        if tokenizer.n_vocab() > executor.info().n_vocab {
            return Err(LoadError::VocabMismatch {
                tokenizer: tokenizer.n_vocab(),
                weights: executor.info().n_vocab,
            });
        }
        let digest = digest(&file)?;
        let info = ModelInfo {
            id: options.name.clone().unwrap_or_else(|| default_name(source)),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            n_ctx,
            n_ctx_train,
            n_vocab: executor.info().n_vocab,
            n_embd: executor.info().n_embd,
            n_params: file.tensors().iter().map(ingle_gguf::TensorInfo::n_elements).sum(),
            size_bytes: file.n_bytes(),
            fingerprint: format!("{}-{}", fingerprint(&digest), executor.info().numeric_path),
            numeric_path: executor.info().numeric_path.to_string(),
            defaults: options.sampling.clone().or(recommended::sampling(md)?),
            details: details(&file, digest, template.as_ref(), tokenizer.has_infill()),
        };
        let has_template = template.is_some();
        let mut frontend = Frontend::new(tokenizer, template, info.clone());
        frontend.defaults = info.defaults.clone();
        frontend.pooling = match options.pooling {
            None => pooling(md, arch)?,
            chosen => chosen,
        };
        frontend.check_defaults().map_err(|error| LoadError::Sampling(error.to_string()))?;
        let config = EngineConfig {
            max_running_seqs,
            step_token_budget: options.step_token_budget.unwrap_or(defaults.step_token_budget),
            max_waiting_requests: options.max_waiting_requests.unwrap_or(defaults.max_waiting_requests),
            max_waiting_tokens: options.max_waiting_tokens.unwrap_or(defaults.max_waiting_tokens),
            prefix_cache: !options.no_prefix_cache,
            ..defaults
        };
        let loading = executor.loading().clone();
        let engine =
            ingle_engine::Engine::start(Box::new(executor), frontend, config).map_err(LoadError::Thread)?;
        Ok(Self { provider: Arc::new(LoadingProvider { engine, loading }), info, has_template })
    }

    /// Waits until all weights are in memory, telling `progress` how far they are.
    ///
    /// # Errors
    /// If loading them ended early.
    pub fn wait_until_loaded(&self, progress: Progress<'_>) -> Result<(), LoadError> {
        Ok(self.provider.loading.wait(progress)?)
    }

    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Whether the model converses: it has a chat template, its own or a chosen one.
    pub fn has_template(&self) -> bool {
        self.has_template
    }

    /// Continues text.
    pub fn generate(&self, prompt: &str) -> Generation {
        self.task(raw_prompt(prompt))
    }

    /// Answers one message.
    pub fn chat(&self, message: &str) -> Generation {
        self.task(one_message(message))
    }

    /// Continues a conversation.
    pub fn converse(&self, input: ChatInput) -> Generation {
        self.task(Task::Chat(input))
    }

    /// Turns texts into vectors, which are near each other where the texts are about the same.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = ingle_runtime::Engine::shipped()?;
    /// let embeddings = engine.embed(["How do I sort a list?", "Sort a list in Python."]).run()?;
    /// let [a, b] = &embeddings.items[..] else { unreachable!("one for each text") };
    /// println!("{} numbers, cosine {}", a.vector.len(), a.cosine(b));
    /// # assert_eq!(a.vector.len(), engine.info().n_embd);
    /// # Ok(())
    /// # }
    /// ```
    pub fn embed<T: Into<String>>(&self, texts: impl IntoIterator<Item = T>) -> Embed {
        Embed::new(self.provider(), texts.into_iter().map(Into::into))
    }

    /// The engine as servers and gateways see it.
    pub fn provider(&self) -> Arc<dyn Provider> {
        self.provider.clone()
    }

    fn task(&self, task: Task) -> Generation {
        Generation::new(self.provider(), task)
    }
}

/// An engine that takes requests while its weights are on their way into memory.
struct LoadingProvider {
    engine: ingle_engine::Engine,
    loading: Loading,
}

impl Provider for LoadingProvider {
    fn start(&self, request: Request) -> StartFuture<'_> {
        self.engine.start(request)
    }

    fn embed(&self, request: EmbedRequest) -> EmbedFuture<'_> {
        self.engine.embed(request)
    }

    fn prompt(&self, request: &Request) -> Result<Prompted, ProviderError> {
        self.engine.prompt(request)
    }

    fn tokenize(
        &self,
        model: Option<&str>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, ProviderError> {
        self.engine.tokenize(model, text, add_special, parse_special)
    }

    fn token_bytes(&self, model: Option<&str>, tokens: &[TokenId]) -> Result<Vec<Vec<u8>>, ProviderError> {
        self.engine.token_bytes(model, tokens)
    }

    fn flush_cache(&self, principal: &Principal) -> Result<(), ProviderError> {
        self.engine.flush_cache(principal)
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.engine.models()
    }

    fn status(&self) -> ProviderStatus {
        let mut status = self.engine.status();
        if !self.loading.is_complete() {
            let (done, total) = self.loading.progress();
            status.ready = false;
            status.loading = Some(done as f32 / total.max(1) as f32);
        }
        status
    }
}

impl Drop for LoadingProvider {
    /// A step may be waiting for weights that nobody wants any more.
    fn drop(&mut self) {
        self.loading.stop();
    }
}

impl Source {
    /// Opens the file, without loading it.
    ///
    /// # Errors
    /// If it is no GGUF file that can be read.
    pub fn open(&self) -> Result<GgufFile, GgufError> {
        match self {
            Self::Shipped => GgufFile::from_static(SHIPPED),
            Self::File(path) => GgufFile::open(path),
            Self::Bytes(bytes) => GgufFile::from_bytes(bytes.clone()),
        }
    }
}

fn template(
    file: &GgufFile,
    tokenizer: &Tokenizer,
    choice: &TemplateChoice,
) -> Result<Option<ChatTemplate>, LoadError> {
    let (source, from) = match choice {
        TemplateChoice::Model => match file.metadata().opt_str("tokenizer.chat_template")? {
            None => return Ok(None),
            Some(source) => (source.to_owned(), "of the model".to_owned()),
        },
        TemplateChoice::NameOrFile(name) => match builtin_template(name) {
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
    ChatTemplate::new(&source, options).map(Some).map_err(|source| LoadError::Template { from, source })
}

fn default_name(source: &Source) -> String {
    match source {
        Source::Shipped => "ingle-tiny".into(),
        Source::Bytes(_) => "model".into(),
        Source::File(path) => path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
    }
}

/// The one compute pool of this process: models take turns on it. It is made for the first model and goes with the
/// last one.
fn process_pool(n_threads: Option<usize>) -> Result<Arc<Pool>, LoadError> {
    static POOL: Mutex<Weak<Pool>> = Mutex::new(Weak::new());
    let mut slot = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = slot.upgrade() {
        return match n_threads {
            Some(asked) if asked != pool.n_threads() => {
                Err(LoadError::Threads { running: pool.n_threads(), asked })
            }
            _ => Ok(pool),
        };
    }
    let all_cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Arc::new(Pool::new(n_threads.unwrap_or_else(all_cores)));
    *slot = Arc::downgrade(&pool);
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &LoadOptions, expected: &str) {
        let error = Engine::load_with(&Source::Shipped, options, &mut |_, _| {}).err().expect("refused");
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn refuses_what_no_request_could_use() {
        let sampling = Sampling { temperature: Some(-1.0), ..Sampling::default() };
        check(
            &LoadOptions { sampling, ..LoadOptions::default() },
            "temperature must be 0 or more, and is -1",
        );
        check(&LoadOptions { n_ctx: Some(usize::MAX), ..LoadOptions::default() }, "context");
        let template = TemplateChoice::NameOrFile("no such template".into());
        check(&LoadOptions { template, ..LoadOptions::default() }, "neither a built-in name");
    }
}

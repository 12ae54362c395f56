//! From a file to an engine that answers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ingle_chat::template::{Syntax, TemplateError};
use ingle_chat::{
    AdapterInfo, AdapterName, AdapterWish, ChatInput, EmbedFuture, EmbedRequest, LoadAdapter, ModelInfo,
    Pooling, Principal, Prompted, Provider, ProviderError, ProviderStatus, Request, Sampling, StartFuture,
    Task,
};
use ingle_engine::Preset;
use ingle_engine::disk_cache::OpenError;
use ingle_engine::speculation::SpeculationConfig;
use ingle_gguf::{GgufError, GgufFile};
use ingle_kernels::Pool;
use ingle_model::{Loading, ModelError};
use ingle_step::{KvType, TokenId};
use ingle_tokenizer::TokenizerError;

use crate::adapters::{AdapterProblem, AdapterSource, AdapterTable};
use crate::embed::Embed;
use crate::generation::{Generation, one_message, raw_prompt};
use crate::prepare::Prepared;

/// The model that ships with Ingle.
static SHIPPED: &[u8] = include_bytes!("../../../models/ingle-tiny.gguf");

/// How many sequences of full length the KV cache holds unless it is told otherwise.
pub(crate) const FULL_SEQS_DEFAULT: usize = 4;
/// Largest chat template file that is read.
pub(crate) const TEMPLATE_BYTES_MAX: u64 = 256 * 1024;

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Source {
    /// The small model inside this program.
    #[default]
    Shipped,
    /// A GGUF file, or the first of a split model.
    File(PathBuf),
    /// The files of a split model, in order, whatever they are called.
    Parts(Vec<PathBuf>),
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
    /// This one.
    Text {
        /// The template.
        text: String,
        /// Its language.
        syntax: Syntax,
        /// It is taken only where the model has none of its own.
        is_fallback: bool,
    },
}

/// How to load. `None` everywhere is a good default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Longest sequence; 0 is all that the model was trained for. Default: that, but at most 8192.
    pub n_ctx: Option<usize>,
    /// What stands for that where nobody asks, as a Modelfile says it: as far as the model reaches, with a notice.
    pub n_ctx_preferred: Option<usize>,
    /// Threads that compute, for all models of the process together. Default: all cores, or as many as the models
    /// that are loaded already use.
    pub n_threads: Option<usize>,
    /// How keys and values are stored. Default: F16.
    pub kv_type: Option<KvType>,
    /// Tokens that the KV cache holds. Default: four full sequences.
    pub kv_tokens: Option<usize>,
    /// Sequences that run at the same time.
    pub max_running_seqs: Option<usize>,
    /// Most tokens of a step. Default: 512, or what a whole text has if the model reads in both directions.
    pub step_token_budget: Option<usize>,
    /// Most requests that wait.
    pub max_waiting_requests: Option<usize>,
    /// Most prompt tokens that wait.
    pub max_waiting_tokens: Option<usize>,
    /// Of those, most requests of one tenant. Default: half of all if several tenants may come.
    pub max_waiting_requests_per_tenant: Option<usize>,
    /// Of those, most prompt tokens of one tenant. Default: half of all if several tenants may come.
    pub max_waiting_tokens_per_tenant: Option<usize>,
    /// How long a step may take where several share it; nothing is as long as it takes. Default: 200 ms.
    pub step_time_max: Option<Duration>,
    /// Whether several tenants may come, for whom even a lone one's steps stay short.
    pub is_shared: bool,
    /// How long a request may wait before it begins. Default: 600 s.
    pub queue_timeout: Option<Duration>,
    /// How long a request may take altogether. Default: as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Do not reuse earlier prompts' KV blocks.
    pub no_prefix_cache: bool,
    /// Folder where they are kept beyond the life of the engine. Default: none. One process uses it at a time.
    pub kv_cache_dir: Option<PathBuf>,
    /// Bytes of the files in it, for all models that share it. Default: 4 GiB.
    pub kv_cache_bytes: Option<u64>,
    /// Memory for the K/V of preempted sequences, taken as it is needed; with 0 they are computed again. Default: 256 MiB.
    pub kv_swap_bytes: Option<u64>,
    /// Whether and how tokens are guessed ahead; answers are the same either way.
    pub speculation: SpeculationConfig,
    /// A small model of the same vocabulary that guesses for this one.
    pub draft_model: Option<Source>,
    /// The chat template.
    pub template: TemplateChoice,
    /// How texts become vectors, or pairs of them scores. Default: as the file says, else by its head if there is one, the
    /// mean if it reads in both directions, and the last token's hidden state if it generates.
    pub pooling: Option<Pooling>,
    /// Sampling settings that hold unless a request says otherwise; what is `None` is the model's own.
    pub sampling: Sampling,
    /// What opens each conversation, and what ends answers, unless a request says otherwise.
    pub preset: Preset,
    /// The model's name in the API. Default: the file's name.
    pub name: Option<String>,
    /// Adapters to load with the model.
    pub adapters: Vec<AdapterSource>,
    /// The folder beneath which adapters may be loaded later, through the API.
    pub adapter_dir: Option<PathBuf>,
    /// Its share of the processor where several models want it, beside others' weights. Default: 1.
    pub weight: Option<u32>,
}

/// Why a model is not in memory.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is no GGUF file that can be read.
    #[error(transparent)]
    File(#[from] GgufError),
    /// A file of the store is no longer what it was.
    #[error(transparent)]
    Store(#[from] ingle_store::StoreError),
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
    /// The folder for the prefix cache cannot be used.
    #[error("the folder of the K/V cache: {0}")]
    KvCache(#[from] OpenError),
    /// Two options that contradict each other.
    #[error("a folder for the prefix cache was named, and the prefix cache is off: take one of the two back")]
    KvCacheOff,
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
    /// A draft model cannot be used.
    #[error("the draft model: {0}")]
    Draft(Box<Self>),
    /// A draft model has another vocabulary: its guesses would mean something else.
    #[error("the draft model has another vocabulary: {0}; choose one of the model's own family")]
    DraftVocabulary(String),
    /// An adapter cannot be used.
    #[error("adapter {path}: {source}")]
    Adapter {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: AdapterProblem,
    },
    /// Pairs of texts were to be ranked without the means.
    #[error("the pooling is `rank`, and the model has no head that ranks: choose mean, cls or last")]
    NoHead,
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

impl LoadError {
    /// Whether the machine had no room for it at this time, and the files may be sound.
    pub fn is_of_the_machine(&self) -> bool {
        match self {
            Self::Model(ModelError::KvMemory { .. } | ModelError::WeightMemory { .. }) | Self::Thread(_) => {
                true
            }
            Self::Draft(error) => error.is_of_the_machine(),
            _ => false,
        }
    }
}

/// Told how many bytes of how many are loaded.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A model in memory that answers.
pub struct Engine {
    pub(crate) provider: Arc<LoadingProvider>,
    pub(crate) info: ModelInfo,
    pub(crate) has_template: bool,
    pub(crate) notices: Vec<String>,
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
        Prepared::new(source, options)?.start(process_pool(options.n_threads)?, None)
    }

    /// Waits until all weights are in memory, telling `progress` how far they are.
    ///
    /// # Errors
    /// If loading them ended early.
    pub fn wait_until_loaded(&self, progress: Progress<'_>) -> Result<(), LoadError> {
        if let Some(draft) = &self.provider.draft_loading {
            draft.wait(&mut |_, _| {}).map_err(|error| LoadError::Draft(Box::new(error.into())))?;
        }
        Ok(self.provider.loading.wait(progress)?)
    }

    /// What its user should know about how it was loaded.
    pub fn notices(&self) -> &[String] {
        &self.notices
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

    /// Ends its thread, as a bug would.
    #[cfg(test)]
    pub(crate) fn end_thread(&self) {
        self.provider.engine.stop();
    }

    /// Ends loading early, if it has not ended.
    pub(crate) fn stop_loading(&self) {
        self.provider.loading.stop();
    }

    /// Whether its thread still answers.
    pub(crate) fn is_running(&self) -> bool {
        self.provider.engine.is_running()
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
pub(crate) struct LoadingProvider {
    pub engine: ingle_engine::Engine,
    pub loading: Loading,
    /// The draft model's.
    pub draft_loading: Option<Loading>,
    pub adapters: Arc<AdapterTable>,
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

    fn adapters_of(
        &self,
        info: &ModelInfo,
        wished: Option<&[AdapterWish]>,
    ) -> Result<(Option<Vec<AdapterWish>>, String), ProviderError> {
        self.adapters.of(info, wished)
    }

    fn adapters(&self, model: Option<&str>) -> Result<Vec<AdapterInfo>, ProviderError> {
        self.adapters.list(model)
    }

    fn load_adapter(&self, wish: &LoadAdapter) -> Result<AdapterInfo, ProviderError> {
        self.adapters.load(wish)
    }

    fn unload_adapter(&self, model: Option<&str>, name: &AdapterName) -> Result<AdapterInfo, ProviderError> {
        self.adapters.unload(model, name)
    }

    fn set_adapters(&self, model: Option<&str>, wishes: &[AdapterWish]) -> Result<(), ProviderError> {
        self.adapters.set_scales(model, wishes)
    }

    fn models(&self) -> Vec<ModelInfo> {
        let mut models = self.engine.models();
        models.extend(self.adapters.models());
        models
    }

    fn status(&self) -> ProviderStatus {
        let mut status = self.engine.status();
        status.memory_bytes += self.adapters.memory_bytes();
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
        self.draft_loading.iter().for_each(Loading::stop);
    }
}

impl Source {
    /// One file, or the files of a split model.
    pub fn of_files(mut files: Vec<PathBuf>) -> Self {
        match files.len() {
            1 => Self::File(files.remove(0)),
            _ => Self::Parts(files),
        }
    }

    /// The file inside this program.
    pub fn shipped_bytes() -> &'static [u8] {
        SHIPPED
    }

    /// The files that it is on this machine.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::File(path) => std::slice::from_ref(path),
            Self::Parts(paths) => paths,
            Self::Shipped | Self::Bytes(_) => &[],
        }
    }

    /// Opens the file, without loading it.
    ///
    /// # Errors
    /// If it is no GGUF file that can be read.
    pub fn open(&self) -> Result<GgufFile, GgufError> {
        match self {
            Self::Shipped => GgufFile::from_static(SHIPPED),
            Self::File(path) => GgufFile::open(path),
            Self::Parts(paths) => GgufFile::open_parts(paths),
            Self::Bytes(bytes) => GgufFile::from_bytes(bytes.clone()),
        }
    }
}

/// The one compute pool of this process: models take turns on it. It is made for the first model and goes with the
/// last one.
pub(crate) fn process_pool(n_threads: Option<usize>) -> Result<Arc<Pool>, LoadError> {
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

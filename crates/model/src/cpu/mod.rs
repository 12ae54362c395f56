//! The CPU executor: holds weights and K/V memory, runs steps.

mod forward;
mod loading;
mod validate;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ingle_gguf::{GgufFile, TensorInfo};
use ingle_kernels::{
    AttentionParams, KernelError, KvLayer, Matrix, Member, NUMERICS_VERSION, Packing, Pool, RopeTable,
};
use ingle_step::{Executor, ExecutorError, ExecutorInfo, KvType, NumericPath, StepBatch, StepOut};

use crate::error::ModelError;
use crate::graph::{Ffn, Head, Layer, Linear, Norm, Weight};
use crate::hparams::{HParams, RopeScaling};
use crate::rope::rope_table;
use crate::sizing::Sizing;
use crate::weights::{self, Loader};
use forward::Scratch;
pub use loading::Loading;
use loading::{Background, Plan};

/// Results that may wait to be fetched: a caller is at most this many steps ahead.
const STEPS_WAITING_MAX: usize = 4;
/// Blocks are numbered with 32 bits.
const BLOCKS_MAX: usize = u32::MAX as usize;
/// Kernels read K and V in groups of this many slots.
const BLOCK_SIZE_MULTIPLE: usize = 16;
/// Most slots in a block: larger ones only waste memory.
const BLOCK_SIZE_MAX: usize = 4096;

/// How to load a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// The longest sequence; the file's context if not set. Rope factors follow it.
    pub n_ctx: Option<usize>,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Slots in the cache, for all sequences together; rounded up to whole blocks.
    pub kv_tokens: usize,
    /// Slots in a block: a multiple of 16.
    pub block_size: usize,
    /// Replaces the file's rope scaling: how a model goes beyond the context that it was trained for.
    pub rope_scaling: Option<RopeScaling>,
    /// The model's share of the pool's time where several models want it, beside others' weights.
    pub weight: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            n_ctx: None,
            kv_type: KvType::F16,
            kv_tokens: 4096,
            block_size: 32,
            rope_scaling: None,
            weight: 1,
        }
    }
}

/// Runs models on the CPU.
#[derive(Debug)]
pub struct CpuExecutor {
    info: ExecutorInfo,
    pool: Arc<Pool>,
    /// Steps take turns with those of other models.
    member: Arc<Member>,
    model: Model,
    /// One per layer.
    kv: Vec<KvLayer>,
    scratch: Scratch,
    /// Results that nobody has waited for yet, oldest first.
    done: VecDeque<StepOut>,
}

/// The weights, and what is done with them.
#[derive(Debug)]
struct Model {
    n_embd: usize,
    embedding: Embedding,
    rope: RopeTable,
    weights: Background,
}

/// Where embeddings come from.
#[derive(Debug)]
enum Embedding {
    /// Rows of the head.
    Tied,
    /// Rows of this tensor in the file. If it `becomes_tied`, only until the head is loaded: both give the same floats.
    File { file: Arc<GgufFile>, tensor_idx: usize, becomes_tied: bool },
}

#[derive(Debug)]
struct LoadedNorm {
    weight: Vec<f32>,
    eps: f32,
}

#[derive(Debug)]
struct LoadedLinear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
struct LoadedLayer {
    attn_norm: LoadedNorm,
    q: LoadedLinear,
    k: LoadedLinear,
    v: LoadedLinear,
    q_norm: Option<LoadedNorm>,
    k_norm: Option<LoadedNorm>,
    attention: AttentionParams,
    k_dim: usize,
    output: LoadedLinear,
    ffn_norm: LoadedNorm,
    gate: Matrix,
    up: Matrix,
    down: LoadedLinear,
}

/// What a model would need and how it would compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its sizes.
    pub sizing: Sizing,
    /// The arithmetic.
    pub numeric_path: NumericPath,
}

impl CpuExecutor {
    /// Checks everything about a model that its header tells, without taking memory for it.
    ///
    /// # Errors
    /// As [`start`](Self::start), but for a lack of memory.
    pub fn plan(file: &GgufFile, options: &LoadOptions) -> Result<Planned, ModelError> {
        let mut hp = HParams::from_gguf(file)?;
        if let Some(scaling) = &options.rope_scaling {
            hp.rope.scaling = scaling.checked()?;
        }
        let sizing = Sizing::from_gguf(file)?;
        let n_ctx = context(&hp, options)?;
        n_blocks(options)?;
        rope_table(file, &hp, (hp.arch.describe)(&hp).rope_style, n_ctx)?;
        Ok(Planned { sizing, numeric_path: numeric_path(options.kv_type, n_ctx) })
    }

    /// Loads a model and returns when it is in memory. `progress(done, total)` is called with bytes of the file as
    /// tensors are repacked.
    ///
    /// # Errors
    /// If the file is not a model that can be run, or the options don't suit it: see [`ModelError`].
    pub fn load(
        file: Arc<GgufFile>,
        pool: Arc<Pool>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let mut executor = Self::start(file, pool, options)?;
        executor.loading().wait(progress)?;
        executor.model.let_go_of_file();
        Ok(executor)
    }

    /// Checks everything about a model, takes memory for it, and returns while its weights are being repacked: see
    /// [`Self::loading`]. Steps can run at once; they wait for the layers that they come to.
    ///
    /// The file stays open until the weights are loaded, and as long as the executor where it reads from it: embedding
    /// tables that are not tied to the head.
    ///
    /// # Errors
    /// If the file is not a model that can be run, or the options don't suit it: see [`ModelError`].
    pub fn start(file: Arc<GgufFile>, pool: Arc<Pool>, options: &LoadOptions) -> Result<Self, ModelError> {
        let mut hp = HParams::from_gguf(&file)?;
        if let Some(scaling) = &options.rope_scaling {
            hp.rope.scaling = scaling.checked()?;
        }
        let graph = (hp.arch.describe)(&hp);
        let tensors = weights::check_tensors(&file, &graph, hp.arch.name)?;
        let n_ctx = context(&hp, options)?;
        let n_blocks = n_blocks(options)?;
        let kv: Vec<KvLayer> = graph
            .kv_layouts(options.kv_type, options.block_size)
            .map(|layout| {
                KvLayer::try_new(layout, n_blocks).ok_or(ModelError::KvMemory { n_tokens: options.kv_tokens })
            })
            .collect::<Result<_, _>>()?;
        let rope = rope_table(&file, &hp, graph.rope_style, n_ctx)?;

        let Head::UntiedIfPresent(head) = &graph.head;
        let is_tied = file.tensor(&head.name).is_none();
        let head = if is_tied { graph.token_embd.clone() } else { head.clone() };
        let (mut order, mut packings) = (Vec::new(), HashMap::new());
        for weight in weights::in_order_of_use(&graph, &head) {
            let info = weights::matrix_info(&file, weight)?;
            let packing = Packing::new(info.ty, weight.n_out, weight.n_in, info.n_bytes());
            packings.insert(weight.name.clone(), packing.map_err(|error| refused(weight, info, &error))?);
            order.push(info.clone());
        }
        let is_embedding = |t: &TensorInfo| t.name == graph.token_embd.name;
        let vectors = tensors.iter().filter(|t| !packings.contains_key(&t.name) && !is_embedding(t));
        let vector_bytes: u64 = vectors.map(|t| t.n_elements() * size_of::<f32>() as u64).sum();
        let weight_bytes = vector_bytes + packings.values().map(|p| p.memory_bytes() as u64).sum::<u64>();
        let tensor_idx = file.tensors().iter().position(is_embedding);
        let tensor_idx = tensor_idx.expect("`check_tensors` has seen the embedding table");
        let total_bytes = tensors.iter().map(|t| t.n_bytes() as u64).sum();

        let info = ExecutorInfo {
            n_vocab: hp.n_vocab,
            n_embd: hp.n_embd,
            n_ctx,
            block_size: options.block_size,
            n_blocks,
            weight_bytes,
            kv_bytes: kv.iter().map(|layer| layer.n_bytes() as u64).sum(),
            numeric_path: numeric_path(options.kv_type, n_ctx),
        };
        let embedding = Embedding::File { file: Arc::clone(&file), tensor_idx, becomes_tied: is_tied };
        let member = Arc::new(pool.join(options.weight));
        let plan = Plan {
            file,
            pool: Arc::clone(&pool),
            member: Arc::clone(&member),
            graph,
            head,
            packings,
            order,
            total_bytes,
        };
        let model = Model { n_embd: hp.n_embd, embedding, rope, weights: Background::start(plan)? };
        Ok(Self { info, pool, member, model, kv, scratch: Scratch::default(), done: VecDeque::new() })
    }

    /// How far the weights are.
    pub fn loading(&self) -> &Loading {
        self.model.weights.loading()
    }
}

/// Why there is no place for a matrix.
fn refused(weight: &Weight, info: &TensorInfo, error: &KernelError) -> ModelError {
    let (name, what) = (weight.name.clone(), error.to_string());
    match error {
        KernelError::NoMemory { .. } => ModelError::WeightMemory { name, what },
        _ => ModelError::UnsupportedType { name, ty: info.ty, what },
    }
}

impl Executor for CpuExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn submit(&mut self, batch: StepBatch) -> Result<(), ExecutorError> {
        if self.done.len() >= STEPS_WAITING_MAX {
            let what = format!("{STEPS_WAITING_MAX} steps wait for their results to be fetched");
            return Err(ExecutorError::InvalidBatch(what));
        }
        validate::check(&batch, &self.info)?;
        self.model.let_go_of_file();
        // A step that may have to wait for weights lets others compute meanwhile, the thread that packs them first of all.
        let member = Arc::clone(&self.member);
        let turn = self.loading().is_complete().then(|| member.turn());
        let out = self.run(&batch)?;
        drop(turn);
        self.done.push_back(out);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOut, ExecutorError> {
        self.done.pop_front().ok_or_else(|| ExecutorError::InvalidBatch("no step was submitted".into()))
    }

    fn recycle(&mut self, out: StepOut) {
        self.scratch.recycle(out, self.info.n_vocab);
    }
}

impl Model {
    /// Embeddings come from the head once it is there, if they can.
    fn let_go_of_file(&mut self) {
        if matches!(self.embedding, Embedding::File { becomes_tied: true, .. })
            && self.weights.loading().head().is_some()
        {
            self.embedding = Embedding::Tied;
        }
    }
}

impl LoadedNorm {
    fn load(loader: &mut Loader<'_>, norm: &Norm) -> Result<Self, ModelError> {
        Ok(Self { weight: loader.norm(norm)?, eps: norm.eps })
    }
}

impl LoadedLinear {
    fn load(loader: &mut Loader<'_>, linear: &Linear) -> Result<Self, ModelError> {
        let (weight, bias) = loader.linear(linear)?;
        Ok(Self { weight, bias })
    }
}

impl LoadedLayer {
    fn load(loader: &mut Loader<'_>, layer: &Layer) -> Result<Self, ModelError> {
        let attention = &layer.attention;
        let Ffn::SwiGlu { gate, up, down } = &layer.ffn;
        let norm = |loader: &mut Loader<'_>, norm: &Option<Norm>| {
            norm.as_ref().map(|norm| LoadedNorm::load(loader, norm)).transpose()
        };
        Ok(Self {
            attn_norm: LoadedNorm::load(loader, &layer.attn_norm)?,
            q: LoadedLinear::load(loader, &attention.q)?,
            k: LoadedLinear::load(loader, &attention.k)?,
            v: LoadedLinear::load(loader, &attention.v)?,
            q_norm: norm(loader, &attention.q_norm)?,
            k_norm: norm(loader, &attention.k_norm)?,
            attention: AttentionParams {
                n_heads: attention.n_heads,
                scale: attention.scale,
                softcap: None,
                window: attention.window,
            },
            k_dim: attention.k_dim,
            output: LoadedLinear::load(loader, &attention.output)?,
            ffn_norm: LoadedNorm::load(loader, &layer.ffn_norm)?,
            gate: loader.matrix(gate)?,
            up: loader.matrix(up)?,
            down: LoadedLinear::load(loader, down)?,
        })
    }
}

fn numeric_path(kv_type: KvType, n_ctx: usize) -> NumericPath {
    NumericPath { numerics_version: NUMERICS_VERSION, kernel_class: "cpu", kv_type, n_ctx }
}

/// The context to configure. Positions that the model never saw give nonsense, so going further than its training
/// needs a scaling that reaches there.
fn context(hp: &HParams, options: &LoadOptions) -> Result<usize, ModelError> {
    let asked = options.n_ctx.unwrap_or(hp.n_ctx_train);
    let reach = |original: usize, factor: f32| (original as f64 * f64::from(factor)) as usize;
    let max = match options.rope_scaling {
        Some(RopeScaling::Linear { factor }) => reach(hp.n_ctx_train, factor),
        Some(RopeScaling::Yarn { factor, original_ctx, .. }) => reach(original_ctx, factor),
        None | Some(RopeScaling::None | RopeScaling::LongRope { .. }) => 0,
    };
    let max = max.max(hp.n_ctx_train).min(crate::hparams::CONTEXT_MAX);
    match asked {
        0 => Err(ModelError::Options("a context of 0 tokens holds nothing: ask for at least 1".into())),
        _ if asked > max => Err(ModelError::Context { asked, max }),
        _ => Ok(asked),
    }
}

fn n_blocks(options: &LoadOptions) -> Result<usize, ModelError> {
    let size = options.block_size;
    if size == 0 || size > BLOCK_SIZE_MAX || !size.is_multiple_of(BLOCK_SIZE_MULTIPLE) {
        let what =
            format!("a block of {size} slots is no multiple of {BLOCK_SIZE_MULTIPLE} up to {BLOCK_SIZE_MAX}");
        return Err(ModelError::Options(what));
    }
    let n_blocks = options.kv_tokens.div_ceil(size);
    if n_blocks == 0 || n_blocks > BLOCKS_MAX {
        let what = format!(
            "{} tokens of K/V memory make {n_blocks} blocks, not 1 to {BLOCKS_MAX}",
            options.kv_tokens
        );
        return Err(ModelError::Options(what));
    }
    Ok(n_blocks)
}

//! The CPU executor: holds weights and K/V memory, runs steps.

mod forward;
mod loading;
mod lora;
mod validate;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ingle_gguf::{GgufFile, TensorInfo};
use ingle_kernels::{
    AttentionParams, KernelError, KvLayer, Matrix, Member, NUMERICS_VERSION, Packing, Pool, RopeTable,
};
use ingle_step::{BlockId, Executor, ExecutorError, ExecutorInfo, KvType, NumericPath, StepBatch, StepOut};

use crate::adapter::{Adapters, Base};
use crate::error::ModelError;
use crate::graph::{Ffn, Graph, Head, Layer, Linear, Norm, NormKind, NormOrder, Weight};
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
    adapters: Adapters,
}

/// The weights, and what is done with them.
#[derive(Debug)]
struct Model {
    n_embd: usize,
    embedding: Embedding,
    rope: Option<RopeTable>,
    weights: Background,
}

/// Where embeddings come from.
#[derive(Debug)]
enum Embedding {
    /// Rows of the head.
    Tied,
    /// Rows of this tensor in the file. If it `becomes_tied` to a head, only until the head is loaded: both give the same floats.
    File { file: Arc<GgufFile>, tensor_idx: usize, becomes_tied: bool },
}

#[derive(Debug)]
struct LoadedNorm {
    kind: NormKind,
    weight: Vec<f32>,
    /// Empty where the kind has none.
    bias: Vec<f32>,
    eps: f32,
}

#[derive(Debug)]
struct LoadedLinear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
struct LoadedLayer {
    norm_order: NormOrder,
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
    ffn: LoadedFfn,
}

#[derive(Debug)]
enum LoadedFfn {
    SwiGlu { gate: Matrix, up: Matrix, down: LoadedLinear },
    Gelu { up: LoadedLinear, down: LoadedLinear },
}

/// What a model would need and how it would compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its sizes.
    pub sizing: Sizing,
    /// What its executor will say of itself.
    pub info: ExecutorInfo,
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
        let n_blocks = n_blocks(options)?;
        let graph = (hp.arch.describe)(&hp);
        graph.rope_style.map(|style| rope_table(file, &hp, style, n_ctx)).transpose()?;
        let info =
            ExecutorInfo { weight_bytes: sizing.packed_bytes, ..info(&graph, options, n_ctx, n_blocks) };
        Ok(Planned { sizing, info })
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
        if options.rope_scaling.is_some() && graph.rope_style.is_none() {
            let what = format!("rope scaling: architecture `{}` has no rope; leave it out", hp.arch.name);
            return Err(ModelError::Options(what));
        }
        let n_ctx = context(&hp, options)?;
        let n_blocks = n_blocks(options)?;
        let kv: Vec<KvLayer> = graph
            .kv_layouts(options.kv_type, options.block_size)
            .map(|layout| {
                KvLayer::try_new(layout, n_blocks).ok_or(ModelError::KvMemory { n_tokens: options.kv_tokens })
            })
            .collect::<Result<_, _>>()?;
        let rope = graph.rope_style.map(|style| rope_table(&file, &hp, style, n_ctx)).transpose()?;

        let (head, is_tied) = match &graph.head {
            Head::UntiedIfPresent(head) if file.tensor(&head.name).is_some() => (Some(head.clone()), false),
            Head::UntiedIfPresent(_) => (Some(graph.token_embd.clone()), true),
            Head::None => (None, false),
        };
        let (mut order, mut packings) = (Vec::new(), HashMap::new());
        for weight in weights::in_order_of_use(&graph, head.as_ref()) {
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

        let info = ExecutorInfo { weight_bytes, ..info(&graph, options, n_ctx, n_blocks) };
        let embedding = Embedding::File { file: Arc::clone(&file), tensor_idx, becomes_tied: is_tied };
        let adapters = Adapters::new(Base { arch: hp.arch.name, graph: graph.clone() }, Arc::clone(&pool));
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
        let (scratch, done) = (Scratch::default(), VecDeque::new());
        Ok(Self { info, pool, member, model, kv, scratch, done, adapters })
    }

    /// The adapters that steps can use. They come and go while steps run.
    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    fn check_block(&self, block: BlockId) -> Result<(), ExecutorError> {
        let n_blocks = self.info.n_blocks;
        if block.0 as usize >= n_blocks {
            return Err(ExecutorError::NoSuchBlock { block: block.0, n_blocks });
        }
        Ok(())
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
        let groups = lora::groups(&batch, &self.adapters)?;
        self.model.let_go_of_file();
        // A step that may have to wait for weights lets others compute meanwhile, the thread that packs them first of all.
        let member = Arc::clone(&self.member);
        let turn = self.loading().is_complete().then(|| member.turn());
        let out = self.run(&batch, &groups)?;
        drop(turn);
        self.done.push_back(out);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOut, ExecutorError> {
        self.done.pop_front().ok_or_else(|| ExecutorError::InvalidBatch("no step was submitted".into()))
    }

    fn export_block(&mut self, block: BlockId) -> Result<Vec<u8>, ExecutorError> {
        self.check_block(block)?;
        let mut bytes = Vec::with_capacity(self.info.block_bytes);
        self.kv.iter().for_each(|layer| bytes.extend_from_slice(layer.block(block.0)));
        Ok(bytes)
    }

    fn export_slots(&mut self, block: BlockId, n_slots: usize) -> Result<Vec<u8>, ExecutorError> {
        self.check_block(block)?;
        let block_size = self.info.block_size;
        if n_slots > block_size {
            return Err(ExecutorError::InvalidBatch(format!("{n_slots} slots of a block of {block_size}")));
        }
        let mut bytes = Vec::with_capacity(self.info.block_bytes);
        self.kv.iter().for_each(|layer| bytes.extend(layer.slots(block.0, n_slots)));
        Ok(bytes)
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), ExecutorError> {
        self.check_block(block)?;
        let block_bytes = self.info.block_bytes;
        if bytes.len() != block_bytes {
            return Err(ExecutorError::BlockLength { n_bytes: bytes.len(), block_bytes });
        }
        forward::overwrite(&mut self.kv, block.0, bytes);
        Ok(())
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
        let (weight, bias) = loader.norm(norm)?;
        Ok(Self { kind: norm.kind, weight, bias: bias.unwrap_or_default(), eps: norm.eps })
    }

    fn load_if(loader: &mut Loader<'_>, norm: Option<&Norm>) -> Result<Option<Self>, ModelError> {
        norm.map(|norm| Self::load(loader, norm)).transpose()
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
        Ok(Self {
            norm_order: layer.norm_order,
            attn_norm: LoadedNorm::load(loader, &layer.attn_norm)?,
            q: LoadedLinear::load(loader, &attention.q)?,
            k: LoadedLinear::load(loader, &attention.k)?,
            v: LoadedLinear::load(loader, &attention.v)?,
            q_norm: LoadedNorm::load_if(loader, attention.q_norm.as_ref())?,
            k_norm: LoadedNorm::load_if(loader, attention.k_norm.as_ref())?,
            attention: AttentionParams {
                n_heads: attention.n_heads,
                scale: attention.scale,
                softcap: None,
                window: attention.window,
            },
            k_dim: attention.k_dim,
            output: LoadedLinear::load(loader, &attention.output)?,
            ffn_norm: LoadedNorm::load(loader, &layer.ffn_norm)?,
            ffn: LoadedFfn::load(loader, &layer.ffn)?,
        })
    }
}

impl LoadedFfn {
    fn load(loader: &mut Loader<'_>, ffn: &Ffn) -> Result<Self, ModelError> {
        Ok(match ffn {
            Ffn::SwiGlu { gate, up, down } => Self::SwiGlu {
                gate: loader.matrix(gate)?,
                up: loader.matrix(up)?,
                down: LoadedLinear::load(loader, down)?,
            },
            Ffn::Gelu { up, down } => {
                Self::Gelu { up: LoadedLinear::load(loader, up)?, down: LoadedLinear::load(loader, down)? }
            }
        })
    }
}

/// What an executor says of itself, but for the bytes of its weights.
fn info(graph: &Graph, options: &LoadOptions, n_ctx: usize, n_blocks: usize) -> ExecutorInfo {
    let layouts = graph.kv_layouts(options.kv_type, options.block_size);
    let block_bytes: usize = layouts.map(|layout| layout.block_bytes()).sum();
    ExecutorInfo {
        n_vocab: graph.token_embd.n_out,
        n_embd: graph.token_embd.n_in,
        n_ctx,
        block_size: options.block_size,
        n_blocks,
        weight_bytes: 0,
        kv_bytes: block_bytes as u64 * n_blocks as u64,
        block_bytes,
        causal: graph.causal,
        has_logits: !matches!(graph.head, Head::None),
        n_labels: graph.classifier.as_ref().map_or(0, |c| c.output.weight.n_out),
        has_token_types: graph.token_types.as_ref().is_some_and(|types| types.n_out > 1),
        numeric_path: numeric_path(options.kv_type, n_ctx),
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

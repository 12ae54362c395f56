//! The CPU executor: holds weights and K/V memory, runs steps.

mod forward;
mod validate;

use std::collections::VecDeque;
use std::sync::Arc;

use ingle_gguf::GgufFile;
use ingle_kernels::{AttentionParams, KvLayer, Matrix, NUMERICS_VERSION, Pool, RopeTable};
use ingle_step::{Executor, ExecutorError, ExecutorInfo, KvType, NumericPath, StepBatch, StepOut};

use crate::error::ModelError;
use crate::graph::{Ffn, Graph, Head, Layer, Linear, Norm};
use crate::hparams::{HParams, RopeScaling};
use crate::rope::rope_table;
use crate::weights::{self, Loader};
use forward::Scratch;

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
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { n_ctx: None, kv_type: KvType::F16, kv_tokens: 4096, block_size: 32, rope_scaling: None }
    }
}

/// Runs models on the CPU.
#[derive(Debug)]
pub struct CpuExecutor {
    info: ExecutorInfo,
    pool: Arc<Pool>,
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
    layers: Vec<LoadedLayer>,
    output_norm: LoadedNorm,
    /// `(n_vocab, n_embd)`
    head: Matrix,
}

/// Where embeddings come from.
#[derive(Debug)]
enum Embedding {
    /// Rows of the head.
    Tied,
    /// Rows of this tensor, which stays in the file.
    File { file: Arc<GgufFile>, tensor_idx: usize },
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

impl CpuExecutor {
    /// Loads a model. `progress(done, total)` is called with bytes of the file as tensors are repacked.
    ///
    /// The file stays open where the executor reads from it: embedding tables that are not tied to the head.
    ///
    /// # Errors
    /// If the file is not a model that can be run, or the options don't suit it: see [`ModelError`].
    pub fn load(
        file: Arc<GgufFile>,
        pool: Arc<Pool>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
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

        let mut loader = Loader {
            file: &file,
            pool: &pool,
            progress,
            done_bytes: 0,
            total_bytes: tensors.iter().map(|t| t.n_bytes() as u64).sum(),
            memory_bytes: 0,
        };
        let model = Model::load(&mut loader, &graph, &hp, rope)?;
        let weight_bytes = loader.memory_bytes;
        // An embedding table that stays in the file counts as done.
        (loader.progress)(loader.total_bytes, loader.total_bytes);

        let info = ExecutorInfo {
            n_vocab: hp.n_vocab,
            n_embd: hp.n_embd,
            n_ctx,
            block_size: options.block_size,
            n_blocks,
            weight_bytes,
            kv_bytes: kv.iter().map(|layer| layer.n_bytes() as u64).sum(),
            numeric_path: NumericPath {
                numerics_version: NUMERICS_VERSION,
                kernel_class: "cpu",
                kv_type: options.kv_type,
                n_ctx,
            },
        };
        Ok(Self { info, pool, model, kv, scratch: Scratch::default(), done: VecDeque::new() })
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
        let out = self.run(&batch);
        self.done.push_back(out);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOut, ExecutorError> {
        self.done.pop_front().ok_or_else(|| ExecutorError::InvalidBatch("no step was submitted".into()))
    }
}

impl Model {
    fn load(
        loader: &mut Loader<'_>,
        graph: &Graph,
        hp: &HParams,
        rope: RopeTable,
    ) -> Result<Self, ModelError> {
        let Head::UntiedIfPresent(head) = &graph.head;
        let layers =
            graph.layers.iter().map(|layer| LoadedLayer::load(loader, layer)).collect::<Result<_, _>>()?;
        let output_norm = LoadedNorm::load(loader, &graph.output_norm)?;
        let (embedding, head) = if loader.file.tensor(&head.name).is_some() {
            let is_embd = |t: &ingle_gguf::TensorInfo| t.name == graph.token_embd.name;
            let tensor_idx = loader.file.tensors().iter().position(is_embd);
            let tensor_idx = tensor_idx.expect("`check_tensors` has seen the embedding table");
            (Embedding::File { file: loader.file.clone(), tensor_idx }, loader.matrix(head)?)
        } else {
            (Embedding::Tied, loader.matrix(&graph.token_embd)?)
        };
        Ok(Self { n_embd: hp.n_embd, embedding, rope, layers, output_norm, head })
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

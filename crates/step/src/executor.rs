//! `submit` a batch, `wait` for its results.

use std::fmt;

use crate::NumericPath;

/// A token of a model's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub u32);

/// A fixed run of KV slots: an index into an executor's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// One token stream of a request, unique for the life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// A low-rank adapter that an executor holds beside its weights. An id never names a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub u64);

/// An adapter at work on a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterUse {
    /// Which one.
    pub adapter: AdapterId,
    /// Multiplies what it adds. Finite.
    pub scale: f32,
}

/// The most adapters of one sequence.
pub const ADAPTERS_MAX: usize = 16;

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What enters the model at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A token, through the embedding table.
    Token(TokenId),
    /// A token of the second of two texts that a model reads together: its token type is 1 and not 0.
    Second(TokenId),
}

impl Input {
    /// The token.
    pub fn token(self) -> TokenId {
        match self {
            Self::Token(token) | Self::Second(token) => token,
        }
    }
}

/// What a query row shall give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Logits over the whole vocabulary.
    Logits,
    /// The final hidden state, after the last norm.
    Hidden,
    /// What the head that classifies makes of the final hidden state.
    Labels,
}

/// One sequence's share of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct SeqStep {
    /// Whose it is.
    pub seq: SeqId,
    /// The inputs, one per query row. Never empty.
    pub inputs: Vec<Input>,
    /// The position of the first input: how many tokens of this sequence are in the cache already.
    pub start: u32,
    /// The blocks of the sequence in order; covers `start + inputs.len()` slots.
    pub block_table: Vec<BlockId>,
    /// Whether a row sees only itself and rows before it. Bidirectional models see the whole query range and
    /// are never chunked.
    pub causal: bool,
    /// Which rows (indices into `inputs`, ascending) give something back. A row that is wanted in both ways is there
    /// twice.
    pub wants: Vec<(u32, Want)>,
    /// What is added to the model's matrices for this sequence, in the order in which it is added: at most
    /// [`ADAPTERS_MAX`], none twice. All steps of a sequence, and of those that share its blocks, have the same: K and V
    /// depend on them. An executor refuses an id that it does not hold.
    pub adapters: Vec<AdapterUse>,
}

/// A block to duplicate before the step runs: the source stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// Read from here.
    pub from: BlockId,
    /// Written to here.
    pub to: BlockId,
    /// How many leading slots matter.
    pub n_slots: u32,
}

/// What a block is to hold: see [`Executor::import_block`].
#[derive(Clone, PartialEq)]
pub struct BlockImport {
    /// Overwritten as a whole.
    pub block: BlockId,
    /// As [`Executor::export_block`] gave it.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for BlockImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockImport({}, {} bytes)", self.block.0, self.bytes.len())
    }
}

/// The work of one engine iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBatch {
    /// Counts up; results carry it back.
    pub step: u64,
    /// Copies that happen first (copy-on-write).
    pub copies: Vec<BlockCopy>,
    /// Blocks that get their contents from elsewhere, after the copies and before any row is computed: what is imported
    /// into may be what was copied from.
    pub imports: Vec<BlockImport>,
    /// The sequences. No block that one of them writes appears in another's table.
    pub seqs: Vec<SeqStep>,
}

/// What one wanted row gave.
#[derive(Clone, Debug, PartialEq)]
pub struct RowOut {
    /// The row, as in [`SeqStep::wants`].
    pub row: u32,
    /// Logits `(n_vocab,)`, hidden state `(n_embd,)` or labels `(n_labels,)`, as wanted.
    pub values: Vec<f32>,
}

impl RowOut {
    /// Whether every value is a number, and none infinite.
    pub fn is_finite(&self) -> bool {
        // Without an early end inside a chunk, which would keep the compiler from using vectors.
        self.values.chunks(1024).all(|chunk| chunk.iter().fold(true, |all, x| all & x.is_finite()))
    }
}

/// What one sequence gave, in the order of its wants.
#[derive(Clone, Debug, PartialEq)]
pub struct SeqOut {
    /// Whose it is.
    pub seq: SeqId,
    /// One per want.
    pub rows: Vec<RowOut>,
}

/// The results of a step, in the order of its sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOut {
    /// Which step this was.
    pub step: u64,
    /// One per sequence.
    pub seqs: Vec<SeqOut>,
}

/// What an executor is, and how much it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorInfo {
    /// Size of a logits row.
    pub n_vocab: usize,
    /// Size of a hidden state.
    pub n_embd: usize,
    /// The longest sequence the model is configured for.
    pub n_ctx: usize,
    /// Whether a row sees only itself and rows before it. Otherwise every sequence must be in one step as a whole.
    pub causal: bool,
    /// Whether rows can give logits: models that only embed texts cannot.
    pub has_logits: bool,
    /// Numbers that the head that classifies gives; 0 if there is none.
    pub n_labels: usize,
    /// Whether [`Input::Second`] is told apart from [`Input::Token`]; otherwise there is no such input.
    pub has_token_types: bool,
    /// Slots in a block.
    pub block_size: usize,
    /// Blocks in the cache.
    pub n_blocks: usize,
    /// Bytes of weights held.
    pub weight_bytes: u64,
    /// Bytes of K/V memory held.
    pub kv_bytes: u64,
    /// Bytes of one block over all layers, as [`Executor::export_block`] gives them.
    pub block_bytes: usize,
    /// The arithmetic, for fingerprints and replay.
    pub numeric_path: NumericPath,
}

/// Why a step did not run. The state of the sequences in it is then undefined: they must be computed again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExecutorError {
    /// The batch breaks a rule of this module: a bug in the scheduler.
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// There is no such block.
    #[error("there is no block {block}: the cache has {n_blocks}")]
    NoSuchBlock {
        /// What was asked for.
        block: u32,
        /// Blocks in the cache.
        n_blocks: usize,
    },
    /// Bytes that are no block of this executor; nothing was changed.
    #[error("{n_bytes} bytes are no block: one has {block_bytes}")]
    BlockLength {
        /// What was given.
        n_bytes: usize,
        /// [`ExecutorInfo::block_bytes`].
        block_bytes: usize,
    },
    /// The model can be used no more until it is loaded again: every further step fails as well.
    #[error("{0}")]
    Unusable(String),
}

/// Runs steps. One thread owns an executor; `submit` may return before the work is done, so that the next batch
/// can be prepared meanwhile, and `wait` gives the results of the oldest submitted step.
pub trait Executor: Send {
    /// What this executor is.
    fn info(&self) -> &ExecutorInfo;

    /// Starts a step.
    ///
    /// # Errors
    /// [`ExecutorError::InvalidBatch`] if the batch is not well formed; nothing has run then.
    fn submit(&mut self, batch: StepBatch) -> Result<(), ExecutorError>;

    /// Waits for the oldest step that was submitted.
    ///
    /// # Errors
    /// If the step failed, or none was submitted.
    fn wait(&mut self) -> Result<StepOut, ExecutorError>;

    /// The contents of a block: keys and values of all layers, in their stored form. They mean something only to an
    /// executor of the same model, numeric path and block size. Between steps only.
    ///
    /// # Errors
    /// If there is no such block, or the device failed.
    fn export_block(&mut self, block: BlockId) -> Result<Vec<u8>, ExecutorError>;

    /// As [`export_block`](Self::export_block), with only the first `n_slots` slots: in place of the others there are
    /// zeros, so that nothing leaves with them that was there before.
    ///
    /// # Errors
    /// As [`export_block`](Self::export_block); also if a block has fewer slots.
    fn export_slots(&mut self, block: BlockId, n_slots: usize) -> Result<Vec<u8>, ExecutorError>;

    /// Overwrites a block with what [`export_block`](Self::export_block) gave, bit for bit: whoever has it in a table then
    /// goes on as if its tokens had been computed there. Between steps only.
    ///
    /// # Errors
    /// If there is no such block, the bytes are not as many as a block has, or the device failed.
    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), ExecutorError>;

    /// Takes results back that nobody needs any more: their memory can serve the next step. Logits are half a megabyte a
    /// row with a usual vocabulary, and asking the system for so much anew in each step costs a tenth of its time.
    fn recycle(&mut self, out: StepOut) {
        drop(out);
    }
}

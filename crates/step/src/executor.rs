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
}

/// What a query row shall give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Logits over the whole vocabulary.
    Logits,
    /// The final hidden state, after the last norm.
    Hidden,
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

/// The work of one engine iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBatch {
    /// Counts up; results carry it back.
    pub step: u64,
    /// Copies that happen first (copy-on-write).
    pub copies: Vec<BlockCopy>,
    /// The sequences. No block that one of them writes appears in another's table.
    pub seqs: Vec<SeqStep>,
}

/// What one wanted row gave.
#[derive(Clone, Debug, PartialEq)]
pub struct RowOut {
    /// The row, as in [`SeqStep::wants`].
    pub row: u32,
    /// Logits `(n_vocab,)` or hidden state `(n_embd,)`, as wanted.
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
    /// Slots in a block.
    pub block_size: usize,
    /// Blocks in the cache.
    pub n_blocks: usize,
    /// Bytes of weights held.
    pub weight_bytes: u64,
    /// Bytes of K/V memory held.
    pub kv_bytes: u64,
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

    /// Takes results back that nobody needs any more: their memory can serve the next step. Logits are half a megabyte a
    /// row with a usual vocabulary, and asking the system for so much anew in each step costs a tenth of its time.
    fn recycle(&mut self, out: StepOut) {
        drop(out);
    }
}

//! The seam between scheduling and hardware: one **step** of the engine.
//!
//! `engine` decides *what* runs next and speaks only this vocabulary; an [`Executor`] owns weights and K/V memory
//! on some device and runs it. The scheduler holds block indices, the executor holds the memory behind them.
//! A step mixes any number of sequences, each with its own query range (a prefill chunk or one decoded token).

mod executor;
mod numeric_path;
mod sampling;

pub use executor::{
    ADAPTERS_MAX, AdapterId, AdapterUse, BlockCopy, BlockId, Executor, ExecutorError, ExecutorInfo, Input,
    RowOut, SeqId, SeqOut, SeqStep, StepBatch, StepOut, TokenId, Want,
};
pub use numeric_path::{KvType, NumericPath};
pub use sampling::{Mirostat, SamplerKind, SamplingParams, XTC_THRESHOLD_MAX};

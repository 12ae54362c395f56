//! The neutral vocabulary of requests and answers. Every dialect is translated to it, every provider speaks it.
//!
//! A [`Request`] says what is wanted and for whom; a [`Provider`] (the local engine, a peer node, a cloud client)
//! answers with a stream of [`Delta`]s, and turns texts into vectors ([`EmbedRequest`]). Nothing here knows HTTP, JSON
//! wire formats, or how tokens are computed.

mod constraint;
mod embedding;
mod message;
pub mod output;
mod principal;
mod provider;
mod request;
mod segment;
pub mod template;

pub use constraint::{Format, Rule};
pub use embedding::{
    EMBED_INPUTS_MAX, EmbedFuture, EmbedInput, EmbedRequest, Embedding, Embeddings, EmbeddingsFuture, Pooling,
};
pub use message::{Content, Message, Part, Role, ToolCall};
pub use principal::{DataClass, Principal};
pub use provider::{
    Condition, Delta, DeltaStream, Event, FinishReason, ModelDetails, ModelInfo, Prompted, Provider,
    ProviderError, ProviderStatus, StartFuture, TokenLogprob, Usage,
};
pub use request::{
    ChatInput, Defaulted, Echo, Infill, InfillFile, Priority, Prompt, ReasoningWish, Request, Sampling, Task,
    ToolChoice,
};
pub use segment::{Segment, Segments};

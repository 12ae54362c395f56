//! GGUF: the model file format. Reader (of files or memory), writer, tensor types and block sizes.
//!
//! A file is untrusted input. Every count, length, offset and dimension is checked against what is left of the
//! file before anything is allocated or sliced, and a bad file is a [`GgufError`] that names the key or tensor
//! and the offset. The format is described in `docs/gguf.md` of the ggml project; versions 2 and 3 are read.

mod error;
mod metadata;
mod reader;
mod source;
mod tensor_type;
mod writer;

pub use error::GgufError;
pub use metadata::{Array, Metadata, StringArray, Value, ValueType};
pub use reader::{GgufFile, TensorInfo, shard_name};
pub use source::ReadAt;
pub use tensor_type::TensorType;
pub use writer::GgufWriter;

//! Models in several files, as llama.cpp's `gguf-split` makes them: the first has the metadata, each has its number,
//! how many they are, and a part of the tensors.

use ingle_gguf::{GgufFile, GgufWriter, Value};

/// A model in so many files.
///
/// # Panics
/// If the bytes are no model.
pub fn shards(bytes: &[u8], count: u16) -> Vec<Vec<u8>> {
    let file = GgufFile::from_bytes(bytes.to_vec()).expect("a model");
    let tensors = file.tensors();
    let per_shard = tensors.len().div_ceil(usize::from(count));
    let shard = |no: u16| {
        let mut shard = match no {
            0 => GgufWriter::with_metadata(file.metadata().clone()),
            _ => GgufWriter::new(),
        };
        let n_tensors = i32::try_from(tensors.len()).expect("not so many");
        shard
            .set("split.no", Value::U16(no))
            .set("split.count", Value::U16(count))
            .set("split.tensors.count", Value::I32(n_tensors));
        for tensor in tensors.iter().skip(usize::from(no) * per_shard).take(per_shard) {
            let data = file.tensor_data(tensor).expect("it is in memory").into_owned();
            shard.tensor(&tensor.name, tensor.ty, &tensor.dims, data);
        }
        shard.to_bytes()
    };
    (0..count).map(shard).collect()
}

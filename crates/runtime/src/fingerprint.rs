//! Names for a model's content.

use ingle_gguf::{GgufError, GgufFile};
use sha2::{Digest, Sha256};

/// Bytes taken from the start, the middle and the end of each tensor.
const SAMPLE_BYTES: usize = 4096;

/// How many of a digest's hexadecimal digits tell models apart.
const SHORT_DIGITS: usize = 12;

/// A digest, short.
pub fn fingerprint(digest: &str) -> String {
    digest.chars().take(SHORT_DIGITS).collect()
}

/// The SHA-256 of everything in the header and of samples from every tensor, in hexadecimal. It tells models apart,
/// at the cost of reading a few megabytes; it is no proof that every weight is intact, nor what hashing the file
/// would give (digests of whole files are the store's).
///
/// # Errors
/// If the file cannot be read any more.
pub fn digest(file: &GgufFile) -> Result<String, GgufError> {
    let (mut hash, mut buf) = (Sha256::new(), Vec::new());
    for n_bytes in file.shard_bytes() {
        hash.update(n_bytes.to_le_bytes());
    }
    for (key, value) in file.metadata().iter() {
        hash.update(key.as_bytes());
        hash.update(format!("{value:?}").as_bytes());
    }
    for tensor in file.tensors() {
        hash.update(format!("{}{:?}{}", tensor.name, tensor.dims, tensor.ty).as_bytes());
        let n = SAMPLE_BYTES.min(tensor.n_bytes());
        for start in [0, (tensor.n_bytes() - n) / 2, tensor.n_bytes() - n] {
            hash.update(file.tensor_range_by(tensor, start..start + n, &mut buf)?);
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use ingle_gguf::{GgufWriter, Value};

    use super::*;

    #[test]
    fn tells_models_apart() {
        let file = |name: &str, x: f32| {
            let mut w = GgufWriter::new();
            w.set("general.name", Value::from(name)).tensor_f32("t", &[4], &[1.0, 2.0, 3.0, x]);
            digest(&GgufFile::from_bytes(w.to_bytes()).unwrap()).unwrap()
        };
        assert_eq!(file("a", 4.0), file("a", 4.0));
        assert_ne!(file("a", 4.0), file("b", 4.0));
        assert_ne!(file("a", 4.0), file("a", 5.0));
        assert_eq!(file("a", 4.0).len(), 64);
        assert_eq!(fingerprint(&"ab".repeat(32)), "abababababab");
    }
}

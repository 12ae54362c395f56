//! The stories260K checkpoint (a trained Llama of 260 thousand weights) as a GGUF file.
//!
//! The source is llama2.c's legacy form: a header of seven 32-bit integers, all weights as 32-bit floats, and a
//! separate file with the vocabulary. Its rope rotates neighbours, as GGUF's `llama` does, so nothing is permuted.

use ingle_gguf::{Array, GgufWriter, StringArray, Value};

/// Converts checkpoint and vocabulary.
///
/// # Errors
/// A sentence, if either file does not have the expected form.
pub fn convert(checkpoint: &[u8], vocabulary: &[u8]) -> Result<GgufWriter, String> {
    let mut bin = Cursor { bytes: checkpoint, what: "checkpoint" };
    let mut field = || bin.i32().and_then(|v| usize::try_from(v).map_err(|_| format!("a size is {v}")));
    let (n_embd, n_ff, n_layers) = (field()?, field()?, field()?);
    let (n_heads, n_kv_heads, n_vocab, n_ctx) = (field()?, field()?, field()?, field()?);
    if n_heads == 0 || n_embd % n_heads != 0 {
        return Err(format!("{n_embd} dimensions do not divide into {n_heads} heads"));
    }
    let head_dim = n_embd / n_heads;
    let n_kv = n_kv_heads * head_dim;

    let mut file = GgufWriter::new();
    let int = |v: usize| Value::U32(v as u32);
    file.set("general.architecture", "llama".into());
    file.set("general.name", "stories260K".into());
    file.set("general.file_type", Value::U32(0));
    file.set("llama.context_length", int(n_ctx));
    file.set("llama.embedding_length", int(n_embd));
    file.set("llama.block_count", int(n_layers));
    file.set("llama.feed_forward_length", int(n_ff));
    file.set("llama.attention.head_count", int(n_heads));
    file.set("llama.attention.head_count_kv", int(n_kv_heads));
    file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    file.set("llama.rope.dimension_count", int(head_dim));
    file.set("llama.vocab_size", int(n_vocab));
    put_vocabulary(&mut file, vocabulary, n_vocab)?;

    // The checkpoint has each kind of tensor for all layers together.
    let embd = bin.floats(n_vocab * n_embd)?;
    file.tensor_f32("token_embd.weight", &[n_embd as u64, n_vocab as u64], &embd);
    let kinds = [
        ("attn_norm", n_embd, None),
        ("attn_q", n_embd, Some(n_embd)),
        ("attn_k", n_embd, Some(n_kv)),
        ("attn_v", n_embd, Some(n_kv)),
        ("attn_output", n_embd, Some(n_embd)),
        ("ffn_norm", n_embd, None),
        ("ffn_gate", n_embd, Some(n_ff)),
        ("ffn_down", n_ff, Some(n_embd)),
        ("ffn_up", n_embd, Some(n_ff)),
    ];
    for (kind, n_in, n_out) in kinds {
        for layer_idx in 0..n_layers {
            let data = bin.floats(n_in * n_out.unwrap_or(1))?;
            let dims: Vec<u64> = std::iter::once(n_in).chain(n_out).map(|d| d as u64).collect();
            file.tensor_f32(&format!("blk.{layer_idx}.{kind}.weight"), &dims, &data);
        }
    }
    let norm = bin.floats(n_embd)?;
    file.tensor_f32("output_norm.weight", &[n_embd as u64], &norm);
    Ok(file)
}

fn put_vocabulary(file: &mut GgufWriter, vocabulary: &[u8], n_vocab: usize) -> Result<(), String> {
    let mut tok = Cursor { bytes: vocabulary, what: "vocabulary" };
    let _longest = tok.i32()?;
    let (mut tokens, mut scores, mut types) = (StringArray::default(), Vec::new(), Vec::new());
    for id in 0..n_vocab {
        scores.push(f32::from_bits(tok.i32()? as u32));
        let n_bytes = usize::try_from(tok.i32()?).map_err(|_| "a token has a negative length".to_owned())?;
        let piece = std::str::from_utf8(tok.take(n_bytes)?).map_err(|e| format!("token {id}: {e}"))?;
        // llama2.c pads the control tokens with newlines and writes spaces where SentencePiece has U+2581.
        let (text, ty) = match id {
            0 => ("<unk>".to_owned(), 2),
            1 => ("<s>".to_owned(), 3),
            2 => ("</s>".to_owned(), 3),
            3..259 => (piece.to_owned(), 6),
            _ => (piece.replace(' ', "\u{2581}"), 1),
        };
        tokens.push(text.as_bytes());
        types.push(ty);
    }
    file.set("tokenizer.ggml.model", "llama".into());
    file.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    file.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    file.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    file.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    file.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    file.set("tokenizer.ggml.add_eos_token", Value::Bool(false));
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self
            .bytes
            .split_at_checked(n)
            .ok_or_else(|| format!("the {} ends early: {n} more bytes are needed", self.what))?;
        self.bytes = rest;
        Ok(head)
    }

    fn i32(&mut self) -> Result<i32, String> {
        Ok(i32::from_le_bytes(self.take(4)?.try_into().expect("take returns 4 bytes")))
    }

    fn floats(&mut self, n: usize) -> Result<Vec<f32>, String> {
        let bytes = self.take(n.checked_mul(4).ok_or("a size overflows")?)?;
        Ok(bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().expect("4 bytes"))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_checkpoint_is_an_error() {
        assert!(convert(&[1; 20], &[]).is_err());
        assert!(convert(&[], &[]).is_err());
    }
}

//! Rows of a file as floats: for embedding tables that stay in the file.

use half::{bf16, f16};
use ingle_gguf::TensorType;

/// Dequantizes whole blocks: `bytes` are those of `out.len()` elements of type `ty`. `false` if the type is not one
/// that is read here (F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K), then `out` is untouched.
///
/// # Panics
/// If the number of bytes is not what `out` needs.
pub fn dequantize(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> bool {
    let block: fn(&[u8], &mut [f32]) = match ty {
        TensorType::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        TensorType::F16 => |b, out| out[0] = f16_at(b, 0),
        TensorType::BF16 => |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        TensorType::Q8_0 => q8_0,
        TensorType::Q4_0 => q4_0,
        TensorType::Q4_K => q4_k,
        TensorType::Q6_K => q6_k,
        _ => return false,
    };
    let expected = ty.row_bytes(out.len() as u64);
    assert_eq!(Some(bytes.len() as u64), expected, "bytes of {} elements of type {ty}", out.len());
    for (bytes, out) in bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len())) {
        block(bytes, out);
    }
    true
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// `d`, then 32 signed bytes.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q as i8) * d;
    }
}

/// `d`, then 16 bytes: the low nibbles are elements 0 to 15, the high ones 16 to 31.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        out[i] = (f32::from(q & 15) - 8.0) * d;
        out[i + 16] = (f32::from(q >> 4) - 8.0) * d;
    }
}

/// `d`, `dmin`, 12 bytes of 6-bit scales and minimums, 128 bytes of nibbles.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (packed, nibbles) = block[4..].split_at(12);
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = if sub < 4 {
            (packed[sub] & 63, packed[sub + 4] & 63)
        } else {
            // The last four have their low nibbles together, their top bits above the first four.
            let low = packed[sub + 4];
            (low & 15 | packed[sub - 4] >> 6 << 4, low >> 4 | packed[sub] >> 6 << 4)
        };
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let shift = sub % 2 * 4;
        for (out, &q) in out.iter_mut().zip(&nibbles[sub / 2 * 32..]) {
            *out = scale * f32::from(q >> shift & 15) - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 of top two bits, 16 signed scales, `d`.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16_at(block, 208);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        // Four groups of 32 share 64 bytes of nibbles and 32 bytes of top bits.
        let (half, group_of_half) = (group / 4, group % 4);
        let low = &low[half * 64 + group_of_half % 2 * 32..];
        let high = &high[half * 32..];
        for (l, out) in out.iter_mut().enumerate() {
            let nibble = low[l] >> (group_of_half / 2 * 4) & 15;
            let q = nibble | (high[l] >> (2 * group_of_half) & 3) << 4;
            let scale = d * f32::from(scales[group * 2 + l / 16] as i8);
            *out = scale * (f32::from(q) - 32.0);
        }
    }
}

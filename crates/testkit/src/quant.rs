//! Rows of floats to the block formats of model files, by plain rounding to nearest.
//!
//! Made for tests: every field of a block is used (scales of both signs, minimums, all bit planes), quality is
//! not the aim. The layouts are the ones that `ingle-gguf` names.

use half::{bf16, f16};
use ingle_gguf::TensorType;

/// Elements of a K-quant block.
const QK_K: usize = 256;

/// The rows `x` `(n_rows, n_cols)` as a tensor's data.
///
/// # Panics
/// If rows are no whole number of blocks, or tests have no quantizer for the type.
pub fn quantize(ty: TensorType, x: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(x.len() / ty.block_len() * ty.block_bytes());
    assert_eq!(x.len() % ty.block_len(), 0, "{ty} needs whole blocks");
    for block in x.chunks_exact(ty.block_len()) {
        match ty {
            TensorType::F32 => out.extend(block[0].to_le_bytes()),
            TensorType::F16 => put_f16(&mut out, block[0]),
            TensorType::BF16 => out.extend(bf16::from_f32(block[0]).to_le_bytes()),
            TensorType::Q8_0 => q8_0(&mut out, block),
            TensorType::Q4_0 => q4_0(&mut out, block),
            TensorType::Q4_K => q4_k(&mut out, block),
            TensorType::Q6_K => q6_k(&mut out, block),
            _ => panic!("tests have no quantizer for {ty}"),
        }
    }
    out
}

fn put_f16(out: &mut Vec<u8>, x: f32) {
    out.extend(f16::from_f32(x).to_le_bytes());
}

/// What a reader of the file sees in place of `x`.
fn as_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// The element that is largest in magnitude, with its sign.
fn largest(x: &[f32]) -> f32 {
    x.iter().copied().fold(0.0, |a: f32, b| if b.abs() > a.abs() { b } else { a })
}

/// `x / d`, and 0 where the scale is 0.
fn steps(x: f32, d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { (x / d).round() }
}

/// `d`, then 32 signed bytes.
fn q8_0(out: &mut Vec<u8>, x: &[f32]) {
    let d = as_f16(largest(x).abs() / 127.0);
    put_f16(out, d);
    out.extend(x.iter().map(|&x| steps(x, d).clamp(-127.0, 127.0) as i8 as u8));
}

/// `d`, then 16 bytes: the low nibbles are elements 0 to 15, the high ones 16 to 31.
fn q4_0(out: &mut Vec<u8>, x: &[f32]) {
    let d = as_f16(largest(x) / -8.0);
    put_f16(out, d);
    let q = |x: f32| (steps(x, d).clamp(-8.0, 7.0) + 8.0) as u8;
    out.extend((0..16).map(|i| q(x[i]) | q(x[i + 16]) << 4));
}

/// `d`, `dmin`, 12 bytes of 6-bit scales and minimums, 128 bytes of nibbles.
fn q4_k(out: &mut Vec<u8>, x: &[f32]) {
    let subs: Vec<(f32, f32)> = x
        .chunks_exact(32)
        .map(|sub| {
            let min = sub.iter().copied().fold(0.0, f32::min);
            let max = sub.iter().copied().fold(min, f32::max);
            ((max - min) / 15.0, -min)
        })
        .collect();
    let d = as_f16(subs.iter().fold(0.0, |a: f32, s| a.max(s.0)) / 63.0);
    let dmin = as_f16(subs.iter().fold(0.0, |a: f32, s| a.max(s.1)) / 63.0);
    put_f16(out, d);
    put_f16(out, dmin);
    let codes: Vec<(u8, u8)> = subs
        .iter()
        .map(|s| (steps(s.0, d).clamp(0.0, 63.0) as u8, steps(s.1, dmin).clamp(0.0, 63.0) as u8))
        .collect();
    // The first four scales and minimums lie in the low 6 bits of bytes 0 to 7; the last four have their low
    // nibbles in bytes 8 to 11 and their top two bits above those of the first four.
    let mut packed = [0u8; 12];
    for j in 0..4 {
        packed[j] = codes[j].0 | (codes[j + 4].0 >> 4) << 6;
        packed[j + 4] = codes[j].1 | (codes[j + 4].1 >> 4) << 6;
        packed[j + 8] = (codes[j + 4].0 & 15) | (codes[j + 4].1 & 15) << 4;
    }
    out.extend(packed);
    let q = |i: usize| {
        let (scale, min) = codes[i / 32];
        steps(x[i] + dmin * f32::from(min), d * f32::from(scale)).clamp(0.0, 15.0) as u8
    };
    for pair in 0..4 {
        out.extend((0..32).map(|l| q(64 * pair + l) | q(64 * pair + 32 + l) << 4));
    }
}

/// 128 bytes of low nibbles, 64 of top two bits, 16 signed scales, `d`.
fn q6_k(out: &mut Vec<u8>, x: &[f32]) {
    let subs: Vec<f32> = x.chunks_exact(16).map(|sub| largest(sub) / -32.0).collect();
    let d = as_f16(largest(&subs).abs() / 127.0);
    let scales: Vec<f32> = subs.iter().map(|&s| steps(s, d).clamp(-127.0, 127.0)).collect();
    let q = |i: usize| (steps(x[i], d * scales[i / 16]).clamp(-32.0, 31.0) + 32.0) as u8;
    let (mut low, mut high) = (Vec::with_capacity(QK_K / 2), Vec::with_capacity(QK_K / 4));
    for half in [0, 128] {
        low.extend((0..64).map(|l| (q(half + l) & 15) | (q(half + 64 + l) & 15) << 4));
        high.extend((0..32).map(|l| (0..4).fold(0, |bits, g| bits | (q(half + 32 * g + l) >> 4) << (2 * g))));
    }
    out.extend(low);
    out.extend(high);
    out.extend(scales.iter().map(|&s| s as i8 as u8));
    put_f16(out, d);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn blocks_have_the_size_of_their_type() {
        let mut rng = Rng::new(1);
        let x: Vec<f32> = (0..512).map(|_| rng.normal()).collect();
        use TensorType::*;
        for ty in [F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K] {
            assert_eq!(quantize(ty, &x).len() as u64, ty.row_bytes(512).expect("whole blocks"), "{ty}");
        }
    }

    #[test]
    fn zeros_stay_finite() {
        for ty in [TensorType::Q8_0, TensorType::Q4_0, TensorType::Q4_K, TensorType::Q6_K] {
            let bytes = quantize(ty, &[0.0; 256]);
            assert!(bytes.len() == ty.row_bytes(256).expect("whole blocks") as usize);
        }
    }
}

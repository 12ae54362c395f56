//! Random weights of every type.

use half::{bf16, f16};
use ingle_gguf::TensorType;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[-1, 1)`.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.signed()).collect()
    }
}

/// Rows as they lie in a file: random bits under random scales of a usual size.
pub fn random_rows(ty: TensorType, n_rows: usize, n_cols: usize, rng: &mut Rng) -> Vec<u8> {
    let n_blocks = n_rows * n_cols / ty.block_len();
    let mut bytes = Vec::with_capacity(n_blocks * ty.block_bytes());
    for _ in 0..n_blocks {
        let mut block = vec![0u8; ty.block_bytes()];
        for chunk in block.chunks_mut(8) {
            let random = rng.next().to_le_bytes();
            let n = chunk.len();
            chunk.copy_from_slice(&random[..n]);
        }
        let half = |scale: f32, rng: &mut Rng| f16::from_f32(rng.signed() * scale).to_le_bytes();
        match ty {
            TensorType::F32 => block.copy_from_slice(&rng.signed().to_le_bytes()),
            TensorType::F16 => block.copy_from_slice(&half(1.0, rng)),
            TensorType::BF16 => block.copy_from_slice(&bf16::from_f32(rng.signed()).to_le_bytes()),
            TensorType::IQ4_NL => block[..2].copy_from_slice(&half(1.0 / 127.0, rng)),
            TensorType::IQ2_XXS | TensorType::IQ2_XS | TensorType::IQ2_S => {
                block[..2].copy_from_slice(&half(1.0 / 160.0, rng));
            }
            TensorType::IQ3_XXS => block[..2].copy_from_slice(&half(1.0 / 500.0, rng)),
            TensorType::IQ3_S => block[..2].copy_from_slice(&half(1.0 / 500.0, rng)),
            TensorType::IQ1_S => block[..2].copy_from_slice(&half(1.0 / 15.0, rng)),
            TensorType::IQ1_M => {
                // The four top nibbles of the last four words.
                let d = half(1.0 / 15.0, rng);
                for (i, nibble) in [d[0] & 15, d[0] >> 4, d[1] & 15, d[1] >> 4].into_iter().enumerate() {
                    block[49 + 2 * i] = block[49 + 2 * i] & 15 | nibble << 4;
                }
            }
            TensorType::IQ4_XS => block[..2].copy_from_slice(&half(1.0 / 4000.0, rng)),
            TensorType::MXFP4 => block[0] = 120 + (rng.next() % 6) as u8,
            TensorType::Q8_0 => block[..2].copy_from_slice(&half(1.0 / 127.0, rng)),
            TensorType::Q4_0 => block[..2].copy_from_slice(&half(1.0 / 8.0, rng)),
            TensorType::Q4_K | TensorType::Q5_K => {
                block[..2].copy_from_slice(&half(1.0 / 500.0, rng));
                block[2..4].copy_from_slice(&half(1.0 / 60.0, rng));
            }
            TensorType::Q4_1 | TensorType::Q5_1 => {
                block[..2].copy_from_slice(&half(1.0 / 16.0, rng));
                block[2..4].copy_from_slice(&half(1.0, rng));
            }
            TensorType::Q5_0 => block[..2].copy_from_slice(&half(1.0 / 16.0, rng)),
            TensorType::Q2_K => {
                block[80..82].copy_from_slice(&half(1.0 / 30.0, rng));
                block[82..].copy_from_slice(&half(1.0 / 15.0, rng));
            }
            TensorType::Q3_K => block[108..].copy_from_slice(&half(1.0 / 100.0, rng)),
            TensorType::Q6_K => block[208..].copy_from_slice(&half(1.0 / 2000.0, rng)),
            _ => unreachable!("not one of `Matrix::TYPES`"),
        }
        bytes.extend(block);
    }
    bytes
}

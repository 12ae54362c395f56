//! Products: the same bits on every instruction set and under every division of the work, close to the true product.

mod common;

use common::{Rng, random_rows};
use half::bf16;
use ingle_gguf::TensorType;
use ingle_kernels::{
    ActKinds, Activations, ClaimOrder, Isa, KernelError, Matrix, Pool, Product, RowNorm, matmul,
    matmul_swiglu,
};

/// Rounding errors of F32 chains, as a share of the sum of magnitudes.
const F32_TOLERANCE: f64 = 1e-5;

/// Standard deviations that the sum of independent rounding errors may be off. 6 is met once in 500 million.
const N_SIGMAS: f64 = 6.0;

fn cols_of(ty: TensorType) -> &'static [usize] {
    match ty.block_len() {
        1 => &[1, 7, 63, 256],
        32 => &[32, 96, 256],
        _ => &[256, 768],
    }
}

fn load(pool: &Pool, matrix: &Matrix, x: &[f32]) -> Activations {
    let mut acts = Activations::default();
    acts.load(pool, x, matrix.n_cols(), None, matrix.act_kind());
    acts
}

fn multiply(pool: &Pool, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let acts = load(pool, matrix, x);
    let mut out = vec![f32::NAN; acts.n_rows() * matrix.n_rows()];
    let product = Product { weights: matrix, bias: None, accumulate: false, out: &mut out };
    matmul(pool, &acts, &mut [product]);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_isa_gives_the_twins_bits() {
    let mut rng = Rng(1);
    for ty in Matrix::TYPES {
        for &n_cols in cols_of(ty) {
            for n_rows in [1, 15, 16, 17, 33] {
                let scalar = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
                let data = random_rows(ty, n_rows, n_cols, &mut rng);
                let matrix = Matrix::from_gguf(ty, n_rows, n_cols, &data, &scalar).unwrap();
                for n_tokens in [1, 2, 3, 4, 5, 6, 7, 8, 9, 17] {
                    let x = rng.floats(n_tokens * n_cols);
                    let expected = bits(&multiply(&scalar, &matrix, &x));
                    for isa in Isa::available() {
                        let pool = Pool::with(1, isa, ClaimOrder::Forward);
                        let got = bits(&multiply(&pool, &matrix, &x));
                        assert_eq!(
                            got,
                            expected,
                            "{ty} {n_rows}x{n_cols}, {n_tokens} tokens, {}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

/// Few tokens take several groups of 16 rows together where there are enough of them; what is left goes alone.
#[test]
fn every_isa_gives_the_twins_bits_for_few_tokens_and_many_rows() {
    let mut rng = Rng(12);
    let scalar = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
    for ty in Matrix::TYPES {
        for &n_cols in cols_of(ty) {
            for n_rows in [512, 527, 544, 550, 1100] {
                let data = random_rows(ty, n_rows, n_cols, &mut rng);
                let matrix = Matrix::from_gguf(ty, n_rows, n_cols, &data, &scalar).unwrap();
                for n_tokens in [1, 2, 3, 4] {
                    let x = rng.floats(n_tokens * n_cols);
                    let expected = bits(&multiply(&scalar, &matrix, &x));
                    for isa in Isa::available() {
                        for (n_threads, order) in [(1, ClaimOrder::Forward), (2, ClaimOrder::Shuffled(1))] {
                            let pool = Pool::with(n_threads, isa, order);
                            assert_eq!(
                                bits(&multiply(&pool, &matrix, &x)),
                                expected,
                                "{ty} {n_rows}x{n_cols}, {n_tokens} tokens, {n_threads} threads, {}",
                                isa.name()
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Denormals, signed zeros, extremes of the integer ranges, infinities in scales: the rare paths of the arithmetic.
#[test]
fn every_isa_gives_the_twins_bits_on_extreme_numbers() {
    let mut rng = Rng(2);
    let scalar = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
    for ty in Matrix::TYPES {
        for round in 0..8 {
            let n_cols = cols_of(ty)[cols_of(ty).len() - 1];
            let mut data = random_rows(ty, 16, n_cols, &mut rng);
            for block in data.chunks_exact_mut(ty.block_bytes()) {
                // Floats: all sizes down to denormals. Blocks: all quants and scales at one end.
                match (ty, round) {
                    (TensorType::F32, _) => {
                        let v = rng.signed() * 2f32.powi(-((rng.next() % 140) as i32));
                        block.copy_from_slice(&v.to_le_bytes());
                    }
                    (TensorType::F16 | TensorType::BF16, _) => {
                        block[1] &= 0x83 | (rng.next() as u8 & 0x38);
                    }
                    (TensorType::Q8_0 | TensorType::Q4_0 | TensorType::Q5_0, r) => {
                        block[2..].fill([0, 255, 0x80, 0x7F][r % 4]);
                    }
                    (TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K, r) => {
                        block[4..].fill([0, 255][r % 2]);
                    }
                    (TensorType::Q2_K, r) => block[..80].fill([0, 255, 0x0F, 0xF0][r % 4]),
                    // Scales of -32 and 31 on weights of -4 and 3.
                    (TensorType::Q3_K, r) => {
                        block[..96].fill([0, 255][r % 2]);
                        block[96..108].fill([0, 255][r / 2 % 2]);
                    }
                    (TensorType::IQ4_NL | TensorType::IQ4_XS, r) => {
                        block[2..].fill([0, 255, 0x80, 0x7F][r % 4])
                    }
                    (TensorType::MXFP4, r) => {
                        // Denormal scales, and the largest.
                        block[0] = [0, 1, 2, 254, 255, 20, 100, 127][r];
                        block[1..].fill([0x77, 0xFF, 0xF7, 0x7F][r % 4]);
                    }
                    (
                        TensorType::IQ1_S
                        | TensorType::IQ2_XXS
                        | TensorType::IQ2_XS
                        | TensorType::IQ2_S
                        | TensorType::IQ3_XXS
                        | TensorType::IQ3_S,
                        r,
                    ) => block[2..].fill([0, 255, 0x80, 0x7F][r % 4]),
                    (TensorType::IQ1_M, r) => block[..48].fill([0, 255, 0x80, 0x7F][r % 4]),
                    (_, r) => block[..208].fill([0, 255, 0x80, 0x7F][r % 4]),
                }
            }
            let matrix = Matrix::from_gguf(ty, 16, n_cols, &data, &scalar).unwrap();
            let x: Vec<f32> = (0..3 * n_cols)
                .map(|k| match (round, k / n_cols) {
                    (0..4, 0) => 1.0,
                    (0..4, 1) => -1.0,
                    (4, _) => rng.signed() * 2f32.powi(-((rng.next() % 149) as i32)),
                    (5, _) => rng.signed() * 1e-37,
                    (6, 0) => 0.0,
                    (6, 1) => -0.0,
                    _ => rng.signed(),
                })
                .collect();
            let expected = bits(&multiply(&scalar, &matrix, &x));
            for isa in Isa::available() {
                let pool = Pool::with(1, isa, ClaimOrder::Forward);
                assert_eq!(
                    bits(&multiply(&pool, &matrix, &x)),
                    expected,
                    "{ty}, {}, round {round}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn the_twin_is_close_to_the_true_product() {
    let mut rng = Rng(3);
    let pool = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
    for ty in Matrix::TYPES {
        for &n_cols in cols_of(ty) {
            let n_rows = 33;
            let data = random_rows(ty, n_rows, n_cols, &mut rng);
            let matrix = Matrix::from_gguf(ty, n_rows, n_cols, &data, &pool).unwrap();
            let x = rng.floats(5 * n_cols);
            let got = multiply(&pool, &matrix, &x);
            let mut w = vec![0.0; n_cols];
            for row in 0..n_rows {
                matrix.dequantize_row(row, &mut w);
                for (token, x) in x.chunks_exact(n_cols).enumerate() {
                    let terms = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                    let squares: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
                    let amax = x.iter().fold(0.0f64, |max, &x| max.max(f64::from(x).abs()));
                    // A uniform error of one step has a deviation of 1 / sqrt(12) steps.
                    let step = match matrix.act_kind() {
                        ActKinds::F32 => 0.0,
                        ActKinds::BF16 => amax / 256.0,
                        _ => amax / 127.0,
                    };
                    let tolerance = F32_TOLERANCE * terms().map(f64::abs).sum::<f64>()
                        + N_SIGMAS * step / 12f64.sqrt() * squares.sqrt();
                    let error = (f64::from(got[token * n_rows + row]) - terms().sum::<f64>()).abs();
                    assert!(
                        error <= tolerance,
                        "{ty} row {row} of {n_cols}: off by {error}, allowed {tolerance}"
                    );
                }
            }
        }
    }
}

/// With activations that int8 holds exactly, only float rounding is left: finds what statistics would hide.
#[test]
fn integers_multiply_exactly() {
    let mut rng = Rng(4);
    let pool = Pool::new(1);
    for ty in Matrix::TYPES {
        let n_cols = 512;
        let data = random_rows(ty, 16, n_cols, &mut rng);
        let matrix = Matrix::from_gguf(ty, 16, n_cols, &data, &pool).unwrap();
        let mut x: Vec<f32> = (0..2 * n_cols).map(|_| (rng.next() % 255) as f32 - 127.0).collect();
        x.iter_mut().step_by(32).for_each(|x| *x = 127.0);
        let got = multiply(&pool, &matrix, &x);
        let mut w = vec![0.0; n_cols];
        for row in 0..16 {
            matrix.dequantize_row(row, &mut w);
            for (token, x) in x.chunks_exact(n_cols).enumerate() {
                let terms = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let error = (f64::from(got[token * 16 + row]) - terms().sum::<f64>()).abs();
                assert!(
                    error <= F32_TOLERANCE * terms().map(f64::abs).sum::<f64>(),
                    "{ty} row {row}: {error}"
                );
            }
        }
    }
}

#[test]
fn tokens_threads_and_claims_do_not_meet() {
    let mut rng = Rng(5);
    for ty in Matrix::TYPES {
        let (n_rows, n_cols, n_tokens) = (150, 512, 41);
        let one = Pool::with(1, Isa::detect(), ClaimOrder::Forward);
        let data = random_rows(ty, n_rows, n_cols, &mut rng);
        let matrix = Matrix::from_gguf(ty, n_rows, n_cols, &data, &one).unwrap();
        let x = rng.floats(n_tokens * n_cols);
        let alone: Vec<f32> = x.chunks_exact(n_cols).flat_map(|x| multiply(&one, &matrix, x)).collect();
        for (n_threads, order) in [
            (1, ClaimOrder::Forward),
            (1, ClaimOrder::Reverse),
            (3, ClaimOrder::Shuffled(1)),
            (2, ClaimOrder::Shuffled(2)),
        ] {
            let pool = Pool::with(n_threads, Isa::detect(), order);
            assert_eq!(
                bits(&multiply(&pool, &matrix, &x)),
                bits(&alone),
                "{ty}, {n_threads} threads, {order:?}"
            );
        }
    }
}

#[test]
fn several_products_with_bias_and_residual() {
    let mut rng = Rng(6);
    let pool = Pool::new(2);
    let types = [TensorType::Q4_K, TensorType::Q6_K, TensorType::F16, TensorType::Q8_0];
    for (n_tokens, n_rows) in [(3, [40, 17, 16, 5]), (1, [16, 1040, 1100, 1031])] {
        check_several_products(&pool, types, n_rows, n_tokens, &mut rng);
    }
}

fn check_several_products(
    pool: &Pool,
    types: [TensorType; 4],
    n_rows: [usize; 4],
    n_tokens: usize,
    rng: &mut Rng,
) {
    let n_cols = 256;
    let matrices: Vec<_> = types
        .iter()
        .zip(n_rows)
        .map(|(&ty, n_rows)| {
            let data = random_rows(ty, n_rows, n_cols, rng);
            Matrix::from_gguf(ty, n_rows, n_cols, &data, pool).unwrap()
        })
        .collect();
    let x = rng.floats(n_tokens * n_cols);
    let mut acts = Activations::default();
    let kinds = matrices.iter().fold(ActKinds::default(), |kinds, m| kinds.union(m.act_kind()));
    acts.load(pool, &x, n_cols, None, kinds);
    let biases: Vec<_> = matrices.iter().map(|m| rng.floats(m.n_rows())).collect();
    let before: Vec<_> = matrices.iter().map(|m| rng.floats(n_tokens * m.n_rows())).collect();

    for (with_bias, accumulate) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut outs = before.clone();
        let mut products: Vec<_> = matrices
            .iter()
            .zip(&biases)
            .zip(&mut outs)
            .map(|((weights, bias), out)| Product {
                weights,
                bias: with_bias.then_some(bias.as_slice()),
                accumulate,
                out,
            })
            .collect();
        matmul(pool, &acts, &mut products);
        for (i, matrix) in matrices.iter().enumerate() {
            let plain = multiply(pool, matrix, &x);
            let expected: Vec<f32> = plain
                .iter()
                .enumerate()
                .map(|(j, &y)| {
                    let y = if with_bias { y + biases[i][j % matrix.n_rows()] } else { y };
                    if accumulate { before[i][j] + y } else { y }
                })
                .collect();
            assert_eq!(bits(&outs[i]), bits(&expected), "{}", matrix.ty());
        }
    }
}

#[test]
fn swiglu_is_the_two_products_combined() {
    let mut rng = Rng(7);
    let n_cols = 512;
    for (gate_ty, up_ty, n_ff, n_tokens) in [
        (TensorType::Q4_K, TensorType::Q6_K, 37, 11),
        (TensorType::F32, TensorType::F32, 37, 11),
        (TensorType::F32, TensorType::F16, 1040, 1),
        (TensorType::F32, TensorType::F16, 1055, 2),
        (TensorType::BF16, TensorType::BF16, 1055, 1),
        (TensorType::Q8_0, TensorType::Q8_0, 1050, 1),
        (TensorType::Q8_0, TensorType::Q4_0, 1050, 1),
    ] {
        let pool = Pool::new(2);
        let mut matrix = |ty| {
            let data = random_rows(ty, n_ff, n_cols, &mut rng);
            Matrix::from_gguf(ty, n_ff, n_cols, &data, &pool).unwrap()
        };
        let (gate, up) = (matrix(gate_ty), matrix(up_ty));
        let x = rng.floats(n_tokens * n_cols);
        let expected: Vec<f32> = multiply(&pool, &gate, &x)
            .iter()
            .zip(multiply(&pool, &up, &x))
            .map(|(&g, u)| g * (1.0 / (1.0 + ingle_kernels::exp(-g))) * u)
            .collect();
        for isa in Isa::available() {
            let pool = Pool::with(2, isa, ClaimOrder::Forward);
            let acts = load(&pool, &gate, &x);
            let mut out = vec![f32::NAN; n_tokens * n_ff];
            matmul_swiglu(&pool, &acts, &gate, &up, &mut out);
            assert_eq!(bits(&out), bits(&expected), "{}", isa.name());
        }
    }
}

#[test]
fn a_norm_on_the_way_in_is_the_norm_before() {
    let mut rng = Rng(8);
    let pool = Pool::new(2);
    let n_cols = 512;
    for ty in Matrix::TYPES {
        let data = random_rows(ty, 16, n_cols, &mut rng);
        let matrix = Matrix::from_gguf(ty, 16, n_cols, &data, &pool).unwrap();
        let (x, weight) = (rng.floats(3 * n_cols), rng.floats(n_cols));
        let bias = rng.floats(n_cols);
        let rms = RowNorm::Rms { weight: &weight, eps: 1e-5 };
        let layer = RowNorm::Layer { weight: &weight, bias: &bias, eps: 1e-5 };
        for norm in [rms, layer] {
            let mut normed = vec![0.0; x.len()];
            ingle_kernels::norm_rows(&pool, &x, norm, &mut normed);
            let expected = multiply(&pool, &matrix, &normed);
            let mut acts = Activations::default();
            acts.load(&pool, &x, n_cols, Some(norm), matrix.act_kind());
            let mut out = vec![0.0; 3 * 16];
            matmul(
                &pool,
                &acts,
                &mut [Product { weights: &matrix, bias: None, accumulate: false, out: &mut out }],
            );
            assert_eq!(bits(&out), bits(&expected), "{ty}");
        }
    }
}

#[test]
fn activations_are_reused_and_no_rows_are_fine() {
    let mut rng = Rng(9);
    let pool = Pool::new(1);
    let data = random_rows(TensorType::Q4_K, 16, 256, &mut rng);
    let matrix = Matrix::from_gguf(TensorType::Q4_K, 16, 256, &data, &pool).unwrap();
    let mut acts = Activations::default();
    for n_tokens in [9, 1, 0, 30, 2] {
        let x = rng.floats(n_tokens * 256);
        acts.load(&pool, &x, 256, None, ActKinds::Q8_256);
        assert_eq!((acts.n_rows(), acts.n_cols()), (n_tokens, 256));
        let mut out = vec![0.0; n_tokens * 16];
        matmul(
            &pool,
            &acts,
            &mut [Product { weights: &matrix, bias: None, accumulate: false, out: &mut out }],
        );
        assert_eq!(bits(&out), bits(&multiply(&pool, &matrix, &x)), "{n_tokens} tokens");
    }
}

#[test]
fn a_block_that_is_not_finite_makes_its_own_row_nan() {
    let mut rng = Rng(10);
    for isa in Isa::available() {
        let pool = Pool::with(1, isa, ClaimOrder::Forward);
        for ty in Matrix::TYPES {
            let data = random_rows(ty, 16, 256, &mut rng);
            let matrix = Matrix::from_gguf(ty, 16, 256, &data, &pool).unwrap();
            let mut x = rng.floats(3 * 256);
            x[256 + 77] = f32::NAN;
            let out = multiply(&pool, &matrix, &x);
            for (token, out) in out.chunks_exact(16).enumerate() {
                assert!(out.iter().all(|y| y.is_nan() == (token == 1)), "{ty} token {token} {}", isa.name());
            }
        }
    }
}

#[test]
fn wrong_sizes_and_types_are_refused() {
    let pool = Pool::new(1);
    let refused = |ty, n_rows, n_cols, n_bytes| {
        Matrix::from_gguf(ty, n_rows, n_cols, &vec![0; n_bytes], &pool).unwrap_err()
    };
    assert_eq!(refused(TensorType::I32, 1, 256, 1024), KernelError::UnsupportedType(TensorType::I32));
    for (ty, n_rows, n_cols, n_bytes) in [
        (TensorType::Q4_K, 2, 256, 287),
        (TensorType::Q4_K, 2, 256, 289),
        (TensorType::Q4_K, 1, 128, 72),
        (TensorType::Q8_0, 1, 33, 34),
        (TensorType::F32, 0, 16, 0),
        (TensorType::F32, 16, 0, 0),
        (TensorType::F32, usize::MAX / 2, 16, 8),
        (TensorType::F16, usize::MAX, usize::MAX, 8),
    ] {
        assert_eq!(
            refused(ty, n_rows, n_cols, n_bytes),
            KernelError::WrongSize { ty, n_rows, n_cols, n_bytes },
            "{ty} {n_rows}x{n_cols} in {n_bytes} bytes"
        );
    }
}

/// Rows come back from the repacked form exactly as the file has them.
#[test]
fn plain_rows_come_back() {
    let mut rng = Rng(11);
    let pool = Pool::new(1);
    for ty in [TensorType::F32, TensorType::BF16] {
        let (n_rows, n_cols) = (19, 7);
        let data = random_rows(ty, n_rows, n_cols, &mut rng);
        let matrix = Matrix::from_gguf(ty, n_rows, n_cols, &data, &pool).unwrap();
        let mut row = vec![0.0; n_cols];
        for (i, expected) in data.chunks_exact(n_cols * ty.block_bytes()).enumerate() {
            matrix.dequantize_row(i, &mut row);
            let expected: Vec<f32> = match ty {
                TensorType::F32 => {
                    expected.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
                }
                _ => expected
                    .chunks_exact(2)
                    .map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32())
                    .collect(),
            };
            assert_eq!(bits(&row), bits(&expected));
        }
    }
}

/// Against the golden vectors of the reference implementation, where they are at hand.
#[test]
fn dequantized_rows_are_the_golden_ones() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/quant/golden");
    let pool = Pool::new(1);
    for ty in Matrix::TYPES.into_iter().filter(|ty| ty.block_len() > 1) {
        let Ok(blocks) = std::fs::read(dir.join(format!("{ty}.random_blocks.bin"))) else { continue };
        let expected = std::fs::read(dir.join(format!("{ty}.random_blocks.f32.bin"))).unwrap();
        let expected: Vec<u32> =
            expected.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        // As several rows, and as one.
        for n_rows in [expected.len() / ty.block_len(), 1] {
            let n_cols = expected.len() / n_rows;
            let matrix = Matrix::from_gguf(ty, n_rows, n_cols, &blocks, &pool).unwrap();
            assert_eq!(matrix.file_bytes(), blocks.len());
            let mut got = vec![0.0; n_cols];
            for (row, expected) in expected.chunks_exact(n_cols).enumerate() {
                matrix.dequantize_row(row, &mut got);
                assert_eq!(bits(&got), expected, "{ty} row {row} of {n_rows}");
            }
        }
    }
}

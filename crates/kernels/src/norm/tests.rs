use super::*;
use crate::ClaimOrder;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i.wrapping_mul(0x9E37_79B9) ^ seed) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

#[test]
fn norms_match_the_formula_with_the_same_bits_on_every_isa() {
    for n_cols in [1, 3, 15, 16, 17, 40, 64, 100, 2048] {
        let x = numbers(n_cols * 9, 1);
        let weight = numbers(n_cols, 2);
        let norm = RmsNorm { weight: &weight, eps: 1e-5 };
        let mut expected = vec![0.0; x.len()];
        rms_norm_rows(&Pool::with(1, Isa::Scalar, ClaimOrder::Forward), &x, norm, &mut expected);
        for (x, out) in x.chunks(n_cols).zip(expected.chunks(n_cols)) {
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n_cols as f64;
            for i in 0..n_cols {
                let exact = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                assert!((f64::from(out[i]) - exact).abs() < 2e-6 * exact.abs().max(1e-3), "{n_cols}");
            }
        }
        for isa in Isa::available() {
            for order in [ClaimOrder::Forward, ClaimOrder::Shuffled(3)] {
                let pool = Pool::with(2, isa, order);
                let mut out = vec![0.0; x.len()];
                rms_norm_rows(&pool, &x, norm, &mut out);
                assert_eq!(out, expected, "{isa:?} {n_cols}");
                let mut heads = x.clone();
                rms_norm_heads(&pool, &mut heads, norm);
                assert_eq!(heads, expected, "{isa:?} {n_cols} in place");
            }
        }
    }
}

use super::*;
use crate::ClaimOrder;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i.wrapping_mul(0x9E37_79B9) ^ seed) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// The formula in doubles, for one element of a row.
fn exact(x: &[f32], norm: RowNorm<'_>, i: usize) -> f64 {
    let mean_of = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).sum::<f64>() / x.len() as f64;
    match norm {
        RowNorm::Rms { weight, eps } => {
            f64::from(x[i]) / (mean_of(&|x| x * x) + f64::from(eps)).sqrt() * f64::from(weight[i])
        }
        RowNorm::Layer { weight, bias, eps } => {
            let mean = mean_of(&|x| x);
            let variance = mean_of(&|x| (x - mean) * (x - mean));
            let normed = (f64::from(x[i]) - mean) / (variance + f64::from(eps)).sqrt();
            normed * f64::from(weight[i]) + f64::from(bias[i])
        }
    }
}

#[test]
fn norms_match_the_formula_with_the_same_bits_on_every_isa() {
    for n_cols in [1, 3, 15, 16, 17, 40, 64, 100, 2048] {
        // Far from 0, so that the mean matters.
        let x: Vec<f32> = numbers(n_cols * 9, 1).iter().map(|x| x + 0.75).collect();
        let (weight, bias) = (numbers(n_cols, 2), numbers(n_cols, 3));
        let rms = RowNorm::Rms { weight: &weight, eps: 1e-5 };
        let layer = RowNorm::Layer { weight: &weight, bias: &bias, eps: 1e-3 };
        for norm in [rms, layer] {
            let mut expected = vec![0.0; x.len()];
            norm_rows(&Pool::with(1, Isa::Scalar, ClaimOrder::Forward), &x, norm, &mut expected);
            for (x, out) in x.chunks(n_cols).zip(expected.chunks(n_cols)) {
                for (i, out) in out.iter().enumerate() {
                    let exact = exact(x, norm, i);
                    let off = (f64::from(*out) - exact).abs();
                    assert!(off < 4e-6 * exact.abs().max(0.25), "{n_cols} {norm:?}: {out} for {exact}");
                }
            }
            for isa in Isa::available() {
                for order in [ClaimOrder::Forward, ClaimOrder::Shuffled(3)] {
                    let pool = Pool::with(2, isa, order);
                    let mut out = vec![0.0; x.len()];
                    norm_rows(&pool, &x, norm, &mut out);
                    assert_eq!(out, expected, "{isa:?} {n_cols}");
                    let mut in_place = x.clone();
                    norm_in_place(&pool, &mut in_place, norm);
                    assert_eq!(in_place, expected, "{isa:?} {n_cols} in place");
                }
            }
        }
    }
}

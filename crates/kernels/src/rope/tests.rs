use super::*;
use crate::{ClaimOrder, Isa};

fn table(style: RopeStyle, n_rot: usize, magnitude: f32) -> RopeTable {
    let freqs = (0..n_rot / 2).map(|i| crate::powf(10_000.0, -2.0 * i as f64 / n_rot as f64)).collect();
    RopeTable { n_rot, style, freqs, magnitude }
}

#[test]
fn rotates_pairs_of_both_styles_and_leaves_the_rest() {
    let pool = Pool::with(2, Isa::detect(), ClaimOrder::Shuffled(1));
    for style in [RopeStyle::Norm, RopeStyle::Neox] {
        for (n_rot, head_dim) in [(8, 8), (6, 10), (64, 64), (0, 4)] {
            let table = table(style, n_rot, 1.25);
            let positions = [0usize, 1, 77, 131_071];
            let rows: Vec<_> = positions.iter().map(|&p| table.row(p)).collect();
            let n_cols = head_dim * 3;
            let x: Vec<f32> = (0..n_cols * rows.len()).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut out = x.clone();
            rope_rows(&pool, &table, &rows, head_dim, &mut out);
            for (i, (head, out)) in x.chunks(head_dim).zip(out.chunks(head_dim)).enumerate() {
                let position = positions[i / 3] as f64;
                let mut expected: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
                for pair in 0..n_rot / 2 {
                    let (a, b) = match style {
                        RopeStyle::Norm => (2 * pair, 2 * pair + 1),
                        RopeStyle::Neox => (pair, pair + n_rot / 2),
                    };
                    let angle = position * 10_000f64.powf(-2.0 * pair as f64 / n_rot as f64);
                    let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                    expected[a] = 1.25 * (x * angle.cos() - y * angle.sin());
                    expected[b] = 1.25 * (x * angle.sin() + y * angle.cos());
                }
                for d in 0..head_dim {
                    assert!((f64::from(out[d]) - expected[d]).abs() < 1e-6, "{style:?} {n_rot} {d}");
                }
                assert_eq!(head[n_rot..], out[n_rot..], "unrotated elements keep their bits");
            }
        }
    }
}

#[test]
fn one_row_or_many_give_the_same_bits() {
    let pool = Pool::with(2, Isa::detect(), ClaimOrder::Reverse);
    for style in [RopeStyle::Norm, RopeStyle::Neox] {
        let table = table(style, 64, 1.0);
        let rows: Vec<_> = (1000..1200).map(|p| table.row(p)).collect();
        let x: Vec<f32> = (0..200 * 128).map(|i| (i as f32 * 0.3).cos()).collect();
        let mut together = x.clone();
        rope_rows(&pool, &table, &rows, 64, &mut together);
        for isa in Isa::available() {
            let mut out = x.clone();
            rope_rows(&Pool::with(1, isa, ClaimOrder::Forward), &table, &rows, 64, &mut out);
            assert_eq!(out, together, "{isa:?}");
        }
        let mut reused = RopeRow::default();
        for (i, (x, expected)) in x.chunks(128).zip(together.chunks(128)).enumerate() {
            let mut x = x.to_vec();
            table.row_into(1000 + i, &mut reused);
            rope_rows(&pool, &table, std::slice::from_ref(&reused), 64, &mut x);
            assert_eq!(x, expected);
        }
    }
}

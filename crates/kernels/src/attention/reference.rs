//! The chain of this module in plain, safe code, one row and one head at a time: what every kernel must give, bit
//! for bit.

use super::part::merge_row;
use super::{AttentionJob, AttentionParams, SPLIT, TILE};
use crate::lanes::{N_LANES, sum_tree};
use crate::numerics::tanh;
use crate::{KvLayer, exp};

/// Row `row` of a job, head `head`: `q (k_dim,)` to `(v_dim,)`. `read` gives the key and value of a slot.
pub(super) fn attend(
    layer: &KvLayer,
    params: AttentionParams,
    job: &AttentionJob<'_>,
    row: usize,
    head: usize,
    q: &[f32],
    read: impl Fn(&KvLayer, u32, usize, usize) -> (Vec<f32>, Vec<f32>),
) -> Vec<f32> {
    let layout = layer.layout();
    let kv_head = head / (params.n_heads / layout.n_kv_heads);
    let position = job.start + row;
    let end = if job.causal { position + 1 } else { job.start + job.n_rows };
    let start = params.window.map_or(0, |window| (position + 1).saturating_sub(window.max(1)));
    let scaled: Vec<f32> = q.iter().map(|q| q * params.scale).collect();

    let mut total = State::new(layout.v_dim);
    for part_start in (start / SPLIT * SPLIT..end).step_by(SPLIT) {
        let mut part = State::new(layout.v_dim);
        for tile_start in (part_start..part_start + SPLIT).step_by(TILE) {
            let seen = start.max(tile_start)..end.min(tile_start + TILE);
            if seen.is_empty() {
                continue;
            }
            let mut scores = Vec::new();
            let mut values = Vec::new();
            for position in seen.clone() {
                let block = job.block_table[position / layout.block_size];
                let (key, value) = read(layer, block, kv_head, position % layout.block_size);
                let mut score = 0.0f32;
                for (q, k) in scaled.iter().zip(key) {
                    score = q.mul_add(k, score);
                }
                if let Some(cap) = params.softcap {
                    score = tanh(score * (1.0 / cap)) * cap;
                }
                scores.push(score);
                values.push(value);
            }
            part.add_tile(seen.start, &scores, &values);
        }
        merge_row((&mut total.max, &mut total.sums, &mut total.values), (part.max, &part.sums, &part.values));
    }
    let factor = 1.0 / sum_tree(total.sums);
    total.values.iter().map(|x| x * factor).collect()
}

struct State {
    max: f32,
    sums: [f32; N_LANES],
    values: Vec<f32>,
}

impl State {
    fn new(v_dim: usize) -> Self {
        Self { max: f32::NEG_INFINITY, sums: [0.0; N_LANES], values: vec![0.0; v_dim] }
    }

    fn add_tile(&mut self, start: usize, scores: &[f32], values: &[Vec<f32>]) {
        let tile_max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
        if tile_max > self.max {
            let alpha = exp(self.max - tile_max);
            self.max = tile_max;
            self.sums.iter_mut().for_each(|sum| *sum *= alpha);
            self.values.iter_mut().for_each(|value| *value *= alpha);
        }
        for (i, (&score, value)) in scores.iter().zip(values).enumerate() {
            let weight = exp(score - self.max);
            self.sums[(start + i) % N_LANES] += weight;
            for (sum, &v) in self.values.iter_mut().zip(value) {
                *sum = weight.mul_add(v, *sum);
            }
        }
    }
}

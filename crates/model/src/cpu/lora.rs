//! Adapters at work: what they add to a step's products.
//!
//! After the model's own product, a row `x` whose sequence has an adapter gets `s · B (A x)` added, in float, from the
//! same row that the model's product took in. Rows of one adapter are computed together. Each output is a chain of its
//! own in a fixed order (the sum of `A x`, times `s`, the sum over the rank, one addition), so a row's bits do not depend
//! on which rows it is computed with; several adapters of a sequence are added in the order in which it has them.
//!
//! A step none of whose sequences has an adapter has no groups here, and computes what it computed without this module.

use std::ops::Range;
use std::sync::Arc;

use ingle_kernels::{ActKinds, Activations, Pool, Product, RmsNorm, matmul};
use ingle_step::{ExecutorError, StepBatch, Want};

use super::forward::resized;
use crate::adapter::{Adapters, Delta, LoadedAdapter, Part};

/// Rows of logits that are added to at a time: bounds memory when every row of a long text wants them.
const LOGITS_ROWS: usize = 32;

/// Rows of a batch that have the same adapter at the same place of their lists.
#[derive(Debug)]
pub(super) struct Group {
    adapter: Arc<LoadedAdapter>,
    /// Rows and scales, ascending. Never empty.
    rows: Vec<(usize, f32)>,
}

/// Buffers that are kept from step to step. `n` is a group's rows.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `(n, n_in)`
    gathered: Vec<f32>,
    inputs: Activations,
    /// `(n, rank)`, for each matrix.
    low: [Vec<f32>; 3],
    low_inputs: Activations,
    /// `(n, n_out)`
    out: Vec<f32>,
    /// `(batch rows, n_ff)`: products with `up`, where they are not fused with those with `gate`.
    pub up: Vec<f32>,
}

/// What goes into products: rows `(n, n_cols)`, normed on their way in.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub x: &'a [f32],
    pub n_cols: usize,
    pub norm: Option<RmsNorm<'a>>,
}

/// The adapters of a step.
pub(super) struct Lora<'a> {
    pub pool: &'a Pool,
    pub groups: &'a [Group],
    pub scratch: &'a mut Scratch,
}

/// The rows of each adapter in a batch, in the order in which they are added: what comes first in the sequences' lists,
/// then what comes second.
///
/// # Errors
/// If nobody has a lease of one.
pub(super) fn groups(batch: &StepBatch, adapters: &Adapters) -> Result<Vec<Group>, ExecutorError> {
    let mut out: Vec<Group> = Vec::new();
    let n_rounds = batch.seqs.iter().map(|seq| seq.adapters.len()).max().unwrap_or_default();
    for round in 0..n_rounds {
        let first_of_round = out.len();
        let mut first_row = 0;
        for seq in &batch.seqs {
            let rows = first_row..first_row + seq.inputs.len();
            first_row = rows.end;
            let Some(used) = seq.adapters.get(round) else { continue };
            let rows = rows.map(|row| (row, used.scale));
            if let Some(group) = out[first_of_round..].iter_mut().find(|g| g.adapter.id == used.adapter) {
                group.rows.extend(rows);
                continue;
            }
            let adapter = adapters.get(used.adapter).ok_or_else(|| {
                let (seq, id) = (seq.seq.0, used.adapter.0);
                ExecutorError::InvalidBatch(format!("sequence {seq}: there is no adapter {id}"))
            })?;
            out.push(Group { adapter, rows: rows.collect() });
        }
    }
    Ok(out)
}

/// Those of the groups that change logits, with the places of their rows among all that is wanted.
pub(super) fn head_groups(groups: &[Group], batch: &StepBatch) -> Vec<Group> {
    let adapts_head = |group: &&Group| group.adapter.head.is_some();
    if !groups.iter().any(|group| adapts_head(&group)) {
        return Vec::new();
    }
    let mut wanted = Vec::new();
    let mut first_row = 0;
    for seq in &batch.seqs {
        wanted.extend(seq.wants.iter().map(|&(row, want)| (first_row + row as usize, want)));
        first_row += seq.inputs.len();
    }
    let of = |group: &Group| {
        let places = wanted.iter().enumerate().filter(|(_, (_, want))| *want == Want::Logits);
        let scale =
            |row| group.rows.binary_search_by_key(&row, |&(row, _)| row).ok().map(|i| group.rows[i].1);
        let rows = places.filter_map(|(place, &(row, _))| Some((place, scale(row)?))).collect();
        Group { adapter: Arc::clone(&group.adapter), rows }
    };
    groups.iter().filter(adapts_head).map(of).filter(|group| !group.rows.is_empty()).collect()
}

impl Group {
    /// The rows, if there is none between them.
    fn run(&self) -> Option<Range<usize>> {
        let (first, last) = (self.rows[0].0, self.rows[self.rows.len() - 1].0);
        (last - first + 1 == self.rows.len()).then_some(first..last + 1)
    }

    /// Takes the group's rows in as floats.
    fn load(&self, pool: &Pool, inputs: Inputs<'_>, gathered: &mut Vec<f32>, out: &mut Activations) {
        let Inputs { x, n_cols, norm } = inputs;
        let rows = match self.run() {
            Some(run) => &x[run.start * n_cols..run.end * n_cols],
            None => {
                gathered.clear();
                for &(row, _) in &self.rows {
                    gathered.extend_from_slice(&x[row * n_cols..][..n_cols]);
                }
                &gathered[..]
            }
        };
        out.load(pool, rows, n_cols, norm, ActKinds::F32);
    }

    /// Multiplies rows `low` `(n, rank)` by their scales.
    fn scale(&self, low: &mut [f32], scale: f32) {
        let rank = low.len() / self.rows.len();
        for (low, (_, own)) in low.chunks_exact_mut(rank).zip(&self.rows) {
            let factor = own * scale;
            low.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

impl Lora<'_> {
    /// Whether something is added to the products with `gate` or `up`, so that they cannot be fused.
    pub fn adapts_ffn(&self, layer_idx: usize) -> bool {
        let has = |group: &Group, part| group.adapter.delta(layer_idx, part).is_some();
        self.groups.iter().any(|group| has(group, Part::Gate) || has(group, Part::Up))
    }

    /// Adds to the products of a layer's matrices with `inputs`, at most three of them. Each has its products `(batch
    /// rows, n_out)`.
    pub fn add(&mut self, layer_idx: usize, inputs: Inputs<'_>, products: &mut [(Part, &mut [f32])]) {
        let Self { pool, groups, scratch } = self;
        for group in groups.iter() {
            let mut deltas: Vec<(&Delta, &mut [f32])> = products
                .iter_mut()
                .filter_map(|(part, out)| Some((group.adapter.delta(layer_idx, *part)?, &mut **out)))
                .collect();
            if deltas.is_empty() {
                continue;
            }
            let n = group.rows.len();
            group.load(pool, inputs, &mut scratch.gathered, &mut scratch.inputs);
            let mut lows: Vec<Product<'_>> = deltas
                .iter()
                .zip(&mut scratch.low)
                .map(|((delta, _), low)| product(&delta.a, resized(low, n * delta.a.n_rows())))
                .collect();
            matmul(pool, &scratch.inputs, &mut lows);
            for ((delta, out), low) in deltas.iter_mut().zip(&mut scratch.low) {
                group.scale(low, delta.scale);
                scratch.low_inputs.load(pool, low, delta.b.n_cols(), None, ActKinds::F32);
                add_rows(pool, group, &scratch.low_inputs, &delta.b, &mut scratch.out, out);
            }
        }
    }

    /// Adds to the embeddings `x` `(tokens, n_embd)` of tokens.
    pub fn embed(&mut self, tokens: &[usize], x: &mut [f32]) {
        let Self { pool, groups, scratch } = self;
        for group in groups.iter() {
            let Some(delta) = &group.adapter.embedding else { continue };
            let rank = delta.b.n_cols();
            let low = &mut scratch.low[0];
            low.clear();
            for &(row, _) in &group.rows {
                low.extend_from_slice(&delta.a[tokens[row] * rank..][..rank]);
            }
            group.scale(low, delta.scale);
            scratch.low_inputs.load(pool, low, rank, None, ActKinds::F32);
            add_rows(pool, group, &scratch.low_inputs, &delta.b, &mut scratch.out, x);
        }
    }

    /// Adds to logits. `inputs` are the rows of all that is wanted, and the groups those of [`head_groups`].
    pub fn add_to_logits(&mut self, inputs: Inputs<'_>, values: &mut [Vec<f32>]) {
        let Self { pool, groups, scratch } = self;
        for group in groups.iter() {
            let Some(delta) = &group.adapter.head else { continue };
            for rows in group.rows.chunks(LOGITS_ROWS) {
                let group = Group { adapter: Arc::clone(&group.adapter), rows: rows.to_vec() };
                group.load(pool, inputs, &mut scratch.gathered, &mut scratch.inputs);
                let low = resized(&mut scratch.low[0], rows.len() * delta.a.n_rows());
                matmul(pool, &scratch.inputs, &mut [product(&delta.a, low)]);
                group.scale(low, delta.scale);
                scratch.low_inputs.load(pool, low, delta.b.n_cols(), None, ActKinds::F32);
                let n_vocab = delta.b.n_rows();
                let out = resized(&mut scratch.out, rows.len() * n_vocab);
                matmul(pool, &scratch.low_inputs, &mut [product(&delta.b, out)]);
                for ((place, _), out) in rows.iter().zip(out.chunks_exact(n_vocab)) {
                    add(&mut values[*place], out);
                }
            }
        }
    }
}

/// Adds `B · low` to the group's rows of `x` `(batch rows, n_out)`.
fn add_rows(
    pool: &Pool,
    group: &Group,
    low: &Activations,
    b: &ingle_kernels::Matrix,
    scratch: &mut Vec<f32>,
    x: &mut [f32],
) {
    let n_out = b.n_rows();
    if let Some(run) = group.run() {
        let out = &mut x[run.start * n_out..run.end * n_out];
        matmul(pool, low, &mut [Product { accumulate: true, ..product(b, out) }]);
        return;
    }
    let sums = resized(scratch, group.rows.len() * n_out);
    matmul(pool, low, &mut [product(b, sums)]);
    for ((row, _), sums) in group.rows.iter().zip(sums.chunks_exact(n_out)) {
        add(&mut x[row * n_out..][..n_out], sums);
    }
}

fn add(x: &mut [f32], sums: &[f32]) {
    x.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum);
}

fn product<'a>(weights: &'a ingle_kernels::Matrix, out: &'a mut [f32]) -> Product<'a> {
    Product { weights, bias: None, accumulate: false, out }
}

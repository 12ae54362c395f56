//! One step through the model: all rows of all sequences together.
//!
//! A row's results depend on its own sequence alone. Products, norms and rope work on each row by itself, attention
//! reads the sequence's blocks, and the kernels' chains have the same order for one row and for many.

use ingle_gguf::TensorType;
use ingle_kernels::{
    Activations, AttentionJob, KvLayer, Pool, Product, RmsNorm, RopeRow, RopeTable, attention, matmul,
    matmul_swiglu, rms_norm_heads, rms_norm_rows, rope_rows,
};
use ingle_step::{ExecutorError, Input, RowOut, SeqOut, StepBatch, StepOut, Want};

use super::loading::LastLayer;
use super::{CpuExecutor, Embedding, LoadedLayer, LoadedLinear, LoadedNorm, Model};
use ingle_kernels::dequantize;

/// Rows whose logits are computed at a time: bounds memory when every row of a long text wants them.
const LOGITS_ROWS: usize = 32;

/// Buffers that are kept from step to step. `n` is the batch's rows.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `(n, n_embd)`: the residual stream.
    x: Vec<f32>,
    /// The inputs of a product.
    acts: Activations,
    /// `(n, n_heads * k_dim)`
    q: Vec<f32>,
    /// `(n, n_kv_heads * k_dim)`
    k: Vec<f32>,
    /// `(n, n_kv_heads * v_dim)`
    v: Vec<f32>,
    /// `(n, n_heads * v_dim)`
    attn: Vec<f32>,
    /// `(n, n_ff)`
    ff: Vec<f32>,
    /// `(n,)`: angles of each row's position.
    rope: Vec<RopeRow>,
    /// `(n,)`: where each row's K and V go.
    slots: Vec<(u32, u32)>,
    /// The block tables of all sequences, one after the other.
    tables: Vec<u32>,
    /// `(wanted rows, n_embd)`
    wanted: Vec<f32>,
    /// From the residual stream to logits.
    last: LastScratch,
}

/// Buffers of the last layer. `n` is up to [`LOGITS_ROWS`].
#[derive(Debug, Default)]
struct LastScratch {
    /// `(n, n_embd)`
    normed: Vec<f32>,
    /// `(n, n_embd)`: those rows of `normed` whose logits are wanted.
    hidden: Vec<f32>,
    /// `(n, n_vocab)`, for more than one row.
    logits: Vec<f32>,
    /// Rows of logits that came back, at most [`LOGITS_ROWS`].
    spare: Vec<Vec<f32>>,
}

impl Scratch {
    /// Keeps rows of logits for the next step; hidden states are small.
    pub(super) fn recycle(&mut self, out: StepOut, n_vocab: usize) {
        let spare = &mut self.last.spare;
        let rows = out.seqs.into_iter().flat_map(|seq| seq.rows).map(|row| row.values);
        let logits = rows.filter(|values| values.len() == n_vocab);
        spare.extend(logits.take(LOGITS_ROWS - spare.len()));
    }
}

impl CpuExecutor {
    /// Runs a batch that has been checked. Fails only if a layer is not there and does not come.
    pub(super) fn run(&mut self, batch: &StepBatch) -> Result<StepOut, ExecutorError> {
        let Self { info, pool, model, kv, scratch, .. } = self;
        for copy in &batch.copies {
            for layer in kv.iter_mut() {
                layer.copy_block(copy.from.0, copy.to.0, copy.n_slots as usize);
            }
        }
        if batch.seqs.is_empty() {
            return Ok(StepOut { step: batch.step, seqs: Vec::new() });
        }

        let block_size = info.block_size;
        let tables = &mut scratch.tables;
        tables.clear();
        let mut ranges = Vec::with_capacity(batch.seqs.len());
        let (mut positions, mut tokens) = (Vec::new(), Vec::new());
        scratch.slots.clear();
        for seq in &batch.seqs {
            let start = seq.start as usize;
            let end = start + seq.inputs.len();
            let first_block = tables.len();
            // Tables may be longer than needed: blocks that were allocated ahead.
            tables.extend(seq.block_table[..end.div_ceil(block_size)].iter().map(|b| b.0));
            ranges.push(first_block..tables.len());
            for position in start..end {
                let block = seq.block_table[position / block_size].0;
                scratch.slots.push((block, (position % block_size) as u32));
            }
            positions.extend(start..end);
            tokens.extend(seq.inputs.iter().map(|&Input::Token(token)| token.0 as usize));
        }
        let mut first_row = 0;
        let jobs: Vec<AttentionJob<'_>> = batch
            .seqs
            .iter()
            .zip(ranges)
            .map(|(seq, range)| {
                let job = AttentionJob {
                    block_table: &tables[range],
                    start: seq.start as usize,
                    n_rows: seq.inputs.len(),
                    first_row,
                    causal: seq.causal,
                };
                first_row += seq.inputs.len();
                job
            })
            .collect();

        let weights = model.weights.loading();
        model.embed(&tokens, resized(&mut scratch.x, tokens.len() * model.n_embd))?;
        scratch.rope.resize_with(positions.len(), RopeRow::default);
        for (row, &position) in scratch.rope.iter_mut().zip(&positions) {
            model.rope.row_into(position, row);
        }
        let mut rows = Rows {
            pool,
            n: tokens.len(),
            n_embd: model.n_embd,
            table: &model.rope,
            rope: &scratch.rope,
            slots: &scratch.slots,
            jobs: &jobs,
            x: &mut scratch.x,
            acts: &mut scratch.acts,
            q: &mut scratch.q,
            k: &mut scratch.k,
            v: &mut scratch.v,
            attn: &mut scratch.attn,
            ff: &mut scratch.ff,
        };
        for (layer_idx, kv) in kv.iter_mut().enumerate() {
            let layer = weights.layer(layer_idx)?;
            rows.attention(layer, kv);
            rows.ffn(layer);
        }

        // Only rows that something is wanted of go on.
        scratch.wanted.clear();
        for (job, seq) in jobs.iter().zip(&batch.seqs) {
            for &(row, _) in &seq.wants {
                let at = (job.first_row + row as usize) * model.n_embd;
                scratch.wanted.extend_from_slice(&scratch.x[at..at + model.n_embd]);
            }
        }
        let wants: Vec<Want> = batch.seqs.iter().flat_map(|seq| seq.wants.iter().map(|w| w.1)).collect();
        let last = weights.last()?;
        let mut values =
            last.finish(pool, &mut scratch.acts, &mut scratch.last, &scratch.wanted, &wants).into_iter();
        let seqs = batch.seqs.iter().map(|seq| SeqOut {
            seq: seq.seq,
            rows: seq
                .wants
                .iter()
                .map(|&(row, _)| RowOut { row, values: values.next().expect("one result per want") })
                .collect(),
        });
        Ok(StepOut { step: batch.step, seqs: seqs.collect() })
    }
}

/// The rows of a batch on their way through the layers, with the buffers of [`Scratch`].
struct Rows<'a> {
    pool: &'a Pool,
    n: usize,
    n_embd: usize,
    table: &'a RopeTable,
    rope: &'a [RopeRow],
    slots: &'a [(u32, u32)],
    jobs: &'a [AttentionJob<'a>],
    x: &'a mut Vec<f32>,
    acts: &'a mut Activations,
    q: &'a mut Vec<f32>,
    k: &'a mut Vec<f32>,
    v: &'a mut Vec<f32>,
    attn: &'a mut Vec<f32>,
    ff: &'a mut Vec<f32>,
}

impl Rows<'_> {
    /// `x += output · attention(norm(x))`
    fn attention(&mut self, layer: &LoadedLayer, kv: &mut KvLayer) {
        let (pool, n) = (self.pool, self.n);
        let kinds =
            layer.q.weight.act_kind().union(layer.k.weight.act_kind()).union(layer.v.weight.act_kind());
        self.acts.load(pool, self.x, self.n_embd, Some(layer.attn_norm.of()), kinds);
        let q = resized(self.q, n * layer.q.weight.n_rows());
        let k = resized(self.k, n * layer.k.weight.n_rows());
        let v = resized(self.v, n * layer.v.weight.n_rows());
        let mut products = [layer.q.to(q), layer.k.to(k), layer.v.to(v)];
        matmul(pool, self.acts, &mut products);
        if let Some(norm) = &layer.q_norm {
            rms_norm_heads(pool, self.q, norm.of());
        }
        if let Some(norm) = &layer.k_norm {
            rms_norm_heads(pool, self.k, norm.of());
        }
        rope_rows(pool, self.table, self.rope, layer.k_dim, self.q);
        rope_rows(pool, self.table, self.rope, layer.k_dim, self.k);
        kv.store(pool, self.k, self.v, self.slots);

        let n_attn = layer.output.weight.n_cols();
        let out = resized(self.attn, n * n_attn);
        attention(pool, kv, layer.attention, self.jobs, self.q, out);
        self.acts.load(pool, out, n_attn, None, layer.output.weight.act_kind());
        matmul(pool, self.acts, &mut [layer.output.add_to(self.x)]);
    }

    /// `x += down · (silu(gate · norm(x)) * (up · norm(x)))`
    fn ffn(&mut self, layer: &LoadedLayer) {
        let pool = self.pool;
        let kinds = layer.gate.act_kind().union(layer.up.act_kind());
        self.acts.load(pool, self.x, self.n_embd, Some(layer.ffn_norm.of()), kinds);
        let n_ff = layer.gate.n_rows();
        let ff = resized(self.ff, self.n * n_ff);
        matmul_swiglu(pool, self.acts, &layer.gate, &layer.up, ff);
        self.acts.load(pool, ff, n_ff, None, layer.down.weight.act_kind());
        matmul(pool, self.acts, &mut [layer.down.add_to(self.x)]);
    }
}

impl Model {
    /// The embeddings of tokens into `x` `(n, n_embd)`.
    fn embed(&self, tokens: &[usize], x: &mut [f32]) -> Result<(), ExecutorError> {
        let mut buf = Vec::new();
        for (&token, out) in tokens.iter().zip(x.chunks_exact_mut(self.n_embd)) {
            match &self.embedding {
                Embedding::Tied => self.weights.loading().last()?.head.dequantize_row(token, out),
                Embedding::File { file, tensor_idx, .. } => {
                    let info = &file.tensors()[*tensor_idx];
                    let row_bytes = row_bytes(info.ty, self.n_embd);
                    let start = token * row_bytes;
                    let row = file.tensor_range_by(info, start..start + row_bytes, &mut buf);
                    let row = row.map_err(|error| ExecutorError::Unusable(error.to_string()))?;
                    let known = dequantize(info.ty, row, out);
                    assert!(known, "the type was checked when the model was loaded");
                }
            }
        }
        Ok(())
    }
}

impl LastLayer {
    /// What is wanted of rows `x` `(wants, n_embd)` that have passed all layers.
    fn finish(
        &self,
        pool: &Pool,
        acts: &mut Activations,
        scratch: &mut LastScratch,
        x: &[f32],
        wants: &[Want],
    ) -> Vec<Vec<f32>> {
        let n_embd = self.head.n_cols();
        let mut out = Vec::with_capacity(wants.len());
        for (x, wants) in x.chunks(LOGITS_ROWS * n_embd).zip(wants.chunks(LOGITS_ROWS)) {
            let LastScratch { normed, hidden, .. } = scratch;
            rms_norm_rows(pool, x, self.output_norm.of(), resized(normed, x.len()));
            hidden.clear();
            for (row, want) in normed.chunks_exact(n_embd).zip(wants) {
                if *want == Want::Logits {
                    hidden.extend_from_slice(row);
                }
            }
            let mut logits = self.logits(pool, acts, scratch).into_iter();
            for (row, want) in scratch.normed.chunks_exact(n_embd).zip(wants) {
                out.push(match want {
                    Want::Hidden => row.to_vec(),
                    Want::Logits => logits.next().expect("one row of logits per want"),
                });
            }
        }
        out
    }

    /// The logits of each row of `scratch.hidden`, `(n_vocab,)`.
    fn logits(&self, pool: &Pool, acts: &mut Activations, scratch: &mut LastScratch) -> Vec<Vec<f32>> {
        let LastScratch { hidden, logits, spare, .. } = scratch;
        let (n_embd, n_vocab) = (self.head.n_cols(), self.head.n_rows());
        let n = hidden.len() / n_embd;
        if n == 0 {
            return Vec::new();
        }
        acts.load(pool, hidden, n_embd, None, self.head.act_kind());
        let product = |out| Product { weights: &self.head, bias: None, accumulate: false, out };
        if n == 1 {
            // The usual case, without a copy.
            let mut row = spare.pop().unwrap_or_default();
            matmul(pool, acts, &mut [product(resized(&mut row, n_vocab))]);
            return vec![row];
        }
        matmul(pool, acts, &mut [product(resized(logits, n * n_vocab))]);
        let rows = logits.chunks_exact(n_vocab).map(|values| {
            let mut row = spare.pop().unwrap_or_default();
            row.clear();
            row.extend_from_slice(values);
            row
        });
        rows.collect()
    }
}

fn row_bytes(ty: TensorType, n_cols: usize) -> usize {
    n_cols / ty.block_len() * ty.block_bytes()
}

/// The buffer with `n` elements, whatever they are: each caller writes all of them.
fn resized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    buffer.resize(n, 0.0);
    buffer
}

impl LoadedNorm {
    fn of(&self) -> RmsNorm<'_> {
        RmsNorm { weight: &self.weight, eps: self.eps }
    }
}

impl LoadedLinear {
    fn to<'a>(&'a self, out: &'a mut [f32]) -> Product<'a> {
        Product { weights: &self.weight, bias: self.bias.as_deref(), accumulate: false, out }
    }

    fn add_to<'a>(&'a self, out: &'a mut [f32]) -> Product<'a> {
        Product { weights: &self.weight, bias: self.bias.as_deref(), accumulate: true, out }
    }
}

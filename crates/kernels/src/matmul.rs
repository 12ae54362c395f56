//! The product: rows of activations times repacked weights.
//!
//! One parallel loop over claims. A claim is a run of row groups of one matrix times a chunk of tokens whose
//! activations stay in the second-level cache; in it, each group is read from memory once and multiplied with every
//! tile of the chunk. A token alone (decode) is a chunk of one tile of one token: the same chain, for which some types
//! take a few groups together.
#![expect(unsafe_code, reason = "claims write disjoint parts of one output")]

use std::ops::Range;

use crate::activations::TILE;
use crate::layout::ROWS;
use crate::memory::Disjoint;
use crate::numerics::silu_mul_row;
use crate::tile::{TileInput, TileKernel, TileOut};
use crate::{Activations, Isa, Matrix, Pool};

/// One matrix of a product and where its outputs go.
#[derive(Debug)]
pub struct Product<'a> {
    /// `(n_out, n_in)`
    pub weights: &'a Matrix,
    /// `(n_out,)`, added to the sum.
    pub bias: Option<&'a [f32]>,
    /// Add to what `out` holds (residual) instead of replacing it.
    pub accumulate: bool,
    /// `(n_rows of x, n_out)`
    pub out: &'a mut [f32],
}

/// Activations of a chunk of tokens: half of a common second-level cache, the rest is for weights.
const CHUNK_BYTES: usize = 384 << 10;

/// A claim reads about this many bytes of weights at most: streams are long, and the last claims short enough.
const CLAIM_WEIGHT_BYTES: usize = 1 << 20;

/// A claim has at least this many multiplications, some 20 us of work, where there are enough of them.
const CLAIM_PRODUCTS_MIN: usize = 1 << 23;

/// Elements of [`silu_mul`] that are worth a claim, and those that are computed before they are put back.
const ELEMENTS_PER_CLAIM: usize = 8192;
const ELEMENTS_AT_ONCE: usize = 256;

/// Claims per thread to aim at, so that a thread that is held up costs little.
const CLAIMS_PER_THREAD: usize = 8;

/// Multiplies all rows of `x` by each matrix: one parallel loop (one barrier) for all of them.
///
/// Each output is its chain's sum, plus the bias, and is then stored or added to what is there.
///
/// # Panics
/// If shapes do not fit, or `x` was loaded without the form that a matrix multiplies.
pub fn matmul(pool: &Pool, x: &Activations, products: &mut [Product<'_>]) {
    let isa = Isa::usable(pool.isa());
    let jobs: Vec<_> = products
        .iter_mut()
        .map(|product| {
            let n_out = product.weights.n_rows();
            assert_eq!(product.out.len(), x.n_rows() * n_out, "an output per row and matrix row");
            if let Some(bias) = product.bias {
                assert_eq!(bias.len(), n_out, "a bias per matrix row");
            }
            let part = Part::new(product.weights, x, isa);
            (part, product.bias, product.accumulate, Disjoint::new(product.out))
        })
        .collect();

    let plans: Vec<_> = jobs.iter().map(|(part, ..)| Plan::new(part, 1, x, pool)).collect();
    run_plans(pool, &plans, |job, groups, tile, ask_ahead| {
        let (part, bias, accumulate, out) = &jobs[job];
        let n_out = part.weights.n_rows();
        let mut sums: TileOut = [[0.0; ROWS]; TILE];
        let next = ask_ahead.then(|| part.after(&groups));
        let rows = groups.start * ROWS..n_out.min(groups.end * ROWS);
        prefetch_outputs(out, x, tile, n_out, &rows);
        let n_tokens = part.multiply(x, &groups, tile, next, &mut sums);
        let sums = sums.as_flattened_mut().chunks_exact_mut(groups.len() * ROWS);
        for (token, sums) in sums.take(n_tokens).enumerate() {
            if let Some(bias) = bias {
                for (sum, bias) in sums.iter_mut().zip(&bias[rows.clone()]) {
                    *sum += bias;
                }
            }
            let start = (tile * TILE + token) * n_out + rows.start;
            // SAFETY: each pair of group and tile belongs to one claim, and their outputs do not overlap.
            let out = unsafe { out.range(start, rows.len()) };
            if *accumulate {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += *sum;
                }
            } else {
                out.copy_from_slice(&sums[..rows.len()]);
            }
        }
    });
}

/// `out = silu(gate · x) * (up · x)`, `(n_rows of x, n_ff)`: one parallel loop.
///
/// # Panics
/// If shapes do not fit, or `x` was loaded without the form that a matrix multiplies.
pub fn matmul_swiglu(pool: &Pool, x: &Activations, gate: &Matrix, up: &Matrix, out: &mut [f32]) {
    let isa = Isa::usable(pool.isa());
    let n_ff = gate.n_rows();
    assert_eq!(up.n_rows(), n_ff, "gate and up have as many rows");
    assert_eq!(out.len(), x.n_rows() * n_ff, "an output per row and matrix row");
    let (gate, up) = (Part::new(gate, x, isa), Part::new(up, x, isa));
    let out = Disjoint::new(out);
    let mut plan = Plan::new(&gate, 2, x, pool);
    if up.kernel.n_groups(x.n_rows()) != plan.groups_per_turn {
        plan.groups_per_turn = 1;
    }
    run_plans(pool, &[plan], |_, groups, tile, ask_ahead| {
        let mut gates: TileOut = [[0.0; ROWS]; TILE];
        let mut ups: TileOut = [[0.0; ROWS]; TILE];
        let next_up = ask_ahead.then(|| up.weights.groups(groups.clone()));
        let rows = groups.start * ROWS..n_ff.min(groups.end * ROWS);
        prefetch_outputs(&out, x, tile, n_ff, &rows);
        let n_tokens = gate.multiply(x, &groups, tile, next_up, &mut gates);
        let next_gate = ask_ahead.then(|| gate.after(&groups));
        up.multiply(x, &groups, tile, next_gate, &mut ups);
        let gates = gates.as_flattened().chunks_exact(groups.len() * ROWS);
        let ups = ups.as_flattened().chunks_exact(groups.len() * ROWS);
        for (token, (gates, ups)) in gates.zip(ups).take(n_tokens).enumerate() {
            let start = (tile * TILE + token) * n_ff + rows.start;
            // SAFETY: each pair of group and tile belongs to one claim, and their outputs do not overlap.
            let out = unsafe { out.range(start, rows.len()) };
            silu_mul_row(isa, &gates[..rows.len()], &ups[..rows.len()], out);
        }
    });
}

/// `gates = silu(gates) * ups`, element by element: [`matmul_swiglu`] in two, where something comes between.
///
/// # Panics
/// If they are not of one length.
pub fn silu_mul(pool: &Pool, gates: &mut [f32], ups: &[f32]) {
    assert_eq!(gates.len(), ups.len(), "a gate per value");
    let isa = Isa::usable(pool.isa());
    pool.run_chunks(gates, ELEMENTS_PER_CLAIM, &|claim, gates| {
        let ups = &ups[claim * ELEMENTS_PER_CLAIM..];
        let mut out = [0.0; ELEMENTS_AT_ONCE];
        for (gates, ups) in gates.chunks_mut(ELEMENTS_AT_ONCE).zip(ups.chunks(ELEMENTS_AT_ONCE)) {
            let out = &mut out[..gates.len()];
            silu_mul_row(isa, gates, &ups[..gates.len()], out);
            gates.copy_from_slice(out);
        }
    });
}

/// Asks for the outputs of a tile before it is computed. With many tokens they lie far apart and come from memory: without
/// this a Zen 4 core lost 6 % of a product of 512 tokens on waiting for them.
#[inline]
fn prefetch_outputs(
    out: &Disjoint<'_, f32>,
    x: &Activations,
    tile: usize,
    n_out: usize,
    rows: &Range<usize>,
) {
    if x.n_rows() > TILE {
        for token in tile * TILE..x.n_rows().min((tile + 1) * TILE) {
            out.prefetch(token * n_out + rows.start, rows.len());
        }
    }
}

/// A matrix with its kernel.
struct Part<'a> {
    weights: &'a Matrix,
    kernel: TileKernel,
}

impl<'a> Part<'a> {
    fn new(weights: &'a Matrix, x: &Activations, isa: Isa) -> Self {
        assert_eq!(weights.n_cols(), x.n_cols(), "inputs of the matrix");
        assert!(x.kinds().contains(weights.act_kind()), "x was not loaded in the form for {}", weights.ty());
        Self { weights, kernel: TileKernel::new(weights.format(), isa) }
    }

    /// The weights of as many groups behind these, or of those that are left.
    fn after(&self, groups: &Range<usize>) -> &'a [u8] {
        let end = self.weights.n_groups().min(groups.end + groups.len());
        self.weights.groups(groups.end..end)
    }

    /// Multiplies the groups of a turn by a tile, before `next` is read if both come from memory; returns how many
    /// tokens the tile has.
    #[inline]
    fn multiply(
        &self,
        x: &Activations,
        groups: &Range<usize>,
        tile: usize,
        next: Option<&[u8]>,
        out: &mut TileOut,
    ) -> usize {
        let (n_tokens, x_tile) = x.tile(self.weights.act_kind(), tile);
        let w = self.weights.groups(groups.clone());
        let input = TileInput { w, x: x_tile, n_cols: self.weights.n_cols(), next };
        self.kernel.run(input, groups.len(), n_tokens, out);
        n_tokens
    }
}

/// How a product is divided into claims: `(chunks of tiles) x (runs of groups)`. The groups of a run take turns, one or
/// a few at a time, each with all tiles of the chunk.
struct Plan {
    n_groups: usize,
    groups_per_claim: usize,
    groups_per_turn: usize,
    n_tiles: usize,
    tiles_per_chunk: usize,
    /// Whether the kernel asks for weights before it reads them from memory.
    ask_ahead: bool,
}

impl Plan {
    /// `n_matrices` of the same shape are read together.
    fn new(part: &Part<'_>, n_matrices: usize, x: &Activations, pool: &Pool) -> Self {
        let (n_groups, n_tiles) = (part.weights.n_groups(), x.n_tiles());
        let tile_bytes = TILE * x.row_bytes(part.weights.act_kind());
        let n_chunks = n_tiles.div_ceil((CHUNK_BYTES / tile_bytes).max(1)).max(1);
        // Chunks of about the same size.
        let tiles_per_chunk = n_tiles.div_ceil(n_chunks).max(1);
        let tokens = (tiles_per_chunk * TILE).min(x.n_rows()).max(1);

        let group_products = ROWS * part.weights.n_cols() * tokens * n_matrices;
        let for_work = CLAIM_PRODUCTS_MIN.div_ceil(group_products);
        let for_memory = CLAIM_WEIGHT_BYTES / (part.weights.group_bytes() * n_matrices);
        let for_balance = n_groups * n_chunks / (pool.n_threads() * CLAIMS_PER_THREAD);
        let groups_per_claim = for_balance.min(for_memory).max(1).max(for_work.min(for_balance));
        // Whole turns, if there are enough of them for all threads.
        let together = part.kernel.n_groups(x.n_rows());
        let groups_per_turn = if together <= for_balance { together } else { 1 };
        let groups_per_claim = (groups_per_claim / groups_per_turn).max(1) * groups_per_turn;
        let ask_ahead = part.kernel.asks_ahead(x.n_rows());
        Self { n_groups, groups_per_claim, groups_per_turn, n_tiles, tiles_per_chunk, ask_ahead }
    }

    fn n_chunks(&self) -> usize {
        self.n_tiles.div_ceil(self.tiles_per_chunk)
    }

    fn claims_per_chunk(&self) -> usize {
        self.n_groups.div_ceil(self.groups_per_claim)
    }

    fn n_claims(&self) -> usize {
        self.n_chunks() * self.claims_per_chunk()
    }
}

/// Calls `tile(plan, groups, tile, whether to ask for weights)` for all of all plans: with one group or with
/// `groups_per_turn`. Only the first tile of a turn reads weights from memory.
fn run_plans(pool: &Pool, plans: &[Plan], tile: impl Fn(usize, Range<usize>, usize, bool) + Sync) {
    let n_claims = plans.iter().map(Plan::n_claims).sum();
    pool.run(n_claims, &|claim| {
        let mut claim = claim;
        let mut job = 0;
        while claim >= plans[job].n_claims() {
            claim -= plans[job].n_claims();
            job += 1;
        }
        let plan = &plans[job];
        let chunk = claim / plan.claims_per_chunk();
        let first_group = claim % plan.claims_per_chunk() * plan.groups_per_claim;
        let first_tile = chunk * plan.tiles_per_chunk;
        let end_group = plan.n_groups.min(first_group + plan.groups_per_claim);
        let mut group = first_group;
        while group < end_group {
            let n = if group + plan.groups_per_turn <= end_group { plan.groups_per_turn } else { 1 };
            for t in first_tile..plan.n_tiles.min(first_tile + plan.tiles_per_chunk) {
                tile(job, group..group + n, t, t == first_tile && plan.ask_ahead);
            }
            group += n;
        }
    });
}

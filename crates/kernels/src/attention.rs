//! Attention over paged K/V, block by block with an online softmax.
//!
//! **The chain.** A query row's result for one head is made of *parts*, one per [`SPLIT`] absolute positions, which are
//! merged in order. A part goes over *tiles* of [`TILE`] absolute positions, ascending. In a tile, each visible score
//! is one chain over `k_dim`; their largest raises the part's running maximum, which rescales what is there; the
//! weights `e^(score - maximum)` are added to sixteen sums by position modulo 16, and each element of the output is one
//! chain over the positions. All of this depends on the row's own position and the cache alone. So it does not matter
//! with which other rows it is computed, where its blocks lie, or which thread does it; and what the row does not see
//! never meets it, whatever the memory holds.
//!
//! A claim is a K/V head and some rows of a job; all query heads of that K/V head go together. Few rows (decode) convert
//! what is stored in registers, where it is used, and ask for the next tile meanwhile; many rows (prefill) share floats
//! that are made of each tile once. If there are too few claims for the threads and contexts are long, each part is a
//! claim of its own.
//!
//! **What bounds it.** Each visible (row, position, head) takes `2 * (k_dim + v_dim)` operations, and each position of a
//! K/V head is `k_dim + v_dim` elements to read, once per claim. So prefill is bound by the f32 FMA chains, and decode
//! by them too or by memory: with F16 and four query heads per K/V head there are 4 operations per byte, where one
//! Zen 4 core alone does 3.5 for each byte that it can read, and two that share the memory 6.4. Beside the chains stand, per sixteen elements read, about one
//! FMA's time for their conversion, and per sixteen scores the exponential, about thirteen instructions. In a prompt's
//! first tiles, what the diagonal cuts off is computed and dropped, or added row by row. Measured on two such cores
//! (limits: 236 GFLOP/s, 37 GB/s), F16, 32 query heads on 8 K/V heads:
//!
//! | | heads of 64 | heads of 128 |
//! |---|---|---|
//! | decode after 4095 positions, not in cache | 35.0 GB/s, 95 % of reading | 35.4 GB/s, 96 % |
//! | decode after 32767 positions | 33.3 GB/s, 90 % | 34.0 GB/s, 92 % |
//! | the same, one thread | 19.2 GB/s, 65 % of FMA | 21.2 GB/s, 71 % of FMA |
//! | prefill of 512 rows | 68 % of FMA | 72 % of FMA |
//! | prefill of 2048 rows | 76 % | 81 % |
//! | prefill of 512 rows after 7680 | 77 % | 84 % |

#![expect(
    unsafe_code,
    reason = "calls of functions that need an instruction set; threads write their own rows"
)]

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::{Pod, Zeroable, cast_slice_mut};

use crate::kv::QUANT_BLOCK;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{N_LANES, Portable};
use crate::{Isa, KvLayer, Pool};
use ingle_step::KvType;
use part::{Part, PartShape};
use rows::ROWS_MAX;
use tile::DIRECT_ROWS;

mod part;
#[cfg(test)]
mod reference;
mod rows;
mod source;
mod tile;

/// Positions between two updates of the running maximum.
const TILE: usize = 64;
/// Positions of a part.
const SPLIT: usize = 1024;
/// Query rows times heads of a claim: enough to make the conversion of keys and values cheap, and a multiple of the rows
/// that are computed together.
const CLAIM_ROWS: usize = 192;
/// Fewer claims than this per thread leave threads idle at the end: then parts become claims.
const CLAIMS_PER_THREAD_MIN: usize = 8;

/// One sequence's query rows.
#[derive(Clone, Debug)]
pub struct AttentionJob<'a> {
    /// The sequence's blocks in order.
    pub block_table: &'a [u32],
    /// Position of the first query row.
    pub start: usize,
    /// How many query rows.
    pub n_rows: usize,
    /// The first row's index in `q` and `out`.
    pub first_row: usize,
    /// Causal: row `i` sees positions up to `start + i`. Otherwise all rows see `start + n_rows` positions.
    pub causal: bool,
}

/// What is the same for all jobs.
#[derive(Clone, Copy, Debug)]
pub struct AttentionParams {
    /// Query heads; a multiple of the layer's K/V heads.
    pub n_heads: usize,
    /// Factor on scores, usually `1 / sqrt(k_dim)`.
    pub scale: f32,
    /// Scores pass through `cap * tanh(score / cap)` if set.
    pub softcap: Option<f32>,
    /// A row sees only this many latest positions, itself included.
    pub window: Option<usize>,
}

/// `out (n, n_heads * v_dim) = softmax(scale * q · Kᵀ) · V` for the query rows `q (n, n_heads * k_dim)` of all jobs.
/// K and V of the rows themselves are in the cache already (stored and rounded). One parallel loop, or two where long
/// contexts are split over threads. Rows of `out` that belong to no job stay as they are.
///
/// # Panics
/// If rows or blocks of a job don't exist, jobs share rows, or heads don't divide.
pub fn attention(
    pool: &Pool,
    layer: &KvLayer,
    params: AttentionParams,
    jobs: &[AttentionJob<'_>],
    q: &[f32],
    out: &mut [f32],
) {
    let layout = layer.layout();
    check(layer, params, jobs, q, out);
    let group = params.n_heads / layout.n_kv_heads;
    let task = Task { layer, params, group, jobs, q, out: Out(out.as_mut_ptr()) };

    let rows_per_claim = (CLAIM_ROWS / group).max(1);
    let mut claims = Vec::new();
    for (job_idx, job) in jobs.iter().enumerate() {
        // The last rows see most: they come first, so that the loop does not end with a long claim.
        for first in (0..job.n_rows).step_by(rows_per_claim).rev() {
            let rows = first..(first + rows_per_claim).min(job.n_rows);
            let visible = task.visible(job, &rows);
            for kv_head in 0..layout.n_kv_heads {
                let parts = visible.start / SPLIT..visible.end.div_ceil(SPLIT);
                claims.push(Claim { job_idx, kv_head, rows: rows.clone(), parts });
            }
        }
    }
    let n_parts: usize = claims.iter().map(|claim| claim.parts.len()).sum();
    let few = claims.len() < CLAIMS_PER_THREAD_MIN * pool.n_threads();
    if few && pool.n_threads() > 1 && n_parts > claims.len() {
        task.run_by_part(pool, &claims);
    } else {
        pool.run(claims.len(), &|i| task.run_claim(pool.isa(), &claims[i]));
    }
}

fn check(layer: &KvLayer, params: AttentionParams, jobs: &[AttentionJob<'_>], q: &[f32], out: &[f32]) {
    let layout = layer.layout();
    let n_heads = params.n_heads;
    assert!(
        n_heads > 0 && n_heads.is_multiple_of(layout.n_kv_heads),
        "{n_heads} query heads share {} K/V heads",
        layout.n_kv_heads
    );
    let (q_cols, out_cols) = (n_heads * layout.k_dim, n_heads * layout.v_dim);
    assert!(
        q.len().is_multiple_of(q_cols) && q.len() / q_cols * out_cols == out.len(),
        "as many whole rows in q ({}) as in out ({})",
        q.len(),
        out.len()
    );
    let n_rows = q.len() / q_cols;
    let mut taken: Vec<Range<usize>> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let last = job.first_row.checked_add(job.n_rows).filter(|&last| last <= n_rows);
        taken.push(job.first_row..last.expect("a job's rows are in q"));
        let n_blocks = (job.start + job.n_rows).div_ceil(layout.block_size);
        assert!(n_blocks <= job.block_table.len(), "a block table covers its job: {job:?}");
    }
    taken.sort_unstable_by_key(|rows| (rows.start, rows.end));
    assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start), "each row belongs to one job");
}

/// Some rows of a job, one K/V head, and the parts that they see.
#[derive(Debug)]
struct Claim {
    job_idx: usize,
    kv_head: usize,
    rows: Range<usize>,
    parts: Range<usize>,
}

/// The start of `out`. Claims write disjoint rows and heads of it.
struct Out(*mut f32);
// SAFETY: see `Task::write`: threads write disjoint parts of a slice that the caller borrows mutably.
unsafe impl Sync for Out {}

struct Task<'a> {
    layer: &'a KvLayer,
    params: AttentionParams,
    /// Query heads per K/V head.
    group: usize,
    jobs: &'a [AttentionJob<'a>],
    q: &'a [f32],
    out: Out,
}

/// Sixteen floats on a cache line of their own, so that no vector straddles two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; N_LANES]);

thread_local! {
    /// A thread's working memory, kept from call to call. It holds nothing between claims.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// A thread's working memory, divided. Every part starts on a cache line.
struct Scratch<'a> {
    /// Queries times `scale`, block after block of rows `[k_dim][rows]`.
    q: &'a mut [f32],
    /// `[TILE / 16][k_dim][16]`
    keys: &'a mut [f32],
    /// `[TILE][v_padded]`
    values: &'a mut [f32],
    /// `[TILE][v_padded / 32]`
    value_scales: &'a mut [f32],
    /// `[ROWS_MAX][TILE]` scores, then weights.
    scores: &'a mut [f32],
    total: &'a mut [f32],
    part: &'a mut [f32],
}

impl Task<'_> {
    /// What row `row` of a job sees.
    fn visible_to(&self, job: &AttentionJob<'_>, row: usize) -> Range<usize> {
        let after_self = job.start + row + 1;
        let end = if job.causal { after_self } else { job.start + job.n_rows };
        let start = self.params.window.map_or(0, |window| after_self.saturating_sub(window.max(1)));
        start..end
    }

    /// What the rows of a claim see together: the ends of what they see never go back from row to row.
    fn visible(&self, job: &AttentionJob<'_>, rows: &Range<usize>) -> Range<usize> {
        self.visible_to(job, rows.start).start..self.visible_to(job, rows.end - 1).end
    }

    fn shape(&self, n_rows: usize) -> PartShape {
        PartShape { n_rows: n_rows * self.group, v_padded: self.layer.layout().v_padded() }
    }

    /// Computes a claim's parts one after the other, and its rows of `out`.
    fn run_claim(&self, isa: Isa, claim: &Claim) {
        self.with_scratch(claim, |scratch| {
            let shape = self.shape(claim.rows.len());
            for part_idx in claim.parts.clone() {
                let read_end = claim.parts.end * SPLIT;
                self.run_part(isa, claim, part_idx, read_end, scratch);
                if part_idx == claim.parts.start {
                    scratch.total.copy_from_slice(scratch.part);
                } else {
                    Part::of(shape, scratch.total).merge(&Part::of(shape, scratch.part));
                }
            }
            self.write(claim, &Part::of(shape, scratch.total));
        });
    }

    /// Computes all parts of all claims in one parallel loop, then merges them in another.
    fn run_by_part(&self, pool: &Pool, claims: &[Claim]) {
        let most_rows = claims.iter().map(|claim| claim.rows.len()).max().unwrap_or(0);
        let part_lines = self.shape(most_rows).len() / N_LANES;
        let units: Vec<(&Claim, usize)> = claims
            .iter()
            .flat_map(|claim| claim.parts.clone().map(move |part_idx| (claim, part_idx)))
            .collect();
        let mut parts = vec![Line::zeroed(); units.len() * part_lines];
        pool.run_chunks(&mut parts, part_lines, &|i, lines| {
            let (claim, part_idx) = units[i];
            self.with_scratch(claim, |scratch| {
                let read_end = (part_idx + 1) * SPLIT;
                self.run_part(pool.isa(), claim, part_idx, read_end, scratch);
                cast_slice_mut::<Line, f32>(lines)[..scratch.part.len()].copy_from_slice(scratch.part);
            });
        });
        let mut rest = &mut parts[..];
        let mut shares = Vec::with_capacity(claims.len());
        for claim in claims {
            let (share, after) = rest.split_at_mut(claim.parts.len() * part_lines);
            shares.push(share);
            rest = after;
        }
        pool.run_chunks(&mut shares, 1, &|i, share| {
            let claim = &claims[i];
            let shape = self.shape(claim.rows.len());
            let (total, others) = share[0].split_at_mut(part_lines);
            let mut total = Part::of(shape, &mut cast_slice_mut(total)[..shape.len()]);
            for part in others.chunks_exact_mut(part_lines) {
                total.merge(&Part::of(shape, &mut cast_slice_mut(part)[..shape.len()]));
            }
            self.write(claim, &total);
        });
    }

    /// Computes one part of a claim into `scratch.part`; this thread goes on reading up to `read_end`.
    fn run_part(&self, isa: Isa, claim: &Claim, part_idx: usize, read_end: usize, scratch: &mut Scratch<'_>) {
        let job = &self.jobs[claim.job_idx];
        let tiles = tile::Tiles {
            task: self,
            job,
            kv_head: claim.kv_head,
            rows: claim.rows.clone(),
            positions: part_idx * SPLIT..(part_idx + 1) * SPLIT,
            read_end: read_end.min(self.visible(job, &claim.rows).end),
        };
        match isa {
            // SAFETY: `Pool` checked that the machine has its instruction set.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { run_avx512(&tiles, scratch) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { run_avx2(&tiles, scratch) },
            // SAFETY: portable code needs no instruction set.
            _ => unsafe { tiles.run::<Portable>(scratch) },
        }
    }

    /// Writes the finished rows of a claim.
    fn write(&self, claim: &Claim, total: &Part<'_>) {
        let v_dim = self.layer.layout().v_dim;
        let job = &self.jobs[claim.job_idx];
        for (i, row) in claim.rows.clone().enumerate() {
            for head in 0..self.group {
                let at = (job.first_row + row) * self.params.n_heads + claim.kv_head * self.group + head;
                // SAFETY: `check` saw that all rows of jobs are in `out` and no two jobs share one; a claim has its own
                // rows and heads of its job. So the range is in `out`, and no other claim touches it.
                let out = unsafe { std::slice::from_raw_parts_mut(self.out.0.add(at * v_dim), v_dim) };
                total.finish(i * self.group + head, out);
            }
        }
    }

    /// Divides this thread's working memory for a claim, and puts the queries in.
    fn with_scratch(&self, claim: &Claim, work: impl FnOnce(&mut Scratch<'_>)) {
        let layout = self.layer.layout();
        let shape = self.shape(claim.rows.len());
        // Few rows read what is stored without making floats of it first.
        let converts = shape.n_rows > DIRECT_ROWS && layout.kv_type != KvType::F32;
        let converted = if converts { TILE } else { 0 };
        let sizes = [
            shape.n_rows * layout.k_dim,
            converted * layout.k_dim,
            converted * layout.v_padded(),
            TILE * layout.v_padded().div_ceil(QUANT_BLOCK),
            ROWS_MAX * TILE,
            shape.len(),
            shape.len(),
        ];
        let lines = sizes.map(|n| n.div_ceil(N_LANES));
        SCRATCH.with_borrow_mut(|memory| {
            let n_lines = lines.iter().sum();
            if memory.len() < n_lines {
                memory.resize(n_lines, Line::zeroed());
            }
            let mut rest = &mut memory[..];
            let mut take = |i: usize| {
                let (taken, after) = std::mem::take(&mut rest).split_at_mut(lines[i]);
                rest = after;
                &mut cast_slice_mut::<Line, f32>(taken)[..sizes[i]]
            };
            let mut scratch = Scratch {
                q: take(0),
                keys: take(1),
                values: take(2),
                value_scales: take(3),
                scores: take(4),
                total: take(5),
                part: take(6),
            };
            work(&mut scratch);
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn run_avx512(tiles: &tile::Tiles<'_>, scratch: &mut Scratch<'_>) {
    // SAFETY: this function's own instruction set.
    unsafe { tiles.run::<Avx512>(scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2(tiles: &tile::Tiles<'_>, scratch: &mut Scratch<'_>) {
    // SAFETY: this function's own instruction set.
    unsafe { tiles.run::<Avx2>(scratch) }
}

#[cfg(test)]
mod tests;

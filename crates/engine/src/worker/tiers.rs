//! K/V beyond the executor's own memory: what preempted sequences leave in memory, and the prefix cache on disk.
//!
//! Blocks leave and come back between steps, on the engine's thread, which only copies them: the disk is read and
//! written by a thread of its own. A request whose beginning lies there waits aside, while others run, until it is in the
//! prefix cache, as far as that takes less time than to compute it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use ingle_chat::{KvTierStatus, Pooling};
use ingle_step::{BlockId, BlockImport, Executor, ExecutorError, StepBatch, TokenId};

use crate::disk_cache::{DiskTier, Key, Write};
use crate::engine::Arrival;
use crate::scheduler::{NewRequest, Pooled, Published, Scheduler};
use crate::worth::{attention_depth, recompute_cost};

/// Bytes of blocks that are read at a time for one request, and how many blocks: between two steps they are put in place.
const READ_BYTES: usize = 64 << 20;
const READ_BLOCKS: usize = 64;
/// Bytes of blocks that are handed to the disk's thread between two steps.
const SAVE_BYTES_PER_STEP: usize = 32 << 20;
/// How long a request waits aside for the disk before it is computed.
const FETCH_PATIENCE: Duration = Duration::from_secs(20);
/// How long an engine that ends goes on handing blocks to the disk's thread.
const SAVE_PATIENCE: Duration = Duration::from_secs(5);
/// How much the last measurement counts.
const COST_WEIGHT: f64 = 0.2;

/// See the module's description.
pub(super) struct Tiers {
    block_size: usize,
    block_bytes: usize,
    n_blocks: usize,
    attention_depth: usize,
    /// By slot: blocks of preempted sequences. Memory is taken as it is needed.
    slots: Vec<Option<Vec<u8>>>,
    /// Seconds that a block takes out and back.
    swap_seconds: f64,
    disk: Option<DiskTier>,
    /// What is published and not yet handed over, beginnings first.
    unsaved: VecDeque<Unsaved>,
    fetching: Vec<Fetching>,
    /// Prompt tokens that came from the disk.
    tokens_fetched: u64,
}

/// A block of the prefix cache that is to be written.
struct Unsaved {
    key: Key,
    parent: Key,
    tenant: Key,
    cost: u64,
    /// What fills its first slots.
    tokens: Arc<[TokenId]>,
    block: BlockId,
    stamp: u64,
}

/// A request whose beginning is on its way from the disk.
struct Fetching {
    arrival: Arrival,
    salt: u64,
    /// Those of the blocks, of which the last may be a tail.
    tokens: Vec<TokenId>,
    /// How many of those the request begins with.
    n_common: usize,
    /// Of all blocks that are to be read, and of those before them.
    keys: Vec<Key>,
    /// How many of them are in the prefix cache.
    n_there: usize,
    /// How many were asked for.
    n_asked: usize,
    reply: Receiver<Vec<Vec<u8>>>,
    deadline: Instant,
}

/// What becomes of a new arrival.
pub(super) enum Fetch {
    /// It is computed from what there is.
    Nothing(Arrival),
    /// It waits aside.
    Waits,
}

impl Tiers {
    pub fn new(executor: &dyn Executor, swap_blocks: usize, disk: Option<DiskTier>) -> Self {
        let info = executor.info();
        Self {
            block_size: info.block_size,
            block_bytes: info.block_bytes,
            n_blocks: info.n_blocks,
            attention_depth: attention_depth(info.n_embd),
            slots: vec![None; swap_blocks],
            swap_seconds: 0.0,
            disk,
            unsaved: VecDeque::new(),
            fetching: Vec::new(),
            tokens_fetched: 0,
        }
    }

    // ---- memory ----

    /// Moves what the scheduler says, before the step runs. `token_seconds` is what computing one takes, 0 if nobody
    /// knows.
    pub fn move_blocks(
        &mut self,
        executor: &mut dyn Executor,
        scheduler: &mut Scheduler,
        batch: Option<&mut StepBatch>,
        token_seconds: f64,
    ) -> Result<(), ExecutorError> {
        let moves = scheduler.take_moves();
        if !moves.out.is_empty() {
            let began = Instant::now();
            let n = moves.out.len();
            for (block, slot) in moves.out {
                self.slots[slot.0 as usize] = Some(executor.export_block(block)?);
            }
            // Back is a copy too.
            let seconds = 2.0 * began.elapsed().as_secs_f64() / n as f64;
            let weight = if self.swap_seconds == 0.0 { 1.0 } else { COST_WEIGHT };
            self.swap_seconds += (seconds - self.swap_seconds) * weight;
        }
        if token_seconds > 0.0 {
            scheduler.set_swap_cost(self.swap_seconds / token_seconds);
        }
        let back = moves.back.into_iter().map(|(slot, block)| {
            let bytes = self.slots[slot.0 as usize].take().expect("what comes back was moved out");
            BlockImport { block, bytes }
        });
        match batch {
            Some(batch) => batch.imports = back.collect(),
            None => assert_eq!(back.len(), 0, "blocks come back with a batch"),
        }
        Ok(())
    }

    /// The scheduler has forgotten what moved out, and what was published.
    pub fn reset(&mut self) {
        self.slots.fill(None);
        self.unsaved.clear();
    }

    // ---- to the disk ----

    /// Notes what came into the prefix cache, for `tenant_of` who brought it.
    pub fn note_published<'a>(
        &mut self,
        published: Vec<Published>,
        tenant_of: impl Fn(&Published) -> Option<&'a str>,
    ) {
        let Some(disk) = &self.disk else { return };
        for published in published {
            let Some(tenant) = tenant_of(&published) else { continue };
            let tenant = disk.tenant(tenant);
            let mut keys = disk.chain(&tenant, &published.tokens, self.block_size);
            let chunks: Vec<&[TokenId]> = published.tokens.chunks(self.block_size).collect();
            if let (Some(tail), Some(parent)) = (chunks.get(keys.len() - 1), keys.last()) {
                keys.push(disk.child(parent, tail));
            }
            for (i, (block, stamp)) in (published.first..).zip(published.blocks) {
                let cost = recompute_cost(i * self.block_size, self.attention_depth);
                let (parent, key, tokens) = (keys[i], keys[i + 1], chunks[i].into());
                self.unsaved.push_back(Unsaved { key, parent, tenant, cost, tokens, block, stamp });
            }
        }
        // More than these cannot be in the cache any more.
        let n_stale = self.unsaved.len().saturating_sub(2 * self.n_blocks);
        self.unsaved.drain(..n_stale);
        disk.note_dropped(n_stale);
    }

    /// Hands blocks over, as many as the disk's thread takes now. Between steps.
    pub fn save(&mut self, executor: &mut dyn Executor, scheduler: &Scheduler) -> Result<(), ExecutorError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut n_left = SAVE_BYTES_PER_STEP.div_ceil(self.block_bytes.max(1));
        while n_left > 0 && !self.unsaved.is_empty() && disk.has_room() {
            let Some(unsaved) = self.unsaved.pop_front() else { break };
            let Unsaved { key, parent, tenant, cost, tokens, block, stamp } = unsaved;
            if !disk.wants(&key, &parent, &tokens) {
                continue;
            }
            if !scheduler.is_published(block, stamp) {
                // A tail that a longer block has replaced is written as a part of that one.
                let covers = |other: &Unsaved| other.parent == parent && other.tokens.starts_with(&tokens);
                disk.note_dropped(usize::from(!self.unsaved.iter().any(covers)));
                continue;
            }
            let payload = executor.export_slots(block, tokens.len())?;
            disk.write(Write { key, parent, tenant, cost, tokens, payload, wake: thread::current() });
            n_left -= 1;
        }
        Ok(())
    }

    /// The last words of an engine: what is still to be handed over, as long as its patience lasts.
    pub fn save_rest(&mut self, executor: &mut dyn Executor, scheduler: &Scheduler) {
        let deadline = Instant::now() + SAVE_PATIENCE;
        while !self.unsaved.is_empty() && Instant::now() < deadline {
            if self.save(executor, scheduler).is_err() {
                break;
            }
            if !self.unsaved.is_empty() {
                thread::park_timeout(Duration::from_millis(20));
            }
        }
        if let Some(disk) = &self.disk {
            disk.note_dropped(self.unsaved.len());
        }
    }

    /// Forgets what a tenant has on disk.
    pub fn flush(&mut self, tenant: &str) {
        let Some(disk) = &self.disk else { return };
        let tenant = disk.tenant(tenant);
        self.unsaved.retain(|unsaved| unsaved.tenant != tenant);
        disk.flush(&tenant);
    }

    // ---- from the disk ----

    /// Looks for a request's beginning on disk. `compute_time(n)` is what `n` prompt tokens take; zero if nobody knows.
    pub fn fetch(
        &mut self,
        arrival: Arrival,
        request: &NewRequest,
        scheduler: &Scheduler,
        compute_time: impl Fn(usize) -> Duration,
    ) -> Fetch {
        let Some(disk) = &self.disk else { return Fetch::Nothing(arrival) };
        // The disk has what the model computes without adapters.
        if !request.adapters.is_empty() {
            return Fetch::Nothing(arrival);
        }
        // Whose every row is wanted takes nothing from the cache.
        let wants_early_rows = |pooled: Pooled| pooled.pooling != Pooling::Last || !pooled.causal;
        if request.prompt_logits || request.pooling.is_some_and(wants_early_rows) {
            return Fetch::Nothing(arrival);
        }
        // The last token is always computed.
        let cacheable = &request.prompt[..request.prompt.len() - 1];
        let n_there = scheduler.n_cached_blocks(request.salt, cacheable);
        let tenant = disk.tenant(&arrival.work.standing().tenant);
        let mut keys = disk.chain(&tenant, cacheable, self.block_size);
        let n_found = disk.n_found(&keys[n_there + 1..]);
        let missing = &keys[n_there + 1 + n_found..];
        if !missing.is_empty() {
            disk.forget_behind(missing, &cacheable[(keys.len() - 1) * self.block_size..]);
        }
        let n_found = n_found.min(self.n_blocks);
        let pays = |n_tokens: usize, n_blocks: usize| {
            let computing = compute_time(n_tokens);
            computing.is_zero() || disk.read_time(n_blocks * self.block_bytes) < computing
        };
        if n_found > 0 && !pays(n_found * self.block_size, n_found) {
            return Fetch::Nothing(arrival);
        }
        // Behind full blocks, what one more begins with, unless as much of it is in memory.
        keys.truncate(n_there + n_found + 1);
        let (before, rest) = cacheable.split_at((n_there + n_found) * self.block_size);
        let rest = &rest[..rest.len().min(self.block_size)];
        let next = keys.last().and_then(|parent| disk.nearest(parent, rest)).filter(|next| {
            let n_tokens = before.len() + next.n_common;
            scheduler.n_cached_tokens(request.salt, &cacheable[..n_tokens]) < n_tokens
                && pays(next.n_common, 1)
        });
        let (mut tokens, mut n_common) = (before.to_vec(), before.len());
        if let Some(next) = next {
            n_common += next.n_common;
            tokens.extend_from_slice(&next.tokens);
            keys.push(next.key);
        }
        keys.remove(0);
        if keys.len() == n_there {
            return Fetch::Nothing(arrival);
        }
        let n_asked = self.n_read(keys.len() - n_there);
        let Some(reply) = disk.read(keys[n_there..n_there + n_asked].to_vec()) else {
            return Fetch::Nothing(arrival);
        };
        self.fetching.push(Fetching {
            salt: request.salt,
            tokens,
            n_common,
            arrival,
            keys,
            n_there,
            n_asked,
            reply,
            deadline: Instant::now() + FETCH_PATIENCE,
        });
        Fetch::Waits
    }

    /// Takes what has been read into the prefix cache. Gives the requests that wait no longer.
    pub fn take_fetched(
        &mut self,
        executor: &mut dyn Executor,
        scheduler: &mut Scheduler,
    ) -> Result<Vec<Arrival>, ExecutorError> {
        let mut ready = Vec::new();
        for mut fetching in std::mem::take(&mut self.fetching) {
            let goes_on = match fetching.reply.try_recv() {
                Ok(blocks) => {
                    let is_whole = blocks.len() == fetching.n_asked;
                    let n_taken = self.adopt(&mut fetching, blocks, executor, scheduler)?;
                    is_whole && n_taken == fetching.n_asked && self.ask_on(&mut fetching)
                }
                Err(TryRecvError::Empty) => {
                    Instant::now() < fetching.deadline && !fetching.arrival.work.is_closed()
                }
                Err(TryRecvError::Disconnected) => false,
            };
            if goes_on {
                self.fetching.push(fetching);
            } else {
                ready.push(fetching.arrival);
            }
        }
        Ok(ready)
    }

    /// Requests that wait aside, when the engine ends.
    pub fn take_waiting(&mut self) -> Vec<Arrival> {
        self.fetching.drain(..).map(|fetching| fetching.arrival).collect()
    }

    /// Whether anybody waits aside.
    pub fn is_fetching(&self) -> bool {
        !self.fetching.is_empty()
    }

    /// Puts blocks into the prefix cache: how many found room.
    fn adopt(
        &mut self,
        fetching: &mut Fetching,
        blocks: Vec<Vec<u8>>,
        executor: &mut dyn Executor,
        scheduler: &mut Scheduler,
    ) -> Result<usize, ExecutorError> {
        let mut n_taken = 0;
        for bytes in blocks {
            let (start, end) = (fetching.n_there * self.block_size, (fetching.n_there + 1) * self.block_size);
            let tokens = &fetching.tokens[..end.min(fetching.tokens.len())];
            // Somebody else may have computed it meanwhile.
            if scheduler.n_cached_tokens(fetching.salt, tokens) < tokens.len() {
                if bytes.len() != self.block_bytes {
                    break;
                }
                let Some(block) = scheduler.adopt(fetching.salt, tokens) else { break };
                executor.import_block(block, &bytes)?;
                self.tokens_fetched += (tokens.len().min(fetching.n_common) - start) as u64;
            }
            fetching.n_there += 1;
            n_taken += 1;
        }
        Ok(n_taken)
    }

    /// Asks for the next blocks; false if there are none.
    fn ask_on(&self, fetching: &mut Fetching) -> bool {
        let left = &fetching.keys[fetching.n_there..];
        let n_asked = self.n_read(left.len());
        let reply =
            self.disk.as_ref().filter(|_| n_asked > 0).and_then(|disk| disk.read(left[..n_asked].to_vec()));
        let Some(reply) = reply else { return false };
        (fetching.n_asked, fetching.reply) = (n_asked, reply);
        true
    }

    /// How many of `n` blocks are read at a time.
    fn n_read(&self, n: usize) -> usize {
        n.min(READ_BYTES.div_ceil(self.block_bytes.max(1))).min(READ_BLOCKS)
    }

    // ---- the books ----

    pub fn status(&self, scheduler: &Scheduler) -> KvTierStatus {
        let (stats, disk) = (scheduler.stats(), self.disk.as_ref().map(DiskTier::stats).unwrap_or_default());
        KvTierStatus {
            swap_blocks: stats.blocks_swapped,
            swap_blocks_total: self.slots.len(),
            swapped_out_total: stats.blocks_swapped_out,
            swapped_in_total: stats.blocks_swapped_in,
            disk_blocks: disk.blocks,
            disk_bytes: disk.bytes,
            disk_tokens_read_total: self.tokens_fetched,
            disk_blocks_written_total: disk.blocks_written,
            disk_blocks_dropped_total: disk.blocks_dropped,
            disk_blocks_refused_total: disk.blocks_refused,
        }
    }
}

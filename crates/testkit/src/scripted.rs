//! An executor whose logits and hidden states are a pure function of the sequence so far: scheduler tests need no model.
//!
//! It is also a referee. It keeps the token of every (block, slot) together with a hash of everything before it,
//! as real K/V depends on everything before it, and reads histories back through the block tables. So a wrong
//! table, a forgotten copy or a stale prefix block does not go unnoticed: it panics with an explanation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ingle_step::{
    BlockId, Executor, ExecutorError, ExecutorInfo, KvType, NumericPath, RowOut, SeqOut, SeqStep, StepBatch,
    StepOut, TokenId, Want,
};

/// Size of a hidden state.
pub const N_EMBD: usize = 4;

/// A slot as it is exported: whether it was written, its token and its history.
const SLOT_BYTES: usize = 1 + size_of::<u32>() + size_of::<u64>();

/// Fills `(n_vocab,)` logits for the token after a history.
pub type LogitsFn = Box<dyn Fn(&[TokenId], &mut [f32]) + Send>;

/// What goes wrong in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `wait` gives an error.
    Error,
    /// `wait` panics.
    Panic,
    /// `wait` says that the model can be used no more.
    Unusable,
}

/// The executor. See the module's description.
pub struct ScriptedExecutor {
    info: ExecutorInfo,
    logits: LogitsFn,
    latency: Duration,
    row_latency: Duration,
    /// Where there is one, each step ends when there is a turn for it.
    turns: Option<mpsc::Receiver<()>>,
    faults: BTreeMap<u64, Fault>,
    /// Sequences with it among their first two tokens get each of their rows twice.
    doubled: Option<TokenId>,
    /// `(n_blocks, block_size)`; `None` where nothing was written.
    slots: Vec<Vec<Option<Slot>>>,
    /// With the time that each takes.
    results: VecDeque<(StepOut, Duration, Option<Fault>)>,
    n_steps: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot {
    token: TokenId,
    /// Of this token and all before it.
    history: u64,
}

impl ScriptedExecutor {
    /// A cache of `n_blocks` blocks of `block_size` slots; logits are [`hashed_logits`],
    /// hidden states [`hashed_hidden`].
    pub fn new(n_vocab: usize, n_ctx: usize, block_size: usize, n_blocks: usize) -> Self {
        Self {
            info: ExecutorInfo {
                n_vocab,
                n_embd: N_EMBD,
                n_ctx,
                causal: true,
                has_logits: true,
                n_labels: 0,
                has_token_types: true,
                block_size,
                n_blocks,
                weight_bytes: 0,
                kv_bytes: (n_blocks * block_size * SLOT_BYTES) as u64,
                block_bytes: block_size * SLOT_BYTES,
                numeric_path: NumericPath {
                    numerics_version: 0,
                    kernel_class: "scripted",
                    kv_type: KvType::F32,
                    n_ctx,
                },
            },
            logits: Box::new(hashed_logits),
            latency: Duration::ZERO,
            row_latency: Duration::ZERO,
            turns: None,
            faults: BTreeMap::new(),
            doubled: None,
            slots: vec![vec![None; block_size]; n_blocks],
            results: VecDeque::new(),
            n_steps: 0,
        }
    }

    /// Another function of the history.
    #[must_use]
    pub fn with_logits(mut self, logits: impl Fn(&[TokenId], &mut [f32]) + Send + 'static) -> Self {
        self.logits = Box::new(logits);
        self
    }

    /// A model that reads texts in both directions, gives pairs of them one number (the first of the first row's hidden
    /// state) and generates nothing.
    #[must_use]
    pub fn bidirectional(mut self) -> Self {
        self.info = ExecutorInfo { causal: false, has_logits: false, n_labels: 1, ..self.info };
        self
    }

    /// Each step takes this long.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Each step takes this much longer for each of its rows.
    #[must_use]
    pub fn with_row_latency(mut self, latency: Duration) -> Self {
        self.row_latency = latency;
        self
    }

    /// Each message lets one step end; without one, a step goes on. Once the sender is gone, steps end by themselves. So a test
    /// says when which step ends, however busy the machine is.
    #[must_use]
    pub fn with_turns(mut self, turns: mpsc::Receiver<()>) -> Self {
        self.turns = Some(turns);
        self
    }

    /// The `k`-th step it is given (from 0) goes wrong, after half of its writes.
    #[must_use]
    pub fn with_fault(mut self, k: u64, fault: Fault) -> Self {
        self.faults.insert(k, fault);
        self
    }

    /// Sequences with this token among their first two get each of their rows twice: who picks a token from the second when the
    /// first was the last one asked for panics.
    #[must_use]
    pub fn with_doubled_rows(mut self, token: TokenId) -> Self {
        self.doubled = Some(token);
        self
    }

    /// How many steps it was given.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    fn check_block(&self, block: BlockId) -> Result<(), ExecutorError> {
        let n_blocks = self.info.n_blocks;
        if block.0 as usize >= n_blocks {
            return Err(ExecutorError::NoSuchBlock { block: block.0, n_blocks });
        }
        Ok(())
    }

    fn slot(&self, seq: &SeqStep, position: usize) -> Option<Slot> {
        let block_size = self.info.block_size;
        self.slots[seq.block_table[position / block_size].0 as usize][position % block_size]
    }

    /// The tokens before this step, read through the block table.
    fn history(&self, seq: &SeqStep) -> (Vec<TokenId>, u64) {
        let mut tokens = Vec::with_capacity(seq.start as usize + seq.inputs.len());
        let mut hash = adapted(seq);
        for position in 0..seq.start as usize {
            let block = seq.block_table[position / self.info.block_size].0;
            let place = format_args!("sequence {} position {position} (block {block})", seq.seq.0);
            let slot =
                self.slot(seq, position).unwrap_or_else(|| panic!("{place}: the slot was never written"));
            let expected = extend(hash, slot.token);
            assert_eq!(
                slot.history, expected,
                "{place}: token {} was written there after another history: a stale or foreign block",
                slot.token
            );
            hash = expected;
            tokens.push(slot.token);
        }
        (tokens, hash)
    }

    fn check(&self, batch: &StepBatch) -> Result<(), String> {
        let block_size = self.info.block_size;
        let in_range = |b: &BlockId| (b.0 as usize) < self.info.n_blocks;
        let mut users: BTreeMap<BlockId, (usize, Option<u64>)> = BTreeMap::new();
        for seq in &batch.seqs {
            let name = seq.seq.0;
            let end = seq.start as usize + seq.inputs.len();
            if seq.inputs.is_empty() {
                return Err(format!("sequence {name} has no rows"));
            }
            if seq.causal != self.info.causal || !(seq.causal || seq.start == 0) {
                return Err(format!(
                    "sequence {name} is causal: {}, and starts at {}",
                    seq.causal, seq.start
                ));
            }
            if end > self.info.n_ctx {
                return Err(format!("sequence {name} goes to {end}, the context to {}", self.info.n_ctx));
            }
            if seq.block_table.len() * block_size < end {
                return Err(format!("sequence {name}: its table does not cover {end} slots"));
            }
            if let Some(b) = seq.block_table.iter().find(|b| !in_range(b)) {
                return Err(format!("sequence {name}: there is no block {}", b.0));
            }
            let ascending = seq.wants.windows(2).all(|w| w[0].0 <= w[1].0 && w[0] != w[1]);
            if !ascending || seq.wants.last().is_some_and(|w| w.0 as usize >= seq.inputs.len()) {
                return Err(format!("sequence {name}: wants {:?}", seq.wants));
            }
            let written = seq.start as usize / block_size..end.div_ceil(block_size);
            for (i, &block) in seq.block_table.iter().enumerate() {
                let (n, writer) = users.entry(block).or_default();
                *n += 1;
                if written.contains(&i) {
                    *writer = Some(name);
                }
            }
        }
        for (block, (n_users, writer)) in users {
            if let (Some(writer), 2..) = (writer, n_users) {
                return Err(format!("sequence {writer} writes block {}, which another uses", block.0));
            }
        }
        if let Some(copy) = batch.copies.iter().find(|c| {
            !in_range(&c.from) || !in_range(&c.to) || c.from == c.to || c.n_slots as usize > block_size
        }) {
            return Err(format!("{copy:?}"));
        }
        let mut targets: BTreeSet<BlockId> = batch.copies.iter().map(|copy| copy.to).collect();
        for import in &batch.imports {
            let fits = in_range(&import.block) && import.bytes.len() == self.info.block_bytes;
            if !fits || !targets.insert(import.block) {
                return Err(format!("{import:?}"));
            }
        }
        Ok(())
    }

    fn run(&mut self, seq: &SeqStep, dry: bool) -> SeqOut {
        let (mut tokens, mut hash) = self.history(seq);
        let mut wants = seq.wants.iter().peekable();
        let mut rows = Vec::new();
        for (row, input) in seq.inputs.iter().enumerate() {
            let token = input.token();
            let position = seq.start as usize + row;
            hash = extend(hash, token);
            tokens.push(token);
            if !dry {
                let block = seq.block_table[position / self.info.block_size].0 as usize;
                self.slots[block][position % self.info.block_size] = Some(Slot { token, history: hash });
            }
            while let Some(&(_, want)) = wants.next_if(|w| w.0 as usize == row) {
                let values = match want {
                    Want::Logits => {
                        let mut values = vec![0.0; self.info.n_vocab];
                        (self.logits)(&tokens, &mut values);
                        values
                    }
                    Want::Hidden => hidden_of(hash).to_vec(),
                    Want::Labels => hidden_of(hash)[..1].to_vec(),
                };
                rows.push(RowOut { row: row as u32, values });
            }
        }
        if self.doubled.is_some_and(|token| tokens.iter().take(2).any(|t| *t == token)) {
            rows = rows.into_iter().flat_map(|row| [row.clone(), row]).collect();
        }
        SeqOut { seq: seq.seq, rows }
    }
}

impl Executor for ScriptedExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn submit(&mut self, batch: StepBatch) -> Result<(), ExecutorError> {
        self.check(&batch).map_err(ExecutorError::InvalidBatch)?;
        let fault = self.faults.remove(&self.n_steps);
        self.n_steps += 1;
        for copy in &batch.copies {
            let mut copied = self.slots[copy.from.0 as usize].clone();
            copied[copy.n_slots as usize..].fill(None);
            self.slots[copy.to.0 as usize] = copied;
        }
        for import in &batch.imports {
            self.import_block(import.block, &import.bytes)?;
        }
        let half = batch.seqs.len() / 2;
        let run = |(i, seq)| self.run(seq, fault.is_some() && i >= half);
        let seqs = batch.seqs.iter().enumerate().map(run).collect();
        let n_rows: usize = batch.seqs.iter().map(|seq| seq.inputs.len()).sum();
        let took = self.latency + self.row_latency * n_rows as u32;
        self.results.push_back((StepOut { step: batch.step, seqs }, took, fault));
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOut, ExecutorError> {
        let Some((out, took, fault)) = self.results.pop_front() else {
            return Err(ExecutorError::InvalidBatch("no step was submitted".into()));
        };
        if !took.is_zero() {
            thread::sleep(took);
        }
        if let Some(turns) = &self.turns
            && turns.recv().is_err()
        {
            self.turns = None;
        }
        match fault {
            Some(Fault::Unusable) => Err(ExecutorError::Unusable("the model file changed".into())),
            Some(Fault::Error) => Err(ExecutorError::Device(format!("scripted fault in step {}", out.step))),
            Some(Fault::Panic) => panic!("scripted fault in step {}", out.step),
            None => Ok(out),
        }
    }

    fn export_block(&mut self, block: BlockId) -> Result<Vec<u8>, ExecutorError> {
        self.check_block(block)?;
        Ok(self.slots[block.0 as usize].iter().flat_map(|&slot| Slot::to_bytes(slot)).collect())
    }

    fn export_slots(&mut self, block: BlockId, n_slots: usize) -> Result<Vec<u8>, ExecutorError> {
        let mut bytes = self.export_block(block)?;
        let rest = bytes.get_mut(n_slots * SLOT_BYTES..).ok_or_else(|| {
            let block_size = self.info.block_size;
            ExecutorError::InvalidBatch(format!("{n_slots} slots of a block of {block_size}"))
        })?;
        rest.fill(0);
        Ok(bytes)
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), ExecutorError> {
        self.check_block(block)?;
        let block_bytes = self.info.block_bytes;
        if bytes.len() != block_bytes {
            return Err(ExecutorError::BlockLength { n_bytes: bytes.len(), block_bytes });
        }
        let slots = bytes.as_chunks::<SLOT_BYTES>().0;
        self.slots[block.0 as usize] = slots.iter().map(Slot::from_bytes).collect();
        Ok(())
    }
}

impl Slot {
    fn to_bytes(slot: Option<Self>) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        if let Some(Self { token, history }) = slot {
            bytes[0] = 1;
            bytes[1..5].copy_from_slice(&token.0.to_le_bytes());
            bytes[5..].copy_from_slice(&history.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let (token, history) =
            (bytes[1..5].try_into().expect("4 bytes"), bytes[5..].try_into().expect("8 bytes"));
        let slot = Self { token: TokenId(u32::from_le_bytes(token)), history: u64::from_le_bytes(history) };
        (bytes[0] == 1).then_some(slot)
    }
}

/// Logits in `[0, 8)` that look random and follow from the history.
pub fn hashed_logits(history: &[TokenId], logits: &mut [f32]) {
    let hash = history.iter().fold(0, |hash, &token| extend(hash, token));
    for (i, logit) in logits.iter_mut().enumerate() {
        *logit = 8.0 * unit(extend(hash, TokenId(i as u32)));
    }
}

/// A hidden state in `[-1, 1)` that looks random and follows from the history.
pub fn hashed_hidden(history: &[TokenId]) -> [f32; N_EMBD] {
    hidden_of(history.iter().fold(0, |hash, &token| extend(hash, token)))
}

fn hidden_of(history: u64) -> [f32; N_EMBD] {
    // Other numbers than those that tokens have.
    std::array::from_fn(|i| 2.0 * unit(extend(history, TokenId(u32::MAX - i as u32))) - 1.0)
}

/// Logits by which a greedy sampler continues a prompt with `script`, and with `after` from then on. The script
/// begins after the first token that is `start`.
pub fn recite(start: TokenId, script: Vec<TokenId>, after: TokenId) -> impl Fn(&[TokenId], &mut [f32]) {
    move |history, logits| {
        hashed_logits(history, logits);
        let said = history.iter().position(|&t| t == start).map_or(0, |i| history.len() - i - 1);
        let next = script.get(said).copied().unwrap_or(after);
        logits[next.0 as usize] = 20.0;
    }
}

/// What the history of a sequence begins with: K and V depend on its adapters.
fn adapted(seq: &SeqStep) -> u64 {
    seq.adapters.iter().fold(0, |hash, used| {
        let id = extend(hash, TokenId(used.adapter.0 as u32));
        extend(id, TokenId(used.scale.to_bits()))
    })
}

fn extend(hash: u64, token: TokenId) -> u64 {
    let mut z = (hash ^ u64::from(token.0).wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 32)
}

fn unit(hash: u64) -> f32 {
    (hash >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use ingle_step::Input;

    use super::*;
    use ingle_step::SeqId;

    fn step(start: u32, tokens: &[u32], blocks: &[u32]) -> SeqStep {
        SeqStep {
            seq: SeqId(7),
            inputs: tokens.iter().map(|&t| Input::Token(TokenId(t))).collect(),
            start,
            block_table: blocks.iter().map(|&b| BlockId(b)).collect(),
            causal: true,
            wants: vec![(tokens.len() as u32 - 1, Want::Logits)],
            adapters: Vec::new(),
        }
    }

    fn run(executor: &mut ScriptedExecutor, seqs: Vec<SeqStep>) -> Vec<f32> {
        executor.submit(StepBatch { seqs, ..StepBatch::default() }).unwrap();
        executor.wait().unwrap().seqs.remove(0).rows.remove(0).values
    }

    #[test]
    fn chunks_give_the_same_logits() {
        let mut executor = ScriptedExecutor::new(10, 100, 2, 4);
        let whole = run(&mut executor, vec![step(0, &[1, 2, 3], &[0, 1])]);
        run(&mut executor, vec![step(0, &[1, 2], &[2])]);
        let chunked = run(&mut executor, vec![step(2, &[3], &[2, 3])]);
        assert_eq!(whole, chunked);
        assert_ne!(whole, run(&mut executor, vec![step(0, &[1, 2, 4], &[0, 1])]));
    }

    #[test]
    fn hidden_states_beside_logits() {
        let mut executor = ScriptedExecutor::new(10, 100, 2, 4);
        let tokens = [1, 2, 3];
        let both = vec![(0, Want::Hidden), (2, Want::Logits), (2, Want::Hidden)];
        let seqs = vec![SeqStep { wants: both, ..step(0, &tokens, &[0, 1]) }];
        executor.submit(StepBatch { seqs, ..StepBatch::default() }).unwrap();
        let rows = executor.wait().unwrap().seqs.remove(0).rows;
        let history = tokens.map(TokenId);
        assert_eq!(rows[0].values, hashed_hidden(&history[..1]));
        assert_eq!((rows[1].values.len(), &rows[2].values[..]), (10, &hashed_hidden(&history)[..]));
    }

    #[test]
    #[should_panic(expected = "stale or foreign block")]
    fn a_foreign_block_is_noticed() {
        let mut executor = ScriptedExecutor::new(10, 100, 2, 4);
        run(&mut executor, vec![step(0, &[1, 2, 3, 4], &[0, 1])]);
        run(&mut executor, vec![step(0, &[5, 6], &[2])]);
        run(&mut executor, vec![step(4, &[7], &[2, 1, 3])]);
    }

    #[test]
    #[should_panic(expected = "never written")]
    fn an_empty_block_is_noticed() {
        let mut executor = ScriptedExecutor::new(10, 100, 2, 4);
        run(&mut executor, vec![step(2, &[1], &[0, 1])]);
    }

    #[test]
    fn an_exported_block_goes_on_elsewhere() {
        let mut executor = ScriptedExecutor::new(10, 100, 2, 5);
        let whole = run(&mut executor, vec![step(0, &[1, 2, 3], &[0, 1])]);
        run(&mut executor, vec![step(0, &[1, 2], &[2])]);
        let bytes = executor.export_block(BlockId(2)).unwrap();
        assert_eq!(bytes.len(), executor.info().block_bytes);
        executor.import_block(BlockId(4), &bytes).unwrap();
        assert_eq!(whole, run(&mut executor, vec![step(2, &[3], &[4, 3])]));
        let no_block = ExecutorError::NoSuchBlock { block: 5, n_blocks: 5 };
        assert_eq!(executor.export_block(BlockId(5)), Err(no_block.clone()));
        assert_eq!(executor.import_block(BlockId(5), &bytes), Err(no_block));
        let short = ExecutorError::BlockLength { n_bytes: 25, block_bytes: 26 };
        assert_eq!(executor.import_block(BlockId(0), &bytes[1..]), Err(short));
    }

    #[test]
    fn a_block_has_one_writer() {
        let mut executor = ScriptedExecutor::new(10, 100, 2, 4);
        let seqs = vec![step(0, &[1], &[0]), step(0, &[1], &[0])];
        let error = executor.submit(StepBatch { seqs, ..StepBatch::default() }).unwrap_err();
        assert!(error.to_string().contains("writes block 0"), "{error}");
    }
}

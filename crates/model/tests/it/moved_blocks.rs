//! K/V that leave a block and come back into another, of this executor or of one that was made later, are as if they had
//! been computed there: what follows has the same bits. So a beginning may be kept anywhere, whatever its keys and
//! values are stored as, and in models whose layers see only a window of it.

use std::sync::Arc;

use ingle_gguf::TensorType;
use ingle_kernels::Pool;
use ingle_model::{CpuExecutor, LoadOptions};
use ingle_step::{BlockId, Executor, ExecutorError, KvType};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

use crate::support::{run, seq_step, try_load};

const BLOCK_SIZE: usize = 16;
/// Full blocks that are moved.
const N_MOVED: usize = 7;
const N_TOKENS: usize = N_MOVED * BLOCK_SIZE + 21;

fn load(bytes: &[u8], kv_type: KvType) -> CpuExecutor {
    let options =
        LoadOptions { kv_type, kv_tokens: 32 * BLOCK_SIZE, block_size: BLOCK_SIZE, ..LoadOptions::default() };
    try_load(bytes.to_vec(), Arc::new(Pool::new(1)), &options).expect("a valid model")
}

/// The bits of the logits after each token from `start` on.
fn logits(executor: &mut CpuExecutor, text: &[u32], start: usize, blocks: &[u32]) -> Vec<Vec<u32>> {
    let out = run(executor, vec![seq_step(1, &text[start..], start, blocks, |_| true)]);
    out.seqs[0].rows.iter().map(|row| row.values.iter().map(|x| x.to_bits()).collect()).collect()
}

fn check(spec: &TinySpec, kv_type: KvType) {
    let bytes = spec.bytes();
    let mut rng = Rng::new(5);
    let text: Vec<u32> = (0..N_TOKENS).map(|_| rng.below(spec.n_vocab) as u32).collect();
    let n_blocks = N_TOKENS.div_ceil(BLOCK_SIZE) as u32;
    let start = N_MOVED * BLOCK_SIZE;
    let mut here = load(&bytes, kv_type);
    let table: Vec<u32> = (0..n_blocks).collect();
    let whole = logits(&mut here, &text, 0, &table);
    let moved: Vec<Vec<u8>> = (0..N_MOVED as u32)
        .map(|block| here.export_block(BlockId(block)).expect("the block is there"))
        .collect();
    assert!(moved.iter().all(|bytes| bytes.len() == here.info().block_bytes), "{kv_type:?}");
    // Elsewhere in this one, and in one that has computed nothing.
    for executor in [&mut here, &mut load(&bytes, kv_type)] {
        let table: Vec<u32> = (0..n_blocks).map(|i| 31 - 2 * i).collect();
        for (&block, bytes) in table.iter().zip(&moved) {
            executor.import_block(BlockId(block), bytes).expect("a block of the same layout");
        }
        let found = logits(executor, &text, start, &table);
        assert!(found == whole[start..], "{kv_type:?}, window {:?}", spec.sliding_window);
    }
    // A part of the last block, without what else is in it: whoever goes on from there sees no difference.
    let n_slots = N_TOKENS % BLOCK_SIZE - 1;
    let (full, within) = (N_TOKENS / BLOCK_SIZE, N_TOKENS / BLOCK_SIZE * BLOCK_SIZE + n_slots);
    let mut other = load(&bytes, kv_type);
    for block in 0..full as u32 {
        let bytes = here.export_block(BlockId(block)).expect("the block is there");
        other.import_block(BlockId(block), &bytes).expect("a block of the same layout");
    }
    let last = BlockId(full as u32);
    let part = here.export_slots(last, n_slots).expect("the block is there");
    assert!(part != here.export_block(last).expect("the block is there"), "it has more than these slots");
    other.import_block(last, &part).expect("a block of the same layout");
    assert!(logits(&mut other, &text, within, &table) == whole[within..], "{kv_type:?}");
    // A block at the wrong place is noticed, so the comparison can fail.
    let mut wrong = load(&bytes, kv_type);
    for (&block, bytes) in table.iter().zip(moved.iter().rev()) {
        wrong.import_block(BlockId(block), bytes).expect("a block of the same layout");
    }
    assert!(logits(&mut wrong, &text, start, &table) != whole[start..], "{kv_type:?}");
}

#[test]
fn of_every_type() {
    for kv_type in KvType::ALL {
        check(&TinySpec::new(Arch::Qwen3).weight_type(TensorType::F32), kv_type);
    }
}

/// What is moved is more than twice the window, and less than one.
#[test]
fn under_a_sliding_window() {
    for window in [20, 48, 120] {
        let spec = TinySpec { sliding_window: Some(window), ..TinySpec::new(Arch::Llama) };
        check(&spec, KvType::F16);
    }
}

#[test]
fn what_is_no_block_is_refused() {
    let mut executor = load(&TinySpec::new(Arch::Llama).bytes(), KvType::F16);
    let (n_blocks, block_bytes) = (executor.info().n_blocks, executor.info().block_bytes);
    let none = ExecutorError::NoSuchBlock { block: n_blocks as u32, n_blocks };
    let bytes = executor.export_block(BlockId(3)).expect("the block is there");
    assert_eq!(executor.export_block(BlockId(n_blocks as u32)), Err(none.clone()));
    assert_eq!(executor.export_slots(BlockId(n_blocks as u32), 1), Err(none.clone()));
    assert!(executor.export_slots(BlockId(3), BLOCK_SIZE + 1).is_err());
    assert_eq!(executor.import_block(BlockId(n_blocks as u32), &bytes), Err(none));
    for n_bytes in [0, block_bytes - 1, block_bytes + 1] {
        let bytes = vec![7; n_bytes];
        let refused = ExecutorError::BlockLength { n_bytes, block_bytes };
        assert_eq!(executor.import_block(BlockId(3), &bytes), Err(refused));
    }
    assert_eq!(executor.export_block(BlockId(3)), Ok(bytes), "nothing was changed");
}

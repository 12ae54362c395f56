//! The executor's side of the step contract: batches, copies, results in order, refusals.

use std::sync::Arc;

use ingle_kernels::Pool;
use ingle_model::{CpuExecutor, LoadOptions};
use ingle_step::{BlockCopy, BlockId, Executor, ExecutorError, SeqStep, StepBatch, StepOut, Want};
use ingle_testkit::tiny::{Arch, TinySpec};

use crate::support::{argmax, run, seq_step, try_load};

fn executor() -> CpuExecutor {
    let options = LoadOptions { n_ctx: Some(100), kv_tokens: 250, ..LoadOptions::default() };
    try_load(TinySpec::new(Arch::Qwen2).bytes(), Arc::new(Pool::new(1)), &options).expect("a valid model")
}

fn submit(
    executor: &mut CpuExecutor,
    copies: Vec<BlockCopy>,
    seqs: Vec<SeqStep>,
) -> Result<(), ExecutorError> {
    executor.submit(StepBatch { step: 1, copies, seqs, ..StepBatch::default() })
}

fn copy(from: u32, to: u32, n_slots: u32) -> BlockCopy {
    BlockCopy { from: BlockId(from), to: BlockId(to), n_slots }
}

#[test]
fn info_says_what_was_loaded() {
    let executor = executor();
    let info = executor.info();
    assert_eq!((info.n_vocab, info.n_embd, info.n_ctx), (288, 64, 100));
    assert_eq!((info.block_size, info.n_blocks), (32, 8));
    assert_eq!(
        info.numeric_path.to_string(),
        format!("cpu-n{}-kv_f16-ctx100", ingle_kernels::NUMERICS_VERSION)
    );
    // Two layers of K and V: 2 heads of 16 elements of 2 bytes in 256 slots.
    assert!(info.kv_bytes >= 2 * 2 * 2 * 16 * 2 * 256, "{} bytes", info.kv_bytes);
    assert!(info.weight_bytes > 0);
}

#[test]
fn results_come_in_the_order_of_submission() {
    let mut executor = executor();
    for step in 0..4 {
        let seqs = vec![seq_step(step, &[step as u32], 0, &[0], |_| true)];
        executor.submit(StepBatch { step, seqs, ..StepBatch::default() }).expect("well formed");
    }
    let one_more = executor.submit(StepBatch::default());
    assert!(
        matches!(one_more, Err(ExecutorError::InvalidBatch(_))),
        "results that nobody fetches are bounded"
    );
    for step in 0..4 {
        let out = executor.wait().expect("a step was submitted");
        assert_eq!((out.step, out.seqs[0].seq.0), (step, step));
    }
    assert!(executor.wait().is_err(), "nothing is left");
}

#[test]
fn hidden_states_and_rows_without_wants() {
    let mut executor = executor();
    let mut step = seq_step(1, &[1, 2, 3], 0, &[5], |row| row == 2);
    step.wants.insert(0, (1, Want::Hidden));
    step.wants.push((2, Want::Hidden));
    let silent = seq_step(2, &[4], 0, &[6], |_| false);
    let out = run(&mut executor, vec![silent, step]);
    assert!(out.seqs[0].rows.is_empty());
    let rows: Vec<(u32, usize)> = out.seqs[1].rows.iter().map(|r| (r.row, r.values.len())).collect();
    assert_eq!(rows, [(1, 64), (2, 288), (2, 64)]);
    // The hidden state is after the last norm: of about unit size.
    let mean_square = out.seqs[1].rows[0].values.iter().map(|x| x * x).sum::<f32>() / 64.0;
    assert!((0.3..3.0).contains(&mean_square), "{mean_square}");
}

#[test]
fn results_that_come_back_do_not_show_in_later_ones() {
    let mut executor = executor();
    let steps = || {
        let mut step = seq_step(1, &[1, 2, 3], 0, &[5], |row| row != 1);
        step.wants.insert(1, (0, Want::Hidden));
        [
            vec![step],
            vec![seq_step(2, &[4], 0, &[6], |_| true)],
            vec![seq_step(3, &[7; 40], 0, &[0, 1], |_| true)],
        ]
    };
    let first: Vec<StepOut> = steps().map(|seqs| run(&mut executor, seqs)).into();
    for _ in 0..2 {
        for (seqs, expected) in steps().into_iter().zip(&first) {
            let out = run(&mut executor, seqs);
            assert_eq!(&out, expected);
            executor.recycle(out);
        }
    }
}

#[test]
fn an_empty_batch_gives_nothing() {
    let mut executor = executor();
    submit(&mut executor, vec![], vec![]).expect("an empty batch is well formed");
    assert!(executor.wait().expect("submitted").seqs.is_empty());
}

#[test]
fn a_copied_block_continues_like_the_original() {
    let mut executor = executor();
    let text: Vec<u32> = (0..40).map(|i| i * 7 % 256).collect();
    run(&mut executor, vec![seq_step(1, &text, 0, &[0, 1], |_| false)]);
    // The second block is shared up to slot 8; each continues in its own.
    let fork = |token: u32, table: &[u32]| seq_step(u64::from(token), &[token], 40, table, |_| true);
    let steps = vec![fork(50, &[0, 1]), fork(60, &[0, 4])];
    submit(&mut executor, vec![copy(1, 4, 8)], steps).expect("well formed");
    let forked = executor.wait().expect("submitted");

    for (seq, token) in forked.seqs.iter().zip([50, 60]) {
        let mut whole = text.clone();
        whole.push(token);
        let alone = run(&mut executor, vec![seq_step(9, &whole, 0, &[2, 3], |row| row == 40)]);
        assert_eq!(seq.rows[0].values, alone.seqs[0].rows[0].values, "after token {token}");
    }
    assert_ne!(argmax(&forked.seqs[0].rows[0].values), 999);
    assert_ne!(forked.seqs[0].rows[0].values, forked.seqs[1].rows[0].values);
}

/// Checks that a batch is refused with a message that contains `expected`, and that the executor goes on.
fn check_refused(expected: &str, copies: Vec<BlockCopy>, seqs: Vec<SeqStep>) {
    let mut executor = executor();
    match submit(&mut executor, copies, seqs) {
        Err(ExecutorError::InvalidBatch(what)) => assert!(what.contains(expected), "{what}"),
        other => panic!("{other:?}, expected `{expected}`"),
    }
    run(&mut executor, vec![seq_step(1, &[1], 0, &[0], |_| true)]);
}

#[test]
fn broken_batches_are_refused() {
    let seq = |tokens: &[u32], start, blocks: &[u32]| vec![seq_step(1, tokens, start, blocks, |_| true)];
    check_refused("no inputs", vec![], seq(&[], 0, &[0]));
    check_refused("token 288", vec![], seq(&[1, 288], 0, &[0]));
    check_refused("beyond the context", vec![], seq(&[1, 2], 99, &[0, 1, 2, 3]));
    check_refused("beyond the context", vec![], seq(&[1], u32::MAX as usize, &[0]));
    check_refused("do not cover", vec![], seq(&[1], 32, &[0]));
    check_refused("do not cover", vec![], seq(&[1], 0, &[]));
    check_refused("block 8", vec![], seq(&[1], 0, &[8]));
    check_refused("in the table twice", vec![], seq(&[1], 32, &[3, 3]));

    let mut step = seq_step(1, &[1, 2], 0, &[0], |_| true);
    step.wants.swap(0, 1);
    check_refused("wanted row", vec![], vec![step.clone()]);
    step.wants = vec![(2, Want::Logits)];
    check_refused("wanted row", vec![], vec![step.clone()]);
    step.wants.clear();
    step.causal = false;
    step.start = 1;
    check_refused("not causal", vec![], vec![step]);

    let other = |blocks: &[u32]| seq_step(2, &[1], 0, blocks, |_| true);
    let first = seq_step(1, &[1], 32, &[0, 1], |_| true);
    check_refused("sequence 1 writes block 1", vec![], vec![first.clone(), other(&[2, 1])]);
    check_refused("sequence 2 writes block 0", vec![], vec![first.clone(), other(&[0])]);
    check_refused(
        "twice",
        vec![],
        vec![first.clone(), SeqStep { block_table: vec![BlockId(4), BlockId(5)], ..first }],
    );

    check_refused("there are 8 blocks", vec![copy(0, 8, 1)], vec![]);
    check_refused("there are 8 blocks", vec![copy(u32::MAX, 1, 1)], vec![]);
    check_refused("the target is the source", vec![copy(1, 1, 1)], vec![]);
    check_refused("has one already", vec![copy(1, 2, 1), copy(3, 2, 1)], vec![]);
    check_refused("copy of 33 slots", vec![copy(1, 2, 33)], vec![]);
}

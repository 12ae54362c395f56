//! Small stories, told as what each step runs and what the state is then. The simulator in `tests/` tells long ones.

use ingle_chat::Pooling;
use ingle_step::{Input, SeqStep, TokenId, Want};

use super::*;

fn scheduler(n_blocks: usize, budget: usize, max_running_seqs: usize) -> Scheduler {
    Scheduler::new(SchedulerConfig {
        block_size: 4,
        n_blocks,
        n_ctx: 64,
        max_running_seqs,
        step_token_budget: budget,
        max_waiting_requests: 4,
        max_waiting_tokens: 100,
        prefix_cache: true,
        max_preemptions: 3,
    })
}

fn request(n_prompt: u32, max_tokens: usize) -> NewRequest {
    NewRequest::new((0..n_prompt).map(TokenId).collect(), max_tokens)
}

/// The same in the background, with beginnings of its own.
fn background(n_prompt: u32, max_tokens: usize) -> NewRequest {
    NewRequest { priority: Priority::Background, salt: 9, ..request(n_prompt, max_tokens) }
}

fn pooled(n_prompt: u32, pooling: Pooling) -> NewRequest {
    NewRequest { pooling: Some(pooling.into()), ..request(n_prompt, 0) }
}

/// Runs a step, sampling token 99 wherever one is due; what is pooled ends with its last row. Gives `seq:start+rows`
/// for each sequence in it.
fn step(scheduler: &mut Scheduler) -> String {
    let Some(batch) = scheduler.schedule() else { return "nothing".into() };
    let rows = |s: &SeqStep| format!("{}:{}+{}", s.seq.0, s.start, s.inputs.len());
    let story: Vec<String> = batch.seqs.iter().map(rows).collect();
    let mut results = Vec::new();
    let is_last = |s: &&SeqStep| {
        s.wants.last().is_some_and(|w| (s.start + w.0) as usize + 1 == scheduler.n_tokens(s.seq))
    };
    for seq in batch.seqs.iter().filter(is_last) {
        let request = scheduler.seqs[&seq.seq].request;
        for choice in scheduler.choices_of(seq.seq) {
            let id = request.choice(choice);
            let n_prompt = scheduler.seqs[&seq.seq].n_prompt;
            let n_new = scheduler.n_tokens(seq.seq) + 1 - n_prompt;
            let done = n_new >= scheduler.seqs[&seq.seq].max_tokens;
            let is_pooled = scheduler.seqs[&seq.seq].want != Want::Logits;
            let tokens = if is_pooled { Vec::new() } else { vec![TokenId(99)] };
            results.push(Sampled { seq: id, tokens, done });
        }
    }
    scheduler.commit(&results);
    scheduler.check_integrity();
    story.join(" ")
}

#[test]
fn decodes_go_first_and_prompts_are_read_in_chunks() {
    let mut s = scheduler(16, 6, 3);
    s.add(request(4, 10)).unwrap();
    assert_eq!(step(&mut s), "0:0+4");
    s.add(NewRequest { salt: 1, ..request(12, 10) }).unwrap();
    assert_eq!(step(&mut s), "0:4+1 1:0+5");
    assert_eq!(step(&mut s), "0:5+1 1:5+5");
    assert_eq!(step(&mut s), "0:6+1 1:10+2");
    assert_eq!(step(&mut s), "0:7+1 1:12+1");
}

#[test]
fn a_cached_beginning_is_not_read_again() {
    let mut s = scheduler(16, 64, 3);
    s.add(request(9, 1)).unwrap();
    assert_eq!(step(&mut s), "0:0+9");
    s.add(request(9, 1)).unwrap();
    s.add(request(8, 1)).unwrap();
    assert_eq!(step(&mut s), "1:8+1 2:7+1", "the last token of a prompt is always computed");
    assert_eq!(s.stats().cached_tokens, 15);
}

#[test]
fn the_youngest_gives_way_and_comes_back() {
    let mut s = scheduler(5, 64, 4);
    s.add(request(7, 8)).unwrap();
    s.add(NewRequest { salt: 1, ..request(7, 8) }).unwrap();
    assert_eq!(step(&mut s), "0:0+7 1:0+7");
    assert_eq!(step(&mut s), "0:7+1 1:7+1");
    assert_eq!(step(&mut s), "0:8+1", "one block was left, and the older took it");
    let state = "step 3: blocks 0 free, 0 cached, 5 used of 5 (0 reserved); queued 0 requests, 0 tokens
  seq 0 of 0: running, 7 prompt + 3 new tokens, 9 computed, blocks [0cx2 1cx2 4], preempted 0
  seq 1 of 1: running, 7 prompt + 2 new tokens, 8 computed, blocks [2cx2 3cx2], preempted 0
";
    assert_eq!(s.to_string(), state);
    for start in 9..12 {
        assert_eq!(step(&mut s), format!("0:{start}+1"));
    }
    assert_eq!(step(&mut s), "0:12+1", "the younger was preempted for this block");
    assert_eq!(s.stats().preemptions, 1);
    assert_eq!(step(&mut s), "0:13+1");
    assert_eq!(step(&mut s), "1:4+5", "what was not evicted is not computed again");
}

#[test]
fn choices_share_the_prompts_blocks_until_they_write() {
    let mut s = scheduler(8, 64, 4);
    s.add(NewRequest { n_choices: 3, ..request(6, 4) }).unwrap();
    assert_eq!(step(&mut s), "0:0+6");
    let state = "step 1: blocks 6 free, 0 cached, 2 used of 8 (0 reserved); queued 0 requests, 0 tokens
  seq 0 of 0: running, 6 prompt + 1 new tokens, 6 computed, blocks [0cx4 1x3], preempted 0
  seq 1 of 0: running, 6 prompt + 1 new tokens, 6 computed, blocks [0cx4 1x3], preempted 0
  seq 2 of 0: running, 6 prompt + 1 new tokens, 6 computed, blocks [0cx4 1x3], preempted 0
";
    assert_eq!(s.to_string(), state);
    let batch = s.schedule().unwrap();
    let copies: Vec<_> = batch.copies.iter().map(|c| (c.from.0, c.to.0, c.n_slots)).collect();
    assert_eq!(copies, [(1, 2, 2), (1, 3, 2)], "the last holder writes in place");
}

#[test]
fn who_cannot_be_served_is_refused() {
    let mut s = scheduler(4, 64, 1);
    assert_eq!(s.add(request(10, 7)), Err(AddError::TooLong { n_tokens: 17, max_tokens: 16 }));
    for _ in 0..4 {
        s.add(request(2, 2)).unwrap();
    }
    assert_eq!(s.add(request(2, 2)), Err(AddError::Full { waiting: 4 }));
    assert_eq!(s.stats().queued_tokens, 8);
}

#[test]
fn a_paused_sequence_lets_others_run() {
    let mut s = scheduler(16, 64, 1);
    let slow = s.add(request(3, 9)).unwrap();
    s.add(request(2, 2)).unwrap();
    assert_eq!(step(&mut s), "0:0+3");
    s.set_paused(slow, true);
    assert_eq!(step(&mut s), "1:0+2");
    s.set_paused(slow, false);
    assert_eq!(step(&mut s), "0:3+1 1:2+1");
    s.abort(slow);
    assert_eq!(step(&mut s), "nothing");
    assert_eq!(s.stats().blocks_used, 0);
}

#[test]
fn the_background_runs_where_places_are_left() {
    let mut s = scheduler(32, 64, 2);
    for _ in 0..2 {
        s.add(background(4, 5)).unwrap();
    }
    assert_eq!(step(&mut s), "0:0+4 1:0+4", "nobody else wants to run");
    s.add(request(4, 3)).unwrap();
    assert_eq!(step(&mut s), "2:0+4 0:4+1", "the younger one makes way at once, and keeps what it has");
    s.add(request(4, 2)).unwrap();
    s.add(background(4, 1)).unwrap();
    assert_eq!(step(&mut s), "2:4+1 3:3+1", "both places are taken");
    assert_eq!(step(&mut s), "2:5+1 3:4+1");
    assert_eq!(step(&mut s), "0:5+1 1:4+1", "they go on, before anyone else of them begins");
    assert_eq!(step(&mut s), "0:6+1 1:5+1");
    assert_eq!(s.stats().preemptions, 0);
}

#[test]
fn the_background_gives_its_blocks_up() {
    let mut s = scheduler(4, 64, 4);
    s.add(background(7, 8)).unwrap();
    assert_eq!(step(&mut s), "0:0+7");
    s.add(request(9, 6)).unwrap();
    assert_eq!(step(&mut s), "1:0+9", "three blocks of four: the background had two");
    let state =
        "  seq 0 of 0: waiting (background), 7 prompt + 1 new tokens, 0 computed, blocks [], preempted 0\n";
    assert!(s.to_string().contains(state), "being preempted for better ones is not counted: {s}");
    for start in 9..14 {
        assert_eq!(step(&mut s), format!("1:{start}+1"));
    }
    assert!(step(&mut s).starts_with("0:"), "it goes on as soon as there is room");
}

#[test]
fn each_priority_has_a_queue_of_its_own() {
    let mut s = scheduler(16, 64, 1);
    for _ in 0..4 {
        s.add(background(2, 2)).unwrap();
    }
    assert_eq!(s.add(background(2, 2)), Err(AddError::Full { waiting: 4 }));
    for _ in 0..4 {
        s.add(request(2, 2)).unwrap();
    }
    assert_eq!(s.add(request(2, 2)), Err(AddError::Full { waiting: 4 }));
    let mut order = Vec::new();
    while s.stats().running + s.stats().waiting > 0 {
        order.push(step(&mut s).split(':').next().unwrap().to_owned());
    }
    assert_eq!(order.join(" "), "4 4 5 5 6 6 7 7 0 0 1 1 2 2 3 3");
}

#[test]
fn prompt_rows_are_bounded_over_all_sequences() {
    let mut s = scheduler(32, 200, 4);
    for salt in 0..2 {
        s.add(NewRequest { salt, prompt_logits: true, ..request(50, 2) }).unwrap();
    }
    let batch = s.schedule().unwrap();
    let rows: Vec<_> = batch.seqs.iter().map(|s| (s.inputs.len(), s.wants.len())).collect();
    assert_eq!(rows, [(50, 50), (15, 15)], "the younger waits for the next step with the rest");
}

#[test]
fn who_jumps_ahead_leaves_a_row_to_everybody() {
    let mut s = scheduler(32, 6, 3);
    s.add(request(4, 20)).unwrap();
    s.add(NewRequest { salt: 1, ..request(4, 20) }).unwrap();
    assert_eq!(step(&mut s), "0:0+4 1:0+2");
    assert_eq!(step(&mut s), "0:4+1 1:2+2");
    s.add(NewRequest { salt: 2, ..request(9, 20) }).unwrap();
    assert!(s.schedule().is_some());
    let result = |seq, n| Sampled { seq: SeqId(seq), tokens: vec![TokenId(99); n], done: false };
    s.commit(&[result(0, 9), result(1, 1)]);
    assert_eq!(step(&mut s), "0:6+4 1:5+1 2:4+1", "nine tokens were known of the first");
    assert_eq!(step(&mut s), "0:10+4 1:6+1 2:5+1");
    assert_eq!(step(&mut s), "0:14+1 1:7+1 2:6+3");
    assert_eq!(step(&mut s), "0:15+1 1:8+1 2:9+1");
}

/// Which rows of a prompt give something, step by step.
fn wanted(s: &mut Scheduler) -> Vec<u32> {
    let batch = s.schedule().expect("something runs");
    let rows = batch.seqs[0].wants.iter().map(|&(row, want)| {
        assert_eq!(want, Want::Hidden);
        row + batch.seqs[0].start
    });
    let rows: Vec<u32> = rows.collect();
    let seq = batch.seqs[0].seq;
    let ends = rows.last().is_some_and(|&row| row as usize + 1 == s.n_tokens(seq));
    let result = Sampled { seq, tokens: Vec::new(), done: true };
    s.commit(&[result][..usize::from(ends)]);
    s.check_integrity();
    rows
}

#[test]
fn a_pooled_text_gives_the_rows_that_its_pooling_needs() {
    let check = |pooling: Pooling, expected: [&[u32]; 3]| {
        let mut s = scheduler(16, 4, 3);
        s.add(pooled(10, pooling)).unwrap();
        assert_eq!(expected.map(|_| wanted(&mut s)), expected, "{pooling:?}");
        assert!(s.schedule().is_none());
        assert_eq!((s.stats().blocks_used, s.stats().blocks_cached), (0, 3), "all of it is kept");
    };
    check(Pooling::Last, [&[], &[], &[9]]);
    check(Pooling::Cls, [&[0], &[], &[9]]);
    check(Pooling::Mean, [&[0, 1, 2, 3], &[4, 5, 6, 7], &[8, 9]]);
}

#[test]
fn a_pooled_text_takes_from_the_cache_only_what_it_does_not_need() {
    let check = |pooling: Pooling, expected: &str, cached: u64| {
        let mut s = scheduler(16, 64, 3);
        s.add(request(9, 1)).unwrap();
        assert_eq!(step(&mut s), "0:0+9");
        s.add(pooled(9, pooling)).unwrap();
        assert_eq!(step(&mut s), expected, "{pooling:?}");
        assert_eq!(s.stats().cached_tokens, cached);
    };
    check(Pooling::Last, "1:8+1", 8);
    check(Pooling::Cls, "1:0+9", 0);
    check(Pooling::Mean, "1:0+9", 0);
}

#[test]
fn a_preempted_text_goes_on_where_its_rows_ended() {
    let mut s = scheduler(8, 3, 2);
    s.add(request(4, 10)).unwrap();
    assert_eq!(step(&mut s), "0:0+3");
    s.add(NewRequest { salt: 1, ..pooled(24, Pooling::Mean) }).unwrap();
    assert_eq!(step(&mut s), "0:3+1 1:0+2");
    for i in 0..8 {
        assert_eq!(step(&mut s), format!("0:{}+1 1:{}+2", 4 + i, 2 + 2 * i));
    }
    assert_eq!(step(&mut s), "0:12+1", "no block was left, and the younger gave way");
    assert_eq!(s.stats().preemptions, 1);
    // Nothing of it was published before its end: all is computed again, but no row is asked for twice.
    for _ in 0..6 {
        assert_eq!(wanted(&mut s), [0u32; 0]);
    }
    assert_eq!([wanted(&mut s), wanted(&mut s)], [[18, 19, 20], [21, 22, 23]]);
    assert!(s.schedule().is_none());
}

#[test]
fn the_next_turn_of_a_conversation_reads_only_what_is_new() {
    let mut s = scheduler(16, 64, 3);
    let turn = |n_prompt: u32| request(n_prompt, 2);
    s.add(turn(6)).unwrap();
    assert_eq!(step(&mut s), "0:0+6");
    assert_eq!(step(&mut s), "0:6+1");
    // Six tokens as before, the one that was sampled and computed, and three new ones.
    let mut tokens: Vec<TokenId> = (0..6).map(TokenId).collect();
    tokens.extend([99, 50, 51, 52].map(TokenId));
    s.add(NewRequest::new(tokens, 1)).unwrap();
    assert_eq!(step(&mut s), "1:7+3");
    assert_eq!(s.stats().blocks_used, 0);
}

#[test]
fn who_copies_a_beginning_leaves_the_source_to_others() {
    let mut s = scheduler(16, 64, 3);
    s.add(request(7, 1)).unwrap();
    assert_eq!(step(&mut s), "0:0+7");
    for _ in 0..2 {
        s.add(request(7, 1)).unwrap();
    }
    let batch = s.schedule().unwrap();
    let [a, b] = batch.copies[..] else { panic!("two copies, not {:?}", batch.copies) };
    assert_eq!((a.from, a.n_slots, b.n_slots), (b.from, 2, 2), "all but the last token, which is computed");
    assert!(a.to != b.to && a.to != a.from && b.to != b.from);
}

/// A text of a model that reads in both directions.
fn both_ways(n_prompt: u32) -> NewRequest {
    let pooled = Pooled { pooling: Pooling::Mean, causal: false, second_from: None };
    NewRequest { pooling: Some(pooled), ..request(n_prompt, 0) }
}

#[test]
fn a_text_that_is_not_causal_is_one_step_and_shares_nothing() {
    let mut s = scheduler(16, 12, 4);
    assert_eq!(s.add(both_ways(13)), Err(AddError::TooLong { n_tokens: 13, max_tokens: 12 }));
    for n_prompt in [8, 7, 5, 12] {
        s.add(both_ways(n_prompt)).unwrap();
    }
    // Who does not fit any more is not cut, and nobody overtakes it.
    assert_eq!(step(&mut s), "0:0+8");
    assert_eq!(step(&mut s), "1:0+7 2:0+5");
    assert_eq!(step(&mut s), "3:0+12");
    assert_eq!(step(&mut s), "nothing");
    let stats = s.stats();
    assert_eq!((stats.cached_tokens, stats.blocks_cached, stats.blocks_used), (0, 0, 0));

    s.add(both_ways(8)).unwrap();
    s.add(both_ways(8)).unwrap();
    let batch = s.schedule().expect("something to do");
    assert!(batch.seqs.iter().all(|seq| !seq.causal && seq.inputs.len() == 8));
}

#[test]
fn the_second_of_two_texts_is_told_apart_and_gives_labels() {
    let mut s = scheduler(16, 12, 4);
    let pooled = Pooled { pooling: Pooling::Rank, causal: false, second_from: Some(3) };
    s.add(NewRequest { pooling: Some(pooled), ..request(5, 0) }).unwrap();
    let batch = s.schedule().expect("something to do");
    let inputs = [0, 1, 2].map(|t| Input::Token(TokenId(t)));
    let second = [3, 4].map(|t| Input::Second(TokenId(t)));
    assert_eq!(batch.seqs[0].inputs, [&inputs[..], &second].concat());
    assert_eq!(batch.seqs[0].wants, [(0, Want::Labels), (4, Want::Labels)]);
}

//! What the controller makes of texts and machines of many kinds.

use ingle_testkit::rng::Rng;

use super::replay::{Replayed, Trace, replay, replay_plain};
use super::*;

fn random(rng: &mut Rng, n: usize, n_kinds: usize) -> Vec<TokenId> {
    (0..n).map(|_| TokenId(rng.below(n_kinds) as u32)).collect()
}

/// An answer that quotes spans of its prompt, with words of its own between them.
fn extraction(rng: &mut Rng, span: usize) -> Trace {
    let prompt = random(rng, 400, 5000);
    let mut answer = Vec::new();
    while answer.len() < 300 {
        let n_own = 1 + rng.below(6);
        answer.extend(random(rng, n_own, 5000));
        let at = rng.below(prompt.len() - span);
        answer.extend(&prompt[at..at + span / 2 + rng.below(span / 2)]);
    }
    Trace { prompt, answer, prediction: Vec::new() }
}

/// Text whose last few tokens often stood somewhere before, and mean nothing for the next one.
fn free(rng: &mut Rng, n_kinds: usize) -> Trace {
    Trace { prompt: random(rng, 400, n_kinds), answer: random(rng, 400, n_kinds), prediction: Vec::new() }
}

/// How much faster a wave of traces is with speculation, and what happened.
fn speed_up(
    speculator: &mut Speculator,
    traces: &[Trace],
    cost: impl Fn(usize) -> f64,
    noise: &mut Rng,
) -> (f64, Replayed) {
    let mut noisy = |n| cost(n) * (0.9 + 0.2 * (noise.below(1000) as f64 / 1000.0));
    let spec = replay(speculator, traces, &mut noisy);
    let plain = replay_plain(traces, &mut noisy);
    assert!(traces.len() > 1 || spec.tokens == plain.tokens, "the same answers");
    (spec.rate() / plain.rate(), spec)
}

fn speculator() -> Speculator {
    Speculator::new(SpeculationConfig::default(), None, usize::MAX)
}

/// A machine on which a row costs this share of a step of one.
fn machine(share: f64) -> impl Fn(usize) -> f64 {
    move |n| 0.02 * (1.0 + share * (n as f64 - 1.0))
}

#[test]
fn quotes_are_faster_wherever_rows_are_cheap() {
    let (mut rng, mut noise) = (Rng::new(1), Rng::new(2));
    for (share, span, least) in
        [(0.02, 40, 3.0), (0.1, 40, 2.0), (0.2, 40, 1.5), (0.35, 40, 1.15), (0.1, 16, 1.4)]
    {
        let mut speculator = speculator();
        for round in 0..8 {
            let traces = [extraction(&mut rng, span)];
            let (factor, what) = speed_up(&mut speculator, &traces, machine(share), &mut noise);
            assert!(factor > least, "rows of {share}, spans of {span}, round {round}: {factor:.3}, {what:?}");
        }
    }
}

#[test]
fn free_text_is_never_much_slower() {
    let (mut rng, mut noise) = (Rng::new(3), Rng::new(4));
    let mut worst = f64::INFINITY;
    for share in [0.02, 0.1, 0.2, 0.35, 0.6, 1.0] {
        for n_kinds in [4, 8, 20, 5000] {
            for n_seqs in [1, 4, 32] {
                let mut speculator = speculator();
                for round in 0..3 {
                    let traces: Vec<Trace> = (0..n_seqs).map(|_| free(&mut rng, n_kinds)).collect();
                    let (factor, what) = speed_up(&mut speculator, &traces, machine(share), &mut noise);
                    worst = worst.min(factor);
                    assert!(
                        factor > 0.97,
                        "rows of {share}, {n_kinds} kinds, {n_seqs} sequences, round {round}: {factor:.3}, {what:?}"
                    );
                }
            }
        }
    }
    println!("worst: {worst:.4}");
}

#[test]
fn where_a_row_costs_as_much_as_a_token_nothing_is_drafted() {
    let (mut rng, mut noise) = (Rng::new(5), Rng::new(6));
    let mut speculator = speculator();
    for _ in 0..4 {
        let traces = [extraction(&mut rng, 40)];
        let (factor, what) = speed_up(&mut speculator, &traces, machine(1.0), &mut noise);
        assert!(factor > 0.97 && what.drafted < what.tokens / 8, "{factor:.3}, {what:?}");
    }
}

/// Free text first, then quotes, then free text: the controller follows.
#[test]
fn texts_change() {
    let (mut rng, mut noise) = (Rng::new(7), Rng::new(8));
    let mut speculator = speculator();
    for _ in 0..3 {
        let (factor, what) = speed_up(&mut speculator, &[free(&mut rng, 8)], machine(0.2), &mut noise);
        assert!(factor > 0.97, "{factor:.3}, {what:?}");
        let (factor, what) = speed_up(&mut speculator, &[extraction(&mut rng, 40)], machine(0.2), &mut noise);
        assert!(factor > 1.4, "{factor:.3}, {what:?}");
    }
}

#[test]
fn big_batches_draft_less_and_lose_nothing() {
    let (mut rng, mut noise) = (Rng::new(9), Rng::new(10));
    // Rows are cheap up to sixteen: then the machine is busy.
    let cost = |n: usize| 0.02 * (1.0 + 0.05 * n.min(16) as f64 + n.saturating_sub(16) as f64 * 0.12);
    for n_seqs in [1, 4, 16, 64] {
        let mut speculator = speculator();
        for round in 0..3 {
            let traces: Vec<Trace> = (0..n_seqs).map(|_| extraction(&mut rng, 40)).collect();
            let (factor, what) = speed_up(&mut speculator, &traces, cost, &mut noise);
            let least = [1.8, 1.3, 0.97, 0.97][[1, 4, 16, 64].iter().position(|&n| n == n_seqs).unwrap()];
            assert!(factor > least, "{n_seqs} sequences, round {round}: {factor:.3}, {what:?}");
        }
    }
}

#[test]
fn a_prediction_is_followed_and_found_again() {
    let (mut rng, mut noise) = (Rng::new(11), Rng::new(12));
    let prompt = random(&mut rng, 50, 5000);
    let prediction = random(&mut rng, 300, 5000);
    let mut answer = prediction.clone();
    // Two edits: a word replaced, and a sentence left out.
    answer[40] = TokenId(6000);
    answer.drain(150..170);
    let foretold = n_foretold(&prediction, &answer);
    assert!((260..280).contains(&foretold), "{foretold} of {}", answer.len());
    assert_eq!(n_foretold(&prediction, &prediction), 300);
    assert_eq!(n_foretold(&[], &answer), 0);
    assert_eq!(n_foretold(&prediction, &random(&mut rng, 300, 5000)), 0);
    let traces = [Trace { prompt, answer, prediction }];
    let (factor, what) = speed_up(&mut speculator(), &traces, machine(0.1), &mut noise);
    assert!(factor > 2.5, "{factor:.3}, {what:?}");
}

#[test]
fn without_adaptation_all_that_is_found_is_drafted() {
    let mut rng = Rng::new(13);
    let config =
        SpeculationConfig { adaptive: false, draft_max: 5, draft_min: 2, ..SpeculationConfig::default() };
    let mut speculator = Speculator::new(config, None, usize::MAX);
    let what = replay(&mut speculator, &[free(&mut rng, 4)], &mut |_| 1.0);
    assert!(what.drafted > what.steps * 4, "{what:?}");
    let counts = speculator.counts();
    assert_eq!((counts.drafted, counts.accepted), (what.drafted as u64, what.accepted as u64));
    assert_eq!(counts.accepted_at.iter().sum::<u64>(), counts.accepted);
    assert!(counts.accepted_at.windows(2).all(|w| w[0] >= w[1]) && counts.accepted_at.len() <= 5);
}

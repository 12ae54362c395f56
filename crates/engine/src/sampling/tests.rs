use super::*;

/// A chain of one step over logits given as probabilities; what is left, by id.
fn left(change: impl Fn(&mut SamplingParams), probabilities: &[f32]) -> Vec<(u32, f32)> {
    let mut params =
        SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingParams::default() };
    change(&mut params);
    let mut logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
    let mut left: Vec<(u32, f32)> = Sampler::new(params, DryBreakers::default(), 0)
        .distribution(&mut logits, 0)
        .into_iter()
        .map(|(t, p)| (t.0, p))
        .collect();
    left.sort_by_key(|l| l.0);
    left
}

fn check(change: impl Fn(&mut SamplingParams), probabilities: &[f32], expected: &[(u32, f32)]) {
    let is = left(change, probabilities);
    let close = is.len() == expected.len()
        && is.iter().zip(expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 2e-4);
    assert!(close, "{is:?} instead of {expected:?}");
}

const P: [f32; 4] = [0.4, 0.1, 0.2, 0.3];

#[test]
fn each_step_alone() {
    check(|_| {}, &P, &[(0, 0.4), (1, 0.1), (2, 0.2), (3, 0.3)]);
    check(|p| p.top_k = 1, &P, &[(0, 1.0)]);
    check(|p| p.top_k = 3, &P, &[(0, 0.4444), (2, 0.2222), (3, 0.3333)]);
    check(|p| p.top_p = 0.7, &P, &[(0, 0.5714), (3, 0.4286)]);
    check(|p| p.top_p = 0.0, &P, &[(0, 1.0)]);
    check(|p| p.min_p = 0.26, &P, &[(0, 0.4444), (2, 0.2222), (3, 0.3333)]);
    check(|p| p.min_p = 0.76, &P, &[(0, 1.0)]);
    check(|p| p.typical_p = 0.5, &[0.97, 0.01, 0.01, 0.01], &[(0, 1.0)]);
    check(|p| p.typical_p = 0.45, &P, &[(2, 0.4), (3, 0.6)]);
    check(|p| p.temperature = 0.0, &P, &[(0, 1.0)]);
    check(|p| p.temperature = 0.5, &P, &[(0, 0.5333), (1, 0.0333), (2, 0.1333), (3, 0.3)]);
}

#[test]
fn xtc_excludes_top_choices() {
    let strike = |threshold: f32| {
        move |p: &mut SamplingParams| (p.xtc_probability, p.xtc_threshold) = (1.0, threshold)
    };
    check(strike(0.31), &P, &[(0, 0.4), (1, 0.1), (2, 0.2), (3, 0.3)]);
    check(strike(0.25), &P, &[(1, 0.1667), (2, 0.3333), (3, 0.5)]);
    check(strike(0.15), &P, &[(1, 0.3333), (2, 0.6667)]);
    check(strike(0.05), &P, &[(1, 1.0)]);
    check(strike(0.51), &P, &[(0, 0.4), (1, 0.1), (2, 0.2), (3, 0.3)]);
    // It strikes as often as it should.
    let params = SamplingParams {
        xtc_probability: 0.3,
        xtc_threshold: 0.15,
        temperature: 1.0,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, DryBreakers::default(), 0);
    let strikes = (0..4000).filter(|&at| sampler.distribution(&mut P.map(f32::ln), at).len() == 2).count();
    assert!((1090..1310).contains(&strikes), "{strikes} of 4000");
}

#[test]
fn min_keep_holds_candidates() {
    check(|p| (p.top_p, p.min_keep) = (0.1, 2), &P, &[(0, 0.5714), (3, 0.4286)]);
    check(|p| (p.min_p, p.min_keep) = (0.99, 2), &P, &[(0, 0.5714), (3, 0.4286)]);
    check(|p| (p.typical_p, p.min_keep) = (0.01, 2), &P, &[(2, 0.4), (3, 0.6)]);
}

#[test]
fn sigma_cuts_by_spread() {
    let mut logits = vec![0.0; 98];
    logits.extend([10.0, 9.5]);
    let n_left = |n: f32| {
        let params = SamplingParams {
            top_n_sigma: n,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            temperature: 1.0,
            ..SamplingParams::default()
        };
        Sampler::new(params, DryBreakers::default(), 0).distribution(&mut logits.clone(), 0).len()
    };
    assert_eq!((n_left(0.3), n_left(1.0), n_left(20.0), n_left(-1.0)), (1, 2, 100, 100));
}

#[test]
fn penalties_see_their_window() {
    let params = SamplingParams {
        repeat_penalty: 2.0,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        repeat_last_n: 3,
        temperature: 1.0,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, DryBreakers::default(), 0);
    [9, 0, 1, 1].into_iter().for_each(|t| sampler.accept(TokenId(t)));
    let mut logits = vec![4.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0];
    sampler.candidates.begin();
    sampler.penalize(&mut logits);
    assert_eq!(&logits[..3], [2.0 - 0.75, -2.0 - 1.25, 1.0]);
    assert_eq!(logits[9], 7.0);
}

#[test]
fn greedy_is_exact() {
    let greedy = |logits: &[f32]| {
        Sampler::new(SamplingParams::greedy(), DryBreakers::default(), 0).sample(&mut logits.to_vec(), 0).0
    };
    assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]), 1);
    assert_eq!(greedy(&[f32::NAN, 1.0, f32::NAN, 2.0]), 3);
    assert_eq!(greedy(&[f32::NEG_INFINITY; 3]), 0);
    assert_eq!(greedy(&[f32::NAN; 3]), 0);
    assert_eq!(greedy(&[-1.0, f32::INFINITY, f32::INFINITY]), 1);
    let many: Vec<f32> =
        (0..100_003).map(|i| if i == 70_001 || i == 90_000 { 5.0 } else { (i % 7) as f32 * 0.5 }).collect();
    assert_eq!(greedy(&many), 70_001);
}

#[test]
fn impossible_tokens_are_never_drawn() {
    for order in
        [SamplerKind::DEFAULT_ORDER.to_vec(), vec![], vec![SamplerKind::Temperature], vec![SamplerKind::TopP]]
    {
        let params = SamplingParams {
            temperature: 5.0,
            order,
            logit_bias: vec![(TokenId(1), f32::NEG_INFINITY), (TokenId(77), 1.0)],
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params, DryBreakers::default(), 0);
        for at in 0..300 {
            let token = sampler.sample(&mut [0.0, 9.0, f32::NAN, f32::NEG_INFINITY, -0.5], at).0;
            assert!(token == 0 || token == 4, "{token}");
        }
        assert!(sampler.sample(&mut [f32::NEG_INFINITY; 4], 0).0 < 4);
        assert!(sampler.sample(&mut [f32::NAN; 4], 0).0 < 4);
        assert_eq!(sampler.sample(&mut [0.0, 0.0, f32::INFINITY], 0).0, 2);
    }
}

/// Top-k by one pass is the same as by sorting, ties included.
#[test]
fn top_k_equals_sorting() {
    let mut x = 12345u64;
    for n in [1usize, 5, 63, 64, 65, 1000, 5000] {
        for levels in [3, 50, 1 << 20] {
            let logits: Vec<f32> = (0..n)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((x >> 33) % levels) as f32
                })
                .collect();
            let mut order: Vec<u32> = (0..n as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            for k in [1, 2, 40, 700, n] {
                let mut candidates = Candidates::default();
                candidates.begin();
                candidates.keep_top(&logits, k);
                let ids: Vec<u32> = candidates.list(&logits).iter().map(|c| c.id).collect();
                assert_eq!(ids, order[..k.min(n)], "{n} {levels} {k}");
                // Top-p over everything sorts piece by piece: the same order again.
                candidates.begin();
                candidates.softmax(&logits);
                candidates.keep_mass(2.0, 0);
                let ids: Vec<u32> = candidates.list(&logits).iter().map(|c| c.id).collect();
                assert_eq!(ids, order);
            }
        }
    }
}

/// Chi-square of the final draw against the distribution it is drawn from.
#[test]
fn draws_follow_the_distribution() {
    const N: usize = 20_000;
    for (seed, choice) in [(0, 0), (7, 0), (7, 3), (u64::MAX, 1)] {
        for temperature in [0.7, 1.0, 1.8] {
            let params =
                SamplingParams { temperature, min_p: 0.0, top_p: 1.0, seed, ..SamplingParams::default() };
            let logits: Vec<f32> = (0..12).map(|i| (i * 5 % 12) as f32 * 0.3).collect();
            let mut sampler = Sampler::new(params, DryBreakers::default(), choice);
            let expected = sampler.distribution(&mut logits.clone(), 0);
            let mut counts = [0u32; 12];
            for at in 0..N as u64 {
                counts[sampler.sample(&mut logits.clone(), at).0 as usize] += 1;
            }
            let chi: f64 = expected
                .iter()
                .map(|(t, p)| {
                    let wanted = f64::from(*p) * N as f64;
                    (f64::from(counts[t.0 as usize]) - wanted).powi(2) / wanted
                })
                .sum();
            // 11 degrees of freedom: above 31.3 once in a thousand.
            assert!(chi < 31.3, "seed {seed}, choice {choice}, temperature {temperature}: {chi}");
        }
    }
}

#[test]
fn sampling_keeps_no_hidden_state() {
    let params = SamplingParams {
        temperature: 1.5,
        seed: 3,
        mirostat: Some(Mirostat { version: 2, tau: 3.0, eta: 0.3 }),
        ..SamplingParams::default()
    };
    let logits: Vec<f32> = (0..50).map(|i| (i * 17 % 50) as f32 * 0.1).collect();
    let mut sampler = Sampler::new(params, DryBreakers::default(), 0);
    let first = sampler.sample(&mut logits.clone(), 10);
    // Looking again, or at another place, changes nothing.
    sampler.sample(&mut logits.clone(), 11);
    assert_eq!(sampler.sample(&mut logits.clone(), 10), first);
    let mu = sampler.mu;
    sampler.accept(first);
    assert_ne!(sampler.mu, mu);
}

#[test]
fn mirostat_finds_its_surprise() {
    let logits: Vec<f32> = (0..2000).map(|i| -(f64::from(i) + 1.0).ln() as f32 * 1.1).collect();
    for version in [1, 2] {
        let params = SamplingParams {
            temperature: 1.0,
            mirostat: Some(Mirostat { version, tau: 4.0, eta: 0.1 }),
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params, DryBreakers::default(), 0);
        let mut surprise = 0.0;
        for at in 0..2000 {
            let token = sampler.sample(&mut logits.clone(), at);
            if at >= 1000 {
                let p = sampler
                    .candidates
                    .list(&logits)
                    .iter()
                    .find(|c| c.id == token.0)
                    .expect("it was drawn")
                    .p;
                surprise -= p.log2() / 1000.0;
            }
            sampler.accept(token);
        }
        assert!((surprise - 4.0).abs() < 0.35, "version {version}: {surprise}");
    }
}

#[test]
fn dry_reaches_the_logits() {
    let params = SamplingParams { dry_multiplier: 1.0, temperature: 0.0, ..SamplingParams::default() };
    let mut sampler = Sampler::new(params, DryBreakers::default(), 0);
    [1, 2, 3, 4, 1, 2, 3].into_iter().for_each(|t| sampler.accept(TokenId(t)));
    assert_eq!(sampler.sample(&mut [0.0, 0.0, 0.0, 0.0, 1.0, 0.5], 7).0, 5);
}

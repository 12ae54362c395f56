use ingle_chat::Sampling;
use ingle_step::TokenId;

use super::*;

fn record() -> Record {
    let choice = |text: &str, tokens: &[(u32, u32)]| RecordedChoice {
        text: text.into(),
        finish_reason: Some("stop".into()),
        tokens: tokens.to_vec(),
        ..RecordedChoice::default()
    };
    let sampling = Sampling {
        seed: Some(u64::MAX),
        temperature: Some(0.1),
        logit_bias: vec![(TokenId(3), f32::NEG_INFINITY), (TokenId(4), 0.1)],
        context_shift: Some(true),
        n_keep: Some(-1),
        order: Some(ingle_step::SamplerKind::DEFAULT_ORDER.to_vec()),
        ..Sampling::default()
    };
    Record {
        id: "chatcmpl-1".into(),
        route: "/v1/chat/completions".into(),
        dialect: "openai".into(),
        body: "{\"messages\": [ ]}".into(),
        adapters: vec![RecordedAdapter { name: "sql".into(), digest: "d".repeat(64), scale: -0.1 }],
        outcome: Outcome::Finished,
        answers: vec![RecordedAnswer {
            prompt_tokens: 7,
            sampling: RecordedSampling::from(&sampling),
            choices: vec![choice("né", &[(1, 10), (2, 20)]), choice("b", &[(3, 30)])],
            usage: None,
        }],
        ..Record::default()
    }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let text = record().to_text();
    assert_eq!(Record::parse(&text).unwrap(), record());
    let value: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(value["record"]["route"], "/v1/chat/completions");
    let sampling = record().answers[0].sampling.to_sampling().unwrap();
    assert_eq!((sampling.seed, sampling.temperature), (Some(u64::MAX), Some(0.1)));
    assert_eq!(sampling.logit_bias, [(TokenId(3), f32::NEG_INFINITY), (TokenId(4), 0.1)]);
    assert_eq!(sampling.order.unwrap(), ingle_step::SamplerKind::DEFAULT_ORDER);
}

#[test]
fn floats_keep_their_bits() {
    for i in 0..200_000u32 {
        let x = f32::from_bits(i.wrapping_mul(0x9E37_79B1) & 0x7FFF_FFFF);
        if x.is_finite() {
            let sampling = Sampling { temperature: Some(x), ..Sampling::default() };
            let text = serde_json::to_string(&RecordedSampling::from(&sampling)).unwrap();
            let read: RecordedSampling = serde_json::from_str(&text).unwrap();
            assert_eq!(read.temperature.map(f32::to_bits), Some(x.to_bits()), "{text}");
        }
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_seen() {
    let text = record().to_text();
    // The brace and the newline at the end are no part of what counts.
    for n in 0..text.len() - 2 {
        let Some(cut) = text.get(..n) else { continue };
        assert!(Record::parse(cut).is_err(), "{n}");
    }
    for i in 0..text.len() - 2 {
        let mut bytes = text.clone().into_bytes();
        bytes[i] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        assert!(Record::parse(&changed).is_err(), "byte {i}");
    }
    let newer = text.replace("{\"ingle_record\":1", "{\"ingle_record\":2");
    assert!(matches!(Record::parse(&newer), Err(RecordError::Version { .. })));
    assert_eq!(Record::parse("{\"messages\": []}"), Err(RecordError::NoRecord));
}

fn check(change: impl FnOnce(&mut Record), expected: Option<Difference>) {
    let mut other = record();
    change(&mut other);
    assert_eq!(compare(&record(), &other), expected);
}

#[test]
fn the_first_difference_is_found() {
    let found = |choice, place, context: &[u32]| {
        Some(Difference { prompt: 0, choice, place, context: context.to_vec() })
    };
    let answer = |record: &mut Record, f: fn(&mut RecordedAnswer)| f(&mut record.answers[0]);
    check(|_| {}, None);
    check(
        |r| answer(r, |a| a.choices[0].tokens[1].0 = 9),
        found(0, Place::Token { position: 1, tokens: [Some(2), Some(9)] }, &[1]),
    );
    check(
        |r| answer(r, |a| a.choices[1].tokens[0].1 ^= 1),
        found(1, Place::Logprob { position: 0, token: 3, bits: [30, 31] }, &[]),
    );
    check(
        |r| answer(r, |a| a.choices[0].tokens.push((5, 50))),
        found(0, Place::Token { position: 2, tokens: [None, Some(5)] }, &[1, 2]),
    );
    let texts = ["é".into(), "è".into()];
    check(
        |r| answer(r, |a| a.choices[0].text = "nè".into()),
        found(0, Place::Text { what: "text", byte: 1, texts }, &[]),
    );
    check(
        |r| answer(r, |a| a.prompt_tokens = 8),
        found(0, Place::Count { what: "tokens of the prompt", counts: [7, 8] }, &[]),
    );
    // What is measured is not compared.
    check(
        |r| answer(r, |a| a.usage = Some(RecordedUsage { cached_tokens: 5, ..RecordedUsage::default() })),
        None,
    );
}

#[test]
fn of_an_unfinished_request_the_beginning_counts() {
    let mut cut = record();
    cut.outcome = Outcome::Failed("a step failed".into());
    let choice = &mut cut.answers[0].choices[0];
    (choice.tokens, choice.text, choice.finish_reason) = (vec![(1, 10)], "n".into(), None);
    assert_eq!(compare(&cut, &record()), None);
    cut.answers[0].choices[0].tokens[0].0 = 4;
    assert!(compare(&cut, &record()).is_some());
}

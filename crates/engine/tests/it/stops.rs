//! Stop strings, however tokens cut them: the answer ends exactly before them, and nothing of them leaks.

use std::collections::BTreeSet;
use std::sync::Arc;

use ingle_chat::{Event, FinishReason, Request};
use ingle_engine::Frontend;
use ingle_engine::output::Answer;
use ingle_step::TokenId;
use ingle_testkit::bytes::{EOS, N_VOCAB, byte, metadata_with};
use ingle_testkit::rng::Rng;
use ingle_tokenizer::Tokenizer;

use crate::client::{completion, frontend};

/// A frontend whose vocabulary has all runs of characters of these texts as tokens, next to the bytes.
fn with_pieces(texts: &[&str]) -> (Frontend, Vec<String>) {
    let mut pieces = BTreeSet::new();
    for text in texts {
        let starts: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
        for (i, from) in starts.iter().enumerate() {
            pieces.extend(starts[i + 1..].iter().map(|to| text[*from..*to].to_owned()));
        }
    }
    let pieces: Vec<String> = pieces.into_iter().collect();
    let normal: Vec<(&str, i32)> = pieces.iter().map(|piece| (piece.as_str(), 1)).collect();
    let tokenizer = Arc::new(Tokenizer::from_metadata(&metadata_with(&normal)).expect("a valid vocabulary"));
    let mut frontend = Frontend { tokenizer: tokenizer.clone(), ..frontend(4096) };
    frontend.model.n_vocab = tokenizer.n_vocab();
    (frontend, pieces)
}

/// What a client reads, piece by piece, of a model that says these tokens and then ends.
fn say(frontend: &Frontend, tokens: &[TokenId], stop: &[&str]) -> (Vec<String>, FinishReason) {
    let stop = stop.iter().map(|s| (*s).to_owned()).collect();
    let request = Request { stop, max_tokens: Some(1000), ..completion("x") };
    let prepared = frontend.prepare(&request, 4096).expect("valid");
    let mut answer = Answer::new(prepared, frontend.tokenizer.clone(), Arc::from([EOS]));
    let (mut scratch, mut events) = (Vec::new(), Vec::new());
    for (position, token) in tokens.iter().chain([&EOS]).enumerate() {
        let mut logits = vec![0.0; frontend.tokenizer.n_vocab()];
        logits[token.0 as usize] = 20.0;
        let (_, done) = answer.sample(0, &logits, position, &mut scratch, &mut events).expect("no format");
        if done {
            break;
        }
    }
    let mut pieces = Vec::new();
    let mut finish = None;
    for event in events {
        match event {
            Event::Text { text, .. } => pieces.push(text),
            Event::Finished(reason) => finish = Some(reason),
            _ => {}
        }
    }
    (pieces, finish.expect("it ends"))
}

/// The text before the first stop string to be complete, the longest of those that end together.
fn cut<'a>(text: &str, stops: &[&'a str]) -> (String, Option<&'a str>) {
    for end in 0..=text.len() {
        let complete = stops.iter().filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()));
        if let Some(stop) = complete.max_by_key(|s| s.len()) {
            return (text[..end - stop.len()].to_owned(), Some(stop));
        }
    }
    (text.to_owned(), None)
}

fn check(frontend: &Frontend, tokens: &[TokenId], text: &str, stops: &[&str]) {
    let (expected, stop) = cut(text, stops);
    let (pieces, finish) = say(frontend, tokens, stops);
    let context = || format!("{stops:?} in {text:?}, said as {tokens:?}");
    assert_eq!(pieces.concat(), expected, "{}", context());
    assert_eq!(finish, FinishReason::Stop { matched: stop.map(str::to_owned) }, "{}", context());
}

/// Every way to say a text with the pieces of the vocabulary.
fn ways(text: &str, pieces: &[String], most: usize) -> Vec<Vec<TokenId>> {
    let id = |piece: &str| pieces.iter().position(|p| p == piece).map(|i| TokenId((N_VOCAB + i) as u32));
    let mut ways = Vec::new();
    let mut open: Vec<(usize, Vec<TokenId>)> = vec![(0, Vec::new())];
    while let Some((at, said)) = open.pop() {
        if at == text.len() {
            ways.push(said);
            continue;
        }
        if ways.len() + open.len() > most {
            continue;
        }
        let ends = text[at..].char_indices().map(|(i, c)| at + i + c.len_utf8());
        for end in ends {
            if let Some(token) = id(&text[at..end]) {
                open.push((end, [&said[..], &[token]].concat()));
            }
        }
    }
    ways
}

#[test]
fn every_way_to_say_it() {
    for (text, stops) in [
        ("one END two", &["END"][..]),
        ("aaab!", &["aab"]),
        ("ababab", &["abab", "bab"]),
        ("終わ終わり", &["終わり", "り"]),
        ("é🙂é", &["🙂"]),
        ("x\n\ny", &["\n\n", "\n"]),
        ("almost en", &["end"]),
    ] {
        let (frontend, pieces) = with_pieces(&[text]);
        let all = ways(text, &pieces, 600);
        assert!(all.len() > 3, "{text:?}: {}", all.len());
        for tokens in &all {
            check(&frontend, tokens, text, stops);
        }
        // Byte by byte, so that characters are cut, too.
        let bytes: Vec<TokenId> = text.bytes().map(byte).collect();
        check(&frontend, &bytes, text, stops);
    }
}

#[test]
fn two_hundred_stop_strings() {
    let mut rng = Rng::new(13);
    let letters = ["a", "b", "é", "り", "🙂", "\n"];
    let word = |rng: &mut Rng, n_max: usize| -> String {
        (0..1 + rng.below(n_max)).map(|_| letters[rng.below(letters.len())]).collect()
    };
    for _ in 0..200 {
        let stop = word(&mut rng, 4);
        let text = format!("{}{stop}{}", word(&mut rng, 5), word(&mut rng, 3));
        let (frontend, pieces) = with_pieces(&[&text]);
        let other = word(&mut rng, 3);
        let stops = [stop.as_str(), other.as_str()];
        for tokens in ways(&text, &pieces, 40) {
            check(&frontend, &tokens, &text, &stops);
        }
    }
}

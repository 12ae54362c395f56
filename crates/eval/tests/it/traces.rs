//! Files of requests.

use ingle_api::client::{Input, Speaker};
use ingle_eval::load::trace::{LINE_BYTES_MAX, Recorded, Trace};

use crate::scripted::{texts, words};

fn read(text: &str) -> Result<Trace, String> {
    Recorded::read(text.as_bytes(), 16).map(Trace::Recorded)
}

/// Inputs and lengths of each session's turns.
fn sessions(text: &str) -> Vec<Vec<(Input, u32)>> {
    let trace = read(text).expect("it can be read");
    let of = |i| trace.session(i, 1, 0, &texts());
    let turns =
        (0..).map_while(of).map(|s| s.turns.into_iter().map(|t| (t.input, t.output_tokens)).collect());
    turns.collect()
}

fn user(text: &str) -> Input {
    Input::Messages(vec![(Speaker::User, text.into())])
}

#[test]
fn lines_are_requests() {
    let found = sessions(
        r#"{"prompt": "a"}

        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "output_tokens": 3, "session": "x"}
        {"prompt": "b", "session": "y"}
        {"prompt": "c", "session": "x"}"#,
    );
    let talk = Input::Messages(vec![(Speaker::System, "s".into()), (Speaker::User, "u".into())]);
    let expected = [vec![(user("a"), 16)], vec![(talk, 3), (user("c"), 16)], vec![(user("b"), 16)]];
    assert_eq!(found, expected);
    let gap = Input::Gap { prefix: "a".into(), suffix: "b".into() };
    assert_eq!(sessions(r#"{"prompt": "a", "suffix": "b"}"#), [vec![(gap, 16)]]);
    assert!(read(r#"{"prompt": "a", "suffix": "b"}"#).unwrap().is_infill());
    // Sessions in the order of their times.
    let found = sessions("{\"timestamp\": 2, \"prompt\": \"b\"}\n{\"timestamp\": 1.5, \"prompt\": \"a\"}");
    assert_eq!(found, [vec![(user("a"), 16)], vec![(user("b"), 16)]]);
}

#[test]
fn texts_are_made_where_only_lengths_are_known() {
    let line = r#"{"prompt_tokens": 100, "prefix": "p", "prefix_tokens": 60}"#;
    let other = r#"{"prompt_tokens": 80, "prefix": "p", "prefix_tokens": 60}"#;
    let found = sessions(&[line, other, r#"{"prompt_tokens": 50}"#].join("\n"));
    let text = |i: usize| match &found[i][0].0 {
        Input::Messages(messages) => messages[0].1.clone(),
        Input::Gap { .. } => panic!("no gap"),
    };
    assert_eq!([0, 1, 2].map(|i| words(&text(i)) + 3), [100, 80, 50]);
    let prefix = |i: usize| text(i).split_whitespace().take(57).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(prefix(0), prefix(1));
    assert_ne!(text(0).split_whitespace().nth(57), text(2).split_whitespace().nth(57));
    assert_ne!(prefix(0)[..40], text(2).split_whitespace().map(str::to_owned).collect::<Vec<_>>()[..40]);
}

#[test]
fn faults_are_told_with_their_line() {
    let check = |text: &str, part: &str| {
        let error = read(text).expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    };
    check("", "no request");
    check("{\"prompt\": \"a\"}\n[1]", "line 2: it is no JSON object");
    check("{\"prompt\": \"a\"", "line 1: it is no JSON object");
    check(r#"{"prompt": 1}"#, "`prompt` must be text");
    check(r#"{}"#, "one of `prompt`, `messages` and `prompt_tokens`");
    check(r#"{"prompt": "a", "prompt_tokens": 3}"#, "one of `prompt`, `messages` and `prompt_tokens`");
    check(r#"{"prompt": "a", "temperature": 1}"#, "`temperature` is no field of a trace");
    check(r#"{"prompt": "a", "output_tokens": 0}"#, "`output_tokens` must be a number from 1");
    check(r#"{"prompt": "a", "timestamp": -1}"#, "`timestamp` must be seconds");
    check(r#"{"messages": []}"#, "`messages` must be a list");
    check(r#"{"messages": [{"role": "robot", "content": "a"}]}"#, "`messages` must be a list");
    check(r#"{"messages": [{"role": "user", "content": "a", "name": "b"}]}"#, "`messages` must be a list");
    check(r#"{"prompt_tokens": 5, "suffix": "a"}"#, "`suffix` stands beside `prompt`");
    check(r#"{"prompt_tokens": 5, "prefix": "a"}"#, "stand together");
    check(r#"{"prompt_tokens": 5, "prefix": "a", "prefix_tokens": 5}"#, "below `prompt_tokens`");
    check(r#"{"prompt": "a", "prefix": "a"}"#, "stand beside `prompt_tokens`");
    check(
        "{\"prompt\": \"a\"}\n{\"prompt\": \"a\", \"timestamp\": 1}",
        "line 2: `timestamp` must be on every line",
    );
    check(
        "{\"prompt\": \"a\"}\n{\"prompt\": \"a\", \"suffix\": \"b\"}",
        "line 2: `suffix` must be on every line",
    );
    check(r#"{"prompt": "a", "suffix": "b", "session": "s"}"#, "gaps have no turns");
    let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(LINE_BYTES_MAX));
    let error = read(&long).expect_err("a long line");
    assert!(error.contains("line 1: it has more than"), "{error}");
}

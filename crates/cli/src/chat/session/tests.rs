//! What a session knows and does without a terminal.

use ingle_chat::Usage;

use super::*;

fn session(settings: Settings) -> Session {
    let loaded = run::load(&settings).expect("the shipped model");
    Session::new(loaded, settings, Interrupt::default())
}

/// How full the context is, is known after everything that changes the conversation, not only after whole answers.
#[test]
fn the_context_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut session = session(Settings::default());
    assert_eq!(session.used, 0);
    let text = "A text of several words, more than a few. ".repeat(10);
    session.messages.push(Message::text(Role::User, "Go on."));
    // An answer that was stopped says nothing of its tokens.
    session.take_in(Answered { text: text.clone(), ..Answered::default() });
    let stopped = session.used;
    assert!(stopped > 50 && session.hint().contains("% full"), "{stopped}");
    let file = folder.path().join("chat.json");
    let file = file.to_str().expect("UTF-8");
    session.save(file).expect("written");
    session.clear();
    assert_eq!(session.used, 0);
    session.load(file).expect("read");
    assert_eq!(session.used, stopped);
    session.set_system(Some("Be brief, and say no more than there is to be said.".into()));
    assert!(session.used > stopped);
    session.undo().expect("there is a question");
    assert!(session.used > 0 && session.used < stopped);
    // An answer that came to its end has counted itself.
    let usage = Usage { prompt_tokens: 40, completion_tokens: 2, ..Usage::default() };
    session.messages.push(Message::text(Role::User, "Go on."));
    session.take_in(Answered { text, usage: Some(usage), ..Answered::default() });
    assert_eq!(session.used, 42);
}

/// What `/set parameter` says is a bound; what the command line says is what is wanted.
#[test]
fn num_predict_is_a_bound() {
    let mut said = session(Settings { max_tokens: Some(100_000), ..Settings::default() });
    assert_eq!(said.limit(), Limit::Exact);
    said.set_parameter("num_predict".into(), "200000".into()).expect("set");
    assert_eq!(said.limit(), Limit::AtMost);
    said.messages.push(Message::text(Role::User, "Hello."));
    let mut generation = said.generation();
    configure(generation.request_mut(), &said.effective()).expect("valid");
    assert_eq!(generation.request_mut().max_tokens, Some(200_000));
    for (limit, asked, shifts, expected) in [
        (Limit::Exact, 200_000, None, Some(200_000)),
        (Limit::AtMost, 200_000, None, None),
        (Limit::AtMost, 200_000, Some(true), Some(200_000)),
        (Limit::AtMost, 5, None, Some(5)),
    ] {
        let mut generation = said.generation();
        let request = generation.request_mut();
        (request.max_tokens, request.sampling.context_shift) = (Some(asked), shifts);
        limit.apply(said.engine(), request);
        assert_eq!(request.max_tokens, expected, "{limit:?} {asked} {shifts:?}");
    }
    assert_eq!(session(Settings::default()).limit(), Limit::AtMost, "a model's own");
}

//! Repositories of Hugging Face's hub.

use ingle_egress::Policy;
use ingle_store::pull::{Event, PullError};
use ingle_store::{Template, annotation};
use ingle_testkit::shards::shards;

use super::{Bench, CHUNK, model, parse};

const REPO: &str = "maker/tiny-GGUF";

#[tokio::test]
async fn a_quantization_with_all_that_belongs_to_it() {
    let mut bench = Bench::new();
    let (small, large) = (model(1, 100_000), model(2, 1_000_000));
    let projector = model(3, 1000);
    let files: &[(&str, &[u8])] = &[
        ("README.md", b"# tiny"),
        ("LICENSE", b"Do what you like."),
        ("chat_template.jinja", b"{{ messages[0].content }}"),
        ("params", br#"{"temperature":0.5,"stop":["END"]}"#),
        ("system", b"Be brief."),
        ("tiny-Q2_K.gguf", &small),
        ("tiny-Q4_K_M.gguf", &large),
        ("mmproj-tiny-F16.gguf", &projector),
    ];
    let commit = bench.hub.commit(REPO, files);
    bench.login(&bench.hub.url(), "hf_tester");
    let events = bench.events("hf.co/maker/tiny-GGUF").await;
    assert_eq!(bench.model_bytes("hf.co/maker/tiny-GGUF"), large);
    let installed = bench.installed("hf.co/maker/tiny-GGUF").unwrap();
    assert_eq!(installed.projector.map(|path| std::fs::read(path).unwrap()), Some(projector));
    assert_eq!(installed.licenses, ["Do what you like."]);
    assert_eq!(installed.system.as_deref(), Some("Be brief."));
    assert!(matches!(installed.template, Some(Template::Jinja(text)) if text == "{{ messages[0].content }}"));
    let manifest = bench.store().manifest(&"hf.co/maker/tiny-GGUF:latest".parse().unwrap()).unwrap().unwrap();
    assert_eq!(manifest.annotations.get(annotation::REVISION), Some(&commit));
    assert_eq!(
        manifest.annotations.get(annotation::SOURCE).map(String::as_str),
        Some("hf.co/maker/tiny-GGUF")
    );
    assert!(manifest.annotations[annotation::PULLED].starts_with("20"));
    // What is told: in Ollama's words, with counts that only grow and end at the whole.
    let statuses: Vec<&str> = events
        .iter()
        .filter_map(|e| if let Event::Status(text) = e { Some(&**text) } else { None })
        .collect();
    assert_eq!((statuses[0], *statuses.last().unwrap()), ("pulling manifest", "success"));
    let counts: Vec<(u64, u64)> = events
        .iter()
        .filter_map(|e| match e {
            Event::Progress { file, done, total, .. } if file == "tiny-Q4_K_M.gguf" => Some((*done, *total)),
            _ => None,
        })
        .collect();
    assert!(counts.is_sorted() && counts.iter().all(|(_, total)| *total == large.len() as u64));
    assert_eq!(counts.last().map(|(done, _)| *done), Some(large.len() as u64));
    // The token stays at the hub, and each chunk was asked for once.
    assert!(
        bench.hub.server().requests().iter().all(|r| r.header("authorization") == Some("Bearer hf_tester"))
    );
    assert!(bench.hub.cdn().requests().iter().all(|r| r.header("authorization").is_none()));
    let path = ingle_testkit::hub::digest(&large).replace("sha256:", "/lfs/");
    let ranges = bench.hub.cdn().requests().iter().filter(|r| r.path == path).count() as u64;
    assert_eq!(ranges, (large.len() as u64).div_ceil(CHUNK));
    // Not each chunk begins at the hub: the place where it sends is remembered.
    let resolved = bench.hub.server().requests().iter().filter(|r| r.path.ends_with("Q4_K_M.gguf")).count();
    assert!(resolved <= 4, "{resolved} streams asked the hub");
}

#[tokio::test]
async fn names_revisions_and_parts() {
    let bench = Bench::new();
    let (first, second) = (model(1, 1000), model(2, 1000));
    let [part1, part2] = shards(&model(3, 1000), 2).try_into().expect("two parts");
    let old = bench.hub.commit(REPO, &[("a-Q8_0.gguf", &first)]);
    bench.hub.commit(
        REPO,
        &[
            ("a-Q8_0.gguf", &second),
            ("big/x-BF16-00001-of-00002.gguf", &part1),
            ("big/x-BF16-00002-of-00002.gguf", &part2),
        ],
    );
    let check = async |reference: &str, expected: &[&Vec<u8>]| {
        bench.pull(reference).await.unwrap_or_else(|error| panic!("{reference}: {error}"));
        let files = bench.installed(reference).unwrap().model;
        let found: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(found.iter().eq(expected.iter().copied()), "{reference}");
    };
    check("hf.co/maker/tiny-GGUF:q8_0", &[&second]).await;
    check("hf.co/maker/tiny-GGUF:BF16", &[&part1, &part2]).await;
    check("https://huggingface.co/maker/tiny-GGUF/blob/main/a-Q8_0.gguf", &[&second]).await;
    let other = Bench { hub: bench.hub, ..Bench::new() };
    other.pull(&format!("hf.co/maker/tiny-GGUF@{old}:Q8_0")).await.unwrap();
    assert_eq!(other.model_bytes("hf.co/maker/tiny-GGUF:Q8_0"), first);
}

#[tokio::test]
async fn what_is_not_there_is_said_clearly() {
    let bench = Bench::new();
    bench.hub.commit(REPO, &[("a-Q8_0.gguf", &model(1, 1000)), ("a-Q4_0.gguf", &model(2, 1000))]);
    bench.hub.commit("maker/none", &[("model.safetensors", b"x")]);
    bench.hub.commit("maker/not-gguf", &[("a-Q4_0.gguf", b"this is no model at all")]);
    for (reference, part) in [
        ("hf.co/maker/absent", "the repository maker/absent is not there"),
        ("hf.co/maker/tiny-GGUF:Q5_0", "it has Q4_0, Q8_0"),
        ("hf.co/maker/tiny-GGUF/other.gguf", "file other.gguf"),
        ("hf.co/maker/tiny-GGUF@v9:Q8_0", "revision v9"),
        ("hf.co/maker/none", "no GGUF file"),
        ("hf.co/maker/not-gguf", "not a model"),
        ("./here.gguf", "nothing to pull"),
    ] {
        let error = bench.pull(reference).await.unwrap_err().to_string();
        assert!(error.contains(part), "{reference}: {error}");
        assert!(!reference.contains("hf.co") || bench.installed(reference).is_none());
    }
    assert!(bench.store().list().unwrap().is_empty());
}

#[tokio::test]
async fn gated_repositories_take_the_token_of_their_hub() {
    let mut bench = Bench::new();
    let bytes = model(1, 200_000);
    bench.hub.commit(REPO, &[("a-Q4_K_M.gguf", &bytes)]);
    bench.hub.gate(REPO, "hf_right");
    let reference = "hf.co/maker/tiny-GGUF:Q4_K_M";
    let error = bench.pull(reference).await.unwrap_err().to_string();
    assert!(error.contains("ingle login http://127.0.0.1") && error.contains("restricted"), "{error}");
    bench.login(&bench.hub.url(), "hf_wrong");
    assert!(matches!(bench.pull(reference).await, Err(PullError::Unauthorized { .. })));
    // The right one for another origin is not shown here.
    let elsewhere = Bench { hub: bench.hub, ..Bench::new() };
    let mut bench = elsewhere;
    bench.login("https://huggingface.co", "hf_right");
    bench.hub.take_requests();
    assert!(matches!(bench.pull(reference).await, Err(PullError::Unauthorized { .. })));
    assert!(bench.hub.take_requests().iter().all(|r| !r.text().contains("hf_right")));
    bench.login(&bench.hub.url(), "hf_right");
    bench.pull(reference).await.unwrap();
    assert_eq!(bench.model_bytes(reference), bytes);
    assert!(bench.hub.cdn().requests().iter().all(|r| !r.text().contains("hf_right")));
}

#[tokio::test]
async fn offline_nothing_is_asked() {
    let mut bench = Bench::new();
    bench.policy = Policy { offline: true, ..bench.policy };
    let error = bench.pull("hf.co/maker/tiny-GGUF").await.unwrap_err().to_string();
    assert!(error.contains("offline"), "{error}");
    assert!(bench.hub.take_requests().is_empty());
}

#[tokio::test]
async fn a_hub_of_this_site_needs_to_be_allowed_and_so_does_its_cdn() {
    let mut bench = Bench::new();
    bench.hub.commit(REPO, &[("a.gguf", &model(1, 1000))]);
    bench.policy = Policy::default();
    let error = bench.pull("hf.co/maker/tiny-GGUF").await.unwrap_err().to_string();
    assert!(error.contains("--private-host"), "{error}");
    // Allowed for the hub alone: its CDN is another port.
    let rule = ingle_egress::HostRule::parse(&bench.hub.authority()).unwrap();
    bench.policy = Policy { private: vec![(None, rule)], ..Policy::default() };
    let error = bench.pull("hf.co/maker/tiny-GGUF").await.unwrap_err().to_string();
    assert!(error.contains("--private-host"), "{error}");
    assert!(bench.hub.cdn().requests().is_empty());
}

#[tokio::test]
async fn addresses_of_files() {
    let mut bench = Bench::new();
    let bytes = model(1, 500_000);
    let served = bytes.clone();
    let server = ingle_testkit::http::Server::start(move |request| {
        let reply = ingle_testkit::http::Reply::new(200, "x/y", served.clone()).with("ETag", "\"v1\"");
        match request.range(served.len() as u64) {
            Some(Ok((start, end))) => {
                ingle_testkit::http::Reply { status: 206, part: Some((start, end)), ..reply }
                    .with("Content-Range", format!("bytes {start}-{}/{}", end - 1, served.len()))
            }
            _ => reply,
        }
    });
    let url = format!("{}/models/My%20Model.gguf?sig=s3cret", server.url());
    bench.login(&server.url(), "token");
    let pulled = bench.pull(&url).await.unwrap();
    assert_eq!(pulled.fetched, bytes.len() as u64);
    let manifest = bench.store().manifest(&pulled.name).unwrap().unwrap();
    assert!(!String::from_utf8(manifest.to_bytes()).unwrap().contains("s3cret"));
    assert_eq!(bench.model_bytes(&url), bytes);
    // The same version is not fetched again.
    server.take_requests();
    assert_eq!(bench.pull(&url).await.unwrap().fetched, 0);
    assert_eq!(server.take_requests().len(), 2);
    let _ = parse(&url);

    // What is no model is told by its first bytes, and not fetched.
    let page = ingle_testkit::http::Server::start(|request| {
        let body = b"<html>".repeat(100_000);
        let (start, end) = request.range(600_000).and_then(Result::ok).unwrap_or((0, 600_000));
        ingle_testkit::http::Reply {
            status: 206,
            part: Some((start, end)),
            ..ingle_testkit::http::Reply::new(206, "x/y", body)
        }
        .with("Content-Range", format!("bytes {start}-{}/600000", end - 1))
    });
    let error =
        bench.pull(&format!("{}/page.gguf", page.url())).await.map(drop).expect_err("no model").to_string();
    assert!(error.contains("page.gguf") && error.contains("does not begin as a GGUF file"), "{error}");
    assert_eq!(page.take_requests().len(), 2);
}

/// What no manifest can hold is refused before it is fetched: nothing could be removed beside a manifest that cannot be
/// read.
#[tokio::test]
async fn what_cannot_be_written_down_is_refused_at_once() {
    let bench = Bench::new();
    let bytes = model(1, 1000);
    bench.hub.commit("maker/long-GGUF", &[(&format!("{}-Q4_K_M.gguf", "x".repeat(5000)), &bytes)]);
    bench.hub.commit("maker/wordy-GGUF", &[("a-Q4_K_M.gguf", &bytes)]);
    bench.hub.license("maker/wordy-GGUF", &"x".repeat(2 << 20));
    let server = ingle_testkit::http::Server::start(move |_| {
        ingle_testkit::http::Reply::new(200, "x/y", bytes.clone())
            .with("ETag", format!("\"{}\"", "x".repeat(5000)))
    });
    for (reference, part) in [
        ("hf.co/maker/long-GGUF:Q4_K_M".to_owned(), "`dev.ingle.file` has 5012 bytes"),
        ("hf.co/maker/wordy-GGUF:Q4_K_M".to_owned(), "1048576 are the most of a text"),
        (format!("{}/x.gguf", server.url()), "`dev.ingle.version` has 5002 bytes"),
        (format!("{}/{}/x.gguf", server.url(), "é".repeat(900)), "are the most of an address"),
    ] {
        let error = bench.pull(&reference).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(bench.hub.cdn().requests().is_empty());
    // What the file is, and how it begins.
    assert_eq!(server.requests().len(), 2);
    assert!(bench.store().prune(true).unwrap().unreadable.is_empty());
}

/// Files beside the model that have the names of its texts and are something else do not make it one that cannot be loaded.
#[tokio::test]
async fn texts_that_are_none_are_left_out() {
    let bench = Bench::new();
    let files: &[(&str, &[u8])] = &[
        ("tiny-Q4_K_M.gguf", &model(1, 1000)),
        ("params", b"learning_rate = 1e-4"),
        ("system", b"\x7fELF\x02\xff"),
        ("template", b"{{ if .Prompt }}"),
        ("chat_template.jinja", b"{% for"),
        ("LICENSE", b"\xa9 somebody"),
        ("LICENSE.md", b"Do what you like."),
    ];
    bench.hub.commit(REPO, files);
    let events = bench.events("hf.co/maker/tiny-GGUF").await;
    let installed = bench.installed("hf.co/maker/tiny-GGUF").expect("it can be loaded");
    assert_eq!((installed.template, installed.system), (None, None));
    assert!(installed.params.0.is_empty());
    assert_eq!(installed.licenses, ["Do what you like."]);
    for (file, why) in [
        ("params", "no JSON object"),
        ("system", "not UTF-8"),
        ("template", "no template"),
        ("chat_template.jinja", "no template"),
        ("LICENSE", "not UTF-8"),
    ] {
        let start = format!("{file} of maker/tiny-GGUF is left out: ");
        let is_told = |event: &Event| matches!(event, Event::Status(text) if text.strip_prefix(&start).is_some_and(|rest| rest.contains(why)));
        assert!(events.iter().any(is_told), "{file}: {events:?}");
    }
    assert_eq!(bench.pull("hf.co/maker/tiny-GGUF").await.unwrap().fetched, 0);
}

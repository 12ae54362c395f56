//! A model that is here, named once more: where it came from is asked, and for the same.

use std::sync::{Arc, Mutex};

use ingle_store::modelfile::Recipe;
use ingle_store::pull::{Event, PullError, PullOptions, Pulled};
use ingle_store::{Catalogue, Reference, StoreError, annotation};
use ingle_testkit::http::{Reply, Server};

use super::{Bench, model};

const REPO: &str = "maker/tiny-GGUF";

/// What a user's words mean, as every command reads them.
fn meant(bench: &Bench, text: &str) -> Reference {
    bench.store().resolve(text, &Catalogue::default()).unwrap()
}

/// Pulls what a user's words mean, and what was told.
async fn pull(bench: &Bench, text: &str, options: PullOptions) -> (Result<Pulled, PullError>, Vec<String>) {
    let told = Mutex::new(Vec::new());
    let watch = |event: &Event| {
        if let Event::Status(text) = event {
            told.lock().unwrap().push(text.to_string());
        }
    };
    let pulled = bench.puller().pull(&meant(bench, text), options, &watch).await;
    (pulled, told.into_inner().unwrap())
}

/// The hub is asked again, not a registry of its name; and what is damaged comes back, in whatever letters it is named.
#[tokio::test]
async fn of_the_hub() {
    let bench = Bench::new();
    let (first, second) = (model(1, 300_000), model(2, 300_000));
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &first), ("other.gguf", &second)]);
    for (reference, spellings) in [
        (
            "hf.co/maker/tiny-GGUF",
            ["hf.co/maker/tiny-GGUF:latest", "HF.CO/Maker/Tiny-gguf", "hf://maker/tiny-gguf"],
        ),
        (
            "hf.co/maker/tiny-GGUF:Q4_K_M",
            [
                "hf.co/maker/tiny-GGUF:Q4_K_M",
                "HF.co/maker/TINY-GGUF:q4_k_m",
                "huggingface.co/Maker/tiny-GGUF:q4_K_m",
            ],
        ),
        // The name of a file is no quantization.
        (
            "hf.co/maker/tiny-GGUF/other.gguf",
            ["hf.co/maker/tiny-GGUF:other", "hf.co/maker/tiny-gguf:OTHER", "hf://maker/tiny-GGUF:other"],
        ),
    ] {
        let mut pulled = bench.pull(reference).await.unwrap();
        let bytes = bench.model_bytes(reference);
        for text in spellings {
            assert_eq!(meant(&bench, text).to_string(), reference, "{text}");
            bench.hub.take_requests();
            let (again, told) = pull(&bench, text, PullOptions::default()).await;
            let again = again.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (&again.name, again.digest, again.fetched),
                (&pulled.name, pulled.digest, 0),
                "{text}"
            );
            assert!(told.contains(&"up to date".to_owned()), "{text}: {told:?}");
            let asked: Vec<String> = bench.hub.take_requests().into_iter().map(|r| r.path).collect();
            assert_eq!(asked, ["/api/models/maker/tiny-GGUF/revision/main"], "{text}");

            let installed = bench.store().open_model(&meant(&bench, text)).unwrap().unwrap();
            std::fs::write(&installed.model[0], &bytes[1..]).unwrap();
            let (mended, _) = pull(&bench, text, PullOptions::default()).await;
            pulled = mended.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(pulled.fetched, bytes.len() as u64, "{text}");
            assert_eq!(bench.model_bytes(reference), bytes, "{text}");
        }
    }
    assert_eq!(bench.store().list().unwrap().len(), 3);
    // A copy is somebody's own.
    let [from, to] = ["hf.co/maker/tiny-GGUF:Q4_K_M", "mine:1"].map(|name| name.parse().unwrap());
    bench.store().copy(&from, &to).unwrap();
    assert_eq!(meant(&bench, "mine:1"), Reference::Registry(to));
}

/// A model that was pulled of a revision is that one: whoever mends it by its name gets the same.
#[tokio::test]
async fn of_a_revision() {
    let bench = Bench::new();
    let (old, new) = (model(1, 300_000), model(2, 300_000));
    let commit = bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &old)]);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &new)]);
    let pinned = format!("hf.co/maker/tiny-GGUF@{commit}:Q4_K_M");
    bench.pull(&pinned).await.unwrap();
    let text = "hf.co/maker/tiny-GGUF:q4_k_m";
    assert_eq!(meant(&bench, text).to_string(), pinned);
    std::fs::remove_file(&bench.installed(&pinned).unwrap().model[0]).unwrap();
    pull(&bench, text, PullOptions::default()).await.0.unwrap();
    assert_eq!(bench.model_bytes(&pinned), old);
}

/// Who asks for another revision than the one that is here gets it or is told, and not the weights of this one.
#[tokio::test]
async fn another_revision_is_not_taken_for_it() {
    let bench = Bench::new();
    let (old, new) = (model(1, 300_000), model(2, 300_000));
    let commits = [
        bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &old)]),
        bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &new)]),
        bench.hub.commit(REPO, &[("README.md", b"new words")]),
    ];
    let at = |revision: &str| format!("hf.co/maker/tiny-GGUF@{revision}:Q4_K_M");
    let open = |text: &str| bench.store().open_model(&super::parse(text));
    bench.pull(&at(&commits[0])).await.unwrap();
    for revision in [&commits[0][..], &commits[0][..8]] {
        assert!(open(&at(revision)).unwrap().is_some(), "{revision}");
    }
    for revision in ["main", "v2", &commits[1]] {
        let error = open(&at(revision)).unwrap_err();
        assert!(matches!(error, StoreError::OtherRevision { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&commits[0]) && text.contains(&format!("pull --update {}", at(revision))),
            "{text}"
        );
        let error = Recipe::default().upon(&bench.store(), &super::parse(&at(revision)), &mut |_, _, _| {});
        assert!(matches!(error, Err(StoreError::OtherRevision { .. })));
    }
    // Nothing of the repository is of that revision: it is fetched.
    assert!(open("hf.co/maker/tiny-GGUF@v2").unwrap().is_none());
    let update = PullOptions { update: true, ..PullOptions::default() };
    let pulled = bench.pull_with(&at(&commits[1]), update).await.unwrap();
    assert_eq!(bench.model_bytes(&at(&commits[1])), new);
    // The same content of another commit: nothing comes, and it is of that one from then on.
    assert!(open(&at("main")).is_err());
    let again = bench.pull(&at("main")).await.unwrap();
    assert_eq!((again.fetched, again.replaced), (0, None));
    assert_eq!(bench.model_bytes(&at("main")), new);
    let manifest = bench.store().manifest(&again.name).unwrap().unwrap();
    assert_eq!(manifest.annotations.get(annotation::REVISION), Some(&commits[2]));
    let replaced = manifest.annotations.get("dev.ingle.replaced").cloned();
    assert_eq!(
        replaced,
        pulled.replaced.map(|digest| digest.to_string()),
        "what was replaced is not forgotten"
    );
}

/// A web server that tells no versions apart: what is here is left as long as nothing is known against it.
#[tokio::test]
async fn of_a_server_that_tells_no_versions() {
    type Headers = Option<[(&'static str, &'static str); 2]>;
    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let bench = Bench::new();
    let (old, new) = (model(1, 300_000), model(2, 300_000));
    let state = Arc::new(Mutex::new((old.clone(), None)));
    let served = state.clone();
    let server = Server::start(move |request| {
        let (bytes, headers): (Vec<u8>, Headers) = served.lock().unwrap().clone();
        let size = bytes.len();
        let reply = Reply::new(200, "x/y", bytes);
        let reply = match request.range(size as u64) {
            Some(Ok((start, end))) => Reply { status: 206, part: Some((start, end)), ..reply }
                .with("Content-Range", format!("bytes {start}-{}/{size}", end - 1)),
            _ => reply,
        };
        headers.into_iter().flatten().fold(reply, |reply, (name, value)| reply.with(name, value))
    });
    let url = format!("{}/x.gguf", server.url());
    let update = PullOptions { update: true, ..PullOptions::default() };
    let first = bench.pull(&url).await.unwrap();
    // By its address and by its name; also if the server says something new, which is of a moment ago.
    let just_now = Some([("Last-Modified", NOW), ("Date", NOW)]);
    for headers in [None, just_now, Some([("ETag", "\"v1\""), ("Date", NOW)])] {
        state.lock().unwrap().1 = headers;
        for text in [&url, &first.name.to_string()] {
            let (again, told) = pull(&bench, text, PullOptions::default()).await;
            let again = again.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((again.digest, again.fetched), (first.digest, 0), "{text}");
            assert!(told.iter().any(|text| text.contains("cannot be told")), "{told:?}");
        }
    }
    // An update fetches it, finds the same, and knows its version from then on.
    let again = bench.pull_with(&url, update).await.unwrap();
    assert_eq!((again.fetched, again.replaced, again.kept), (old.len() as u64, None, None));
    let (_, told) = pull(&bench, &url, PullOptions::default()).await;
    assert!(told.contains(&"up to date".to_owned()), "{told:?}");
    // What is damaged comes back, and another content only if it is wanted.
    *state.lock().unwrap() = (old.clone(), None);
    let path = bench.installed(&url).unwrap().model[0].clone();
    std::fs::remove_file(&path).unwrap();
    bench.pull(&url).await.unwrap();
    assert_eq!(bench.model_bytes(&url), old);
    state.lock().unwrap().0 = new.clone();
    std::fs::remove_file(&path).unwrap();
    let error = bench.pull(&url).await.unwrap_err();
    assert!(matches!(error, PullError::Changed { .. }), "{error}");
    let replaced = bench.pull_with(&url, update).await.unwrap();
    assert!(replaced.replaced.is_some());
    assert_eq!(bench.model_bytes(&url), new);
    // Another size is another content.
    state.lock().unwrap().0 = model(3, 2_000_000);
    assert!(matches!(bench.pull(&url).await, Err(PullError::Changed { .. })));
}

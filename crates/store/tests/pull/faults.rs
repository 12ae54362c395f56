//! Every fault of the hub ends in the right file or in a clear error, and the next pull completes.

use std::time::Duration;

use ingle_store::pull::PullError;
use ingle_testkit::hub::{Fault, FaultKind};

use super::{Bench, CHUNK, model};

const REPO: &str = "maker/tiny-GGUF";
const REFERENCE: &str = "hf.co/maker/tiny-GGUF:Q4_K_M";

/// What a pull through a fault comes to.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The right file all the same.
    Right,
    /// An error with these words; nothing can be seen.
    Error(&'static str),
}
use End::{Error, Right};

async fn check(fault: Fault, end: End) {
    let bench = Bench::new();
    let bytes = model(7, 700_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes), ("LICENSE", b"MIT")]);
    let shown = format!("{fault:?}");
    bench.hub.fault(fault);
    match (bench.pull(REFERENCE).await, end) {
        (Ok(_), Right) => assert_eq!(bench.model_bytes(REFERENCE), bytes, "{shown}"),
        (Err(error), Error(part)) => {
            assert!(error.to_string().contains(part), "{shown}: {error}");
            assert!(bench.installed(REFERENCE).is_none(), "{shown}");
        }
        (outcome, _) => panic!("{shown}: {outcome:?}"),
    }
    bench.check_integrity();
    bench.hub.heal();
    bench.pull(REFERENCE).await.unwrap_or_else(|error| panic!("after {shown}: {error}"));
    assert_eq!(bench.model_bytes(REFERENCE), bytes, "after {shown}");
    bench.check_integrity();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_the_origin_with_the_files() {
    let at = |kind| Fault::new("GET /lfs/", kind);
    check(at(FaultKind::Cut(10_000)), Right).await;
    check(at(FaultKind::Cut(0)).window(0, 3), Right).await;
    check(at(FaultKind::Slow(Duration::from_millis(30))), Right).await;
    check(at(FaultKind::Silent(Duration::from_secs(2))).window(2, 1), Right).await;
    check(at(FaultKind::WrongBytes).window(3, 1), Error("the content has the digest")).await;
    check(at(FaultKind::WrongBytes), Error("the content has the digest")).await;
    check(at(FaultKind::NoRanges), Right).await;
    check(at(FaultKind::NoRanges).window(4, 1), Right).await;
    check(at(FaultKind::WrongRange).window(2, 2), Right).await;
    check(at(FaultKind::OtherEtag), Right).await;
    check(at(FaultKind::WrongLength(1000)).window(1, 2), Right).await;
    check(at(FaultKind::WrongLength(-1000)).window(1, 2), Right).await;
    check(at(FaultKind::Status(429, Some(1))).window(1, 2), Right).await;
    check(at(FaultKind::Status(503, None)).window(1, 2), Right).await;
    check(at(FaultKind::Status(500, None)).window(0, 1), Right).await;
    check(at(FaultKind::Status(429, Some(4000))), Error("asks to wait 4000 s")).await;
    check(at(FaultKind::Unsatisfiable), Error("")).await;
    // Signatures run out: the hub is asked for a new one.
    check(at(FaultKind::Status(403, None)).window(4, 2), Right).await;
    check(at(FaultKind::Status(404, None)), Error("not there")).await;
    check(at(FaultKind::Loop), Error("more than 10 times")).await;
    check(at(FaultKind::Redirect(302, "https://169.254.169.254/x".into())), Error("metadata")).await;
    check(at(FaultKind::Redirect(302, "ftp://x/y".into())), Error("only https")).await;
    check(at(FaultKind::Redirect(302, "http://10.0.0.1/x".into())), Error("--private-host")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_the_hub_itself() {
    let at = |kind| Fault::new("GET /api/models", kind);
    check(at(FaultKind::Cut(20)).window(0, 1), Error("cannot reach")).await;
    check(at(FaultKind::Status(429, Some(1))).window(0, 1), Right).await;
    check(at(FaultKind::Status(502, None)).window(0, 2), Right).await;
    check(at(FaultKind::Silent(Duration::from_secs(2))).window(0, 1), Right).await;
    check(at(FaultKind::Status(404, None)), Error("is not there")).await;
    check(at(FaultKind::Status(403, None)), Error("ingle login")).await;
    check(at(FaultKind::Redirect(302, "http://127.0.0.1:1/".into())), Error("cannot reach 127.0.0.1:1"))
        .await;
    let at = |kind| Fault::new("/resolve/", kind);
    check(at(FaultKind::Status(500, None)).window(0, 1), Right).await;
    check(at(FaultKind::Redirect(302, "/resolve/elsewhere".into())), Error("more than 10 times")).await;
    let small = Fault::new("/LICENSE", FaultKind::Status(404, None));
    check(small, Error("404")).await;
}

/// A cut costs nothing but the rest of the chunk; a pull that was stopped is taken up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_there_is_not_fetched_again() {
    let bench = Bench::new();
    let bytes = model(7, 3_000_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes)]);
    // Each chunk takes 100 ms, so that the pull can be stopped in between.
    bench.hub.fault(Fault::new("GET /lfs/", FaultKind::Slow(Duration::from_millis(100))));
    let puller = bench.puller();
    let reference = super::parse(REFERENCE);
    let stopped = tokio::time::timeout(
        Duration::from_millis(700),
        puller.pull(&reference, Default::default(), &|_| {}),
    );
    assert!(stopped.await.is_err(), "it takes longer than that");
    drop(puller);
    bench.hub.heal();
    // What was being written when it stopped may still hold the file for a moment.
    tokio::time::sleep(Duration::from_millis(300)).await;
    bench.hub.take_requests();
    let pulled = bench.pull(REFERENCE).await.unwrap();
    assert!(pulled.fetched < bytes.len() as u64, "{} of {}", pulled.fetched, bytes.len());
    assert_eq!(bench.hub.bytes_asked(), pulled.fetched);
    assert_eq!(bench.model_bytes(REFERENCE), bytes);
    assert!(bench.hub.cdn().requests().len() as u64 <= pulled.fetched.div_ceil(CHUNK) + 1);
}

/// A file whose digest nobody knows, which is another one all of a sudden.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_changes_is_begun_again() {
    use ingle_testkit::http::{Reply, Server};
    use std::sync::atomic::{AtomicU32, Ordering};
    for (changes, settles) in [(1, true), (3, true), (u32::MAX, false)] {
        let bench = Bench::new();
        let versions = [model(1, 600_000), model(2, 600_000), model(3, 700_000)];
        let served = versions.clone();
        let asked = AtomicU32::new(0);
        let server = Server::start(move |request| {
            // Another version after each fourth answer, so often.
            let version = (asked.fetch_add(1, Ordering::SeqCst) / 4).min(changes);
            let bytes = &served[version as usize % 3];
            let (start, end) =
                request.range(bytes.len() as u64).unwrap_or(Err(())).unwrap_or((0, bytes.len() as u64));
            Reply { status: 206, part: Some((start, end)), ..Reply::new(206, "x/y", bytes.clone()) }
                .with("ETag", format!("\"v{version}\""))
                .with("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))
        });
        let url = format!("{}/x.gguf", server.url());
        match bench.pull(&url).await {
            Ok(_) => {
                assert!(settles);
                assert_eq!(
                    bench.model_bytes(&url),
                    versions[changes as usize % 3],
                    "one version, not a mixture"
                );
            }
            Err(error) => assert!(!settles && matches!(error, PullError::Unsettled(_)), "{changes}: {error}"),
        }
        bench.check_integrity();
    }
}

/// Two who pull the same at the same time fetch it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_the_same_time() {
    let bench = Bench::new();
    let bytes = model(7, 1_000_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes)]);
    bench.hub.fault(Fault::new("GET /lfs/", FaultKind::Slow(Duration::from_millis(20))));
    let (first, second) = tokio::join!(bench.pull(REFERENCE), bench.pull(REFERENCE));
    let fetched = first.unwrap().fetched + second.unwrap().fetched;
    assert_eq!(fetched, bytes.len() as u64);
    assert_eq!(bench.model_bytes(REFERENCE), bytes);
}

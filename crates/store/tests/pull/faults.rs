//! Every fault of the hub ends in the right file or in a clear error, and the next pull completes.

use std::sync::Arc;
use std::time::Duration;

use ingle_store::files::{Files, RealFiles};
use ingle_store::pull::{Network, PullError, Puller};
use ingle_store::{Store, StoreConfig};
use ingle_testkit::http::{Reply, Request, Server};
use ingle_testkit::hub::{Fault, FaultKind};
use ingle_testkit::kill::{KillingFiles, Operation};

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

/// How long the hub is silent, and how long it is waited for then.
const SILENCE: Duration = Duration::from_secs(2);
const IMPATIENCE: Duration = Duration::from_millis(700);

async fn check(fault: Fault, end: End) {
    let mut bench = Bench::new();
    if matches!(fault.kind, FaultKind::Silent(_)) {
        bench.timeout = IMPATIENCE;
    }
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
    check(at(FaultKind::Silent(SILENCE)).window(2, 1), Right).await;
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
    check(at(FaultKind::Unsatisfiable), Error("a part of the file's 700000 bytes is not in it")).await;
    check(at(FaultKind::Unsatisfiable).window(5, 1), Right).await;
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
    check(at(FaultKind::Cut(20)).window(0, 2), Right).await;
    check(at(FaultKind::Cut(20)), Error("broke before the answer was whole")).await;
    check(at(FaultKind::Status(429, Some(1))).window(0, 1), Right).await;
    check(at(FaultKind::Status(502, None)).window(0, 2), Right).await;
    check(at(FaultKind::Silent(SILENCE)).window(0, 1), Right).await;
    check(at(FaultKind::Status(404, None)), Error("is not there")).await;
    check(at(FaultKind::Status(403, None)), Error("ingle login")).await;
    check(at(FaultKind::Redirect(302, "http://127.0.0.1:1/".into())), Error("cannot reach 127.0.0.1:1"))
        .await;
    let at = |kind| Fault::new("/resolve/", kind);
    check(at(FaultKind::Status(500, None)).window(0, 1), Right).await;
    check(at(FaultKind::Redirect(302, "/resolve/elsewhere".into())), Error("more than 10 times")).await;
    check(Fault::new("/LICENSE", FaultKind::Cut(1)).window(0, 1), Right).await;
    let small = Fault::new("/LICENSE", FaultKind::Status(404, None));
    check(small, Error("404")).await;
}

/// A cut costs nothing but the rest of the chunk; a pull that was stopped is taken up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_there_is_not_fetched_again() {
    const THERE: u32 = 6;
    let bench = Bench::new();
    let bytes = model(7, 3_000_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes)]);
    // So many chunks come, and then nothing for as long as the test takes.
    let silence = FaultKind::Silent(Duration::from_secs(60));
    bench.hub.fault(Fault::new("GET /lfs/", silence).window(THERE, u32::MAX));
    let puller = bench.puller();
    let (reference, options) = (super::parse(REFERENCE), Default::default());
    let streams = bench.network().streams;
    let is_stuck = async {
        // The chunks are noted below the journal's first line, and each stream waits for one more.
        while bench.n_noted() < THERE as usize || bench.hub.cdn().requests().len() < THERE as usize + streams
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        pulled = puller.pull(&reference, options, &|_| {}) => panic!("it is stuck: {pulled:?}"),
        () = is_stuck => {}
    }
    drop(puller);
    bench.hub.heal();
    bench.hub.take_requests();
    let pulled = bench.pull(REFERENCE).await.unwrap();
    assert_eq!(pulled.fetched, bytes.len() as u64 - u64::from(THERE) * CHUNK);
    assert_eq!(bench.hub.bytes_asked(), pulled.fetched);
    assert_eq!(bench.model_bytes(REFERENCE), bytes);
    assert_eq!(bench.hub.cdn().requests().len() as u64, pulled.fetched.div_ceil(CHUNK));
}

/// A range that is refused, of a file whose digest is known, says nothing about what is there of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_range_costs_nothing_that_is_there() {
    let bench = Bench::new();
    let bytes = model(7, 1_000_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes)]);
    bench.hub.fault(Fault::new("GET /lfs/", FaultKind::Unsatisfiable).window(8, u32::MAX));
    let error = bench.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(error, PullError::Answer { .. }), "{error}");
    let n_noted = bench.n_noted() as u64;
    assert!(n_noted > 0);
    bench.hub.heal();
    let pulled = bench.pull(REFERENCE).await.unwrap();
    assert_eq!(pulled.fetched, bytes.len() as u64 - n_noted * CHUNK);
    assert_eq!(bench.model_bytes(REFERENCE), bytes);
}

/// Streams are stopped while one of them is at a write that takes its time: nobody else writes before it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_is_under_way_is_waited_for() {
    let bench = Bench::new();
    let bytes = model(7, 700_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes)]);
    let pull = async |files: Arc<dyn Files>, streams: usize| {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { root: dir.path().join("store"), ..StoreConfig::default() };
        let store = Store::with_chunks(config, files, CHUNK).unwrap();
        let puller = Puller::new(store.clone(), Network { streams, ..bench.network() });
        puller.pull(&super::parse(REFERENCE), Default::default(), &|_| {}).await.unwrap();
        let installed = store.open_model(&super::parse(REFERENCE)).unwrap().unwrap();
        assert_eq!(std::fs::read(&installed.model[0]).unwrap(), bytes);
    };
    let counted = Arc::new(KillingFiles::counting(RealFiles));
    pull(counted.clone(), 1).await;
    // The journal's first line is written before it.
    let done = counted.done();
    let mut writes = (1..).zip(&done).filter(|(_, operation)| **operation == Operation::Write);
    let (first_chunk, _) = writes.nth(1).unwrap();
    // The first answer is a range, all others are the whole file.
    bench.hub.fault(Fault::new("GET /lfs/", FaultKind::NoRanges).window(1, u32::MAX));
    let pause = || std::thread::sleep(Duration::from_millis(700));
    pull(Arc::new(KillingFiles::with_event(RealFiles, first_chunk, pause)), 4).await;
}

/// A file as servers give it: a part if one is asked for.
fn answer(request: &Request, bytes: &[u8]) -> Reply {
    let reply = Reply::new(200, "x/y", bytes);
    match request.range(bytes.len() as u64) {
        None => reply,
        Some(Err(())) => Reply::status(416),
        Some(Ok((start, end))) => Reply { status: 206, part: Some((start, end)), ..reply }
            .with("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len())),
    }
}

const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A file whose digest nobody knows, which is another one all of a sudden.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_changes_is_begun_again() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let etag = |version: u32| [("ETag", format!("\"v{version}\"")), ("Date", NOW.to_owned())];
    let modified = |version: u32| {
        [("Last-Modified", format!("Sun, 06 Nov 1994 07:{version:02}:00 GMT")), ("Date", NOW.to_owned())]
    };
    type Headers = fn(u32) -> [(&'static str, String); 2];
    for (headers, changes, settles) in [
        (etag as Headers, 1, true),
        (etag, 2, true),
        (etag, 3, true),
        (etag, u32::MAX, false),
        (modified, 1, true),
        (modified, 2, true),
    ] {
        let bench = Bench::new();
        let versions = [model(1, 600_000), model(2, 600_000), model(3, 700_000)];
        let served = versions.clone();
        let asked = AtomicU32::new(0);
        let server = Server::start(move |request| {
            // Another version after each fourth answer, so often.
            let version = (asked.fetch_add(1, Ordering::SeqCst) / 4).min(changes);
            let reply = answer(request, &served[version as usize % 3]);
            headers(version).into_iter().fold(reply, |reply, (name, value)| reply.with(name, value))
        });
        let url = format!("{}/x.gguf", server.url());
        match bench.pull(&url).await {
            Ok(pulled) => {
                assert!(settles);
                let last = &versions[changes as usize % 3];
                assert_eq!(bench.model_bytes(&url), *last, "one version, not a mixture");
                // It is known as the version that came, not as that which was planned.
                let again = bench.pull(&url).await.unwrap_or_else(|error| panic!("{changes}: {error}"));
                assert_eq!((again.digest, again.fetched), (pulled.digest, 0));
            }
            Err(error) => assert!(!settles && matches!(error, PullError::Unsettled(_)), "{changes}: {error}"),
        }
        bench.check_integrity();
    }
}

/// Where nothing tells versions apart, bytes of two answers never make one file.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versions_that_cannot_be_told_apart_are_not_mixed() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let headers: [&[(&str, &str)]; 3] =
        [&[], &[("ETag", "W/\"v1\"")], &[("Last-Modified", "Sun, 06 Nov 1994 08:49:36 GMT"), ("Date", NOW)]];
    for headers in headers {
        let bench = Bench::new();
        let versions = [model(1, 600_000), model(2, 600_000)];
        let served = versions.clone();
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |request| {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            let reply = answer(request, &served[n % 2]);
            // The first one after the question for its size breaks.
            let reply = if n == 1 { Reply { cut_after: Some(300_000), ..reply } } else { reply };
            headers.iter().fold(reply, |reply, (name, value)| reply.with(name, *value))
        });
        let url = format!("{}/x.gguf", server.url());
        bench.pull(&url).await.unwrap();
        assert!(versions.contains(&bench.model_bytes(&url)), "{headers:?}: one version, not a mixture");
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

/// What is there of a file needs no room again, also if only its version is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_there_needs_no_room() {
    const THERE: u64 = 10;
    let bench = Bench::new();
    let bytes = model(7, 1_000_000);
    let size = bytes.len() as u64;
    let (served, end) = (bytes.clone(), Arc::new(std::sync::atomic::AtomicU64::new(THERE * CHUNK)));
    let until = end.clone();
    let server = Server::start(move |request| match request.range(served.len() as u64) {
        Some(Ok((start, _))) if start >= until.load(std::sync::atomic::Ordering::SeqCst) => {
            Reply::status(404)
        }
        _ => answer(request, &served).with("ETag", "\"v1\""),
    });
    let url = format!("{}/x.gguf", server.url());
    // One stream: chunks come in order.
    let pull = async |url: &str, free: u64| {
        let files = Arc::new(KillingFiles::counting(RealFiles).with_free(free));
        let config = StoreConfig { root: bench.dir.path().join("store"), ..StoreConfig::default() };
        let store = Store::with_chunks(config, files, CHUNK).unwrap();
        let puller = Puller::new(store, Network { streams: 1, ..bench.network() });
        puller.pull(&super::parse(url), Default::default(), &|_| {}).await
    };
    let error = pull(&url, u64::MAX).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    assert_eq!(bench.n_noted() as u64, THERE);
    end.store(u64::MAX, std::sync::atomic::Ordering::SeqCst);
    // As much again as is needed stays free.
    let needed = size - THERE * CHUNK;
    let error = pull(&url, 2 * needed - 1).await.unwrap_err();
    assert!(error.to_string().contains(&format!(" {needed} are needed")), "{error}");
    let pulled = pull(&url, 2 * needed).await.unwrap();
    assert_eq!(pulled.fetched, needed);
    assert_eq!(bench.model_bytes(&url), bytes);

    // A file that has become a blob, and that no manifest names: nothing is needed for it.
    let mut broken = bytes;
    broken[4..].fill(0xff);
    let server = Server::start(move |request| answer(request, &broken).with("ETag", "\"v1\""));
    let url = format!("{}/x.gguf", server.url());
    for free in [u64::MAX, 0] {
        let error = pull(&url, free).await.unwrap_err();
        assert!(matches!(error, PullError::NotAModel { .. }), "{free} bytes free: {error}");
    }
}

//! Pulls that are killed (SIGKILL) at random moments, by real processes from a real server: what can be seen is whole,
//! the next pull needs no repair, and fetches at most one chunk again for each stream.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ingle_egress::{Credentials, HostRule, Policy};
use ingle_store::pull::{PullOptions, Puller};
use ingle_testkit::hub::{Fault, FaultKind, Hub};
use ingle_testkit::rng::Rng;

use super::{CHUNK, TIMEOUT, check_integrity, model, network, parse, store};

const VARIABLE: &str = "INGLE_TEST_PULL";
const REFERENCE: &str = "hf.co/maker/tiny-GGUF:Q4_K_M";
const KILLS_MIN: u32 = 100;
const STREAMS: u64 = 4;

/// What a child does; for any other process it is nothing.
#[test]
fn child() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let (hub, root) = text.split_once(' ').expect("a hub and a folder");
    pull(hub, Path::new(root));
}

fn pull(hub: &str, root: &Path) -> u64 {
    let policy = Policy { private: vec![(None, HostRule::parse("127.0.0.1").unwrap())], ..Policy::default() };
    let network = network(hub, policy, Credentials::default(), TIMEOUT);
    let puller = Puller::new(store(root, CHUNK), network);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(puller.pull(&parse(REFERENCE), PullOptions::default(), &|_| {})).unwrap().fetched
}

#[test]
fn kills_at_random() {
    let hub = Hub::start();
    let bytes = model(7, 2_000_000);
    hub.commit("maker/tiny-GGUF", &[("x-Q4_K_M.gguf", &bytes), ("LICENSE", b"MIT")]);
    hub.fault(Fault::new("GET /lfs/", FaultKind::Slow(Duration::from_millis(15))));
    let mut rng = Rng::new(11);
    let (mut kills, mut again, mut worst) = (0, 0, 0);
    while kills < KILLS_MIN {
        let dir = tempfile::tempdir().unwrap();
        hub.take_requests();
        let mut kills_here = 0;
        loop {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["kill::child", "--exact", "--test-threads=1"])
                .env(VARIABLE, format!("{} {}", hub.url(), dir.path().display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(20 + rng.below(120) as u64));
            if child.try_wait().unwrap().is_some_and(|status| status.success()) {
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            kills_here += 1;
            check_integrity(&store(dir.path(), CHUNK));
            // At this speed it would never come to its end; some are let go on.
            if kills_here % 12 == 0 {
                pull(&hub.url(), dir.path());
                break;
            }
        }
        check_integrity(&store(dir.path(), CHUNK));
        let installed =
            store(dir.path(), CHUNK).open_model(&parse(REFERENCE)).unwrap().expect("it was pulled");
        assert_eq!(std::fs::read(&installed.model[0]).unwrap(), bytes);
        // I5. What was asked for counts as fetched, though of the last chunks only a part came.
        let extra = hub.bytes_asked() - bytes.len() as u64;
        assert!(extra <= kills_here * STREAMS * CHUNK, "{extra} bytes again after {kills_here} kills");
        again += extra;
        worst = worst.max(extra.checked_div(kills_here).unwrap_or(0));
        // I4. What was being written without a digest when its process died is collected, once.
        let pruned = store(dir.path(), CHUNK).prune(false).unwrap();
        assert_eq!(pruned.blobs, 0, "all blobs have names");
        assert!(pruned.partials as u64 <= kills_here, "{} partial files", pruned.partials);
        let pruned = store(dir.path(), CHUNK).prune(false).unwrap();
        assert_eq!((pruned.blobs, pruned.partials), (0, 0), "nothing is left over");
    }
    println!("{kills} kills; {} bytes fetched again per kill, {worst} at most", again / u64::from(kills));
}

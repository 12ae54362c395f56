//! Nodes that fetch from each other: a fleet asks the hub once.

use std::time::Duration;

use ingle_egress::Target;
use ingle_store::peers::Floor;
use ingle_store::pull::{Network, PullOptions, Puller};
use ingle_testkit::http::{Reply, Request, Server};

use super::{Bench, model};

const REPO: &str = "maker/tiny-GGUF";
const REFERENCE: &str = "hf.co/maker/tiny-GGUF:Q4_K_M";

/// A node that has one blob; `change` may spoil its answers.
fn node(bytes: &[u8], change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let (bytes, path) = (bytes.to_vec(), format!("/api/blobs/{}", ingle_testkit::hub::digest(bytes)));
    Server::start(move |request| {
        if request.path != path {
            return Reply::status(404);
        }
        let reply = Reply::new(200, "application/octet-stream", bytes.clone());
        let reply = match request.range(bytes.len() as u64) {
            Some(Ok((start, end))) => Reply { status: 206, part: Some((start, end)), ..reply }
                .with("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len())),
            Some(Err(())) => Reply::status(416),
            None => reply,
        };
        change(request, reply)
    })
}

fn bench(bytes: &[u8], nodes: &[&Server]) -> Bench {
    let mut bench = Bench::new();
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", bytes)]);
    bench.peers = nodes.iter().map(|node| Target::parse(&node.url()).unwrap()).collect();
    bench
}

#[tokio::test]
async fn what_a_node_has_is_not_asked_of_the_hub() {
    let bytes = model(1, 500_000);
    let (empty, full) = (Server::start(|_| Reply::status(404)), node(&bytes, |_, reply| reply));
    let mut bench = bench(&bytes, &[&empty, &full]);
    bench.login(&full.url(), "key-of-the-node");
    let pulled = bench.pull(REFERENCE).await.unwrap();
    assert_eq!((pulled.fetched, pulled.from_peers), (bytes.len() as u64, bytes.len() as u64));
    assert!(bench.hub.cdn().requests().is_empty());
    assert!(full.requests().iter().all(|r| r.header("authorization") == Some("Bearer key-of-the-node")));
    assert!(empty.requests().iter().all(|r| r.header("authorization").is_none()));
    assert_eq!(bench.model_bytes(REFERENCE), bytes);
}

#[tokio::test]
async fn nodes_that_fail_cost_no_pull() {
    let bytes = model(1, 500_000);
    let spoilers: Vec<(&str, Server)> = vec![
        (
            "lies",
            node(&bytes, |request, mut reply| {
                if request.method == "GET" {
                    let mut body = reply.body.to_vec();
                    body.iter_mut().for_each(|b| *b ^= 1);
                    reply.body = body.into();
                }
                reply
            }),
        ),
        (
            "cuts",
            node(&bytes, |request, reply| match request.method.as_str() {
                "GET" => Reply { cut_after: Some(1000), ..reply },
                _ => reply,
            }),
        ),
        (
            "refuses",
            node(&bytes, |request, reply| if request.method == "GET" { Reply::status(403) } else { reply }),
        ),
        (
            "is busy",
            node(&bytes, |request, reply| if request.method == "GET" { Reply::status(429) } else { reply }),
        ),
        ("has another size", node(&bytes, |_, reply| reply.with("Content-Length", "5"))),
        ("knows no ranges", node(&bytes, |_, reply| Reply { status: 200, part: None, ..reply })),
        (
            "sends away",
            node(&bytes, |request, reply| match request.method.as_str() {
                "GET" => Reply::redirect(302, "http://169.254.169.254/"),
                _ => reply,
            }),
        ),
        ("wants a key", node(&bytes, |_, _| Reply::status(401))),
    ];
    for (name, spoiler) in &spoilers {
        let bench = bench(&bytes, &[spoiler]);
        let pulled = bench.pull(REFERENCE).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bench.model_bytes(REFERENCE), bytes, "{name}");
        assert!(pulled.fetched >= bytes.len() as u64, "{name}");
        bench.check_integrity();
    }
    // Nobody at home.
    let gone = { Server::start(|_| Reply::status(200)).url() };
    let mut bench = bench(&bytes, &[]);
    bench.peers = vec![Target::parse(&gone).unwrap()];
    bench.pull(REFERENCE).await.unwrap();
}

/// A node that sends, and so slowly that the hub is better; one that knows no ranges, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_node_is_left() {
    let bytes = model(1, 4_000_000);
    // With its pauses no stream gets more than 128 KiB in a window.
    let window = Duration::from_millis(300);
    let drips = |reply| Reply { pause: Duration::from_millis(250), ..reply };
    let slow = node(&bytes, move |_, reply| drips(reply));
    let whole = node(&bytes, move |_, reply| drips(Reply { status: 200, part: None, ..reply }));
    for (node, floor_bytes, is_left) in [(&slow, 1 << 20, true), (&whole, 1 << 20, true), (&slow, 0, false)] {
        let mut bench = bench(&bytes, &[node]);
        bench.chunk_bytes = 1 << 20;
        let peer_floor = Floor { bytes: floor_bytes, window };
        let puller = Puller::new(bench.store(), Network { peer_floor, ..bench.network() });
        let reference = super::parse(REFERENCE);
        let pulled = puller.pull(&reference, PullOptions::default(), &|_| {}).await.unwrap();
        assert_eq!(bench.model_bytes(REFERENCE), bytes);
        assert_eq!(pulled.from_peers < bytes.len() as u64, is_left, "{} from the node", pulled.from_peers);
        assert_eq!(!bench.hub.cdn().requests().is_empty(), is_left);
        bench.check_integrity();
    }
}

//! Nodes that fetch from each other: a fleet asks the hub once.

use ingle_egress::Target;
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

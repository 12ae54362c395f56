//! Pushing to a registry, and what comes back from it.

use ingle_egress::{Credential, Origin, Secret};
use ingle_store::pull::PullError;
use ingle_store::push::{PushOptions, Pushed, push};
use ingle_store::{Store, StoreConfig};
use ingle_testkit::http::{Reply, Server};
use ingle_testkit::hub::{Fault, FaultKind};

use super::{Bench, model, parse};

/// A bench with a model under the registry's name.
async fn with_model() -> (Bench, ingle_store::ModelName, Vec<u8>) {
    let mut bench = Bench { chunk_bytes: ingle_store::CHUNK_BYTES, ..Bench::new() };
    // Larger than one part.
    let bytes = model(1, 20 << 20);
    bench.hub.commit("maker/tiny-GGUF", &[("x-Q4_K_M.gguf", &bytes), ("LICENSE", b"MIT")]);
    let pulled = bench.pull("hf.co/maker/tiny-GGUF:Q4_K_M").await.unwrap();
    let name = format!("{}/team/pushed:v1", bench.hub.authority()).parse().unwrap();
    bench.store().copy(&pulled.name, &name).unwrap();
    bench.hub.require_account("me", "s3cret-pw");
    let origin = Origin::parse(&bench.hub.url()).unwrap();
    bench.credentials.insert(Credential::basic(origin, "me", Secret::new("s3cret-pw"))).unwrap();
    (bench, name, bytes)
}

async fn send(bench: &Bench, name: &ingle_store::ModelName) -> Result<Pushed, PullError> {
    push(&bench.store(), &bench.network(), name, PushOptions::default(), &|_| {}).await
}

#[tokio::test]
async fn there_and_back() {
    let (bench, name, bytes) = with_model().await;
    let pushed = send(&bench, &name).await.unwrap();
    assert!(pushed.sent > bytes.len() as u64);
    let manifest = bench.hub.manifest("team/pushed", "v1").expect("it is there");
    assert_eq!(ingle_store::Digest::of(&manifest), pushed.digest);
    let parts = bench.hub.server().requests().iter().filter(|r| r.method == "PATCH").count();
    assert!(parts >= 3, "{parts} parts");
    // What is there is not sent again.
    assert_eq!(send(&bench, &name).await.unwrap().sent, 0);
    // And another store gets the same, with all that was annotated.
    let (hub, credentials, chunk_bytes) = (bench.hub, bench.credentials, bench.chunk_bytes);
    let mut other = Bench { hub, credentials, chunk_bytes, ..Bench::new() };
    other.policy.offline = false;
    other.pull(&name.to_string()).await.unwrap();
    assert_eq!(other.model_bytes(&name.to_string()), bytes);
    assert_eq!(other.installed(&name.to_string()).unwrap().licenses, ["MIT"]);
}

#[tokio::test]
async fn faults_on_the_way_up() {
    let (bench, name, bytes) = with_model().await;
    for (fault, works) in [
        (Fault::new("PATCH", FaultKind::Status(503, Some(1))).window(1, 1), true),
        (Fault::new("PATCH", FaultKind::Status(416, None)).window(1, 1), true),
        (Fault::new("PUT /v2/team/pushed/blobs", FaultKind::Status(500, None)).window(0, 6), true),
        (Fault::new("POST", FaultKind::Status(403, None)), false),
        (Fault::new("PUT /v2/team/pushed/manifests", FaultKind::Status(404, None)), false),
    ] {
        bench.hub.forget_blob(&ingle_testkit::hub::digest(&bytes));
        let shown = format!("{fault:?}");
        bench.hub.fault(fault);
        let outcome = send(&bench, &name).await;
        assert_eq!(outcome.is_ok(), works, "{shown}: {outcome:?}");
        bench.hub.heal();
        send(&bench, &name).await.unwrap();
        assert_eq!(bench.hub.blob(&ingle_testkit::hub::digest(&bytes)).as_ref(), Some(&bytes));
    }
}

/// An upload that is sent elsewhere takes no token along, and no address of this site is written to.
#[tokio::test]
async fn uploads_that_are_sent_elsewhere() {
    let (bench, name, _) = with_model().await;
    let thief = Server::start(|_| Reply::status(202).with("Location", "/next"));
    for location in
        [format!("{}/steal", thief.url()), "http://169.254.169.254/".into(), "http://10.0.0.1/".into()]
    {
        bench.hub.fault(Fault::new("POST", FaultKind::Redirect(202, location.clone())));
        let outcome = send(&bench, &name).await;
        assert!(outcome.is_err(), "{location}");
        bench.hub.heal();
    }
    let seen = thief.take_requests();
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|r| r.header("authorization").is_none()));
}

/// A model of Ollama's store is pushed from where it stands.
#[tokio::test]
async fn a_model_of_ollamas_store() {
    let (bench, name, bytes) = with_model().await;
    let ollama = bench.store().config().root.clone();
    let own = bench.dir.path().join("own");
    let config = StoreConfig { root: own.clone(), ollama: Some(ollama), ..StoreConfig::default() };
    let store = Store::open(config).unwrap();
    bench.hub.forget_blob(&ingle_testkit::hub::digest(&bytes));
    let pushed = push(&store, &bench.network(), &name, PushOptions::default(), &|_| {}).await.unwrap();
    assert!(pushed.sent >= bytes.len() as u64);
    assert_eq!(bench.hub.blob(&ingle_testkit::hub::digest(&bytes)).as_ref(), Some(&bytes));
    assert!(!own.join("blobs").exists(), "nothing is copied");
}

#[tokio::test]
async fn what_is_not_here_or_not_allowed() {
    let bench = Bench::new();
    let error = send(&bench, &"127.0.0.1:1/team/absent:v1".parse().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("there is no model"), "{error}");
    let (mut bench, name, _) = with_model().await;
    bench.credentials = Default::default();
    let error = send(&bench, &name).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    bench.policy.offline = true;
    assert!(send(&bench, &name).await.unwrap_err().to_string().contains("offline"));
    let _ = parse("x");
}

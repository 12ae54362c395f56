//! Models of registries that speak Ollama's protocol.

use ingle_egress::{Credential, HostRule, Origin, Policy, Secret};
use ingle_store::pull::PullError;
use ingle_testkit::http::{Reply, Server};
use ingle_testkit::hub::{Fault, FaultKind};

use super::{Bench, model};

const MODEL: &str = "application/vnd.ollama.image.model";
const LICENSE: &str = "application/vnd.ollama.image.license";
const TEMPLATE: &str = "application/vnd.ollama.image.template";

#[tokio::test]
async fn a_model_as_it_is() {
    let bench = Bench::new();
    let bytes = model(1, 300_000);
    bench.hub.add_model(
        "team/tiny",
        "v1",
        &[(MODEL, &bytes), (TEMPLATE, b"{{ .Prompt }}"), (LICENSE, b"MIT")],
    );
    let reference = format!("{}/team/tiny:v1", bench.hub.authority());
    let pulled = bench.pull(&reference).await.unwrap();
    assert_eq!(pulled.name.to_string(), reference);
    assert_eq!(bench.model_bytes(&reference), bytes);
    assert_eq!(bench.installed(&reference).unwrap().licenses, ["MIT"]);
    // Layers keep their order, types and digests.
    let ours = bench.store().manifest(&pulled.name).unwrap().unwrap();
    let theirs = ingle_store::Manifest::parse(&bench.hub.manifest("team/tiny", "v1").unwrap()).unwrap();
    assert_eq!((ours.config, ours.layers), (theirs.config, theirs.layers));
    bench.check_integrity();
    let error = bench.pull(&format!("{}/team/tiny:v2", bench.hub.authority())).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn what_another_model_brought_is_not_fetched_again() {
    let bench = Bench::new();
    let (first, second) = (model(1, 300_000), model(2, 1000));
    bench.hub.add_model("team/a", "1", &[(MODEL, &first), (LICENSE, b"MIT")]);
    bench.hub.add_model("team/b", "1", &[(MODEL, &second), (LICENSE, b"MIT")]);
    let name = |model: &str| format!("{}/team/{model}:1", bench.hub.authority());
    bench.pull(&name("a")).await.unwrap();
    let pulled = bench.pull(&name("b")).await.unwrap();
    assert_eq!(pulled.fetched, second.len() as u64);
}

#[tokio::test]
async fn accounts() {
    let mut bench = Bench::new();
    let bytes = model(1, 100_000);
    bench.hub.add_model("team/tiny", "v1", &[(MODEL, &bytes)]);
    bench.hub.require_account("me", "s3cret-pw");
    let reference = format!("{}/team/tiny:v1", bench.hub.authority());
    let error = bench.pull(&reference).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    let origin = Origin::parse(&bench.hub.url()).unwrap();
    bench.credentials.insert(Credential::basic(origin, "me", Secret::new("s3cret-pw"))).unwrap();
    bench.pull(&reference).await.unwrap();
    assert_eq!(bench.model_bytes(&reference), bytes);
    assert!(bench.hub.cdn().requests().iter().all(|r| r.header("authorization").is_none()));
}

/// V61: a registry that names a realm of somebody else's gets that one nothing.
#[tokio::test]
async fn a_foreign_realm_sees_no_credential() {
    let mut bench = Bench::new();
    bench.hub.add_model("team/tiny", "v1", &[(MODEL, &model(1, 1000))]);
    let thief = Server::start(|_| Reply::json(200, &serde_json::json!({ "token": "x" })));
    let origin = Origin::parse(&bench.hub.url()).unwrap();
    bench.credentials.insert(Credential::basic(origin, "me", Secret::new("s3cret-pw"))).unwrap();
    let port = thief.address().port();
    let reference = format!("{}/team/tiny:v1", bench.hub.authority());
    for realm in [
        format!("http://127.0.0.1:{port}/token"),
        format!("http://localhost:{port}/token"),
        format!("http://{}@127.0.0.1:{port}/token", bench.hub.authority()),
        format!("http://127.0.0.1:{port}/{}/token", bench.hub.authority()),
        "file:///etc/passwd".to_owned(),
        "https://169.254.169.254/token".to_owned(),
        "//evil".to_owned(),
    ] {
        bench.hub.fault(Fault::new("/v2/", FaultKind::Realm(realm.clone())));
        bench.policy.private.push((None, HostRule::parse("localhost").unwrap()));
        bench.pull(&reference).await.unwrap_err();
        bench.hub.heal();
        for request in thief.take_requests() {
            assert!(
                !request.text().contains("bWU6czNjcmV0") && request.header("authorization").is_none(),
                "{realm}"
            );
        }
    }
    assert!(!bench.hub.take_requests().is_empty());
    bench.pull(&reference).await.unwrap();
}

/// A registry that wants the pull to go on elsewhere gets the same.
#[tokio::test]
async fn redirects_of_registries_take_no_token_along() {
    let mut bench = Bench::new();
    bench.hub.add_model("team/tiny", "v1", &[(MODEL, &model(1, 1000))]);
    bench.hub.require_account("me", "s3cret-pw");
    let origin = Origin::parse(&bench.hub.url()).unwrap();
    bench.credentials.insert(Credential::basic(origin, "me", Secret::new("s3cret-pw"))).unwrap();
    let thief = Server::start(|_| Reply::status(404));
    bench.hub.fault(Fault::new("/blobs/", FaultKind::Redirect(307, format!("{}/x", thief.url()))));
    let reference = format!("{}/team/tiny:v1", bench.hub.authority());
    bench.pull(&reference).await.unwrap_err();
    let seen = thief.take_requests();
    assert!(!seen.is_empty());
    assert!(
        seen.iter().all(|r| r.header("authorization").is_none() && !r.text().contains("token-of-the-realm"))
    );
    bench.hub.heal();
    bench.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn plain_http_is_not_spoken_unasked() {
    let mut bench = Bench::new();
    bench.policy = Policy::default();
    // A name, not loopback's address: https is tried, and nobody speaks it there.
    let error = bench.pull("registry.invalid/team/tiny:v1").await.unwrap_err().to_string();
    assert!(error.contains("registry.invalid"), "{error}");
    let options = ingle_store::pull::PullOptions { insecure: true, ..Default::default() };
    let error = bench.pull_with("registry.invalid/team/tiny:v1", options).await.unwrap_err().to_string();
    assert!(error.contains("--insecure-host"), "{error}");
}

#[tokio::test]
async fn manifests_that_are_none() {
    let bench = Bench::new();
    let digest = ingle_testkit::hub::digest(b"x");
    let manifest = |layer: &str, size: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{digest}","size":1}},"layers":[{{"mediaType":"{MODEL}","digest":"{layer}","size":{size}}}]}}"#
        )
    };
    let hostile = [
        "sha256:../../../../etc/passwd",
        "sha256:",
        "sha512:00",
        "../x",
        &digest.to_uppercase(),
        &format!("{digest}0"),
        &digest.replace(':', "-"),
    ];
    let mut bodies: Vec<String> = hostile.iter().map(|digest| manifest(digest, "1")).collect();
    bodies.extend([
        "".into(),
        "[]".into(),
        "{}".into(),
        manifest(&digest, "-1"),
        manifest(&digest, "1e99"),
        manifest(&digest, "\"1\""),
    ]);
    for body in bodies {
        let reply = body.clone();
        let server = Server::start(move |_| Reply::new(200, "application/json", reply.clone().into_bytes()));
        let error = bench.pull(&format!("{}/team/x:1", server.address())).await.unwrap_err();
        assert!(matches!(error, PullError::Answer { .. }), "{body}: {error}");
        assert_eq!(server.requests().len(), 1);
    }
    // More than any disk has: refused before anything is fetched.
    let body = manifest(&digest, "1000000000000000000");
    let server = Server::start(move |_| Reply::new(200, "application/json", body.clone().into_bytes()));
    let error = bench.pull(&format!("{}/team/x:1", server.address())).await.unwrap_err().to_string();
    assert!(error.contains("bytes free") && error.contains("1000000000000000000"), "{error}");
    assert_eq!(server.requests().len(), 1);
    assert!(bench.store().list().unwrap().is_empty());
}

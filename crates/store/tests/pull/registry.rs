//! Models of registries that speak Ollama's protocol.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};

use ingle_egress::{Credential, HostRule, Origin, Policy, RequestKey, Secret};
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

/// A range that a private registry refuses is no reason to ask for it without its token.
#[tokio::test]
async fn a_refused_range_is_no_lack_of_a_token() {
    let mut bench = Bench::new();
    bench.hub.add_model("team/tiny", "v1", &[(MODEL, &model(1, 300_000))]);
    bench.hub.require_account("me", "s3cret-pw");
    let origin = Origin::parse(&bench.hub.url()).unwrap();
    bench.credentials.insert(Credential::basic(origin, "me", Secret::new("s3cret-pw"))).unwrap();
    bench.hub.fault(Fault::new("GET /blobs/", FaultKind::Unsatisfiable));
    let error = bench.pull(&format!("{}/team/tiny:v1", bench.hub.authority())).await.unwrap_err();
    assert!(matches!(error, PullError::Answer { .. }), "{error}");
}

/// One answer that does not come holds up its own stream alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_do_not_wait_for_each_other() {
    let bench = Bench::new();
    let (bytes, config) = (model(1, 300_000), b"{}");
    let digests = [&bytes[..], config].map(ingle_testkit::hub::digest);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "digest": digests[1], "size": 2 },
        "layers": [{ "mediaType": MODEL, "digest": digests[0], "size": bytes.len() }],
    });
    let served = bytes.clone();
    let (asked, is_second) = (AtomicU32::new(0), (Mutex::new(false), Condvar::new()));
    let server = Server::start(move |request| {
        if request.path.contains("/manifests/") {
            return Reply::json(200, &manifest);
        }
        if request.path.ends_with(&digests[1]) {
            return Reply::new(200, "x/y", config.as_slice());
        }
        // The first part comes when somebody asks for the second one.
        let (lock, condition) = &is_second;
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            let waited =
                condition
                    .wait_timeout_while(lock.lock().unwrap(), super::TIMEOUT / 2, |is_second| !*is_second);
            if waited.unwrap().1.timed_out() {
                return Reply::status(404);
            }
        } else {
            *lock.lock().unwrap() = true;
            condition.notify_all();
        }
        let (start, end) = request.range(served.len() as u64).unwrap().unwrap();
        Reply { status: 206, part: Some((start, end)), ..Reply::new(206, "x/y", served.clone()) }
            .with("Content-Range", format!("bytes {start}-{}/{}", end - 1, served.len()))
    });
    let reference = format!("{}/team/x:1", server.address());
    bench.pull(&reference).await.unwrap();
    assert_eq!(bench.model_bytes(&reference), bytes);
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

/// The other way round: a registry that names the realm of another one, where the user has an account, gets no token that
/// the other registry would take.
#[tokio::test]
async fn a_foreign_registry_gets_no_token_of_a_realm() {
    let mut bench = Bench::new();
    let realm = Server::start(|request| match request.header("authorization") {
        Some(_) => Reply::json(200, &serde_json::json!({ "token": "token-of-the-victim" })),
        None => Reply::json(200, &serde_json::json!({ "token": "anonymous" })),
    });
    let url = realm.url();
    let thief = Server::start(move |_| {
        let challenge =
            format!("Bearer realm=\"{url}/token\",service=\"other\",scope=\"repository:v/private:pull\"");
        Reply::status(401).with("WWW-Authenticate", challenge)
    });
    let origin = Origin::parse(&realm.url()).unwrap();
    bench.credentials.insert(Credential::basic(origin, "me", Secret::new("s3cret-pw"))).unwrap();
    let error = bench.pull(&format!("{}/v/private:1", thief.address())).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    assert!(realm.requests().iter().all(|r| r.header("authorization").is_none()));
    let seen = thief.take_requests();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|r| !r.text().contains("victim") && !r.text().contains("bWU6czNjcmV0")));
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
    let whole = |config: &str, layer: &str, size: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{digest}","size":{config}}},"layers":[{{"mediaType":"{MODEL}","digest":"{layer}","size":{size}}}]}}"#
        )
    };
    let manifest = |layer: &str, size: &str| whole("1", layer, size);
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
    for (config, layer) in [("1", "1000000000000000000"), ("1000000000000000000", "1")] {
        let body = whole(config, &digest, layer);
        let server = Server::start(move |_| Reply::new(200, "application/json", body.clone().into_bytes()));
        let error = bench.pull(&format!("{}/team/x:1", server.address())).await.unwrap_err().to_string();
        assert!(error.contains("bytes free") && error.contains("1000000000000000001"), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
    assert!(bench.store().list().unwrap().is_empty());
}

/// An account that is known by its key: as at Ollama's registry.
#[tokio::test]
async fn signed_requests() {
    let mut bench = Bench::new();
    let bytes = model(1, 100_000);
    bench.hub.add_model("me/private", "v1", &[(MODEL, &bytes)]);
    let key = RequestKey::generate().unwrap();
    bench.hub.require_key(&key.public_line());
    let reference = format!("{}/me/private:v1", bench.hub.authority());
    let error = bench.pull(&reference).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    // Another key than the account's: what to do about it is said.
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::parse(&bench.hub.url()).unwrap();
    let other = folder.path().join("other");
    let stranger = RequestKey::generate().unwrap();
    stranger.write_new(&other).unwrap();
    bench.credentials.insert(Credential::key(origin.clone(), &other)).unwrap();
    let error = bench.pull(&reference).await.unwrap_err().to_string();
    assert!(error.contains(&stranger.public_line()), "{error}");
    // A key that is gone.
    std::fs::remove_file(&other).unwrap();
    let error = bench.pull(&reference).await.unwrap_err().to_string();
    assert!(error.contains("other"), "{error}");
    let own = folder.path().join("id_ed25519");
    key.write_new(&own).unwrap();
    bench.credentials.insert(Credential::key(origin, &own)).unwrap();
    bench.hub.take_requests();
    bench.pull(&reference).await.unwrap();
    assert_eq!(bench.model_bytes(&reference), bytes);
    // Only the request for the token is signed: the registry itself sees the token, and others see nothing.
    let public = key.public_line().split(' ').nth(1).unwrap().to_owned();
    let requests = bench.hub.take_requests();
    let signed: Vec<_> = requests.iter().filter(|r| r.text().contains(&public)).collect();
    assert!(!signed.is_empty() && signed.iter().all(|r| r.path == "/token"), "{signed:?}");
    let token = signed[0];
    assert_eq!(token.param("service").as_deref(), Some("hub.test"));
    assert_eq!(token.param("scope").as_deref(), Some("repository:me/private:pull"));
    assert!(bench.hub.cdn().requests().iter().all(|r| r.header("authorization").is_none()));
}

/// V61: a signature is given to the registry's own realm only, and so are tokens that it would open.
#[tokio::test]
async fn a_foreign_realm_gets_no_signature() {
    let mut bench = Bench::new();
    bench.hub.add_model("me/private", "v1", &[(MODEL, &model(1, 1000))]);
    let key = RequestKey::generate().unwrap();
    bench.hub.require_key(&key.public_line());
    let thief = Server::start(|_| Reply::json(200, &serde_json::json!({ "token": "x" })));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("id_ed25519");
    key.write_new(&file).unwrap();
    for url in [bench.hub.url(), thief.url()] {
        // Even one that has a credential of its own: whoever runs the registry would get its token.
        bench.credentials.insert(Credential::key(Origin::parse(&url).unwrap(), &file)).unwrap();
    }
    let reference = format!("{}/me/private:v1", bench.hub.authority());
    bench.hub.fault(Fault::new("/v2/", FaultKind::Realm(format!("{}/token", thief.url()))));
    let error = bench.pull(&reference).await.unwrap_err().to_string();
    let requests = thief.take_requests();
    assert!(!requests.is_empty(), "it is asked, without a credential");
    for request in requests.iter().chain(&bench.hub.take_requests()) {
        let shown = request.header("authorization").unwrap_or_default();
        assert!(!shown.contains("AAAAC3NzaC1lZDI1NTE5") && request.param("nonce").is_none(), "{request:?}");
    }
    assert!(!error.is_empty());
    // A realm that refuses names what would let it be asked with the credential.
    let closed = Server::start(|_| Reply::status(401));
    bench.hub.heal();
    bench.hub.fault(Fault::new("/v2/", FaultKind::Realm(format!("{}/token", closed.url()))));
    let error = bench.pull(&reference).await.unwrap_err().to_string();
    assert!(error.contains("--realm"), "{error}");
    // One that the user has named sees it.
    let origin = Origin::parse(&bench.hub.url()).unwrap();
    let named = Credential::key(origin, &file).with_realm(Some(Origin::parse(&closed.url()).unwrap()));
    bench.credentials.insert(named).unwrap();
    closed.take_requests();
    bench.pull(&reference).await.unwrap_err();
    assert!(closed.take_requests().iter().any(|r| r.text().contains("AAAAC3NzaC1lZDI1NTE5")));
}

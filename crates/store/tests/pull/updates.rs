//! Names whose content changes (V65): nothing is replaced unasked.

use ingle_store::pull::{PullError, PullOptions};
use ingle_testkit::hub::{Fault, FaultKind};

use super::{Bench, model};

const REPO: &str = "maker/tiny-GGUF";
const REFERENCE: &str = "hf.co/maker/tiny-GGUF:Q4_K_M";

#[tokio::test]
async fn a_new_content_needs_to_be_wanted() {
    let bench = Bench::new();
    let (old, new) = (model(1, 200_000), model(2, 300_000));
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &old)]);
    let first = bench.pull(REFERENCE).await.unwrap();
    assert_eq!(first.replaced, None);
    // The same again: one question, no download.
    bench.hub.take_requests();
    let again = bench.pull(REFERENCE).await.unwrap();
    assert_eq!((again.digest, again.fetched), (first.digest, 0));
    assert_eq!(bench.hub.take_requests().len(), 1);
    // A commit that changes something else is no change.
    bench.hub.commit(REPO, &[("README.md", b"new words")]);
    assert_eq!(bench.pull(REFERENCE).await.unwrap().digest, first.digest);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &new)]);
    let error = bench.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(&error, PullError::Changed { old, .. } if *old == first.digest), "{error}");
    assert!(error.to_string().contains("--update"));
    assert_eq!(bench.model_bytes(REFERENCE), old);
    // The old one is there until the new one is.
    let update = PullOptions { update: true, ..PullOptions::default() };
    bench.hub.fault(Fault::new("GET /lfs/", FaultKind::Status(404, None)));
    bench.pull_with(REFERENCE, update).await.unwrap_err();
    assert_eq!(bench.model_bytes(REFERENCE), old);
    bench.hub.heal();
    let second = bench.pull_with(REFERENCE, update).await.unwrap();
    assert_eq!(second.replaced, Some(first.digest));
    assert_eq!(bench.model_bytes(REFERENCE), new);
    let manifest = bench.store().manifest(&second.name).unwrap().unwrap();
    assert_eq!(manifest.annotations["dev.ingle.replaced"], first.digest.to_string());
    bench.check_integrity();
}

#[tokio::test]
async fn a_broken_model_is_mended_by_a_pull() {
    let bench = Bench::new();
    let bytes = model(1, 200_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes)]);
    bench.pull(REFERENCE).await.unwrap();
    let path = bench.installed(REFERENCE).unwrap().model[0].clone();
    std::fs::remove_file(&path).unwrap();
    bench.pull(REFERENCE).await.unwrap();
    assert_eq!(bench.model_bytes(REFERENCE), bytes);
}

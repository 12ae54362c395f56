//! Names whose content changes (V65): nothing is replaced unasked.

use std::sync::atomic::{AtomicBool, Ordering};

use ingle_store::pull::{Event, PullError, PullOptions, Pulled};
use ingle_store::{Reference, StoreError};
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

/// What was replaced is kept, once, and comes back whenever it is wanted.
#[tokio::test]
async fn a_replacement_can_be_undone() {
    const FORMER: &str = "hf.co/maker/tiny-GGUF:Q4_K_M.before";
    let bench = Bench::new();
    let versions: Vec<Vec<u8>> = (1..5).map(|seed| model(seed, 200_000)).collect();
    let update = PullOptions { update: true, ..PullOptions::default() };
    let former_bytes = || {
        let former = Reference::Registry(FORMER.parse().unwrap());
        std::fs::read(&bench.store().open_model(&former).unwrap().unwrap().model[0]).unwrap()
    };
    let commit = async |version: usize| {
        bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &versions[version])]);
        bench.pull_with(REFERENCE, update).await.unwrap()
    };
    assert_eq!(commit(0).await.kept, None);
    for version in [1, 2] {
        let pulled = commit(version).await;
        assert_eq!(pulled.kept.map(|name| name.to_string()).as_deref(), Some(FORMER));
        assert_eq!(bench.model_bytes(REFERENCE), versions[version]);
        assert_eq!(former_bytes(), versions[version - 1]);
        assert_eq!(bench.store().list().unwrap().len(), 2, "one former version at most");
    }
    // Nothing is lost by what collects garbage, and copying it back is all that it takes.
    bench.store().prune(false).unwrap();
    let [name, former] = [REFERENCE, FORMER].map(|text| text.parse().unwrap());
    bench.store().copy(&former, &name).unwrap();
    assert_eq!(bench.model_bytes(REFERENCE), versions[1]);
    let error = bench.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(error, PullError::Changed { .. }), "and is not undone unasked: {error}");
    // A model of somebody's own is not written over.
    bench.hub.commit("maker/mine-GGUF", &[("x-Q4_K_M.gguf", &versions[0])]);
    let mine = bench.pull("hf.co/maker/mine-GGUF:Q4_K_M").await.unwrap().name;
    bench.store().copy(&mine, &former).unwrap();
    assert_eq!(commit(3).await.kept, None);
    assert_eq!(former_bytes(), versions[0]);
    bench.check_integrity();
}

/// A file that is damaged and has its size is fetched again, once somebody has found it out.
#[tokio::test]
async fn a_damaged_model_is_mended_by_a_pull() {
    let bench = Bench::new();
    let bytes = model(1, 400_000);
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &bytes)]);
    let name = bench.pull(REFERENCE).await.unwrap().name;
    let path = bench.installed(REFERENCE).unwrap().model[0].clone();
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, damaged).unwrap();
    assert!(ingle_store::check_sample(&path).is_err(), "who loads it finds it");
    let verdicts = bench.store().verify(&[name], &|_, _| ()).unwrap();
    assert_eq!(verdicts[0].findings.len(), 1, "who verifies finds it");
    let error = bench.store().open_model(&super::parse(REFERENCE)).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
    assert_eq!(bench.pull(REFERENCE).await.unwrap().fetched, bytes.len() as u64);
    assert_eq!(bench.model_bytes(REFERENCE), bytes);
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

/// Pulls, and does something just before what came gets its name: as another process may, hours after the question what
/// has it.
async fn pull_meanwhile(
    bench: &Bench,
    update: bool,
    meanwhile: impl Fn() + Sync,
) -> Result<Pulled, PullError> {
    let is_done = AtomicBool::new(false);
    let watch = |event: &Event| {
        let is_naming = matches!(event, Event::Status(text) if *text == "writing manifest");
        if is_naming && !is_done.swap(true, Ordering::SeqCst) {
            meanwhile();
        }
    };
    let options = PullOptions { update, ..PullOptions::default() };
    bench.puller().pull(&super::parse(REFERENCE), options, &watch).await
}

/// What another process names while a model is fetched is not written over unasked, and kept if it is.
#[tokio::test]
async fn a_name_that_was_given_meanwhile() {
    const MINE: &str = "hf.co/maker/mine-GGUF:Q4_K_M";
    let [name, mine]: [ingle_store::ModelName; 2] = [REFERENCE, MINE].map(|text| text.parse().unwrap());
    let former = Reference::Registry(format!("{REFERENCE}.before").parse().unwrap());
    let versions: Vec<Vec<u8>> = (1..4).map(|seed| model(seed, 200_000)).collect();
    // It is here before, in an older version, or not.
    for is_here in [false, true] {
        let bench = Bench::new();
        bench.hub.commit("maker/mine-GGUF", &[("x-Q4_K_M.gguf", &versions[0])]);
        bench.pull(MINE).await.unwrap();
        if is_here {
            bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &versions[1])]);
            bench.pull(REFERENCE).await.unwrap();
        }
        bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &versions[2])]);
        let give = || assert!(bench.store().copy(&mine, &name).is_ok());
        if !is_here {
            let error = pull_meanwhile(&bench, false, give).await.unwrap_err();
            let given = bench.store().named(&name).unwrap();
            assert!(matches!(&error, PullError::Changed { old, .. } if Some(*old) == given), "{error}");
            assert_eq!(bench.model_bytes(REFERENCE), versions[0]);
            bench.store().remove(&name).unwrap();
        }
        let pulled = pull_meanwhile(&bench, true, give).await.unwrap();
        assert_eq!(bench.model_bytes(REFERENCE), versions[2]);
        assert_eq!(pulled.kept.as_ref(), former.name().as_ref());
        let kept = bench.store().open_model(&former).unwrap().unwrap();
        assert_eq!(std::fs::read(&kept.model[0]).unwrap(), versions[0], "what was replaced in truth");
        bench.check_integrity();
        // Who removes it meanwhile, wants it no more and asks for it: it is there.
        bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &versions[1])]);
        pull_meanwhile(&bench, true, || assert!(bench.store().remove(&name).is_ok())).await.unwrap();
        assert_eq!(bench.model_bytes(REFERENCE), versions[1]);
    }
    // The same by another process is no change.
    let bench = Bench::new();
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &versions[0])]);
    let puller = bench.puller();
    let given = std::sync::Mutex::new(None);
    let give = || {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let reference = super::parse(REFERENCE);
            runtime.block_on(puller.pull(&reference, PullOptions::default(), &|_| {})).unwrap()
        };
        let pulled = std::thread::scope(|scope| scope.spawn(work).join().unwrap());
        *given.lock().unwrap() = Some(pulled.digest);
    };
    let pulled = pull_meanwhile(&bench, false, give).await.unwrap();
    assert_eq!((Some(pulled.digest), pulled.replaced), (given.into_inner().unwrap(), None));
}

/// What is published on a condition is compared under the lock.
#[tokio::test]
async fn a_name_is_given_on_a_condition() {
    let bench = Bench::new();
    bench.hub.commit(REPO, &[("x-Q4_K_M.gguf", &model(1, 100_000))]);
    let name = bench.pull(REFERENCE).await.unwrap().name;
    let store = bench.store();
    let manifest = store.manifest(&name).unwrap().unwrap();
    let other = "mine:1".parse().unwrap();
    let check = |expected, is_taken: bool| match store.publish_if(&other, &manifest, expected) {
        Ok(_) => assert!(is_taken),
        Err(error) => assert!(!is_taken && matches!(error, StoreError::NameChanged { .. }), "{error}"),
    };
    check(Some(manifest.digest()), false);
    assert_eq!(store.named(&other).unwrap(), None);
    check(None, true);
    check(None, false);
    check(store.named(&other).unwrap(), true);
}

//! What a store does when nothing is in the way.

use std::sync::Arc;

use ingle_store::files::RealFiles;
use ingle_store::{
    Digest, Expect, Layer, Manifest, MediaType, Origin, Reference, SourceId, State, Store, StoreConfig,
    StoreError, Template,
};

use crate::scenarios::{CHUNK_BYTES, content, name};

fn store(root: &std::path::Path) -> Store {
    let config = StoreConfig { root: root.join("store"), ..StoreConfig::default() };
    Store::with_chunks(config, Arc::new(RealFiles), CHUNK_BYTES).expect("it has a folder")
}

fn put(store: &Store, media_type: MediaType, bytes: &[u8]) -> Layer {
    let digest = store.put_bytes(bytes).expect("there is room");
    Layer::new(media_type, digest, bytes.len() as u64)
}

#[test]
fn a_model_from_its_parts_to_its_end() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    assert_eq!(store.list().expect("an empty store").len(), 0);
    assert!(!dir.path().join("store").exists(), "nothing is made before something is written");
    let layers = vec![
        put(&store, MediaType::Model, b"part one").with_file("m-00001-of-00002.gguf"),
        put(&store, MediaType::Model, b"part two").with_file("m-00002-of-00002.gguf"),
        put(&store, MediaType::Template, b"{{ .Prompt }}"),
        put(&store, MediaType::System, b"Be brief."),
        put(&store, MediaType::Params, br#"{"temperature":0.5,"stop":["x"]}"#),
        put(&store, MediaType::Messages, br#"[{"role":"user","content":"hi"}]"#),
        put(&store, MediaType::License, b"MIT"),
        put(&store, MediaType::License, b"and more"),
    ];
    let config = put(&store, MediaType::Config, br#"{"model_family":"llama"}"#);
    let manifest = Manifest::new(config, layers);
    let published = store.publish(&name("m:1"), &manifest).expect("all is there");
    assert_eq!((published.digest, published.replaced), (manifest.digest(), None));

    let entries = store.list().expect("readable");
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(
        (entry.name.to_string().as_str(), &entry.origin, &entry.state),
        ("m:1", &Origin::Own, &State::Ready)
    );
    assert_eq!((entry.digest, entry.size), (Some(manifest.digest()), Some(manifest.size())));

    let reference = Reference::parse("m:1", &Default::default()).expect("a name");
    let model = store.open_model(&reference).expect("it is whole").expect("it is there");
    let read = |path: &std::path::PathBuf| std::fs::read(path).expect("readable");
    assert_eq!(model.model.iter().map(read).collect::<Vec<_>>(), [b"part one", b"part two"]);
    assert_eq!(model.template, Some(Template::Go("{{ .Prompt }}".into())));
    assert_eq!(model.system.as_deref(), Some("Be brief."));
    assert_eq!(model.params.0["temperature"], 0.5);
    assert_eq!((model.messages[0].role.as_str(), model.messages[0].content.as_str()), ("user", "hi"));
    assert_eq!(model.licenses, ["MIT", "and more"]);
    assert_eq!(model.config.expect("it has one").model_family, "llama");

    let verdicts = store.verify(&[], &|_, _| ()).expect("readable");
    assert!(verdicts.iter().all(|verdict| verdict.findings.is_empty()), "{verdicts:?}");

    // A second name costs nothing, and keeps the blobs when the first goes.
    let copied = store.copy(&name("m:1"), &name("copy")).expect("it is there");
    assert_eq!(copied.digest, manifest.digest());
    drop(store);
    let store = self::store(dir.path());
    assert_eq!(store.remove(&name("m:1")).expect("it is there").blobs, 0);
    let removed = store.remove(&name("copy")).expect("it is there");
    assert_eq!((removed.blobs, removed.bytes), (9, manifest.size()));
    assert!(matches!(store.remove(&name("copy")), Err(StoreError::NotFound(_))));
    assert_eq!(store.prune(false).expect("readable").blobs, 0);
}

#[test]
fn what_is_broken_is_listed_as_broken_and_repaired_by_a_second_publication() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    let weights = content("weights", 3000);
    let layer = put(&store, MediaType::Model, &weights);
    let manifest = Manifest::new(put(&store, MediaType::Config, b"{}"), vec![layer.clone()]);
    for model in ["cut:1", "gone:1", "bad:1"] {
        store.publish(&name(model), &manifest).expect("all is there");
    }
    let blob = store.blob(&layer.digest).expect("readable").expect("it is there");
    let why = |store: &Store, model: &str| match store
        .find(&name(model))
        .expect("readable")
        .expect("it is listed")
        .state
    {
        State::Ready => String::new(),
        State::Broken(why) => why,
    };
    // A flipped bit: only reading finds it.
    let mut bytes = weights.clone();
    bytes[1500] ^= 1;
    std::fs::write(&blob, &bytes).expect("writable");
    assert_eq!(why(&store, "cut:1"), "");
    let verdicts = store.verify(&[name("cut:1")], &|_, _| ()).expect("readable");
    assert!(verdicts[0].findings[0].why.contains("digest"), "{verdicts:?}");
    // Too short: a look finds it.
    std::fs::write(&blob, &weights[..100]).expect("writable");
    assert!(why(&store, "cut:1").contains("100 bytes, not 3000"), "{}", why(&store, "cut:1"));
    let reference = Reference::parse("cut:1", &Default::default()).expect("a name");
    assert!(matches!(store.open_model(&reference), Err(StoreError::Broken { .. })));
    assert!(matches!(store.publish(&name("new:1"), &manifest), Err(StoreError::WrongSize { .. })));
    std::fs::remove_file(&blob).expect("it is there");
    assert!(why(&store, "cut:1").contains("missing"));
    assert!(matches!(store.publish(&name("new:1"), &manifest), Err(StoreError::MissingBlob(_))));
    // A manifest that is none holds the blobs of others back from being removed.
    let path = dir.path().join("store/manifests").join(name("bad:1").path());
    std::fs::write(&path, b"{").expect("writable");
    assert!(why(&store, "bad:1").contains("no JSON"));
    store.put_bytes(b"nobody has this").expect("there is room");
    drop(store);
    let store = self::store(dir.path());
    let pruned = store.prune(false).expect("readable");
    assert_eq!((pruned.blobs, pruned.unreadable.len()), (0, 1));
    store.remove(&name("bad:1")).expect("what is broken can be removed");
    assert_eq!(store.prune(true).expect("readable").blobs, 1);
    assert_eq!(store.prune(false).expect("readable").blobs, 1);
    assert_eq!(store.prune(false).expect("readable").blobs, 0);
    // The blob comes again: whoever names it is whole again.
    store.put_bytes(&weights).expect("there is room");
    assert_eq!(why(&store, "cut:1"), "");
}

#[test]
fn a_damaged_blob_is_not_trusted_by_who_has_not_verified_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let weights = content("weights", 3000);
    let layer = put(&store(dir.path()), MediaType::Model, &weights);
    let other = store(dir.path());
    let config = put(&other, MediaType::Config, b"{}");
    let blob = other.blob(&layer.digest).expect("readable").expect("it is there");
    std::fs::write(&blob, content("other", 3000)).expect("writable");
    let manifest = Manifest::new(config, vec![layer]);
    assert!(matches!(other.publish(&name("m:1"), &manifest), Err(StoreError::WrongContent { .. })));
    // Who looks closer finds it, and may stage it anew though it holds the damaged one.
    assert!(!other.holds(&manifest.layers[0].digest, Some(3000)).expect("readable"));
    let expect = Expect { digest: Some(manifest.layers[0].digest), size: Some(3000), source: None };
    other.stage(expect).expect("nobody else writes it");
    // To put the right bytes there repairs it, though there is a file of that name and size.
    assert_eq!(other.put_bytes(&weights).expect("there is room"), manifest.layers[0].digest);
    assert!(other.holds(&manifest.layers[0].digest, Some(3000)).expect("readable"));
    other.publish(&name("m:1"), &manifest).expect("it is whole");
}

#[test]
fn streams_write_chunks_in_any_order() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    let bytes = content("parallel", 10_000);
    let expect = Expect { digest: Some(Digest::of(&bytes)), size: Some(10_000), source: None };
    let staged = store.stage(expect.clone()).expect("there is room");
    let missing = staged.journal().missing();
    std::thread::scope(|scope| {
        for ranges in missing.rchunks(3) {
            let (staged, bytes) = (&staged, &bytes);
            scope.spawn(move || {
                for range in ranges.iter().rev() {
                    for at in range.clone().step_by(100) {
                        let end = (at + 100).min(range.end);
                        staged.write_at(at, &bytes[at as usize..end as usize]).expect("in order");
                    }
                }
            });
        }
    });
    assert_eq!(staged.journal().missing(), []);
    assert!(matches!(staged.write_at(10_000, b"x"), Err(StoreError::OutOfOrder { .. })), "beyond the end");
    assert!(matches!(staged.write_at(500, b"x"), Err(StoreError::OutOfOrder { .. })), "not its beginning");
    // While one writes it, nobody else does.
    assert!(matches!(store.session().stage(expect), Err(StoreError::Busy(_))));
    assert_eq!(staged.commit().expect("whole"), Digest::of(&bytes));
}

#[test]
fn what_is_taken_up_and_what_is_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    let bytes = content("again", 5000);
    let source = |version: Option<&str>| {
        let version = version.map(str::to_owned);
        Some(SourceId { url: "https://h/x".into(), version })
    };
    let digest = Digest::of(&bytes);
    let start = |expect: &Expect| {
        let staged = store.stage(expect.clone()).expect("there is room");
        staged.write_at(0, &bytes[..2500]).expect("writable");
    };
    let there = |expect: &Expect| store.stage(expect.clone()).expect("there is room").journal().done_bytes();
    // With a digest whatever source it comes from; without one, the same version of the same source.
    let known = Expect { digest: Some(digest), size: Some(5000), source: source(Some("1")) };
    start(&known);
    assert_eq!(there(&Expect { source: source(Some("2")), ..known.clone() }), 2 * CHUNK_BYTES);
    assert_eq!(there(&Expect { size: Some(5001), ..known.clone() }), 0, "another size is another file");
    let unknown = Expect { digest: None, size: Some(5000), source: source(Some("1")) };
    start(&unknown);
    assert_eq!(there(&unknown), 2 * CHUNK_BYTES);
    assert_eq!(
        there(&Expect { source: source(Some("2")), ..unknown.clone() }),
        0,
        "it changed at its source"
    );
    let unversioned = Expect { source: source(None), ..unknown.clone() };
    start(&unversioned);
    assert_eq!(there(&unversioned), 0, "whether it changed is not known");
    // A chunk that is not what the journal says is fetched again.
    start(&unknown);
    let tmp = dir.path().join("store/tmp");
    let partial = std::fs::read_dir(&tmp).expect("readable").map(|e| e.expect("readable").path());
    let partial = partial
        .into_iter()
        .find(|p| p.to_string_lossy().contains("source-") && p.extension().is_some_and(|e| e == "partial"));
    let partial = partial.expect("it is there");
    let mut damaged = std::fs::read(&partial).expect("readable");
    damaged[10] ^= 1;
    std::fs::write(&partial, damaged).expect("writable");
    assert_eq!(store.stage(unknown.clone()).expect("there is room").journal().missing()[0], 0..CHUNK_BYTES);
    // Wrong bytes are found at the end, and nothing of them stays.
    let staged = store.stage(known.clone()).expect("there is room");
    staged.write_at(0, &content("wrong", 5000)).expect("writable");
    assert!(matches!(staged.commit(), Err(StoreError::WrongContent { .. })));
    assert_eq!(there(&known), 0);
    // A size that nobody knew.
    let staged = store.stage(Expect { size: None, ..unknown }).expect("there is room");
    staged.write_at(0, &bytes).expect("writable");
    assert_eq!(staged.commit().expect("whole"), digest);
    // Not all of it.
    let staged = store.stage(Expect { size: Some(10), ..Expect::default() }).expect("there is room");
    staged.write_at(0, b"12345").expect("writable");
    assert!(matches!(staged.commit(), Err(StoreError::WrongSize { .. })));
}

#[test]
fn only_regular_files_are_taken_in() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    let mut none = |_, _| ();
    assert!(matches!(store.put_file(dir.path(), &mut none), Err(StoreError::NotAFile(_))));
    assert!(matches!(
        store.put_file(std::path::Path::new("/dev/zero"), &mut none),
        Err(StoreError::NotAFile(_))
    ));
    assert!(store.put_file(&dir.path().join("none"), &mut none).is_err());
    let file = dir.path().join("x");
    std::fs::write(&file, b"abc").expect("writable");
    assert_eq!(store.put_file(&file, &mut none).expect("there is room"), (Digest::of(b"abc"), 3));
}

/// A manifest that nobody could read again would keep every blob of the store from being removed.
#[test]
fn what_could_not_be_read_again_is_not_published() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    let config = put(&store, MediaType::Config, b"{}");
    let weights = put(&store, MediaType::Model, b"weights");
    let license = put(&store, MediaType::License, &content("a long licence", (1 << 20) + 1));
    let good = || Manifest::new(config.clone(), vec![weights.clone()]);
    let annotated = |key: &str, value: &str| {
        let mut manifest = good();
        manifest.annotations.insert(key.to_owned(), value.to_owned());
        manifest
    };
    let mut crowded = good();
    crowded.annotations = (0..65).map(|i| (i.to_string(), String::new())).collect();
    let named = weights.clone().with_file(&"x".repeat(4097));
    for (manifest, part) in [
        (Manifest::new(config.clone(), vec![weights.clone(); 1025]), "more than 1024 layers"),
        (Manifest::new(config.clone(), vec![named]), "`dev.ingle.file` has 4097 bytes"),
        (annotated("k", &"x".repeat(4097)), "`k` has 4097 bytes"),
        (annotated(&"k".repeat(4097), "x"), "has 4097 bytes"),
        (crowded, "more than 64 annotations"),
        (Manifest::new(config.clone(), vec![weights.clone(), license]), "the most of a text"),
    ] {
        let error = store.publish(&name("m:1"), &manifest).expect_err(part);
        assert!(matches!(error, StoreError::Unfit { .. }) && error.to_string().contains(part), "{error}");
    }
    for manifest in
        [annotated("k", &"x".repeat(4096)), Manifest::new(config.clone(), vec![weights.clone(); 1024])]
    {
        store.publish(&name("m:1"), &manifest).expect("it can be read again");
        assert_eq!(store.manifest(&name("m:1")).expect("readable"), Some(manifest));
    }
    drop(store);
    let store = self::store(dir.path());
    let pruned = store.prune(false).expect("readable");
    assert_eq!((pruned.blobs, pruned.unreadable), (1, vec![]), "the licence goes");
    assert_eq!(store.remove(&name("m:1")).expect("it is there").blobs, 2);
}

/// What somebody says of a file's size costs no memory before bytes of it are there.
#[test]
fn files_of_more_chunks_than_a_journal_holds_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    let expect = Expect { digest: Some(Digest::of(b"x")), size: Some(i64::MAX as u64), source: None };
    let error = store.stage(expect).expect_err("no journal holds them");
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
}

#[test]
fn what_is_written_becomes_a_blob_or_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    let bytes = content("written", 5000);
    let left_over = || std::fs::read_dir(dir.path().join("store/tmp")).expect("it is there").count();
    let write = |size: u64, bytes: &[u8]| {
        store.put_written(size, |out| bytes.chunks(700).try_for_each(|piece| out.write_all(piece)))
    };
    assert_eq!(write(5000, &bytes).expect("there is room"), Digest::of(&bytes));
    assert!(matches!(write(5001, &bytes), Err(StoreError::WrongSize { .. })));
    assert!(matches!(write(4999, &bytes), Err(StoreError::OutOfOrder { .. })));
    assert!(matches!(write(1 << 60, &bytes), Err(StoreError::NoSpace { .. })), "before anything is written");
    let failed = store.put_written(5000, |_| Err(std::io::Error::other("its source is gone")));
    assert!(failed.expect_err("it failed").to_string().contains("its source is gone"));
    assert_eq!(left_over(), 0);
}

/// Several threads read, and what they tell goes up.
#[test]
fn progress_of_a_verification_goes_up() {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path());
    for i in 0..40 {
        put(&store, MediaType::Model, &content(&format!("blob {i}"), 3000));
    }
    let (calls, last) = (AtomicUsize::new(0), Mutex::new((0, 0)));
    let progress = |done: u64, total: u64| {
        // Who is told first is not always first to look.
        if calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        let mut last = last.lock().expect("nobody panicked");
        assert!(done >= last.0, "{done} after {}", last.0);
        *last = (done, total);
    };
    store.verify(&[], &progress).expect("readable");
    assert_eq!(*last.lock().expect("nobody panicked"), (40 * 3000, 40 * 3000));
}

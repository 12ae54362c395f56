//! Models of others: shared stores, Ollama's, and the cache of Hugging Face's libraries. They are read, never written.

use std::path::Path;

use ingle_store::modelfile::Recipe;
use ingle_store::{
    Digest, Layer, Manifest, MediaType, Origin, Reference, State, Store, StoreConfig, StoreError,
};

use crate::invariants::tree;
use crate::scenarios::name;

fn open(config: StoreConfig) -> Store {
    Store::open(config).expect("it has a folder")
}

/// A store with one model.
fn filled(root: &Path, model: &str, weights: &[u8]) -> Manifest {
    let store = open(StoreConfig { root: root.to_owned(), ..StoreConfig::default() });
    let put = |media_type, bytes: &[u8]| {
        let digest = store.put_bytes(bytes).expect("there is room");
        Layer::new(media_type, digest, bytes.len() as u64)
    };
    let manifest = Manifest::new(put(MediaType::Config, b"{}"), vec![put(MediaType::Model, weights)]);
    store.publish(&name(model), &manifest).expect("all is there");
    manifest
}

/// A file of a cache of Hugging Face's, as its libraries lay it out: a link to a blob named by its digest.
#[cfg(unix)]
fn cached(home: &Path, repo: &str, commit: &str, file: &str, bytes: &[u8]) {
    let folder = home.join("hub").join(repo);
    let snapshot = folder.join("snapshots").join(commit);
    let path = snapshot.join(file);
    for dir in [folder.join("blobs"), folder.join("refs"), path.parent().expect("it has one").to_owned()] {
        std::fs::create_dir_all(dir).expect("writable");
    }
    let blob = folder.join("blobs").join(Digest::of(bytes).hex());
    std::fs::write(&blob, bytes).expect("writable");
    std::fs::write(folder.join("refs/main"), commit).expect("writable");
    std::os::unix::fs::symlink(&blob, path).expect("writable");
}

#[cfg(unix)]
#[test]
fn all_places_are_listed_and_none_is_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = |place: &str| dir.path().join(place);
    filled(&root("own"), "mine:1", b"mine");
    filled(&root("shared"), "theirs:1", b"theirs");
    filled(&root("shared"), "mine:1", b"another of that name");
    filled(&root("ollama"), "old:1", b"old");
    let home = root("hf");
    cached(&home, "models--u--R-GGUF", "abc1", "R-Q4_K_M.gguf", b"four");
    cached(&home, "models--u--R-GGUF", "abc1", "R-Q8_0.gguf", b"eight");
    cached(&home, "models--u--R-GGUF", "abc1", "mmproj-F16.gguf", b"eyes");
    cached(&home, "models--u--big", "abc2", "Q2_K/big-Q2_K-00001-of-00002.gguf", b"1");
    cached(&home, "models--u--big", "abc2", "Q2_K/big-Q2_K-00002-of-00002.gguf", b"2");
    cached(&home, "models--u--cut", "abc3", "cut-Q4_0-00001-of-00003.gguf", b"1");
    cached(&home, "models--u--gone", "abc4", "gone-q4_0.gguf", b"gone");
    std::fs::remove_file(home.join("hub/models--u--gone/blobs").join(Digest::of(b"gone").hex()))
        .expect("it is there");
    cached(&home, "datasets--u--d", "abc5", "x.gguf", b"no model");
    cached(&home, "models--u--later", "..", "x.gguf", b"a ref that leads out");
    let places = ["shared", "ollama", "hf"].map(|place| (root(place), tree(&root(place))));

    let store = open(StoreConfig {
        root: root("own"),
        shared: vec![root("shared"), root("nowhere")],
        hf_home: Some(home.clone()),
        ollama: Some(root("ollama")),
    });
    let told: Vec<(String, bool)> = store
        .list()
        .expect("readable")
        .iter()
        .map(|e| (e.name.to_string(), e.state == State::Ready))
        .collect();
    let told: Vec<(&str, bool)> = told.iter().map(|(name, is_ready)| (name.as_str(), *is_ready)).collect();
    assert_eq!(
        told,
        [
            ("mine:1", true),
            ("theirs:1", true),
            ("old:1", true),
            ("hf.co/u/R-GGUF:Q4_K_M", true),
            ("hf.co/u/R-GGUF:Q8_0", true),
            ("hf.co/u/big:Q2_K", true),
            ("hf.co/u/cut:Q4_0", false),
            ("hf.co/u/gone:Q4_0", false),
        ]
    );

    let open_model = |text: &str| {
        let reference = Reference::parse(text, &Default::default()).expect("a reference");
        store.open_model(&reference)
    };
    let weights = |text: &str| {
        let model = open_model(text).expect("it is whole").unwrap_or_else(|| panic!("{text} is there"));
        let read = |path: &std::path::PathBuf| {
            String::from_utf8(std::fs::read(path).expect("readable")).expect("text")
        };
        (model.model.iter().map(read).collect::<Vec<_>>().join("+"), model.projector.is_some())
    };
    assert_eq!(weights("mine:1"), ("mine".into(), false));
    assert_eq!(weights("theirs:1"), ("theirs".into(), false));
    assert_eq!(weights("old:1"), ("old".into(), false));
    assert_eq!(weights("hf.co/u/R-GGUF:q8_0"), ("eight".into(), true));
    assert_eq!(weights("hf.co/u/R-GGUF"), ("four".into(), true), "Q4_K_M is what is taken of several");
    assert_eq!(weights("hf.co/u/R-GGUF/R-Q8_0.gguf"), ("eight".into(), true));
    assert_eq!(weights("hf.co/u/big"), ("1+2".into(), false));
    assert!(open_model("hf.co/u/R-GGUF:Q5_K_M").expect("readable").is_none());
    assert!(open_model("nothing:1").expect("readable").is_none());
    assert!(matches!(open_model("hf.co/u/cut:Q4_0"), Err(StoreError::Broken { .. })));

    let verdicts = store.verify(&[], &|_, _| ()).expect("readable");
    let bad: Vec<String> = verdicts
        .iter()
        .filter(|verdict| !verdict.findings.is_empty())
        .map(|verdict| verdict.name.as_ref().expect("a model").to_string())
        .collect();
    assert_eq!(bad, ["hf.co/u/cut:Q4_0", "hf.co/u/gone:Q4_0"]);

    // What is only read cannot be removed; copied, it is ours.
    for (model, origin) in [("theirs:1", "shared"), ("old:1", "ollama"), ("hf.co/u/R-GGUF:Q4_K_M", "hf")] {
        let error = store.remove(&name(model)).expect_err("it is only read");
        assert!(
            matches!(error, StoreError::ReadOnly { .. }) && error.to_string().contains(origin),
            "{error}"
        );
    }
    store.copy(&name("hf.co/u/R-GGUF:Q4_K_M"), &name("four:1")).expect("it is whole");
    store.copy(&name("old:1"), &name("kept:1")).expect("it is whole");
    store.copy(&name("theirs:1"), &name("linked:1")).expect("it is whole");
    assert_eq!(store.find(&name("four:1")).expect("readable").expect("it is there").origin, Origin::Own);
    store.prune(false).expect("readable");
    for (place, before) in places {
        assert_eq!(tree(&place), before, "{} is as it was", place.display());
    }
    // What came from Ollama's store or a cache does not need it any more; what came from a shared store does.
    for place in ["ollama", "hf"] {
        std::fs::remove_dir_all(root(place)).expect("it is there");
    }
    assert_eq!(weights("four:1"), ("four".into(), true));
    assert_eq!(weights("kept:1"), ("old".into(), false));
    assert_eq!(weights("linked:1"), ("theirs".into(), false));
    assert!(!root("own/blobs").join(Digest::of(b"theirs").file_name()).exists(), "it is not there twice");
}

/// The name of a file of four bytes may say that it is one of four milliards.
#[cfg(unix)]
#[test]
fn parts_that_a_name_only_claims_cost_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let home = dir.path().join("hf");
    cached(&home, "models--u--most", "abc1", "m-Q4_0-00001-of-99999.gguf", b"GGUF");
    cached(&home, "models--u--over", "abc1", "m-00001-of-4294967295.gguf", b"GGUF");
    let config = StoreConfig { root: dir.path().join("own"), hf_home: Some(home), ..StoreConfig::default() };
    let found: Vec<(String, State)> =
        open(config).list().expect("readable").into_iter().map(|e| (e.name.to_string(), e.state)).collect();
    let lacking = State::Broken("1 of its 99999 parts are there".to_owned());
    // No split model has so many: it is a model by itself.
    let whole = "hf.co/u/over:m-00001-of-4294967295".to_owned();
    assert_eq!(found, [("hf.co/u/most:Q4_0".to_owned(), lacking), (whole, State::Ready)]);
}

#[test]
fn folders_and_files() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = open(StoreConfig { root: dir.path().join("own"), ..StoreConfig::default() });
    let put = |file: &str| {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
        std::fs::write(&path, b"x").expect("writable");
    };
    for file in [
        "one/m.gguf",
        "one/mmproj.gguf",
        "split/m-00001-of-00002.gguf",
        "split/m-00002-of-00002.gguf",
        "two/a.gguf",
        "two/b.gguf",
        "st/model.safetensors",
        "none/x.txt",
    ] {
        put(file);
    }
    let check = |path: &str, expected: Result<&str, &str>| {
        let found = store.open_model(&Reference::Path(dir.path().join(path)));
        match (found, expected) {
            (Ok(Some(model)), Ok(file)) => assert_eq!(model.model, [dir.path().join(file)], "{path}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{path}: {error}"),
            (found, _) => panic!("{path}: {found:?}"),
        }
    };
    check("one", Ok("one/m.gguf"));
    check("one/m.gguf", Ok("one/m.gguf"));
    check("split", Ok("split/m-00001-of-00002.gguf"));
    check("two", Err("several models"));
    check("st", Err("ingle convert"));
    check("none", Err("no GGUF file"));
    check("nowhere", Err("cannot read"));
}

/// Our store may be Ollama's own, which may have names that we do not allow: their blobs stay.
#[test]
fn blobs_of_names_that_only_others_allow_stay() {
    for (place, content, is_kept, is_named) in [
        ("registry.ollama.ai/library/m/1.", None, true, false),
        ("_host/library/m/1", None, true, false),
        ("registry.ollama.ai/library/m/1.", Some("cut off"), true, true),
        // What is no manifest and no name either.
        ("registry.ollama.ai/library/m/.DS_Store", Some("Bud1"), false, false),
        ("registry.ollama.ai/library/notes", Some("not where manifests are"), false, false),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (root, manifests) = (dir.path().join("store"), dir.path().join("store/manifests"));
        filled(&root, "kept:1", b"kept");
        let manifest = filled(&root, "theirs:1", b"theirs");
        let (from, to) = (manifests.join(name("theirs:1").path()), manifests.join(place));
        std::fs::create_dir_all(to.parent().expect("it has one")).expect("writable");
        std::fs::rename(&from, &to).expect("writable");
        if let Some(content) = content {
            std::fs::write(&to, content).expect("writable");
        }
        let store = open(StoreConfig { root, ..StoreConfig::default() });
        for is_dry in [true, false] {
            let pruned = store.prune(is_dry).expect("readable");
            assert_eq!(pruned.blobs, usize::from(!is_kept), "{place} {content:?}");
            let named: Vec<&Path> = pruned.unreadable.iter().map(|found| found.path.as_path()).collect();
            assert_eq!(named, if is_named { vec![to.as_path()] } else { vec![] }, "{place} {content:?}");
        }
        let expected = if is_named { 0 } else { 2 - usize::from(is_kept) };
        assert_eq!(
            store.remove(&name("kept:1")).expect("it is there").blobs,
            expected,
            "{place} {content:?}"
        );
        let theirs = store.blob(&manifest.layers[0].digest).expect("readable");
        assert_eq!(theirs.is_some(), is_kept, "{place} {content:?}");
    }
}

/// What is damaged where it stands is not taken in as if it were another model.
#[cfg(unix)]
#[test]
fn damaged_files_of_others_are_not_taken_in() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = |place: &str| dir.path().join(place);
    let header = ingle_testkit::tiny::TinySpec::new(ingle_testkit::tiny::Arch::Llama).bytes();
    filled(&root("ollama"), "old:1", &header);
    cached(&root("hf"), "models--u--R-GGUF", "abc1", "R-Q4_K_M.gguf", &header);
    let digest = Digest::of(&header);
    let places = [
        ("old:1", root("ollama/blobs").join(digest.file_name())),
        ("hf.co/u/R-GGUF:Q4_K_M", root("hf/hub/models--u--R-GGUF/blobs").join(digest.hex())),
    ];
    let store = open(StoreConfig {
        root: root("own"),
        shared: Vec::new(),
        hf_home: Some(root("hf")),
        ollama: Some(root("ollama")),
    });
    for is_damaged in [true, false] {
        for (model, path) in &places {
            let mut bytes = header.clone();
            if is_damaged {
                *bytes.last_mut().expect("it has some") ^= 1;
            }
            std::fs::write(path, &bytes).expect("writable");
            let session = store.session();
            let copied = session.copy(&name(model), &name("copied:1")).map(drop);
            let reference = Reference::parse(model, &Default::default()).expect("a reference");
            let taken = Recipe::default().upon(&session, &reference, &mut |_, _, _| ()).map(drop);
            for outcome in [copied, taken] {
                match outcome {
                    Ok(()) => assert!(!is_damaged, "{model}"),
                    Err(error) => {
                        assert!(is_damaged && error.to_string().contains("is damaged"), "{model}: {error}")
                    }
                }
            }
            assert_eq!(store.find(&name("copied:1")).expect("readable").is_some(), !is_damaged, "{model}");
        }
    }
}

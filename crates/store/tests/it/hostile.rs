//! Names and digests from whoever means harm, at every way in; nothing outside the store changes.

use ingle_store::{Catalogue, Digest, Layer, Manifest, MediaType, ModelName, Reference, Store, StoreConfig};
use ingle_testkit::hostile::{texts as hostile, tree};

use crate::scenarios::name;

#[test]
fn no_hostile_text_is_a_digest() {
    for text in hostile(1000) {
        assert!(text.parse::<Digest>().is_err(), "{text:?}");
        let is_file_name = text == Digest::of(b"x").file_name();
        assert_eq!(Digest::from_file_name(&text).is_some(), is_file_name, "{text:?}");
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":{},"size":1}},"layers":[]}}"#,
            serde_json::Value::from(text.as_str())
        );
        assert!(Manifest::parse(manifest.as_bytes()).is_err(), "{text:?}");
    }
}

/// A text that happens to be a name is one of four plain parts, and everything that is done with it stays inside.
#[test]
fn whatever_is_a_name_stays_inside() {
    let dir = crate::scenarios::memory_dir();
    let outside = dir.path().join("outside");
    std::fs::create_dir_all(outside.join("etc")).expect("writable");
    for file in ["passwd", "etc/passwd", "latest", "manifests"] {
        std::fs::write(outside.join(file), file).expect("writable");
    }
    let root = outside.join("store");
    let store =
        Store::open(StoreConfig { root: root.clone(), ..StoreConfig::default() }).expect("it has a folder");
    let put = |media_type, bytes: &[u8]| {
        let digest = store.put_bytes(bytes).expect("there is room");
        Layer::new(media_type, digest, bytes.len() as u64)
    };
    let manifest = Manifest::new(put(MediaType::Config, b"{}"), vec![put(MediaType::Model, b"weights")]);
    store.publish(&name("good:1"), &manifest).expect("all is there");
    let not_ours = || tree(&outside, &root);
    let before = not_ours();
    let mut names = 0;
    for text in hostile(1000) {
        let references = [
            text.clone(),
            format!("hf.co/{text}"),
            format!("hf.co/u/r/{text}.gguf"),
            format!("https://h/{text}"),
        ];
        let parsed = references.iter().filter_map(|text| Reference::parse(text, &Catalogue::default()).ok());
        let parts = [["h", "n", "m"], ["h", "n", "t"], ["h", "m", "t"], ["n", "m", "t"]];
        let made = parts.iter().enumerate().filter_map(|(i, [a, b, c])| {
            let made = match i {
                0 => ModelName::new(a, b, c, &text),
                1 => ModelName::new(a, b, &text, c),
                2 => ModelName::new(a, &text, b, c),
                _ => ModelName::new(&text, a, b, c),
            };
            made.ok()
        });
        for name in
            text.parse::<ModelName>().ok().into_iter().chain(made).chain(parsed.filter_map(|r| r.name()))
        {
            names += 1;
            let path = name.path();
            assert_eq!(path.components().count(), 4, "{text:?}");
            assert!(
                path.components().all(|part| matches!(part, std::path::Component::Normal(_))),
                "{text:?}"
            );
            let _ = (
                store.find(&name),
                store.manifest(&name),
                store.verify(std::slice::from_ref(&name), &|_, _| ()),
            );
            let _ = store.publish(&name, &manifest);
            let _ = store.copy(&name, &crate::scenarios::name("copied:1"));
            let _ = store.remove(&name);
        }
    }
    assert!(names > 300, "{names} of the texts are names");
    store.prune(false).expect("readable");
    assert_eq!(not_ours(), before, "something outside the store has changed");
    assert!(store.find(&name("good:1")).expect("readable").is_some());
}

/// Names that stand where others keep their models: folders and files of an Ollama store, of a shared store and of a cache
/// of Hugging Face's, with what a hostile archive could have put there. They are listed or passed over; nothing is
/// written there or anywhere else, and nothing hangs.
#[cfg(unix)]
#[test]
fn hostile_names_in_the_places_of_others() {
    use std::os::unix::fs::symlink;

    let dir = crate::scenarios::memory_dir();
    let at = |path: &str| dir.path().join(path);
    let write = |path: &std::path::Path, bytes: &[u8]| {
        let parent = path.parent().expect("it has one");
        // What the file system itself refuses cannot be there.
        let _ = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(path, bytes));
    };
    write(&at("outside/secret"), b"precious");
    let weights = b"weights";
    let blob = Digest::of(weights);
    let manifest = Manifest::new(
        Layer::new(MediaType::Config, Digest::of(b"{}"), 2),
        vec![Layer::new(MediaType::Model, blob, 7)],
    );
    for place in ["ollama", "shared"] {
        write(&at(place).join("blobs").join(blob.file_name()), weights);
        write(&at(place).join("blobs").join(Digest::of(b"{}").file_name()), b"{}");
        // A blob that leads elsewhere, and one that never ends.
        let led = at(place).join("blobs").join(Digest::of(b"led").file_name());
        symlink(at("outside/secret"), led).expect("writable");
        symlink("/dev/zero", at(place).join("blobs").join(Digest::of(b"zero").file_name()))
            .expect("writable");
    }
    for (i, text) in hostile(1000).into_iter().enumerate() {
        if text.contains(['/', '\0']) || text.len() > 200 {
            continue;
        }
        let parts = [
            [text.as_str(), "n", "m", "t"],
            ["h", &text, "m", "t"],
            ["h", "n", &text, "t"],
            ["h", "n", "m", &text],
        ];
        for place in ["ollama", "shared"] {
            let path = at(place).join("manifests").join(parts[i % 4].iter().collect::<std::path::PathBuf>());
            // Some are whole, some name blobs by texts that are no digests.
            let bytes = manifest.to_bytes();
            let spoilt = String::from_utf8(bytes.clone()).expect("JSON").replace(&blob.to_string(), &text);
            write(&path, if i % 3 == 0 { spoilt.as_bytes() } else { &bytes });
        }
        let repo =
            at("hf/hub").join(format!("models--{}--{text}", if i % 2 == 0 { "u" } else { text.as_str() }));
        write(&repo.join("refs/main"), if i % 2 == 0 { b"c0" } else { text.as_bytes() });
        write(&repo.join("snapshots/c0").join(format!("{text}.gguf")), weights);
        let _ = symlink(at("outside/secret"), repo.join("snapshots/c0/led.gguf"));
        let _ = symlink("/dev/zero", repo.join("snapshots/c0/zero.gguf"));
    }
    for (place, digest) in [("h/n/m/led", Digest::of(b"led")), ("h/n/m/zero", Digest::of(b"zero"))] {
        let manifest = Manifest::new(
            Layer::new(MediaType::Config, Digest::of(b"{}"), 2),
            vec![Layer::new(MediaType::Model, digest, 8)],
        );
        write(&at("ollama/manifests").join(place), &manifest.to_bytes());
    }
    symlink("/dev/zero", at("ollama/manifests/h/n/m/endless")).expect("writable");
    symlink("..", at("ollama/manifests/h/n/loop")).expect("writable");
    let before = tree(dir.path(), &at("own"));
    assert!(before.len() > 2000, "{}", before.len());
    let store = Store::open(StoreConfig {
        root: at("own"),
        shared: vec![at("shared")],
        ollama: Some(at("ollama")),
        hf_home: Some(at("hf")),
    })
    .expect("a folder");
    let list = store.list().expect("readable");
    assert!(list.len() > 20, "{}", list.len());
    for entry in &list {
        let name = &entry.name;
        assert!(name.to_string().parse().as_ref() == Ok(name), "{name}");
        let _ = (store.find(name), store.manifest(name), store.describe(name));
        let _ = store.open_model(&Reference::Registry(name.clone()));
        let _ = store.copy(name, &crate::scenarios::name("copied:1"));
        store.remove(name).expect_err("what others have is not ours to remove");
    }
    store.verify(&[], &|_, _| ()).expect("readable");
    store.prune(false).expect("readable");
    assert!(tree(dir.path(), &at("own")) == before, "something outside the store has changed");
}

/// Sizes that are more together than can be counted.
#[test]
fn sizes_that_others_claim_are_added_up() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let shared = dir.path().join("shared");
    let layer = |text: &str| Layer::new(MediaType::Model, Digest::of(text.as_bytes()), i64::MAX as u64);
    let config = Layer::new(MediaType::Config, Digest::of(b"{}"), 2);
    let manifest = Manifest::new(config, ["a", "b", "c"].map(layer).to_vec());
    let path = shared.join("manifests").join(name("vast:1").path());
    std::fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
    std::fs::write(path, manifest.to_bytes()).expect("writable");
    let config = StoreConfig { root: dir.path().join("own"), shared: vec![shared], ..StoreConfig::default() };
    let store = Store::open(config).expect("it has a folder");
    for names in [vec![], vec![name("vast:1")]] {
        let verdicts = store.verify(&names, &|_, _| ()).expect("readable");
        assert_eq!(verdicts.len(), 1);
        assert_eq!((verdicts[0].bytes, verdicts[0].findings.len()), (u64::MAX, 4), "{names:?}");
    }
    assert_eq!(store.list().expect("readable")[0].size, Some(u64::MAX));
}

/// A link in place of a partial file is not written through.
#[cfg(unix)]
#[test]
fn links_are_not_written_through() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let victim = dir.path().join("victim");
    std::fs::write(&victim, b"precious").expect("writable");
    let store = Store::open(StoreConfig { root: dir.path().join("store"), ..StoreConfig::default() })
        .expect("a folder");
    store.put_bytes(b"so that there are folders").expect("there is room");
    let digest = Digest::of(b"content");
    for ending in ["partial", "journal"] {
        let link = dir.path().join(format!("store/tmp/{}.{ending}", digest.file_name()));
        std::os::unix::fs::symlink(&victim, link).expect("writable");
    }
    let blob = dir.path().join("store/blobs").join(digest.file_name());
    std::os::unix::fs::symlink(&victim, &blob).expect("writable");
    let expect = ingle_store::Expect { digest: Some(digest), size: Some(7), source: None };
    let staged = store.stage(expect).expect("there is room");
    staged.write_at(0, b"content").expect("writable");
    staged.commit().expect("it is whole");
    assert_eq!(std::fs::read(&victim).expect("readable"), b"precious");
    assert_eq!(std::fs::read(&blob).expect("readable"), b"content");
    assert!(!blob.is_symlink());
}

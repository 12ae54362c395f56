//! Names and digests from whoever means harm, at every way in; nothing outside the store changes.

use ingle_store::{Catalogue, Digest, Layer, Manifest, MediaType, ModelName, Reference, Store, StoreConfig};
use ingle_testkit::rng::Rng;

use crate::invariants::tree;
use crate::scenarios::name;

/// What hostile names and digests are made of.
const PIECES: &[&str] = &[
    "..",
    ".",
    "/",
    "\\",
    "../..",
    "/etc/passwd",
    "sha256:",
    "sha256-",
    "SHA256:",
    "%2e%2e%2f",
    "\0",
    "\n",
    " ",
    "~",
    "$HOME",
    "`id`",
    "${IFS}",
    "con",
    "C:",
    "C:\\",
    "\\\\host\\share",
    "\u{202e}",
    "\u{ff0f}",
    "ü",
    "aa",
    "0",
    "f",
    "deadbeef",
    "library",
    "registry.ollama.ai",
    "hf.co",
    ":",
    "::",
    "@",
    "#",
    "?",
    "*",
    "|",
    ";",
    "&&",
    "-rf",
    "--",
    "latest",
    "manifests",
    "blobs",
    "tmp",
    "locks",
    "\u{7f}",
    "\t",
    "\r\n",
    "....//",
    "..;/",
    "file://",
    "http://",
];

fn hostile(n: usize) -> Vec<String> {
    let mut rng = Rng::new(56);
    let mut list: Vec<String> = PIECES.iter().map(|&piece| piece.to_owned()).collect();
    let good = Digest::of(b"x").to_string();
    for (from, to) in
        [("a", "A"), ("sha256:", "sha256-"), ("sha256:", "sha512:"), ("sha256:", ""), (":", ":../")]
    {
        list.push(good.replace(from, to));
    }
    list.extend([
        format!("{good}0"),
        good[..70].to_owned(),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}/../x"),
    ]);
    list.extend([
        "x".repeat(100_000),
        format!("sha256:{}", "g".repeat(64)),
        format!("sha256:{}", "ａ".repeat(64)),
    ]);
    while list.len() < n {
        let pieces: Vec<&str> = (0..1 + rng.below(6)).map(|_| PIECES[rng.below(PIECES.len())]).collect();
        list.push(pieces.concat());
    }
    list
}

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
    let not_ours = || {
        let mut files = tree(&outside);
        files.retain(|path, _| !path.starts_with(&root));
        files
    };
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

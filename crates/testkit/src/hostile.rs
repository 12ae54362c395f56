//! Names and digests as somebody who means harm writes them, and whether anything outside of a folder changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ingle_store::Digest;

use crate::rng::Rng;

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

/// So many texts, of which each is to be refused, or to be taken as a harmless name: the same ones every time. Among them
/// are all spellings of a digest that are none.
pub fn texts(n: usize) -> Vec<String> {
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

/// All that is below a folder, but not below `but`: files by their contents, links by where they lead.
///
/// # Panics
/// If something of it cannot be read.
pub fn tree(folder: &Path, but: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let about = std::fs::symlink_metadata(&path).expect("it is there");
            if path == but {
                continue;
            }
            let what = if about.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if about.is_symlink() {
                std::fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            } else if about.is_file() {
                std::fs::read(&path).expect("it can be read")
            } else {
                b"neither file nor folder".to_vec()
            };
            found.insert(path, what);
        }
    }
    found
}

//! Nothing but this crate opens connections to elsewhere (V62), and nothing starts other programs (V66).

use std::path::{Path, PathBuf};

/// What opens a connection. Written apart, so that this file does not name them.
const CONSTRUCTORS: [&[&str]; 7] = [
    &["TcpStream::", "connect"],
    &["UdpSocket::", "bind"],
    &["reqwest", "::"],
    &["ureq", "::"],
    &["HttpConnector", "::"],
    &["hyper_util::client", "::"],
    &["lookup_", "host"],
];

/// Crates that may: this one, and those that only developers and tests use.
const MAY: [&str; 4] = ["egress", "testkit", "fuzzing", "xtask"];

/// Files that may, with the reason.
const EXCEPTIONS: [(&str, &str); 1] = [(
    "eval/src/load/http.rs",
    "the load generator asks the server that its operator names, and nothing else",
)];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What starts another program. Written apart, so that this file does not name them.
const SPAWNERS: [&[&str]; 6] = [
    &["process::", "Command"],
    // A list of imports could have it: import what is meant by its whole path.
    &["process::", "{"],
    &["Command", "Ext"],
    &["posix_", "spawn"],
    &["exec", "vp"],
    &["libc::", "system"],
];

/// Files that may, with the reason. None of them has a shell.
const MAY_SPAWN: [(&str, &str); 1] = [(
    "cli/src/chat/editor.rs",
    "the editor that `EDITOR` of its user names, for a message of several lines",
)];

/// Crates that connect; they stand in the manifest of this crate alone.
const CLIENTS: [&str; 9] =
    ["reqwest", "ureq", "isahc", "curl", "attohttpc", "surf", "awc", "minreq", "hickory-resolver"];

/// The code of a file without its tests and comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The files of crates, apart from those of `but`, in which one of these words stands, as `FILE: WORD`.
fn found(words: &[&[&str]], but: &[&str], exceptions: &[(&str, &str)]) -> Vec<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut found = Vec::new();
    let mut n_files = 0;
    for entry in std::fs::read_dir(crates).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if but.contains(&name.as_str()) {
            continue;
        }
        let mut files = vec![entry.path().join("build.rs")];
        files.retain(|path| path.is_file());
        rust_files(&entry.path().join("src"), &mut files);
        for path in files.iter().filter(|path| path.file_name().is_none_or(|name| name != "tests.rs")) {
            n_files += 1;
            let shown = path.strip_prefix(crates).unwrap().to_string_lossy().replace('\\', "/");
            if shown.contains("/tests/") {
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for word in words.iter().map(|parts| parts.concat()) {
                let is_named = code(&text).any(|line| line.contains(&word));
                if is_named && !exceptions.iter().any(|(file, _)| *file == shown) {
                    found.push(format!("{shown}: {word}"));
                }
            }
        }
    }
    assert!(n_files > 100, "the sources were not found: {n_files} files");
    for (file, _) in exceptions {
        assert!(crates.join(file).is_file(), "{file} is gone: remove the exception");
    }
    found
}

#[test]
fn nobody_else_connects() {
    let found = found(&CONSTRUCTORS, &MAY, &EXCEPTIONS);
    assert!(found.is_empty(), "connections are opened by `egress` alone (with a permit): {found:?}");
}

#[test]
fn nobody_starts_other_programs() {
    let found = found(&SPAWNERS, &["testkit", "fuzzing", "xtask"], &MAY_SPAWN);
    assert!(found.is_empty(), "no name or address may come into a command line: {found:?}");
}

/// The other half of the above: who has no client cannot make one.
#[test]
fn nobody_else_has_a_client() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut n_manifests = 0;
    for entry in std::fs::read_dir(crates).unwrap().flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path().join("Cargo.toml")) else { continue };
        n_manifests += 1;
        let is_egress = entry.file_name() == "egress";
        // What only tests use comes last, under a heading of its own.
        let own = text.split("[dev-dependencies]").next().unwrap_or_default();
        for line in own.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let is_client = CLIENTS.contains(&name) || (name == "hyper-util" && line.contains("client"));
            assert!(is_egress || !is_client, "{}: {line}", entry.path().display());
        }
    }
    assert!(n_manifests > 15, "{n_manifests}");
}

//! Nothing but this crate opens connections to elsewhere.

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

#[test]
fn nobody_else_connects() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut found = Vec::new();
    let mut n_files = 0;
    for entry in std::fs::read_dir(crates).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if MAY.contains(&name.as_str()) {
            continue;
        }
        let mut files = Vec::new();
        rust_files(&entry.path().join("src"), &mut files);
        for path in files {
            n_files += 1;
            let shown = path.strip_prefix(crates).unwrap().to_string_lossy().replace('\\', "/");
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for parts in CONSTRUCTORS {
                let constructor = parts.concat();
                let is_named = code
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && line.contains(&constructor));
                if is_named && !EXCEPTIONS.iter().any(|(file, _)| *file == shown) {
                    found.push(format!("{shown}: {constructor}"));
                }
            }
        }
    }
    assert!(n_files > 100, "the sources were not found: {n_files} files");
    assert!(found.is_empty(), "connections are opened by `egress` alone (with a permit): {found:?}");
    for (file, _) in EXCEPTIONS {
        assert!(crates.join(file).is_file(), "{file} is gone: remove the exception");
    }
}

//! Every input that is kept, through its target.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join(target)
}

/// The files of a folder in order of their names; none where there is no folder.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    files.sort();
    files
}

#[test]
fn kept_inputs_keep_their_promises() {
    let mut broken = Vec::new();
    for (target, run) in ingle_fuzzing::TARGETS {
        let mut files = inputs(&folder("corpus", target));
        assert!(!files.is_empty(), "{target} has no corpus");
        files.extend(inputs(&folder("regressions", target)));
        run(&[]);
        for file in files {
            let data = fs::read(&file).expect("the file is readable");
            if catch_unwind(|| run(&data)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "promises are broken by {broken:#?}");
}

/// The list of targets, the fuzzer's binaries and the folders of inputs are the same.
#[test]
fn every_target_has_its_binary() {
    let manifest = fs::read_to_string(folder("", "Cargo.toml")).expect("fuzz/Cargo.toml is there");
    let listed: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    let known: Vec<&str> = ingle_fuzzing::TARGETS.iter().map(|target| target.0).collect();
    assert_eq!(listed, known);
    for target in known {
        let source = fs::read_to_string(folder("fuzz_targets", &format!("{target}.rs"))).expect(target);
        assert!(source.contains(&format!("ingle_fuzzing::{target}(data)")), "{target}");
    }
    for kind in ["corpus", "regressions"] {
        for path in inputs(&folder(kind, "")).iter().filter(|path| path.is_dir()) {
            let name = path.file_name().expect("a folder has a name").to_string_lossy();
            assert!(ingle_fuzzing::TARGETS.iter().any(|target| target.0 == name), "{name} is no target");
        }
    }
}

/// Seeds are what the generator makes.
#[test]
fn seeds_are_current() {
    for (target, name, bytes) in ingle_fuzzing::seeds::all() {
        let path = folder("corpus", target).join(format!("seed-{name}"));
        let kept = fs::read(&path).unwrap_or_default();
        let how = "run `cargo run -p ingle-fuzzing --example seeds`";
        assert!(kept == bytes, "{} is not what the generator makes: {how}", path.display());
    }
}

//! The layer check: a crate depends only on crates of lower layers.
//!
//! The layers are the table of ARCHITECTURE.md; a crate that is not in it is an error too, so that the map stays
//! true.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crates by layer. Development crates (`fuzzing`, `testkit`, `xtask`) stand outside: nothing may depend on them but tests.
const LAYERS: &[(u32, &[&str])] = &[
    (7, &["ingle-cli"]),
    (6, &["ingle-server", "ingle-eval"]),
    (5, &["ingle-runtime"]),
    (4, &["ingle-engine", "ingle-gpu-cuda", "ingle-gpu-wgpu"]),
    (3, &["ingle-model", "ingle-convert", "ingle-grammar", "ingle-gateway", "ingle-rag"]),
    (2, &["ingle-tokenizer", "ingle-api", "ingle-store", "ingle-ledger"]),
    (1, &["ingle-chat", "ingle-kernels"]),
    (0, &["ingle-gguf", "ingle-step", "ingle-egress"]),
];
const DEVELOPMENT: &[&str] = &["ingle-fuzzing", "ingle-testkit", "ingle-xtask"];

pub fn check(root: &Path) -> Result<()> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let faults = faults(&metadata);
    if !faults.is_empty() {
        bail!("the layers of ARCHITECTURE.md are broken:\n{}", faults.join("\n"));
    }
    println!("layers: every crate depends only on lower layers");
    Ok(())
}

fn layer(name: &str) -> Option<u32> {
    LAYERS.iter().find(|(_, crates)| crates.contains(&name)).map(|(layer, _)| *layer)
}

/// Every edge that goes sideways or up, in words.
fn faults(metadata: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        if DEVELOPMENT.contains(&name) {
            continue;
        }
        let Some(own) = layer(name) else {
            faults.push(format!("{name} has no layer: add it to the table here and in ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"] == "dev" || !target.starts_with("ingle-") {
                continue;
            }
            if DEVELOPMENT.contains(&target) {
                faults.push(format!("{name} depends on {target}, which is for tests only"));
            } else if layer(target).is_none_or(|layer| layer >= own) {
                faults.push(format!("{name} (layer {own}) depends on {target} (layer {:?})", layer(target)));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edge(from: &str, to: &str, kind: Option<&str>) -> Vec<String> {
        faults(&json!({ "packages": [{ "name": from, "dependencies": [{ "name": to, "kind": kind }] }] }))
    }

    #[test]
    fn refuses_edges_that_go_sideways_or_up() {
        assert!(edge("ingle-model", "ingle-kernels", None).is_empty());
        assert!(edge("ingle-kernels", "serde", None).is_empty());
        assert!(edge("ingle-kernels", "ingle-testkit", Some("dev")).is_empty());
        assert_eq!(edge("ingle-kernels", "ingle-model", None).len(), 1);
        assert_eq!(edge("ingle-kernels", "ingle-chat", None).len(), 1);
        assert_eq!(edge("ingle-kernels", "ingle-testkit", None).len(), 1);
        assert_eq!(edge("ingle-unheard-of", "serde", None).len(), 1);
    }

    #[test]
    fn this_workspace_keeps_its_layers() {
        check(&crate::root()).unwrap();
    }
}

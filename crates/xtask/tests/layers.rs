//! The layers of ARCHITECTURE.md hold. Being a test, it also has `cargo test` build the program, as CI goes on to use it.

use std::process::Command;

#[test]
fn crates_depend_on_lower_layers_only() {
    let out = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("layers").output().expect("it starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

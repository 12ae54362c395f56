//! `cargo xtask`: what developers and CI run besides cargo itself.

mod clients;
mod layers;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask layers                     check that crates depend only on lower layers
cargo xtask clients [SUITE] [ARG ...]  run real clients against the release binary (installs them from PyPI and npm);
                                       SUITE is dialects, frameworks, litellm, sglang or js; ARGs go to pytest or node
cargo xtask stories BIN TOKENIZER OUT  convert a llama2.c checkpoint and its tokenizer to GGUF
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["layers"] => layers::check(&root()),
        ["clients", ..] => clients::run(&root(), &args[1..]),
        ["stories", bin, tokenizer, out] => stories(bin, tokenizer, out),
        ["help" | "--help"] | [] => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown task {args:?}\n{HELP}"),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/xtask is two levels down")
        .to_owned()
}

fn stories(bin: &str, tokenizer: &str, out: &str) -> Result<()> {
    let read = |path: &str| std::fs::read(path).with_context(|| format!("cannot read {path}"));
    let model =
        ingle_testkit::stories::convert(&read(bin)?, &read(tokenizer)?).map_err(anyhow::Error::msg)?;
    std::fs::write(out, model.to_bytes()).with_context(|| format!("cannot write {out}"))
}

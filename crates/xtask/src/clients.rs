//! Real clients from PyPI against the release binary.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// The key that the server under test asks for.
const KEY: &str = "client-test-key";

/// Builds the release binary, serves the shipped model, and runs `tests/clients` against it with pytest. `args` go
/// to pytest.
pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let folder = root.join("tests/clients");
    let venv = root.join("target/clients-venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        sh(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    sh(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "-r"])
        .arg(folder.join("requirements.txt")))?;
    sh(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--package", "ingle-cli"])
        .current_dir(root))?;

    let server = Server::start(&root.join("target/release/ingle"), &root.join("target/clients-data"))?;
    sh(Command::new(&python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(args)
        .arg(".")
        .current_dir(&folder)
        .env("INGLE_BASE_URL", &server.base_url)
        .env("INGLE_BINARY", root.join("target/release/ingle"))
        .env("INGLE_API_KEY", KEY))
}

fn sh(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// A server on a free port that ends with this value.
struct Server {
    child: Child,
    base_url: String,
}

impl Server {
    fn start(binary: &Path, data: &Path) -> Result<Self> {
        let mut child = Command::new(binary)
            .args(["serve", "--port", "0", "--api-key", KEY, "--data-dir"])
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let mut base_url = None;
        for line in &mut lines {
            let line = line?;
            eprintln!("server: {line}");
            if let Some(address) = line.strip_prefix("listening on ") {
                base_url = Some(format!("{}/v1", address.trim()));
            }
            if line.contains(" is ready") {
                break;
            }
        }
        // Keep reading, so that the server never waits for a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
        let Some(base_url) = base_url else {
            let _ = child.kill();
            bail!("the server said no address");
        };
        Ok(Self { child, base_url })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

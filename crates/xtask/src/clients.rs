//! Real clients from PyPI and npm against the release binary, or the one of `INGLE_BINARY`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use anyhow::{Context, Result, bail};

/// The key that the server under test asks for.
const KEY: &str = "client-test-key";

/// Tests in Python that share an environment. Packages that do not go together are in different ones.
struct Suite {
    name: &'static str,
    /// Its tests and its `requirements.txt`, in `tests/clients`.
    folder: &'static str,
    /// Its environment, in `target`.
    venv: &'static str,
}

const SUITES: [Suite; 6] = [
    Suite { name: "dialects", folder: ".", venv: "clients-venv" },
    Suite { name: "frameworks", folder: "frameworks", venv: "clients-frameworks" },
    Suite { name: "litellm", folder: "litellm_routes", venv: "clients-litellm" },
    Suite { name: "sglang", folder: "sglang_frontend", venv: "clients-sglang" },
    Suite { name: "minilm", folder: "minilm", venv: "clients-minilm" },
    Suite { name: STORE, folder: "store", venv: "clients-store" },
];
/// The suite that needs the hub of the tests.
const STORE: &str = "store";
/// The suite in JavaScript.
const JS: &str = "js";

/// Builds the release binary (unless `INGLE_BINARY` names one), serves the shipped model, and runs `tests/clients` against
/// it. The first of `args` may name the only suite to run; the others go to pytest, or to node.
pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let is_suite = |name: &str| name == JS || SUITES.iter().any(|suite| suite.name == name);
    let (only, args) = match args {
        [name, rest @ ..] if is_suite(name) => (Some(name.as_str()), rest),
        _ => (None, args),
    };
    let is_wanted = |name: &str| only.is_none_or(|only| only == name);
    let suites: Vec<&Suite> = SUITES.iter().filter(|suite| is_wanted(suite.name)).collect();
    // Installing takes one processor, and as long as the tests do: what comes later is installed while others run.
    std::thread::scope(|scope| {
        let (sender, installed) = mpsc::channel();
        scope.spawn({
            let suites = &suites;
            move || suites.iter().try_for_each(|suite| sender.send(suite.install(root)))
        });
        run_suites(root, &suites, is_wanted(JS), args, &installed)
    })
}

/// Runs suites, each when its environment has been installed.
fn run_suites(
    root: &Path,
    suites: &[&Suite],
    is_js_wanted: bool,
    args: &[String],
    installed: &Receiver<Result<()>>,
) -> Result<()> {
    let with_js = is_js_wanted && install_js(root)?;
    let binary = match std::env::var_os("INGLE_BINARY") {
        Some(binary) => root.join(binary),
        None => {
            sh(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .args(["build", "--release", "--package", "ingle-cli"])
                .current_dir(root))?;
            root.join("target/release/ingle")
        }
    };
    let hub = suites.iter().any(|suite| suite.name == STORE).then(|| hub(root)).transpose()?;
    let server = Server::start(&binary, &root.join("target/clients-data"))?;
    if with_js {
        let mut node = Command::new("node");
        node.args(["--test", "--test-concurrency=1"]).args(args).current_dir(root.join("tests/clients/js"));
        sh(server.named_in(&mut node))?;
    }
    for suite in suites {
        installed.recv().context("installing clients panicked")??;
        let mut pytest = Command::new(suite.python(root));
        pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).args(args).arg(suite.folder);
        // For those that serve a model of their own.
        pytest.env("INGLE_BINARY", &binary);
        if let Some(hub) = &hub {
            pytest.env("INGLE_HUB", hub);
        }
        sh(server.named_in(pytest.current_dir(root.join("tests/clients"))))?;
    }
    Ok(())
}

impl Suite {
    fn python(&self, root: &Path) -> PathBuf {
        root.join("target").join(self.venv).join("bin/python")
    }

    /// Puts its packages into its environment. The lists are whole, so that nothing else is looked for.
    fn install(&self, root: &Path) -> Result<()> {
        let python = self.python(root);
        if !python.exists() {
            sh(Command::new("python3").args(["-m", "venv"]).arg(root.join("target").join(self.venv)))?;
        }
        sh(Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--no-compile",
            ])
            .arg("-r")
            .arg(root.join("tests/clients").join(self.folder).join("requirements.txt")))
    }
}

/// Installs the packages of the suite in JavaScript; false if there is no Node.js to run it with.
fn install_js(root: &Path) -> Result<bool> {
    if let Err(error) = Command::new("node").arg("--version").stdout(Stdio::null()).status() {
        if std::env::var_os("CI").is_some() {
            bail!("cannot run node, which the clients in JavaScript need: {error}");
        }
        eprintln!("skipped: clients in JavaScript, because node cannot be run: {error}");
        return Ok(false);
    }
    sh(Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
        .current_dir(root.join("tests/clients/js")))?;
    Ok(true)
}

/// The hub of the tests, which `cargo test --workspace` has built; else it is built.
fn hub(root: &Path) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let hub = root.join(target).join("debug/examples/hub");
    if !hub.exists() {
        sh(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--package", "ingle-testkit", "--example", "hub"])
            .current_dir(root))?;
    }
    Ok(hub)
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
    /// Tells a command which server it is about.
    fn named_in<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("INGLE_BASE_URL", &self.base_url).env("INGLE_API_KEY", KEY)
    }

    fn start(binary: &Path, data: &Path) -> Result<Self> {
        let mut child = Command::new(binary)
            .args(["serve", "--offline", "--port", "0", "--api-key", KEY, "--data-dir"])
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

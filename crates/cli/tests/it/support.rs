//! The program in a process of its own: run to its end, or a server with a small client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use ingle_testkit::reply::Reply;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::Value;

/// What of the environment changes what the program does, besides its own variables.
const FOREIGN: &[&str] = &[
    "RUST_LOG",
    "OLLAMA_HOST",
    "OLLAMA_MODELS",
    "OLLAMA_KEEP_ALIVE",
    "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_NUM_PARALLEL",
    "OLLAMA_KV_CACHE_TYPE",
    "OLLAMA_MAX_QUEUE",
    "OLLAMA_ORIGINS",
    "HF_HOME",
    "HF_TOKEN",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// A call that sees nothing of who runs the tests: no settings, no data, no models, nothing on standard input.
pub fn ingle(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingle"));
    FOREIGN.iter().for_each(|name| _ = command.env_remove(name));
    command.args(args).stdin(Stdio::null());
    command
        .env("INGLE_CONFIG", "/dev/null")
        .env("INGLE_DATA_DIR", "")
        .env("INGLE_MODELS", "/nonexistent/models");
    command
}

/// Runs a call to its end with `input` on standard input.
pub fn output(args: &[&str], input: &str) -> Output {
    output_of(&mut ingle(args), input)
}

/// The same of a call with an environment of its own.
pub fn output_of(command: &mut Command, input: &str) -> Output {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary starts");
    // Who does not read its input has ended with a word about why.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

/// What a call that must succeed prints.
pub fn stdout_of(args: &[&str], input: &str) -> String {
    let out = output(args, input);
    assert!(out.status.success(), "{args:?}: {}", said(&out));
    String::from_utf8(out.stdout).expect("output is UTF-8")
}

/// The error text of a call that must fail.
pub fn failure(args: &[&str]) -> String {
    let out = output(args, "");
    assert!(!out.status.success(), "{args:?} succeeded: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).expect("errors are UTF-8")
}

/// What went to standard error.
pub fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A tiny model in a file.
pub fn tiny() -> &'static str {
    static FILE: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("tiny.gguf");
        std::fs::write(&path, TinySpec::new(Arch::Llama).bytes()).expect("the model is written");
        let text = path.to_str().expect("the path is UTF-8").to_owned();
        (dir, text)
    });
    path
}

/// A running server, killed when it is dropped.
pub struct Server {
    pub child: Child,
    pub address: String,
    /// What it has said to standard error.
    pub said: Arc<Mutex<String>>,
    /// Ends with standard error.
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one, and waits until it listens.
    pub fn start(args: &[&str]) -> Self {
        Self::launch(&mut ingle(&[&["serve", "--port", "0"], args].concat()))
    }

    /// The same of a call with an environment of its own.
    pub fn launch(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the server starts");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        let listener = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("server: {line}");
                *heard.lock().expect("nobody panics with it") += &format!("{line}\n");
            }
        });
        let mut server = Self { child, address: String::new(), said, listener: Some(listener) };
        server.address = server.wait_for("listening on http://").expect("it listens");
        server
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The rest of the first line with this part, or `None` if the process ends without one.
    pub fn wait_for(&mut self, part: &str) -> Option<String> {
        let begun = Instant::now();
        loop {
            let has_ended = self.child.try_wait().expect("it can be waited for").is_some();
            let said = self.said.lock().expect("nobody panics with it").clone();
            if let Some(line) = said.lines().find_map(|line| line.split_once(part)) {
                return Some(line.1.to_owned());
            }
            if has_ended {
                return None;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no `{part}` in: {said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it has ended by itself. Gives how, and all that it has said.
    pub fn ended(&mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("it ends");
        if let Some(listener) = self.listener.take() {
            listener.join().expect("it only listens");
        }
        (status, self.said.lock().expect("nobody panics with it").clone())
    }

    /// Starts one, and waits until its model is there.
    pub fn ready(args: &[&str]) -> Self {
        let mut server = Self::start(args);
        server.wait_for(" is ready").expect("the model is loaded");
        server
    }

    /// Asks it to end, and waits.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("there is a `kill`");
        self.child.wait().expect("it ends")
    }

    pub fn get(&self, path: &str) -> Reply {
        exchange(&self.address, &format!("GET {path}"), "", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = "Content-Type: application/json\r\n";
        exchange(&self.address, &format!("POST {path}"), headers, body.to_string().as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request and reads the whole reply.
pub fn exchange(address: &str, line: &str, headers: &str, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a time limit");
    let n = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {n}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).expect("the request is sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the reply is read");
    Reply::parse(&bytes)
}

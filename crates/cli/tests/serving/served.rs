//! The program as a server in a process of its own, and a small client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use ingle_testkit::reply::Reply;
use serde_json::Value;

/// A running server.
pub struct Server {
    pub child: Child,
    pub address: String,
    /// What it has said to standard error.
    pub said: Arc<Mutex<String>>,
}

pub fn ingle(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingle"));
    command.args(args).env("INGLE_CONFIG", "/dev/null").env("INGLE_DATA_DIR", "");
    command
}

impl Server {
    /// Starts one, and waits until it listens.
    pub fn start(args: &[&str]) -> Self {
        let args = [&["serve", "--port", "0"], args].concat();
        let mut child = ingle(&args).stderr(Stdio::piped()).spawn().expect("the server starts");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("server: {line}");
                *heard.lock().expect("nobody panics with it") += &format!("{line}\n");
            }
        });
        let mut server = Self { child, address: String::new(), said };
        server.address = server.wait_for("listening on http://").expect("it listens");
        server
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

//! Clients that stream, pause and vanish at random leave nothing behind: no KV block, no task, no descriptor, no
//! thread. Ten seconds by default; `INGLE_SOAK_SECONDS=120` for the long form.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};

const N_CLIENTS: u64 = 32;

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(model: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ingle"))
            .args([
                "serve",
                "--port",
                "0",
                "-c",
                "512",
                "--parallel",
                "8",
                "--kv-tokens",
                "1536",
                "--max-queue",
                "12",
                "-t",
                "2",
                "-m",
            ])
            .arg(model)
            .env("INGLE_CONFIG", "/dev/null")
            .env("INGLE_DATA_DIR", "")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("listening on http://") {
                address = url.to_owned();
            }
            if line.contains(" is ready") {
                break;
            }
        }
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|l| eprintln!("server: {l}")));
        Self { child, address }
    }

    fn count(&self, folder: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{folder}", self.child.id())).expect("the server lives").count()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    /// The value of a gauge on the metrics page.
    fn gauge(&self, name: &str) -> f64 {
        let page = self.get("/metrics");
        let line = page.lines().find(|l| l.starts_with(name) && !l.starts_with('#'));
        let line = line.unwrap_or_else(|| panic!("no {name} in {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What clients saw, to show that the run was not idle.
#[derive(Default)]
struct Seen {
    finished: AtomicU64,
    vanished: AtomicU64,
    refused: AtomicU64,
}

/// One client's life: requests of all kinds until the time is over.
fn client(address: &str, seed: u64, until: Instant, seen: &Seen) {
    let mut rng = Rng::new(seed);
    while Instant::now() < until {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        // Some share a prefix, some have two choices, some are long.
        let prompt: String = match rng.below(3) {
            0 => "once upon a time ".repeat(1 + rng.below(12)),
            _ => (0..1 + rng.below(250)).map(|_| char::from(b'a' + rng.below(26) as u8)).collect(),
        };
        let body = format!(
            r#"{{"prompt": "{prompt}", "max_tokens": {}, "stream": {}, "n": {}, "ignore_eos": true, "seed": {}}}"#,
            1 + rng.below(200),
            !rng.one_in(4),
            1 + rng.below(2),
            rng.below(1000),
        );
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let request = head + &body;
        // Some vanish before the request is whole.
        let sent = if rng.one_in(8) { rng.below(request.len()) } else { request.len() };
        if stream.write_all(&request.as_bytes()[..sent]).is_err() || sent < request.len() {
            seen.vanished.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let vanish_after = rng.one_in(3).then(|| rng.below(20_000));
        let mut read = 0;
        let mut buffer = [0; 1024];
        let mut first = true;
        loop {
            if rng.one_in(12) {
                std::thread::sleep(Duration::from_millis(rng.below(300) as u64));
            }
            if vanish_after.is_some_and(|n| read >= n) || Instant::now() > until {
                seen.vanished.fetch_add(1, Ordering::Relaxed);
                break;
            }
            match stream.read(&mut buffer) {
                Ok(0) => {
                    seen.finished.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ok(n) => {
                    if first && buffer.starts_with(b"HTTP/1.1 429") {
                        seen.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    first = false;
                    read += n;
                }
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
    }
}

#[test]
fn vanishing_clients_leave_nothing_behind() {
    let seconds = std::env::var("INGLE_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    std::fs::write(file.path(), TinySpec::new(Arch::Llama).bytes()).unwrap();
    let server = Server::start(file.path());
    // A first request, so that lazily made threads and descriptors are there before counting.
    assert!(server.get("/health").contains("\"status\":\"ok\""));
    client(&server.address, 0, Instant::now() + Duration::from_millis(500), &Seen::default());
    std::thread::sleep(Duration::from_millis(500));
    let (descriptors, threads, tasks) =
        (server.count("fd"), server.count("task"), server.gauge("ingle_tasks"));
    assert!(tasks > 0.0, "the server has tasks: those that listen, and the one that tells us");

    let seen = Seen::default();
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for i in 0..N_CLIENTS {
            let (address, seen) = (&server.address, &seen);
            scope.spawn(move || client(address, 1000 + i, until, seen));
        }
    });
    let counts = [&seen.finished, &seen.vanished, &seen.refused].map(|c| c.load(Ordering::Relaxed));
    eprintln!("{seconds} s: {} finished, {} vanished, {} refused", counts[0], counts[1], counts[2]);
    assert!(counts[0] > 10 && counts[1] > 10, "the run was idle: {counts:?}");

    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = [
            ("running", server.gauge("ingle_sequences_running")),
            ("waiting", server.gauge("ingle_sequences_waiting")),
            ("blocks in use", server.gauge("ingle_kv_blocks_used")),
            ("tasks", server.gauge("ingle_tasks") - tasks),
            ("descriptors", server.count("fd") as f64 - descriptors as f64),
            ("threads", server.count("task") as f64 - threads as f64),
        ];
        if left.iter().all(|(_, n)| *n <= 0.0) {
            break;
        }
        assert!(Instant::now() < deadline, "left behind after a minute: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

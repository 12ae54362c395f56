//! Faults that only a process of its own can show: files that change under a server, readers that hardly read. And that
//! `docs/faults.md` names tests that exist.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::Server;
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

/// A model whose embeddings are read from its file as long as it is served, of a few megabytes.
fn write_model(path: &Path, seed: u64) {
    let spec = TinySpec { tied: false, n_layers: 4, ..TinySpec::new(Arch::Llama).wide() }.seed(seed);
    fs::write(path, spec.bytes()).unwrap();
}

fn ask(server: &Server) -> (u16, Value) {
    let body = json!({ "prompt": "abc", "max_tokens": 12, "temperature": 0, "ignore_eos": true });
    let reply = server.post("/v1/completions", &body);
    (reply.status, reply.json())
}

fn text(reply: &Value) -> &Value {
    &reply["choices"][0]["text"]
}

#[test]
fn a_served_file_may_change_in_any_way() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["model.gguf", "other.gguf"].map(|name| folder.path().join(name));
    let open = |path: &Path| fs::File::options().write(true).open(path).unwrap();
    let spoil = |how: &str| match how {
        "cut" => open(&path).set_len(4096).unwrap(),
        "emptied" => open(&path).set_len(0).unwrap(),
        _ => {
            fs::copy(&other, &path).unwrap();
            open(&path).set_modified(SystemTime::now() + Duration::from_secs(3)).unwrap();
        }
    };
    for how in ["cut", "emptied", "written over"] {
        write_model(&path, 1);
        write_model(&other, 2);
        let mut server = Server::ready(&["-m", path.to_str().unwrap(), "-c", "256", "-t", "1"]);
        assert_eq!(ask(&server).0, 200);
        spoil(how);
        for _ in 0..3 {
            let (status, reply) = ask(&server);
            assert_eq!(status, 503, "{how}: {reply}");
            let message = reply["error"]["message"].as_str().unwrap();
            assert!(
                message.contains("model file changed") && message.contains("load it again"),
                "{how}: {message}"
            );
        }
        let health = server.get("/health");
        assert_eq!((health.status, &health.json()["status"]), (503, &json!("model unusable")), "{how}");
        assert!(server.get("/metrics").body.contains("ingle_model_suspect{model_name=\"model\"} 1"), "{how}");
        assert_eq!(server.get("/health/live").status, 200, "{how}");
        assert!(server.child.try_wait().unwrap().is_none(), "{how}: the process lives");
        assert!(server.stop().success(), "{how}");
    }
    // What is renamed over it changes nothing.
    write_model(&path, 1);
    write_model(&other, 2);
    let server = Server::ready(&["-m", path.to_str().unwrap(), "-c", "256", "-t", "1"]);
    let (_, before) = ask(&server);
    fs::rename(&other, &path).unwrap();
    let (status, after) = ask(&server);
    assert_eq!((status, text(&after)), (200, text(&before)));
    fs::remove_file(&path).unwrap();
    assert_eq!(text(&ask(&server).1), text(&before));
}

/// However a file is cut while it is being loaded, the process ends by itself and says why, or serves.
#[test]
fn a_file_may_be_cut_while_it_is_loaded() {
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let spec = TinySpec { tied: false, n_layers: 10, n_ff: 2048, ..TinySpec::new(Arch::Llama).wide() };
    let bytes = spec.bytes();
    let mut rng = Rng::new(3);
    let mut n_failed = 0;
    for _ in 0..12 {
        fs::write(&path, &bytes).unwrap();
        let mut server = Server::start(&["-m", path.to_str().unwrap(), "-c", "256", "-t", "1"]);
        std::thread::sleep(Duration::from_millis(rng.below(120) as u64));
        fs::File::options().write(true).open(&path).unwrap().set_len(rng.below(bytes.len()) as u64).unwrap();
        if server.wait_for(" is ready").is_some() {
            let (status, reply) = ask(&server);
            assert_eq!(status, 503, "{reply}");
            continue;
        }
        n_failed += 1;
        let (status, said) = server.ended();
        assert_eq!((status.signal(), status.code()), (None, Some(1)), "{status}");
        assert!(said.contains("cannot load"), "{said}");
    }
    assert!(n_failed > 0, "every file was loaded before it was cut");
}

#[cfg(target_os = "linux")]
fn resident_bytes(server: &Server) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Sixty-four clients that read ten bytes a second cost the server little, and others nothing.
#[cfg(target_os = "linux")]
#[test]
fn slow_readers_cost_little() {
    const N_READERS: usize = 64;
    const BYTES_PER_STREAM: usize = 64 << 10;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, TinySpec { n_ctx: 8192, ..TinySpec::new(Arch::Llama) }.bytes()).unwrap();
    let server =
        Server::ready(&["-m", path.to_str().unwrap(), "-c", "8192", "--kv-tokens", "65536", "-t", "2"]);
    // Log-probabilities make it some kilobytes a token.
    let body = json!({ "prompt": "abc", "max_tokens": 900, "ignore_eos": true, "stream": true, "logprobs": 5, "seed": 1 });
    let body = body.to_string();
    let open = || {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        stream
    };
    // As many that read as fast as they can: afterwards memory is what serving so many takes.
    let fast: Vec<_> = (0..N_READERS).map(|_| open()).collect();
    let fast: Vec<_> = fast
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                bytes.len()
            })
        })
        .collect();
    let lengths: Vec<usize> = fast.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert!(lengths.iter().all(|&n| n > 2 * BYTES_PER_STREAM), "the streams are long: {lengths:?}");
    let before = resident_bytes(&server);

    let mut slow: Vec<_> = (0..N_READERS).map(|_| open()).collect();
    let mut most = 0;
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(500));
        slow.iter_mut().for_each(|stream| stream.read_exact(&mut [0; 5]).unwrap());
        most = most.max(resident_bytes(&server));
    }
    let growth = most.saturating_sub(before);
    eprintln!("{N_READERS} slow readers: {} KiB more than {} KiB", growth >> 10, before >> 10);
    assert!(growth <= N_READERS * BYTES_PER_STREAM, "{growth} bytes more for {N_READERS} slow readers");
    assert_eq!(ask(&server).0, 200, "others are answered");
}

/// The table of `docs/faults.md`: each test it names, as `path::function`, is there.
#[test]
fn the_faults_page_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let mut n_tests = 0;
    for named in page.split('`').skip(1).step_by(2).filter(|code| code.starts_with("crates/")) {
        let (file, function) =
            named.split_once("::").unwrap_or_else(|| panic!("`{named}` names no function"));
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let at =
            text.find(&format!("fn {function}(")).unwrap_or_else(|| panic!("{file} has no `{function}`"));
        let before = &text[..at];
        let attribute = before.rfind("#[test]").max(before.rfind("#[tokio::test")).expect("it is a test");
        assert!(!before[attribute..].contains("\n}"), "`{named}` is no test");
        n_tests += 1;
    }
    let rows = page.lines().filter(|line| line.starts_with("| F")).count();
    assert!(rows >= 18 && n_tests >= 18, "{rows} faults, {n_tests} tests");
}

//! `docs/air-gap.md`, step by step: a bundle is made on one side, and taken in and served on another that has no network.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// The variable that makes this program the other side: it has the folder.
const OTHER_SIDE: &str = "INGLE_TEST_OTHER_SIDE";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).expect("the page is there")
}

/// What stands in blocks of shell commands, in the order of the page.
fn commands(page: &str) -> Vec<String> {
    page.split("```sh\n").skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// Runs commands in a folder, for a user whose home is in it.
fn shell(script: &str, folder: &Path, home: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_ingle"));
    let mut path = program.parent().expect("it is in a folder").as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let home = folder.join(home);
    std::fs::create_dir_all(&home).unwrap();
    let mut command = Command::new("sh");
    command.args(["-e", "-c", script]).current_dir(folder).env("PATH", path).env("HOME", home);
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME", "RUST_LOG", "INGLE_CONFIG"]
    {
        command.env_remove(name);
    }
    for name in ["INGLE_MODELS", "INGLE_STORE_DIR", "OLLAMA_MODELS"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).output().expect("there is a shell")
}

fn succeed(script: &str, folder: &Path, home: &str) -> String {
    let out = shell(script, folder, home);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{script}\n{}\n{errors}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn fail(script: &str, folder: &Path, home: &str, part: &str) {
    let out = shell(script, folder, home);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && errors.contains(part), "{script}: wanted `{part}`, got `{errors}`");
}

#[test]
fn a_site_without_a_network_gets_its_model() {
    let namespace = Command::new("unshare").args(["-rn", "true"]).output();
    if !namespace.is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: this system makes no network namespaces for users (`unshare -rn true` fails)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models/ingle-tiny.gguf"), folder.path().join("ingle-tiny.gguf"))
        .unwrap();
    let all = commands(&page("air-gap.md"));
    let there =
        all.iter().position(|script| script.contains("trusted-keys")).expect("the other side's first");
    for script in &all[..there] {
        succeed(script, folder.path(), "connected");
    }
    std::fs::remove_file(folder.path().join("ingle-tiny.gguf")).unwrap();
    let out = Command::new("unshare")
        .arg("-rn")
        .arg(std::env::current_exe().unwrap())
        .args(["air_gap::other_side", "--exact", "--nocapture", "--test-threads=1"])
        .env(OTHER_SIDE, folder.path())
        .output()
        .expect("unshare ran before");
    let text = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    assert!(text.contains("answered without a network"), "{text}");
}

/// What happens on the other side; in any other process it is nothing.
#[test]
fn other_side() {
    let Some(folder) = std::env::var_os(OTHER_SIDE).map(PathBuf::from) else { return };
    let unreachable = TcpStream::connect_timeout(&"192.0.2.1:443".parse().unwrap(), Duration::from_secs(5));
    let kind = unreachable.expect_err("there is no network").kind();
    assert_eq!(kind, std::io::ErrorKind::NetworkUnreachable);
    fail("ingle import models.bundle", &folder, "isolated", "which is not among the trusted keys");
    let all = commands(&page("air-gap.md"));
    let there = all.iter().position(|script| script.contains("trusted-keys")).unwrap();
    let outputs: Vec<String> =
        all[there..].iter().map(|script| succeed(script, &folder, "isolated")).collect();
    assert!(
        outputs[1].contains("house/tiny:v1") && outputs[1].contains("which is trusted"),
        "{}",
        outputs[1]
    );
    let report = &outputs[1][outputs[1].find('{').expect("the last one is JSON")..];
    let report: Value = serde_json::from_str(report).unwrap();
    assert_eq!((&report["result"], &report["trusted"]), (&"imported".into(), &true.into()));
    assert_eq!(report["models"][0]["outcome"], "new");
    assert!(outputs[2].contains("unchanged"), "{}", outputs[2]);
    damage(&folder);
    serve(&folder);
}

/// A flipped bit, wherever it is, and an unsigned bundle: nothing comes of them.
fn damage(folder: &Path) {
    let whole = std::fs::read(folder.join("models.bundle")).unwrap();
    let import = "INGLE_MODELS=$PWD/fresh ingle import damaged.bundle";
    for at in [0, 13, 30, 200, 2_000, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 16;
        std::fs::write(folder.join("damaged.bundle"), bytes).unwrap();
        fail(import, folder, "isolated", "bundle");
        assert!(
            !folder.join("fresh/manifests/registry.ollama.ai").exists(),
            "byte {at}: a model can be seen"
        );
    }
    std::fs::write(folder.join("damaged.bundle"), &whole[..whole.len() - 1]).unwrap();
    fail(import, folder, "isolated", "bytes of");
    succeed(&import.replace("damaged", "models"), folder, "isolated");
    assert!(folder.join("fresh/manifests/registry.ollama.ai/house/tiny/v1").is_file());
}

/// Serves what was imported, and asks it something.
fn serve(folder: &Path) {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|done| done.success()));
    let mut server = Command::new(env!("CARGO_BIN_EXE_ingle"))
        .args([
            "serve",
            "--offline",
            "--port",
            "0",
            "-t",
            "2",
            "--kv-tokens",
            "2048",
            "--model",
            "house/tiny:v1",
        ])
        .env("HOME", folder.join("isolated"))
        .env_remove("XDG_DATA_HOME")
        .env_remove("INGLE_MODELS")
        .env("INGLE_CONFIG", "/dev/null")
        .env("INGLE_DATA_DIR", "")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.strip_prefix("listening on http://").map(str::to_owned));
    let address = address.expect("it says where it listens");
    assert!(lines.any(|line| line.contains(" is ready")));
    std::thread::spawn(move || lines.for_each(drop));
    let body = r#"{"messages":[{"role":"user","content":"What is a PEP?"}],"max_tokens":24,"temperature":0}"#;
    let mut stream = TcpStream::connect(address.trim_end_matches('/')).expect("the server is there");
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let _ = server.kill();
    let _ = server.wait();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Python Enhancement Proposal"), "{answer}");
    println!("answered without a network");
}

/// The commands of `docs/bundle-format.md`, by which another program checks a signature.
#[test]
fn openssl_checks_a_bundle() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models/ingle-tiny.gguf"), folder.path().join("ingle-tiny.gguf"))
        .unwrap();
    if !Command::new("openssl").arg("version").output().is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: there is no openssl here");
        return;
    }
    let make = "openssl genpkey -algorithm ed25519 -out release.key; chmod 600 release.key
        openssl pkey -in release.key -pubout -out release.pub.pem
        ingle export ingle-tiny.gguf --sign release.key -o models.ingle";
    succeed(make, folder.path(), "home");
    let check = &commands(&page("bundle-format.md"))[0];
    assert!(succeed(check, folder.path(), "home").contains("Signature Verified Successfully"));
    succeed("ingle import models.ingle --trust release.pub.pem --dry-run", folder.path(), "home");
    let mut bytes = std::fs::read(folder.path().join("models.ingle")).unwrap();
    bytes[100] ^= 1;
    std::fs::write(folder.path().join("models.ingle"), bytes).unwrap();
    assert!(!shell(check, folder.path(), "home").status.success());
}

#[test]
fn wrong_uses_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models/ingle-tiny.gguf"), folder.path().join("tiny.gguf"))
        .unwrap();
    std::fs::write(folder.path().join("key"), "no key").unwrap();
    let (path, home) = (folder.path(), "home");
    succeed("ingle export tiny.gguf -o b; ingle keygen good", path, home);
    for (script, part) in [
        ("ingle export", "required"),
        ("ingle export tiny.gguf", "--output"),
        ("ingle export tiny.gguf -o b", "is there already"),
        ("chmod 644 key; ingle export tiny.gguf -o c --sign key", "chmod 600"),
        ("chmod 600 key; ingle export tiny.gguf -o c --sign key", "no secret key in PEM"),
        ("ingle export tiny.gguf -o c --split 12%", "not a share"),
        ("ingle export tiny.gguf -o c --split much", "--split"),
        ("ingle export tiny.gguf -o c --split 10", "fewer than 1024"),
        ("ingle export tiny.gguf -o c --split 0", "no size of a part, such as 4G"),
        ("ingle export tiny.gguf -o nowhere/c", "there is no folder nowhere"),
        ("ingle export tiny.gguf -o c --sign good.pub", "good.pub is a public key; sign with the secret one"),
        (
            "ingle export tiny.gguf -o p --split 4MB; ingle import p.002",
            "p.002 is part 2 of a bundle; name the first one, p.001",
        ),
        ("ingle import p.003 p.001 p.002", "is not signed"),
        ("ingle import p.001 p.003", "part 2 is missing: p.002 is not named"),
        (
            "ingle export tiny.gguf --name m -o m; ingle import m --allow-unsigned; ingle export m m -o c",
            "m:latest is named twice",
        ),
        ("ingle export tiny.gguf -o - --split 4G", "standard output"),
        ("ingle export tiny.gguf -o - --json", "no place for --json"),
        ("ingle export tiny.gguf tiny.gguf --name a -o c", "--name is for one file"),
        ("ingle export llama9:1b --name a -o c", "--name is for files"),
        ("ingle export llama9:1b -o c", "there is no model `llama9:1b` here"),
        ("ingle export nothing.gguf -o c", "nothing.gguf cannot be exported"),
        ("ingle export ftp://x/y -o c", "ftp://"),
        ("ingle import", "name the bundle"),
        ("ingle import nothing", "cannot read nothing"),
        ("ingle import .", "no regular file"),
        ("ingle import tiny.gguf", "this is no bundle"),
        ("ingle import b", "is not signed"),
        ("ingle import b --trust good.pub --allow-unsigned", "give one of them"),
        ("ingle import b --trust good.pub", "is not signed"),
        ("ingle import b --trust key", "is no public key"),
        ("INGLE_ALLOW_UNSIGNED=perhaps ingle import b", "neither true nor false"),
        ("ingle keygen good", "is there already"),
        ("ingle keygen /nonexistent/key", "cannot write the key"),
    ] {
        fail(script, path, home, part);
    }
    for script in [
        "INGLE_ALLOW_UNSIGNED=1 ingle import b",
        "cat b | ingle import - --allow-unsigned",
        "ingle export tiny.gguf -o - | ingle import - --allow-unsigned --dry-run",
        "mkfifo pipe; (cat b > pipe &) ; ingle import pipe --allow-unsigned",
        "ingle export tiny.gguf --sign good -o signed; ingle import signed --trust $(cat good.pub)",
    ] {
        succeed(script, path, home);
    }
    let listed = succeed("ingle import signed --list --json", path, home);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["result"], &listed["trusted"]), (&"listed".into(), &false.into()));
    let left: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial") && name != "c"), "{left:?}");
}

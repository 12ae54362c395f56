//! The hub of the tests as a program, so that other clients can be pointed at it.
//!
//! ```text
//! hub [--listen 127.0.0.1:0] [--repo USER/NAME=FOLDER]... [--model NS/NAME:TAG=FILE]... [--gate USER/NAME=TOKEN]...
//!     [--key 'ssh-ed25519 AAAA...'] [--layer TYPE=FILE]... [--slow MILLISECONDS]
//! ```
//! Each model gets the layers too (a type is the last word of its media type: `license`); with `--slow` there is a pause
//! after each 64 KiB of a body.
//!
//! Prints one line of JSON with its addresses, and serves until its standard input ends. Lines of standard input are
//! orders, each of which is answered by a line:
//!
//! | order | what |
//! |---|---|
//! | `fault PATH SKIP TIMES KIND [NUMBER]` | a fault; KIND is `cut` (after bytes), `status`, `slow` (milliseconds), `bits`; PATH is percent-encoded |
//! | `heal` | no more faults |
//! | `requests` | the requests since the last such order: a JSON list of `METHOD PATH` and perhaps `RANGE` |

use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use ingle_testkit::http::decode;
use ingle_testkit::hub::{Fault, FaultKind, Hub};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        args.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].clone()).collect::<Vec<_>>()
    };
    let listen = value("--listen").pop().unwrap_or_else(|| "127.0.0.1:0".into());
    let hub = Hub::start_on(listen.parse()?)?;
    for repo in value("--repo") {
        let (id, folder) = repo.split_once('=').ok_or("--repo is USER/NAME=FOLDER")?;
        let mut files = Vec::new();
        read_folder(Path::new(folder), "", &mut files)?;
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        hub.commit(id, &files);
    }
    for model in value("--model") {
        let (name, file) = model.split_once('=').ok_or("--model is NS/NAME:TAG=FILE")?;
        let (name, tag) = name.split_once(':').ok_or("--model is NS/NAME:TAG=FILE")?;
        let mut layers = vec![("application/vnd.ollama.image.model".to_owned(), std::fs::read(file)?)];
        for layer in value("--layer") {
            let (kind, file) = layer.split_once('=').ok_or("--layer is TYPE=FILE")?;
            layers.push((format!("application/vnd.ollama.image.{kind}"), std::fs::read(file)?));
        }
        let layers: Vec<(&str, &[u8])> =
            layers.iter().map(|(kind, bytes)| (kind.as_str(), bytes.as_slice())).collect();
        hub.add_model(name, tag, &layers);
    }
    if let Some(pause) = value("--slow").pop() {
        hub.fault(Fault::new("/", FaultKind::Slow(Duration::from_millis(pause.parse()?))));
    }
    for gate in value("--gate") {
        let (id, token) = gate.split_once('=').ok_or("--gate is USER/NAME=TOKEN")?;
        hub.gate(id, token);
    }
    if let Some(key) = value("--key").pop() {
        hub.require_key(&key);
    }
    println!("{}", serde_json::json!({ "hub": hub.url(), "cdn": hub.cdn_url() }));
    for line in std::io::stdin().lock().lines() {
        match order(&hub, &line?) {
            Some(answer) => println!("{answer}"),
            None => println!("what?"),
        }
    }
    Ok(())
}

/// Does as it is told; `None` if that means nothing.
fn order(hub: &Hub, line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["heal"] => hub.heal(),
        ["requests"] => {
            let requests = hub.take_requests();
            let lines = requests.iter().map(|request| {
                let range = request.header("range").unwrap_or_default();
                format!("{} {} {range}", request.method, request.path).trim_end().to_owned()
            });
            return Some(serde_json::json!(lines.collect::<Vec<_>>()).to_string());
        }
        ["fault", path, skip, times, kind, ref number @ ..] => {
            let number: u64 = number.first().map_or(Some(0), |n| n.parse().ok())?;
            let kind = match kind {
                "cut" => FaultKind::Cut(number),
                "status" => FaultKind::Status(u16::try_from(number).ok()?, None),
                "slow" => FaultKind::Slow(Duration::from_millis(number)),
                "bits" => FaultKind::WrongBytes,
                _ => return None,
            };
            hub.fault(Fault::new(&decode(path), kind).window(skip.parse().ok()?, times.parse().ok()?));
        }
        _ => return None,
    }
    Some("ok".to_owned())
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => read_folder(&entry.path(), &format!("{path}/"), files)?,
            false => files.push((path, std::fs::read(entry.path())?)),
        }
    }
    Ok(())
}

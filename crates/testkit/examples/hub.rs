//! The hub of the tests as a program, so that other clients can be pointed at it.
//!
//! ```text
//! hub [--listen 127.0.0.1:0] [--repo USER/NAME=FOLDER]... [--model NS/NAME:TAG=FILE]... [--gate USER/NAME=TOKEN]...
//! ```
//! Prints one line of JSON with its addresses, and serves until its standard input ends.

use std::io::Read;
use std::path::Path;

use ingle_testkit::hub::Hub;

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
        hub.add_model(name, tag, &[("application/vnd.ollama.image.model", &std::fs::read(file)?)]);
    }
    for gate in value("--gate") {
        let (id, token) = gate.split_once('=').ok_or("--gate is USER/NAME=TOKEN")?;
        hub.gate(id, token);
    }
    println!("{}", serde_json::json!({ "hub": hub.url(), "cdn": hub.cdn_url() }));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
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

//! What is around: settings, ports, limits, disks, the store of models, the way out.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Result;
use ingle_store::files::{Files, RealFiles};
use ingle_store::{Entry, State, Store, StoreConfig};

use super::{Finding, gib};
use crate::commands::counted;
use crate::models::Models;
use crate::network;
use crate::outcome::in_words;
use crate::settings::Settings;

/// Fewer open files than this are too few for a server with many clients.
const OPEN_FILES_MIN: u64 = 1024;
/// Less space than this is too little for most models.
const DISK_MIN: u64 = 10 << 30;
/// With less nothing can be fetched at all.
const DISK_LEAST: u64 = 256 << 20;

pub(super) fn findings(port: u16, settings: &Result<Settings>) -> Vec<Finding> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut findings = vec![of_settings(settings), listening(port)];
    findings.extend(fs::read_to_string("/proc/self/limits").ok().as_deref().map(open_files));
    let Ok(settings) = settings else { return findings };
    match Models::open(settings) {
        Ok(models) => {
            let config = models.store.config().clone();
            findings.push(disk(&config.root));
            findings.extend(store(config));
        }
        Err(error) => {
            findings.push(Finding::fail("store", in_words(&error), "set INGLE_MODELS to a folder"));
        }
    }
    findings.push(way_out(settings));
    findings.push(proxies(&var));
    findings
}

/// Whether what the configuration file and the environment say can be used.
fn of_settings(settings: &Result<Settings>) -> Finding {
    match settings {
        Ok(_) => Finding::ok("settings", "the configuration file and the environment can be read"),
        Err(error) => Finding::fail(
            "settings",
            in_words(error),
            "correct it; `ingle settings` lists what there is, `ingle config` what holds",
        ),
    }
}

/// Whether pulls could begin: what the settings, the credentials and the environment say of the way out fits together.
/// Nothing is asked of anyone.
fn way_out(settings: &Settings) -> Finding {
    match network::network(settings, None) {
        Ok(_) if settings.offline => Finding::ok("network", "--offline: nothing leaves"),
        Ok(network) => Finding::ok("network", format!("models are fetched from {}", network.hub.origin())),
        Err(error) => {
            Finding::fail("network", in_words(&error), "correct it: until then nothing can be fetched")
        }
    }
}

/// Whether a server could listen, and who does if not.
fn listening(port: u16) -> Finding {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Finding::ok("port", format!("127.0.0.1:{port} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let who = who_listens(port).map(|who| format!(" by {who}")).unwrap_or_default();
            let advice =
                "end it if Ingle shall take its place, or choose another port with --listen 127.0.0.1:PORT";
            Finding::warn("port", format!("127.0.0.1:{port} is taken{who}"), advice)
        }
        Err(error) => {
            let advice = "ports below 1024 need a privilege: choose another with --listen 127.0.0.1:PORT";
            Finding::warn("port", format!("127.0.0.1:{port} cannot be listened on: {error}"), advice)
        }
    }
}

/// The process that listens on a port, as far as this user may see it.
fn who_listens(port: u16) -> Option<String> {
    let mut inodes = BTreeSet::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        inodes.extend(listeners(&fs::read_to_string(path).unwrap_or_default(), port));
    }
    let is_one = |target: &Path| {
        let text = target.to_string_lossy();
        let inode = text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.contains(inode))
    };
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let fds = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| is_one(&target)) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("`{}` (process {pid})", name.trim().escape_debug()));
        }
    }
    None
}

/// Inodes of the sockets that listen on a port, from a table of `/proc/net`.
fn listeners(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (local == port && *fields.get(3)? == LISTEN)
            .then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().skip(1).filter_map(line).collect()
}

fn open_files(limits: &str) -> Finding {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    match soft.map(str::parse::<u64>) {
        Some(Ok(n)) if n < OPEN_FILES_MIN => Finding::warn(
            "open files",
            format!("at most {n} at a time"),
            format!("raise it for a server with many clients: ulimit -n {}", 65_536),
        ),
        Some(Ok(n)) => Finding::ok("open files", format!("at most {n} at a time")),
        // `unlimited`
        _ => Finding::ok("open files", "no limit"),
    }
}

/// The nearest folder above a path that is there.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn disk(root: &Path) -> Finding {
    let dir = existing(root);
    match RealFiles.free_space(&dir) {
        Ok(free) => room(free, root),
        Err(error) => Finding::ok(
            "disk",
            format!("the system does not say how much is free in {}: {error}", dir.display()),
        ),
    }
}

/// Whether models find room.
fn room(free: u64, root: &Path) -> Finding {
    let what = format!("{} free for models in {}", gib(free), root.display());
    let advice = "make room, or keep models on another disk with INGLE_MODELS";
    match free {
        0..DISK_LEAST => Finding::fail("disk", what, advice),
        DISK_LEAST..DISK_MIN => Finding::warn("disk", what, advice),
        _ => Finding::ok("disk", what),
    }
}

/// Whether the store can be written, has leftovers, and holds what its manifests name. Contents are not read.
fn store(config: StoreConfig) -> Vec<Finding> {
    let root = config.root.clone();
    if root.exists() && !root.is_dir() {
        let what = format!("{} is a file, and models are kept in a folder", root.display());
        return vec![Finding::fail("store", what, "set INGLE_MODELS to a folder, or move the file away")];
    }
    let mut findings = Vec::new();
    if root.exists() {
        if let Err(error) = writable(&root) {
            findings.push(Finding::warn(
                "store",
                format!("{} cannot be written: {error}", root.display()),
                "models in it can be used, but none can be added: give this user the right, or set INGLE_MODELS",
            ));
        }
    } else if let Err(error) = writable(&existing(&root)) {
        findings.push(Finding::fail(
            "store",
            format!("{} is not there, and cannot be made: {error}", root.display()),
            "make it for this user, or set INGLE_MODELS to a folder that is theirs",
        ));
    }
    let (n_left, bytes_left) = leftovers(&root.join("tmp"));
    if n_left > 0 {
        findings.push(Finding::ok(
            "store",
            format!(
                "{} in {n_left} unfinished files: a pull goes on with them, `ingle prune` removes them",
                gib(bytes_left)
            ),
        ));
    }
    let listed = Store::open(config).and_then(|store| store.list());
    findings.push(match listed {
        Ok(entries) => models(&root, &entries),
        Err(error) => {
            Finding::fail("store", error.to_string(), "set INGLE_MODELS to a folder that can be read")
        }
    });
    findings
}

/// What is in the store.
fn models(root: &Path, entries: &[Entry]) -> Finding {
    let broken: Vec<String> = entries
        .iter()
        .filter_map(|entry| match &entry.state {
            State::Ready => None,
            State::Broken(why) => Some(format!("{} ({why})", entry.name)),
        })
        .collect();
    if broken.is_empty() {
        return Finding::ok(
            "store",
            format!(
                "{}, all there; new ones go to {}",
                counted(entries.len() as u64, "model"),
                root.display()
            ),
        );
    }
    let named: Vec<&str> = broken.iter().take(5).map(String::as_str).collect();
    Finding::fail(
        "store",
        format!(
            "not whole: {} of {}: {}",
            broken.len(),
            counted(entries.len() as u64, "model"),
            named.join("; ")
        ),
        "pull them again, or remove them with `ingle rm`; `ingle verify` reads every byte",
    )
}

/// Whether files can be made in a folder.
fn writable(dir: &Path) -> std::io::Result<()> {
    let path = dir.join(format!(".ingle-doctor-{}", std::process::id()));
    fs::File::options().write(true).create_new(true).open(&path)?;
    fs::remove_file(path)
}

/// Files in a folder and the bytes in them.
fn leftovers(dir: &Path) -> (usize, u64) {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes: Vec<u64> =
        files.filter_map(|file| file.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).collect();
    (sizes.len(), sizes.iter().sum())
}

/// The proxies that are set; whether they can be used, [`way_out`] says.
fn proxies(var: &impl Fn(&str) -> Option<String>) -> Finding {
    const NAMES: [&str; 6] =
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let named = |name: &str| Some(format!("{name}={}", without_password(&var(name)?)));
    let mut set: Vec<String> = NAMES.iter().filter_map(|name| named(name)).collect();
    if set.is_empty() {
        return Finding::ok("proxies", "none set");
    }
    let exceptions = var("NO_PROXY").or_else(|| var("no_proxy"));
    set.extend(exceptions.map(|hosts| format!("NO_PROXY={hosts}")));
    Finding::ok("proxies", set.join(", "))
}

/// A URL whose user and password are not shown.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{separator}***@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn listeners_are_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 4242 1 0 100 0\n\
            1: 0100007F:2CAA 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000 0 4343 1 0 100 0\n";
        assert_eq!(listeners(table, 11434), ["4242"]);
        assert!(listeners(table, 80).is_empty());
        assert!(listeners("nonsense\nmore nonsense", 80).is_empty());
    }

    #[test]
    fn a_taken_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it has an address").port();
        let finding = listening(port);
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.what.contains("is taken"), "{finding:?}");
        if cfg!(target_os = "linux") {
            assert!(finding.what.contains(&format!("process {}", std::process::id())), "{finding:?}");
        }
    }

    #[test]
    fn limits_and_disks_are_read() {
        let check = |limits: &str, status: Status| assert_eq!(open_files(limits).status, status, "{limits}");
        check("Max open files            256                  4096                 files", Status::Warn);
        check("Max open files            1048576              1048576              files", Status::Ok);
        check("Max open files            unlimited            unlimited            files", Status::Ok);
        let root = Path::new("/models");
        for (free, status) in [(0, Status::Fail), (1 << 30, Status::Warn), (100 << 30, Status::Ok)] {
            assert_eq!(room(free, root).status, status, "{free}");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let finding = disk(&dir.path().join("not/there/yet"));
        assert!(finding.what.contains("GiB free for models"), "{finding:?}");
    }

    #[test]
    fn a_store_is_looked_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("models");
        let look = || store(StoreConfig { root: root.clone(), ..StoreConfig::default() });
        let last = || look().pop().expect("a finding");
        assert!(last().status == Status::Ok && last().what.starts_with("0 models"), "{:?}", last());
        let hex = "ab".repeat(32);
        let folder = root.join("manifests/registry.example/library/m");
        fs::create_dir_all(&folder).expect("folders");
        fs::create_dir_all(root.join("blobs")).expect("folders");
        fs::create_dir_all(root.join("tmp")).expect("folders");
        let layer = |kind: &str| {
            format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"sha256:{hex}","size":5}}"#)
        };
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[{}]}}"#,
            layer("docker.container.image.v1+json"),
            layer("ollama.image.model")
        );
        fs::write(folder.join("latest"), manifest).expect("written");
        assert!(
            last().status == Status::Fail && last().what.starts_with("not whole: 1 of 1 model: "),
            "{:?}",
            last()
        );
        let blob = root.join("blobs").join(format!("sha256-{hex}"));
        fs::write(&blob, "1234").expect("written");
        assert_eq!(last().status, Status::Fail, "its size is another: {:?}", last());
        fs::write(&blob, "12345").expect("written");
        assert!(last().status == Status::Ok && last().what.starts_with("1 model, "), "{:?}", last());
        fs::write(root.join("tmp/part"), "12").expect("written");
        assert!(look().iter().any(|f| f.what.contains("1 unfinished")));
        let inside = store(StoreConfig { root: blob.join("models"), ..StoreConfig::default() });
        assert!(!inside.is_empty(), "a root inside a file says something");
    }

    #[test]
    fn proxies_are_named_without_passwords() {
        let with = |pairs: &'static [(&str, &str)]| {
            proxies(&move |name: &str| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[]).what, "none set");
        let finding =
            with(&[("HTTPS_PROXY", "http://user:secret@proxy.example:3128"), ("NO_PROXY", "localhost")]);
        assert_eq!(finding.what, "HTTPS_PROXY=http://***@proxy.example:3128, NO_PROXY=localhost");
        assert_eq!(
            with(&[("http_proxy", "user:secret@proxy.example:1")]).what,
            "http_proxy=***@proxy.example:1"
        );
    }
}

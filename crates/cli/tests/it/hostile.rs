//! The program in the hands of somebody who means harm, or has no luck: names that lead out, files that are none, stores
//! that cannot be used. Each call ends soon, says what is wrong with what, and changes nothing elsewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{ingle, said, tiny};
use ingle_store::{ModelName, Store, StoreConfig};
use ingle_testkit::hostile::{texts, tree};
use serde_json::Value;

/// How long a call may take that has nothing to do but to refuse.
const CALL_MAX: Duration = Duration::from_secs(30);

/// A folder with a store in it, and files that are nobody's business.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a folder"));
        home.write("secret", b"precious");
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).expect("writable");
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn store(&self) -> Store {
        Store::open(StoreConfig { root: self.path("models"), ..StoreConfig::default() }).expect("a folder")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = ingle(args);
        command
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .env("INGLE_MODELS", self.path("models"));
        for name in ["XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command
    }

    /// A call that ends in time, and does not panic.
    fn run(&self, args: &[&str]) -> Output {
        ended(&mut self.command(args), args)
    }

    /// What a call says that fails.
    fn failure(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(!out.status.success(), "{args:?} succeeded: {}", String::from_utf8_lossy(&out.stdout));
        said(&out)
    }
}

/// Runs a call to its end, which must come soon.
fn ended(command: &mut Command, args: &[&str]) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary starts");
    let begun = Instant::now();
    while child.try_wait().expect("it can be waited for").is_none() {
        if begun.elapsed() > CALL_MAX {
            child.kill().expect("it is there");
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = child.wait_with_output().expect("it has ended");
    assert!(!said(&out).contains("panicked"), "{args:?}: {}", said(&out));
    out
}

/// A text as an argument: what the system itself takes, and no option.
fn argument(text: &str) -> Option<&str> {
    (!text.contains('\0') && !text.starts_with('-') && text.len() < 5000).then_some(text)
}

#[test]
fn hostile_names_on_the_command_line() {
    let home = Home::new();
    let file = home.write("Modelfile", format!("FROM {}\n", tiny()).as_bytes());
    let bundle = home.path("bundle").to_str().expect("UTF-8").to_owned();
    assert!(home.run(&["create", "good:1", "-f", &file]).status.success());
    let before = tree(home.0.path(), &home.path("models"));
    let all = texts(1000);
    let mut n = 0;
    // All the crafted ones, and some of those that are made of pieces; each goes to a third of the commands.
    let texts = all.iter().take(70).chain(all.iter().skip(70).step_by(25)).filter_map(|text| argument(text));
    for (i, text) in texts.enumerate() {
        let derived = format!("FROM {text}\n");
        std::fs::write(home.path("models/derived"), derived).expect("writable");
        let derived = home.path("models/derived").to_str().expect("UTF-8").to_owned();
        let commands: [&[&str]; 11] = [
            &["pull", "--offline", text],
            &["push", "--offline", text],
            &["show", text],
            &["rm", text],
            &["cp", "good:1", text],
            &["cp", text, "copied:1"],
            &["create", text, "-f", &file],
            &["create", "made:1", "-f", &derived],
            &["verify", text],
            &["export", text, "-o", &bundle],
            &["import", text],
        ];
        for args in commands.into_iter().skip(i % 3).step_by(3) {
            n += 1;
            let out = home.run(args);
            assert!(!String::from_utf8_lossy(&out.stdout).contains("precious"), "{args:?}");
            let takes_names = matches!(args[0], "cp" | "create" | "rm" | "verify");
            if out.status.success() && takes_names && args.contains(&text) {
                assert!(text.parse::<ModelName>().is_ok(), "{args:?} succeeded");
            }
        }
        // What an export wrote is asked for.
        let _ = std::fs::remove_file(&bundle);
        if i % 10 == 0 {
            assert_eq!(tree(home.0.path(), &home.path("models")), before, "after {text:?}");
        }
    }
    assert!(n > 200, "{n} calls");
    assert_eq!(tree(home.0.path(), &home.path("models")), before);
    for entry in home.store().list().expect("readable") {
        assert_eq!(entry.name.path().components().count(), 4, "{}", entry.name);
    }
}

fn png() -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &[7; 5000]].concat()
}

/// Files that are no models, at each command that takes one.
#[test]
fn files_of_the_wrong_kind() {
    let home = Home::new();
    let whole = std::fs::read(tiny()).expect("readable");
    let fifo = home.path("fifo").to_str().expect("UTF-8").to_owned();
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("there is a `mkfifo`").success());
    std::fs::create_dir(home.path("folder")).expect("writable");
    let cut = whole.len() / 2;
    for file in [
        home.write("picture.gguf", &png()),
        home.write("cut.gguf", &whole[..cut]),
        home.write("head.gguf", &whole[..100]),
        home.write("empty.gguf", b""),
        home.write("text.gguf", b"FROM x\n"),
        home.path("folder").to_str().expect("UTF-8").to_owned(),
        home.path("absent.gguf").to_str().expect("UTF-8").to_owned(),
        "/dev/null".to_owned(),
        "/dev/zero".to_owned(),
        "/dev/random".to_owned(),
        "/proc/self/mem".to_owned(),
        fifo.clone(),
    ] {
        let from = home.write("from", format!("FROM {file}\n").as_bytes());
        let adapter = home.write("adapter", format!("FROM {}\nADAPTER {file}\n", tiny()).as_bytes());
        let bundle = home.path("bundle").to_str().expect("UTF-8").to_owned();
        let mut calls: Vec<Vec<&str>> = vec![
            vec!["show", &file],
            vec!["fit", &file],
            vec!["run", "-m", &file, "-p", "x", "-n", "1"],
            vec!["create", "made", "-f", &from],
            vec!["create", "made", "-f", &adapter],
            vec!["export", &file, "-o", &bundle],
            vec!["serve", "-m", &file, "--port", "0"],
            vec!["tokenize", "-m", &file],
            vec!["show", "--shared-store", &file, "absent"],
        ];
        // A pipe is read where somebody may write to it: `<(...)` of a shell is one.
        if file != fifo {
            calls.push(vec!["import", &file]);
            calls.push(vec!["create", "made", "-f", &file]);
        }
        for args in calls {
            let text = home.failure(&args);
            assert!(text.contains("ingle ") && text.len() < 3000, "{args:?}: {text}");
            let names_it =
                text.contains(Path::new(&file).file_name().expect("it has one").to_str().expect("UTF-8"));
            assert!(names_it || args[0] == "create" || args.contains(&"--shared-store"), "{args:?}: {text}");
        }
    }
    assert!(!home.path("models/manifests").is_dir() || home.store().list().expect("readable").is_empty());
}

/// Modelfiles that are none.
#[test]
fn modelfiles_of_the_wrong_kind() {
    let home = Home::new();
    let many = "MESSAGE user hi\n".repeat(200_000);
    for (bytes, part) in [
        (b"".to_vec(), "FROM"),
        (b"FROM x\nSYSTEM \xff\xfe\n".to_vec(), "UTF-8"),
        (vec![b'x'; 50 << 20], "bytes"),
        (png(), "UTF-8"),
        (b"SYSTEM \"\"\"never closed".to_vec(), "\"\"\""),
        (format!("FROM {}\n{many}", tiny()).into_bytes(), "instructions"),
        (format!("FROM {}\nPARAMETER num_ctx many\n", tiny()).into_bytes(), "num_ctx"),
        (b"FROM \x1b]0;owned\x07\n".to_vec(), "FROM"),
    ] {
        let file = home.write("Modelfile", &bytes);
        let text = home.failure(&["create", "made", "-f", &file]);
        assert!(text.contains(part) && text.len() < 3000, "{part}: {text}");
        assert!(!text.contains(['\x1b', '\x07']), "{text:?}");
    }
    let said = Home::new().failure(&["create", "made"]);
    assert!(said.contains("-f"), "without a file it says how to name one: {said}");
}

/// Standard output of a call with `--json` is JSON, also where the call fails.
#[test]
fn errors_are_json_too() {
    let home = Home::new();
    for args in [
        &["show", "absent", "--json"][..],
        &["rm", "--json", "absent"],
        &["cp", "--json", "absent", "b"],
        &["verify", "absent", "--json"],
        &["create", "--json", "m", "-f", "absent"],
        &["pull", "--json", "--offline", "absent"],
        &["push", "--json", "--offline", "h.example/n/absent:1"],
        &["export", "absent", "-o", "x", "--json"],
        &["import", "absent", "--json"],
        &["fit", "./absent.gguf", "--json"],
        &["list", "--json", "--store-dir", "/proc/version"],
        &["prune", "--json", "--store-dir", "/proc/version/x"],
    ] {
        let out = home.run(args);
        let text = String::from_utf8(out.stdout.clone()).expect("UTF-8");
        let values: Vec<Value> = serde_json::Deserializer::from_str(&text)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"));
        let last = values.last().unwrap_or_else(|| panic!("{args:?} prints nothing: {}", said(&out)));
        if !out.status.success() {
            let error = last["error"].as_str().unwrap_or_else(|| panic!("{args:?}: {text}"));
            assert!(said(&out).contains(&error[..error.len().min(20)]), "{args:?}: {}", said(&out));
        }
    }
}

/// Words that come from elsewhere reach no terminal as they are.
#[test]
fn no_text_from_elsewhere_steers_a_terminal() {
    let home = Home::new();
    let evil = "\x1b]0;owned\x07\u{9b}2J";
    let modelfile =
        format!("FROM {}\nSYSTEM {evil}\nLICENSE {evil}\nTEMPLATE {evil}{{{{ .Prompt }}}}\n", tiny());
    let file = home.write("Modelfile", modelfile.as_bytes());
    assert!(home.run(&["create", "m", "-f", &file]).status.success());
    let harmless = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        assert!(text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'), "{text:?}");
    };
    let page = home.run(&["show", "m"]);
    assert!(page.status.success(), "{}", said(&page));
    harmless(&page.stdout);
    for args in [
        &["show", evil][..],
        &["pull", "--offline", evil],
        &["rm", evil],
        &[evil],
        &["create", evil, "-f", &file],
    ] {
        harmless(home.failure(args).as_bytes());
    }
    // For a file it stays what it is.
    let system = home.run(&["show", "--system", "m"]);
    assert_eq!(String::from_utf8(system.stdout).expect("UTF-8").trim_end_matches('\n'), evil);
    let json: Value =
        serde_json::from_slice(&home.run(&["show", "--system", "--json", "m"]).stdout).expect("JSON");
    assert_eq!(json["system"], evil);
}

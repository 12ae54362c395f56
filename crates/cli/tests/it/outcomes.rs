//! How commands end: what was done is done and told, whoever reads it, and errors are found where reports are.

use std::process::{Command, Output, Stdio};

use ingle_testkit::hub::Hub;
use serde_json::{Value, json};

use crate::store::Home;
use crate::support::{Server, output, said, stdout_of, tiny};

/// Runs a call whose standard output nobody reads any more.
fn unread(command: &mut Command) -> Output {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn();
    child.expect("the binary starts").wait_with_output().expect("it ends")
}

/// Changes a bit of the largest blob.
fn flip_weights(home: &Home) {
    let blobs = std::fs::read_dir(home.root().join("blobs")).expect("a folder");
    let size = |path: &std::path::PathBuf| path.metadata().map_or(0, |found| found.len());
    let path = blobs.map(|entry| entry.expect("readable").path()).max_by_key(size).expect("there are some");
    let mut bytes = std::fs::read(&path).expect("readable");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    std::fs::write(path, bytes).expect("writable");
}

#[test]
fn what_is_done_needs_no_reader() {
    let home = Home::new();
    ["a", "b", "c"].into_iter().for_each(|name| home.put(name, 1));
    for args in [&["rm", "a", "b"][..], &["cp", "c", "d"], &["cp", "c", "e", "--json"], &["prune"]] {
        let out = unread(&mut home.command(args));
        assert!(out.status.success(), "{args:?}: {}", said(&out));
    }
    let names = |list: &Value| -> Vec<String> {
        let models = list["models"].as_array().expect("a list");
        let mut names: Vec<String> =
            models.iter().map(|model| model["name"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&home.json(&["list", "--json"])), ["c:latest", "d:latest", "e:latest"]);

    let hub = Hub::start();
    hub.add_model(
        "library/far",
        "latest",
        &[("application/vnd.ollama.image.model", &std::fs::read(tiny()).expect("readable"))],
    );
    for more in [&["--json"][..], &[]] {
        let mut pull = home.command(&[&["pull", "far"], more].concat());
        pull.env("INGLE_REGISTRY_MIRROR", hub.url());
        pull.env("INGLE_PRIVATE_HOSTS", "127.0.0.1").env("INGLE_INSECURE_HOSTS", "127.0.0.1");
        let out = unread(&mut pull);
        assert!(out.status.success(), "{}", said(&out));
        assert!(names(&home.json(&["list", "--json"])).contains(&"far:latest".to_owned()));
        home.stdout(&["rm", "far"]);
    }

    let bundle = home.root().with_file_name("c.bundle");
    let bundle = bundle.to_str().expect("UTF-8");
    assert!(unread(&mut home.command(&["export", "c", "-o", bundle, "--json"])).status.success());
    home.stdout(&["rm", "c", "d", "e"]);
    assert!(unread(&mut home.command(&["import", bundle, "--allow-unsigned"])).status.success());
    assert_eq!(names(&home.json(&["list", "--json"])), ["c:latest"]);
    // Half of a bundle is none.
    assert_eq!(unread(&mut home.command(&["export", "c", "-o", "-"])).status.code(), Some(1));

    flip_weights(&home);
    for args in [&["verify"][..], &["verify", "--json"]] {
        assert_eq!(
            unread(&mut home.command(args)).status.code(),
            Some(1),
            "{args:?}: a verdict is one unread, too"
        );
    }
    // Who only prints has printed what was wanted.
    for args in [&["list"][..], &["help"], &["settings"], &["completions", "bash"]] {
        assert!(unread(&mut home.command(args)).status.success(), "{args:?}");
    }
}

#[test]
fn errors_stand_where_reports_do() {
    let home = Home::new();
    ["a", "b"].into_iter().for_each(|name| home.put(name, 1));
    let config = home.root().with_file_name("config.toml");
    std::fs::write(&config, "json = true\n").expect("writable");
    let with = |args: &[&str], name: &str, value: &str| -> (Option<i32>, Value) {
        let out = home.command(args).env(name, value).output().expect("the binary starts");
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"));
        (out.status.code(), report)
    };
    let config = config.to_str().expect("UTF-8");
    for (args, name, value, code) in [
        (&["show", "none", "--json"][..], "UNUSED", "", 1),
        (&["show", "none"], "INGLE_JSON", "true", 1),
        (&["show", "none"], "INGLE_CONFIG", config, 1),
        (&["list", "--json", "--no-such-option"], "UNUSED", "", 2),
        (&["doctor", "--json", "--port", "many"], "UNUSED", "", 2),
        (&["doctor", "--port", "many"], "INGLE_JSON", "1", 2),
        (&["config", "path", "--json", "more"], "UNUSED", "", 2),
        (&["config", "check", "/nonexistent"], "INGLE_JSON", "1", 1),
        (&["config", "--port", "many"], "INGLE_JSON", "1", 2),
        (&["bogus", "--json"], "UNUSED", "", 2),
        (&["bogus"], "INGLE_JSON", "1", 2),
        (&["list", "--json"], "INGLE_KERNELS_ISA", "none", 2),
    ] {
        let (found, report) = with(args, name, value);
        assert_eq!(found, Some(code), "{args:?}");
        let error = report["error"].as_str().unwrap_or_else(|| panic!("{args:?}: {report}"));
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
    // And reports are, where the environment or the configuration asks for them.
    for (args, key) in [
        (&["doctor"][..], "checks"),
        (&["config"], "settings"),
        (&["config", "path"], "is_there"),
        (&["config", "check"], "mistakes"),
    ] {
        for (name, value) in [("INGLE_JSON", "1"), ("INGLE_CONFIG", config)] {
            let (_, report) = with(args, name, value);
            assert!(!report[key].is_null(), "{args:?} by {name}: {report}");
        }
    }
    // One document tells both, what was done and what was not.
    let (code, report) = with(&["rm", "a", "none", "b", "--json"], "UNUSED", "");
    assert_eq!(code, Some(1));
    assert_eq!(report["removed"][0]["name"], "a:latest");
    assert!(report["error"].as_str().is_some_and(|error| error.contains("none:latest")), "{report}");
    assert_eq!(home.json(&["list", "--json"])["models"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_command_line_that_is_wrong_ends_with_two() {
    let home = Home::new();
    home.put("a", 1);
    for line in [
        "show",
        "show a --license --system",
        "rm",
        "cp a",
        "create",
        "create a -q Q4_0",
        "import",
        "import - --trust ed25519:00 --allow-unsigned",
        "pull",
        "push",
        "push ./a.gguf",
        "stop",
        "batch",
        "batch -",
        "replay",
        "completions",
        "render",
        "run --temp abc",
        "run --no-jinja",
        "run --ctk q8_0 --ctv f16",
        "list --shared-store",
        "export a -o x --split abc",
        "export a -o x --split 10",
        "export a -o - --json",
        "export a -o x --name b",
        "fit --params zork",
        "fit --params 8b --quant zork",
        "fit a --params 8b",
        "fit a --quant zork",
        "fit a --on zork",
        "fit a --on a10 --memory-budget 1G",
        "fit a --kv-type zork",
        "fit a --bandwidth 0",
        "fit --markdown",
        "fit --check",
        "doctor --memory-budget much",
        "config frob",
        "config --temp abc",
        "bench serve --requests 0",
        "frob",
    ] {
        let out = home.command(&line.split(' ').collect::<Vec<_>>()).current_dir(home.path()).output();
        let out = out.expect("the binary starts");
        assert_eq!(out.status.code(), Some(2), "{line}: {}", said(&out));
        assert!(
            said(&out).starts_with("ingle") || said(&out).starts_with("error: "),
            "{line}: {}",
            said(&out)
        );
    }
    // What is missing or cannot be read, and settings from elsewhere, are other mistakes.
    for line in
        ["show none", "rm none", "export none -o x", "import none", "fit none.gguf", "config check none"]
    {
        let out = home.output(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(out.status.code(), Some(1), "{line}: {}", said(&out));
    }
    let out = home.command(&["run"]).env("INGLE_TEMPERATURE", "abc").output().expect("the binary starts");
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
}

/// `No space left on device` alone would read as if the disk of the store were full, and nothing done.
#[cfg(target_os = "linux")]
#[test]
fn a_report_that_cannot_be_written_does_not_hide_what_was_done() {
    let home = Home::new();
    ["a", "b", "c"].into_iter().for_each(|name| home.put(name, 1));
    let modelfile = home.path().join("Modelfile");
    std::fs::write(&modelfile, "FROM c\n").expect("writable");
    let modelfile = modelfile.to_str().expect("UTF-8");
    let bundle = home.path().join("c.bundle");
    let bundle = bundle.to_str().expect("UTF-8");
    let key = home.path().join("key");
    let into_full = |args: &[&str]| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        home.command(args).stdout(full).stderr(Stdio::piped()).output().expect("the binary starts")
    };
    for args in [
        &["rm", "a", "b"][..],
        &["cp", "c", "d"],
        &["cp", "c", "e", "--json"],
        &["create", "f", "-f", modelfile],
        &["prune"],
        &["export", "c", "-o", bundle, "--json"],
        &["import", bundle, "--allow-unsigned"],
        &["keygen", key.to_str().expect("UTF-8")],
    ] {
        let out = into_full(args);
        let error = said(&out);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains("what was asked for is done, but cannot be told"), "{args:?}: {error}");
        assert!(error.contains("standard output cannot be written: No space left"), "{args:?}: {error}");
    }
    let list = home.json(&["list", "--json"]);
    let mut names: Vec<&str> = list["models"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|model| model["name"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["c:latest", "d:latest", "e:latest", "f:latest"]);
    assert!(key.exists() && key.with_extension("pub").exists());
    // Both are told: that one is not there, and that nobody can be told of the other.
    let out = into_full(&["rm", "d", "none", "--json"]);
    assert!(said(&out).contains("none:latest") && said(&out).contains("standard output"), "{}", said(&out));
    for args in [&["run", "--help"][..], &["list", "--help"], &["completions", "--help"]] {
        let out = into_full(args);
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(said(&out).contains("standard output cannot be written"), "{args:?}: {}", said(&out));
        assert!(unread(&mut home.command(args)).status.success(), "{args:?}");
    }
}

/// A limit of files' sizes stands for a full disk.
#[cfg(unix)]
#[test]
fn a_key_that_cannot_be_written_leaves_nothing() {
    let home = Home::new();
    let key = home.path().join("key");
    let script = "ulimit -f 0; trap '' XFSZ; exec \"$0\" keygen \"$1\"";
    let mut shell = Command::new("sh");
    let out = shell.args(["-c", script, env!("CARGO_BIN_EXE_ingle")]).arg(&key).output().expect("a shell");
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(said(&out).contains("cannot write the key"), "{}", said(&out));
    assert!(!key.exists(), "it would be in the way of the next attempt");
    // A name that is short enough, but not for the public half.
    let long = home.path().join("k".repeat(253));
    let error = home.failure(&["keygen", long.to_str().expect("UTF-8")]);
    assert!(error.contains("cannot write the key") && !long.exists(), "{error}");
    home.stdout(&["keygen", key.to_str().expect("UTF-8")]);
    assert!(key.with_extension("pub").exists());
}

#[test]
fn one_is_no_plural() {
    let home = Home::new();
    home.put("a", 1);
    let bundle = home.path().join("b");
    let bundle = bundle.to_str().expect("UTF-8");
    home.stdout(&["export", "a", "-o", bundle]);
    home.stdout(&["rm", "a"]);
    let stated = |out: &str| out.lines().last().map(str::to_owned).unwrap_or_default();
    let first = stated(&home.stdout(&["import", bundle, "--allow-unsigned"]));
    assert!(first.contains("in 5 new blobs; 0 blobs were here already"), "{first}");
    let doctor = String::from_utf8(home.output(&["doctor"]).stdout).expect("UTF-8");
    assert!(doctor.contains(" 1 model, all there"), "{doctor}");
    // One file of it is damaged, so that one comes anew.
    flip_weights(&home);
    let again = stated(&home.stdout(&["import", bundle, "--allow-unsigned"]));
    assert!(again.contains("in 1 new blob; 4 blobs were here already"), "{again}");
}

#[test]
fn help_of_a_command_is_its_own() {
    for topic in ["pull", "show", "export", "doctor", "convert", "bench"] {
        assert_eq!(stdout_of(&["help", topic], ""), stdout_of(&[topic, "--help"], ""), "{topic}");
    }
    let out = output(&["help", "nothing"], "");
    assert_eq!(out.status.code(), Some(2));
    assert!(said(&out).contains("there is no command `nothing`"), "{}", said(&out));
}

#[test]
fn one_part_of_a_model_at_a_time() {
    let home = Home::new();
    home.put("a", 1);
    let error = home.failure(&["show", "a", "--system", "--license"]);
    assert!(error.contains("--license and --system ask for one part of a model each"), "{error}");
}

#[cfg(unix)]
#[test]
fn settings_that_are_no_text_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let odd = std::ffi::OsStr::from_bytes(b"models-\xff");
    for name in ["INGLE_MODELS", "OLLAMA_MODELS", "HF_HOME", "https_proxy"] {
        let out = home.command(&["list"]).env(name, odd).output().expect("the binary starts");
        assert_eq!(out.status.code(), Some(2), "{name}");
        assert!(
            said(&out).contains(&format!("the environment variable {name} is not UTF-8")),
            "{}",
            said(&out)
        );
    }
    let out = home.command(&["list"]).env("SOMETHING_ELSE", odd).output().expect("the binary starts");
    assert!(out.status.success(), "{}", said(&out));
}

#[test]
fn logs_in_files_have_no_colours() {
    let home = Home::new();
    let mut server =
        Server::launch(home.command(&["serve", "--port", "0"]).env("RUST_LOG", "ingle_server=debug"));
    assert_eq!(server.get("/api/version").status, 200);
    server.wait_for("DEBUG").expect("an answer is told");
    let said = server.said.lock().expect("nobody panics with it");
    assert!(!said.contains('\x1b'), "{said:?}");
}

#[test]
fn a_trial_of_an_import_ends_as_the_import_would() {
    let home = Home::new();
    home.put("a", 1);
    let bundle = home.root().with_file_name("a.bundle");
    let bundle = bundle.to_str().expect("UTF-8");
    home.stdout(&["export", "a", "-o", bundle]);
    let dry = ["import", bundle, "--allow-unsigned", "--dry-run", "--json"];
    assert_eq!(home.json(&dry)["models"][0]["outcome"], "unchanged");
    home.put("a", 2);
    let real = home.failure(&["import", bundle, "--allow-unsigned"]);
    let trial = home.failure(&dry[..4]);
    assert!(real.contains("a:latest") && trial.ends_with(&real), "{real}\n{trial}");
    assert_eq!(home.json(&[&dry[..], &["--replace"]].concat())["models"][0]["outcome"], "replaced");
    // A store that is not there yet is no reason to say no.
    std::fs::remove_dir_all(home.root()).expect("it is there");
    assert_eq!(home.json(&dry)["models"][0]["outcome"], json!("new"));
    assert!(!home.root().exists(), "a trial makes nothing");
}

#[test]
fn whatever_stands_in_a_manifest_s_place_can_be_removed() {
    let home = Home::new();
    ["huge", "torn", "folder", "good"].into_iter().for_each(|name| home.put(name, 1));
    let place =
        |name: &str| home.root().join("manifests/registry.ollama.ai/library").join(name).join("latest");
    std::fs::write(place("huge"), vec![b' '; 5 << 20]).expect("writable");
    std::fs::write(place("torn"), b"{").expect("writable");
    std::fs::remove_file(place("folder")).expect("it is there");
    std::fs::create_dir(place("folder")).expect("writable");
    home.stdout(&["rm", "huge", "torn"]);
    let error = home.failure(&["rm", "folder"]);
    assert!(error.contains("remove it by hand") && error.contains("library/folder/latest"), "{error}");
    std::fs::remove_dir(place("folder")).expect("it is empty");
    assert!(home.json(&["prune", "--json"])["unreadable"].as_array().is_some_and(Vec::is_empty));
    home.stdout(&["rm", "good"]);
    assert_eq!(home.json(&["prune", "--json"])["blobs"], 0, "nothing was left over");
}

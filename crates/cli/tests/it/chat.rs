//! The chat's surroundings, as people call them: pipes, configuration, completions, manual, `ps` and `stop`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use ingle_testkit::bert::TinyBert;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::Value;

const INGLE: &str = env!("CARGO_BIN_EXE_ingle");

fn ingle(args: &[&str]) -> Command {
    let mut command = Command::new(INGLE);
    command.args(args).env_remove("RUST_LOG").env_remove("OLLAMA_HOST").env("INGLE_CONFIG", "/dev/null");
    command.env("INGLE_DATA_DIR", "").stdin(Stdio::null());
    command
}

fn run(command: &mut Command, input: &str) -> Output {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    // Who does not read its input has ended with a word about why.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn stdout_of(args: &[&str], input: &str) -> String {
    let out = run(&mut ingle(args), input);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn failure(args: &[&str], input: &str) -> String {
    let out = run(&mut ingle(args), input);
    assert!(!out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).expect("UTF-8")
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

/// What is piped in stands before the words of the command line, which need no quotes.
#[test]
fn pipes_and_words_make_one_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = write(folder.path(), "tiny.gguf", &TinySpec::new(Arch::Llama).bytes());
    let ask = |words: &[&str], input: &str| {
        let args = [&["run", &tiny][..], words, &["--raw", "-n", "1", "--temp", "0"]].concat();
        stdout_of(&args, input)
    };
    assert!(ask(&["what", "failed"], "").starts_with("what failed"));
    assert!(ask(&["what failed"], "line 1\nline 2\n").starts_with("line 1\nline 2\n\nwhat failed"));
    assert!(ask(&["-"], "piped").starts_with("piped"));
    // llama.cpp's way to say it reads no pipe that nobody has spoken of.
    assert!(ask(&["-p", "x"], "unread").starts_with("x"));
}

#[test]
fn answers_obey_formats() {
    let said = stdout_of(&["run", "-p", "Say something.", "--choice", "**one**\u{1b}[2J"], "");
    assert_eq!(said, "**one**\u{1b}[2J\n", "what is no terminal gets the text as it is");
    let folder = tempfile::tempdir().unwrap();
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}"#;
    let file = write(folder.path(), "schema.json", schema.as_bytes());
    for format in [schema, &file] {
        let said = stdout_of(
            &["run", "-p", "A number, please.", "--format", format, "-n", "200", "--temp", "0"],
            "",
        );
        let value: Value = serde_json::from_str(&said).expect("JSON");
        assert!(value["n"].is_i64() || value["n"].is_u64(), "{said}");
    }
    for (args, words) in [
        (&["run", "-p", "x", "--format", "xml"][..], "--format: neither `json` nor a schema"),
        (&["run", "-p", "x", "--format", "json", "--regex", "a"], "give one of them"),
        (&["run", "-p", "x", "--format", "{"], "--format"),
        (&["run", "-p", "x", "--think=loud"], "`loud` is none of true, false, low"),
        (&["run", "-p", "x", "--dimensions", "3"], "models that embed"),
    ] {
        let error = failure(args, "");
        assert!(error.contains(words), "{args:?}: {error}");
    }
    let out = run(
        &mut ingle(&[
            "run",
            "-p",
            "x",
            "--choice",
            "y",
            "--keepalive",
            "5m",
            "--hidethinking",
            "--nowordwrap",
            "--insecure",
        ]),
        "",
    );
    assert!(
        out.status.success()
            && String::from_utf8_lossy(&out.stderr).contains("--keepalive: the model is in memory")
    );
}

/// What a model says of the length of its answers is a bound; what the command line says is what is wanted.
#[test]
fn answers_end_where_the_context_does() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = write(folder.path(), "tiny.gguf", &TinySpec::new(Arch::Llama).bytes());
    let recipe = write(
        folder.path(),
        "Modelfile",
        format!("FROM {tiny}\nPARAMETER num_predict 100000\nPARAMETER num_ctx 64\n").as_bytes(),
    );
    let store = folder.path().join("store");
    let with_store = |args: &[&str]| {
        let mut command = ingle(args);
        command.env("INGLE_MODELS", &store).env("OLLAMA_MODELS", "").env("HF_HOME", "");
        run(&mut command, "")
    };
    assert!(with_store(&["create", "mine", "-f", &recipe]).status.success());
    for how in [&["--raw"][..], &["--chat-template", "chatml"]] {
        let ask = |more: &[&str]| {
            let out = with_store(&[&["run", "mine", "hi", "--json", "--ignore-eos"][..], how, more].concat());
            (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
        };
        let (said, error) = ask(&[]);
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{how:?}: {error}"));
        let n_tokens =
            report["prompt_tokens"].as_u64().unwrap() + report["completion_tokens"].as_u64().unwrap();
        assert_eq!((n_tokens, &report["finish_reason"]), (64, &Value::from("length")), "{how:?}: {report}");
        let (_, error) = ask(&["-n", "100000"]);
        assert!(error.contains("100000 are to be generated"), "{how:?}: {error}");
    }
}

/// That no model was named is said where none was, and once.
#[test]
fn the_shipped_model_is_spoken_of_where_none_was_named() {
    for (args, n) in [(&["run", "-p", "x"][..], 1), (&["run", "ingle-tiny", "-p", "x"], 0)] {
        let out = run(&mut ingle(&[args, &["--choice", "y"]].concat()), "");
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success() && said.matches("no model was named").count() == n, "{args:?}: {said}");
    }
}

#[test]
fn images_are_refused_where_a_model_has_no_eyes() {
    let folder = tempfile::tempdir().unwrap();
    let image = write(folder.path(), "cat.png", b"\x89PNG");
    let error = failure(&["run", "-p", &format!("What is in {image}?")], "");
    assert!(error.contains("cat.png` is an image") && error.contains("no eyes"), "{error}");
}

#[test]
fn embedding_models_print_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let bert = write(folder.path(), "bert.gguf", &TinyBert::default().bytes());
    let vector = |args: &[&str], input: &str| -> Vec<f64> {
        let text = stdout_of(&[&["run", &bert][..], args].concat(), input);
        serde_json::from_str(&text).expect("a JSON array of numbers")
    };
    let whole = vector(&["abc"], "");
    assert!(whole.len() > 3);
    assert_eq!(vector(&[], "abc\n"), whole);
    assert_eq!(vector(&["abc", "--dimensions", "3"], "").len(), 3);
    let long = "word ".repeat(5000);
    assert_eq!(vector(&[], &long).len(), whole.len());
    let error = failure(&["run", &bert, "--truncate=false"], &long);
    assert!(error.contains("tokens"), "{error}");
}

#[test]
fn config_tells_what_holds_and_who_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(
        folder.path(),
        "config.toml",
        b"# ours\nport = 9000\n\ntemperature = 0.5\napi_key = ['s3cret']\n",
    );
    let config = |args: &[&str]| {
        let mut command = ingle(&[&["config"][..], args].concat());
        command.env("INGLE_CONFIG", &file).env("INGLE_THREADS", "3").env("OLLAMA_HOST", "box:1");
        run(&mut command, "")
    };
    let text = |args: &[&str]| String::from_utf8(config(args).stdout).unwrap();
    let plain = text(&["--top-k", "7"]);
    let line = |key: &str| {
        let found = plain.lines().find(|line| line.split_whitespace().next() == Some(key));
        found
            .unwrap_or_else(|| panic!("no {key}: {plain}"))
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("port"), format!("9000 {file}:2"));
    assert_eq!(line("temperature"), format!("0.5 {file}:4"));
    assert_eq!(line("threads"), "3 environment variable INGLE_THREADS");
    assert_eq!(line("server"), "box:1 environment variable OLLAMA_HOST");
    assert_eq!(line("top_k"), "7 --top-k");
    assert_eq!(line("api_key"), format!("(not shown) {file}:5"));
    assert!(!plain.contains("s3cret") && !plain.contains("kv_type"), "{plain}");
    assert!(text(&["--all"]).contains("kv_type"));
    let all: Value = serde_json::from_str(&text(&["--json"])).unwrap();
    assert_eq!(all["settings"]["port"]["origin"]["line"], 2);
    assert_eq!(all["settings"]["api_key"]["value"], "(not shown)");
    assert_eq!(all["settings"]["kv_type"]["origin"]["kind"], "default");
    assert!(!all.to_string().contains("s3cret"));
    assert_eq!(text(&["path"]).trim(), file);
    assert!(config(&["check"]).status.success());
    let wrong = write(folder.path(), "wrong.toml", b"port = 1\n\nportt = 2\nkv_type = 'q3'\n");
    let out = config(&["check", &wrong]);
    let told = String::from_utf8(out.stdout).unwrap();
    assert!(!out.status.success());
    assert!(
        told.contains(&format!("{wrong}:3: `portt`")) && told.contains(&format!("{wrong}:4: `kv_type`")),
        "{told}"
    );
    let json = |args: &[&str], code: i32| -> Value {
        let out = config(args);
        assert_eq!(out.status.code(), Some(code), "{args:?}");
        serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    };
    for args in [&["path", "--json"][..], &["--json", "path"], &["--json", "--config", &file, "path"]] {
        assert_eq!(json(args, 0), serde_json::json!({ "file": file, "is_there": true }), "{args:?}");
    }
    for args in [&["--json", "check", &wrong][..], &["check", "--json", &wrong], &["check", &wrong, "--json"]]
    {
        let report = json(args, 1);
        assert_eq!((&report["file"], &report["mistakes"][1]["line"]), (&wrong.as_str().into(), &4.into()));
        assert!(report["mistakes"][0]["message"].as_str().is_some_and(|m| m.contains("`portt`")), "{report}");
    }
    assert_eq!(json(&["check", "--json"], 0), serde_json::json!({ "file": file, "mistakes": [] }));
    for (args, words) in [
        (&["--port", "many"][..], "--port"),
        (&["nonsense"], "neither `path` nor `check`"),
        (&["path", &wrong], "takes no file"),
        (&["path", "--port", "1"], "--port says nothing to `ingle config path`"),
        (&["check", "--all"], "--all says nothing to `ingle config check`"),
        (&["check", &wrong, "--config", &file], "two files"),
        (&["check", &wrong, &wrong], "unexpected argument"),
    ] {
        let out = config(args);
        let error = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(2) && error.contains(words), "{args:?}: {error}");
    }
}

/// What bash offers for a line, with the cursor at its end.
fn bash_offers(script: &str, line: &str, env: &[(&str, &str)]) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (n, last) = (words.len() - 1, words[words.len() - 1]);
    let before = if n > 0 { words[n - 1] } else { "" };
    let program = format!(
        "source '{script}'; COMP_WORDS=({}); COMP_CWORD={n}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; \
         _ingle_with_names ingle '{last}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" ")
    );
    let folder = Path::new(INGLE).parent().unwrap().to_str().unwrap();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", &program]).env("PATH", path).env("INGLE_CONFIG", "/dev/null");
    command.env_remove("OLLAMA_HOST").envs(env.iter().copied());
    let out = run(&mut command, "");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    let mut offers: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    offers.retain(|offer| !offer.is_empty());
    offers
}

#[cfg(unix)]
#[test]
fn bash_completes() {
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), "ingle.bash", stdout_of(&["completions", "bash"], "").as_bytes());
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    let tiny = write(&models, "tiny.gguf", b"");
    let store = folder.path().join("store");
    let store = [("INGLE_MODELS", store.to_str().unwrap()), ("OLLAMA_MODELS", ""), ("HF_HOME", "")];
    let real = write(folder.path(), "real.gguf", &TinySpec::new(Arch::Llama).bytes());
    let recipe = write(folder.path(), "Modelfile", format!("FROM {real}\n").as_bytes());
    for name in ["mine", "mine:small", "me/other"] {
        let mut create = ingle(&["create", name, "-f", &recipe]);
        assert!(run(create.envs(store), "").status.success(), "{name}");
    }
    let offers = |line: &str, env: &[(&str, &str)]| bash_offers(&script, line, env);
    let stored = |line: &str| {
        let mut offers = offers(line, &store);
        offers.retain(|offer| !offer.starts_with('-'));
        offers.sort();
        offers
    };
    assert_eq!(stored("ingle rm mi"), ["mine:latest", "mine:small"]);
    assert_eq!(stored("ingle rm me/other:latest mine:s"), ["small"], "bash parts words at colons");
    assert_eq!(stored("ingle cp me/"), ["me/other:latest"]);
    assert_eq!(stored("ingle cp mine:small m"), [""; 0]);
    assert!(stored("ingle run mine").contains(&"mine:small".to_owned()));
    assert_eq!(offers("ingle co", &[]), ["convert", "config", "completions"]);
    assert_eq!(offers("ingle run --nowo", &[]), ["--nowordwrap"]);
    assert_eq!(offers("ingle serve --on-missing re", &[]), ["refuse"]);
    assert_eq!(offers("ingle completions f", &[]), ["fish"]);
    assert_eq!(offers("ingle bench serve --rat", &[]), ["--rate"]);
    let found = offers("ingle run ", &[("INGLE_MODELS_DIR", models.to_str().unwrap())]);
    assert!(found.contains(&tiny), "{found:?}");
    // Where no server is, there are no names, and no noise.
    assert!(
        offers("ingle stop x", &[("INGLE_SERVER", "127.0.0.1:1")])
            .iter()
            .all(|offer| !offer.starts_with('x'))
    );
}

#[test]
fn other_shells_get_scripts() {
    for (shell, words) in [
        ("zsh", "#compdef ingle"),
        ("fish", "complete -c ingle"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = stdout_of(&["completions", shell], "");
        assert!(script.contains(words), "{shell}");
        // The shell itself reads it, where it is there.
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), "script", script.as_bytes());
        if let Ok(out) = Command::new(shell).args(["-n", &file]).output() {
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(shell == "powershell" || (out.status.success() && said.is_empty()), "{shell}: {said}");
        }
    }
    assert!(failure(&["completions", "csh"], "").contains("zsh"));
    assert!(failure(&["completions"], "").contains("name the shell"));
}

/// The pages are ones that the manual's own programs have nothing to say against, where they are there.
#[test]
fn the_manual_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    stdout_of(&["man", pages.to_str().unwrap()], "");
    let names: Vec<_> = std::fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.len() >= 17, "{names:?}");
    assert!(stdout_of(&["man"], "").starts_with(".ie"), "the first page goes to standard output");
    if Command::new("groff").arg("--version").output().is_err() {
        return;
    }
    for page in names {
        let out =
            Command::new("groff").args(["-man", "-Tutf8", "-ww", "-P-cbou"]).arg(&page).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{}: {said}", page.display());
        let text = String::from_utf8_lossy(&out.stdout).to_lowercase();
        assert!(text.contains("synopsis") && text.contains("ingle"), "{text}");
    }
}

/// A server that ends with this value.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = ingle(&[&["serve", "-c", "128", "--kv-tokens", "256"][..], args].concat());
        let mut child = command.envs(env.iter().copied()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {seen:?}")).unwrap();
            match line.strip_prefix("listening on http://") {
                Some(address) => break address.to_owned(),
                None => seen.push(line),
            }
        };
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, address }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ps_and_stop_ask_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = write(folder.path(), "tiny.gguf", &TinySpec::new(Arch::Llama).bytes());
    let keys = write(folder.path(), "keys", b"k3y models\n");
    let server = Served::start(
        &["-m", &format!("small={tiny}"), "--keep-alive", "10m", "--port", "0", "--api-key-file", &keys],
        &[],
    );
    let ask = |args: &[&str]| {
        let mut command = ingle(args);
        command.env("OLLAMA_HOST", &server.address).env("INGLE_API_KEY", "k3y");
        run(&mut command, "")
    };
    let text = |args: &[&str]| String::from_utf8(ask(args).stdout).unwrap();
    let until = |what: &str, found: &dyn Fn(&str) -> bool| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let table = text(&["ps"]);
            if found(&table) {
                return table;
            }
            assert!(std::time::Instant::now() < end, "{what}: {table}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    let table = until("it is loaded", &|table| table.contains("small"));
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(names, ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]);
    let row = lines.next().unwrap();
    assert!(
        row.starts_with("small:latest") && row.contains("100% CPU") && row.contains("minutes from now"),
        "{row}"
    );
    let list: Value = serde_json::from_str(&text(&["ps", "--json"])).unwrap();
    assert_eq!(list["models"][0]["name"], "small:latest");
    assert!(text(&["__names", "running"]).contains("small:latest"));
    let out = ask(&["stop", "nobody"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("nobody"), "{said}");
    assert!(ask(&["stop", "small"]).status.success());
    until("it is unloaded", &|table| !table.contains("small"));
    // Without the key, with a wrong address, and without a server.
    let mut without = ingle(&["ps", "--server", &server.address]);
    assert!(String::from_utf8_lossy(&run(&mut without, "").stderr).contains("wants a key"));
    assert!(failure(&["ps", "--server", "127.0.0.1:1"], "").contains("is a server running there?"));
    // It speaks https where the address says so, and this server does not.
    let error = failure(&["ps", "--server", &format!("https://{}", server.address)], "");
    assert!(error.contains("is a server running there?") && !error.contains("http://"), "{error}");
    assert!(failure(&["stop"], "").contains("name the model"));
}

/// `OLLAMA_HOST` is where Ollama's server listens, and ours too, unless something else is said.
#[test]
fn serve_listens_where_ollama_host_says() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Served::start(&[], &[("OLLAMA_HOST", &free.to_string())]);
    assert_eq!(server.address, free.to_string());
    // While its model loads it says so.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let out = run(ingle(&["ps", "--json"]).env("OLLAMA_HOST", format!("http://{free}")), "");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if out.status.success() {
            break;
        }
        assert!(said.contains("Loading model") && std::time::Instant::now() < end, "{said}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let said = Served::start(&["--port", "0"], &[("OLLAMA_HOST", &free.to_string())]);
    assert_ne!(said.address, free.to_string());
}

/// A token comes from a pipe, and no command shows it.
#[test]
fn tokens_come_from_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials.json");
    let login = |args: &[&str], input: &str| {
        let all = [&["login", "--credentials-file", file.to_str().unwrap()][..], args].concat();
        let out = run(&mut ingle(&all), input);
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for (args, input) in [
        (&["https://one.example"][..], "s3cret\n"),
        (&["https://two.example", "--token-stdin"], "s3cret"),
        (&["https://three.example", "--user", "me", "--password-stdin"], "s3cret\r\n"),
    ] {
        let (is_good, said) = login(args, input);
        assert!(is_good && !said.contains("s3cret"), "{args:?}: {said}");
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    for origin in ["one.example", "two.example", "three.example"] {
        assert!(kept.contains(origin), "{kept}");
    }
    for (input, words) in [
        ("", "no token was given"),
        ("\n", "no token"),
        ("a\nb\n", "control characters"),
        (&"x".repeat(1 << 15), "longest token"),
    ] {
        let (is_good, said) = login(&["https://four.example"], input);
        assert!(!is_good && said.contains(words), "{said}");
    }
}

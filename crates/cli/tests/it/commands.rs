//! The binary, as people call it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Server, failure, ingle, output, stdout_of, tiny};

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    path.exists().then_some(path)
}

#[test]
fn the_shipped_model_answers() {
    let answer = stdout_of(&["run", "-p", "What is a PEP?"], "");
    assert!(answer.contains("Python Enhancement Proposal"), "{answer}");
    assert_eq!(stdout_of(&["run", "ingle-tiny", "What is a PEP?"], ""), answer, "it has a name, too");
    let shown: Value = serde_json::from_str(&stdout_of(&["show", "ingle-tiny", "--json"], "")).expect("JSON");
    assert_eq!(shown["architecture"], "llama");
    // The same from standard input, from a file, and as an argument of `--prompt`.
    assert_eq!(stdout_of(&["run"], "What is a PEP?\n"), answer);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "What is a PEP?").unwrap();
    assert_eq!(stdout_of(&["run", "-f", file.path().to_str().unwrap()], ""), answer);
}

#[test]
fn a_completion_starts_with_its_prompt_unless_told_otherwise() {
    let args = ["run", tiny(), "abc", "--raw", "-n", "8", "--temp", "0"];
    let with = stdout_of(&args, "");
    let without = stdout_of(&[&args[..], &["--no-display-prompt"]].concat(), "");
    assert_eq!(with, format!("abc{without}"));
    assert_eq!(stdout_of(&args, ""), with, "greedy answers repeat");
}

#[test]
fn a_seed_repeats_an_answer_and_json_tells_it() {
    let ask = |seed: &str| -> Value {
        let args = [
            "run",
            tiny(),
            "abc",
            "--raw",
            "-n",
            "12",
            "--temp",
            "1.5",
            "--top-k",
            "0",
            "-s",
            seed,
            "--json",
        ];
        serde_json::from_str(&stdout_of(&args, "")).expect("one JSON object")
    };
    let one = ask("7");
    assert_eq!(one["text"], ask("7")["text"]);
    assert_eq!(one["seed"], 7);
    assert_eq!(one["prompt_tokens"], 3);
    assert_ne!(one["text"], ask("8")["text"]);
}

/// The README's first command, `cargo run`, needs one binary among the workspace's default members.
#[test]
fn cargo_run_has_one_binary() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
    let members = manifest["workspace"]["default-members"].as_array().unwrap();
    let has = |name: &str| members.iter().any(|m| m.as_str() == Some(name));
    assert!(has("crates/cli") && !has("crates/xtask"));
}

/// Command lines as people write them for llama.cpp's programs.
#[test]
fn llama_cli_lines_run() {
    for line in [
        "-p abc -n 4 -c 256 -t 1 --temp 0 -ngl 0 --no-display-prompt -no-cnv -fa auto --no-warmup",
        "-p abc --n-predict 4 --ctx-size 256 --threads 1 --top-k 10 --top-p 0.9 --min-p 0.1 -ngl 99 --no-mmap --seed 3 -st",
        "-p abc -n 4 -b 64 -ub 64 -tb 1 -ctk q8_0 -ctv q8_0 --repeat-penalty 1.1 --repeat-last-n 32 --color -sys hi -cnv -st",
        "-p abc --predict 4 --samplers top_k;temperature --mirostat 2 --mirostat-lr 0.1 --mirostat-ent 5.0 --ignore-eos --jinja",
        "--prompt abc -n 4 --chat-template chatml --dry-multiplier 0.5 --xtc-probability 0.1 -l 5-inf --simple-io --log-disable",
    ] {
        let mut args = vec!["run", "-m", tiny()];
        args.extend(line.split(' '));
        stdout_of(&args, "");
    }
}

#[test]
fn what_contradicts_the_facts_is_refused_with_the_reason() {
    let check = |line: &str, expected: &str| {
        let mut args: Vec<&str> = line.split(' ').collect();
        args.extend(["-m", tiny()]);
        let error = failure(&args);
        assert!(error.contains(expected), "`{line}`: `{error}` does not say `{expected}`");
    };
    check("serve --tensor-parallel-size 2", "this machine has 0");
    check("serve -tp 2", "this machine has 0");
    check("serve --quantization awq", "`awq`");
    check("serve -nocb", "always on");
    check("serve --host 0.0.0.0 --port 0", "--no-auth");
    check("serve --listen nonsense", "no address");
    check("run -p x --tensor-split 1,1", "names 2 devices");
    check("run -p x -c 100000000", "context");
    check("run -p x --kv-type q3", "f32, f16, bf16, q8_0 and q4_0");
    check("run -p x --temp hot", "not a finite number");
    check("run -p x --grammar root", "use --json-schema");
    check("run -p x --chat-template nonsense", "neither a built-in name");
    check("run -p x --samplers top_k;nonsense", "`nonsense`");
    check("run -p x -f /dev/null", "two prompts");
    check("run -p x -t 0", "at least one thread");
    assert!(failure(&["run", "-m", "/nonexistent.gguf", "-p", "x"]).contains("/nonexistent.gguf"));
    assert!(failure(&["run", "-m", env!("CARGO_BIN_EXE_ingle"), "-p", "x"]).contains("not a readable GGUF"));
    assert!(failure(&["nonsense"]).contains("no command `nonsense`"));
    let gpu = output(&["run", "-m", tiny(), "-p", "x", "-n", "1", "-ngl", "99"], "");
    assert!(
        gpu.status.success() && String::from_utf8_lossy(&gpu.stderr).contains("everything runs on the CPU")
    );
}

/// What is not there is refused by the name it was given, with the reason; nothing is an unknown argument.
#[test]
fn peers_options_are_refused_by_name_or_run() {
    for (line, expected) in [
        ("run -p x -hf ggml-org/gemma-3-1b-it-GGUF", "-hf: downloading models is not supported yet"),
        ("run -p x -md /nonexistent/draft.gguf --draft-max 16 -ngld 99", "the draft model: "),
        ("run -p x --draft-max 65", "--draft-max: 65"),
        ("run -p x --speculation draft", "--model-draft"),
        ("run -p x --spec-type draft-eagle3", "--spec-type: `draft-eagle3` is no source of guesses"),
        ("run -p x -lcs f", "-lcs: guesses are looked up"),
        ("serve --speculative-config {\"method\":\"eagle\"}", "--speculative-config: the method `eagle`"),
        ("run -p x -ctk q8_0 -ctv f16", "one type"),
        ("run -p x -sm row -ts 3,1", "-ts: it names 2 devices"),
        ("run -p x --raw -sys y", "--system-prompt needs a chat template"),
        ("run -p x -n -5", "--n-predict: -5"),
        ("run -p x -s -7", "`-7` is no seed"),
        ("serve -n 512", "-n: requests say"),
        ("serve --embedding --pooling max", "`max` is no way to pool"),
        ("serve --reranking --pooling rank", "the model has no head that ranks"),
        ("serve --embd-normalize -1", "--embd-normalize: embeddings have the length 1"),
        ("serve --reasoning-parser deepseek_r1", "--reasoning-parser: "),
        ("serve --kv-cache-dtype fp8", "--kv-cache-dtype: `fp8`"),
        ("serve --enable-auto-tool-choice", "--enable-auto-tool-choice: "),
        ("serve --ssl-keyfile k", "--ssl-keyfile: TLS"),
        ("serve -ot exps=CUDA0", "-ot: `exps=CUDA0`"),
    ] {
        let mut args: Vec<&str> = line.split(' ').collect();
        args.extend(["-m", tiny()]);
        let error = failure(&args);
        assert!(error.contains(expected), "`{line}`: `{error}` does not say `{expected}`");
    }
    for line in [
        "-fa -ot .ffn_.*_exps.=CPU --n-cpu-moe 9 -fit off -t -1 -np -1 -kvu --keep -1 -cb --metrics",
        "--reasoning-format none --cache-ram 0 --prio 2 --poll 50 -lv 1 --no-perf -co -e",
    ] {
        let mut args = vec!["run", tiny(), "abc", "-n", "2"];
        args.extend(line.split(' '));
        stdout_of(&args, "");
    }
    let said = stdout_of(&["run", "-m", tiny(), "-n", "1", "--raw", "-p", "--snake_case=1"], "");
    assert!(said.starts_with("--snake_case=1"), "values stay as they are: {said}");
}

#[test]
fn where_the_prompt_and_the_model_come_from() {
    assert!(failure(&["run"]).contains("standard input is empty"));
    assert!(failure(&["run", "-m", tiny(), "a", "b", "-p", "c"]).contains("two prompts: `a b`"));
    assert!(failure(&["serve", "meta-llama/Llama-3"]).contains("there is no file `meta-llama/Llama-3`"));
    // The command line wins over the environment.
    let out = ingle(&["run", tiny(), "abc", "-n", "1"]).env("INGLE_MODEL", "/nonexistent").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(stdout_of(&["run", "--help"], "").contains("[MODEL] [PROMPT...]\n"));
    // A drawn seed can be given back, however large.
    let args = ["run", tiny(), "abc", "--raw", "-n", "2", "--json", "-s", "18446744073709551615"];
    let report: Value = serde_json::from_str(&stdout_of(&args, "")).unwrap();
    assert_eq!(report["seed"], u64::MAX);
    // A refused request prints nothing.
    let out = output(&["run", tiny(), "abc", "--raw", "-n", "2000000"], "");
    assert!(!out.status.success() && out.stdout.is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn full_disks_and_endless_files_are_errors() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut template = tempfile::NamedTempFile::new().unwrap();
    write!(template, "no newline at the end").unwrap();
    let mut vars = tempfile::NamedTempFile::new().unwrap();
    write!(vars, "{{}}").unwrap();
    for args in [
        &["help"][..],
        &["version"],
        &["settings"],
        &["render", "--template", template.path().to_str().unwrap()],
    ] {
        let input = std::fs::File::open(vars.path()).unwrap();
        let out = ingle(args).stdin(input).stdout(full()).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains("No space left") && !error.contains("panicked"), "{args:?}: {error}");
    }
    let out = ingle(&["run", tiny(), "abc", "-n", "1"]).stderr(full()).output().unwrap();
    assert!(out.status.success(), "notes that nobody reads are no error");
    assert!(failure(&["run", tiny(), "-f", "/dev/zero"]).contains("more than the"));
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(failure(&["show", pipe.to_str().unwrap()]).contains("not a regular file"));
    // The cause is told once.
    assert_eq!(failure(&["show", "/nonexistent"]).matches("there is no file").count(), 1);
}

#[test]
fn settings_come_from_flag_environment_and_file() {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    writeln!(config, "max_tokens = 3\ntemperature = 0.0").unwrap();
    let ask = |env: Option<&str>, flags: &[&str]| -> Value {
        let mut command = ingle(&["run", tiny(), "abc", "--raw", "--json", "--ignore-eos"]);
        command.args(flags).env("INGLE_CONFIG", config.path());
        if let Some(n) = env {
            command.env("INGLE_MAX_TOKENS", n);
        }
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    assert_eq!(ask(None, &[])["completion_tokens"], 3);
    assert_eq!(ask(Some("4"), &[])["completion_tokens"], 4);
    assert_eq!(ask(Some("4"), &["-n", "5"])["completion_tokens"], 5);
    writeln!(config, "nonsense = 1").unwrap();
    let out = ingle(&["run", tiny(), "abc"]).env("INGLE_CONFIG", config.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("`nonsense` is no setting"));
}

#[test]
fn the_settings_page_is_true() {
    let page = stdout_of(&["settings", "--markdown"], "");
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    assert_eq!(
        std::fs::read_to_string(committed).unwrap_or_default(),
        page,
        "run `ingle settings --markdown > docs/settings.md`"
    );
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    let out = ingle(&["--version"]).env("INGLE_KERNELS_ISA", "avx1024").output().expect("the binary starts");
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && error.contains("`avx1024`") && error.contains("scalar"), "{error}");
    assert!(ingle(&["--version"]).env("INGLE_KERNELS_ISA", "scalar").status().expect("it starts").success());
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "run", "batch", "serve", "replay", "show", "convert", "bench", "tokenize", "render", "settings",
        "openapi", "export", "import", "keygen",
    ] {
        assert!(stdout_of(&[command, "--help"], "").contains("Usage: ingle"), "{command}");
    }
    assert!(stdout_of(&[], "").contains("Usage: ingle"));
    assert!(stdout_of(&["--version"], "").starts_with("ingle "));
}

#[test]
fn tokenize_takes_text_as_content() {
    let ids = |args: &[&str], text: &str| -> Vec<u64> {
        let mut all = vec!["tokenize", "--model", tiny(), "--json"];
        all.extend(args);
        let report: Value = serde_json::from_str(&stdout_of(&all, text)).unwrap();
        report["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    assert_eq!(ids(&[], "abc").len(), 3);
    assert!(ids(&[], "<|im_end|>").len() > 1, "a control token's spelling is only text");
    assert!(ids(&[], "").is_empty());
}

#[test]
fn convert_refuses_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (at, out) = (folder.path().to_str().unwrap(), folder.path().join("out.gguf"));
    let out = out.to_str().unwrap();
    assert!(failure(&["convert", at, "-o", out]).contains("neither model.safetensors nor"));
    std::fs::write(folder.path().join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    assert!(failure(&["convert", at, "-o", out]).contains("config.json"));
    std::fs::write(folder.path().join("config.json"), r#"{"architectures": ["LlamaForCausalLM"]}"#).unwrap();
    let error = failure(&["convert", at, "-o", out]);
    assert!(error.contains("`LlamaForCausalLM` cannot be converted"), "{error}");
    assert!(failure(&["convert", at, "-o", out, "--type", "q4_0"]).contains("f32, f16, q8_0"));
    assert!(!Path::new(out).exists());
}

#[test]
fn render_prints_the_prompt_or_the_template_s_error() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "{{% for m in messages %}}{{{{ m.role }}}}: {{{{ m.content }}}} {{{{ strftime_now('%Y-%m-%d') }}}}{{% endfor %}}\
         {{% if fail %}}{{{{ raise_exception('no, thanks') }}}}{{% endif %}}"
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let vars = r#"{"messages": [{"role": "user", "content": "hi"}], "now": "2025-03-14T15:09:26"}"#;
    assert_eq!(stdout_of(&["render", "--template", path], vars), "user: hi 2025-03-14");
    let out = output(&["render", "--template", path], r#"{"messages": [], "fail": true}"#);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("no, thanks"));
    let out = output(&["render", "--template", path], "not json");
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("JSON"));
}

#[test]
fn show_describes_a_file() {
    let text = stdout_of(&["show", tiny(), "-v"], "");
    assert!(text.contains("general.architecture") && text.contains("parameters"), "{text}");
    let report: Value = serde_json::from_str(&stdout_of(&["show", tiny(), "--json"], "")).unwrap();
    assert_eq!(report["metadata"]["general.architecture"], "llama");
    assert!(report["tensors"].as_array().unwrap().len() > 5);
}

#[test]
fn bench_measures() {
    let args = ["bench", "--model", tiny(), "-p", "32", "-n", "4", "-t", "1", "-r", "1", "--json"];
    let report: Value = serde_json::from_str(&stdout_of(&args, "")).unwrap();
    assert!(report["prefill"]["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["decode"]["file_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["decode"]["share_of_read_limit"].as_f64().unwrap() > 0.0);
    let args =
        ["bench", tiny(), "-p", "0", "-n", "60", "-t", "1", "-r", "1", "--schema", "built-in", "--json"];
    let report: Value = serde_json::from_str(&stdout_of(&args, "")).unwrap();
    let row = &report["constrained"];
    assert_eq!(row["masks"], 60, "one for each token: {row}");
    assert!(row["tokens_per_s"].as_f64().unwrap() > 0.0 && row["mask_median_us"].as_f64().unwrap() > 0.0);
    assert!(row["forced_share_of_tokens"].as_f64().unwrap() > 0.2, "{row}");
    assert!(failure(&["bench", tiny(), "-n", "0", "--schema", "built-in"]).contains("-n must be"));
    assert!(failure(&["bench", tiny(), "-t", "1", "--schema", "/nowhere"]).contains("/nowhere"));
    assert!(failure(&["bench", "--synthetic", "llama-9t:Q4_K_M"]).contains("llama-9t"));
    assert!(failure(&["bench", "--model", tiny(), "-t", "0"]).contains("at least one thread"));
    // A saved model never takes the place of what is no file, and a failure leaves nothing behind.
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    std::fs::create_dir(&target).unwrap();
    let args = ["bench", "--synthetic", "qwen2.5-0.5b:Q4_0", "--save", target.to_str().unwrap()];
    assert!(failure(&args).contains("no regular file"));
    assert!(target.is_dir() && std::fs::read_dir(folder.path()).unwrap().count() == 1);
}

/// One process measures what it is asked for, line by line; what it cannot do is an answer too.
#[test]
fn bench_tells_what_guesses_make_of_a_machine() {
    let args = ["bench", tiny(), "-t", "1", "-r", "1", "--depth", "8", "--speculation", "--json"];
    let report: Value = serde_json::from_str(&stdout_of(&args, "")).unwrap();
    let report = &report["speculation"];
    assert!(report["steps"].as_array().unwrap().iter().all(|step| step["ms"].as_f64().unwrap() > 0.0));
    let traces = report["traces"].as_array().unwrap();
    for kind in ["quotes", "copies", "free"] {
        let of_kind = traces.iter().filter(|trace| trace["kind"] == kind);
        assert!(of_kind.clone().count() >= 12, "{kind}");
        assert!(of_kind.clone().all(|trace| trace["accepted"].as_u64() <= trace["drafted"].as_u64()));
        for n_seqs in [1, 4, 16] {
            let found = &report["summary"][format!("{kind} x{n_seqs}")];
            assert!(found["worst"].as_f64().unwrap() <= found["mean"].as_f64().unwrap(), "{found}");
        }
    }
}

#[test]
fn bench_answers_requests() {
    let requests = "{\"measure\": \"prefill\", \"n_tokens\": 8}
        {\"measure\": \"decode\", \"n_tokens\": 4, \"n_seqs\": 2, \"depth\": 8}
        {\"measure\": \"decode\", \"n_tokens\": 4, \"max_seconds\": 0}
        {\"measure\": \"limits\"}
        {\"measure\": \"prefill\", \"n_tokens\": 99}
        {\"measure\": \"decode\", \"n_tokens\": 4, \"n_seqs\": 9}
        {\"measure\": \"decode\", \"n_tokens\": 0}
        {\"measure\": \"decode\", \"n_tokens\": 1, \"max_seconds\": -1}
        {\"measure\": \"prefill\", \"n_tokens\": 8, \"depth\": 1}
        {\"measure\": \"everything\"}
        []
        {";
    let args = ["bench", tiny(), "-t", "1", "-p", "32", "-n", "8", "--depth", "8", "--batch", "2", "--stdin"];
    let output = stdout_of(&args, requests);
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 13, "{output}");
    assert!(lines[0]["bytes_per_token"].as_u64().unwrap() > 0 && lines[0]["threads"] == 1);
    assert!(lines[1]["n_tokens"] == 8 && lines[1]["linear_gops"].as_f64().unwrap() > 0.0);
    assert!(lines[2]["n_tokens"] == 8 && lines[2]["file_gb_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(lines[3]["n_tokens"], 1, "one step is the least");
    assert!(
        lines[4]["int8_gops"].as_f64().unwrap() > 0.0 && lines[4]["read_gb_per_s"].as_f64().unwrap() > 0.0
    );
    let errors = [
        "than was loaded",
        "than was loaded",
        "n_tokens",
        "max_seconds",
        "depth",
        "limits",
        "JSON object",
        "EOF",
    ];
    for (line, expected) in lines[5..].iter().zip(errors) {
        let error = line["error"].as_str().unwrap_or_default();
        assert!(error.contains(expected), "{line}");
    }
    assert!(failure(&["bench", "--synthetic", "llama-1b:F32", "--save", "x", "--stdin"]).contains("--stdin"));
}

/// The stories model tells its story as an independent implementation does.
#[test]
fn stories_are_told_to_the_letter() {
    let Some(folder) = shared("models/stories260K") else { return };
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let model = ingle_testkit::stories::convert(&read("stories260K.bin"), &read("tok512.bin")).unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    std::fs::write(file.path(), model.to_bytes()).unwrap();
    let expected: Value = serde_json::from_slice(&read("expected.json")).unwrap();
    for case in expected["greedy_text"].as_array().unwrap() {
        let n = case["n_tokens"].to_string();
        let prompt = case["prompt"].as_str().unwrap();
        let args = [
            "run",
            "-m",
            file.path().to_str().unwrap(),
            "-p",
            prompt,
            "-n",
            &n,
            "--temp",
            "0",
            "--kv-type",
            "f32",
            "--raw",
        ];
        let text = stdout_of(&args, "");
        let story = case["text"].as_str().unwrap();
        // The reference counts the prompt's tokens among its own, so ours may say more.
        assert!(text.trim_end().starts_with(story.trim_end()), "told:\n{text}\nexpected:\n{story}");
    }
}

/// Command lines as people write them for llama-server and vLLM.
#[test]
fn llama_server_and_vllm_lines_serve() {
    for line in [
        "-m MODEL --host 127.0.0.1 --port 0 -c 256 -np 2 -cb --metrics -ngl 99 -t 1 -fa on --alias story,teller --no-webui --jinja",
        "MODEL --host 127.0.0.1 --port 0 --max-model-len 256 --max-num-seqs 4 --max_num_batched_tokens 128 --dtype auto \
         --gpu-memory-utilization 0.9 --tensor-parallel-size 1 --enable-prefix-caching --served-model-name story",
    ] {
        let line = line.replace("MODEL", tiny());
        let args: Vec<&str> = line.split_whitespace().collect();
        let server = Server::ready(&args);
        let reply = server.post(
            "/v1/completions",
            &json!({ "prompt": "abc", "max_tokens": 4, "temperature": 0, "ignore_eos": true }),
        );
        assert_eq!(
            (reply.status, &reply.json()["usage"]["completion_tokens"]),
            (200, &json!(4)),
            "{reply:?}"
        );
        assert!(server.get("/v1/models").body.contains("story"));
        assert!(server.get("/health").body.contains("\"status\":\"ok\""));
        assert!(server.get("/metrics").body.contains("vllm:num_requests_running"));
    }
}

#[test]
fn responses_are_stored_in_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let serve = |more: &[&str]| {
        let args = [tiny(), "-c", "256", "--chat-template", "chatml"];
        Server::ready(&[&args[..], more].concat())
    };
    let ask = |server: &Server| {
        let body = json!({ "input": "abc", "max_output_tokens": 2, "temperature": 0 });
        let reply = server.post("/v1/responses", &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        let body = reply.json();
        (body["id"].as_str().unwrap().to_owned(), body["store"] == true)
    };
    let (id, is_stored) = ask(&serve(&["--data-dir", data]));
    assert!(is_stored);
    let again = serve(&["--data-dir", data]);
    let reply = again.get(&format!("/v1/responses/{id}"));
    assert!(reply.status == 200 && reply.body.contains(&id), "a killed server's is there: {reply:?}");
    // Without a folder, or with one that cannot be made, nothing is stored and all else works.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for more in [
        &["--data-dir", ""][..],
        &["--data-dir", file.to_str().unwrap()],
        &["--data-dir", data, "--store-days", "0"],
    ] {
        assert!(!ask(&serve(more)).1, "{more:?}");
    }
}

#[test]
fn sigterm_ends_a_server_cleanly() {
    let server = Server::ready(&["-m", tiny()]);
    let started = Instant::now();
    let status = server.stop();
    assert!(status.success(), "{status}");
    // Nobody is there whom it would wait for: the grace is longer than this.
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
}

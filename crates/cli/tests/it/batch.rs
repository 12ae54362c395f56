//! `ingle batch`, as people call it: and kill it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{ingle, said, tiny};

/// A folder with an input, and the way to its output.
struct Bench {
    folder: tempfile::TempDir,
    options: Vec<&'static str>,
}

impl Bench {
    fn new(input: &str, options: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in"), input).unwrap();
        Self { folder, options: options.to_vec() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = ingle(&["batch", "in", "-o", "out", "-m", tiny(), "-t", "1"]);
        command.args(&self.options).current_dir(self.folder.path());
        command
    }

    fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Runs to an end of this code, and gives the output.
    fn expect(&self, code: i32) -> String {
        let out = self.run();
        assert_eq!(out.status.code(), Some(code), "{:?}: {}", self.options, said(&out));
        self.output()
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.path("out")).unwrap_or_default()
    }

    /// The error text of a run that must fail and leave the output as it is.
    fn refused(&self) -> String {
        let before = self.output();
        let out = self.run();
        assert_eq!(out.status.code(), Some(1), "{}", said(&out));
        assert_eq!(self.output(), before);
        said(&out)
    }
}

fn values(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// What `ingle run` says to the same.
fn run_alone(prompt: &str, options: &[&str]) -> Value {
    let out = ingle(&["run", tiny(), prompt, "-t", "1", "--json"]).args(options).output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn prompts_are_answered_as_run_answers_them() {
    for options in [&["--temp", "0", "-n", "12"][..], &["--temp", "1.5", "-s", "7", "-n", "12", "--raw"]] {
        let bench = Bench::new("abc\n\nthe end\r\nabc def ghi\n", options);
        let results = values(&bench.expect(0));
        for (result, (line, prompt)) in results.iter().zip([(1, "abc"), (3, "the end"), (4, "abc def ghi")]) {
            let alone = run_alone(prompt, options);
            assert_eq!((&result["line"], &result["text"]), (&json!(line), &alone["text"]), "{options:?}");
            assert_eq!(result["finish_reason"], alone["finish_reason"]);
            for count in ["prompt_tokens", "completion_tokens"] {
                assert_eq!(result["usage"][count], alone[count]);
            }
        }
        assert_eq!(results.len(), 3);
    }
}

#[test]
fn objects_have_wishes_of_their_own() {
    let input = r#"
        {"prompt": "abc", "max_tokens": 30, "ignore_eos": true}
        {"prompt": "abc", "max_tokens": 3}
        {"prompt": "abc"}
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "abc"}], "seed": 9, "temperature": 1}
        {"prompt": "abc", "n": 2, "logprobs": true, "max_tokens": 2}
    "#;
    let bench = Bench::new(input, &["--temp", "0", "-n", "5", "--ignore-eos", "--parallel", "2"]);
    let results = values(&bench.expect(0));
    let counts: Vec<u64> =
        results.iter().map(|r| r["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [30, 3, 5, 5, 4]);
    let lines: Vec<u64> = results.iter().map(|r| r["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6]);
    let choices = results[4]["choices"].as_array().unwrap();
    assert_eq!((choices.len(), choices[1]["logprobs"]["content"].as_array().unwrap().len()), (2, 2));
    // The same where all lines are answered alone.
    let alone = Bench::new(input, &["--temp", "0", "-n", "5", "--ignore-eos", "--parallel", "1"]);
    assert_eq!(alone.expect(0), bench.output());
}

fn openai_line(id: &str, url: &str, body: &Value) -> String {
    json!({ "custom_id": id, "method": "POST", "url": url, "body": body }).to_string() + "\n"
}

/// A bad line is an error of its own, and the exit code says that there is one.
#[test]
fn bad_lines_among_good_ones() {
    let message = json!([{ "role": "user", "content": "abc" }]);
    let input = openai_line("a", "/v1/chat/completions", &json!({ "messages": message, "max_tokens": 4 }))
        + "{\"custom_id\": \n"
        + &openai_line("b", "/v1/embeddings", &json!({ "input": "x" }))
        + &openai_line("c", "/v1/completions", &json!({ "prompt": "abc", "max_tokens": 9999 }))
        + &openai_line("d", "/v1/completions", &json!({ "prompt": "abc", "max_tokens": 4, "model": "gpt" }));
    let bench = Bench::new(&input, &["--temp", "0", "--served-model-name", "tiny,gpt", "--json"]);
    let out = bench.run();
    assert_eq!(out.status.code(), Some(3), "{}", said(&out));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&report["lines"], &report["errors"]), (&json!(5), &json!(3)));
    let results = values(&bench.output());
    let ids: Vec<&Value> = results.iter().map(|r| &r["custom_id"]).collect();
    assert_eq!(ids, [&json!("a"), &Value::Null, &json!("b"), &json!("c"), &json!("d")]);
    let statuses: Vec<&Value> = results.iter().map(|r| &r["response"]["status_code"]).collect();
    assert_eq!(statuses, [&json!(200), &Value::Null, &Value::Null, &json!(400), &json!(200)]);
    assert_eq!(results[0]["response"]["body"]["object"], "chat.completion");
    assert_eq!(results[4]["response"]["body"]["model"], "gpt");
    assert_eq!(results[3]["response"]["body"]["error"]["code"], "context_length_exceeded");
    assert_eq!(results[1]["error"]["code"], "invalid_json");
    // Told again, it has nothing to do, and still says so.
    let before = bench.output();
    assert_eq!(bench.expect(3), before);
}

/// Wherever the output was cut, the same command makes it whole, to the byte.
#[test]
fn a_cut_output_is_made_whole() {
    let bench = Bench::new("abc\ndef\nghi\njkl\n", &["--temp", "1", "-s", "3", "-n", "6"]);
    let whole = bench.expect(0);
    let ends: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).collect();
    for n_bytes in [0, 1, ends[0] - 1, ends[0], ends[0] + 5, ends[2], ends[3] - 1, ends[3]] {
        std::fs::write(bench.path("out"), &whole[..n_bytes]).unwrap();
        assert_eq!(bench.expect(0), whole, "cut at {n_bytes}");
    }
    std::fs::remove_file(bench.path("out")).unwrap();
    assert_eq!(bench.expect(0), whole, "missing");
    // The input may grow: only what is new is answered.
    std::fs::write(bench.path("in"), "abc\ndef\nghi\njkl\nmno\n").unwrap();
    let out = bench.run();
    assert!(said(&out).contains("has 4 lines already"), "{}", said(&out));
    let grown = bench.output();
    assert!(grown.starts_with(&whole) && grown.lines().count() == 5);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let mut bench = Bench::new("abc\ndef\n", &["--temp", "0", "-n", "4"]);
    let whole = bench.expect(0);
    bench.options = vec!["--temp", "0.5", "-n", "5"];
    let error = bench.refused();
    assert!(error.contains("sampling, n-predict then and now") && error.contains("--overwrite"), "{error}");
    bench.options = vec!["--temp", "0", "-n", "4"];
    std::fs::write(bench.path("in"), "abc\ndeF\n").unwrap();
    assert!(bench.refused().contains("line 2 of out is not the result of line 2 of the input"));
    std::fs::write(bench.path("in"), "abc\n").unwrap();
    assert!(bench.refused().contains("more than the 1 lines"));
    std::fs::write(bench.path("in"), "abc\ndef\n").unwrap();
    std::fs::remove_file(bench.path("out.state")).unwrap();
    assert!(bench.refused().contains("out.state is not there"));
    bench.options.push("--overwrite");
    assert_eq!(bench.expect(0), whole);
    std::fs::write(bench.path("in"), "{\"custom_id\": 1}\n").unwrap();
    bench.options.push("--raw");
    assert!(bench.refused().contains("--raw"));

    let check = |args: &[&str], expected: &str| {
        let out = ingle(args).args(["-m", tiny()]).current_dir(bench.folder.path()).output().unwrap();
        assert!(!out.status.success() && said(&out).contains(expected), "{args:?}: {}", said(&out));
    };
    check(&["batch"], "there is no file");
    check(&["batch", "nonexistent"], "cannot read nonexistent");
    check(&["batch", ".", "-o", "new"], "cannot read .");
    check(&["batch", "in", "-o", "in", "--overwrite"], "is the input");
    check(&["batch", "in", "-o", "."], "no regular file");
    check(&["batch", "in", "-o", "-"], "-o -");
    check(&["batch", "-"], "with -o OUT");
    check(&["batch", "in", "-o", "new", "--choice", "a", "--regex", "b"], "give one of them");
    check(&["batch", "in", "-o", "new", "-n", "100000"], "these settings cannot be used");
    check(&["batch", "in", "-o", "new", "--format", "xml"], "xml");
    check(&["batch", "in", "-o", "new", "--grammar", "root"], "use --json-schema");
    assert!(
        !bench.path("new").exists() && !bench.path("new.state").exists(),
        "a refusal leaves nothing behind"
    );
}

#[test]
fn standard_input_is_read_once() {
    let bench = Bench::new("abc\n\ndef\n", &[]);
    let run = |more: &[&str]| {
        let input = std::fs::File::open(bench.path("in")).unwrap();
        let mut command = ingle(&["batch", "-", "-o", "out", "-m", tiny(), "-n", "3", "--temp", "0"]);
        command.args(more).stdin(input).current_dir(bench.folder.path()).output().unwrap()
    };
    let out = run(&[]);
    assert!(out.status.success() && said(&out).contains("cannot be read again"), "{}", said(&out));
    assert_eq!(values(&bench.output()).len(), 2);
    let out = run(&[]);
    assert!(!out.status.success() && said(&out).contains("--overwrite"), "{}", said(&out));
    assert!(run(&["--overwrite"]).status.success());
}

/// Many lines of different length, so that answers do not end in the order in which they begin.
fn many_lines() -> String {
    (0..150)
        .map(|i: usize| {
            let n = 1 + (i * 7919) % 60;
            let body =
                json!({ "prompt": format!("line {i}"), "max_tokens": n, "ignore_eos": true, "seed": i });
            openai_line(&format!("request-{i}"), "/v1/completions", &body)
        })
        .collect()
}

/// The same without when it was made.
fn undated(output: &str) -> String {
    let mut values = values(output);
    values.iter_mut().for_each(|v| v["response"]["body"]["created"] = json!(0));
    values.iter().map(|v| format!("{v}\n")).collect()
}

/// Killed at any time and begun again, as often as it takes: no line is lost, none is there twice, and all bytes are
/// those of a run that nobody disturbed.
#[test]
fn killed_runs_go_on() {
    let options = &["--temp", "1", "--parallel", "3"];
    let undisturbed = Bench::new(&many_lines(), options);
    let expected = undated(&undisturbed.expect(0));
    assert_eq!(expected.lines().count(), 150);

    let bench = Bench::new(&many_lines(), options);
    let n_done = || bench.output().matches('\n').count();
    let (mut kills, mut done_at) = (0, Vec::new());
    let status = loop {
        let mut child = bench.command().stderr(Stdio::null()).spawn().unwrap();
        // After some lines more than there were, another number each time, and at any moment from then on; now and then
        // before the first.
        let n_more = if kills % 4 == 3 { 0 } else { 1 + (kills * 37) % 23 };
        let enough = done_at.last().unwrap_or(&0) + n_more;
        let begun = Instant::now();
        let ended = loop {
            let ended = child.try_wait().unwrap();
            if ended.is_some() || n_done() >= enough {
                break ended;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not get on: {done_at:?}");
            std::thread::sleep(Duration::from_millis(2));
        };
        std::thread::sleep(Duration::from_millis((kills * 13 % 50) as u64));
        if let Some(status) = ended {
            break status;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        done_at.push(n_done());
    };
    assert!(status.success());
    assert_eq!(undated(&bench.output()), expected, "killed after {done_at:?} lines");
    assert!(done_at.iter().any(|n| (1..150).contains(n)), "no kill came in between: {done_at:?}");
}

/// As many sequences as may run together do, from the first line to the last.
#[test]
fn the_engine_is_kept_full() {
    let input: String = (0..120)
        .map(|i| {
            json!({ "prompt": format!("line {i}"), "max_tokens": 60 + (i * 7919) % 40 }).to_string() + "\n"
        })
        .collect();
    let bench = Bench::new(&input, &["--temp", "1", "--ignore-eos", "--parallel", "8", "--json"]);
    let out = bench.run();
    assert!(out.status.success(), "{}", said(&out));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let count = |name: &str| report[name].as_f64().unwrap();
    let together = count("completion_tokens") / count("steps");
    // 8 but for the end, where the last lines run out; less only where the system lets this process wait, which it may
    // do for a while.
    assert!(together > 4.0 && together <= 8.0, "{together} of 8 sequences ran together: {report}");
}

#[test]
fn ctrl_c_keeps_what_is_done() {
    let bench = Bench::new(&many_lines(), &["--temp", "1", "--parallel", "2"]);
    let child = bench.command().stderr(Stdio::piped()).spawn().unwrap();
    let patience = Instant::now();
    while bench.output().lines().count() < 5 {
        assert!(patience.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupt = || Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt().success());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", said(&out));
    assert!(said(&out).contains("the same command goes on from here"), "{}", said(&out));
    let before = bench.output();
    assert!(before.ends_with('\n') && before.lines().count() < 150);
    let whole = bench.expect(0);
    assert!(whole.starts_with(&before) && whole.lines().count() == 150);
}

/// What the README says works as it says.
#[test]
fn the_readme_s_example_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Many prompts at once\n").expect("the README has the section");
    let (_, example) = section.split_once("```sh\n").expect("it has an example");
    let (script, _) = example.split_once("```").expect("the example ends");
    let folder = tempfile::tempdir().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_ingle")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(bin.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let out = Command::new("sh")
        .args(["-ec", script])
        .env("PATH", path.unwrap())
        .env("INGLE_CONFIG", "/dev/null")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", said(&out));
    let results = values(&std::fs::read_to_string(folder.path().join("questions.out.jsonl")).unwrap());
    assert!(results[0]["text"].as_str().unwrap().contains("Python Enhancement Proposal"), "{results:?}");
}

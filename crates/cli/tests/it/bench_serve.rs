//! `ingle bench serve` against `ingle serve`.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::{Server, ingle};

/// The shipped model.
fn serve(more: &[&str]) -> Server {
    Server::ready(&[&["--parallel", "8", "-t", "2", "--kv-tokens", "8192"], more].concat())
}

fn bench(args: &[&str]) -> Output {
    ingle(&["bench", "serve"]).args(args).output().expect("it runs")
}

/// A report of a run that must end so.
fn report(args: &[&str], code: i32) -> Value {
    let out = bench(&[args, &["--json", "-"]].concat());
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// The error of a command that must fail.
fn failure(args: &[&str]) -> String {
    let out = bench(args);
    assert!(!out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).expect("errors are UTF-8")
}

#[test]
fn a_server_is_measured() {
    let server = serve(&["--api-key", "open sesame"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("key"), "open sesame\n").unwrap();
    let (key, svg, records) = (path("key"), path("chart.svg"), path("records.jsonl"));
    let all =
        ["--url", &server.url(), "--api-key-file", &key, "--prompt-tokens", "48", "--output-tokens", "12"];

    // Exactly so many tokens in and out, and the same answers at any load.
    for api in ["chat", "completions"] {
        let more =
            ["--api", api, "-c", "1,4", "-n", "8", "--repeat-prompts", "--svg", &svg, "--records", &records];
        let report = report(&[&all[..], &more].concat(), 0);
        assert_eq!(report["counting"]["by"], "tokenize");
        let runs = report["runs"].as_array().unwrap();
        for run in runs {
            for (what, n) in [("prompt", 48.0), ("output", 12.0)] {
                let tokens = &run["tokens"][what];
                assert_eq!(
                    (tokens["min"].as_f64(), tokens["max"].as_f64()),
                    (Some(n), Some(n)),
                    "{api}: {tokens}"
                );
            }
            assert_eq!(
                (&run["requests"]["answered"], &run["tokens"]["output_counted_by"]),
                (&8.into(), &"usage".into())
            );
            let ms = |key: &str| run[key]["p50"].as_f64().unwrap();
            assert!(0.0 < ms("ttft_ms") && ms("ttft_ms") < ms("e2e_ms"), "{run}");
            assert_eq!(run["answers"]["distinct_prompts"], 8);
        }
        assert_eq!(
            runs[0]["answers"]["digest"], runs[1]["answers"]["digest"],
            "{api}: answers depend on the load"
        );
        assert!(!report.to_string().contains("sesame"));
        assert!(std::fs::read_to_string(&svg).unwrap().contains("clients at once"));
        assert_eq!(std::fs::read_to_string(&records).unwrap().lines().count(), 16);
    }
    // A shared prefix is computed once.
    let more = ["--shared-prefix", "40", "-n", "6", "--warmup", "1"];
    let shared = report(&[&all[..], &more].concat(), 0);
    let cached = shared["runs"][0]["tokens"]["cached_total"].as_u64().unwrap();
    assert!(cached >= 6 * 16, "{cached} tokens were cached");

    // What the server refuses is told in its own words, before anything is measured.
    let refused = failure(&["--url", &server.url(), "--api-key", "wrong"]);
    assert!(refused.contains("http_401"), "{refused}");
    let refused = failure(&[&all[..], &["--trace", "infill"]].concat());
    assert!(refused.contains("http_400"), "{refused}");
    let too_long = ["--url", &server.url(), "--api-key-file", &key, "--prompt-tokens", "2000", "-n", "1"];
    assert!(failure(&too_long).contains("http_400"), "{}", failure(&too_long));
}

#[test]
fn what_cannot_be_done_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.jsonl");
    std::fs::write(&trace, "{\"prompt\": \"a\", \"timestamp\": 0}\n{\"prompt\": \"b\", \"speed\": 1}\n")
        .unwrap();
    let trace = trace.to_str().unwrap();
    for (args, part) in [
        (&["--url", "https://localhost"][..], "https is not built in"),
        (&["--url", "http://127.0.0.1:9"], "cannot connect to http://127.0.0.1:9"),
        (&["--concurrency", "0"], "a number from 1 to"),
        (&["--concurrency", "2", "--rate", "1"], "cannot be used with"),
        (&["--rate", "1,x"], "`1,x` is not a number"),
        (&["--max-in-flight", "4"], "--max-in-flight belongs to the open loop"),
        (&["--prompt-tokens", "10", "--shared-prefix", "10"], "no 10 to share"),
        (&["--trace", "infill", "--api", "chat"], "gaps go to /infill"),
        (&["--trace", "infill", "--turns", "2"], "gaps are no conversations"),
        (&["--trace", trace], "line 2: `speed` is no field of a trace"),
        (&["--trace", "nowhere.jsonl"], "nowhere.jsonl"),
        (&["--trace", trace, "--turns", "2"], "the file of --trace says it"),
        (&["--extra-body", "{\"stream\": false}"], "`stream` is set by other options"),
        (&["--slo", "speed=1s"], "no objective"),
        (&["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (&["--records", "/nowhere/x"], "cannot write /nowhere/x"),
        (&["extra"], "unexpected argument"),
    ] {
        let error = failure(args);
        assert!(error.contains(part), "{args:?}: {error}");
    }
    let help = bench(&["--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("Usage: ingle bench serve"));
}

/// What stands in blocks of this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = page.split(&fence).skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_page_s_examples_run() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bench-serve.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let server = serve(&[]);
    let folder = tempfile::tempdir().unwrap();
    let requests = blocks(&page, "jsonl");
    std::fs::write(folder.path().join("requests.jsonl"), &requests[0]).unwrap();
    let examples = blocks(&page, "sh");
    assert!(examples.len() >= 5, "{examples:?}");
    for example in examples {
        let line = example.replace("\\\n", " ");
        let args: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(args[..3], ["ingle", "bench", "serve"]);
        let out =
            ingle(&args[1..]).args(["--url", &server.url()]).current_dir(folder.path()).output().unwrap();
        let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(0), "{line}\n{text}\n{errors}");
        assert!(text.contains("output tokens/s") && text.contains("end to end"), "{line}\n{text}");
        assert_eq!(
            text.contains("corrected"),
            line.contains("--rate") || line.contains("--trace"),
            "{line}\n{text}"
        );
        assert_eq!(text.contains("goodput"), line.contains("--slo"), "{line}\n{text}");
    }
    for name in ["report.json", "requests.out.jsonl", "latency.svg"] {
        assert!(folder.path().join(name).metadata().is_ok_and(|file| file.len() > 100), "{name}");
    }
}

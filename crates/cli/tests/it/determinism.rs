//! The same request, seed and model give the same bytes: over HTTP, in all dialects, alone and within a storm; and from a
//! record, in another process.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::{Reply, Server, exchange, ingle};
use ingle_api::record::{Outcome, Record};
use ingle_testkit::lora::TinyLora;
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};
use serde_json::{Value, json};

/// Clients of the storm.
const N_STORM: u64 = 32;
/// How often each request is asked in the storm.
const N_TIMES: usize = 3;

/// Tiny models, in files.
fn model(seed: u64) -> String {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap());
    let path = folder.path().join(format!("tiny-{seed}.gguf"));
    if !path.exists() {
        fs::write(&path, spec().seed(seed).bytes()).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

fn spec() -> TinySpec {
    TinySpec { n_ctx: 1024, ..TinySpec::new(Arch::Llama) }
}

fn args(model: &str) -> Vec<&str> {
    // Little memory: sequences are preempted.
    vec!["-m", model, "-c", "1024", "--kv-tokens", "1280", "--parallel", "12", "-b", "96", "-t", "2"]
}

/// Requests of all dialects, each with a seed.
fn requests() -> Vec<(&'static str, Value)> {
    let messages = json!([
        { "role": "user", "content": "Tell me about the sea, and about those who live by it." },
    ]);
    let schema = json!({
        "type": "object",
        "properties": { "first_name": { "enum": ["a long enough value", "another one"] }, "n": { "type": "boolean" } },
        "required": ["first_name", "n"],
        "additionalProperties": false,
    });
    vec![
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "seed": 1, "max_tokens": 40, "n": 3, "logprobs": true, "top_logprobs": 2 }),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "seed": 2, "max_tokens": 40, "n": 2, "stream": true }),
        ),
        (
            "/v1/chat/completions",
            json!({
                "messages": messages, "seed": 3, "max_tokens": 200, "temperature": 1.5,
                "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } },
            }),
        ),
        (
            "/v1/completions",
            json!({ "prompt": ["once", "upon a time", "there was"], "seed": 4, "max_tokens": 30, "n": 2, "logprobs": 1 }),
        ),
        ("/v1/completions", json!({ "prompt": "there is", "seed": 5, "max_tokens": 30, "stream": true })),
        ("/v1/responses", json!({ "input": "Sing.", "seed": 6, "max_output_tokens": 30 })),
        ("/v1/responses", json!({ "input": "Sing.", "seed": 7, "max_output_tokens": 30, "stream": true })),
        ("/v1/messages", json!({ "model": "tiny-1", "messages": messages, "seed": 8, "max_tokens": 30 })),
        (
            "/v1/messages",
            json!({ "model": "tiny-1", "messages": messages, "seed": 9, "max_tokens": 30, "stream": true }),
        ),
        (
            "/api/chat",
            json!({ "model": "tiny-1", "messages": messages, "stream": false, "options": { "seed": 10, "num_predict": 30 } }),
        ),
        (
            "/api/generate",
            json!({ "model": "tiny-1", "prompt": "The moon", "options": { "seed": 11, "num_predict": 30 } }),
        ),
        (
            "/generate",
            json!({ "text": "The sun", "sampling_params": { "sampling_seed": 12, "max_new_tokens": 30 } }),
        ),
    ]
}

/// What a reply's body says, but for ids, times, and what was cached.
fn essence(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let lines: Vec<&str> =
        reply.body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line)).collect();
    let values: Result<Vec<Value>, _> = match serde_json::from_str(&reply.body) {
        Ok(value) => Ok(vec![value]),
        Err(_) => {
            let of_data = |line: &&&str| {
                !line.is_empty() && !line.starts_with([':', '[']) && !line.starts_with("event:")
            };
            lines.iter().filter(of_data).map(|line| serde_json::from_str(line)).collect()
        }
    };
    let mut values = values.unwrap_or_else(|e| panic!("{e}: {}", reply.body));
    values.iter_mut().for_each(strip);
    // Which of several choices comes first in a stream depends on what runs beside them; what each of them says does not.
    values
        .sort_by_key(|value| value.pointer("/choices/0/index").map_or(u64::MAX, |i| i.as_u64().unwrap_or(0)));
    assert!(values.len() > 1 || !values[0].is_null(), "{}", reply.body);
    values
}

fn strip(value: &mut Value) {
    const NOT_OURS: [&str; 16] = [
        "id",
        "item_id",
        "created",
        "created_at",
        "completed_at",
        "total_duration",
        "load_duration",
        "prompt_eval_duration",
        "eval_duration",
        "timings",
        "prompt_tokens_details",
        "input_tokens_details",
        "cache_read_input_tokens",
        "input_tokens",
        "cached_tokens",
        "e2e_latency",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|name, _| !NOT_OURS.contains(&name.as_str()));
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// One client of the storm: anything, some of it given up midway.
fn storm(address: &str, seed: u64, is_over: &AtomicBool, n_requests: &AtomicUsize) {
    let mut rng = Rng::new(seed);
    while !is_over.load(Relaxed) {
        let prompt: String = match rng.below(3) {
            0 => "once upon a time ".repeat(1 + rng.below(20)),
            _ => (0..1 + rng.below(300)).map(|_| char::from(b'a' + rng.below(26) as u8)).collect(),
        };
        let body = json!({
            "prompt": prompt, "max_tokens": 1 + rng.below(120), "n": 1 + rng.below(3), "ignore_eos": true,
            "stream": !rng.one_in(3), "seed": rng.below(1000),
        });
        let body = body.to_string();
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all((head + &body).as_bytes());
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let patience = if rng.one_in(4) { rng.below(3000) } else { usize::MAX };
        let (mut n_read, mut buffer) = (0, [0; 4096]);
        while n_read < patience && !is_over.load(Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n_read += n,
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        n_requests.fetch_add(1, Relaxed);
    }
}

fn metric(server: &Server, name: &str) -> f64 {
    let page = server.get("/metrics").body;
    let line = page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Asks through `/v1/batches`, and gives the id of the batch.
fn begin_batch(server: &Server, requests: &[(&str, Value)]) -> String {
    let url = requests[0].0;
    let lines: String = requests
        .iter()
        .enumerate()
        .map(|(i, (_, body))| {
            let line = json!({ "custom_id": i.to_string(), "method": "POST", "url": url, "body": body });
            format!("{line}\n")
        })
        .collect();
    let form = format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--xyz\r\nContent-Disposition: \
         form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{lines}\r\n--xyz--\r\n"
    );
    let headers = "Content-Type: multipart/form-data; boundary=xyz\r\n";
    let file = exchange(&server.address, "POST /v1/files", headers, form.as_bytes()).json();
    let body = json!({ "input_file_id": file["id"], "endpoint": url, "completion_window": "24h" });
    server.post("/v1/batches", &body).json()["id"].as_str().expect("an id").to_owned()
}

/// The bodies of a batch's replies, in the order of its requests. It runs where others leave room.
fn end_batch(server: &Server, id: &str) -> Vec<Value> {
    let begun = Instant::now();
    let batch = loop {
        let batch = server.get(&format!("/v1/batches/{id}")).json();
        if batch["status"] == "completed" {
            break batch;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{batch}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let output = batch["output_file_id"].as_str().expect("an output");
    let output = server.get(&format!("/v1/files/{output}/content")).body;
    let mut bodies: Vec<(String, Value)> = output
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            (line["custom_id"].as_str().expect("an id").to_owned(), line["response"]["body"].clone())
        })
        .collect();
    bodies.sort_by(|a, b| a.0.cmp(&b.0));
    bodies.into_iter().map(|(_, body)| body).collect()
}

/// Runs `ingle replay`: its exit code and what it says.
fn replay(records: &[&Path], more: &[&str]) -> (i32, String) {
    let records: Vec<&str> = records.iter().map(|path| path.to_str().unwrap()).collect();
    let out = ingle(&[&["replay"], &records[..], more].concat()).output().unwrap();
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (out.status.code().expect("it is not killed"), text)
}

fn records(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Record {
    Record::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn alone_in_a_storm_and_from_records() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = folder.path().join("records");
    let data = folder.path().join("data");
    let model = model(1);
    let requests = requests();
    let options = [&args(&model)[..], &["--data-dir", data.to_str().unwrap()]].concat();

    let quiet = Server::ready(&options);
    let alone: Vec<Vec<Value>> =
        requests.iter().map(|(path, body)| essence(&quiet.post(path, body))).collect();
    let distinct: HashSet<String> = alone.iter().map(|values| format!("{values:?}")).collect();
    assert_eq!(distinct.len(), requests.len(), "the answers differ, else they would prove nothing");
    drop(quiet);

    let options = [&options[..], &["--record", recorded.to_str().unwrap()]].concat();
    let server = Server::ready(&options);
    assert!(server.said.lock().unwrap().contains("WARNING: every request is recorded in"));
    let (is_over, n_requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut batch = String::new();
    std::thread::scope(|scope| {
        for i in 0..N_STORM {
            let (address, is_over, n_requests) = (&server.address, &is_over, &n_requests);
            scope.spawn(move || storm(address, i, is_over, n_requests));
        }
        let begun = Instant::now();
        while metric(&server, "ingle_preemptions_total") == 0.0 && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let asking: Vec<_> = requests
            .iter()
            .zip(&alone)
            .map(|((path, body), alone)| {
                let server = &server;
                scope.spawn(move || {
                    for time in 0..N_TIMES {
                        let found = essence(&server.post(path, body));
                        assert_eq!(&found, alone, "{path}, {body}, time {time} in the storm");
                    }
                })
            })
            .collect();
        let of_chat = [requests[0].clone(), requests[2].clone()];
        batch = begin_batch(&server, &of_chat);
        let ended: Vec<_> = asking.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Relaxed);
        ended.into_iter().for_each(|end| end.expect("all answers are the same"));
    });
    let bodies = end_batch(&server, &batch);
    assert_eq!(bodies.len(), 2);
    for (mut body, alone) in bodies.into_iter().zip([&alone[0], &alone[2]]) {
        strip(&mut body);
        assert_eq!(&[body][..], &alone[..], "in a batch");
    }
    assert!(metric(&server, "ingle_preemptions_total") > 0.0, "memory never ran out");
    assert!(n_requests.into_inner() > 50, "the storm was a breeze");
    assert_eq!(metric(&server, "ingle_records_dropped_total"), 0.0);
    assert!(server.stop().success());

    // Every request has its record, those of clients that left too. In another process they run all at once.
    let paths = records(&recorded);
    let unfinished = paths.iter().filter(|path| read(path).outcome != Outcome::Finished).count();
    assert!(paths.len() > 90 && unfinished > 0, "{} records, {unfinished} unfinished", paths.len());
    let (code, said) = replay(&[&recorded], &["-m", &model, "--json", "--parallel", "40", "-b", "300"]);
    assert_eq!(code, 0, "{said}");
    let report: Value = serde_json::from_str(said.lines().find(|l| l.starts_with('{')).unwrap()).unwrap();
    assert_eq!(report["same"], paths.len());
    assert_eq!(report["records"], paths.len());
}

#[test]
fn a_reply_names_the_seed_that_gives_it_again() {
    let model = model(1);
    let server = Server::ready(&args(&model));
    for (path, mut body) in requests() {
        let unseed = |body: &mut Value| {
            for place in ["/options", "/sampling_params", ""] {
                if let Some(Value::Object(map)) = body.pointer_mut(place) {
                    map.remove("seed");
                    map.remove("sampling_seed");
                }
            }
        };
        unseed(&mut body);
        if body["prompt"].is_array() {
            // Each prompt has a seed of its own.
            body["prompt"] = json!("once");
        }
        let first = server.post(path, &body);
        let fingerprint = first.header("x-ingle-fingerprint").expect("a fingerprint");
        assert!(fingerprint.ends_with("-kv_f16-ctx1024"), "{fingerprint}");
        let seed: u64 = first.header("x-ingle-seed").expect("a seed").parse().expect("a number");
        let place = match path {
            "/api/chat" | "/api/generate" => &mut body["options"]["seed"],
            "/generate" => &mut body["sampling_params"]["sampling_seed"],
            _ => &mut body["seed"],
        };
        *place = json!(seed);
        let again = server.post(path, &body);
        assert_eq!(essence(&again), essence(&first), "{path}");
        assert_eq!(again.header("x-ingle-seed"), first.header("x-ingle-seed"), "{path}");
        unseed(&mut body);
        assert_ne!(server.post(path, &body).header("x-ingle-seed"), first.header("x-ingle-seed"), "{path}");
    }
    assert_eq!(server.get("/health").header("x-ingle-seed"), None);
}

#[test]
fn records_are_refused_or_held_against_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = folder.path().join("records");
    let (model, other) = (model(1), model(2));
    let data = folder.path().join("data");
    let options = [
        &args(&model)[..],
        &[
            "--record",
            recorded.to_str().unwrap(),
            "--data-dir",
            data.to_str().unwrap(),
            "--temp",
            "1.3",
            "-s",
            "77",
        ],
    ]
    .concat();
    let server = Server::ready(&options);
    // A default of the server's, a stored conversation, a name that means the default model.
    let turn = server.post("/v1/responses", &json!({ "input": "abc", "max_output_tokens": 5 })).json();
    let body = json!({ "input": "def", "previous_response_id": turn["id"], "max_output_tokens": 9, "model": "default" });
    assert_eq!(server.post("/v1/responses", &body).status, 200);
    // What is refused is no answer, and is not recorded.
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": "x".repeat(5000) })).status, 400);
    assert!(server.stop().success());
    let paths = records(&recorded);
    assert_eq!(paths.len(), 2);
    let [first, second] = [&*paths[0], &*paths[1]];
    assert_eq!(read(first).answers[0].sampling.seed, Some(77));
    assert_eq!(read(second).history.len(), 1);
    let (code, said) = replay(&[&recorded], &["-m", &model]);
    assert_eq!((code, said.contains("2 of 2 records gave the same bytes")), (0, true), "{said}");

    let check = |records: &[&Path], more: &[&str], expected_code: i32, expected: &str| {
        let (code, said) = replay(records, more);
        assert!(said.contains(expected), "`{expected}` is not in: {said}");
        assert_eq!(code, expected_code, "{said}");
    };
    check(&[first], &["-m", &model, "--kv-type", "q8_0"], 4, "recorded: f16, here: q8_0");
    check(&[first], &["-m", &other], 4, "the model is another one");
    check(&[first], &["-m", &model, "--chat-template", "llama3"], 4, "the chat template is another one");
    check(&[], &["-m", &model], 2, "there is no record");
    check(&[Path::new("/nonexistent")], &["-m", &model], 1, "cannot read");

    // A token that did not come.
    let changed = folder.path().join("changed.json");
    let mut record = read(first);
    record.answers[0].choices[0].tokens[3].0 ^= 1;
    fs::write(&changed, record.to_text()).unwrap();
    check(&[&changed, second], &["-m", &model], 3, "token 3 after ");
    let (_, said) = replay(&[&changed], &["-m", &model, "--json"]);
    let report: Value = serde_json::from_str(said.lines().find(|l| l.starts_with('{')).unwrap()).unwrap();
    let place = &report["results"][0]["difference"]["place"];
    assert_eq!((&place["kind"], &place["position"]), (&json!("token"), &json!(3)), "{report}");
    // One bit of a log-probability.
    let mut record = read(first);
    record.answers[0].choices[0].tokens[1].1 ^= 1;
    fs::write(&changed, record.to_text()).unwrap();
    check(&[&changed], &["-m", &model], 3, "its log-probability is not");
    // Records of two models.
    let mut record = read(first);
    record.model.digest = "0".repeat(64);
    fs::write(&changed, record.to_text()).unwrap();
    check(&[&changed, second], &["-m", &model], 1, "are of different models");

    let text = fs::read_to_string(first).unwrap();
    for (damaged, expected) in [
        (text[..text.len() / 2].to_owned(), "it was cut or changed after it was written"),
        (text.replace("abc", "abd"), "it was cut or changed after it was written"),
        ("{}".to_owned(), "it is no record"),
        (String::new(), "it is no record"),
        (text.replacen(":1", ":2", 1), "it has version 2 of the format"),
    ] {
        fs::write(&changed, damaged).unwrap();
        check(&[&changed], &["-m", &model], 1, expected);
    }
}

/// Adapters by what they compute: those of a record come back with their strengths, whatever they are called here and whatever
/// applies to others; another one under the same name is refused by name.
#[test]
fn records_bring_their_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = folder.path().join("records");
    let model = model(1);
    let adapter = |file: &str, seed: u64| {
        let path = folder.path().join(file);
        fs::write(&path, TinyLora::new(seed).gguf(&spec()).to_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (sql, fr, other) = (adapter("sql.gguf", 1), adapter("fr.gguf", 2), adapter("other.gguf", 3));
    let modules = [format!("sql={sql}"), format!("fr={fr}")];
    let own = [
        "--record",
        recorded.to_str().unwrap(),
        "--lora-modules",
        &modules[0],
        "--lora-modules",
        &modules[1],
    ];
    let server = Server::ready(&[&args(&model)[..], &own].concat());
    let ask = |more: Value| {
        let mut body = json!({ "prompt": "once", "max_tokens": 20, "seed": 5, "ignore_eos": true });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = server.post("/v1/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let fingerprint = reply.json()["system_fingerprint"].as_str().unwrap().to_owned();
        assert_eq!(reply.header("x-ingle-fingerprint"), Some(&*fingerprint));
        fingerprint
    };
    let plain = ask(json!({}));
    let by_name = ask(json!({ "model": "sql" }));
    let both = ask(json!({ "lora": [{ "id": 0, "scale": 0.5 }, { "id": 1, "scale": -0.1 }] }));
    assert!(plain != by_name && by_name != both, "{plain} {by_name} {both}");
    assert!(server.stop().success());
    let paths = records(&recorded);
    let adapters = |i: usize| {
        let record = read(&paths[i]);
        let mut adapters: Vec<(String, f32)> =
            record.adapters.into_iter().map(|a| (a.name, a.scale)).collect();
        adapters.sort_by(|a, b| a.0.cmp(&b.0));
        adapters
    };
    assert_eq!(adapters(0), []);
    assert_eq!(adapters(1), [("sql".to_owned(), 1.0)]);
    assert_eq!(adapters(2), [("fr".to_owned(), -0.1), ("sql".to_owned(), 0.5)]);

    // Under other names, in another order, applied to all who choose nothing.
    let renamed = [folder.path().join("x.gguf"), folder.path().join("y.gguf")];
    fs::copy(&fr, &renamed[0]).unwrap();
    fs::copy(&sql, &renamed[1]).unwrap();
    let [x, y] = renamed.each_ref().map(|path| path.to_str().unwrap());
    let (code, said) = replay(&[&recorded], &["-m", &model, "--lora", x, "--lora", y]);
    assert_eq!((code, said.contains("3 of 3 records gave the same bytes")), (0, true), "{said}");
    let (code, said) = replay(&[&recorded], &["-m", &model, "--lora", &sql]);
    assert_eq!((code, said.contains("`fr` (recorded: ")), (4, true), "{said}");
    fs::copy(&other, &sql).unwrap();
    let (code, said) = replay(&[&paths[1]], &["-m", &model, "--lora", &sql]);
    assert_eq!((code, said.contains("`sql` is another one")), (4, true), "{said}");
    // A strength that it did not have.
    let changed = folder.path().join("changed.json");
    let mut record = read(&paths[2]);
    record.adapters[0].scale *= 2.0;
    fs::write(&changed, record.to_text()).unwrap();
    let (code, said) = replay(&[&changed], &["-m", &model, "--lora", x, "--lora", y]);
    assert_eq!((code, said.contains("DIFFERENT")), (3, true), "{said}");
}

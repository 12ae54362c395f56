//! `/v1/batches`: from the input to the output, whatever happens on the way.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ingle_ledger::{FileLimits, NewBatch};
use ingle_server::{ProviderSlot, Server, ServerConfig};
use serde_json::{Value, json};

use crate::client::{Running, remote, start_with};
use crate::files::{filing, refused, upload};

const ROUTE: &str = "/v1/batches";
const CHAT: &str = "/v1/chat/completions";

async fn serving() -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = filing(folder.path(), FileLimits::default()).await;
    (start_with(config, true).await, folder)
}

fn line(custom_id: &str, url: &str, body: Value) -> String {
    format!("{}\n", json!({ "custom_id": custom_id, "method": "POST", "url": url, "body": body }))
}

fn chat_line(custom_id: &str, said: &str) -> String {
    line(custom_id, CHAT, json!({ "messages": [{ "role": "user", "content": said }] }))
}

async fn create(server: &Running, input: &str, endpoint: &str, more: Value) -> Value {
    let file = upload(server, "batch", input).await;
    let mut body = json!({ "input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = server.post_json(ROUTE, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

async fn get(server: &Running, batch: &Value) -> Value {
    server.get(&format!("{ROUTE}/{}", batch["id"].as_str().unwrap())).await.json()
}

/// Waits for a batch to be as it should be.
async fn until(server: &Running, batch: &Value, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let batch = get(server, batch).await;
        if condition(&batch) {
            return batch;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "waited too long until {what}: {batch}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ended(server: &Running, batch: &Value) -> Value {
    until(server, batch, "it ends", |batch| {
        !["validating", "in_progress", "finalizing", "cancelling"]
            .contains(&batch["status"].as_str().unwrap())
    })
    .await
}

/// The lines of a file of a batch.
async fn lines(server: &Running, id: &Value) -> Vec<Value> {
    let Some(id) = id.as_str() else { return Vec::new() };
    let file = server.get(&format!("/v1/files/{id}")).await.json();
    assert_eq!(file["purpose"], "batch_output");
    let content = server.get(&format!("/v1/files/{id}/content")).await.body;
    assert_eq!(file["bytes"], content.len());
    content.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[tokio::test]
async fn a_batch_from_its_beginning_to_its_end() {
    let (server, _folder) = serving().await;
    let input = [
        chat_line("a", "hello"),
        "\n".into(),
        chat_line("b", "!slow"),
        chat_line("c", "!invalid"),
        chat_line("d", "last"),
        line("e", CHAT, json!({ "messages": [], "colour": "red" })),
    ]
    .concat();
    let batch = create(&server, &input, CHAT, json!({ "metadata": { "a": "b" } })).await;
    let id = batch["id"].as_str().unwrap();
    assert!(id.starts_with("batch_") && id.len() == 38, "{id}");
    assert_eq!((&batch["object"], &batch["status"]), (&json!("batch"), &json!("validating")));
    assert_eq!((&batch["endpoint"], &batch["completion_window"]), (&json!(CHAT), &json!("24h")));
    assert_eq!(batch["expires_at"].as_u64().unwrap(), batch["created_at"].as_u64().unwrap() + 86_400);
    assert_eq!((&batch["metadata"], &batch["errors"]), (&json!({ "a": "b" }), &Value::Null));
    let batch = ended(&server, &batch).await;
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"], json!({ "total": 5, "completed": 3, "failed": 2 }));
    for time in ["created_at", "in_progress_at", "finalizing_at", "completed_at"] {
        assert!(batch[time].as_u64().is_some(), "{time}: {batch}");
    }
    for time in ["failed_at", "expired_at", "cancelling_at", "cancelled_at"] {
        assert_eq!(batch[time], Value::Null, "{time}: {batch}");
    }
    let output = lines(&server, &batch["output_file_id"]).await;
    let said: Vec<_> = output
        .iter()
        .map(|line| {
            assert_eq!((&line["response"]["status_code"], &line["error"]), (&json!(200), &Value::Null));
            assert!(line["id"].as_str().unwrap().starts_with("batch_req_"));
            let body = &line["response"]["body"];
            assert_eq!(body["object"], "chat.completion");
            (line["custom_id"].as_str().unwrap(), body["choices"][0]["message"]["content"].as_str().unwrap())
        })
        .collect();
    let expected = [("a", "You said: hello"), ("b", "You said: !slow"), ("d", "You said: last")];
    assert_eq!(said, expected, "in the order of the input");
    let errors = lines(&server, &batch["error_file_id"]).await;
    let told: Vec<_> = errors
        .iter()
        .map(|line| {
            assert_eq!(line["response"]["status_code"], 400, "{line}");
            (line["custom_id"].clone(), line["response"]["body"]["error"]["param"].clone())
        })
        .collect();
    assert_eq!(told, [(json!("c"), json!("messages")), (json!("e"), json!("messages"))]);
    let list = server.get(ROUTE).await.json();
    assert_eq!((&list["data"], &list["has_more"]), (&json!([batch]), &json!(false)));
    server.idle().await;
}

#[tokio::test]
async fn each_endpoint_answers_as_its_route_does() {
    let (server, _folder) = serving().await;
    for (endpoint, body) in [
        (CHAT, json!({ "messages": [{ "role": "user", "content": "!priority" }] })),
        ("/v1/completions", json!({ "prompt": "!priority" })),
        ("/v1/responses", json!({ "input": "!priority" })),
    ] {
        let batch = create(&server, &line("a", endpoint, body), endpoint, json!({})).await;
        let batch = ended(&server, &batch).await;
        let output = lines(&server, &batch["output_file_id"]).await[0].to_string();
        assert!(output.contains("\"Background\""), "a line makes way for others: {output}");
    }
    for (endpoint, body) in [
        (CHAT, json!({ "messages": [{ "role": "user", "content": "x" }] })),
        ("/v1/completions", json!({ "prompt": ["x", "y"] })),
        ("/v1/responses", json!({ "input": "x" })),
    ] {
        let batch = create(&server, &line("a", endpoint, body.clone()), endpoint, json!({})).await;
        let batch = ended(&server, &batch).await;
        assert_eq!((&batch["status"], &batch["error_file_id"]), (&json!("completed"), &Value::Null));
        let output = lines(&server, &batch["output_file_id"]).await;
        let direct = server.post_json(endpoint, body).await.json();
        let part =
            |reply: &Value| (reply["choices"].clone(), reply["usage"].clone(), reply["object"].clone());
        assert_eq!(part(&output[0]["response"]["body"]), part(&direct), "{endpoint}");
    }
}

#[tokio::test]
async fn an_input_is_checked_as_a_whole() {
    let (server, _folder) = serving().await;
    let check = async |input: String, expected: Value| {
        let batch = create(&server, &input, CHAT, json!({})).await;
        let batch = ended(&server, &batch).await;
        assert_eq!(
            (&batch["status"], &batch["errors"]["object"]),
            (&json!("failed"), &json!("list")),
            "{batch}"
        );
        let errors = batch["errors"]["data"].as_array().unwrap();
        let shown: Value = errors.iter().map(|e| json!([e["line"], e["code"], e["param"]])).collect();
        assert_eq!(shown, expected, "{batch}");
        assert!(errors.iter().all(|e| !e["message"].as_str().unwrap().is_empty()));
        assert_eq!((&batch["output_file_id"], &batch["error_file_id"]), (&Value::Null, &Value::Null));
    };
    check(String::new(), json!([[null, "empty_file", null]])).await;
    check("\n \n".into(), json!([[null, "empty_file", null]])).await;
    let input = [
        chat_line("a", "fine"),
        "nonsense\n".into(),
        "\n".into(),
        chat_line("a", "again"),
        line("b", "/v1/completions", json!({})),
        line("c", CHAT, json!({ "messages": [], "stream": true })),
        "{\"custom_id\":\"d\",\"method\":\"GET\"}".into(),
    ];
    let expected = json!([
        [2, "invalid_json", null],
        [4, "duplicate_custom_id", "custom_id"],
        [5, "invalid_url", "url"],
        [6, "unsupported_value", "body.stream"],
        [7, "invalid_line", "method"],
    ]);
    check(input.concat(), expected).await;
    check("x\n".repeat(300), (1..=100).map(|n| json!([n, "invalid_json", null])).collect()).await;
    let started = server.provider.started.load(Ordering::SeqCst);
    assert_eq!(started, 0, "nothing of a bad input runs");
}

#[tokio::test]
async fn a_batch_is_cancelled() {
    let (server, _folder) = serving().await;
    let input: String = [chat_line("a", "quick"), chat_line("b", "!hang"), chat_line("c", "!hang")].concat();
    let batch = create(&server, &input, CHAT, json!({})).await;
    until(&server, &batch, "one line is done", |b| b["request_counts"]["completed"] == 1).await;
    let file = format!("/v1/files/{}", batch["input_file_id"].as_str().unwrap());
    refused(&server.delete(&file).await, 400, None, json!("file_in_use"), "cancel it");
    let path = format!("{ROUTE}/{}/cancel", batch["id"].as_str().unwrap());
    let cancelled = server.post(&path, "").await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelling")));
    let batch = ended(&server, &batch).await;
    assert_eq!(batch["status"], "cancelled");
    assert!(
        batch["cancelling_at"].is_u64() && batch["cancelled_at"].is_u64() && batch["completed_at"].is_null()
    );
    let output = lines(&server, &batch["output_file_id"]).await;
    assert_eq!(
        output.iter().map(|line| &line["custom_id"]).collect::<Vec<_>>(),
        ["a"],
        "what there is is kept"
    );
    server.idle().await;
    refused(&server.post(&path, "").await, 400, None, json!("batch_not_cancellable"), "is cancelled");
    assert_eq!(server.delete(&file).await.status, 200);
    refused(&server.post("/v1/batches/x/cancel", "").await, 404, None, json!("batch_not_found"), "`x`");
}

#[tokio::test]
async fn what_asks_for_no_batch_is_refused() {
    let (server, _folder) = serving().await;
    let data = upload(&server, "user_data", "x").await;
    let ask = async |file: &Value, endpoint: &str| {
        let body = json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h" });
        server.post_json(ROUTE, body).await
    };
    let reply = ask(&data["id"], CHAT).await;
    refused(&reply, 400, Some("input_file_id"), Value::Null, "the purpose of");
    refused(&ask(&json!("x"), CHAT).await, 400, Some("input_file_id"), json!("file_not_found"), "`x`");
    let reply = ask(&json!("x"), "/v1/images").await;
    refused(&reply, 400, Some("endpoint"), json!("unsupported_value"), "it can be");
    let reply = server.get(&format!("{ROUTE}?limit=101")).await;
    refused(&reply, 400, Some("limit"), Value::Null, "from 1 to 100");
    refused(&server.get(&format!("{ROUTE}/x")).await, 404, None, json!("batch_not_found"), "`x`");
}

#[tokio::test]
async fn lines_that_cannot_be_taken_now_wait() {
    let (mut server, _folder) = serving().await;
    server.provider.room.store(2, Ordering::SeqCst);
    let input: String = (0..12).map(|i| chat_line(&format!("{i}"), "hello")).collect();
    let batch = create(&server, &input, CHAT, json!({})).await;
    let batch = ended(&server, &batch).await;
    assert_eq!(batch["request_counts"], json!({ "total": 12, "completed": 12, "failed": 0 }));
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn batches_go_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than anybody waits for the end.
    let grace = Duration::from_secs(600);
    let config = filing(folder.path(), FileLimits::default()).await;
    let mut server = start_with(ServerConfig { shutdown_grace: grace, ..config }, true).await;
    let input: String = [chat_line("a", "quick"), chat_line("b", "!gate"), chat_line("c", "!gate")].concat();
    let batch = create(&server, &input, CHAT, json!({})).await;
    until(&server, &batch, "one line is done", |b| b["request_counts"]["completed"] == 1).await;
    server.begin_stop();
    tokio::time::timeout(Duration::from_secs(60), server.stopped())
        .await
        .expect("shutdown waits for no line of a batch");
    let server = start_with(filing(folder.path(), FileLimits::default()).await, true).await;
    server.provider.open();
    let batch = ended(&server, &batch).await;
    assert_eq!(batch["status"], "completed");
    let output = lines(&server, &batch["output_file_id"]).await;
    assert_eq!(output.iter().map(|line| &line["custom_id"]).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(server.provider.started.load(Ordering::SeqCst), 2, "what was answered is not asked again");
}

#[tokio::test]
async fn a_batch_has_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = filing(folder.path(), FileLimits::default()).await;
    let files = config.files.clone().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut input = files.begin_upload("local", "file-in", now).await.unwrap();
    let text = [chat_line("a", "quick"), chat_line("b", "!hang"), chat_line("c", "!hang")].concat();
    files.append(&mut input, text.as_bytes()).await.unwrap();
    files.finish_upload(input, "in", "batch", None).await.unwrap();
    // Shorter than anyone may ask for.
    let wanted = NewBatch {
        id: "batch_x".into(),
        key: "none".into(),
        input_id: "file-in".into(),
        endpoint: CHAT.into(),
        window: "1h".into(),
        expires_at: now + 4,
        output_ttl: Some(3600),
        metadata: "null".into(),
    };
    files.create_batch("local", &wanted, now).await.unwrap();
    let server = start_with(config, true).await;
    let batch = ended(&server, &json!({ "id": "batch_x" })).await;
    assert_eq!((&batch["status"], batch["expired_at"].is_u64()), (&json!("expired"), true), "{batch}");
    assert_eq!(batch["request_counts"], json!({ "total": 3, "completed": 1, "failed": 2 }));
    let errors = lines(&server, &batch["error_file_id"]).await;
    let told: Vec<_> = errors.iter().map(|line| (&line["custom_id"], &line["error"]["code"])).collect();
    assert_eq!(told, [(&json!("b"), &json!("batch_expired")), (&json!("c"), &json!("batch_expired"))]);
    assert!(errors.iter().all(|line| line["response"].is_null()));
    let output = batch["output_file_id"].as_str().unwrap();
    let file = server.get(&format!("/v1/files/{output}")).await.json();
    assert_eq!(file["expires_at"].as_u64().unwrap(), file["created_at"].as_u64().unwrap() + 3600);
    server.idle().await;
}

#[tokio::test]
async fn answers_that_cannot_be_kept_end_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let limits = FileLimits { bytes_max: 3000, ..FileLimits::default() };
    let server = start_with(filing(folder.path(), limits).await, true).await;
    let input: String = (0..20).map(|i| chat_line(&format!("{i}"), "hello")).collect();
    let batch = create(&server, &input, CHAT, json!({})).await;
    let batch = ended(&server, &batch).await;
    assert_eq!(
        (&batch["status"], &batch["errors"]["data"][0]["code"]),
        (&json!("failed"), &json!("storage_full"))
    );
    server.idle().await;
}

const FOLDER: &str = "INGLE_SERVER_TEST_SERVES";

/// Not a test by itself: the process that the next one kills.
#[tokio::test]
#[ignore = "run by `a_killed_server_loses_no_line_and_doubles_none`"]
async fn child_server() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let config = filing(folder.as_ref(), FileLimits::default()).await;
    let slot = ProviderSlot::ready(std::sync::Arc::new(crate::scripted::Scripted::default()));
    let server = Server::bind(config, slot).await.unwrap();
    // On a line of its own: where tests run one by one, the name of this one stands before what it prints.
    println!("\nserving {}", server.local_addrs()[0]);
    server.run(std::future::pending()).await;
}

fn spawn_server(folder: &std::path::Path) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "batches::child_server", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let addr = lines.into_iter().find_map(|line| line.strip_prefix("serving ")?.parse().ok());
    (child, addr.expect("it says where"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_no_line_and_doubles_none() {
    let folder = tempfile::tempdir().unwrap();
    let total = 300;
    let input: String = (0..total).map(|i| chat_line(&format!("{i}"), "!slow")).collect();
    let (mut child, addr) = spawn_server(folder.path());
    let mut server = remote(addr);
    let batch = create(&server, &input, CHAT, json!({})).await;
    let completed = |batch: &Value| batch["request_counts"]["completed"].as_u64().unwrap();
    for enough in [1, 100] {
        let before = until(&server, &batch, "some lines are done", |b| completed(b) >= enough).await;
        assert!(completed(&before) < total, "it is killed too late to show anything");
        child.kill().unwrap();
        child.wait().unwrap();
        let (next, addr) = spawn_server(folder.path());
        (child, server) = (next, remote(addr));
        assert!(completed(&get(&server, &batch).await) >= completed(&before), "what was told stays true");
    }
    let batch = ended(&server, &batch).await;
    assert_eq!(batch["request_counts"], json!({ "total": total, "completed": total, "failed": 0 }));
    let ids: Vec<u64> = lines(&server, &batch["output_file_id"])
        .await
        .iter()
        .map(|line| line["custom_id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids, (0..total).collect::<Vec<_>>(), "each line once, in the order of the input");
    child.kill().unwrap();
    child.wait().unwrap();
}

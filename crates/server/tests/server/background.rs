//! `/v1/responses` with `background`: the reply comes first, the answer later.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingle_ledger::{FileLimits, Responses, Retention};
use ingle_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{Reply, Running, start_with};
use crate::files::{filing, refused};

const ROUTE: &str = "/v1/responses";

async fn storing(folder: &Path) -> ServerConfig {
    let responses = Responses::open(&folder.join("responses.sqlite"), Retention::default()).await.unwrap();
    ServerConfig { responses: Some(Arc::new(responses)), ..filing(folder, FileLimits::default()).await }
}

async fn serving() -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    (start_with(storing(folder.path()).await, true).await, folder)
}

async fn ask(server: &Running, input: &str, more: Value) -> Reply {
    let mut body = json!({ "input": input, "background": true });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post_json(ROUTE, body).await
}

async fn create(server: &Running, input: &str) -> Value {
    let reply = ask(server, input, json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

fn path(response: &Value) -> String {
    format!("{ROUTE}/{}", response["id"].as_str().unwrap())
}

async fn until(server: &Running, response: &Value, status: &str) -> Value {
    let begun = Instant::now();
    loop {
        let found = server.get(&path(response)).await.json();
        if found["status"] == status {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "waited too long for {status}: {found}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_response_is_made_after_the_reply() {
    let (server, _folder) = serving().await;
    // The reply comes, though the answer does not.
    let queued = create(&server, "!gate").await;
    assert_eq!((&queued["status"], &queued["background"]), (&json!("queued"), &json!(true)));
    assert_eq!((&queued["output"], &queued["store"]), (&json!([]), &json!(true)));
    let next = json!({ "input": "x", "previous_response_id": queued["id"] });
    let reply = server.post_json(ROUTE, next.clone()).await;
    refused(&reply, 400, Some("previous_response_id"), json!("response_not_complete"), "not complete yet");
    server.provider.open();
    let done = until(&server, &queued, "completed").await;
    assert_eq!(done["output"][0]["content"][0]["text"], "You said: !gate");
    assert_eq!((&done["id"], &done["created_at"]), (&queued["id"], &queued["created_at"]));
    assert_eq!(server.post_json(ROUTE, next).await.status, 200, "and goes on as others do");
    let cancelled = server.post(&format!("{}/cancel", path(&done)), "").await;
    assert_eq!((cancelled.status, cancelled.json()), (200, done), "there is nothing left to cancel");
}

#[tokio::test]
async fn a_response_is_cancelled() {
    let (server, _folder) = serving().await;
    let response = create(&server, "!hang").await;
    until(&server, &response, "in_progress").await;
    for _ in 0..2 {
        let reply = server.post(&format!("{}/cancel", path(&response)), "").await;
        assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("cancelled")), "{}", reply.body);
        assert_eq!(reply.json()["output"][0]["content"][0]["text"], "Half an", "what there is is kept");
    }
    server.idle().await;
    let response = create(&server, "!hang").await;
    assert_eq!(server.delete(&path(&response)).await.status, 200);
    server.idle().await;
    assert_eq!(server.get(&path(&response)).await.status, 404);
}

#[tokio::test]
async fn it_makes_way_for_others() {
    let (server, _folder) = serving().await;
    let done = until(&server, &create(&server, "!priority").await, "completed").await;
    assert_eq!(done["output"][0]["content"][0]["text"], "Background");
    let direct = server.post_json(ROUTE, json!({ "input": "!priority" })).await.json();
    assert_eq!(direct["output"][0]["content"][0]["text"], "Normal");
}

#[tokio::test]
async fn failures_are_stored() {
    let (server, _folder) = serving().await;
    let response = create(&server, "!fail midway").await;
    let failed = until(&server, &response, "failed").await;
    assert_eq!(failed["error"]["code"], "server_error");
    assert!(!failed.to_string().contains("secret"), "{failed}");
    let reply = ask(&server, &"x".repeat(5000), json!({})).await;
    refused(&reply, 400, None, json!("context_length_exceeded"), "shorten");
    let reply = ask(&server, "!overloaded", json!({})).await;
    assert_eq!(reply.status, 429, "what is known at once is a status");
}

#[tokio::test]
async fn what_has_no_place_in_the_background_is_refused() {
    let (server, _folder) = serving().await;
    let reply = ask(&server, "x", json!({ "stream": true })).await;
    refused(&reply, 400, Some("stream"), json!("unsupported_value"), "with `background`");
    let reply = ask(&server, "x", json!({ "store": false })).await;
    refused(&reply, 400, Some("background"), json!("unsupported_value"), "needs `store`");
}

#[tokio::test]
async fn after_a_restart_nothing_seems_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let responses =
        Responses::open(&folder.path().join("responses.sqlite"), Retention::default()).await.unwrap();
    let (response, body) = {
        let server = start_with(storing(folder.path()).await, true).await;
        let response = create(&server, "!hang").await;
        (response.clone(), until(&server, &response, "in_progress").await)
    };
    // As a process leaves it that is killed.
    let tenant = "local";
    let id = response["id"].as_str().unwrap();
    assert!(responses.replace(tenant, id, &body.to_string(), true).await.unwrap(), "it is pending");
    responses.close().await;
    let folder = copy(folder);
    let server = start_with(storing(folder.path()).await, true).await;
    let failed = server.get(&path(&response)).await.json();
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert!(failed["error"]["message"].as_str().unwrap().contains("send the request again"));
}

#[tokio::test]
async fn shutdown_waits_and_then_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = ServerConfig { shutdown_grace: Duration::from_secs(30), ..storing(folder.path()).await };
    let mut server = start_with(config, true).await;
    let response = create(&server, "!slow").await;
    server.begin_stop();
    server.stopped().await;
    let responses =
        Responses::open(&folder.path().join("responses.sqlite"), Retention::default()).await.unwrap();
    let stored = responses.get("local", response["id"].as_str().unwrap(), 0).await.unwrap().unwrap();
    assert!(stored.body.contains("\"status\":\"completed\""), "{}", stored.body);
}

/// A folder as another process sees it once the first one is gone, which in this process it is not.
fn copy(folder: tempfile::TempDir) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

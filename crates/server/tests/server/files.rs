//! `/v1/files`: uploads as forms, lists, contents, and who may.

use std::path::Path;
use std::sync::Arc;

use ingle_ledger::{FileLimits, Files};
use ingle_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{Reply, Running, config, start, start_with};

const ROUTE: &str = "/v1/files";

/// A configuration with files in a folder.
pub async fn filing(folder: &Path, limits: FileLimits) -> ServerConfig {
    let files = Files::open(&folder.join("files.sqlite"), limits).await.expect("it opens");
    ServerConfig { files: Some(Arc::new(files)), ..config() }
}

async fn serving(limits: FileLimits) -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = filing(folder.path(), limits).await;
    (start_with(config, true).await, folder)
}

/// A form of these fields, with a file after the first `n_before` of them.
pub fn form(fields: &[(&str, &str)], n_before: usize, file: Option<(&str, &str)>) -> String {
    let mut parts: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}"))
        .collect();
    if let Some((name, content)) = file {
        let head = format!("Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"");
        parts.insert(n_before, format!("{head}\r\nContent-Type: application/octet-stream\r\n\r\n{content}"));
    }
    let parts = parts.into_iter().map(|part| format!("--b0undary\r\n{part}\r\n"));
    parts.collect::<String>() + "--b0undary--\r\n"
}

pub async fn post_form(server: &Running, headers: &str, form: &str) -> Reply {
    let headers = format!("Content-Type: multipart/form-data; boundary=b0undary\r\n{headers}");
    server.post_with(ROUTE, &headers, form.as_bytes()).await
}

/// Uploads a file, and gives its object.
pub async fn upload(server: &Running, purpose: &str, content: &str) -> Value {
    let form = form(&[("purpose", purpose)], 1, Some(("in.jsonl", content)));
    let reply = post_form(server, "", &form).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

pub fn refused(reply: &Reply, status: u16, param: Option<&str>, code: Value, part: &str) {
    assert_eq!(reply.status, status, "{part}: {}", reply.body);
    let error = reply.json()["error"].clone();
    assert_eq!((&error["param"], &error["code"]), (&json!(param), &code), "{error}");
    assert!(error["message"].as_str().unwrap().contains(part), "{error}");
}

#[tokio::test]
async fn a_file_from_upload_to_deletion() {
    let (server, _folder) = serving(FileLimits::default()).await;
    // Larger than a piece, and than bodies of other routes may be by default.
    let content: String = (0..700_000).map(|i| format!("{i} ")).collect();
    let fields = [
        ("purpose", "user_data"),
        ("expires_after[anchor]", "created_at"),
        ("expires_after[seconds]", "3600"),
    ];
    for n_before in 0..=3 {
        let file =
            post_form(&server, "", &form(&fields, n_before, Some(("bücher.txt", &content)))).await.json();
        let id = file["id"].as_str().expect("an id");
        assert!(id.starts_with("file-") && id.len() == 37, "{id}");
        let created = file["created_at"].as_u64().unwrap();
        assert_eq!(
            file,
            json!({
                "id": id, "object": "file", "bytes": content.len(), "created_at": created,
                "expires_at": created + 3600, "filename": "bücher.txt", "purpose": "user_data",
                "status": "processed", "status_details": null,
            })
        );
        let path = format!("{ROUTE}/{id}");
        assert_eq!(server.get(&path).await.json(), file);
        let whole = server.get(&format!("{path}/content")).await;
        assert!(whole.status == 200 && whole.body == content);
        assert_eq!(whole.header("content-length"), Some(content.len().to_string().as_str()));
        assert_eq!(server.get(&format!("{ROUTE}?purpose=user_data")).await.json()["data"], json!([file]));
        assert_eq!(server.get(&format!("{ROUTE}?purpose=batch")).await.json()["data"], json!([]));
        let deleted = server.delete(&path).await;
        assert_eq!(deleted.json(), json!({ "id": id, "object": "file", "deleted": true }));
        for reply in [
            server.get(&path).await,
            server.delete(&path).await,
            server.get(&format!("{path}/content")).await,
        ] {
            refused(&reply, 404, None, json!("file_not_found"), "was deleted");
        }
    }
    let empty = upload(&server, "batch", "").await;
    assert_eq!(server.get(&format!("{ROUTE}/{}/content", empty["id"].as_str().unwrap())).await.body, "");
}

#[tokio::test]
async fn files_are_listed_in_pages() {
    let (server, _folder) = serving(FileLimits::default()).await;
    let mut ids = Vec::new();
    for content in ["a", "b", "c"] {
        ids.push(upload(&server, "batch", content).await["id"].clone());
    }
    let page = server.get(&format!("{ROUTE}?limit=2")).await.json();
    assert_eq!((&page["object"], &page["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!((&page["first_id"], &page["last_id"]), (&ids[2], &ids[1]));
    let after = format!("{ROUTE}?after={}", ids[1].as_str().unwrap());
    let page = server.get(&after).await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&ids[0], &json!(false)));
    let page = server.get(&format!("{after}&order=asc")).await.json();
    assert_eq!(page["data"][0]["id"], ids[2]);
    refused(&server.get(&format!("{ROUTE}?after=x")).await, 404, None, json!("file_not_found"), "`x`");
    let reply = server.get(&format!("{ROUTE}?limit=0")).await;
    refused(&reply, 400, Some("limit"), Value::Null, "from 1 to 10000");
}

#[tokio::test]
async fn what_is_no_upload_is_refused() {
    let limits = FileLimits { file_bytes_max: 100_000, bytes_max: 150_000, count_max: 10 };
    let (server, _folder) = serving(limits).await;
    let batch = ("purpose", "batch");
    let check = async |form: String, status: u16, param: Option<&str>, code: Value, part: &str| {
        refused(&post_form(&server, "", &form).await, status, param, code, part);
    };
    let file = Some(("a", "x"));
    check(form(&[], 0, file), 400, Some("purpose"), Value::Null, "`purpose` is missing").await;
    check(form(&[batch], 1, None), 400, Some("file"), Value::Null, "`file` is missing").await;
    check(form(&[("purpose", "x")], 1, file), 400, Some("purpose"), json!("unsupported_value"), "no such")
        .await;
    check(form(&[batch, ("a", "b")], 1, file), 400, Some("a"), json!("unknown_field"), "unknown field").await;
    let long = "x".repeat(2000);
    check(form(&[("purpose", &long)], 0, file), 400, Some("purpose"), Value::Null, "more than 1024").await;
    let whole = form(&[batch], 1, file);
    check(whole.replace("--b0undary--", "--b0und"), 400, None, json!("body_broken"), "ended early").await;
    for endless in ["--b0undary\r\nContent-Disposition: form-data; ", "no boundary at all "] {
        let endless = endless.to_owned() + &"x".repeat(150_000);
        check(endless, 400, None, json!("body_broken"), "framed wrongly").await;
    }
    let long = "x".repeat(100_001);
    check(form(&[batch], 1, Some(("a", &long))), 413, None, json!("file_too_large"), "than the 100000").await;
    let longer = "x".repeat(200_000);
    check(form(&[batch], 1, Some(("a", &longer))), 413, None, json!("file_too_large"), "split it").await;
    upload(&server, "batch", &long[..80_000]).await;
    check(form(&[batch], 1, Some(("a", &long[..80_000]))), 400, None, json!("storage_full"), "150000").await;
    let listed = server.get(ROUTE).await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "nothing is left of what was refused: {listed}");
    let reply = server.post_json(ROUTE, json!({ "purpose": "batch" })).await;
    refused(&reply, 415, None, json!("unsupported_media_type"), "multipart/form-data");
}

#[tokio::test]
async fn pages_of_other_sites_upload_nothing() {
    let (server, folder) = serving(FileLimits::default()).await;
    let form = form(&[("purpose", "batch")], 1, Some(("a", "x")));
    for headers in ["Origin: https://evil.example\r\n", "Sec-Fetch-Site: same-site\r\n"] {
        refused(&post_form(&server, headers, &form).await, 403, None, json!("forbidden_host"), "no API key");
    }
    drop((server, folder));
    let folder = tempfile::tempdir().unwrap();
    let config = filing(folder.path(), FileLimits::default()).await;
    let config = ServerConfig { cors_origins: vec!["https://good.example".into()], ..config };
    let server = start_with(config, true).await;
    assert_eq!(post_form(&server, "Origin: https://good.example\r\n", &form).await.status, 200);
}

#[tokio::test]
async fn tenants_see_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let keys = vec!["key-one".to_owned(), "key-two".to_owned()];
    let config = ServerConfig { api_keys: keys, ..filing(folder.path(), FileLimits::default()).await };
    let server = start_with(config, true).await;
    let body = form(&[("purpose", "batch")], 1, Some(("a", "secret")));
    let file = post_form(&server, "x-api-key: key-one\r\n", &body).await.json();
    let id = file["id"].as_str().unwrap();
    let with_key = async |key: &str, head: &str| {
        let head =
            format!("{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx-api-key: {key}\r\n\r\n");
        server.send(&head).await
    };
    assert_eq!(with_key("key-one", &format!("GET {ROUTE}/{id}/content")).await.body, "secret");
    for head in
        ["GET /v1/files/ID", "GET /v1/files/ID/content", "DELETE /v1/files/ID", "GET /v1/files?after=ID"]
    {
        let reply = with_key("key-two", &head.replace("ID", id)).await;
        refused(&reply, 404, None, json!("file_not_found"), "there is no file");
    }
    assert_eq!(with_key("key-two", &format!("GET {ROUTE}")).await.json()["data"], json!([]));
    let batch = json!({ "input_file_id": id, "endpoint": "/v1/completions", "completion_window": "24h" });
    let reply = server.post_with("/v1/batches", "x-api-key: key-two\r\n", batch.to_string().as_bytes()).await;
    refused(&reply, 400, Some("input_file_id"), json!("file_not_found"), "there is no file");
    let batch = server.post_with("/v1/batches", "x-api-key: key-one\r\n", batch.to_string().as_bytes()).await;
    let batch = batch.json()["id"].as_str().unwrap().to_owned();
    for head in ["GET /v1/batches/ID", "POST /v1/batches/ID/cancel", "GET /v1/batches?after=ID"] {
        let reply = with_key("key-two", &head.replace("ID", &batch)).await;
        refused(&reply, 404, None, json!("batch_not_found"), "there is no batch");
    }
}

#[tokio::test]
async fn without_a_folder_there_are_none() {
    let server = start().await;
    let form = form(&[("purpose", "batch")], 1, Some(("a", "x")));
    for reply in [
        post_form(&server, "", &form).await,
        server.get(ROUTE).await,
        server.get("/v1/files/x").await,
        server.get("/v1/files/x/content").await,
        server.delete("/v1/files/x").await,
        server.post_json("/v1/batches", json!({})).await,
        server.get("/v1/batches").await,
        server.get("/v1/batches/x").await,
        server.post("/v1/batches/x/cancel", "").await,
    ] {
        refused(&reply, 404, None, json!("files_not_stored"), "no data folder");
    }
}

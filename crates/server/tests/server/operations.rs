//! Health, metrics, keys, exposure, going away, shutting down.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ingle_server::{Alias, ServeError, ServerConfig, check_exposure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{config, post_head, start, start_with};

const CHAT: &str = "/v1/chat/completions";
/// Longer than any test should wait for anything, and shorter than the grace of a shutdown.
const PATIENCE: Duration = Duration::from_secs(20);

fn body(prompt: &str, stream: bool) -> String {
    json!({ "messages": [{ "role": "user", "content": prompt }], "stream": stream }).to_string()
}

/// Reads until `part` has come.
async fn read_until(stream: &mut tokio::net::TcpStream, part: &str) -> String {
    let mut seen = String::new();
    let mut buf = [0; 4096];
    while !seen.contains(part) {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buf)).await;
        let n = read.expect("in time").expect("open");
        assert!(n > 0, "the stream ended before {part}: {seen}");
        seen += &String::from_utf8_lossy(&buf[..n]);
    }
    seen
}

#[tokio::test]
async fn pages() {
    let server = start().await;
    let root = server.get("/").await;
    assert_eq!((root.body.as_str(), root.header("vary")), ("Ollama is running", Some("accept")));
    let browser = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: text/html,*/*\r\n\r\n";
    assert!(server.send(browser).await.body.starts_with("Ingle 0."));
    assert_eq!(server.get("/version").await.json()["name"], "ingle");
    let health = server.get("/health").await;
    assert_eq!(health.status, 200);
    let page = health.json();
    assert_eq!((&page["status"], &page["live"], &page["ready"]), (&json!("ok"), &json!(true), &json!(true)));
    assert_eq!(page["memory_bytes"], 5_000_000);
    assert_eq!(page["requests"], json!({ "running": 0, "waiting": 3 }));
    assert_eq!(page["tokens_per_second"]["decode"], 12.5);
    assert_eq!(page["models"], json!(["scripted"]));
    for path in ["/v1/health", "/health/live", "/health/ready"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let models = server.get("/v1/models").await.json();
    let model = &models["data"][0];
    assert_eq!((&models["object"], &model["object"]), (&json!("list"), &json!("model")));
    assert_eq!((&model["id"], &model["max_model_len"]), (&json!("scripted"), &json!(4096)));
    assert_eq!(model["meta"]["n_ctx_train"], 8192);
    assert_eq!(&server.get("/v1/models/scripted").await.json(), model);
    assert_eq!(server.get("/v1/models/other").await.status, 404);
    let head = server.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn aliases() {
    let alias = |name: &str, model: Option<&str>| Alias { name: name.into(), model: model.map(Into::into) };
    let aliases =
        vec![alias("gpt-4o", None), alias("org/m", Some("scripted")), alias("gone", Some("absent"))];
    let server = start_with(ServerConfig { aliases, ..config() }, true).await;
    let models = server.get("/v1/models").await.json();
    let ids: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["scripted", "gpt-4o", "org/m"]);
    assert_eq!(server.get("/v1/models/org/m").await.json()["root"], "scripted");
    let ask = async |name: &str| {
        let body = json!({ "model": name, "messages": [{ "role": "user", "content": "x" }] });
        server.post_json(CHAT, body).await
    };
    assert_eq!(ask("gpt-4o").await.json()["model"], "gpt-4o");
    assert_eq!(ask("org/m").await.status, 200);
    assert_eq!(ask("gone").await.status, 404);
}

#[tokio::test]
async fn metrics_page() {
    let server = start().await;
    server.post(CHAT, &body("hi", true)).await;
    server.post(CHAT, &body("hi", false)).await;
    server.get("/nowhere/1").await;
    server.get("/nowhere/2").await;
    let page = server.get("/metrics").await;
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let label = "model_name=\"scripted\"";
    for line in [
        format!("vllm:num_requests_running{{{label}}} 0"),
        format!("vllm:num_requests_waiting{{{label}}} 3"),
        format!("vllm:kv_cache_usage_perc{{{label}}} 0.25"),
        format!("vllm:prompt_tokens_total{{{label}}} 100"),
        format!("ingle_prompt_tokens_total{{{label}}} 70"),
        format!("vllm:generation_tokens_total{{{label}}} 42"),
        format!("vllm:time_to_first_token_seconds_count{{{label}}} 2"),
        // "You said: hi" is 12 pieces: 11 times between two.
        format!("ingle_inter_token_latency_seconds_count{{{label}}} 22"),
        format!("vllm:e2e_request_latency_seconds_count{{{label}}} 2"),
        format!("vllm:request_success_total{{{label},finished_reason=\"stop\"}} 2"),
        format!("ingle_replies_total{{{label},outcome=\"finished\"}} 2"),
        "ingle_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 2".into(),
        "ingle_http_requests_total{route=\"unknown\",status=\"404\"} 2".into(),
    ] {
        assert!(page.body.lines().any(|l| l == line), "{line} is not in\n{}", page.body);
    }
    // Each sample follows its family's type, and no family is announced twice.
    let mut families = Vec::new();
    for line in page.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap().to_owned();
            assert!(!families.contains(&name), "{name} twice");
            families.push(name);
        } else if !line.starts_with('#') {
            let family = families.last().expect("a type first");
            assert!(line.starts_with(family.as_str()), "{line} in {family}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[tokio::test]
async fn every_route_but_health_wants_the_key() {
    let keys = vec!["correct-horse".to_owned(), "other".to_owned()];
    let server = start_with(ServerConfig { api_keys: keys, ..config() }, true).await;
    let routes = [
        ("GET", "/", true),
        ("GET", "/v1/models", true),
        ("GET", "/v1/models/scripted", true),
        ("GET", "/metrics", true),
        ("GET", "/version", true),
        ("GET", "/unknown", true),
        ("POST", "/v1/chat/completions", true),
        ("POST", "/chat/completions", true),
        ("POST", "/v1/completions", true),
        ("POST", "/tokenize", true),
        ("POST", "/v1/tokenize", true),
        ("POST", "/detokenize", true),
        ("POST", "/v1/detokenize", true),
        ("POST", "/apply-template", true),
        ("POST", "/generate", true),
        ("POST", "/infill", true),
        ("POST", "/v1/embeddings", true),
        ("POST", "/embeddings", true),
        ("POST", "/embedding", true),
        ("POST", "/v1/rerank", true),
        ("POST", "/v2/rerank", true),
        ("POST", "/rerank", true),
        ("POST", "/v1/score", true),
        ("POST", "/score", true),
        ("POST", "/api/embed", true),
        ("POST", "/api/embeddings", true),
        ("GET", "/props", true),
        ("GET", "/slots", true),
        ("GET", "/get_model_info", true),
        ("GET", "/health_generate", true),
        ("DELETE", "/v1/models", true),
        ("GET", "/health/../v1/models", true),
        ("GET", "/health", false),
        ("GET", "/v1/health", false),
        ("GET", "/health/live", false),
        ("GET", "/health/ready", false),
    ];
    for (method, path, protected) in routes {
        for credential in
            ["", "Authorization: Bearer wrong\r\n", "x-api-key: correct-hors\r\n", "x-api-key: \r\n"]
        {
            let message = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{credential}\r\n"
            );
            let reply = server.send(&message).await;
            assert_eq!(reply.status == 401, protected, "{method} {path} {credential}: {}", reply.status);
            if protected {
                let error = &reply.json()["error"];
                assert!(error.is_string() || error["code"] == "invalid_api_key", "{path}: {error}");
                assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            }
        }
        for credential in ["Authorization: Bearer correct-horse\r\n", "x-api-key: other\r\n"] {
            let message = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{credential}\r\n"
            );
            assert_ne!(server.send(&message).await.status, 401, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn without_key_only_local_names_and_pages() {
    let server = start().await;
    let ask = async |headers: &str| {
        server.send(&format!("GET /v1/models HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")).await.status
    };
    assert_eq!(ask("Host: localhost:1\r\n").await, 200);
    assert_eq!(ask("Host: evil.example\r\n").await, 403);
    assert_eq!(ask("").await, 403);
    assert_eq!(
        ask("Host: localhost\r\nSec-Fetch-Site: cross-site\r\nOrigin: http://evil.example\r\n").await,
        403
    );
    assert_eq!(ask("Host: localhost\r\nSec-Fetch-Site: same-origin\r\n").await, 200);
    let reply = server.get("/v1/models").await;
    assert_eq!(reply.header("access-control-allow-origin"), None);
    let origins = vec!["http://app.example".to_owned()];
    let open = start_with(ServerConfig { cors_origins: origins, ..config() }, true).await;
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: \
                     http://app.example\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let reply = open.send(preflight).await;
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (200, Some("http://app.example"))
    );
}

#[test]
fn exposure() {
    let check = |addr: &str, key: bool, no_auth: bool| {
        let config = ServerConfig {
            listen: vec!["127.0.0.1:1".parse().unwrap(), addr.parse::<SocketAddr>().unwrap()],
            api_keys: key.then(|| "k".to_owned()).into_iter().collect(),
            no_auth,
            ..ServerConfig::default()
        };
        check_exposure(&config).is_ok()
    };
    for loopback in ["127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080", "[::ffff:127.0.0.1]:1"] {
        assert!(check(loopback, false, false), "{loopback}");
    }
    for open in ["0.0.0.0:8080", "[::]:8080", "192.168.1.2:1", "[::ffff:8.8.8.8]:1"] {
        assert!(!check(open, false, false), "{open}");
        assert!(check(open, true, false), "{open} with a key");
        assert!(check(open, false, true), "{open} by decision");
    }
}

#[tokio::test]
async fn bad_settings_do_not_start() {
    let bind = async |config: ServerConfig| {
        ingle_server::Server::bind(config, ingle_server::ProviderSlot::loading())
            .await
            .err()
            .map(|e| e.to_string())
    };
    let taken = start().await;
    let message = bind(ServerConfig { listen: vec![taken.addr], ..config() }).await.expect("taken");
    assert!(message.starts_with(&format!("cannot listen on {}", taken.addr)), "{message}");
    let exposed = ServerConfig { listen: vec![SocketAddr::from(([0, 0, 0, 0], 0))], ..config() };
    assert!(bind(exposed).await.expect("exposed").contains("without an API key"));
    assert!(bind(ServerConfig { api_keys: vec![" ".into()], ..config() }).await.is_some());
    assert!(bind(ServerConfig { listen: vec![], ..config() }).await.is_some());
    let both = ServerConfig { api_keys: vec!["k".into()], no_auth: true, ..config() };
    assert!(matches!(
        ingle_server::Server::bind(both, ingle_server::ProviderSlot::loading()).await,
        Err(ServeError::Setting { name: "no_auth", .. })
    ));
}

#[tokio::test]
async fn loading() {
    let server = start_with(config(), false).await;
    server.slot.set_progress(0.25);
    let reply = server.get("/health").await;
    assert_eq!(reply.status, 503);
    let page = reply.json();
    assert_eq!(
        page["error"],
        json!({ "code": 503, "message": "Loading model", "type": "unavailable_error" })
    );
    assert_eq!(
        (&page["progress"], &page["live"], &page["ready"]),
        (&json!(0.25), &json!(true), &json!(false))
    );
    assert_eq!(server.get("/health/live").await.status, 200);
    assert_eq!(server.get("/health/ready").await.status, 503);
    let reply = server.post(CHAT, &body("hi", false)).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.json()["error"]["message"], "Loading model");
    assert_eq!(server.get("/metrics").await.status, 200);
    // A provider that takes requests while weights arrive: they are answered, but nobody is sent here yet.
    server.provider.loading.store(true, Ordering::SeqCst);
    server.slot.set_ready(server.provider.clone());
    let reply = server.get("/health").await;
    assert_eq!(reply.status, 503);
    let page = reply.json();
    assert_eq!((&page["progress"], &page["ready"]), (&json!(0.5), &json!(false)));
    assert_eq!(page["error"]["message"], "Loading model");
    assert_eq!(server.post(CHAT, &body("hi", false)).await.status, 200);
    server.provider.loading.store(false, Ordering::SeqCst);
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.post(CHAT, &body("hi", false)).await.status, 200);
    server.slot.set_failed("no such file: /secret/path");
    let reply = server.get("/health").await;
    assert_eq!(reply.status, 503);
    assert!(!reply.body.contains("secret"), "{}", reply.body);
}

#[tokio::test]
async fn request_ids() {
    let server = start().await;
    let ask = async |id: &str| {
        let message = format!("GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{id}\r\n");
        server.send(&message).await.header("x-request-id").expect("always").to_owned()
    };
    assert_eq!(ask("x-request-id: my-id.7\r\n").await, "my-id.7");
    let (a, b) = (ask("").await, ask("").await);
    assert!(a.starts_with("req-") && a.len() == 36 && a != b, "{a} {b}");
    assert!(ask("x-request-id: two words\r\n").await.starts_with("req-"));
    assert!(ask(&format!("x-request-id: {}\r\n", "x".repeat(200))).await.starts_with("req-"));
}

#[tokio::test]
async fn a_client_that_goes_away_aborts_its_answer() {
    let server = start().await;
    for stream in [true, false] {
        let body = body("!hang", stream);
        let mut client = server.connect().await;
        let message = format!("{}{body}", post_head(CHAT, "", body.len()));
        client.write_all(message.as_bytes()).await.unwrap();
        if stream {
            read_until(&mut client, "Half an").await;
        } else {
            let begun = Instant::now();
            while server.provider.live.load(std::sync::atomic::Ordering::SeqCst) == 0 {
                assert!(begun.elapsed() < PATIENCE, "never started");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        drop(client);
        server.idle().await;
    }
    let page = server.get("/metrics").await.body;
    assert!(page.contains("ingle_replies_total{model_name=\"scripted\",outcome=\"aborted\"} 2"), "{page}");
}

#[tokio::test]
async fn a_client_that_stops_reading_is_let_go() {
    let config = ServerConfig { io_timeout: Duration::from_secs(1), ..config() };
    let server = start_with(config, true).await;
    let body = body("!flood", true);
    let mut client = server.connect().await;
    client.write_all(format!("{}{body}", post_head(CHAT, "", body.len())).as_bytes()).await.unwrap();
    read_until(&mut client, "flood").await;
    server.idle().await;
    // One that is idle after its reply is let go too.
    let mut client = server.connect().await;
    client.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut client, "live").await;
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("closed").unwrap();
    // And one that does not finish its request's head.
    let mut client = server.connect().await;
    client.write_all(b"GET /health HTT").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("closed").unwrap();
}

/// A client without network says no goodbye: the system asks after it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_watches_for_clients_that_are_gone() {
    let server = start().await;
    let mut client = server.connect().await;
    client.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut client, "live").await;
    let ports = [server.addr.port(), client.local_addr().unwrap().port()];
    let row = format!("0100007F:{:04X} 0100007F:{:04X} 01 ", ports[0], ports[1]);
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_server = table.lines().find(|line| line.contains(&row)).expect("the server's end");
    // Queues, then the timer that runs: 02 is that of keep-alive probes.
    let timer = of_server.split_once(&row).unwrap().1.split_whitespace().nth(1).unwrap();
    assert!(timer.starts_with("02:"), "{of_server}");
}

#[tokio::test]
async fn shutdown_lets_answers_finish_and_ends_the_rest() {
    let grace = Duration::from_secs(3);
    let mut server = start_with(ServerConfig { shutdown_grace: grace, ..config() }, true).await;
    let open = async |prompt: &str, stream: bool| {
        let body = body(prompt, stream);
        let mut client = server.connect().await;
        client.write_all(format!("{}{body}", post_head(CHAT, "", body.len())).as_bytes()).await.unwrap();
        client
    };
    let mut slow = open("!gate", true).await;
    let mut hung = open("!hang", true).await;
    let mut hung_whole = open("!hang", false).await;
    read_until(&mut slow, "text/event-stream").await;
    read_until(&mut hung, "Half an").await;
    let begun = Instant::now();
    while server.provider.live.load(Ordering::SeqCst) < 3 {
        assert!(begun.elapsed() < PATIENCE, "the third never started");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    server.begin_stop();
    while tokio::net::TcpStream::connect(server.addr).await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it goes on listening");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.provider.open();
    let slow = read_until(&mut slow, "0\r\n\r\n").await;
    assert!(slow.contains("data: [DONE]"), "finished within the grace: {slow}");
    let hung = read_until(&mut hung, "0\r\n\r\n").await;
    assert_eq!(hung.matches("\"error\"").count(), 1, "{hung}");
    assert!(hung.contains("shutting down") && !hung.contains("[DONE]"), "{hung}");
    let whole = read_until(&mut hung_whole, "shutting down").await;
    assert!(whole.starts_with("HTTP/1.1 503"), "{whole}");
    server.idle().await;
    server.stopped().await;
    assert!(begun.elapsed() >= grace - Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_shutdown() {
    let mut server = start().await;
    let mut client = server.connect().await;
    client.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut client, "live").await;
    server.begin_stop();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    tokio::time::timeout(PATIENCE, server.stopped()).await.expect("long before the grace period ends");
}

#[tokio::test]
async fn bodies_share_their_memory() {
    let config = ServerConfig { body_bytes_max: 64 << 10, bodies_bytes_max: 64 << 10, ..config() };
    let server = start_with(config, true).await;
    let large = json!({ "prompt": "x", "user": "y".repeat(50_000) }).to_string();
    assert_eq!(server.post("/v1/completions", &large).await.status, 200);
    // Most of a body, and then nothing.
    let mut client = server.connect().await;
    let head = post_head("/v1/completions", "", large.len());
    client.write_all(format!("{head}{}", &large[..40_000]).as_bytes()).await.unwrap();
    let begun = Instant::now();
    loop {
        let reply = server.post("/v1/completions", &large).await;
        if reply.status == 429 {
            assert_eq!(reply.header("retry-after"), Some("1"));
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the first body's share was never taken");
    }
    assert_eq!(server.post(CHAT, &body("hi", false)).await.status, 200, "small ones still fit");
    client.write_all(&large.as_bytes()[40_000..]).await.unwrap();
    read_until(&mut client, "HTTP/1.1 200").await;
    assert_eq!(server.post("/v1/completions", &large).await.status, 200);
}

#[cfg(unix)]
#[tokio::test]
async fn unix_socket() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ingle.sock");
    // Left over from a server that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = ServerConfig { listen: vec![], unix: vec![path.clone()], ..config() };
    let provider = std::sync::Arc::new(crate::scripted::Scripted::default());
    let slot = ingle_server::ProviderSlot::ready(provider);
    let server = ingle_server::Server::bind(config, slot).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    client
        .write_all(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    let json: Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(json["data"][0]["id"], "scripted");
    stop.send(()).unwrap();
    task.await.unwrap();
    assert!(!path.exists(), "the socket is removed");
}

#[tokio::test]
async fn connections_without_a_request_do_not_hold_up_shutdown() {
    let mut server = start().await;
    let mut silent = server.connect().await;
    let mut half_a_head = server.connect().await;
    half_a_head.write_all(b"POST /v1/comp").await.unwrap();
    // One that has been served and begins to ask again.
    let mut again = server.connect().await;
    again.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut again, "live").await;
    again.write_all(b"GET /hea").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    server.begin_stop();
    for client in [&mut silent, &mut half_a_head, &mut again] {
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
    }
    server.stopped().await;
    // Long before the grace period ends.
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

/// On one thread, so that work which keeps it shows.
#[tokio::test]
async fn large_prompts_do_not_keep_others_waiting() {
    let server = start().await;
    let large = json!({ "prompt": "!busy", "user": "y".repeat(300_000) }).to_string();
    let pages = async {
        while server.provider.busy.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..20 {
            assert_eq!(server.get("/health/live").await.status, 200);
        }
        // The work goes on until here.
        assert_eq!(server.provider.busy.load(Ordering::SeqCst), 1);
        server.provider.open();
    };
    let (reply, ()) = tokio::join!(server.post("/v1/completions", &large), pages);
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[tokio::test]
async fn a_name_that_is_no_text_is_refused_in_json() {
    let server = start().await;
    let reply = server.get("/v1/models/%ff").await;
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (404, Some("unknown_route")));
}

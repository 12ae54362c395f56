//! Adapters over HTTP: each peer's routes, who may use them, and what reaches the provider.

use std::sync::Mutex;

use ingle_chat::{
    AdapterInfo, AdapterName, AdapterWish, LoadAdapter, ModelInfo, Provider, ProviderError, ProviderStatus,
    Request, StartFuture,
};
use ingle_server::{Scope, ServerConfig};
use serde_json::{Value, json};

use crate::client::{Reply, Running, config, start_over};
use crate::scripted::Scripted;

/// The model and the adapters of a request.
type Asked = (Option<String>, Option<Vec<AdapterWish>>);

/// A provider with adapters that change nothing, and that remembers what it was asked.
#[derive(Default)]
struct Adapted {
    scripted: Scripted,
    adapters: Mutex<Vec<AdapterInfo>>,
    asked: Mutex<Vec<Asked>>,
    loads: Mutex<Vec<LoadAdapter>>,
}

fn wish(number: u32, scale: f32) -> AdapterWish {
    AdapterWish { adapter: AdapterName::Number(number), scale }
}

impl Adapted {
    fn number(&self, name: &AdapterName) -> Result<u32, ProviderError> {
        let adapters = self.adapters.lock().expect("not poisoned");
        let found = adapters.iter().find(|info| match name {
            AdapterName::Name(name) => info.name == *name,
            AdapterName::Number(number) => info.number == *number,
        });
        found
            .map(|info| info.number)
            .ok_or_else(|| ProviderError::UnknownModel { model: format!("{name:?}"), available: Vec::new() })
    }
}

impl Provider for Adapted {
    fn start(&self, request: Request) -> StartFuture<'_> {
        let asked = (request.model.clone(), request.adapters.clone());
        self.asked.lock().expect("not poisoned").push(asked);
        self.scripted.start(request)
    }

    fn adapters_of(
        &self,
        info: &ModelInfo,
        wished: Option<&[AdapterWish]>,
    ) -> Result<(Option<Vec<AdapterWish>>, String), ProviderError> {
        let own = info.parent.as_ref().map(|_| AdapterName::Name(info.id.clone()));
        let own = own.map(|adapter| vec![AdapterWish { adapter, scale: 1.0 }]);
        let wishes = own.as_deref().or(wished).unwrap_or_default().iter();
        let numbers: Vec<AdapterWish> = wishes
            .map(|w| Ok(wish(self.number(&w.adapter)?, w.scale)))
            .collect::<Result<_, ProviderError>>()?;
        let fingerprint = format!("fp+{}", numbers.len());
        Ok((Some(numbers), fingerprint))
    }

    fn adapters(&self, _model: Option<&str>) -> Result<Vec<AdapterInfo>, ProviderError> {
        Ok(self.adapters.lock().expect("not poisoned").clone())
    }

    fn load_adapter(&self, wish: &LoadAdapter) -> Result<AdapterInfo, ProviderError> {
        if wish.path.starts_with('/') {
            return Err(ProviderError::Forbidden { message: "not from there".into() });
        }
        self.loads.lock().expect("not poisoned").push(wish.clone());
        let mut adapters = self.adapters.lock().expect("not poisoned");
        let number = adapters.len() as u32;
        let info =
            AdapterInfo { number, name: wish.name.clone(), path: "secret".into(), ..AdapterInfo::default() };
        adapters.push(info.clone());
        Ok(info)
    }

    fn unload_adapter(&self, _model: Option<&str>, name: &AdapterName) -> Result<AdapterInfo, ProviderError> {
        let number = self.number(name)?;
        let mut adapters = self.adapters.lock().expect("not poisoned");
        let at = adapters.iter().position(|info| info.number == number).expect("just found");
        Ok(adapters.remove(at))
    }

    fn set_adapters(&self, _model: Option<&str>, wishes: &[AdapterWish]) -> Result<(), ProviderError> {
        for info in self.adapters.lock().expect("not poisoned").iter_mut() {
            let chosen = wishes.iter().find(|w| w.adapter == AdapterName::Number(info.number));
            info.scale = chosen.map_or(0.0, |w| w.scale);
        }
        Ok(())
    }

    fn models(&self) -> Vec<ModelInfo> {
        let mut models = self.scripted.models();
        let base = models[0].clone();
        let model = |info: &AdapterInfo| ModelInfo {
            id: info.name.clone(),
            parent: Some(base.id.clone()),
            ..base.clone()
        };
        models.extend(self.adapters.lock().expect("not poisoned").iter().map(model));
        models
    }

    fn status(&self) -> ProviderStatus {
        self.scripted.status()
    }
}

fn with_keys() -> ServerConfig {
    ServerConfig {
        api_keys: vec!["user".into(), "admin".into()],
        scopes: vec![("admin".into(), Scope::Adapters)],
        ..config()
    }
}

async fn load(server: &Running<Adapted>, name: &str) {
    let body = json!({ "lora_name": name, "lora_path": format!("{name}.gguf") });
    let reply = server.post_json("/v1/load_lora_adapter", body).await;
    let expected = format!("Success: LoRA adapter '{name}' added successfully.");
    assert_eq!((reply.status, reply.body), (200, expected));
}

#[tokio::test]
async fn vllm_loads_and_unloads() {
    let server = start_over(config(), Adapted::default()).await;
    load(&server, "sql").await;
    let body =
        json!({ "lora_name": "fr", "lora_path": "b", "load_inplace": true, "base_model_name": "scripted" });
    assert_eq!(server.post_json("/v1/load_lora_adapter", body).await.status, 200);
    let expected =
        LoadAdapter { model: Some("scripted".into()), name: "fr".into(), path: "b".into(), replace: true };
    assert_eq!(server.provider.loads.lock().expect("not poisoned")[1], expected);
    let models = server.get("/v1/models").await.json();
    let shown: Vec<(&Value, &Value)> =
        models["data"].as_array().expect("a list").iter().map(|m| (&m["id"], &m["parent"])).collect();
    let (sql, fr, base) = (json!("sql"), json!("fr"), json!("scripted"));
    assert_eq!(shown, [(&base, &Value::Null), (&sql, &base), (&fr, &base)]);

    let reply = server.post_json("/v1/unload_lora_adapter", json!({ "lora_name": "sql" })).await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "Success: LoRA adapter 'sql' removed successfully.")
    );
    assert_eq!(server.get("/v1/models/sql").await.status, 404);
    assert_eq!(server.post_json("/v1/unload_lora_adapter", json!({ "lora_name": "sql" })).await.status, 404);
    let outside = json!({ "lora_name": "x", "lora_path": "/etc/passwd" });
    assert_eq!(server.post_json("/v1/load_lora_adapter", outside).await.status, 403);
}

#[tokio::test]
async fn sglang_loads_and_unloads() {
    let server = start_over(config(), Adapted::default()).await;
    let body = json!({ "lora_name": "sql", "lora_path": "sql.gguf", "pinned": true });
    let reply = server.post_json("/load_lora_adapter", body).await.json();
    assert_eq!(reply, json!({ "success": true, "error_message": "", "loaded_adapters": { "sql": "sql" } }));
    let prompt = json!({ "text": "Hi", "lora_path": "sql", "sampling_params": { "max_new_tokens": 2 } });
    assert_eq!(server.post_json("/generate", prompt).await.status, 200);
    let asked = server.provider.asked.lock().expect("not poisoned").clone();
    assert_eq!(asked, [(Some("scripted".into()), Some(vec![wish(0, 1.0)]))]);
    let reply = server.post_json("/unload_lora_adapter", json!({ "lora_name": "sql" })).await.json();
    assert_eq!(reply["loaded_adapters"], json!({}));
    let gone = json!({ "text": "Hi", "lora_path": "sql" });
    assert_eq!(server.post_json("/generate", gone).await.status, 404);
}

#[tokio::test]
async fn llama_servers_list_and_scales() {
    let server = start_over(config(), Adapted::default()).await;
    load(&server, "sql").await;
    load(&server, "fr").await;
    let reply = server.post_json("/lora-adapters", json!([{ "id": 1, "scale": 0.5 }])).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "success": true })));
    let list = server.get("/lora-adapters").await;
    assert!(!list.body.contains("secret"), "{}", list.body);
    let list = list.json();
    let shown: Vec<_> =
        (0..2).map(|i| (list[i]["id"].clone(), list[i]["path"].clone(), list[i]["scale"].clone())).collect();
    assert_eq!(shown, [(json!(0), json!("sql"), json!(0.0)), (json!(1), json!("fr"), json!(0.5))]);
    assert_eq!(server.post_json("/lora-adapters", json!({ "id": 1, "scale": 0.5 })).await.status, 400);
}

#[tokio::test]
async fn requests_choose() {
    let server = start_over(config(), Adapted::default()).await;
    load(&server, "sql").await;
    load(&server, "fr").await;
    let chat = |more: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 2 });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let base = || Some("scripted".to_owned());
    let cases = [
        (json!({}), vec![], "scripted"),
        (json!({ "model": "fr" }), vec![wish(1, 1.0)], "fr"),
        (json!({ "model": "scripted:fr" }), vec![wish(1, 1.0)], "fr"),
        (
            json!({ "lora": [{ "id": 1, "scale": 0.5 }, { "id": 0, "scale": 1 }] }),
            vec![wish(1, 0.5), wish(0, 1.0)],
            "scripted",
        ),
        (json!({ "lora": [] }), vec![], "scripted"),
    ];
    for (more, wishes, model) in cases {
        let reply = server.post_json("/v1/chat/completions", chat(more.clone())).await;
        assert_eq!(reply.status, 200, "{more}: {}", reply.body);
        let reply = reply.json();
        assert_eq!(
            (reply["model"].as_str(), &reply["system_fingerprint"]),
            (Some(model), &json!(format!("fp+{}", wishes.len())))
        );
        let asked = server.provider.asked.lock().expect("not poisoned").pop();
        assert_eq!(asked, Some((base(), Some(wishes))), "{more}");
    }
    let refused = |reply: Reply, param: &str| {
        assert_eq!(
            (reply.status, reply.json()["error"]["param"].as_str()),
            (400, Some(param)),
            "{}",
            reply.body
        );
    };
    for (lora, param) in [
        (json!([{ "id": 0 }]), "lora[0].scale"),
        (json!([{ "id": 0, "scale": "x" }]), "lora[0].scale"),
        (json!([{ "id": 0, "scale": 1, "path": "x" }]), "lora[0].path"),
        (json!({ "id": 0 }), "lora"),
    ] {
        refused(server.post_json("/v1/chat/completions", chat(json!({ "lora": lora }))).await, param);
    }
    let body = json!({ "input": "Hi", "lora": [{ "id": 0, "scale": 1 }] });
    refused(server.post_json("/v1/responses", body).await, "lora");
    for model in ["de", "fr:scripted", "other:fr"] {
        let reply = server.post_json("/v1/chat/completions", chat(json!({ "model": model }))).await;
        assert_eq!(reply.status, 404, "{model}");
    }
}

#[tokio::test]
async fn changes_take_the_scope() {
    let server = start_over(with_keys(), Adapted::default()).await;
    let load = json!({ "lora_name": "sql", "lora_path": "sql.gguf" }).to_string();
    let unload = json!({ "lora_name": "sql" }).to_string();
    let changes = [
        ("/v1/load_lora_adapter", &load),
        ("/lora-adapters", &"[]".to_owned()),
        ("/v1/unload_lora_adapter", &unload),
        ("/load_lora_adapter", &load),
        ("/unload_lora_adapter", &unload),
    ];
    for (path, body) in changes {
        assert_eq!(server.post(path, body).await.status, 401, "{path}");
        let reply = server.post_with(path, "x-api-key: user\r\n", body.as_bytes()).await;
        assert_eq!(reply.status, 403, "{path}");
        assert!(reply.body.contains("`adapters`"), "{}", reply.body);
        let reply = server.post_with(path, "x-api-key: admin\r\n", body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }
    let list =
        "GET /lora-adapters HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx-api-key: user\r\n\r\n";
    assert_eq!(server.send(list).await.json(), json!([]));
}

#[tokio::test]
async fn names_of_models_are_taken() {
    let alias = ingle_server::Alias { name: "gpt-4".into(), model: None };
    let server = start_over(ServerConfig { aliases: vec![alias], ..config() }, Adapted::default()).await;
    let body = json!({ "lora_name": "gpt-4", "lora_path": "a" });
    let reply = server.post_json("/v1/load_lora_adapter", body).await;
    assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("lora_name")));
}

/// Each adapter is counted by its own name, those that several bring together each; what runs is the model, so an adapter is no
/// row of the models' numbers.
#[tokio::test]
async fn requests_are_counted_by_adapter() {
    let server = start_over(config(), Adapted::default()).await;
    load(&server, "sql").await;
    load(&server, "fr").await;
    let chat = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    let ask = async |more: Value| {
        let mut body = chat.clone();
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let reply = server.post_json("/v1/chat/completions", body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let usage = reply.json()["usage"].clone();
        [&usage["prompt_tokens"], &usage["completion_tokens"]].map(|n| n.as_u64().expect("a number"))
    };
    ask(json!({})).await;
    let [prompt, generated] = ask(json!({ "model": "sql" })).await;
    ask(json!({ "lora": [{ "id": 0, "scale": 0.5 }, { "id": 1, "scale": 1 }] })).await;
    let page = server.get("/metrics").await.body;
    for (adapter, n) in [("sql", 2), ("fr", 1)] {
        let label = format!("{{model_name=\"scripted\",adapter=\"{adapter}\"}}");
        for line in [
            format!("ingle_adapter_requests_total{label} {n}"),
            format!("ingle_adapter_prompt_tokens_total{label} {}", n * prompt),
            format!("ingle_adapter_generated_tokens_total{label} {}", n * generated),
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
    assert!(!page.contains("model_name=\"sql\""), "{page}");
    let ollama = json!({ "model": "sql", "prompt": "Hi", "stream": false });
    assert_eq!(server.post_json("/api/generate", ollama).await.status, 200);
    let page = server.get("/metrics").await.body;
    let line = "ingle_adapter_requests_total{model_name=\"scripted\",adapter=\"sql\"} 3";
    assert!(page.lines().any(|l| l == line), "{page}");
}

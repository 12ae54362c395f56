//! The registry's part: `/v2/...` as registry.ollama.ai and the OCI distribution specification have it, and `/token`.

use base64::prelude::{BASE64_STANDARD, Engine};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use serde_json::json;

use super::{State, digest};
use crate::http::{Reply, Request};

pub(super) const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What its realm gives to those who show the account, or sign with its key.
const TOKEN: &str = "token-of-the-realm";

fn refuse(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "errors": [{ "code": code, "message": message }] }))
}

pub(super) fn reply(state: &mut State, request: &Request) -> Reply {
    if request.path == "/token" {
        return token(state, request);
    }
    if let Some(challenge) = challenge(state, request) {
        return challenge;
    }
    let path = request.path.trim_start_matches("/v2").trim_matches('/');
    let parts: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
    match (request.method.as_str(), parts.as_slice()) {
        ("GET" | "HEAD", []) => Reply::json(200, &json!({})),
        ("GET" | "HEAD", [ns, model, "manifests", tag]) => manifest(state, &format!("{ns}/{model}"), tag),
        ("PUT", [ns, model, "manifests", tag]) => put_manifest(state, request, &format!("{ns}/{model}"), tag),
        ("HEAD", [_, _, "blobs", digest]) => match state.blobs.get(*digest) {
            None => refuse(404, "BLOB_UNKNOWN", "blob unknown"),
            Some(bytes) => Reply::new(200, "application/octet-stream", bytes.clone())
                .with("Docker-Content-Digest", *digest),
        },
        ("GET", [_, _, "blobs", digest]) if state.blobs.contains_key(*digest) => {
            Reply::redirect(307, format!("{}/blobs/{digest}?signature=of-the-hub", state.cdn_url))
        }
        ("POST", [ns, model, "blobs", "uploads"]) => begin(state, ns, model),
        ("PATCH", [_, _, "blobs", "uploads", id]) => part(state, request, id),
        ("PUT", [_, _, "blobs", "uploads", id]) => finish(state, request, id),
        (_, [_, _, "blobs", _]) => refuse(404, "BLOB_UNKNOWN", "blob unknown"),
        _ => refuse(404, "NAME_UNKNOWN", "repository name not known to registry"),
    }
}

/// How long a signed request is good for, in seconds.
const SIGNED_S: u64 = 300;
/// The base64 of the hexadecimal SHA-256 of nothing: what stands for a body that is empty.
const NO_BODY: &str =
    "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ==";

/// Gives a token to the account, for `Authorization: Basic`, or to who signs the request with its key.
fn token(state: &mut State, request: &Request) -> Reply {
    let is_account = match (&state.account, request.header("authorization")) {
        (None, _) if state.key.is_some() => is_signed(state, request),
        (None, _) => true,
        (Some((user, password)), Some(shown)) => {
            shown == format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}").as_bytes()))
        }
        (Some(_), None) => false,
    };
    match is_account {
        true => Reply::json(200, &json!({ "token": TOKEN, "expires_in": 300 })),
        false => refuse(401, "UNAUTHORIZED", "authentication required"),
    }
}

/// Whether a request for a token is signed with the account's key, by now, and for the first time.
fn is_signed(state: &mut State, request: &Request) -> bool {
    let Some((public, signature)) = request.header("authorization").and_then(|shown| shown.split_once(':'))
    else {
        return false;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let is_timely = request
        .param("ts")
        .and_then(|ts| ts.parse::<u64>().ok())
        .is_some_and(|ts| ts.abs_diff(now) <= SIGNED_S);
    let is_fresh =
        request.param("nonce").is_some_and(|nonce| nonce.len() >= 16 && state.nonces.insert(nonce));
    let signed = format!("GET,{}{}?{},{NO_BODY}", state.hub_url, request.path, request.query);
    let verify = || {
        // A length, `ssh-ed25519`, a length, and the key.
        let blob = BASE64_STANDARD.decode(public).ok()?;
        let key = VerifyingKey::from_bytes(blob.last_chunk::<32>()?).ok()?;
        let signature = Signature::from_slice(&BASE64_STANDARD.decode(signature).ok()?).ok()?;
        key.verify(signed.as_bytes(), &signature).ok()
    };
    state.key.as_deref() == Some(public) && is_timely && is_fresh && verify().is_some()
}

/// Sends those without a token to the realm.
fn challenge(state: &State, request: &Request) -> Option<Reply> {
    if state.account.is_none() && state.key.is_none() {
        return None;
    }
    if request.header("authorization") == Some(&format!("Bearer {TOKEN}")) {
        return None;
    }
    let name: Vec<&str> = request.path.trim_start_matches("/v2/").split('/').take(2).collect();
    let actions = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "pull,push" };
    let scope = format!("repository:{}:{actions}", name.join("/"));
    let realm = format!("Bearer realm=\"{}/token\",service=\"hub.test\",scope=\"{scope}\"", state.hub_url);
    Some(refuse(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", realm))
}

fn manifest(state: &State, model: &str, tag: &str) -> Reply {
    match state.manifests.get(&(model.to_owned(), tag.to_owned())) {
        None => refuse(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        Some(bytes) => Reply::new(200, MANIFEST, bytes.clone()).with("Docker-Content-Digest", digest(bytes)),
    }
}

fn put_manifest(state: &mut State, request: &Request, model: &str, tag: &str) -> Reply {
    let Ok(manifest) = serde_json::from_slice::<serde_json::Value>(&request.body) else {
        return refuse(400, "MANIFEST_INVALID", "manifest invalid");
    };
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    for layer in layers.iter().chain([&manifest["config"]]) {
        let (digest, size) = (layer["digest"].as_str().unwrap_or_default(), layer["size"].as_u64());
        match state.blobs.get(digest) {
            Some(bytes) if Some(bytes.len() as u64) == size => {}
            _ => return refuse(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"),
        }
    }
    let id = digest(&request.body);
    state.manifests.insert((model.to_owned(), tag.to_owned()), request.body.as_slice().into());
    Reply::status(201).with("Docker-Content-Digest", id)
}

fn begin(state: &mut State, ns: &str, model: &str) -> Reply {
    let id = format!("upload-{}", state.uploads.len() + 1);
    state.uploads.insert(id.clone(), Vec::new());
    Reply::status(202)
        .with("Location", format!("{}/v2/{ns}/{model}/blobs/uploads/{id}?step=0", state.hub_url))
}

/// A part of a blob. `Content-Range` says where it belongs; it must follow what is there.
fn part(state: &mut State, request: &Request, id: &str) -> Reply {
    let (url, path) = (state.hub_url.clone(), request.path.clone());
    let Some(upload) = state.uploads.get_mut(id) else {
        return refuse(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown");
    };
    let range = request.header("content-range").map(|value| value.trim_start_matches("bytes ").to_owned());
    let start = range.as_deref().and_then(|value| value.split('-').next()?.parse::<usize>().ok());
    // A location is good for one step: who does not take the new one has not read the answer.
    let step = format!("{}", upload.len());
    if request.param("step").is_some_and(|shown| shown != step)
        || start.is_some_and(|start| start != upload.len())
    {
        return refuse(416, "RANGE_INVALID", "parts come in order")
            .with("Range", format!("0-{}", upload.len().saturating_sub(1)));
    }
    upload.extend_from_slice(&request.body);
    Reply::status(202)
        .with("Location", format!("{url}{path}?step={}", upload.len()))
        .with("Range", format!("0-{}", upload.len().saturating_sub(1)))
}

fn finish(state: &mut State, request: &Request, id: &str) -> Reply {
    let Some(mut upload) = state.uploads.remove(id) else {
        return refuse(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown");
    };
    upload.extend_from_slice(&request.body);
    let named = request.param("digest").unwrap_or_default();
    if named != digest(&upload) {
        return refuse(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    state.blobs.insert(named.clone(), upload.into());
    Reply::status(201).with("Docker-Content-Digest", named)
}

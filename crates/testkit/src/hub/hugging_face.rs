//! Hugging Face's part: `/api/models/...`, `/api/whoami-v2`, and files at `/{repo}/resolve/{revision}/{path}`.

use serde_json::{Value, json};

use super::{File, Repo, State, Tree, ranged};
use crate::http::{Reply, Request, decode};

/// Refuses as the hub does: with a code that clients look for.
fn refuse(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "error": message }))
        .with("X-Error-Code", code)
        .with("X-Error-Message", message)
}

pub(super) fn reply(state: &mut State, request: &Request) -> Reply {
    let path = decode(&request.path);
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", "whoami-v2"] => whoami(state, request),
        ["api", "models", user, name] => model(state, request, &format!("{user}/{name}"), "main"),
        ["api", "models", user, name, "revision", revision @ ..] => {
            model(state, request, &format!("{user}/{name}"), &revision.join("/"))
        }
        ["api", "models", user, name, "tree", revision, folder @ ..] => {
            tree(state, request, &format!("{user}/{name}"), revision, &folder.join("/"))
        }
        [user, name, "resolve", revision, file @ ..] if !file.is_empty() => {
            resolve(state, request, &format!("{user}/{name}"), revision, &file.join("/"))
        }
        _ => refuse(404, "NotFound", "there is nothing here"),
    }
}

fn token(request: &Request) -> Option<&str> {
    request.header("authorization")?.strip_prefix("Bearer ")
}

fn whoami(state: &State, request: &Request) -> Reply {
    let known = state.repos.values().filter_map(|repo| repo.token.as_deref());
    match token(request) {
        Some(token) if known.into_iter().any(|known| known == token) => Reply::json(
            200,
            &json!({ "type": "user", "id": "1", "name": "tester", "auth": { "type": "access_token" } }),
        ),
        _ => Reply::json(401, &json!({ "error": "Invalid credentials in Authorization header" })),
    }
}

/// A repository that this request may read, and the state that it names.
fn find<'a>(
    state: &'a State,
    request: &Request,
    id: &str,
    revision: &str,
) -> Result<(&'a Repo, &'a str, &'a Tree), Reply> {
    // The real hub does not tell anonymous callers whether a repository is absent or private.
    let absent = || refuse(401, "RepoNotFound", "Repository not found");
    let repo = state.repos.get(id).filter(|repo| !repo.commits.is_empty()).ok_or_else(absent)?;
    if let Some(wanted) = &repo.token {
        let message = format!(
            "Access to model {id} is restricted. You must have access to it and be authenticated to access it."
        );
        match token(request) {
            None => return Err(refuse(401, "GatedRepo", &message)),
            Some(token) if token != wanted => return Err(refuse(403, "GatedRepo", &message)),
            Some(_) => {}
        }
    }
    let commit = match revision {
        "main" => repo.commits.last(),
        revision => repo.commits.iter().find(|(id, _)| id == revision),
    };
    let (commit, tree) = commit.ok_or_else(|| refuse(404, "RevisionNotFound", "Revision not found"))?;
    Ok((repo, commit, tree))
}

/// What git calls a file's content; here only something that tells contents apart.
fn oid(file: &File) -> &str {
    &file.sha256[..40]
}

fn model(state: &State, request: &Request, id: &str, revision: &str) -> Reply {
    let (repo, commit, tree) = match find(state, request, id, revision) {
        Ok(found) => found,
        Err(reply) => return reply,
    };
    let with_blobs =
        request.param("blobs").is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1"));
    let sibling = |(path, file): (&String, &File)| {
        let mut entry = json!({ "rfilename": path });
        if with_blobs {
            entry["size"] = file.bytes.len().into();
            entry["blobId"] = oid(file).into();
            if file.is_lfs {
                entry["lfs"] = json!({ "sha256": file.sha256, "size": file.bytes.len(), "pointerSize": 134 });
            }
        }
        entry
    };
    let siblings: Vec<Value> = tree.iter().map(sibling).collect();
    let mut info = json!({
        "_id": "1", "id": id, "modelId": id, "author": id.split('/').next(), "sha": commit, "private": false,
        "gated": if repo.token.is_some() { json!("auto") } else { json!(false) }, "disabled": false,
        "downloads": 1, "likes": 0, "tags": ["gguf"], "siblings": siblings,
        "createdAt": "2026-01-01T00:00:00.000Z", "lastModified": "2026-01-01T00:00:00.000Z",
    });
    if let Some(license) = &repo.license {
        info["cardData"] = json!({ "license": license });
        info["tags"] = json!(["gguf", format!("license:{license}")]);
    }
    Reply::json(200, &info)
}

fn tree(state: &State, request: &Request, id: &str, revision: &str, folder: &str) -> Reply {
    let (_, _, tree) = match find(state, request, id, revision) {
        Ok(found) => found,
        Err(reply) => return reply,
    };
    let is_recursive =
        request.param("recursive").is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1"));
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut entries: Vec<Value> = Vec::new();
    for (path, file) in tree.iter().filter(|(path, _)| path.starts_with(&prefix)) {
        let rest = &path[prefix.len()..];
        if let (false, Some((folder, _))) = (is_recursive, rest.split_once('/')) {
            let folder = json!({ "type": "directory", "oid": oid(file), "size": 0, "path": format!("{prefix}{folder}") });
            if entries.last() != Some(&folder) && !entries.iter().any(|entry| entry["path"] == folder["path"])
            {
                entries.push(folder);
            }
            continue;
        }
        let mut entry = json!({ "type": "file", "oid": oid(file), "size": file.bytes.len(), "path": path });
        if file.is_lfs {
            entry["lfs"] = json!({ "oid": file.sha256, "size": file.bytes.len(), "pointerSize": 134 });
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return refuse(404, "EntryNotFound", "Entry not found");
    }
    let from: usize = request.param("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
    let to = (from + state.page).min(entries.len());
    let page = Value::from(entries.get(from..to).unwrap_or_default().to_vec());
    let reply = Reply::json(200, &page);
    if to == entries.len() {
        return reply;
    }
    let query = format!("recursive={is_recursive}&cursor={to}");
    reply.with("Link", format!("<{}{}?{query}>; rel=\"next\"", state.hub_url, request.path))
}

fn resolve(state: &State, request: &Request, id: &str, revision: &str, path: &str) -> Reply {
    let (_, commit, tree) = match find(state, request, id, revision) {
        Ok(found) => found,
        Err(reply) => return reply,
    };
    let Some(file) = tree.get(path) else {
        return refuse(404, "EntryNotFound", "Entry not found").with("X-Repo-Commit", commit);
    };
    if !file.is_lfs {
        let etag = format!("\"{}\"", oid(file));
        return ranged(request, file.bytes.clone(), &etag).with("X-Repo-Commit", commit);
    }
    let location = format!("{}/lfs/{}?signature=of-the-hub", state.cdn_url, file.sha256);
    Reply::redirect(302, location)
        .with("X-Repo-Commit", commit)
        .with("X-Linked-Size", file.bytes.len().to_string())
        .with("X-Linked-Etag", format!("\"{}\"", file.sha256))
        .with("Accept-Ranges", "bytes")
}

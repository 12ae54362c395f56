//! Hugging Face's hub: what a repository has at a revision, and which of it is meant.
//!
//! Source: the hub's public API (`/api/models/{id}/revision/{rev}?blobs=true`, `/{id}/resolve/{commit}/{file}`) and its
//! error headers (`X-Error-Code`), as its own client library uses them.

use ingle_egress::{Client, Request, Response, Target};
use serde_json::Value;

use super::layers::{From, Item, Plan, Remote, Version};
use super::pick::{Picked, RepoFile, pick};
use super::url::probe;
use super::{Attempts, Network, PullError};
use crate::manifest::TEXT_BYTES_MAX;
use crate::{Digest, HubPick, HubRepo, MediaType, NameError, Reference, annotation};

/// The largest answer of the API: a repository with ten thousands of files.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// The most files of a repository.
const FILES_MAX: usize = 100_000;
/// Texts at a repository's root that become layers, with their types; the first of each type is taken.
const TEXTS: [(&str, MediaType); 10] = [
    ("template", MediaType::Template),
    ("system", MediaType::System),
    ("params", MediaType::Params),
    ("chat_template.jinja", MediaType::JinjaTemplate),
    ("LICENSE", MediaType::License),
    ("LICENSE.txt", MediaType::License),
    ("LICENSE.md", MediaType::License),
    ("LICENCE", MediaType::License),
    ("license", MediaType::License),
    ("COPYING", MediaType::License),
];

/// A repository at a commit.
pub(super) struct Repo {
    pub commit: String,
    pub files: Vec<RepoFile>,
    /// The licence's name on the card.
    license: Option<String>,
}

pub(super) async fn plan(
    client: &Client,
    network: &Network,
    repo: &HubRepo,
    revision: Option<&str>,
    asked: &HubPick,
    reference: &Reference,
) -> Result<Plan, PullError> {
    let hub = &network.hub;
    let found = repository(client, hub, repo, revision.unwrap_or("main")).await?;
    let Picked { model, projector } = pick(&repo.to_string(), &found.files, asked)?;
    let name = reference.name().ok_or_else(|| NameError::Reference(format!("{reference} gives no name")))?;
    let mut plan = Plan::new(name, reference);
    plan.annotations.insert(annotation::REVISION.to_owned(), found.commit.clone());
    let models = model.iter().map(|file| (MediaType::Model, *file));
    for (media_type, file) in models.chain(projector.map(|file| (MediaType::Projector, file))) {
        let remote = remote(client, hub, repo, &found.commit, file).await?;
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        plan.items.push(Item {
            media_type,
            file: Some(name.to_owned()),
            from: From::Remote(Box::new(remote)),
        });
    }
    texts(client, hub, repo, &found, &mut plan).await?;
    Ok(plan)
}

/// `{hub}/{user}/{repo}/resolve/{commit}/{path}`
fn file_target(hub: &Target, repo: &HubRepo, commit: &str, path: &str) -> Target {
    let mut segments = vec![repo.user(), repo.repo(), "resolve", commit];
    segments.extend(path.split('/'));
    hub.with_path(&segments)
}

pub(super) async fn remote(
    client: &Client,
    hub: &Target,
    repo: &HubRepo,
    commit: &str,
    file: &RepoFile,
) -> Result<Remote, PullError> {
    let target = file_target(hub, repo, commit, &file.path);
    let credential = client.credentials().for_target(hub).cloned();
    let label = file.path.rsplit('/').next().unwrap_or(&file.path).to_owned();
    match (file.digest, file.size) {
        (Some(digest), Some(size)) => Ok(Remote {
            label,
            target,
            credential,
            registry: None,
            digest: Some(digest),
            size,
            version: None,
        }),
        // Kept in git itself: the commit says which content it is, and its size has to be asked for.
        _ => {
            let (size, _) = probe(client, &target, credential.as_ref()).await?;
            Ok(Remote {
                label,
                target,
                credential,
                registry: None,
                digest: file.digest,
                size,
                version: Some(Version::Commit(commit.to_owned())),
            })
        }
    }
}

pub(super) async fn repository(
    client: &Client,
    hub: &Target,
    repo: &HubRepo,
    revision: &str,
) -> Result<Repo, PullError> {
    let path = ["api", "models", repo.user(), repo.repo(), "revision", revision];
    let target = hub.with_path(&path).with_query("blobs", "true");
    let credential = client.credentials().for_target(hub);
    let request = Request::get(target.clone()).authorize(credential);
    let what = match revision {
        "main" => format!("the repository {repo}"),
        revision => format!("the revision {revision} of the repository {repo}"),
    };
    let mut attempts = Attempts::default();
    let body = loop {
        let came = async {
            let response = client.send(&request).await?;
            let response = accepted(response, &what, hub, credential.is_some()).await?;
            Ok(response.bytes(ANSWER_BYTES_MAX).await?)
        };
        if let Some(body) = attempts.outcome(came.await).await {
            break body?;
        }
    };
    parse(&body).map_err(|problem| PullError::Answer { url: target.to_string(), problem })
}

/// An answer that is one, or what the hub says in its place.
async fn accepted(
    response: Response,
    what: &str,
    hub: &Target,
    is_known: bool,
) -> Result<Response, PullError> {
    let code = response.header("x-error-code").unwrap_or_default().to_owned();
    match response.status() {
        200..=299 => Ok(response),
        // The hub does not tell strangers whether a repository is private or absent.
        401 if code == "RepoNotFound" && !is_known => {
            Err(PullError::NotFound { what: what.to_owned(), is_anonymous: true })
        }
        401 | 403 => {
            let said = response.into_error().await;
            let said = match said {
                ingle_egress::EgressError::Status { message, status, .. } if message.is_empty() => {
                    format!("status {status}")
                }
                ingle_egress::EgressError::Status { message, .. } => message.trim_end_matches('.').to_owned(),
                other => other.to_string(),
            };
            Err(PullError::Unauthorized { what: what.to_owned(), origin: hub.origin().to_string(), said })
        }
        404 => Err(PullError::NotFound { what: what.to_owned(), is_anonymous: !is_known }),
        _ => Err(response.into_error().await.into()),
    }
}

fn parse(body: &[u8]) -> Result<Repo, String> {
    let json: Value = serde_json::from_slice(body).map_err(|_| "it is no JSON".to_owned())?;
    let commit = json["sha"].as_str().ok_or("`sha` is missing")?;
    let is_commit = (7..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_commit {
        return Err("`sha` is no commit".to_owned());
    }
    let siblings = json["siblings"].as_array().ok_or("`siblings` is missing")?;
    if siblings.len() > FILES_MAX {
        return Err(format!("it lists more than {FILES_MAX} files"));
    }
    let files = siblings.iter().map(file).collect::<Result<_, _>>()?;
    let license = json.pointer("/cardData/license").and_then(Value::as_str).map(str::to_owned);
    Ok(Repo { commit: commit.to_owned(), files, license })
}

fn file(json: &Value) -> Result<RepoFile, String> {
    let path = json["rfilename"].as_str().ok_or("a file has no name")?;
    // It becomes a part of an address; the hub has no such names.
    let is_other = |c: char| c.is_control() || c == '\\';
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) || path.chars().any(is_other) {
        return Err("a file's name is no path".to_owned());
    }
    let digest = match &json["lfs"]["sha256"] {
        Value::Null => None,
        digest => {
            let text = format!("sha256:{}", digest.as_str().unwrap_or_default());
            Some(text.parse::<Digest>().map_err(|_| "the SHA-256 of a file is none".to_owned())?)
        }
    };
    let size = json["lfs"]["size"].as_u64().or(json["size"].as_u64()).filter(|size| *size <= i64::MAX as u64);
    Ok(RepoFile { path: path.to_owned(), size, digest })
}

/// Templates, parameters and licences that stand beside the model. They are small, and fetched with the plan.
async fn texts(
    client: &Client,
    hub: &Target,
    repo: &HubRepo,
    found: &Repo,
    plan: &mut Plan,
) -> Result<(), PullError> {
    let has =
        |media_type: &MediaType, plan: &Plan| plan.items.iter().any(|item| item.media_type == *media_type);
    for (path, media_type) in TEXTS {
        let file = found.files.iter().find(|file| file.path == path);
        let Some(file) = file.filter(|file| file.size.is_none_or(|size| size <= TEXT_BYTES_MAX)) else {
            continue;
        };
        if has(&media_type, plan) {
            continue;
        }
        let target = file_target(hub, repo, &found.commit, &file.path);
        let request = Request::get(target).authorize(client.credentials().for_target(hub));
        let mut attempts = Attempts::default();
        let bytes = loop {
            let came = async {
                let response = client.send(&request).await?.success().await?;
                Ok(response.bytes(TEXT_BYTES_MAX).await?)
            };
            if let Some(bytes) = attempts.outcome(came.await).await {
                break bytes?;
            }
        };
        if let Some(expected) = file.digest.filter(|digest| *digest != Digest::of(&bytes)) {
            return Err(crate::StoreError::WrongContent { expected, found: Digest::of(&bytes) }.into());
        }
        plan.items.push(Item { media_type, file: Some(path.to_owned()), from: From::Bytes(bytes) });
    }
    if let (false, Some(license)) = (has(&MediaType::License, plan), &found.license) {
        let bytes = license.clone().into_bytes();
        plan.items.push(Item { media_type: MediaType::License, file: None, from: From::Bytes(bytes) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File names that a hub sends (V56): each is refused, or a path of plain names.
    #[test]
    fn hostile_file_names() {
        for text in ingle_testkit::hostile::texts(1000) {
            for name in [text.clone(), format!("{text}.gguf"), format!("a/{text}/b.gguf")] {
                let json = serde_json::json!({ "sha": "0123456789", "siblings": [{ "rfilename": name }] });
                let Ok(repo) = parse(json.to_string().as_bytes()) else { continue };
                let parts: Vec<&str> = repo.files[0].path.split('/').collect();
                let is_plain = |part: &&str| {
                    !matches!(*part, "" | "." | "..")
                        && !part.contains('\\')
                        && !part.chars().any(char::is_control)
                };
                assert!(parts.iter().all(is_plain), "{name:?}");
            }
            let json = serde_json::json!({ "sha": text, "siblings": [] });
            let is_commit = text.len() >= 7 && text.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_commit || parse(json.to_string().as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn answers() {
        let good = r#"{"sha":"0123456789abcdef","siblings":[{"rfilename":"a/x.gguf","size":5,
            "lfs":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5}},
            {"rfilename":"README.md","size":9}],"cardData":{"license":"mit"}}"#;
        let repo = parse(good.as_bytes()).unwrap();
        assert_eq!((repo.files.len(), repo.license.as_deref()), (2, Some("mit")));
        assert_eq!(
            (repo.files[0].size, repo.files[0].digest.is_some(), repo.files[1].digest),
            (Some(5), true, None)
        );
        for (bad, part) in [
            ("", "no JSON"),
            ("[]", "sha"),
            (r#"{"sha":"../../x","siblings":[]}"#, "no commit"),
            (r#"{"sha":"0123456789"}"#, "siblings"),
            (r#"{"sha":"0123456789","siblings":[{}]}"#, "no name"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"../x.gguf"}]}"#, "no path"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"a//x.gguf"}]}"#, "no path"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"/x.gguf"}]}"#, "no path"),
            ("{\"sha\":\"0123456789\",\"siblings\":[{\"rfilename\":\"a\\u0000\"}]}", "no path"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"x","lfs":{"sha256":"abc"}}]}"#, "SHA-256"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"x","lfs":{"sha256":5}}]}"#, "SHA-256"),
        ] {
            let problem = parse(bad.as_bytes()).err().unwrap_or_else(|| panic!("{bad} is taken"));
            assert!(problem.contains(part), "{bad}: {problem}");
        }
    }
}

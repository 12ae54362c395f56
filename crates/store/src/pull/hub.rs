//! Hugging Face's hub: what a repository has at a revision, and which of it is meant.
//!
//! Source: the hub's public API (`/api/models/{id}/revision/{rev}?blobs=true`, `/{id}/resolve/{commit}/{file}`) and its
//! error headers (`X-Error-Code`), as its own client library uses them.

use ingle_chat::template::{ChatTemplate, Syntax, TemplateOptions};
use ingle_egress::{Client, Request, Response, Target};
use serde_json::{Map, Value};

use super::layers::{From, Item, Plan, Remote, Version};
use super::pick::{Picked, RepoFile, pick};
use super::url::probe;
use super::{Attempts, Network, PullError, listing};
use crate::manifest::TEXT_BYTES_MAX;
use crate::modelfile::{PARAMETERS, check_parameter};
use crate::{Digest, HubPick, HubRepo, MediaType, NameError, Reference, annotation};

/// The largest answer of the API: a repository with ten thousands of files.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// How much is told of why a text is left out, in characters.
const WHY_CHARS_MAX: usize = 300;
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
    pub license: Option<String>,
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
    listing::parse(&body).map_err(|problem| PullError::Answer { url: target.to_string(), problem })
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
        // Whoever loads the model reads it: one that cannot be used would make the model one that cannot.
        if let Err(why) = check_text(&media_type, &bytes) {
            let why: String = why.chars().filter(|c| !c.is_control()).take(WHY_CHARS_MAX).collect();
            plan.notes.push(format!("{path} of {repo} is left out: {why}"));
            continue;
        }
        plan.items.push(Item { media_type, file: Some(path.to_owned()), from: From::Bytes(bytes) });
    }
    if let (false, Some(license)) = (has(&MediaType::License, plan), &found.license) {
        let bytes = license.clone().into_bytes();
        plan.items.push(Item { media_type: MediaType::License, file: None, from: From::Bytes(bytes) });
    }
    Ok(())
}

/// Whether a text is what its file's name says, as far as whoever loads the model wants it.
fn check_text(media_type: &MediaType, bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let syntax = match media_type {
        MediaType::Params => return check_params(text),
        MediaType::Template => Syntax::of(text),
        MediaType::JinjaTemplate => Syntax::Jinja,
        _ => return Ok(()),
    };
    let parsed = ChatTemplate::with_syntax(text, syntax, TemplateOptions::default());
    parsed.map(drop).map_err(|error| format!("it is no template that can be used: {error}"))
}

/// Parameters of other programs are skipped by whoever loads the model, and so are values without effect.
fn check_params(text: &str) -> Result<(), String> {
    let params: Map<String, Value> =
        serde_json::from_str(text).map_err(|_| "it is no JSON object".to_owned())?;
    for (name, value) in &params {
        if PARAMETERS.iter().any(|known| known.name == name && known.is_honoured) {
            check_parameter(name, value).map_err(|problem| problem.to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_can_be_used() {
        let check = |media_type: MediaType, text: &[u8], problem: &str| {
            let found = check_text(&media_type, text).err().unwrap_or_default();
            assert!(found.contains(problem) && found.is_empty() == problem.is_empty(), "{problem}: {found}");
        };
        check(MediaType::System, "Kurz, bitte. ½".as_bytes(), "");
        check(MediaType::System, b"\xff\xfe", "UTF-8");
        check(MediaType::License, b"\xa9", "UTF-8");
        check(MediaType::Params, br#"{"stop":["</s>"],"temperature":0.5,"num_ctx":4096}"#, "");
        check(MediaType::Params, br#"{"stop":"</s>","of_tomorrow":{},"f16_kv":false}"#, "");
        check(MediaType::Params, b"temperature: 0.5", "no JSON object");
        check(MediaType::Params, b"[1]", "no JSON object");
        check(MediaType::Params, br#"{"temperature":-1}"#, "`temperature` must be");
        check(MediaType::Params, br#"{"stop":[1]}"#, "`stop` must be");
        check(MediaType::Template, b"{{ .Prompt }}", "");
        check(MediaType::Template, b"{{ .Prompt", "no template");
        check(MediaType::Template, b"{{ end }}", "no template");
        check(MediaType::Template, b"{% for m in messages %}{{ m.content }}{% endfor %}", "");
        check(MediaType::JinjaTemplate, b"{% for m in messages %}", "no template");
    }
}

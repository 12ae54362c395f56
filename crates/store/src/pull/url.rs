//! A file on a web server, and how to find out what it is.

use ingle_egress::{Client, Credential, Request, Target};

use super::PullError;
use super::layers::{From, Item, Plan, Remote};
use crate::{MediaType, NameError, Reference};

pub(super) async fn plan(client: &Client, url: &str, reference: &Reference) -> Result<Plan, PullError> {
    let target = Target::parse(url)?;
    let name = reference.name().ok_or_else(|| NameError::Reference(format!("{target} gives no name")))?;
    let credential = client.credentials().for_target(&target).cloned();
    let (size, version) = probe(client, &target, credential.as_ref()).await?;
    let label = target.file_name().unwrap_or_else(|| target.authority());
    let mut plan = Plan::new(name, reference);
    // What stands behind `?` may be a signature: it is not kept.
    plan.annotations.insert(crate::annotation::SOURCE.to_owned(), target.to_string());
    let remote =
        Remote { label: label.clone(), target, credential, registry: None, digest: None, size, version };
    plan.items.push(Item {
        media_type: MediaType::Model,
        file: Some(label),
        from: From::Remote(Box::new(remote)),
    });
    Ok(plan)
}

/// The size of a file, and what the server calls this version of it. One byte is asked for: answers to HEAD are often
/// wrong, and signed addresses are good for GET alone.
pub(super) async fn probe(
    client: &Client,
    target: &Target,
    credential: Option<&Credential>,
) -> Result<(u64, Option<String>), PullError> {
    let request = Request::get(target.clone()).authorize(credential).range(0, 1);
    let response = client.send(&request).await?;
    let problem = |problem: &str| PullError::Answer { url: target.to_string(), problem: problem.to_owned() };
    // A weak one may be the same for other bytes.
    let version = response.header("etag").filter(|etag| !etag.starts_with("W/")).map(str::to_owned);
    match response.status() {
        206 => match response.content_range() {
            Some((0, 1, Some(size))) => Ok((size, version)),
            _ => Err(problem("it does not say how large the file is")),
        },
        200 => match response.content_length() {
            Some(size) => Ok((size, version)),
            None => Err(problem("it does not say how large the file is")),
        },
        416 => Err(problem("the file is empty")),
        401 | 403 => {
            let origin = target.origin().to_string();
            let said = format!("status {}", response.status());
            Err(PullError::Unauthorized { what: target.to_string(), origin, said })
        }
        404 | 410 => {
            Err(PullError::NotFound { what: target.to_string(), is_anonymous: credential.is_none() })
        }
        _ => Err(response.into_error().await.into()),
    }
}

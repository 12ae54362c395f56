//! A file on a web server, and how to find out what it is.

use ingle_egress::{Client, Credential, Request, Target};

use super::PullError;
use super::layers::{From, Item, Plan, Remote, Version};
use crate::manifest::ANNOTATION_BYTES_MAX;
use crate::{MediaType, NameError, Reference};

pub(super) async fn plan(client: &Client, url: &str, reference: &Reference) -> Result<Plan, PullError> {
    let target = Target::parse(url)?;
    // What stands behind `?` may be a signature: it is not kept.
    let source = target.to_string();
    if source.len() > ANNOTATION_BYTES_MAX {
        let n = source.len();
        let why =
            format!("with percent signs it has {n} bytes; {ANNOTATION_BYTES_MAX} are the most of an address");
        return Err(NameError::Reference(why).into());
    }
    let name = reference.name().ok_or_else(|| NameError::Reference(format!("{target} gives no name")))?;
    let credential = client.credentials().for_target(&target).cloned();
    let (size, version) = probe(client, &target, credential.as_ref()).await?;
    let label = target.file_name().unwrap_or_else(|| target.authority());
    check_magic(client, &target, credential.as_ref(), &label).await?;
    let mut plan = Plan::new(name, reference);
    plan.annotations.insert(crate::annotation::SOURCE.to_owned(), source);
    let remote =
        Remote { label: label.clone(), target, credential, registry: None, digest: None, size, version };
    plan.items.push(Item {
        media_type: MediaType::Model,
        file: Some(label),
        from: From::Remote(Box::new(remote)),
    });
    Ok(plan)
}

/// The size of a file, and what tells this version of it from others. One byte is asked for: answers to HEAD are often
/// wrong, and signed addresses are good for GET alone.
pub(super) async fn probe(
    client: &Client,
    target: &Target,
    credential: Option<&Credential>,
) -> Result<(u64, Option<Version>), PullError> {
    let request = Request::get(target.clone()).authorize(credential).range(0, 1);
    let response = client.send(&request).await?;
    let problem = |problem: &str| PullError::Answer { url: target.to_string(), problem: problem.to_owned() };
    let version = Version::of(&response);
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

/// Refuses a file that does not begin as GGUF does, such as a page that says something, before all of it is fetched. Where
/// the server gives no part of it, that is found out at the end.
async fn check_magic(
    client: &Client,
    target: &Target,
    credential: Option<&Credential>,
    file: &str,
) -> Result<(), PullError> {
    const MAGIC: &[u8] = b"GGUF";
    let n = MAGIC.len() as u64;
    let request = Request::get(target.clone()).authorize(credential).range(0, n);
    let response = client.send(&request).await?;
    if response.status() != 206 || !matches!(response.content_range(), Some((0, end, _)) if end == n) {
        return Ok(());
    }
    if response.bytes(n).await? == MAGIC {
        return Ok(());
    }
    let problem =
        "it does not begin as a GGUF file does; give the address of the file itself, not of a page about it";
    Err(PullError::NotAModel { file: file.to_owned(), problem: problem.into() })
}

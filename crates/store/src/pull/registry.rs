//! Registries that speak Ollama's protocol: OCI's distribution specification with Ollama's media types.
//!
//! A registry that wants a token names the realm that gives it (`WWW-Authenticate: Bearer realm=...`). Whoever runs a
//! registry can name any realm, so a credential goes there only if it was saved for the realm's own origin.

use std::sync::Arc;

use ingle_egress::{Client, Credential, EgressError, Request, Response, Secret, Target};
use serde_json::Value;

use super::layers::{From, Item, Plan, Remote};
use super::{Network, PullError};
use crate::{Manifest, MediaType, ModelName, Reference};

/// The largest manifest.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The largest answer of a realm.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// What manifests are asked for as.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry, with what it takes to be let in.
#[derive(Clone)]
pub(crate) struct Registry {
    client: Client,
    base: Target,
    token: Option<Credential>,
}

impl Registry {
    /// The registry of a name.
    ///
    /// # Errors
    /// If its host is none.
    pub fn of(
        client: &Client,
        name: &ModelName,
        mirror: Option<&Target>,
        insecure: bool,
    ) -> Result<Self, PullError> {
        let base = match mirror.filter(|_| name.is_default_host()) {
            Some(mirror) => mirror.clone(),
            None => {
                let host = name.host();
                // What stays on this machine needs no encryption, as other clients of registries see it.
                let plain = Target::parse(&format!("http://{host}"))?;
                let is_here =
                    plain.host() == "localhost" || plain.address().is_some_and(|ip| ip.is_loopback());
                Target::parse(&format!("{}://{host}", if insecure || is_here { "http" } else { "https" }))?
            }
        };
        Ok(Self { client: client.clone(), base, token: None })
    }

    /// `{base}/v2/{namespace}/{model}/...`
    pub fn target(&self, name: &ModelName, rest: &[&str]) -> Target {
        let mut segments = vec!["v2", name.namespace(), name.model()];
        segments.extend(rest);
        self.base.with_path(&segments)
    }

    /// Sends a request, and again with a new token if the registry asks for one. Other origins, where an upload may go
    /// on, see no token.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn send(&mut self, request: Request) -> Result<Response, EgressError> {
        let is_own = request.target().origin() == self.base.origin();
        let token = self.token.clone().filter(|_| is_own);
        let response = self.client.send(&request.clone().authorize(token.as_ref())).await?;
        if response.status() != 401 || !is_own {
            return Ok(response);
        }
        let challenge = response.header("www-authenticate").unwrap_or_default().to_owned();
        self.token = self.answer(&challenge).await?;
        if self.token.is_none() {
            return Ok(response);
        }
        self.client.send(&request.authorize(self.token.as_ref())).await
    }

    /// What answers a challenge, if there is anything.
    async fn answer(&self, challenge: &str) -> Result<Option<Credential>, EgressError> {
        let own = self.client.credentials().for_target(&self.base).cloned();
        let Some(params) = strip_scheme(challenge, "bearer") else { return Ok(own) };
        let param = |name: &str| parameter(params, name);
        let Some(realm) = param("realm") else { return Ok(own) };
        let mut realm = Target::parse(&realm)?;
        if self.base.is_secure() && !realm.is_secure() {
            let problem = format!("it wants tokens to be fetched from {realm}, unencrypted");
            return Err(EgressError::Redirect { from: self.base.to_string(), problem });
        }
        for name in ["service", "scope"] {
            if let Some(value) = param(name) {
                realm = realm.with_query(name, &value);
            }
        }
        // Ours for the realm, never ours for the registry.
        let credential = self.client.credentials().for_target(&realm);
        let response = self.client.send(&Request::get(realm.clone()).authorize(credential)).await?;
        if response.status() != 200 {
            return Ok(own);
        }
        let body = response.bytes(TOKEN_BYTES_MAX).await?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = ["token", "access_token"].iter().find_map(|key| json[*key].as_str());
        let is_fit = |token: &&str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        // Without one the registry's refusal stands.
        Ok(token.filter(is_fit).map(|token| Credential::bearer(self.base.origin(), Secret::new(token))))
    }

    /// An answer that is one, or why there is none.
    ///
    /// # Errors
    /// As the status says.
    pub async fn accepted(&self, response: Response, what: &str) -> Result<Response, PullError> {
        match response.status() {
            200..=299 => Ok(response),
            401 | 403 => {
                let origin = self.base.origin().to_string();
                let said = match response.into_error().await {
                    EgressError::Status { message, .. } if !message.is_empty() => message,
                    EgressError::Status { status, .. } => format!("status {status}"),
                    other => other.to_string(),
                };
                Err(PullError::Unauthorized { what: what.to_owned(), origin, said })
            }
            404 => Err(PullError::NotFound { what: what.to_owned(), is_anonymous: self.token.is_none() }),
            _ => Err(response.into_error().await.into()),
        }
    }
}

/// What follows a scheme of authentication.
fn strip_scheme<'a>(challenge: &'a str, scheme: &str) -> Option<&'a str> {
    let (head, rest) = challenge.trim().split_once(' ')?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// The value of `name="value"` or `name=value` in a list (RFC 9110, 11.2).
fn parameter(params: &str, name: &str) -> Option<String> {
    let mut rest = params;
    loop {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_start_matches([',', ' ', '\t']).trim_end();
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = after;
    }
}

pub(super) async fn plan(
    client: &Client,
    network: &Network,
    name: &ModelName,
    insecure: bool,
) -> Result<Plan, PullError> {
    let mut registry = Registry::of(client, name, network.registry_mirror.as_ref(), insecure)?;
    let target = registry.target(name, &["manifests", name.tag()]);
    let request =
        Request::get(target.clone()).header("accept", format!("{MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"));
    let response = registry.send(request).await?;
    let response = registry.accepted(response, &format!("the model {name}")).await?;
    let body = response.bytes(MANIFEST_BYTES_MAX).await?;
    let manifest = Manifest::parse(&body)
        .map_err(|error| PullError::Answer { url: target.to_string(), problem: error.to_string() })?;
    if manifest.of_type(&MediaType::Model).next().is_none() {
        let problem = "it is no model's: no layer has weights".to_owned();
        return Err(PullError::Answer { url: target.to_string(), problem });
    }
    let mut plan = Plan::new(name.clone(), &Reference::Registry(name.clone()));
    let shared = Arc::new(tokio::sync::Mutex::new(registry.clone()));
    let item = |layer: &crate::Layer| {
        let target = registry.target(name, &["blobs", &layer.digest.to_string()]);
        let remote = Remote {
            label: layer.digest.short(),
            target,
            credential: None,
            registry: Some(shared.clone()),
            digest: Some(layer.digest),
            size: layer.size,
            version: None,
        };
        let file = layer.annotations.get(crate::annotation::FILE).cloned();
        Item { media_type: layer.media_type.clone(), file, from: From::Remote(Box::new(remote)) }
    };
    plan.config = Some(item(&manifest.config));
    plan.items = manifest.layers.iter().map(item).collect();
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let check = |challenge: &str, expected: Option<[Option<&str>; 3]>| {
            let found = strip_scheme(challenge, "bearer")
                .map(|params| ["realm", "service", "scope"].map(|name| parameter(params, name)));
            let found = found.as_ref().map(|found| found.each_ref().map(Option::as_deref));
            assert_eq!(found, expected, "{challenge}");
        };
        let all = Some([Some("https://a/token"), Some("reg"), Some("repository:a/b:pull,push")]);
        check(r#"Bearer realm="https://a/token",service="reg",scope="repository:a/b:pull,push""#, all);
        check(r#"bearer  realm = "https://a/token" , service=reg, scope="repository:a/b:pull,push""#, all);
        check(
            r#"Bearer scope="realm=x",realm="https://a/token""#,
            Some([Some("https://a/token"), None, Some("realm=x")]),
        );
        check(r#"Bearer realm="unclosed"#, Some([None, None, None]));
        check("Bearer x", Some([None, None, None]));
        check("Basic realm=\"x\"", None);
        check("", None);
    }
}

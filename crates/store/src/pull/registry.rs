//! Registries that speak Ollama's protocol: OCI's distribution specification with Ollama's media types.
//!
//! A registry that wants a token names the realm that gives it (`WWW-Authenticate: Bearer realm=...`). Whoever runs a
//! registry can name any realm, and gets what the realm answers. So a realm sees a credential only if it is of the
//! registry's own origin, or the one that the user named with the credential; others are asked without one.
//!
//! Ollama's registry knows accounts by keys: the request for a token is signed, with the time and a number that is used
//! once in its query ([`ingle_egress::RequestKey`]).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ingle_egress::{Client, Credential, EgressError, Request, RequestKey, Response, Secret, Target};
use serde_json::Value;

use super::layers::{From, Item, Plan, Remote};
use super::{Attempts, Network, PullError};
use crate::{Manifest, MediaType, ModelName, Reference};

/// The largest manifest.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The largest answer of a realm.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// What manifests are asked for as.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry, with what it takes to be let in. Many may send at a time.
pub(crate) struct Registry {
    client: Client,
    base: Target,
    access: Mutex<Access>,
    /// Held while a challenge is answered, so that of many who meet it one asks the realm. Nothing else waits for it.
    answering: tokio::sync::Mutex<()>,
}

/// What the realm gave.
#[derive(Clone, Default)]
struct Access {
    token: Option<Credential>,
    /// Why the realm gave no token to whoever asked with a credential.
    refusal: Option<Refusal>,
    /// How many challenges were answered.
    n_answers: u64,
}

/// Why a credential was of no use.
#[derive(Clone)]
enum Refusal {
    /// The account does not know this key.
    Key { file: PathBuf, public: String, status: u16 },
    /// What its owner should know besides.
    Other(String),
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
                let scheme = if insecure || plain.is_this_machine() { "http" } else { "https" };
                Target::parse(&format!("{scheme}://{host}"))?
            }
        };
        let (access, answering) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { client: client.clone(), base, access, answering })
    }

    fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub async fn send(&self, request: Request) -> Result<Response, EgressError> {
        if request.target().origin() != self.base.origin() {
            return self.client.send(&request).await;
        }
        let access = self.access().clone();
        let response = self.client.send(&request.clone().authorize(access.token.as_ref())).await?;
        if response.status() != 401 {
            return Ok(response);
        }
        let challenge = response.header("www-authenticate").unwrap_or_default().to_owned();
        match self.renewed(&challenge, access.n_answers).await? {
            None => Ok(response),
            token => self.client.send(&request.authorize(token.as_ref())).await,
        }
    }

    /// The token that a challenge leads to, which came when so many had been answered. Where another request has met
    /// one meanwhile, its token serves this one too.
    async fn renewed(&self, challenge: &str, n_answers: u64) -> Result<Option<Credential>, EgressError> {
        let _answering = self.answering.lock().await;
        let access = self.access().clone();
        if access.n_answers != n_answers {
            return Ok(access.token);
        }
        let (token, refusal) = self.answer(challenge).await?;
        let token = token.filter(|token| token.key_file().is_none());
        *self.access() = Access { token: token.clone(), refusal, n_answers: n_answers + 1 };
        Ok(token)
    }

    /// What answers a challenge, if there is anything, and why the realm gave no token.
    async fn answer(&self, challenge: &str) -> Result<(Option<Credential>, Option<Refusal>), EgressError> {
        let own = self.client.credentials().for_target(&self.base).cloned();
        let Some(params) = strip_scheme(challenge, "bearer") else { return Ok((own, None)) };
        let param = |name: &str| parameter(params, name);
        let Some(realm) = param("realm") else { return Ok((own, None)) };
        let mut realm = Target::parse(&realm)?;
        if self.base.is_secure() && !realm.is_secure() {
            let problem = format!("it wants tokens to be fetched from {realm}, unencrypted");
            return Err(EgressError::Redirect { from: self.base.to_string(), problem });
        }
        let shown = own.as_ref().and_then(|own| own.at_realm(&realm.origin()));
        if shown.as_ref().is_some_and(|shown| shown.key_file().is_some()) {
            realm = realm.with_query("nonce", &nonce()?);
        }
        for scope in param("scope").iter().flat_map(|scope| scope.split(' ')) {
            realm = realm.with_query("scope", scope);
        }
        if let Some(service) = param("service") {
            realm = realm.with_query("service", &service);
        }
        if shown.as_ref().is_some_and(|shown| shown.key_file().is_some()) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            realm = realm.with_query("ts", &now.as_secs().to_string());
        }
        let response = self.client.send(&Request::get(realm.clone()).authorize(shown.as_ref())).await?;
        if response.status() != 200 {
            let refusal = match (&own, &shown) {
                (_, Some(shown)) => refusal(shown, response.status()),
                (Some(_), None) => Some(Refusal::Other(format!(
                    "it sends to {} for tokens, which your credential is not shown: if that is meant, save it with \
                     `ingle login {} --realm {}`",
                    realm.origin(),
                    self.base.origin(),
                    realm.origin()
                ))),
                (None, None) => None,
            };
            return Ok((own, refusal));
        }
        let body = response.bytes(TOKEN_BYTES_MAX).await?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = ["token", "access_token"].iter().find_map(|key| json[*key].as_str());
        let is_fit = |token: &&str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        // Without one the registry's refusal stands.
        let token = token.filter(is_fit);
        Ok((token.map(|token| Credential::bearer(self.base.origin(), Secret::new(token))), None))
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
                let what = what.to_owned();
                Err(match self.access().refusal.clone() {
                    Some(Refusal::Key { file: key, public, status }) => {
                        PullError::KeyRefused { what, said, status, key, public }
                    }
                    Some(Refusal::Other(more)) => {
                        PullError::Unauthorized { what, origin, said: format!("{said}; {more}") }
                    }
                    None => PullError::Unauthorized { what, origin, said },
                })
            }
            404 => Err(PullError::NotFound {
                what: what.to_owned(),
                is_anonymous: self.access().token.is_none(),
            }),
            _ => Err(response.into_error().await.into()),
        }
    }
}

/// What a user whose credential was not taken should know.
fn refusal(shown: &Credential, status: u16) -> Option<Refusal> {
    let file = shown.key_file()?.to_owned();
    let public = RequestKey::read(&file).ok()?.public_line();
    Some(Refusal::Key { file, public, status })
}

/// Sixteen random bytes, as they stand in a query.
fn nonce() -> Result<String, EgressError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| EgressError::Setting {
        name: "key",
        problem: format!("the system gives no random bytes: {error}"),
    })?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
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
    let registry = Arc::new(Registry::of(client, name, network.registry_mirror.as_ref(), insecure)?);
    let target = registry.target(name, &["manifests", name.tag()]);
    let request =
        Request::get(target.clone()).header("accept", format!("{MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"));
    let mut attempts = Attempts::default();
    let body = loop {
        let came = async {
            let response = registry.send(request.clone()).await?;
            let response = registry.accepted(response, &format!("the model {name}")).await?;
            Ok(response.bytes(MANIFEST_BYTES_MAX).await?)
        };
        if let Some(body) = attempts.outcome(came.await).await {
            break body?;
        }
    };
    let manifest = Manifest::parse(&body)
        .map_err(|error| PullError::Answer { url: target.to_string(), problem: error.to_string() })?;
    if manifest.of_type(&MediaType::Model).next().is_none() {
        let problem = "it is no model's: no layer has weights".to_owned();
        return Err(PullError::Answer { url: target.to_string(), problem });
    }
    let mut plan = Plan::new(name.clone(), &Reference::Registry(name.clone()));
    let item = |layer: &crate::Layer| {
        let target = registry.target(name, &["blobs", &layer.digest.to_string()]);
        let remote = Remote {
            label: layer.digest.short(),
            target,
            credential: None,
            registry: Some(registry.clone()),
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

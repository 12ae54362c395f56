//! A router that remembers its routes, so that a test can compare them with their description.

use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;

use crate::App;

/// Routes on their way to a router.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Arc<App>>,
    /// Those that must be described.
    paths: Vec<&'static str>,
}

impl Routes {
    /// One more. It has to be described in `ingle_api::openapi`.
    pub fn route(mut self, path: &'static str, methods: MethodRouter<Arc<App>>) -> Self {
        self.paths.push(path);
        Self { router: self.router.route(path, methods), ..self }
    }

    /// One that is always refused, with what to do instead: nobody wants to read of it in a description.
    pub fn refused(self, path: &str, methods: MethodRouter<Arc<App>>) -> Self {
        Self { router: self.router.route(path, methods), ..self }
    }

    /// All of another table.
    pub fn merge(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        Self { router: self.router.merge(other.router), ..self }
    }

    pub fn into_router(self) -> Router<Arc<App>> {
        self.router
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use axum::http::{Request, header};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::super::routes;
    use super::Routes;
    use crate::slot::ProviderSlot;
    use crate::{Server, ServerConfig};

    /// Methods and paths as the description writes them.
    async fn served() -> BTreeSet<(String, String)> {
        let Routes { router, paths } = routes();
        let config = ServerConfig { listen: vec![([127, 0, 0, 1], 0).into()], ..ServerConfig::default() };
        let server = Server::bind(config, ProviderSlot::loading()).await.expect("a free port");
        let service = TowerToHyperService::new(router.with_state(server.app));
        let mut served = BTreeSet::new();
        for path in paths {
            // No route takes this method; the refusal says what it does take.
            let ask = Request::builder().method("PROPFIND").uri(path.replace(['{', '}', '*'], ""));
            let reply = service.call(ask.body(Body::empty()).expect("a request")).await.expect("infallible");
            let allow = reply.headers().get(header::ALLOW).and_then(|v| v.to_str().ok()).unwrap_or_default();
            for method in allow.split(',').filter(|method| *method != "HEAD") {
                served.insert((method.to_owned(), path.replace("{*", "{")));
            }
        }
        served
    }

    #[tokio::test]
    async fn every_route_is_described() {
        let served = served().await;
        let described: BTreeSet<(String, String)> = ingle_api::openapi::operations()
            .iter()
            .map(|(m, p)| ((*m).to_owned(), (*p).to_owned()))
            .collect();
        let missing: Vec<_> = served.difference(&described).collect();
        assert!(missing.is_empty(), "describe {missing:?} in crates/api/src/openapi/routes.rs");
        let gone: Vec<_> = described.difference(&served).collect();
        assert!(gone.is_empty(), "{gone:?} are described in crates/api/src/openapi/routes.rs and not served");
    }
}

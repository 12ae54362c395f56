//! Serves a scripted provider, and stores responses and files as long as it runs: for trying clients without
//! a model. Usage: `scripted ADDRESS [API_KEY]`.

#[path = "../tests/server/scripted.rs"]
mod scripted;

use std::sync::Arc;

use ingle_ledger::{FileLimits, Files, Responses, Retention};
use ingle_server::{ServerConfig, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().ok_or("usage: scripted ADDRESS [API_KEY]")?.parse()?;
    let folder = tempfile::tempdir()?;
    let responses = Responses::open(&folder.path().join("responses.sqlite"), Retention::default()).await?;
    let files = Files::open(&folder.path().join("files.sqlite"), FileLimits::default()).await?;
    let config = ServerConfig {
        listen: vec![addr],
        api_keys: args.collect(),
        responses: Some(Arc::new(responses)),
        files: Some(Arc::new(files)),
        ..ServerConfig::default()
    };
    let bound = |addrs: &[_]| println!("listening on {addrs:?}");
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let provider = scripted::Scripted::default();
    // Nobody here would open it later.
    provider.open();
    serve(config, Arc::new(provider), bound, interrupted).await?;
    Ok(())
}

//! Before a model is fetched: whether it can run here, and whether it is wanted if it cannot.

use anyhow::Result;
use ingle_runtime::outlook::{Outlook, Problem, named};
use ingle_store::Reference;
use ingle_store::pull::{PullOptions, Puller};
use serde_json::{Value, json};

use super::{ask, can_ask, runtime};
use crate::models::Models;
use crate::outcome::tell;
use crate::settings::Settings;

/// Most other quantizations that are named.
const INSTEAD_MAX: usize = 8;

/// Says what is to be expected of a model that is not here. Whether it shall be fetched: if it cannot run, a terminal is
/// asked, unless `--yes` has answered; without one the warning is all. What the hub refuses, the pull itself will tell.
pub(super) fn is_wanted(
    models: &Models,
    settings: &Settings,
    puller: &Puller,
    reference: &Reference,
    options: PullOptions,
) -> Result<bool> {
    let is_here = matches!(models.store.open_model(reference), Ok(Some(_)));
    if is_here && !options.update {
        return Ok(true);
    }
    let Ok(memory) = crate::serve::memory_budget(settings) else { return Ok(true) };
    let runtime = runtime();
    let outlook = runtime.block_on(Outlook::of(puller, reference, options, memory));
    runtime.shutdown_background();
    let Ok(outlook) = outlook else { return Ok(true) };
    if settings.json {
        tell(report(reference, &outlook))?;
    }
    if outlook.problem.is_none() {
        return Ok(true);
    }
    say!("warning: {reference}: {outlook}");
    for choice in outlook.instead.iter().take(INSTEAD_MAX) {
        if let (Some(name), Some(n)) = (named(reference, choice), choice.n_bytes) {
            say!("         {name} ({})", crate::commands::bytes(n));
        }
    }
    if settings.yes || !can_ask(settings) {
        return Ok(true);
    }
    ask(&format!("Fetch its {} all the same?", crate::commands::bytes(outlook.download)))
}

fn report(reference: &Reference, outlook: &Outlook) -> Value {
    let instead: Vec<Value> = outlook
        .instead
        .iter()
        .take(INSTEAD_MAX)
        .filter_map(|choice| {
            Some(json!({ "name": named(reference, choice)?.to_string(), "bytes": choice.n_bytes }))
        })
        .collect();
    let (fits_with, unsupported) = match &outlook.problem {
        Some(Problem::Shorter { n_ctx }) => (Some(*n_ctx), None),
        Some(Problem::Unsupported(why)) => (None, Some(why)),
        _ => (None, None),
    };
    json!({
        "status": "outlook", "name": reference.to_string(), "fits": outlook.problem.is_none(),
        "download_bytes": outlook.download, "needs_bytes": outlook.needs, "memory_bytes": outlook.memory,
        "context": outlook.n_ctx, "fits_with_context": fits_with, "unsupported": unsupported, "instead": instead,
    })
}

//! Which adapters a request runs with, as records and counters tell it.

use ingle_chat::{AdapterInfo, AdapterName, AdapterWish, Provider, ProviderError};

/// The adapters of a model that these wishes mean, each with its strength. One that was unloaded just now is left out: whoever
/// starts the request misses it.
///
/// # Errors
/// If there is no such model.
pub(crate) fn chosen(
    provider: &dyn Provider,
    model: Option<&str>,
    wishes: Option<&[AdapterWish]>,
) -> Result<Vec<(AdapterInfo, f32)>, ProviderError> {
    let wishes = wishes.unwrap_or_default();
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let here = provider.adapters(model)?;
    let found = |wish: &AdapterWish| {
        let is_it = |info: &&AdapterInfo| match &wish.adapter {
            AdapterName::Number(number) => info.number == *number,
            AdapterName::Name(name) => info.name == *name,
        };
        Some((here.iter().find(is_it)?.clone(), wish.scale))
    };
    Ok(wishes.iter().filter_map(found).collect())
}

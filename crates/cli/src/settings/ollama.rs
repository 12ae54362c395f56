//! Variables of Ollama's that have no effect here: whoever sets one is told so, and what to do instead.
//!
//! Those that have one are further names of settings, in [`table`](super::TABLE).

use super::TABLE;

/// What begins the names of Ollama's variables.
const PREFIX: &str = "OLLAMA_";

/// Variables, and why each has no effect.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("OLLAMA_AUTH", "keys are asked for with --api-key (INGLE_API_KEY)"),
    ("OLLAMA_DEBUG", "RUST_LOG says what is logged, as in RUST_LOG=debug"),
    ("OLLAMA_EDITOR", "VISUAL and EDITOR name the editor"),
    ("OLLAMA_FLASH_ATTENTION", "attention is computed in one way, which keeps no matrix of scores"),
    (
        "OLLAMA_LOAD_TIMEOUT",
        "a load ends when it is done; --model-wait-s says how long a request waits for it",
    ),
    ("OLLAMA_MAX_LOADED_MODELS", "--memory-budget bounds the models in memory, by their bytes"),
    ("OLLAMA_MULTIUSER_CACHE", "each key has a prefix cache of its own already"),
    ("OLLAMA_NOPRUNE", "nothing is pruned at the start; `ingle prune` does it when it is called"),
    ("OLLAMA_TMPDIR", "TMPDIR names the folder of temporary files"),
];

/// Whether a value of one of Ollama's variables is Ollama's own for "not set". That of `OLLAMA_MODELS` is a folder, and
/// an empty one is none.
pub fn is_unset(name: &str, value: &str) -> bool {
    let has_zero_for_default = matches!(name, "OLLAMA_CONTEXT_LENGTH" | "OLLAMA_NUM_PARALLEL");
    match value.trim() {
        "" => name.starts_with(PREFIX) && name != "OLLAMA_MODELS",
        "0" => has_zero_for_default,
        _ => false,
    }
}

/// What is said of those of these variables that are Ollama's and do nothing, in the order of their names.
pub fn unheeded(variables: impl Iterator<Item = String>) -> Vec<String> {
    let has_effect = |name: &str| TABLE.iter().any(|setting| setting.env_aliases.contains(&name));
    let mut names: Vec<String> =
        variables.filter(|name| name.starts_with(PREFIX) && !has_effect(name)).collect();
    names.sort();
    let note = |name: String| match WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
        Some((_, why)) => format!("{name} is set and has no effect here: {why}"),
        None => format!("{name} is set and has no effect here; `ingle settings` lists what does"),
    };
    names.into_iter().map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_named_once() {
        let check = |variables: &[&str], expected: &[&str]| {
            let found = unheeded(variables.iter().map(|name| (*name).to_owned()));
            let starts = found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
            assert!(found.len() == expected.len() && starts, "{variables:?}: {found:?}");
        };
        check(&["PATH", "OLLAMA_HOST", "OLLAMA_NUM_PARALLEL", "OLLAMA_ORIGINS"], &[]);
        check(
            &["OLLAMA_NOPRUNE", "OLLAMA_LATER", "OLLAMA_DEBUG"],
            &[
                "OLLAMA_DEBUG is set and has no effect here: RUST_LOG",
                "OLLAMA_LATER is set and has no effect here; `ingle settings`",
                "OLLAMA_NOPRUNE is set and has no effect here: nothing is pruned",
            ],
        );
    }

    #[test]
    fn what_counts_as_not_set() {
        let check = |name: &str, value: &str, expected: bool| {
            assert_eq!(is_unset(name, value), expected, "{name}={value}");
        };
        check("OLLAMA_NUM_PARALLEL", "0", true);
        check("OLLAMA_NUM_PARALLEL", "", true);
        check("OLLAMA_NUM_PARALLEL", "4", false);
        check("OLLAMA_KEEP_ALIVE", "0", false);
        check("OLLAMA_MODELS", "", false);
        check("LLAMA_ARG_N_PARALLEL", "", false);
    }

    /// What the documentation says of them is what is so.
    #[test]
    fn the_documentation_has_them_all() {
        let page = include_str!("../../../../docs/ollama.md");
        for (name, _) in WITHOUT_EFFECT {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        let aliases = TABLE.iter().flat_map(|setting| setting.env_aliases);
        for name in aliases.filter(|name| name.starts_with(PREFIX)) {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }
}

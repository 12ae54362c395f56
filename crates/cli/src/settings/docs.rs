//! `docs/settings.md`, written from the table so that it cannot disagree with the program.

use std::fmt::Write;

use super::models::{OWN, SHARED};
use super::{Commands, Shape, TABLE};

/// The page.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Settings\n\n\
         Each setting is a flag, an environment variable and a key of the configuration file (TOML, found at\n\
         `$INGLE_CONFIG` or `ingle/config.toml` in the configuration folder). The flag wins over the environment, the\n\
         environment over the file. Other names of a flag are spellings that llama.cpp and vLLM use; `_` may stand for `-`\n\
         in them. What may be given several times is an array in the file, and one value in the environment. Switches\n\
         take `true` or `false` there. Counts may be written `32k` (32000) or `32K` (32768).\n\n\
         This page is written by `ingle settings --markdown`; a test compares the two.\n\n\
         | flag | other names | environment | key | for | default | what it does |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for s in TABLE {
        let mut names: Vec<String> = s.short.iter().map(|c| format!("`-{c}`")).collect();
        names.extend(s.dash.iter().map(|d| format!("`-{d}`")));
        names.extend(s.aliases.iter().map(|a| format!("`--{a}`")));
        let mut env = vec![format!("`{}`", s.env())];
        env.extend(s.env_aliases.iter().map(|e| format!("`{e}`")));
        let value_name = s.value_name.replace('|', "\\|");
        let value = match s.shape {
            Shape::Switch => String::new(),
            Shape::Optional => format!("[={value_name}]"),
            Shape::One | Shape::Many => format!(" {value_name}"),
        };
        let commands: Vec<&str> = [
            (Commands::RUN, "run"),
            (Commands::BATCH, "batch"),
            (Commands::SERVE, "serve"),
            (Commands::BENCH, "bench"),
            (Commands::REPLAY, "replay"),
            (Commands::STORE, "list, show, ..."),
            (Commands::PULL, "pull, push"),
            (Commands::IMPORT, "import"),
            (Commands::CLIENT, "ps, stop"),
        ]
        .iter()
        .filter(|(c, _)| s.commands.contains(*c))
        .map(|(_, name)| *name)
        .collect();
        writeln!(
            page,
            "| `--{}{value}` | {} | {} | `{}` | {} | {} | {} |",
            s.flag,
            names.join(" "),
            env.join(" "),
            s.key,
            commands.join(", "),
            s.default,
            s.help
        )
        .expect("writing to a String cannot fail");
    }
    page.push_str(
        "\n## Models one by one\n\n\
         `ingle serve` takes several models: `--model` several times, `--models-dir`, and in the configuration file a table\n\
         `[[models]]` for each. Keys of such a table:\n\n\
         | key | what it says |\n|---|---|\n",
    );
    for (key, text) in OWN {
        writeln!(page, "| `{key}` | {text} |").expect("writing to a String cannot fail");
    }
    let shared: Vec<String> = SHARED.iter().map(|key| format!("`{key}`")).collect();
    writeln!(
        page,
        "\nAnd these of the settings above, for this model alone; they win over what is said for all: {}.",
        shared.join(", ")
    )
    .expect("writing to a String cannot fail");
    page
}

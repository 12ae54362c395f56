//! Writes the models that the scripts in `tests/goldens` read. Usage: `golden_models FOLDER`.

#[path = "../tests/it/golden_specs.rs"]
mod golden_specs;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: golden_models FOLDER")?);
    std::fs::create_dir_all(&folder)?;
    for (name, spec, n_ctx) in golden_specs::specs() {
        std::fs::write(folder.join(format!("{name}.gguf")), spec.bytes())?;
        if let Some(n_ctx) = n_ctx {
            std::fs::write(folder.join(format!("{name}.n_ctx")), n_ctx.to_string())?;
        }
    }
    std::fs::create_dir_all(folder.join("bert"))?;
    for (name, spec) in golden_specs::bert_specs() {
        std::fs::write(folder.join("bert").join(format!("{name}.gguf")), spec.bytes())?;
    }
    Ok(())
}

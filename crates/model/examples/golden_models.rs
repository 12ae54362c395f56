//! Writes the models that `tests/goldens/make.py` reads, and into `lora` those of `tests/goldens/lora.py` with their
//! adapters. Usage: `golden_models FOLDER`.

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
    for (name, base, lora, scale) in golden_specs::adapters() {
        let folder = folder.join("lora").join(name);
        std::fs::create_dir_all(&folder)?;
        let peft = lora.peft(&base);
        std::fs::write(folder.join("base.gguf"), base.bytes())?;
        std::fs::write(folder.join("adapter_config.json"), peft.config)?;
        std::fs::write(folder.join("adapter_model.safetensors"), peft.tensors)?;
        std::fs::write(folder.join("scale"), scale.to_string())?;
    }
    Ok(())
}

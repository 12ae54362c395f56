//! Models that are made from Modelfiles, to be stopped at each operation.

use ingle_store::modelfile::{Instruction, Modelfile, Part, Recipe};

use crate::scenarios::{Context, Outcome, name};

const MODELFILE: &str = "FROM source.gguf\nADAPTER adapter.gguf\nTEMPLATE \"\"\"{{ .System }} {{ .Prompt }}\"\"\"\n\
                         SYSTEM You are brief.\nLICENSE the licence of both\nLICENSE and another one\n\
                         PARAMETER temperature 0.5\nPARAMETER stop END\nMESSAGE user Hello\nMESSAGE assistant Hi\n";

/// What `ingle create` does.
fn make(context: &Context, model: &str, modelfile: &str, base: Option<&str>) -> Outcome {
    let store = context.store.session();
    let modelfile = Modelfile::parse(modelfile.as_bytes()).expect("a Modelfile");
    let mut recipe = Recipe::of(&modelfile)?;
    if let Some(base) = base {
        recipe.base = store.manifest(&name(base))?;
    }
    for instruction in &modelfile.instructions {
        let (Instruction::From(file) | Instruction::Adapter(file)) = instruction else { continue };
        if base.is_some_and(|base| base == file) {
            continue;
        }
        let (digest, _) = store.put_file(&context.root.join(file), &mut |_, _| ())?;
        let part = Part { name: file.clone(), digest };
        match instruction {
            Instruction::From(_) => recipe.files.push(part),
            _ => recipe.adapters.push(part),
        }
    }
    recipe.make(&store, &name(model), &mut |_| ())?;
    Ok(())
}

/// From a file, with an adapter and all that a Modelfile may say.
pub fn create(context: &Context) -> Outcome {
    make(context, "made:1", MODELFILE, None)
}

/// From another model, in place of one that is there.
pub fn create_over(context: &Context) -> Outcome {
    make(context, "old:1", "FROM old:2\nSYSTEM You are rude.\nADAPTER adapter.gguf\n", Some("old:2"))
}

//! The Modelfile of a model in the store.

use serde_json::Value;

use super::{Instruction, Modelfile, Role};
use crate::{Installed, Template};

impl Modelfile {
    /// What makes this model once more: its files by their paths, then all that is said about it.
    pub fn of(model: &Installed) -> Self {
        let path = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
        let mut instructions: Vec<Instruction> =
            model.model.iter().chain(&model.projector).map(|file| Instruction::From(path(file))).collect();
        instructions.extend(model.adapters.iter().map(|file| Instruction::Adapter(path(file))));
        if let Some(Template::Go(text) | Template::Jinja(text)) = &model.template {
            instructions.push(Instruction::Template(text.clone()));
        }
        instructions.extend(model.system.clone().map(Instruction::System));
        let further = model.config.as_ref().map(|config| &config.further);
        let said = |key: &str| further.and_then(|f| f.get(key)).and_then(Value::as_str).map(str::to_owned);
        instructions.extend(said("renderer").map(Instruction::Renderer));
        instructions.extend(said("parser").map(Instruction::Parser));
        instructions.extend(said("requires").map(Instruction::Requires));
        for (name, value) in &model.params.0 {
            let values = match value {
                Value::Array(values) => values.clone(),
                one => vec![one.clone()],
            };
            instructions.extend(values.into_iter().map(|value| Instruction::Parameter(name.clone(), value)));
        }
        instructions.extend(model.licenses.iter().cloned().map(Instruction::License));
        for message in &model.messages {
            if let Some(role) = Role::named(&message.role) {
                instructions.push(Instruction::Message(role, message.content.clone()));
            }
        }
        Self { instructions }
    }

    /// The same with the model itself in the place of its files, for those who must not learn where they are.
    pub fn upon(name: &str, model: &Installed) -> Self {
        let is_file = |i: &Instruction| matches!(i, Instruction::From(_) | Instruction::Adapter(_));
        let mut instructions = Self::of(model).instructions;
        instructions.retain(|instruction| !is_file(instruction));
        instructions.insert(0, Instruction::From(name.to_owned()));
        Self { instructions }
    }
}

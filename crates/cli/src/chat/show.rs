//! What `/show` tells of a model and of a conversation.

use std::fmt::Write;

use ingle_chat::{ModelInfo, Role, Sampling};
use ingle_store::Installed;
use ingle_store::modelfile::{Instruction, Modelfile, Role as Speaker};
use serde_json::Value;

use super::parameters::in_modelfile;
use super::saved::{Saved, text_of};

/// The model, as a short table.
pub fn info(info: &ModelInfo, installed: Option<&Installed>, saved: &Saved) -> String {
    let details = &info.details;
    let capabilities = [
        ("completion", true),
        ("tools", details.has_tools),
        ("thinking", details.has_reasoning),
        ("insert", details.has_infill),
    ];
    let capabilities: Vec<&str> =
        capabilities.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    let context = if info.n_ctx == info.n_ctx_train {
        info.n_ctx.to_string()
    } else {
        format!("{} (trained for {})", info.n_ctx, info.n_ctx_train)
    };
    let mut text = String::new();
    for (name, value) in [
        ("model", info.id.clone()),
        ("architecture", details.architecture.clone()),
        ("parameters", crate::commands::count(info.n_params)),
        ("context length", context),
        ("embedding length", info.n_embd.to_string()),
        ("quantization", details.quantization.clone()),
        ("size", crate::commands::bytes(info.size_bytes)),
        ("capabilities", capabilities.join(", ")),
        ("fingerprint", info.fingerprint.clone()),
    ] {
        line(&mut text, name, &value);
    }
    if let Some(digest) = installed.and_then(|installed| installed.digest) {
        line(&mut text, "digest", &digest.short());
    }
    if let Some(system) = system(saved) {
        line(&mut text, "instructions", &system);
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    writeln!(text, "  {name:20}{value}").expect("writing to a String cannot fail");
}

/// The licences that came with the model, or what its file says about them.
pub fn license(info: &ModelInfo, installed: Option<&Installed>) -> String {
    if let Some(installed) = installed.filter(|installed| !installed.licenses.is_empty()) {
        return installed.licenses.join("\n\n");
    }
    let metadata = &info.details.metadata;
    let said = |key: &str| metadata.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let parts: Vec<String> = ["general.license", "general.license.name", "general.license.link"]
        .iter()
        .filter_map(|key| said(key))
        .collect();
    if parts.is_empty() { "the model's file names no licence".into() } else { parts.join("\n") }
}

/// What was set, and what the model recommends.
pub fn parameters(info: &ModelInfo, installed: Option<&Installed>, saved: &Saved) -> String {
    let mut text = String::new();
    if !saved.parameters.is_empty() {
        text.push_str("set here:\n");
        saved.parameters.iter().for_each(|(name, value)| line(&mut text, name, value));
    }
    let mut own: Vec<(&str, String)> = Vec::new();
    for (name, value) in installed.iter().flat_map(|installed| &installed.params.0) {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        own.extend(values.iter().map(|value| (name.as_str(), value.to_string())));
    }
    let said = own.len();
    for (name, value) in defaults(&info.defaults) {
        if own[..said].iter().all(|(known, _)| *known != name) {
            own.push((name, value));
        }
    }
    if !own.is_empty() {
        text.push_str("the model's own:\n");
        own.iter().for_each(|(name, value)| line(&mut text, name, value));
    }
    if text.is_empty() { "nothing was set, and the model recommends nothing".into() } else { text }
}

/// The sampling settings that a model recommends, by Ollama's names.
fn defaults(sampling: &Sampling) -> Vec<(&'static str, String)> {
    let float = |name, value: Option<f32>| value.map(|v| (name, v.to_string()));
    [
        float("temperature", sampling.temperature),
        sampling.top_k.map(|v| ("top_k", v.to_string())),
        float("top_p", sampling.top_p),
        float("min_p", sampling.min_p),
        float("typical_p", sampling.typical_p),
        float("repeat_penalty", sampling.repeat_penalty),
        float("presence_penalty", sampling.presence_penalty),
        float("frequency_penalty", sampling.frequency_penalty),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The instructions.
pub fn system(saved: &Saved) -> Option<String> {
    saved.messages.iter().find(|message| message.role == Role::System).map(text_of)
}

/// The conversation as a Modelfile: what makes a model of it that goes on from here.
pub fn modelfile(installed: Option<&Installed>, saved: &Saved, template: Option<&str>) -> String {
    let from = saved.model.as_ref().map_or("ingle-tiny".into(), |path| path.display().to_string());
    let mut instructions = match installed {
        Some(installed) => Modelfile::upon(&from, installed).instructions,
        None => {
            let template = template.map(|text| Instruction::Template(text.to_owned()));
            std::iter::once(Instruction::From(from)).chain(template).collect()
        }
    };
    let is_set = |name: &str| saved.parameters.iter().any(|(known, _)| known == name);
    instructions.retain(|instruction| match instruction {
        Instruction::System(_) | Instruction::Message(..) => false,
        Instruction::Parameter(name, _) => !is_set(name),
        _ => true,
    });
    instructions.extend(system(saved).map(Instruction::System));
    let mut unknown = Vec::new();
    for (name, value) in &saved.parameters {
        match in_modelfile(name, value) {
            Some(Value::Array(values)) => {
                instructions.extend(values.into_iter().map(|v| Instruction::Parameter(name.clone(), v)));
            }
            Some(value) => instructions.push(Instruction::Parameter(name.clone(), value)),
            None => {
                unknown.push(format!("# PARAMETER {name} is left out: models of the store have none such\n"))
            }
        }
    }
    for message in saved.messages.iter().filter(|message| message.role != Role::System) {
        let speaker = Speaker::named(message.role.name());
        instructions.extend(speaker.map(|speaker| Instruction::Message(speaker, text_of(message))));
    }
    let said = Modelfile { instructions }.to_text_with_gaps();
    std::iter::once(said).chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use ingle_chat::Message;
    use serde_json::json;

    use super::*;

    #[test]
    fn modelfiles_say_what_was_said() {
        let parameter = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let saved = Saved {
            model: Some("/m/a.gguf".into()),
            parameters: vec![parameter("temperature", "0.5"), parameter("dry_base", "2")],
            messages: vec![
                Message::text(Role::System, "Be\nbrief."),
                Message::text(Role::User, "hi"),
                Message::text(Role::Assistant, "say\n\"\"\"\nor \""),
            ],
            ..Saved::default()
        };
        let rest = "SYSTEM \"\"\"Be\nbrief.\"\"\"\nPARAMETER temperature 0.5\nMESSAGE user hi\n\
                    # MESSAGE is left out: no Modelfile can spell its value\n\
                    # PARAMETER dry_base is left out: models of the store have none such\n";
        assert_eq!(
            modelfile(None, &saved, Some("{{ x }}")),
            format!("FROM /m/a.gguf\nTEMPLATE {{{{ x }}}}\n{rest}")
        );
        // What a model of the store brings along is there unless something else was said.
        let mut installed = Installed { system: Some("Old.".into()), ..Installed::default() };
        installed.params.0.insert("temperature".into(), json!(1));
        installed.params.0.insert("top_k".into(), json!(7));
        installed.licenses.push("MIT".into());
        let saved = Saved { model: Some("mine".into()), ..saved };
        let text = modelfile(Some(&installed), &saved, None);
        assert_eq!(text, format!("FROM mine\nPARAMETER top_k 7\nLICENSE MIT\n{rest}"));
    }
}

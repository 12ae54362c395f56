//! What `/show` tells of a model and of a conversation.

use std::fmt::Write;

use ingle_chat::{ModelInfo, Role, Sampling};

use super::saved::{Saved, text_of};

/// The model, as a short table.
pub fn info(info: &ModelInfo, saved: &Saved) -> String {
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
    if let Some(system) = system(saved) {
        line(&mut text, "instructions", &system);
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    writeln!(text, "  {name:20}{value}").expect("writing to a String cannot fail");
}

/// What the model's file says about its licence.
pub fn license(info: &ModelInfo) -> String {
    let metadata = &info.details.metadata;
    let said = |key: &str| metadata.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let parts: Vec<String> = ["general.license", "general.license.name", "general.license.link"]
        .iter()
        .filter_map(|key| said(key))
        .collect();
    if parts.is_empty() { "the model's file names no licence".into() } else { parts.join("\n") }
}

/// What was set, and what the model recommends.
pub fn parameters(info: &ModelInfo, saved: &Saved) -> String {
    let mut text = String::new();
    if !saved.parameters.is_empty() {
        text.push_str("set here:\n");
        saved.parameters.iter().for_each(|(name, value)| line(&mut text, name, value));
    }
    let defaults = defaults(&info.defaults);
    if !defaults.is_empty() {
        text.push_str("the model's own:\n");
        defaults.iter().for_each(|(name, value)| line(&mut text, name, value));
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
pub fn modelfile(saved: &Saved, template: Option<&str>) -> String {
    let from = saved.model.as_ref().map_or("ingle-tiny".into(), |path| path.display().to_string());
    let mut text = format!("FROM {from}\n");
    let mut field = |name: &str, value: &str| {
        // Three quotes cannot be written between three quotes.
        let is_plain = !value.contains(['\n', '"']) && value.trim() == value && !value.is_empty();
        match (is_plain, value.contains("\"\"\"")) {
            (true, _) => writeln!(text, "{name} {value}"),
            (false, false) => writeln!(text, "{name} \"\"\"{value}\"\"\""),
            (false, true) => writeln!(text, "# {name} is left out: it has three quotes in it"),
        }
        .expect("writing to a String cannot fail");
    };
    if let Some(template) = template {
        field("TEMPLATE", template);
    }
    for message in &saved.messages {
        match message.role {
            Role::System => field("SYSTEM", &text_of(message)),
            _ => field(&format!("MESSAGE {}", message.role.name()), &text_of(message)),
        }
    }
    for (name, value) in &saved.parameters {
        field(&format!("PARAMETER {name}"), value);
    }
    text
}

#[cfg(test)]
mod tests {
    use ingle_chat::Message;

    use super::*;

    #[test]
    fn modelfiles_say_what_was_said() {
        let saved = Saved {
            model: Some("/m/a.gguf".into()),
            parameters: vec![("temperature".into(), "0.5".into())],
            messages: vec![
                Message::text(Role::System, "Be\nbrief."),
                Message::text(Role::User, "hi"),
                Message::text(Role::Assistant, "say \"\"\""),
            ],
            ..Saved::default()
        };
        assert_eq!(
            modelfile(&saved, Some("{{ x }}")),
            "FROM /m/a.gguf\nTEMPLATE {{ x }}\nSYSTEM \"\"\"Be\nbrief.\"\"\"\nMESSAGE user hi\n\
             # MESSAGE assistant is left out: it has three quotes in it\nPARAMETER temperature 0.5\n"
        );
    }
}

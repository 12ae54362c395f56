//! What outlives a conversation: models of the store, and files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ingle_chat::Role;
use ingle_store::ModelName;

use super::Session;
use crate::chat::answer::Answered;
use crate::chat::parameters::{self, Target};
use crate::chat::saved::{self, Saved, text_of};
use crate::chat::show;
use crate::models::{self, Saving};
use crate::run::{self, Loaded};
use crate::settings::{Settings, Think};

impl Session {
    /// The conversation, as it is kept.
    pub(super) fn saved(&self) -> Saved {
        let think = self.settings.think.as_ref().map(|think| match think {
            Think::Switched(on) => on.to_string(),
            Think::Effort(effort) => effort.clone(),
        });
        // A file is found from everywhere; a name is one everywhere.
        let place = |path: &Path| match path.is_file() {
            true => std::path::absolute(path).unwrap_or(path.to_owned()),
            false => path.to_owned(),
        };
        Saved {
            model: self.settings.model_file().map(place),
            parameters: self.parameters.clone(),
            think,
            format: self.settings.format.clone(),
            messages: self.messages.clone(),
        }
    }

    /// Goes on with another model, or with the conversation of a file.
    pub(super) fn load(&mut self, name: &str) -> Result<()> {
        let path = models::expanded(name);
        if path.extension().is_some_and(|ending| ending == "json") {
            return self.restore(Saved::read(&path)?);
        }
        let settings = Settings { model: vec![PathBuf::from(name)], ..self.settings.clone() };
        // What is not there is known while this model still is.
        models::chosen(&settings)?;
        self.switch(settings)?;
        self.clear();
        say!("{} is ready", crate::chat::escape_line(&self.engine().info().id));
        self.say_opening();
        Ok(())
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let mut settings = self.settings.clone();
        let is_same = saved.model.as_deref() == self.saved().model.as_deref();
        settings.model = saved.model.clone().into_iter().collect();
        settings.format.clone_from(&saved.format);
        settings.system = Some(show::system(&saved).unwrap_or_default());
        let mut reloads = !is_same;
        for (name, value) in &saved.parameters {
            reloads |= matches!(parameters::set(&mut settings, name, value)?, Target::Reload(_));
        }
        if reloads {
            models::chosen(&settings)?;
            self.switch(settings)?;
        } else {
            self.settings = settings;
        }
        self.parameters = saved.parameters;
        self.messages = saved.messages;
        self.last = Answered::default();
        self.count();
        if let Some(think) = &saved.think {
            self.set_think(think)?;
        }
        say!("(going on after {} messages; /show transcript shows them)", self.messages.len());
        Ok(())
    }

    /// Keeps the conversation: as a file where a file is named, else as a model of the store.
    pub(super) fn save(&self, name: &str) -> Result<()> {
        if !saved::is_file(name) {
            return self.make_model(name);
        }
        let (saved, path) = (self.saved(), models::expanded(name));
        let is_json = path.extension().is_some_and(|ending| ending == "json");
        saved::write(&path, &if is_json { saved.to_json() } else { saved.transcript() })?;
        let how = if is_json { format!(": /load {name} goes on with it") } else { String::new() };
        say!("(written to {})", crate::chat::escape_line(&format!("{name}{how}")));
        Ok(())
    }

    /// A model of the store that begins where this conversation is.
    fn make_model(&self, text: &str) -> Result<()> {
        let name: ModelName = text.parse().with_context(|| format!("`{}`", text.escape_debug()))?;
        let saved = self.saved();
        let mut saving = Saving { system: show::system(&saved).unwrap_or_default(), ..Saving::default() };
        let mut left_out = Vec::new();
        for (name, value) in &saved.parameters {
            match parameters::in_modelfile(name, value) {
                Some(value) => drop(saving.params.insert(name.clone(), value)),
                None => left_out.push(name.clone()),
            }
        }
        for message in saved.messages.iter().filter(|message| message.role != Role::System) {
            let role = message.role.name();
            if !matches!(message.role, Role::User | Role::Assistant) {
                bail!(
                    "a message of `{role}` cannot be part of a model; /save {text}.json keeps it in a file"
                );
            }
            saving.messages.push(ingle_store::Message { role: role.to_owned(), content: text_of(message) });
        }
        for (is_set, flag) in [
            (self.settings.chat_template.is_some(), "--chat-template"),
            (!self.settings.lora.is_empty(), "--lora"),
            (saved.format.is_some(), "the format"),
            (saved.think.is_some(), "whether it thinks"),
            (saved.messages.iter().any(|message| message.reasoning.is_some()), "thoughts"),
        ] {
            left_out.extend(is_set.then(|| flag.to_owned()));
        }
        let made = models::save(&self.settings, &name, saving);
        made.with_context(|| format!("/save {text}.json keeps the conversation in a file instead"))?;
        say!("created new model '{name}': /load {text} or `ingle run {text}` goes on from here");
        if !left_out.is_empty() {
            say!("(not part of it: {}; /save {text}.json keeps such things)", left_out.join(", "));
        }
        Ok(())
    }

    /// Another model takes this one's place: this one's memory first. If it cannot be loaded, this one comes back.
    pub(super) fn switch(&mut self, settings: Settings) -> Result<()> {
        self.engine = None;
        let load = |settings: &Settings| -> Result<Loaded> {
            let loaded = run::load(settings)?;
            run::finish_loading(&loaded.engine, settings)?;
            if !loaded.engine.has_template() {
                bail!("{} has no chat template, so it cannot converse", run::model_name(settings));
            }
            Ok(loaded)
        };
        let (loaded, outcome) = match load(&settings) {
            Ok(loaded) => {
                self.settings = settings;
                (loaded, Ok(()))
            }
            Err(error) => {
                let before = load(&self.settings).context("the model before cannot be loaded again")?;
                (before, Err(error))
            }
        };
        (self.engine, self.preset, self.installed) = (Some(loaded.engine), loaded.preset, loaded.installed);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::Message;

    use super::*;
    use crate::chat::answer::Interrupt;

    fn session(model: Option<&str>, store: &Path) -> Session {
        let settings = Settings {
            model: model.into_iter().map(PathBuf::from).collect(),
            store_dir: Some(store.to_owned()),
            hf_home: Some(PathBuf::new()),
            ollama_models: Some(PathBuf::new()),
            ..Settings::default()
        };
        let loaded = run::load(&settings).expect("a model");
        Session::new(loaded, settings, Interrupt::default())
    }

    fn texts(session: &Session) -> Vec<String> {
        session.messages.iter().map(|m| format!("{}: {}", m.role.name(), text_of(m))).collect()
    }

    /// What was said, set and instructed is there again, in a model that others can be made from.
    #[test]
    fn a_saved_conversation_is_a_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("store");
        let mut first = session(None, &store);
        assert!(texts(&first).is_empty());
        first.set_system(Some("Be brief.".into()));
        for (name, value) in
            [("temperature", "0.25"), ("num_predict", "7"), ("stop", "END"), ("dry_base", "2")]
        {
            first.set_parameter(name.into(), value.into()).expect(name);
        }
        first.messages.push(Message::text(Role::User, "Why?"));
        first.messages.push(Message::text(Role::Assistant, "Because \"\"\"\nof \""));
        first.save("mine").expect("made");

        let mut second = session(Some("mine"), &store);
        let said = ["system: Be brief.", "user: Why?", "assistant: Because \"\"\"\nof \""];
        assert_eq!(texts(&second), said);
        let holds = second.effective();
        assert_eq!((holds.max_tokens, holds.stop), (Some(7), vec!["END".to_owned()]));
        assert_eq!(second.engine().info().defaults.temperature, Some(0.25));
        // The user's word counts more, and starting over is what the model begins with.
        second.set_parameter("num_predict".into(), "-1".into()).expect("set");
        assert_eq!(second.effective().max_tokens, Some(-1));
        second.messages.push(Message::text(Role::User, "more"));
        second.clear();
        assert_eq!(texts(&second), said);
        // What was taken away stays away.
        second.undo().expect("there is a question");
        second.set_system(None);
        second.save("empty").expect("made");
        let third = session(Some("empty"), &store);
        assert!(texts(&third).is_empty() && third.effective().system.is_none());
        assert_eq!(third.effective().max_tokens, None);

        // As files, and back.
        let file = folder.path().join("chat.json");
        let file = file.to_str().expect("UTF-8");
        first.save(file).expect("written");
        second.load(file).expect("read");
        assert_eq!(texts(&second), said);
        assert_eq!(second.parameters, first.parameters);
        second.load("mine").expect("another model");
        assert_eq!(texts(&second), said);
        for (name, words) in [("nobody", "no model of that name"), ("./nobody.json", "cannot read")] {
            let error = format!("{:#}", second.load(name).expect_err(name));
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(second.engine().info().id, session(Some("mine"), &store).engine().info().id);
        second.save("a b").expect_err("no name");
    }
}

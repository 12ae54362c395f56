//! Conversations that are kept: as files that can be gone on with, and as transcripts to read.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ingle_chat::{Content, Message, Part, Role};
use serde_json::{Map, Value, json};

use crate::run::read_text;

/// The version of the files.
const VERSION: u64 = 1;
/// The largest file of a conversation.
const BYTES_MAX: u64 = 256 << 20;
/// Most messages of one.
const MESSAGES_MAX: usize = 100_000;

/// A conversation, as it is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    /// The model: a file, or a name in the store; none is the one that ships.
    pub model: Option<PathBuf>,
    /// Parameters as `/set parameter` took them.
    pub parameters: Vec<(String, String)>,
    pub think: Option<String>,
    pub format: Option<String>,
    /// The instructions among them.
    pub messages: Vec<Message>,
}

/// Whether text names a file, and not a model: it begins as a path does, or ends as the files do that are written here.
pub fn is_file(text: &str) -> bool {
    let begins = ["/", "./", "../", "~/", ".\\", "..\\"].iter().any(|start| text.starts_with(start));
    begins
        || text.get(1..3) == Some(":\\")
        || [".md", ".txt", ".json"].iter().any(|ending| text.ends_with(ending))
}

/// The text of a message.
pub fn text_of(message: &Message) -> String {
    match &message.content {
        Content::None => String::new(),
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => parts.iter().map(|Part::Text(text)| text.as_str()).collect(),
    }
}

impl Saved {
    /// As JSON.
    pub fn to_json(&self) -> String {
        let message = |message: &Message| {
            let mut object = json!({ "role": message.role.name(), "content": text_of(message) });
            if let Some(thoughts) = &message.reasoning {
                object["thinking"] = json!(thoughts);
            }
            object
        };
        let parameters: Map<String, Value> =
            self.parameters.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let all = json!({
            "ingle_conversation": VERSION,
            "model": self.model,
            "parameters": parameters,
            "think": self.think,
            "format": self.format,
            "messages": self.messages.iter().map(message).collect::<Vec<_>>(),
        });
        format!("{all:#}\n")
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_json(text: &str) -> Result<Self> {
        let all: Value = serde_json::from_str(text).context("it is no JSON")?;
        match all["ingle_conversation"].as_u64() {
            Some(VERSION) => {}
            Some(other) => bail!("it is of version {other}; this program reads version {VERSION}"),
            None => bail!("it is no saved conversation"),
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = all["messages"].as_array().context("`messages` is no list")?;
        if list.len() > MESSAGES_MAX {
            bail!("it has {} messages; at most {MESSAGES_MAX} are read", list.len());
        }
        let message = |(i, value): (usize, &Value)| {
            let part =
                |name: &str| text(&value[name]).with_context(|| format!("message {i} has no `{name}`"));
            let mut message = Message::text(Role::from_name(&part("role")?), part("content")?);
            message.reasoning = text(&value["thinking"]);
            Ok(message)
        };
        let parameters = all["parameters"].as_object().into_iter().flatten();
        Ok(Self {
            model: text(&all["model"]).map(PathBuf::from),
            parameters: parameters.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect(),
            think: text(&all["think"]),
            format: text(&all["format"]),
            messages: list.iter().enumerate().map(message).collect::<Result<_>>()?,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no conversation.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
        Self::from_json(&read_text(file, &name, BYTES_MAX)?).with_context(|| format!("cannot use {name}"))
    }

    /// The conversation as a page of Markdown.
    pub fn transcript(&self) -> String {
        let mut page = String::new();
        for message in &self.messages {
            let who = match message.role {
                Role::System | Role::Developer => "Instructions",
                Role::User => "You",
                Role::Assistant => "Answer",
                _ => message.role.name(),
            };
            page.push_str(&format!("## {who}\n\n{}\n\n", text_of(message).trim()));
        }
        page
    }
}

/// Writes a file whole or not at all. Only its owner can read it.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(failed)?;
    let name = path.file_name().context("a path of a file is needed")?;
    let part = folder.join(format!(".{}.{}.part", name.display(), std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    let result = write();
    if result.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    result.with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Saved {
        let mut answer = Message::text(Role::Assistant, "It is **blue**.");
        answer.reasoning = Some("The sky…".into());
        Saved {
            model: Some("/models/a.gguf".into()),
            parameters: vec![("temperature".into(), "0.5".into())],
            think: Some("high".into()),
            format: None,
            messages: vec![
                Message::text(Role::System, "Be brief."),
                Message::text(Role::User, "Why?\n\"quoted\""),
                answer,
            ],
        }
    }

    #[test]
    fn conversations_come_back_as_they_were() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep").join("a.json");
        write(&path, &example().to_json()).expect("written");
        assert_eq!(Saved::read(&path).expect("read"), example());
        write(&path, &Saved::default().to_json()).expect("written over");
        assert_eq!(Saved::read(&path).expect("read"), Saved::default());
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("there").count(), 1);
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        for (text, words) in [
            ("", "no JSON"),
            ("{}", "no saved conversation"),
            (r#"{"ingle_conversation": 9}"#, "version 9"),
            (r#"{"ingle_conversation": 1}"#, "`messages`"),
            (r#"{"ingle_conversation": 1, "messages": [{"role": "user"}]}"#, "message 0 has no `content`"),
        ] {
            let error = format!("{:#}", Saved::from_json(text).expect_err(text));
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn files_are_told_from_models() {
        for file in ["./x", "../x", "/x/y", "~/x", "chat.md", "chat.json", "a/b.txt", "C:\\x"] {
            assert!(is_file(file), "{file}");
        }
        for model in ["chat", "llama3.1:8b", "me/mine", "hf.co/me/mine:Q4_K_M", "x"] {
            assert!(!is_file(model), "{model}");
        }
    }

    #[test]
    fn transcripts_are_markdown() {
        let page = example().transcript();
        assert_eq!(
            page,
            "## Instructions\n\nBe brief.\n\n## You\n\nWhy?\n\"quoted\"\n\n## Answer\n\nIt is **blue**.\n\n"
        );
    }
}

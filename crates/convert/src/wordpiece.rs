//! WordPiece vocabularies: from `tokenizer.json`, or `vocab.txt` and `tokenizer_config.json`.
//!
//! A GGUF file marks where words begin and not where they go on: `##ing` becomes `ing`, `the` becomes `▁the`, and what
//! stands in brackets stays as it is.

use ingle_gguf::{Array, GgufWriter, StringArray, Value as Pair};
use serde_json::Value;

use crate::checkpoint::{Checkpoint, Json};
use crate::error::ConvertError;

/// What continues a word, as the sources mark it.
const CONTINUES: &str = "##";

/// A vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    /// By id.
    tokens: Vec<String>,
    /// The ids of those that only templates write, by what they are for.
    special: Vec<(&'static str, usize)>,
    lowercase: bool,
    strip_accents: bool,
}

/// The tokens with a meaning: their key in GGUF and in `tokenizer_config.json`, and their usual spelling.
const SPECIAL: [(&str, &str, &str); 5] = [
    ("padding", "pad_token", "[PAD]"),
    ("unknown", "unk_token", "[UNK]"),
    ("cls", "cls_token", "[CLS]"),
    ("seperator", "sep_token", "[SEP]"),
    ("mask", "mask_token", "[MASK]"),
];

impl Vocabulary {
    /// Reads the folder's vocabulary.
    pub fn read(checkpoint: &Checkpoint, n_vocab: usize) -> Result<Self, ConvertError> {
        let config = checkpoint.opt_json("tokenizer_config.json")?;
        let (tokens, lowercase, strip_accents) = match checkpoint.opt_json("tokenizer.json")? {
            Some(tokenizer) => from_tokenizer(&tokenizer, n_vocab)?,
            None => from_list(checkpoint, config.as_ref())?,
        };
        let source = checkpoint.path("vocab.txt");
        let bad = |what| ConvertError::Bad { path: source.clone(), what };
        if tokens.len() > n_vocab {
            let what =
                format!("the vocabulary has {} tokens, the embedding table {n_vocab} rows", tokens.len());
            return Err(bad(what));
        }
        let mut special = Vec::new();
        for (key, name, usual) in SPECIAL {
            let spelling = config.as_ref().and_then(|config| spelling(config, name));
            let spelling = spelling.unwrap_or_else(|| usual.to_owned());
            match tokens.iter().position(|token| *token == spelling) {
                Some(id) => special.push((key, id)),
                // No text is read without these.
                None if matches!(key, "unknown" | "cls" | "seperator") => {
                    return Err(bad(format!("the vocabulary has no `{spelling}`")));
                }
                None => {}
            }
        }
        Ok(Self { tokens, special, lowercase, strip_accents })
    }

    /// Writes it, with as many tokens as the embedding table has rows.
    pub fn put(&self, file: &mut GgufWriter, n_vocab: usize) {
        let (mut tokens, mut types) = (StringArray::default(), Vec::new());
        for (id, token) in self.tokens.iter().enumerate() {
            let is_special = self.special.iter().any(|(_, special)| *special == id);
            tokens.push(marked(token, is_special).as_bytes());
            types.push(if is_special { 3 } else { 1 });
        }
        for id in tokens.len()..n_vocab {
            tokens.push(format!("[PAD{id}]").as_bytes());
            types.push(5);
        }
        file.set("tokenizer.ggml.model", "bert".into());
        file.set("tokenizer.ggml.tokens", Pair::Array(Array::String(tokens)));
        file.set("tokenizer.ggml.token_type", Pair::Array(Array::I32(types)));
        for (key, id) in &self.special {
            file.set(&format!("tokenizer.ggml.{key}_token_id"), Pair::U32(*id as u32));
        }
        file.set("tokenizer.ggml.normalizer.lowercase", Pair::Bool(self.lowercase));
        file.set("tokenizer.ggml.normalizer.strip_accents", Pair::Bool(self.strip_accents));
    }
}

/// A token as the file spells it.
fn marked(token: &str, is_special: bool) -> String {
    if is_special || (token.starts_with('[') && token.ends_with(']')) {
        return token.to_owned();
    }
    match token.strip_prefix(CONTINUES) {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => format!("▁{token}"),
    }
}

/// A special token's spelling: a string, or an object with the string.
fn spelling(config: &Json, name: &str) -> Option<String> {
    let value = config.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(Into::into)
}

/// Tokens, whether text is lower-cased, and whether accents are left out, as `tokenizer.json` says.
fn from_tokenizer(json: &Json, n_vocab: usize) -> Result<(Vec<String>, bool, bool), ConvertError> {
    let part = |name: &str, kind: &str| {
        let part = json.get(name).ok_or_else(|| json.bad(format!("it has no `{name}`")))?;
        match part.get("type").and_then(Value::as_str) {
            Some(found) if found == kind => Ok(part),
            found => {
                let found = found.unwrap_or("(none)");
                Err(json.unsupported(format!("a tokenizer with the {name} `{found}` and not `{kind}`")))
            }
        }
    };
    let (model, normalizer) = (part("model", "WordPiece")?, part("normalizer", "BertNormalizer")?);
    part("pre_tokenizer", "BertPreTokenizer")?;
    let flag = |name: &str| normalizer.get(name).and_then(Value::as_bool);
    for name in ["clean_text", "handle_chinese_chars"] {
        if flag(name) == Some(false) {
            return Err(json.unsupported(format!("a normalizer without `{name}`")));
        }
    }
    if model.get("continuing_subword_prefix").is_some_and(|prefix| prefix != CONTINUES) {
        return Err(json.unsupported("a vocabulary that does not mark the insides of words with `##`"));
    }
    let vocab = model.get("vocab").and_then(Value::as_object);
    let vocab = vocab.ok_or_else(|| json.bad("`model.vocab` is no object"))?;
    let added = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.filter_map(|token| Some((token.get("content")?.as_str()?, token.get("id")?)));
    let all = vocab.iter().map(|(token, id)| (token.as_str(), id)).chain(added);
    let mut tokens: Vec<Option<&str>> = Vec::new();
    for (token, id) in all {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < n_vocab);
        let id = id.ok_or_else(|| {
            json.bad(format!("token {token:?} has no id below {n_vocab}, the rows of the embedding table"))
        })?;
        tokens.resize(tokens.len().max(id + 1), None);
        match tokens[id] {
            Some(other) if other != token => {
                return Err(json.bad(format!("{other:?} and {token:?} are both token {id}")));
            }
            _ => tokens[id] = Some(token),
        }
    }
    let name = |(id, token): (usize, Option<&str>)| match token {
        Some(token) => Ok(token.to_owned()),
        None => Err(json.bad(format!("there is no token {id}"))),
    };
    let tokens = tokens.into_iter().enumerate().map(name).collect::<Result<_, _>>()?;
    let lowercase = flag("lowercase").unwrap_or(true);
    Ok((tokens, lowercase, flag("strip_accents").unwrap_or(lowercase)))
}

/// The same from a list of tokens, one a line.
fn from_list(
    checkpoint: &Checkpoint,
    config: Option<&Json>,
) -> Result<(Vec<String>, bool, bool), ConvertError> {
    let missing = || {
        let source = std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "neither it nor tokenizer.json is there: the vocabulary is missing",
        );
        ConvertError::Io { path: checkpoint.path("vocab.txt"), source }
    };
    let text = checkpoint.opt_text("vocab.txt")?.ok_or_else(missing)?;
    // Lines end at line feeds alone: other separators are tokens.
    let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
    let tokens = lines.map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned()).collect();
    let flag = |name| config.map_or(Ok(None), |config| config.opt_bool(name));
    if flag("tokenize_chinese_chars")? == Some(false) {
        let config = config.expect("it has the flag");
        return Err(config.unsupported("a tokenizer without `tokenize_chinese_chars`"));
    }
    let lowercase = flag("do_lower_case")?.unwrap_or(true);
    Ok((tokens, lowercase, flag("strip_accents")?.unwrap_or(lowercase)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (token, expected) in
            [("the", "▁the"), ("##ing", "ing"), ("[unused7]", "[unused7]"), ("##", "▁##"), ("#", "▁#")]
        {
            assert_eq!(marked(token, false), expected);
        }
        assert_eq!(marked("<s>", true), "<s>");
    }
}

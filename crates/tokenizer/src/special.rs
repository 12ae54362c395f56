//! Which tokens are more than text: control tokens, those that end a generation, and those only a template may write.

use hashbrown::{HashMap, HashSet};
use ingle_gguf::Metadata;
use ingle_step::TokenId;

use crate::TokenizerError;
use crate::vocab::{Kind, Vocab};

/// Spellings that end a turn or a text, whatever type the file gives them.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
];

/// Fill-in-the-middle spellings behind which there is nothing more to say: padding, a new repository, a new file.
const FILE_ENDS: &[&str] = &[
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Fill-in-the-middle spellings, some of which files call plain text: before the prefix, the suffix, the middle.
const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
];
const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
];
const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
];
/// Before the name of a project, and of a file in it.
const FIM_REPOSITORY: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_FILE: &[&str] = &["<|file_sep|>"];

/// The tokens around the parts of a text with a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FimTokens {
    pub prefix: TokenId,
    pub suffix: TokenId,
    pub middle: TokenId,
    /// Before the name of a project.
    pub repository: Option<TokenId>,
    /// Before the name of a file.
    pub file: Option<TokenId>,
}

/// Finds the tokens for filling gaps: those that the file names, else those that are spelled so. `None` if one of the
/// three that it takes is missing.
fn find_fim(
    md: &Metadata,
    vocab: &Vocab,
    by_spelling: &HashMap<&[u8], TokenId>,
) -> Result<Option<FimTokens>, TokenizerError> {
    let find = |keys: [&'static str; 2], spellings: &[&str]| -> Result<Option<TokenId>, TokenizerError> {
        for key in keys {
            if let Some(id) = vocab.special_id(md, key)? {
                return Ok(Some(id));
            }
        }
        Ok(spellings.iter().find_map(|spelling| by_spelling.get(spelling.as_bytes()).copied()))
    };
    let prefix = find(["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"], FIM_PREFIX)?;
    let suffix = find(["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"], FIM_SUFFIX)?;
    let middle = find(["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"], FIM_MIDDLE)?;
    let (Some(prefix), Some(suffix), Some(middle)) = (prefix, suffix, middle) else { return Ok(None) };
    Ok(Some(FimTokens {
        prefix,
        suffix,
        middle,
        repository: find(["tokenizer.ggml.fim_rep_token_id"; 2], FIM_REPOSITORY)?,
        file: find(["tokenizer.ggml.fim_sep_token_id"; 2], FIM_FILE)?,
    }))
}

/// HTML that vocabularies hold as whole tokens: text, not markers.
const HTML: &[&str] = &[
    "a",
    "b",
    "blockquote",
    "br",
    "caption",
    "code",
    "dd",
    "div",
    "dl",
    "dt",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "li",
    "ol",
    "p",
    "pre",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "u",
    "ul",
];

/// Tokens with a meaning of their own.
pub(crate) struct Special {
    /// Those that end a generation.
    pub ends: HashSet<TokenId>,
    /// Those around the parts of a text with a gap, if all that it takes are there.
    pub fim: Option<FimTokens>,
}

/// Finds the tokens that end a generation and those that mark gaps, and makes control tokens of those that are typed
/// as text but are none.
pub(crate) fn find_special(
    md: &Metadata,
    vocab: &mut Vocab,
    eos: Option<TokenId>,
) -> Result<Special, TokenizerError> {
    let by_spelling: HashMap<&[u8], TokenId> = vocab.ids().map(|id| (vocab.spelling(id), id)).collect();
    let find = |spelling: &&str| by_spelling.get(spelling.as_bytes()).copied();
    let known = |list: &'static [&'static str]| list.iter().filter_map(find).collect::<Vec<_>>();
    let mut ends: HashSet<TokenId> = known(ENDS).into_iter().chain(known(FILE_ENDS)).collect();
    // Where a model returns or calls explicitly, `<|end|>` only ends a message within its answer.
    let has = |spelling: &str| find(&spelling).is_some();
    if (has("<|return|>") && (has("<|call|>") || has("<|calls|>")))
        || ((has("<|call|>") || has("<|calls|>")) && has("<|flush|>"))
    {
        for id in known(&["<|end|>"]) {
            ends.remove(&id);
        }
    }
    let markers = [ENDS, FILE_ENDS, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE];
    let control: Vec<TokenId> = markers.into_iter().flat_map(known).collect();
    let fim = find_fim(md, vocab, &by_spelling)?;
    let named = [
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
        "tokenizer.ggml.fim_pad_token_id",
        "tokenizer.ggml.fim_rep_token_id",
        "tokenizer.ggml.fim_sep_token_id",
    ];
    for key in named {
        ends.extend(vocab.special_id(md, key)?);
    }
    ends.extend(eos);
    drop(by_spelling);
    let marks = fim.iter().flat_map(|fim| [fim.prefix, fim.suffix, fim.middle]);
    let named = ends.iter().copied().chain(marks);
    let spelled_so: Vec<TokenId> = named.filter(|&id| looks_special(vocab.spelling(id))).collect();
    for id in control.into_iter().chain(spelled_so) {
        vocab.kinds[id.0 as usize] = Kind::Control;
    }
    Ok(Special { ends, fim })
}

/// Whether a user-defined token is spelled like a marker (`<think>`, `[TOOL_CALLS]`, `<|channel|>`) rather than like text
/// (a run of spaces, `<table>`). Such a one is matched in a template's own text only, for what users say must not be
/// able to open a tool call or a turn.
pub(crate) fn looks_special(spelling: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(spelling) else { return false };
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '▁' || c == '_');
    let inner = |open: &str, close: &str| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    if ["<|", "|>", "<｜", "｜>"].iter().any(|mark| text.contains(mark)) && text.chars().count() > 2 {
        return true;
    }
    if let Some(name) = inner("<", ">") {
        return !name.is_empty() && !HTML.contains(&name.trim_start_matches('/'));
    }
    inner("[", "]").is_some_and(|name| name.chars().any(char::is_alphanumeric))
        || inner(">>", "<<").is_some_and(|name| name.chars().any(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_told_from_text() {
        for (spelling, expected) in [
            ("<think>", true),
            ("</tool_call>", true),
            ("<|channel>", true),
            ("<tool_call|>", true),
            ("<|\"|>", true),
            ("[TOOL_CALLS]", true),
            ("[PAD151646]", true),
            ("_<EOT>", true),
            ("▁<PRE>", true),
            (">>TITLE<<", true),
            ("<s>", true),
            ("<table>", false),
            ("</h1>", false),
            ("\n\n", false),
            ("  ", false),
            ("ø", false),
            ("<>", false),
            ("[]", false),
            ("hello", false),
        ] {
            assert_eq!(looks_special(spelling.as_bytes()), expected, "{spelling}");
        }
    }
}

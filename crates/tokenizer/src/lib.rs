//! Text to tokens and back, as the model's own file says: byte-level BPE, SentencePiece BPE, WordPiece and Unigram.
//!
//! A [`Tokenizer`] is built from GGUF metadata, which is untrusted: anything wrong there is a [`TokenizerError`] that
//! names the key. Once built, it encodes any text and decodes any ids without failing, in time that is linear in the
//! text up to a logarithm.
//!
//! Prompts come as typed segments. Only a template's own text is searched for control tokens; what users, tools
//! and documents say can not become one, because the tables that plain text is looked up in do not hold them.

#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

mod alphabet;
mod bpe;
mod detokenizer;
mod error;
mod pre;
mod special;
mod spm;
mod trie;
mod unicode;
mod unigram;
mod vocab;
mod words;
mod wpm;

use aho_corasick::{AhoCorasick, MatchKind};
use hashbrown::HashSet;
use ingle_chat::{Infill, Segment, Segments};
use ingle_gguf::{Metadata, StringArray};
use ingle_step::TokenId;

pub use detokenizer::Detokenizer;
pub use error::TokenizerError;
use vocab::{Kind, Vocab, index};

/// The kinds of vocabulary that are implemented, by their `tokenizer.ggml.model` names.
const MODELS: &str = "gpt2, gemma4, llama, bert, t5";

enum Model {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
    Wpm(wpm::Wpm),
    Unigram(unigram::Unigram),
}

/// A model's tokenizer.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    /// By token, the bytes it stands for in text.
    bytes: StringArray,
    ends: HashSet<TokenId>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    /// What stands between two texts; for WordPiece behind each.
    separator: Option<TokenId>,
    add_bos: bool,
    add_eos: bool,
    add_separator: bool,
    /// Text at the start, and behind a special token, gets a space in front.
    add_space_prefix: bool,
    /// How gaps are marked; `None` if the model does not fill any.
    fim: Option<special::FimTokens>,
    in_template: Matcher,
    in_content: Matcher,
}

/// Two texts as a model reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// All tokens.
    pub tokens: Vec<TokenId>,
    /// Where the second text begins.
    pub second_from: usize,
    /// Tokens behind it that belong to no text.
    pub n_closing: usize,
}

/// What a text is made of before its tokens are known.
enum Fragment {
    Text(String),
    Token {
        id: TokenId,
        /// Found in content: plain text that happens to be matched first.
        content: bool,
    },
}

/// Finds tokens that are matched before all else: leftmost first, then longest.
struct Matcher {
    automaton: Option<AhoCorasick>,
    ids: Vec<TokenId>,
}

impl Matcher {
    fn memory_bytes(&self) -> usize {
        self.automaton.as_ref().map_or(0, AhoCorasick::memory_usage)
            + self.ids.capacity() * size_of::<TokenId>()
    }

    fn new(vocab: &Vocab, wanted: impl Fn(TokenId, Kind) -> bool) -> Result<Self, TokenizerError> {
        let ids: Vec<TokenId> = vocab
            .ids()
            .filter(|&id| !vocab.spelling(id).is_empty())
            .filter(|&id| vocab.kind(id).is_some_and(|kind| wanted(id, kind)))
            // A spelling that is no UTF-8 can not be in text, and could cut a character.
            .filter(|&id| std::str::from_utf8(vocab.spelling(id)).is_ok())
            .collect();
        if ids.is_empty() {
            return Ok(Self { automaton: None, ids });
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(ids.iter().map(|&id| vocab.spelling(id)))
            .map_err(|error| {
                vocab::bad("tokenizer.ggml.tokens", 0, format!("too many special tokens: {error}"))
            })?;
        Ok(Self { automaton: Some(automaton), ids })
    }

    /// Appends `text` to `fragments`; text next to text is joined, so that words may span segments.
    fn split(&self, text: &str, content: bool, fragments: &mut Vec<Fragment>) {
        let mut done = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            push_text(&text[done..found.start()], fragments);
            fragments.push(Fragment::Token { id: self.ids[found.pattern().as_usize()], content });
            done = found.end();
        }
        push_text(&text[done..], fragments);
    }
}

fn push_text(text: &str, fragments: &mut Vec<Fragment>) {
    match fragments.last_mut() {
        _ if text.is_empty() => {}
        Some(Fragment::Text(last)) => last.push_str(text),
        _ => fragments.push(Fragment::Text(text.to_owned())),
    }
}

impl Tokenizer {
    /// Builds the tokenizer that `tokenizer.ggml.*` describes.
    ///
    /// # Errors
    /// If a key is missing, of another type or out of range, lists do not match each other, or the kind of
    /// vocabulary or pre-tokenizer is not known.
    pub fn from_metadata(md: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let name = md.str("tokenizer.ggml.model")?;
        // (bos, eos, unknown) where the file does not say.
        let (default_bos, default_eos, default_unknown) = match name {
            "llama" => (Some(1), Some(2), Some(0)),
            "bert" => (Some(101), None, Some(100)),
            "t5" => (None, Some(1), Some(2)),
            "gpt2" | "gemma4" => (None, None, None),
            other => {
                let known = MODELS.to_owned();
                return Err(TokenizerError::UnknownModel { found: other.to_owned(), known });
            }
        };
        let mut vocab = Vocab::read(md)?;
        let n_vocab = vocab.len();
        let or_default = |id: Option<TokenId>, default: Option<u32>| {
            id.or(default.map(TokenId).filter(|&id| index(id) < n_vocab))
        };
        let bos = match vocab.special_id(md, "tokenizer.ggml.bos_token_id")? {
            None if name == "bert" => vocab.special_id(md, "tokenizer.ggml.cls_token_id")?,
            bos => bos,
        };
        let bos = or_default(bos, default_bos);
        let eos = or_default(vocab.special_id(md, "tokenizer.ggml.eos_token_id")?, default_eos);
        let unknown = or_default(vocab.special_id(md, "tokenizer.ggml.unknown_token_id")?, default_unknown);
        let default_separator = (name == "bert").then_some(102);
        let separator = match vocab.special_id(md, "tokenizer.ggml.seperator_token_id")? {
            None => vocab.special_id(md, "tokenizer.ggml.separator_token_id")?,
            found => found,
        };
        let separator = or_default(separator, default_separator);

        let special::Special { ends, fim } = special::find_special(md, &mut vocab, eos)?;
        for id in [bos, eos, separator].into_iter().flatten() {
            if special::looks_special(vocab.spelling(id)) {
                vocab.kinds[index(id)] = Kind::Control;
            }
        }
        let in_text: Vec<bool> = vocab.ids().map(|id| is_text(&vocab, id)).collect();

        let family = match name {
            "gpt2" => {
                let pre = md.opt_str("tokenizer.ggml.pre")?.unwrap_or("");
                Some(pre::family(pre).ok_or_else(|| TokenizerError::UnknownPre {
                    found: pre.to_owned(),
                    known: pre::known_names().collect::<Vec<_>>().join(", "),
                })?)
            }
            "gemma4" => pre::family("gemma4"),
            _ => None,
        };
        let plain_utf8 = family.as_ref().is_none_or(|family| family.plain_utf8);
        let family_adds_bos = family.as_ref().is_some_and(|family| family.add_bos);
        let gemma4 = family.is_some() && plain_utf8;
        let flag = |key: &str, default: bool| md.opt_bool(key).map(|value| value.unwrap_or(default));
        let lowercase = flag("tokenizer.ggml.normalizer.lowercase", true)?;
        let model = match family {
            Some(family) => Model::Bpe(Box::new(bpe::Bpe::new(md, &vocab, in_text, family)?)),
            None if name == "llama" => Model::Spm(Box::new(spm::Spm::new(&vocab, &in_text, unknown))),
            None if name == "bert" => Model::Wpm(wpm::Wpm::new(
                &vocab,
                &in_text,
                unknown,
                lowercase,
                flag("tokenizer.ggml.normalizer.strip_accents", lowercase)?,
            )),
            None => Model::Unigram(unigram::Unigram::new(md, &vocab, &in_text, unknown)?),
        };
        let bytes = token_bytes(&vocab, &model, plain_utf8)?;
        Ok(Self {
            add_bos: gemma4
                || flag("tokenizer.ggml.add_bos_token", matches!(name, "llama" | "bert") || family_adds_bos)?,
            add_eos: flag("tokenizer.ggml.add_eos_token", name == "t5")?,
            // For WordPiece behind each text, for others only between two.
            add_separator: flag("tokenizer.ggml.add_sep_token", true)?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix", name == "llama")? && name != "bert",
            in_template: Matcher::new(&vocab, |_, kind| {
                matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown)
            })?,
            in_content: Matcher::new(&vocab, |id, kind| kind == Kind::UserDefined && is_text(&vocab, id))?,
            fim,
            vocab,
            model,
            bytes,
            ends,
            bos,
            eos,
            separator,
        })
    }

    /// Bytes in memory, apart from words that it has seen and remembers.
    pub fn memory_bytes(&self) -> usize {
        let model = match &self.model {
            Model::Bpe(bpe) => bpe.memory_bytes(),
            Model::Spm(spm) => spm.memory_bytes(),
            Model::Wpm(wpm) => wpm.memory_bytes(),
            Model::Unigram(unigram) => unigram.memory_bytes(),
        };
        let matchers = [&self.in_template, &self.in_content].map(Matcher::memory_bytes);
        size_of::<Self>()
            + self.vocab.memory_bytes()
            + self.bytes.memory_bytes()
            + model
            + matchers.iter().sum::<usize>()
    }

    /// How many tokens the vocabulary has.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The tokens of a prompt. Template segments may become control tokens, content segments never. `add_special`: the
    /// tokens that the model wants at start and end, unless the prompt has them there already.
    pub fn encode(&self, segments: &Segments, add_special: bool) -> Vec<TokenId> {
        let mut fragments = Vec::new();
        for segment in segments.iter() {
            match segment {
                Segment::Template(text) => self.in_template.split(text, false, &mut fragments),
                Segment::Content(text) => self.in_content.split(text, true, &mut fragments),
            }
        }
        self.encode_fragments(&fragments, add_special, true)
    }

    /// The tokens of two texts that a model reads together, with what it wants around and between them: `[CLS] a [SEP]
    /// b [SEP]` for WordPiece, `<s> a </s></s> b </s>` for RoBERTa's kin. `None` if no token separates them.
    pub fn encode_pair(&self, first: &str, second: &str) -> Option<Pair> {
        let mut tokens = Vec::new();
        tokens.extend(self.bos.filter(|_| self.add_bos));
        tokens.extend(self.encode_content(first));
        let closing = match self.model {
            Model::Wpm(_) => self.separator,
            _ => self.eos.or(self.separator),
        }?;
        tokens.push(closing);
        // BERT's separator is what closes; the others have both.
        tokens.extend(self.separator.filter(|_| self.add_separator && !matches!(self.model, Model::Wpm(_))));
        let second_from = tokens.len();
        tokens.extend(self.encode_content(second));
        tokens.push(closing);
        Some(Pair { tokens, second_from, n_closing: 1 })
    }

    /// The tokens of plain text, without anything around them.
    pub fn encode_content(&self, text: &str) -> Vec<TokenId> {
        let mut fragments = Vec::new();
        self.in_content.split(text, true, &mut fragments);
        self.encode_fragments(&fragments, false, true)
    }

    /// Whether gaps can be filled.
    pub fn has_infill(&self) -> bool {
        self.fim.is_some()
    }

    /// The tokens of a prompt that asks to fill a gap, which are the marks of the vocabulary around content. `None` if
    /// the vocabulary has no such marks.
    pub fn encode_infill(&self, infill: &Infill) -> Option<Vec<TokenId>> {
        let fim = self.fim.as_ref()?;
        let mut fragments = Vec::new();
        let say = |text: &str, fragments: &mut Vec<Fragment>| self.in_content.split(text, true, fragments);
        // A text behind such a mark goes on where another was cut: no space belongs in front of it.
        let mark = |id| Fragment::Token { id, content: true };
        if !infill.files.is_empty() {
            if let Some(repository) = fim.repository {
                fragments.push(mark(repository));
                say("project\n", &mut fragments);
            }
            for file in &infill.files {
                fragments.extend(fim.file.map(mark));
                say(&format!("{}\n{}\n", file.name, file.text), &mut fragments);
            }
            if let Some(file) = fim.file {
                fragments.push(mark(file));
                say("file\n", &mut fragments);
            }
        }
        // A text begins here, as others do.
        fragments.push(Fragment::Token { id: fim.prefix, content: false });
        say(&infill.prefix, &mut fragments);
        fragments.push(mark(fim.suffix));
        say(&infill.suffix, &mut fragments);
        fragments.push(mark(fim.middle));
        say(&infill.begun, &mut fragments);
        let mut ids: Vec<TokenId> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.extend(self.encode_fragments(&fragments, false, true));
        Some(ids)
    }

    /// Whether a text spells a token that only a template may write.
    pub fn spells_control(&self, text: &str) -> bool {
        let found = self.in_template.automaton.iter().flat_map(|automaton| automaton.find_iter(text));
        found.into_iter().any(|found| !self.is_text(self.in_template.ids[found.pattern().as_usize()]))
    }

    /// The tokens of plain text that goes on where other text ends: without the space that some vocabularies put in front
    /// of a text.
    pub fn encode_continuation(&self, text: &str) -> Vec<TokenId> {
        let mut fragments = Vec::new();
        self.in_content.split(text, true, &mut fragments);
        self.encode_fragments(&fragments, false, false)
    }

    /// `behind_special`: no text is in front.
    fn encode_fragments(
        &self,
        fragments: &[Fragment],
        add_special: bool,
        mut behind_special: bool,
    ) -> Vec<TokenId> {
        let mut ids = Vec::new();
        let starts_with =
            |wanted: TokenId| matches!(fragments.first(), Some(Fragment::Token { id, .. }) if *id == wanted);
        if let Some(bos) = self.bos.filter(|&bos| add_special && self.add_bos && !starts_with(bos)) {
            ids.push(bos);
        }
        for fragment in fragments {
            match fragment {
                Fragment::Token { id, content } => {
                    ids.push(*id);
                    behind_special = !content;
                }
                Fragment::Text(text) => {
                    self.encode_text(text, behind_special && self.add_space_prefix, &mut ids);
                    behind_special = false;
                }
            }
        }
        if add_special {
            let ends_with =
                |wanted| matches!(fragments.last(), Some(Fragment::Token { id, .. }) if *id == wanted);
            let eos = self.eos.filter(|&eos| self.add_eos && !ends_with(eos));
            let separates = self.add_separator && matches!(self.model, Model::Wpm(_));
            let separator = self.separator.filter(|&id| separates && !ends_with(id));
            ids.extend(separator.or(eos));
        }
        ids
    }

    fn encode_text(&self, text: &str, space_prefix: bool, out: &mut Vec<TokenId>) {
        match &self.model {
            Model::Bpe(bpe) => bpe.encode(text, out),
            Model::Wpm(wpm) => wpm.encode(text, out),
            Model::Unigram(unigram) => unigram.encode(text, space_prefix, out),
            Model::Spm(spm) => {
                let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
                if space_prefix {
                    escaped.push('▁');
                }
                for (n, part) in text.split(' ').enumerate() {
                    if n > 0 {
                        escaped.push('▁');
                    }
                    escaped.push_str(part);
                }
                spm.encode(&escaped, out);
            }
        }
    }

    /// The bytes that a token stands for in text (control tokens: their spelling); empty for ids that are none.
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        if index(id) < self.bytes.len() { self.bytes.get(index(id)) } else { &[] }
    }

    /// The text of a token for display: invalid bytes are U+FFFD.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// Whether a token is no text: a control token, or the unknown one.
    pub fn is_control(&self, id: TokenId) -> bool {
        matches!(self.vocab.kind(id), Some(Kind::Control | Kind::Unknown))
    }

    /// Whether plain text may become this token. What a template alone may write is no text, though some of it (marks
    /// of thoughts, of calls) is no control token either.
    pub fn is_text(&self, id: TokenId) -> bool {
        is_text(&self.vocab, id) || self.vocab.kind(id) == Some(Kind::Byte)
    }

    /// Whether a token ends a generation.
    pub fn is_end(&self, id: TokenId) -> bool {
        self.ends.contains(&id)
    }

    /// The token that begins a text; for WordPiece, the class token.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// Whether [`Self::encode`] with `add_special` puts [`Self::bos`] in front.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// All control, unknown and user-defined tokens with their spellings.
    pub fn special_tokens(&self) -> impl Iterator<Item = (TokenId, &str)> {
        self.in_template
            .ids
            .iter()
            .filter_map(|&id| Some((id, std::str::from_utf8(self.vocab.spelling(id)).ok()?)))
    }

    /// Whether encoding puts a space in front of a text that the text does not have.
    pub(crate) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix || matches!(self.model, Model::Wpm(_))
    }

    /// The bytes of a token, without the space that encoding puts in front if it is `at_start` of a text. Tokens that
    /// are matched before all else get no such space.
    pub(crate) fn piece(&self, id: TokenId, at_start: bool) -> &[u8] {
        let piece = self.token_bytes(id);
        let is_matched = self.is_control(id) || self.vocab.kind(id) == Some(Kind::UserDefined);
        piece.strip_prefix(b" ").filter(|_| at_start && !is_matched).unwrap_or(piece)
    }

    /// The text of a whole encoding, invalid bytes being U+FFFD. The space that encoding puts in front is taken away
    /// again, so that `decode(encode_content(x))` is `x` (WordPiece and Unigram lose more than that).
    pub fn decode(&self, ids: &[TokenId], include_special: bool) -> String {
        let mut bytes = Vec::new();
        let mut at_start = self.adds_space_prefix();
        for &id in ids {
            let is_control = self.is_control(id);
            if is_control && !include_special {
                continue;
            }
            bytes.extend_from_slice(self.piece(id, at_start));
            at_start &= is_control;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whether plain text may become this token.
fn is_text(vocab: &Vocab, id: TokenId) -> bool {
    match vocab.kind(id) {
        Some(Kind::Normal | Kind::Unused) => true,
        Some(Kind::UserDefined) => !special::looks_special(vocab.spelling(id)),
        _ => false,
    }
}

fn token_bytes(vocab: &Vocab, model: &Model, plain_utf8: bool) -> Result<StringArray, TokenizerError> {
    let mut all = StringArray::default();
    for id in vocab.ids() {
        let spelling = vocab.spelling(id);
        match vocab.kind(id) {
            Some(Kind::Byte) => match vocab::parse_byte_token(spelling) {
                Some(byte) => all.push(&[byte]),
                None => {
                    let what = format!(
                        "a byte token must be spelled <0xHH>, this is {:?}",
                        String::from_utf8_lossy(spelling)
                    );
                    return Err(vocab::bad("tokenizer.ggml.tokens", index(id), what));
                }
            },
            Some(Kind::Normal | Kind::Unused) => match model {
                Model::Bpe(bpe) if !plain_utf8 => all.push(bpe.piece_bytes(id)),
                _ => all.push(&unescape_spaces(spelling)),
            },
            _ => all.push(spelling),
        }
    }
    Ok(all)
}

/// `▁` stands for a space.
fn unescape_spaces(piece: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(piece.len());
    let mut rest = piece;
    while let [first, behind @ ..] = rest {
        match rest.strip_prefix("▁".as_bytes()) {
            Some(behind) => {
                text.push(b' ');
                rest = behind;
            }
            None => {
                text.push(*first);
                rest = behind;
            }
        }
    }
    text
}

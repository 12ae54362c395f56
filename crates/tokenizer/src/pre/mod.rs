//! Pre-tokenizers: how a model family cuts text into words before merging, chosen by `tokenizer.ggml.pre`.
//!
//! A family is a short list of stages. The first cuts the text; each further one cuts the pieces of the one before
//! and sees nothing outside its piece (so a look-ahead stops at the piece's end). What a stage matches is a piece,
//! and so is each run between matches. All stages are hand-written scanners that look at each character a small
//! fixed number of times; there is no regex engine and no backtracking, so time is linear in the text.
//!
//! The patterns are those that the model makers publish (quoted at each family). llama.cpp approximates a few of
//! them (letter case and marks of o200k and its kin, digit groups); there we follow the makers, since that is what the
//! models were trained on.

mod cased;
mod scan;
mod stage;
#[cfg(test)]
mod tests;

use scan::{CharSet, Contractions, Trailing, Words};
pub(crate) use stage::Stage;
use stage::{CJK_AFMOE, CJK_DEEPSEEK, CJK_DEEPSEEK3, DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION};

use crate::unicode::{Classes, LETTER, MARK, NEWLINE, NUMBER, PUNCTUATION};

/// What a name of `tokenizer.ggml.pre` stands for.
pub(crate) struct Family {
    pub(crate) stages: Vec<Stage>,
    /// A whole word that is in the vocabulary is taken as it is, without merging.
    pub(crate) ignore_merges: bool,
    /// The default of `tokenizer.ggml.add_bos_token`.
    pub(crate) add_bos: bool,
    /// Spaces are `▁` and pieces are plain UTF-8, not the byte alphabet.
    pub(crate) plain_utf8: bool,
}

impl Family {
    fn new(stages: Vec<Stage>) -> Self {
        Self { stages, ignore_merges: false, add_bos: false, plain_utf8: false }
    }
}

/// The families and the names that choose them. One line a family; `known_names` and `family` both read it.
const NAMES: &[(Kind, &[&str])] = &[
    (Kind::Default, &["default"]),
    (
        Kind::Llama3,
        &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
    ),
    (Kind::Dbrx, &["dbrx", "smaug-bpe", "smaug", "glm4", "chatglm-bpe", "glm5"]),
    (Kind::DeepSeekLlm, &["deepseek-llm"]),
    (Kind::DeepSeekCoder, &["deepseek-coder"]),
    (Kind::DeepSeek3, &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"]),
    (Kind::Youtu, &["youtu"]),
    (Kind::Falcon, &["falcon"]),
    (
        Kind::Starcoder,
        &[
            "starcoder",
            "refact",
            "command-r",
            "cohere2_moe",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "minerva",
            "mellum2",
        ],
    ),
    (
        Kind::Gpt2,
        &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "dolma",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
    ),
    (Kind::Jais2, &["jais-2"]),
    (
        Kind::Qwen2,
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "openpangu",
            "f2llmv2",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "megrez",
            "grok-2",
        ],
    ),
    (Kind::MiniCpm5, &["minicpm5"]),
    (Kind::Ufakzeka, &["ufakzeka"]),
    (Kind::Qwen35, &["qwen35"]),
    (Kind::Bloom, &["bloom", "poro-chat", "poro", "gpt3-finnish"]),
    (Kind::Viking, &["viking"]),
    (Kind::Tekken, &["tekken"]),
    (Kind::Chameleon, &["chameleon"]),
    (Kind::Gpt4o, &["gpt-4o", "gpt-oss", "llama4", "kanana2", "talkie", "minimax-m2"]),
    (Kind::GraniteEmbedding, &["granite-embed-multi-97m"]),
    (Kind::TinyAya, &["tiny_aya", "cohere2moe"]),
    (Kind::KimiK2, &["kimi-k2"]),
    (Kind::SuperBpe, &["superbpe"]),
    (Kind::Bailing, &["bailingmoe", "bailingmoe2", "llada-moe"]),
    (Kind::SeedCoder, &["seed-coder"]),
    (Kind::Afmoe, &["afmoe"]),
    (Kind::ExaoneMoe, &["exaone-moe"]),
    (Kind::Gemma4, &["gemma4", "granite-embed-multi-311m", "sarvam-moe"]),
];

#[derive(Clone, Copy)]
enum Kind {
    Default,
    Llama3,
    Dbrx,
    DeepSeekLlm,
    DeepSeekCoder,
    DeepSeek3,
    Youtu,
    Falcon,
    Starcoder,
    Gpt2,
    Jais2,
    Qwen2,
    MiniCpm5,
    Ufakzeka,
    Qwen35,
    Bloom,
    Viking,
    Tekken,
    Chameleon,
    Gpt4o,
    GraniteEmbedding,
    TinyAya,
    KimiK2,
    SuperBpe,
    Bailing,
    SeedCoder,
    Afmoe,
    ExaoneMoe,
    Gemma4,
}

/// All names that [`family`] knows.
pub(crate) fn known_names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().flat_map(|(_, names)| names.iter().copied())
}

/// The family of a `tokenizer.ggml.pre` name; an empty one is `default`, as old files mean it.
pub(crate) fn family(name: &str) -> Option<Family> {
    let name = if name.is_empty() { "default" } else { name };
    let (kind, _) = NAMES.iter().find(|(_, names)| names.contains(&name))?;
    Some(build(*kind))
}

/// Llama 3's words, from which many others differ in one thing: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
/// \s*[\r\n]+|\s+(?!\S)|\s+`.
fn llama3(max_digits: usize) -> Words {
    Words {
        contractions: Contractions::AnyCase,
        letters: LETTER,
        max_digits,
        trailing: Trailing::Newlines,
        space_cascade: false,
        spaced_letters: false,
    }
}

fn build(kind: Kind) -> Family {
    let set = |class| CharSet::Class(class);
    match kind {
        // [\p{P}$+<=>^~|]+ ; GPT-2's ; \p{N}+ ; [0-9]{3}
        Kind::Default => Family::new(vec![
            Stage::Runs(CharSet::PunctuationAnd("$+<=>^~|")),
            Stage::Gpt2,
            Stage::Runs(set(NUMBER)),
            Stage::AsciiTriples,
        ]),
        Kind::Llama3 => {
            Family { ignore_merges: true, add_bos: true, ..Family::new(vec![Stage::Words(llama3(3))]) }
        }
        Kind::Dbrx => Family::new(vec![Stage::Words(llama3(3))]),
        // [\r\n] ; \s?[cased letters]+ ; \s?[punctuation]+ ; \s+$ ; [CJK, Hangul]+ ; \p{N}+
        Kind::DeepSeekLlm => Family::new(vec![
            Stage::Each(set(NEWLINE)),
            Stage::SpacedRuns(CharSet::Ranges(DEEPSEEK_LETTERS)),
            Stage::SpacedRuns(CharSet::Ranges(DEEPSEEK_PUNCTUATION)),
            Stage::TrailingSpace,
            Stage::Runs(CharSet::Ranges(CJK_DEEPSEEK)),
            Stage::Runs(set(NUMBER)),
        ]),
        // [\r\n] ; \s?\p{L}+ ; \s?\p{P}+ ; [CJK, Hangul]+ ; \p{N}
        Kind::DeepSeekCoder => Family::new(vec![
            Stage::Each(set(NEWLINE)),
            Stage::SpacedRuns(set(LETTER)),
            Stage::SpacedRuns(set(PUNCTUATION)),
            Stage::Runs(CharSet::Ranges(CJK_DEEPSEEK)),
            Stage::Each(set(NUMBER)),
        ]),
        // \p{N}{1,3} ; [CJK, kana]+ ; the words of `Stage::DeepSeekWords`
        Kind::DeepSeek3 => Family::new(vec![
            Stage::UpTo3(set(NUMBER)),
            Stage::Runs(CharSet::Ranges(CJK_DEEPSEEK3)),
            Stage::DeepSeekWords,
        ]),
        Kind::Afmoe => Family::new(vec![
            Stage::TriplesFromRight { class: NUMBER, only_at_word_end: false },
            Stage::Runs(CharSet::Ranges(CJK_AFMOE)),
            Stage::DeepSeekWords,
        ]),
        // Runs of Hangul, of East Asian punctuation, of Bopomofo, of CJK and kana; then o200k's with single digits.
        Kind::Youtu => Family {
            ignore_merges: true,
            ..Family::new(vec![
                Stage::YoutuRuns,
                Stage::Cased(cased::Cased { contractions: true, max_digits: 1, split_han: false }),
            ])
        },
        // [\p{P}$+<=>^~|`]+ ; GPT-2's ; [0-9]{3}
        Kind::Falcon => Family::new(vec![
            Stage::Runs(CharSet::PunctuationAnd("$+<=>^~|`")),
            Stage::Gpt2,
            Stage::AsciiTriples,
        ]),
        // \p{N} ; GPT-2's
        Kind::Starcoder => Family::new(vec![Stage::Each(set(NUMBER)), Stage::Gpt2]),
        Kind::Gpt2 => Family::new(vec![Stage::Gpt2]),
        // llama3's with white space cut to 512, 256, ..., 4, 2 or 1 characters.
        Kind::Jais2 => Family::new(vec![Stage::Words(Words { space_cascade: true, ..llama3(3) })]),
        Kind::Qwen2 => Family::new(vec![Stage::Words(llama3(1))]),
        // \p{N}{1,3} ; llama3's
        Kind::MiniCpm5 => Family {
            ignore_merges: true,
            ..Family::new(vec![Stage::UpTo3(set(NUMBER)), Stage::Words(llama3(3))])
        },
        // Contractions are nothing special.
        Kind::Ufakzeka => {
            Family::new(vec![Stage::Words(Words { contractions: Contractions::None, ..llama3(1) })])
        }
        // Marks count as letters.
        Kind::Qwen35 => Family::new(vec![Stage::Words(Words { letters: LETTER | MARK, ..llama3(1) })]),
        //  ?[^(\s|.,!?…。，、।۔،)]+
        Kind::Bloom => Family::new(vec![Stage::BloomWords]),
        Kind::Viking => Family::new(vec![Stage::BloomWords, Stage::Each(set(NUMBER))]),
        Kind::Tekken => Family {
            ignore_merges: true,
            add_bos: true,
            ..Family::new(vec![Stage::Cased(cased::Cased {
                contractions: false,
                max_digits: 1,
                split_han: false,
            })])
        },
        Kind::Chameleon => Family {
            add_bos: true,
            ..Family::new(vec![
                Stage::ChameleonSentinels,
                Stage::ChameleonImages,
                Stage::ChameleonSpaces,
                Stage::Each(set(NUMBER)),
                Stage::Each(CharSet::PunctuationAnd("$+<=>^`|~")),
                Stage::Gpt2,
            ])
        },
        Kind::Gpt4o => Family::new(vec![o200k()]),
        Kind::GraniteEmbedding => Family { ignore_merges: true, ..Family::new(vec![o200k()]) },
        // \d{1,3}(?=(?:\d{3})*\b) ; o200k's
        Kind::TinyAya => Family::new(vec![
            Stage::TriplesFromRight { class: crate::unicode::DIGIT, only_at_word_end: true },
            o200k(),
        ]),
        // [\p{Han}]+ first, and o200k's words without Han.
        Kind::KimiK2 => Family::new(vec![Stage::Cased(cased::Cased {
            contractions: true,
            max_digits: 3,
            split_han: true,
        })]),
        // \p{N}+ ; (?=(\d{3})+(?!\d)); words may span spaces, so there is nothing else.
        Kind::SuperBpe => Family::new(vec![
            Stage::Runs(set(NUMBER)),
            Stage::TriplesFromRight { class: crate::unicode::DIGIT, only_at_word_end: false },
        ]),
        Kind::Bailing => Family::new(vec![Stage::Words(llama3(1))]),
        //  ?[^\s\p{L}\p{N}\r\n]+ without the newlines behind it
        Kind::SeedCoder => {
            Family::new(vec![Stage::Words(Words { trailing: Trailing::Nothing, ..llama3(1) })])
        }
        // [^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+ : words may span single spaces
        Kind::ExaoneMoe => Family::new(vec![Stage::Words(Words {
            spaced_letters: true,
            trailing: Trailing::OneNewlineOrSlash,
            ..llama3(1)
        })]),
        // [^\n]+|\n+ on text whose spaces are ▁
        Kind::Gemma4 => Family { plain_utf8: true, ..Family::new(vec![Stage::Lines]) },
    }
}

fn o200k() -> Stage {
    Stage::Cased(cased::Cased { contractions: true, max_digits: 3, split_han: false })
}

/// Cuts `text` by `stages` and hands each piece to `emit`, in order; the pieces joined are the text.
pub(crate) fn split(stages: &[Stage], text: &str, emit: &mut dyn FnMut(&str)) {
    split_with(Classes::get(), stages, text, emit);
}

fn split_with(classes: Classes, stages: &[Stage], text: &str, emit: &mut dyn FnMut(&str)) {
    match stages {
        [] => {
            if !text.is_empty() {
                emit(text);
            }
        }
        [last] => last.split(classes, text, emit),
        [first, rest @ ..] => first.split(classes, text, &mut |piece| split_with(classes, rest, piece, emit)),
    }
}

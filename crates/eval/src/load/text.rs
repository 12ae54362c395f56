//! Text of about so many tokens, made of words whose tokens are known.
//!
//! Tokenizers part text before words, so the tokens of words add up: a text is as long as its words together. Where a
//! server counts tokens, each word's are asked for once, and texts come out exact; else an average makes them close.

use super::rng::Rng;

/// Common words, which most vocabularies hold as one token each; of many lengths, so that any number of tokens comes out
/// where each letter is one.
pub const CANDIDATES: [&str; 96] = [
    "a", "I", "at", "by", "do", "go", "he", "if", "in", "is", "it", "me", "my", "no", "of", "on", "or", "so",
    "to", "up", "we", "all", "and", "any", "ask", "boy", "but", "can", "day", "eat", "far", "few", "for",
    "get", "had", "her", "his", "how", "its", "let", "man", "new", "not", "now", "old", "one", "our", "out",
    "run", "say", "see", "she", "the", "two", "way", "who", "you", "best", "book", "come", "each", "find",
    "give", "good", "hand", "help", "home", "just", "know", "last", "life", "like", "long", "look", "made",
    "more", "name", "only", "over", "part", "same", "tell", "than", "that", "time", "very", "water", "where",
    "which", "world", "would", "people", "should", "because", "another", "through",
];

/// The most tokens that a candidate may have to be used.
const WORD_TOKENS_MAX: u32 = 16;

/// Words, each with a space before it, and what they count.
#[derive(Clone, Debug)]
pub enum Words {
    /// The tokens of each word are known.
    Counted(Counted),
    /// Only how many tokens a word has on average.
    Average(f64),
}

/// Words by tokens.
#[derive(Clone, Debug)]
pub struct Counted {
    words: Vec<(&'static str, u32)>,
    /// By tokens that are missing: a word to go on with so that the rest comes out. `None` where nothing does.
    towards: Vec<Option<usize>>,
}

impl Words {
    /// Words with their tokens. `None` if too few can be used.
    pub fn counted(counts: impl IntoIterator<Item = (&'static str, u32)>) -> Option<Self> {
        let words: Vec<_> =
            counts.into_iter().filter(|(_, tokens)| (1..=WORD_TOKENS_MAX).contains(tokens)).collect();
        // Variety makes prompts differ.
        if words.len() < CANDIDATES.len() / 4 {
            return None;
        }
        let mut towards: Vec<Option<usize>> = vec![None];
        let reaches = |towards: &[Option<usize>], n: usize| n == 0 || towards[n].is_some();
        for n in 1..=4 * WORD_TOKENS_MAX as usize {
            let fits = |&(_, tokens): &(&str, u32)| {
                n.checked_sub(tokens as usize).is_some_and(|rest| reaches(&towards, rest))
            };
            let found = words.iter().position(fits);
            towards.push(found);
        }
        Some(Self::Counted(Counted { words, towards }))
    }

    /// A text of as near to `n_tokens` as these words come.
    pub fn text(&self, n_tokens: u32, rng: &mut Rng) -> String {
        let mut text = String::new();
        let mut push = |word: &str| {
            text.push(' ');
            text.push_str(word);
        };
        match self {
            Self::Average(tokens_per_word) => {
                for _ in 0..((f64::from(n_tokens) / tokens_per_word).round() as u32).max(1) {
                    push(CANDIDATES[rng.below(CANDIDATES.len() as u64) as usize]);
                }
            }
            Self::Counted(Counted { words, towards }) => {
                let mut missing = n_tokens;
                while missing as usize >= towards.len() {
                    let (word, tokens) = words[rng.below(words.len() as u64) as usize];
                    push(word);
                    missing -= tokens;
                }
                // Now any way that comes out, chosen at random where a random word leaves one.
                while missing > 0 {
                    let drawn = rng.below(words.len() as u64) as usize;
                    let leaves_a_way = |at: usize| {
                        missing
                            .checked_sub(words[at].1)
                            .is_some_and(|n| n == 0 || towards[n as usize].is_some())
                    };
                    let Some(at) = Some(drawn).filter(|&at| leaves_a_way(at)).or(towards[missing as usize])
                    else {
                        break;
                    };
                    push(words[at].0);
                    missing -= words[at].1;
                }
            }
        }
        text
    }
}

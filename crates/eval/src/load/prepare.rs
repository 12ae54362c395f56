//! Before a run: how the server's tokens count, so that prompts come out as long as they are to be.
//!
//! Where the server has `/tokenize`, each word's tokens are asked for. One more request, answered with a token, tells
//! what a prompt has beside its text. Without `/tokenize`, two such requests tell how many tokens a word has on average.

use hyper::body::Bytes;
use ingle_api::client::{Dialect, Input, Speaker, token_count, tokenize_bodies};

use super::call::Failure;
use super::plan::Plan;
use super::rng::Rng;
use super::text::{CANDIDATES, Words};
use super::trace::Texts;

/// Words of the text by which a word's tokens are counted: what a tokenizer adds at the ends drowns in it.
const REPEATED: usize = 8;
/// Words or tokens of the requests that tell what is beside the text.
const PROBE: [u32; 2] = [64, 192];
/// Tokens per word where nothing tells: as English has them in common vocabularies.
const TOKENS_PER_WORD: f64 = 1.3;
/// Bytes of a reply of `/tokenize` that are read.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// How prompts of a wanted length are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Counting {
    /// The server counted the tokens of each word.
    Tokenize,
    /// From the prompt tokens of two requests: so many tokens per word on average.
    Usage(f64),
    /// The server tells nothing: an average of English is taken.
    Guess(f64),
    /// The trace has texts of its own.
    Given,
}

/// What was found out.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// How texts are made.
    pub texts: Texts,
    /// By what their tokens were counted.
    pub counting: Counting,
}

/// Asks the first server.
///
/// # Errors
/// If it refuses a request of the plan's kind, as it would refuse all others.
pub async fn prepare(plan: &Plan) -> Result<Prepared, Failure> {
    let average = |tokens_per_word| Texts { words: Words::Average(tokens_per_word), overhead: 0 };
    if !plan.trace.needs_texts() {
        return Ok(Prepared { texts: average(TOKENS_PER_WORD), counting: Counting::Given });
    }
    if let Some(words) = count_words(plan).await {
        let spent = probe(plan, &words, PROBE[0]).await?;
        let overhead = spent.map_or(0, |tokens| tokens.saturating_sub(u64::from(PROBE[0])) as u32);
        return Ok(Prepared { texts: Texts { words, overhead }, counting: Counting::Tokenize });
    }
    let one = Words::Average(1.0);
    let (first, second) = (probe(plan, &one, PROBE[0]).await?, probe(plan, &one, PROBE[1]).await?);
    let slope = first.zip(second).map(|(a, b)| (b as f64 - a as f64) / f64::from(PROBE[1] - PROBE[0]));
    match (first, slope) {
        (Some(first), Some(slope)) if slope > 0.0 => {
            let overhead = (first as f64 - slope * f64::from(PROBE[0])).round().max(0.0) as u32;
            Ok(Prepared { texts: Texts { overhead, ..average(slope) }, counting: Counting::Usage(slope) })
        }
        _ => Ok(Prepared { texts: average(TOKENS_PER_WORD), counting: Counting::Guess(TOKENS_PER_WORD) }),
    }
}

/// Words with their tokens; `None` if the server does not count.
async fn count_words(plan: &Plan) -> Option<Words> {
    let n_shapes = tokenize_bodies("", None).len();
    for shape in 0..n_shapes {
        let mut counts = Vec::with_capacity(CANDIDATES.len());
        for word in CANDIDATES {
            let text = format!(" {word}").repeat(REPEATED);
            let Some(n) = count(plan, &text, shape).await else { break };
            counts.push((word, ((n as f64 / REPEATED as f64).round()) as u32));
        }
        if counts.len() == CANDIDATES.len() {
            return Words::counted(counts);
        }
    }
    None
}

/// The tokens of a text, asked for in one of the two shapes.
async fn count(plan: &Plan, text: &str, shape: usize) -> Option<u64> {
    let body = Bytes::from(tokenize_bodies(text, plan.model.as_deref())[shape].to_string());
    let exchange = async {
        let mut reply = plan.clients.first()?.post("/tokenize", body).await.ok()?;
        if reply.status() != 200 {
            return None;
        }
        let body = reply.rest(REPLY_BYTES_MAX).await.ok()?;
        reply.keep();
        token_count(&body)
    };
    tokio::time::timeout(plan.timeout, exchange).await.ok()?
}

/// The prompt tokens of a request for one token; `None` if the server does not say.
async fn probe(plan: &Plan, words: &Words, n: u32) -> Result<Option<u64>, Failure> {
    let text = words.text(n, &mut Rng::new(plan.seed, &[u64::MAX, u64::from(n)]));
    let input = match plan.dialect {
        Dialect::Infill => Input::Gap { prefix: text, suffix: String::new() },
        Dialect::Chat | Dialect::Completions => Input::Messages(vec![(Speaker::User, text)]),
    };
    let heard = plan.call(0, &input, 1).await;
    match heard.failure {
        // One token may be one that has no text.
        Some(failure) if failure.kind != super::FailureKind::Empty => Err(failure),
        _ => Ok(heard.spent.map(|spent| spent.prompt_tokens)),
    }
}

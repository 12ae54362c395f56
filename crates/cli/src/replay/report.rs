//! What came of a replay, for people and for programs.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use ingle_api::record::{Difference, Place};
use ingle_chat::Provider;
use ingle_step::TokenId;
use serde_json::{Value, json};

/// What came of one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The same bytes.
    Same,
    /// The first difference.
    Different(Difference),
    /// It did not run to its end.
    Failed(String),
}

/// What came of all.
pub struct Report {
    /// In the order of the records; `None` where a record was not run.
    verdicts: Vec<Option<(PathBuf, Verdict)>>,
    /// Whether it was stopped before the end.
    pub is_stopped: bool,
}

impl Report {
    /// A report of records that are not run yet.
    pub fn new(n: usize) -> Self {
        Self { verdicts: vec![None; n], is_stopped: false }
    }

    /// Takes in a verdict.
    pub fn add(&mut self, i: usize, path: PathBuf, verdict: Verdict) {
        self.verdicts[i] = Some((path, verdict));
    }

    /// Records that were run.
    pub fn n_done(&self) -> usize {
        self.verdicts.iter().flatten().count()
    }

    fn n_same(&self) -> usize {
        self.verdicts.iter().flatten().filter(|(_, verdict)| *verdict == Verdict::Same).count()
    }

    /// Whether all were run and gave the same bytes.
    pub fn is_same(&self) -> bool {
        self.n_same() == self.verdicts.len()
    }

    /// Prints it to standard output: what is not the same, and how many are.
    pub fn print(&self, provider: &dyn Provider, as_json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            writeln!(out, "{}", self.to_json(provider))?;
            return Ok(());
        }
        for (path, verdict) in self.verdicts.iter().flatten() {
            match verdict {
                Verdict::Same => {}
                Verdict::Different(difference) => {
                    writeln!(out, "{}: DIFFERENT: {}", path.display(), in_words(difference, provider))?;
                }
                Verdict::Failed(why) => writeln!(out, "{}: FAILED: {why}", path.display())?,
            }
        }
        let (n, n_same) = (self.verdicts.len(), self.n_same());
        let stopped =
            if self.is_stopped { format!(" ({} of them were run)", self.n_done()) } else { String::new() };
        writeln!(out, "{n_same} of {n} records gave the same bytes{stopped}")?;
        Ok(())
    }

    fn to_json(&self, provider: &dyn Provider) -> Value {
        let each = self.verdicts.iter().flatten().map(|(path, verdict)| {
            let path = path.display().to_string();
            match verdict {
                Verdict::Same => json!({ "record": path, "result": "same" }),
                Verdict::Failed(why) => json!({ "record": path, "result": "failed", "error": why }),
                Verdict::Different(difference) => json!({
                    "record": path,
                    "result": "different",
                    "difference": details(difference),
                    "message": in_words(difference, provider),
                }),
            }
        });
        json!({
            "records": self.verdicts.len(),
            "run": self.n_done(),
            "same": self.n_same(),
            "stopped": self.is_stopped,
            "results": each.collect::<Vec<_>>(),
        })
    }
}

fn details(difference: &Difference) -> Value {
    let Difference { prompt, choice, place, context } = difference;
    let place = match place {
        Place::Count { what, counts } => {
            json!({ "kind": "count", "what": what, "recorded": counts[0], "replayed": counts[1] })
        }
        Place::Token { position, tokens } => {
            json!({ "kind": "token", "position": position, "recorded": tokens[0], "replayed": tokens[1] })
        }
        Place::Logprob { position, token, bits } => json!({
            "kind": "logprob", "position": position, "token": token,
            "recorded": f32::from_bits(bits[0]), "replayed": f32::from_bits(bits[1]),
            "recorded_bits": bits[0], "replayed_bits": bits[1],
        }),
        Place::Text { what, byte, texts } => {
            json!({ "kind": "text", "what": what, "byte": byte, "recorded": texts[0], "replayed": texts[1] })
        }
    };
    json!({ "prompt": prompt, "choice": choice, "context_tokens": context, "place": place })
}

fn in_words(difference: &Difference, provider: &dyn Provider) -> String {
    let Difference { prompt, choice, place, context } = difference;
    let text = |tokens: &[u32]| {
        let ids: Vec<TokenId> = tokens.iter().copied().map(TokenId).collect();
        let bytes = provider.token_bytes(None, &ids).unwrap_or_default().concat();
        format!("{:?}", String::from_utf8_lossy(&bytes))
    };
    let token = |token: Option<u32>| token.map_or("the end".into(), |t| format!("{t} {}", text(&[t])));
    let after = if context.is_empty() { String::new() } else { format!(" after {}", text(context)) };
    let what = match place {
        Place::Count { what, counts } => format!("{} {what} were recorded, {} came", counts[0], counts[1]),
        Place::Token { position, tokens } => {
            format!("token {position}{after}: {} was recorded, {} came", token(tokens[0]), token(tokens[1]))
        }
        Place::Logprob { position, token: id, bits } => format!(
            "token {position}{after}: {} is the same, its log-probability is not: {} ({:08x}) was recorded, {} ({:08x}) came",
            token(Some(*id)),
            f32::from_bits(bits[0]),
            bits[0],
            f32::from_bits(bits[1]),
            bits[1]
        ),
        Place::Text { what, byte, texts } => {
            format!("{what} at byte {byte}: {:?} was recorded, {:?} came", texts[0], texts[1])
        }
    };
    format!("prompt {prompt}, choice {choice}: {what}")
}

//! Sessions from a seed.

use ingle_api::client::{Input, Speaker};

use super::super::lengths::Lengths;
use super::super::rng::Rng;
use super::{PREFIX, SESSION, Session, Texts, Turn, prompt};

/// What sessions are like. Session number `n` depends on the seed, on `n` and on what stands here, alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Synthetic {
    /// Tokens of the first turn's prompt, what is shared included.
    pub prompt: Lengths,
    /// Tokens of each answer.
    pub output: Lengths,
    /// Tokens at the beginning that prompts of a group share. Prompts that come out shorter get one token of their own.
    pub shared_prefix: u32,
    /// Groups of prompts, each with a prefix of its own; at least 1.
    pub prefix_groups: u64,
    /// Turns of each session; at least 1.
    pub turns: u32,
    /// Tokens of what the user says in later turns.
    pub turn: Lengths,
    /// Different sessions, after which they come again; `None` if all differ.
    pub distinct: Option<u64>,
    /// Prompts are gaps to be filled: half of each stands before the gap, half after it.
    pub infill: bool,
}

impl Synthetic {
    pub(super) fn session(&self, number: u64, seed: u64, stream: u64, texts: &Texts) -> Session {
        let kind = self.distinct.map_or(number, |n| number % n);
        let mut rng = Rng::new(seed, &[SESSION, stream, kind]);
        let group = rng.below(self.prefix_groups);
        let turns = (0..self.turns).map(|turn| {
            let output_tokens = self.output.draw(&mut rng);
            let input = if turn > 0 {
                let n_tokens = self.turn.draw(&mut rng);
                Input::Messages(vec![(Speaker::User, texts.words.text(n_tokens, &mut rng))])
            } else {
                self.first_input(group, seed, texts, &mut rng)
            };
            Turn { at: None, input, output_tokens }
        });
        Session { number, turns: turns.collect() }
    }

    fn first_input(&self, group: u64, seed: u64, texts: &Texts, rng: &mut Rng) -> Input {
        // The prefix is the same in all runs with the seed: a server's cache has it after the first.
        let mut prefix = Rng::new(seed, &[PREFIX, group]);
        let n_tokens = self.prompt.draw(rng).max(self.shared_prefix + 1);
        let shared = (self.shared_prefix > 0).then_some((self.shared_prefix, &mut prefix));
        if self.infill {
            let n_suffix = (n_tokens - self.shared_prefix.min(n_tokens)) / 2;
            let suffix = if n_suffix > 0 { texts.words.text(n_suffix, rng) } else { String::new() };
            Input::Gap { prefix: prompt(texts, n_tokens - n_suffix, shared, rng), suffix }
        } else {
            Input::Messages(vec![(Speaker::User, prompt(texts, n_tokens, shared, rng))])
        }
    }
}

//! A draft model: a small model of the same vocabulary, which says greedily how an answer might go on.
//!
//! It has an executor and KV blocks of its own. Of each sequence it keeps what it was fed: the tokens so far and its own
//! guesses behind them. What of those came true stays; the rest is overwritten when the sequence is fed again. All
//! sequences of a step are fed together; a long beginning is read in parts, over several steps of the engine, and has no
//! guesses until it is read. Where blocks run out, whoever has not guessed for longest loses its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ingle_step::{
    BlockId, Executor, ExecutorError, ExecutorInfo, Input, SeqId, SeqStep, StepBatch, TokenId, Want,
};

use crate::block_allocator::BlockAllocator;
use crate::sampling::{argmax, log_softmax_of};

/// Rows of one step in which the draft model reads what it has not.
const READ_ROWS_MAX: usize = 256;

/// See the module's description.
pub struct DraftModel {
    executor: Box<dyn Executor>,
    blocks: BlockAllocator,
    seqs: BTreeMap<SeqId, Fed>,
    step: u64,
}

/// What a sequence was fed.
#[derive(Debug, Default)]
struct Fed {
    tokens: Vec<TokenId>,
    /// How many of them are known to be the sequence's own.
    n_own: usize,
    blocks: Vec<BlockId>,
    /// The step that it was last in.
    last_step: u64,
}

/// Guesses that are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Whose.
    pub seq: SeqId,
    /// All of its tokens. Never empty.
    pub tokens: &'a [TokenId],
    /// How many guesses at most.
    pub n_max: usize,
}

/// A sequence that is being guessed for.
struct Open<'a> {
    wish: Wish<'a>,
    /// Which of the wishes it is.
    at: usize,
    /// What is fed next.
    next: Vec<TokenId>,
}

impl DraftModel {
    /// A model that has read nothing.
    pub fn new(executor: Box<dyn Executor>) -> Self {
        let blocks = BlockAllocator::new(executor.info().n_blocks);
        Self { executor, blocks, seqs: BTreeMap::new(), step: 0 }
    }

    /// What runs it.
    pub fn info(&self) -> &ExecutorInfo {
        self.executor.info()
    }

    /// Forgets sequences that have ended.
    pub fn retain(&mut self, is_there: impl Fn(SeqId) -> bool) {
        let gone: Vec<SeqId> = self.seqs.keys().copied().filter(|&id| !is_there(id)).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    /// How many tokens of a sequence it has not read.
    pub fn n_unread(&self, seq: SeqId, tokens: &[TokenId]) -> usize {
        tokens.len() - self.seqs.get(&seq).map_or(0, |fed| fed.tokens.len().min(fed.n_own)).min(tokens.len())
    }

    /// The guesses for each wish. A guess that it gives less than `p_min` ends its sequence's, as does one that the
    /// vocabulary of `n_vocab` tokens lacks. `measured` learns of each step that only guessed: its rows and seconds.
    ///
    /// # Errors
    /// If the executor fails. The model is of no more use then.
    pub fn guess(
        &mut self,
        wishes: &[Wish<'_>],
        p_min: f32,
        n_vocab: usize,
        measured: &mut dyn FnMut(usize, f64),
    ) -> Result<Vec<Vec<TokenId>>, ExecutorError> {
        let mut guesses = vec![Vec::new(); wishes.len()];
        let wished: BTreeSet<SeqId> = wishes.iter().map(|wish| wish.seq).collect();
        let n_ctx = self.info().n_ctx;
        let mut n_left = READ_ROWS_MAX.max(wishes.len());
        let mut open: Vec<Open<'_>> = Vec::new();
        for (at, &wish) in wishes.iter().enumerate() {
            if wish.n_max == 0 || wish.tokens.len() >= n_ctx || n_left == 0 {
                continue;
            }
            let from = self.rewind(wish);
            let next = wish.tokens[from..].iter().copied().take(n_left).collect::<Vec<_>>();
            n_left -= next.len();
            open.push(Open { wish, at, next });
        }
        let mut is_reading = true;
        while !open.is_empty() {
            open.retain(|seq| self.make_room(seq, &wished));
            let n_rows = open.iter().map(|seq| seq.next.len()).sum();
            let began = Instant::now();
            let rows = self.run(&open)?;
            if !is_reading || n_rows <= 2 * open.len() {
                measured(n_rows, began.elapsed().as_secs_f64());
            }
            is_reading = false;
            for (seq, logits) in open.iter_mut().zip(rows) {
                seq.next.clear();
                // Who has more to read has no row.
                let Some(logits) = logits.filter(|logits| logits.iter().all(|l| l.is_finite())) else {
                    continue;
                };
                let token = TokenId(argmax(&logits));
                let is_sure = p_min <= 0.0 || log_softmax_of(&logits, token).0 >= p_min.ln();
                if (token.0 as usize) < n_vocab && is_sure {
                    let guessed = &mut guesses[seq.at];
                    guessed.push(token);
                    if guessed.len() < seq.wish.n_max && seq.wish.tokens.len() + guessed.len() < n_ctx {
                        seq.next.push(token);
                    }
                }
            }
            open.retain(|seq| !seq.next.is_empty());
        }
        Ok(guesses)
    }

    /// Finds out what of a sequence's guesses came true, and drops the others. Gives how many tokens stay read: never
    /// the last, of which something is wanted.
    fn rewind(&mut self, wish: Wish<'_>) -> usize {
        let fed = self.seqs.entry(wish.seq).or_default();
        let (mut n, n_max) = (fed.n_own.min(fed.tokens.len()), fed.tokens.len().min(wish.tokens.len() - 1));
        while n < n_max && fed.tokens[n] == wish.tokens[n] {
            n += 1;
        }
        let n = n.min(n_max);
        fed.tokens.truncate(n);
        fed.n_own = wish.tokens.len();
        n
    }

    /// Gives a sequence the blocks for what it is fed next, from whoever has not been fed for longest and is not in this
    /// step. False if there are none.
    fn make_room(&mut self, seq: &Open<'_>, wished: &BTreeSet<SeqId>) -> bool {
        let id = seq.wish.seq;
        let n_needed = (self.seqs[&id].tokens.len() + seq.next.len()).div_ceil(self.info().block_size);
        while self.seqs[&id].blocks.len() < n_needed {
            if let Some(block) = self.blocks.take() {
                self.seqs.entry(id).or_default().blocks.push(block);
                continue;
            }
            let others =
                self.seqs.iter().filter(|(other, fed)| !wished.contains(other) && !fed.blocks.is_empty());
            let Some(oldest) = others.min_by_key(|(_, fed)| fed.last_step).map(|(&id, _)| id) else {
                return false;
            };
            self.forget(oldest);
        }
        true
    }

    fn forget(&mut self, id: SeqId) {
        if let Some(fed) = self.seqs.remove(&id) {
            for block in fed.blocks {
                self.blocks.release(block);
            }
        }
    }

    /// Feeds all of them. Gives logits `(n_vocab,)` behind the last token of each, where all is read.
    fn run(&mut self, open: &[Open<'_>]) -> Result<Vec<Option<Vec<f32>>>, ExecutorError> {
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = StepBatch { step: self.step, ..StepBatch::default() };
        for Open { wish, next, .. } in open {
            let fed = self.seqs.get_mut(&wish.seq).expect("it has room");
            let start = fed.tokens.len();
            fed.tokens.extend(next);
            fed.last_step = self.step;
            let is_read = fed.tokens.len() >= wish.tokens.len();
            batch.seqs.push(SeqStep {
                seq: wish.seq,
                inputs: next.iter().map(|&token| Input::Token(token)).collect(),
                start: start as u32,
                block_table: fed.blocks.clone(),
                causal: true,
                wants: if is_read { vec![(next.len() as u32 - 1, Want::Logits)] } else { Vec::new() },
            });
        }
        let step = self.step;
        self.step += 1;
        self.executor.submit(batch)?;
        let mut out = self.executor.wait()?;
        assert!(
            out.step == step && out.seqs.len() == open.len(),
            "the draft model gave another step's results"
        );
        let rows = out.seqs.iter_mut().map(|seq| seq.rows.pop().map(|row| row.values)).collect();
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use ingle_testkit::scripted::{ScriptedExecutor, hashed_logits};

    use super::*;

    fn model(n_blocks: usize) -> DraftModel {
        DraftModel::new(Box::new(ScriptedExecutor::new(16, 64, 4, n_blocks)))
    }

    fn tokens(n: u32) -> Vec<TokenId> {
        (0..n).map(|i| TokenId(i * 5 % 16)).collect()
    }

    /// What the scripted model says greedily.
    fn greedy(tokens: &[TokenId], n: usize) -> Vec<TokenId> {
        let mut all = tokens.to_vec();
        for _ in 0..n {
            let mut logits = vec![0.0; 16];
            hashed_logits(&all, &mut logits);
            all.push(TokenId(argmax(&logits)));
        }
        all.split_off(tokens.len())
    }

    fn guess(model: &mut DraftModel, wishes: &[(u64, &[TokenId], usize)]) -> Vec<Vec<TokenId>> {
        let wishes: Vec<Wish<'_>> =
            wishes.iter().map(|&(seq, tokens, n_max)| Wish { seq: SeqId(seq), tokens, n_max }).collect();
        model.guess(&wishes, 0.0, 16, &mut |_, _| {}).expect("the executor does not fail")
    }

    #[test]
    fn guesses_go_on_from_what_came_true() {
        let mut model = model(16);
        let mut text = tokens(9);
        let first = guess(&mut model, &[(1, &text, 4)]).remove(0);
        assert_eq!(first, greedy(&text, 4));
        // Two came true, then something else was said.
        text.extend([first[0], first[1], TokenId((first[2].0 + 1) % 16)]);
        assert_eq!(model.n_unread(SeqId(1), &text), 3);
        assert_eq!(guess(&mut model, &[(1, &text, 3)]), [greedy(&text, 3)]);
        // All came true and one more.
        let said = greedy(&text, 4);
        text.extend(said);
        assert_eq!(guess(&mut model, &[(1, &text, 2)]), [greedy(&text, 2)]);
        model.retain(|_| false);
        assert_eq!(model.blocks.n_free(), 16);
    }

    #[test]
    fn sequences_are_guessed_for_together_and_by_their_own_wishes() {
        let mut model = model(16);
        let (a, b, c) = (tokens(5), tokens(11), tokens(3));
        let guesses = guess(&mut model, &[(1, &a, 3), (2, &b, 1), (3, &c, 0)]);
        assert_eq!(guesses, [greedy(&a, 3), greedy(&b, 1), Vec::new()]);
        assert_eq!(model.executor.info().n_blocks, 16);
        assert_eq!(model.step, 3, "as many steps as the longest wish");
    }

    #[test]
    fn where_blocks_run_out_the_oldest_loses_its_own() {
        let mut model = model(6);
        let (a, b) = (tokens(12), tokens(15));
        assert_eq!(guess(&mut model, &[(1, &a, 2)]), [greedy(&a, 2)]);
        assert_eq!(guess(&mut model, &[(2, &b, 2)]), [greedy(&b, 2)]);
        assert_eq!(model.n_unread(SeqId(1), &a), 12, "it was forgotten");
        assert_eq!(guess(&mut model, &[(1, &a, 2)]), [greedy(&a, 2)]);
        // Both at once do not fit: the first has its guesses, the other none.
        assert_eq!(guess(&mut model, &[(1, &a, 2), (2, &b, 2)]), [greedy(&a, 2), Vec::new()]);
    }

    #[test]
    fn nothing_is_guessed_beyond_the_context() {
        let mut model = model(32);
        let text = tokens(62);
        assert_eq!(guess(&mut model, &[(1, &text, 5)]), [greedy(&text, 2)]);
        assert_eq!(guess(&mut model, &[(2, &tokens(64), 5)]), [Vec::new()]);
    }

    #[test]
    fn what_is_unlikely_ends_a_guess() {
        let mut model = model(16);
        let text = tokens(6);
        let wishes = [Wish { seq: SeqId(1), tokens: &text, n_max: 8 }];
        let mut rows = Vec::new();
        let sure = model.guess(&wishes, 0.999, 16, &mut |n_rows, _| rows.push(n_rows)).unwrap();
        assert_eq!(sure, [Vec::new()], "no logits below 8 are that sure");
        assert!(rows.is_empty(), "a step that mostly reads tells nothing about guesses");
        let n_vocab = 8;
        let small = model.guess(&wishes, 0.0, n_vocab, &mut |n_rows, _| rows.push(n_rows)).unwrap();
        let known: Vec<TokenId> =
            greedy(&text, 8).into_iter().take_while(|token| (token.0 as usize) < n_vocab).collect();
        assert_eq!(small, [known]);
        assert!(!rows.is_empty() && rows.iter().all(|&n| n == 1), "{rows:?}");
    }
}

//! Context shift: how a sequence goes on that has filled the context, if its request has chosen so.
//!
//! The first tokens stay, the oldest of the others make way, and what is left is the sequence's text from then on. All of
//! it is computed again, at the positions that it has now, as if the sequence had been preempted: it waits, takes what the
//! prefix cache has of the new text, and reads the rest in chunks beside others.
//!
//! The keys could stay and be turned to their new positions instead, which is cheaper. But keys and values of deeper layers
//! have seen the tokens that made way, and each turn rounds the keys anew. So what follows would not be a function of a
//! text any more: nothing of it could be cached under the text's name, and a sequence that is preempted afterwards could not
//! be computed again with the same bits.
//!
//! Tokens make way one after the other's arrival, each time that the text is as long as the context and goes on: so it does
//! not matter how many came in one step.

use ingle_step::SeqId;

use super::Scheduler;

/// What makes way in a full context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// How many first tokens stay.
    pub n_keep: usize,
    /// How many tokens behind them make way; 1 or more. Both together are fewer than the context has.
    pub n_discard: usize,
}

impl Shift {
    /// How often tokens have made way when a sequence has come to `n_tokens`, those that made way included, and goes on, in
    /// a context of `n_ctx`.
    pub fn count(self, n_tokens: usize, n_ctx: usize) -> usize {
        n_tokens.checked_sub(n_ctx).map_or(0, |n_more| n_more / self.n_discard + 1)
    }
}

impl Scheduler {
    /// How many tokens of a sequence have made way: what lies before its [tokens](Scheduler::tokens) but for those that
    /// stayed.
    pub fn n_discarded(&self, id: SeqId) -> usize {
        self.seqs[&id].n_discarded
    }

    /// How many first tokens of a sequence are read before it says something: its prompt's, or what a shift left.
    pub fn n_to_read(&self, id: SeqId) -> usize {
        self.seqs[&id].n_to_read
    }

    /// Has tokens make way if a sequence, which has just got `n_new` tokens and goes on, fills the context.
    pub(super) fn shift_context(&mut self, id: SeqId, n_new: usize) {
        let n_ctx = self.max_seq_tokens();
        let seq = self.seq_mut(id);
        let Some(shift) = seq.shift.filter(|_| seq.tokens.len() >= n_ctx) else { return };
        let new = seq.tokens.split_off(seq.tokens.len() - n_new);
        for token in new {
            seq.tokens.push(token);
            if seq.tokens.len() == n_ctx {
                seq.tokens.drain(shift.n_keep..shift.n_keep + shift.n_discard);
                seq.n_discarded += shift.n_discard;
            }
        }
        self.release_blocks(id);
        self.running.remove(&id);
        self.waiting.insert(id);
        let seq = self.seq_mut(id);
        seq.forget_kv();
        seq.n_to_read = seq.tokens.len();
    }

    /// Counts the shifts of a sequence that has just got `n_new` tokens. Behind the last token of an answer there is none.
    pub(super) fn note_shifts(&mut self, id: SeqId, n_new: usize, done: bool) {
        let n_ctx = self.max_seq_tokens();
        let seq = &self.seqs[&id];
        let Some(shift) = seq.shift.filter(|_| n_new > 0) else { return };
        let after = seq.tokens.len() + seq.n_discarded;
        let n = shift.count(after - usize::from(done), n_ctx) - shift.count(after - n_new, n_ctx);
        self.shifts += n as u64;
        self.discarded_tokens += (n * shift.n_discard) as u64;
    }
}

#[cfg(test)]
mod tests {
    use ingle_step::TokenId;

    use super::super::{NewRequest, QueueBounds, RequestId, Sampled, SchedulerConfig};
    use super::*;

    const N_CTX: usize = 16;

    fn scheduler() -> Scheduler {
        Scheduler::new(SchedulerConfig {
            block_size: 4,
            n_blocks: 8,
            n_ctx: N_CTX,
            max_running_seqs: 4,
            step_token_budget: 64,
            queue: QueueBounds::shared(8, 1000),
            prefix_cache: true,
            max_preemptions: 2,
            swap_blocks: 0,
            attention_depth: 100,
            record_published: false,
        })
    }

    fn add(
        s: &mut Scheduler,
        n_prompt: u32,
        max_tokens: usize,
        n_keep: usize,
        n_discard: usize,
    ) -> RequestId {
        let prompt = (0..n_prompt).map(TokenId).collect();
        let shift = Some(Shift { n_keep, n_discard });
        s.add(NewRequest { shift, ..NewRequest::new(prompt, max_tokens) }).unwrap()
    }

    /// Runs a step in which the only sequence says so many tokens. Tells where its rows were.
    fn say(s: &mut Scheduler, n: u32, done: bool) -> (u32, usize) {
        let batch = s.schedule().expect("there is work");
        let step = &batch.seqs[0];
        let rows = (step.start, step.inputs.len());
        let next = (s.n_tokens(step.seq) + s.n_discarded(step.seq)) as u32;
        let tokens = (next..next + n).map(TokenId).collect();
        s.commit(&[Sampled { seq: step.seq, tokens, done }]);
        s.check_integrity();
        rows
    }

    fn text(s: &Scheduler, id: RequestId) -> Vec<u32> {
        s.tokens(id.choice(0)).unwrap().iter().map(|token| token.0).collect()
    }

    #[test]
    fn the_first_stay_and_the_oldest_others_make_way() {
        let mut s = scheduler();
        let id = add(&mut s, 13, 100, 5, 4);
        assert_eq!(say(&mut s, 1, false), (0, 13));
        assert_eq!(say(&mut s, 1, false), (13, 1));
        assert_eq!(s.draft_room(), [], "one more fills the context");
        assert_eq!(say(&mut s, 1, false), (14, 1));
        let left: Vec<u32> = (0..5).chain(9..16).collect();
        assert_eq!((text(&s, id), s.n_discarded(id.choice(0))), (left, 4));
        assert_eq!((s.stats().running, s.stats().waiting, s.stats().blocks_used), (0, 1, 0));
        // What stayed in full blocks is cached; of the next one, a token is.
        assert_eq!(say(&mut s, 1, false), (5, 7), "the rest is computed again");
        assert_eq!(s.generated(id.choice(0)), 4);
        assert_eq!(s.draft_room(), [(id.choice(0), 2)]);
        for _ in 0..2 {
            say(&mut s, 1, false);
        }
        assert_eq!(say(&mut s, 1, false), (14, 1));
        assert_eq!(text(&s, id), [0, 1, 2, 3, 4, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!((s.stats().shifts, s.stats().discarded_tokens), (2, 8));
        s.abort(id);
        s.check_integrity();
    }

    /// What a text is after so many tokens does not depend on how many came at a time.
    #[test]
    fn steps_do_not_matter() {
        let alone = |n: u32| {
            let mut s = scheduler();
            let id = add(&mut s, 10, 1000, 3, 5);
            (0..n).for_each(|_| _ = say(&mut s, 1, false));
            (text(&s, id), s.stats().shifts, s.stats().discarded_tokens)
        };
        for jumps in [[5, 1, 1], [6, 1, 30], [40, 40, 40], [7, 13, 1], [20, 5, 5]] {
            let mut s = scheduler();
            let id = add(&mut s, 10, 1000, 3, 5);
            jumps.iter().for_each(|&n| _ = say(&mut s, n, false));
            let got = (text(&s, id), s.stats().shifts, s.stats().discarded_tokens);
            assert_eq!(got, alone(jumps.iter().sum()), "{jumps:?}");
            let shift = Shift { n_keep: 3, n_discard: 5 };
            assert_eq!(shift.count(10 + jumps.iter().sum::<u32>() as usize, N_CTX) as u64, got.1);
        }
    }

    #[test]
    fn behind_the_last_token_nothing_makes_way() {
        for (n, done, expected) in [(6, false, 1), (6, true, 0), (7, true, 1), (9, true, 1), (30, true, 5)] {
            let mut s = scheduler();
            add(&mut s, 10, 30, 3, 5);
            say(&mut s, n, done);
            assert_eq!(s.stats().shifts, expected, "{n} tokens, done: {done}");
            assert_eq!(s.stats().waiting, usize::from(!done));
        }
    }

    #[test]
    #[should_panic(expected = "nothing would be left to go on from")]
    fn something_must_be_left() {
        add(&mut scheduler(), 10, 30, 12, 4);
    }
}

//! Draft tokens: guesses of what a sequence says next, computed in the same step as its last known token.
//!
//! A guess that the sampler then makes itself saves a step; the others leave nothing behind. So drafts take only what
//! everybody else leaves: rows of the budget once all others have theirs, and blocks that can be had without
//! preempting anyone. Rows that a step computed for rejected drafts are overwritten by the next one, as nothing reads
//! past a sequence's computed tokens. Blocks taken for them go back at once, except by a sequence whose whole need is
//! reserved: its drafts lie within that need, and it keeps what it has.

use ingle_step::{Input, SeqId, TokenId, Want};

use super::Scheduler;
use super::plan::Plan;

/// Draft rows in one step, over all sequences: each has a row of logits, which is large.
pub const DRAFT_ROWS_MAX: usize = 64;

impl Scheduler {
    /// Who decodes and could use draft tokens, and how many at most: as many as could all be accepted with one more
    /// sampled behind them.
    pub fn draft_room(&self) -> Vec<(SeqId, usize)> {
        self.runnable().map(|id| (id, self.room_of(id))).filter(|&(_, n_max)| n_max > 0).collect()
    }

    fn room_of(&self, id: SeqId) -> usize {
        let seq = &self.seqs[&id];
        let n_new = seq.n_new();
        if seq.want != Want::Logits || n_new == 0 || !seq.is_decode() {
            return 0;
        }
        let left = seq.max_tokens - n_new;
        // Where tokens make way, what was guessed behind them has another text before it.
        let n_room = self.max_seq_tokens().saturating_sub(seq.tokens.len());
        let left = if seq.shift.is_some() { left.min(n_room) } else { left };
        left.saturating_sub(1)
    }

    /// The tokens of a sequence so far; `None` if it has ended.
    pub fn tokens(&self, id: SeqId) -> Option<&[TokenId]> {
        Some(&self.seqs.get(&id)?.tokens)
    }

    /// Rows of sequences that decode and that the next step could compute.
    pub fn n_decode_pending(&self) -> usize {
        let decodes = self.runnable().map(|id| &self.seqs[&id]).filter(|seq| seq.is_decode());
        decodes.map(super::Sequence::n_pending).sum::<usize>().min(self.config.step_token_budget)
    }

    /// Tokens of prompts that the next step could compute.
    pub fn n_prompt_pending(&self) -> usize {
        let pending = self.seqs.values().filter(|seq| !seq.paused && !seq.is_decode());
        pending.map(super::Sequence::n_pending).sum::<usize>().min(self.config.step_token_budget)
    }

    /// Proposes what a sequence says next, for the next step alone. That step may take a part of it or nothing.
    pub fn set_draft(&mut self, id: SeqId, draft: Vec<TokenId>) {
        let n_max = self.room_of(id);
        assert!(draft.len() <= n_max, "a draft of {} tokens, where {n_max} could be used", draft.len());
        self.seq_mut(id).draft = draft;
    }

    /// The draft tokens of a sequence that are in the step that was scheduled last and not committed.
    pub fn draft(&self, id: SeqId) -> &[TokenId] {
        self.seqs.get(&id).map_or(&[], |seq| &seq.draft)
    }

    /// Adds draft rows where room is left. The last part of forming a step.
    pub(super) fn plan_drafts(&mut self, plan: &mut Plan) {
        let mut n_left = plan.budget.min(DRAFT_ROWS_MAX);
        for i in 0..plan.batch.seqs.len() {
            let id = plan.batch.seqs[i].seq;
            let seq = &self.seqs[&id];
            let end = plan.batch.seqs[i].start as usize + plan.batch.seqs[i].inputs.len();
            let wished = if end == seq.tokens.len() { seq.draft.len().min(n_left) } else { 0 };
            let n_rows = self.make_draft_room(id, end, wished);
            let draft = &mut self.seq_mut(id).draft;
            draft.truncate(n_rows);
            let step = &mut plan.batch.seqs[i];
            for &token in draft.iter() {
                step.wants.push((step.inputs.len() as u32, Want::Logits));
                step.inputs.push(Input::Token(token));
            }
            n_left -= n_rows;
            plan.budget -= n_rows;
            if n_rows > 0 {
                step.block_table.clone_from(&self.seqs[&id].blocks);
            }
        }
        for (_, seq) in self.seqs.iter_mut().filter(|(id, _)| !plan.members.contains(id)) {
            seq.draft.clear();
        }
    }

    /// Gives a sequence blocks for up to so many rows behind `end`, without taking them from anyone. Tells for how
    /// many they suffice.
    fn make_draft_room(&mut self, id: SeqId, end: usize, n_rows: usize) -> usize {
        let block_size = self.config.block_size;
        let mut n_slots = self.seqs[&id].blocks.len() * block_size;
        while n_slots < end + n_rows && self.available() + self.seqs[&id].n_reserved > 0 {
            let block = self.take_block(id);
            self.seq_mut(id).blocks.push(block);
            n_slots += block_size;
        }
        n_rows.min(n_slots - end)
    }

    /// Counts the draft tokens that were sampled too as computed; `n_new` tokens have just been added to a sequence
    /// all of whose tokens were computed before.
    pub(super) fn accept_draft(&mut self, id: SeqId, n_new: usize) {
        let seq = self.seq_mut(id);
        let draft = std::mem::take(&mut seq.draft);
        let new = &seq.tokens[seq.tokens.len() - n_new..];
        let n_equal = n_accepted(new, &draft);
        // The last token is always computed by the step that wants something of it.
        let n_more = n_equal.min(n_new.saturating_sub(1));
        if n_more > 0 {
            seq.n_computed += n_more;
            self.publish(id);
        }
    }

    /// What a step's drafts took and did not need goes back.
    pub(super) fn settle_draft(&mut self, id: SeqId) {
        let (block_size, max_preemptions) = (self.config.block_size, self.config.max_preemptions);
        let Some(seq) = self.seqs.get_mut(&id) else { return };
        seq.draft.clear();
        if seq.preemptions < max_preemptions {
            let n_needed = seq.n_computed.div_ceil(block_size).min(seq.blocks.len());
            let unneeded = seq.blocks.split_off(n_needed);
            self.release_all(&unneeded);
        }
    }
}

/// How many leading tokens of a draft are those that were sampled.
pub fn n_accepted(sampled: &[TokenId], draft: &[TokenId]) -> usize {
    sampled.iter().zip(draft).take_while(|(a, b)| a == b).count()
}

/// Whether the row behind `n_guessed` draft tokens says what follows, `said` being what has been sampled in this step: it
/// does if just these tokens were said.
pub fn row_counts(n_guessed: usize, said: &[TokenId], draft: &[TokenId]) -> bool {
    said.len() == n_guessed && n_accepted(said, draft) == n_guessed
}

#[cfg(test)]
mod tests {
    use ingle_step::StepBatch;

    use super::super::{NewRequest, Priority, QueueBounds, RequestId, Sampled, SchedulerConfig};
    use super::*;

    fn scheduler(n_blocks: usize, budget: usize) -> Scheduler {
        Scheduler::new(SchedulerConfig {
            block_size: 4,
            n_blocks,
            n_ctx: 64,
            max_running_seqs: 4,
            step_token_budget: budget,
            queue: QueueBounds::shared(8, 1000),
            prefix_cache: true,
            max_preemptions: 2,
            swap_blocks: 0,
            attention_depth: 100,
            record_published: false,
        })
    }

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|&id| TokenId(id)).collect()
    }

    fn add(s: &mut Scheduler, n_prompt: u32, max_tokens: usize, salt: u64) -> SeqId {
        let prompt = (0..n_prompt).map(TokenId).collect();
        s.add(NewRequest { salt, ..NewRequest::new(prompt, max_tokens) }).unwrap().choice(0)
    }

    /// Forms a step in which these sequences have drafts. Gives `seq:start+known+draft` of each.
    fn form(s: &mut Scheduler, drafts: &[(SeqId, &[u32])]) -> (String, StepBatch) {
        drafts.iter().for_each(|&(id, draft)| s.set_draft(id, tokens(draft)));
        let batch = s.schedule().expect("there is work");
        let story: Vec<String> = batch
            .seqs
            .iter()
            .map(|step| {
                let n_draft = s.draft(step.seq).len();
                let n_wanted = step.wants.len();
                assert!(
                    n_draft == 0 || n_wanted == n_draft + 1,
                    "each draft row is wanted, and the one before"
                );
                assert!(step.block_table.len() * 4 >= step.start as usize + step.inputs.len());
                format!("{}:{}+{}+{n_draft}", step.seq.0, step.start, step.inputs.len() - n_draft)
            })
            .collect();
        (story.join(" "), batch)
    }

    fn commit(s: &mut Scheduler, said: &[(SeqId, &[u32])]) {
        let results: Vec<Sampled> =
            said.iter().map(|&(seq, new)| Sampled { seq, tokens: tokens(new), done: false }).collect();
        s.commit(&results);
        s.check_integrity();
    }

    #[test]
    fn accepted_tokens_are_computed_and_rejected_ones_leave_nothing() {
        let mut s = scheduler(8, 64);
        let a = add(&mut s, 3, 20, 0);
        assert_eq!(s.draft_room(), [], "nobody decodes");
        assert_eq!(form(&mut s, &[]).0, "0:0+3+0");
        commit(&mut s, &[(a, &[50])]);
        assert_eq!(s.draft_room(), [(a, 18)]);
        let (story, batch) = form(&mut s, &[(a, &[51, 52, 53, 54, 55])]);
        assert_eq!(story, "0:3+1+5");
        assert_eq!(batch.seqs[0].block_table.len(), 3);
        assert_eq!(s.draft(a), tokens(&[51, 52, 53, 54, 55]));
        commit(&mut s, &[(a, &[51, 52, 99])]);
        assert_eq!(s.stats().blocks_used, 2, "the third block went back");
        assert_eq!(form(&mut s, &[]).0, "0:6+1+0", "two were accepted");
        commit(&mut s, &[(a, &[60])]);
        assert_eq!(form(&mut s, &[(a, &[61, 62])]).0, "0:7+1+2");
        commit(&mut s, &[(a, &[61, 62, 63])]);
        assert_eq!(form(&mut s, &[(a, &[64])]).0, "0:10+1+1", "all were accepted, and one more was sampled");
        // A jump: more tokens than guesses.
        commit(&mut s, &[(a, &[64, 65, 66, 67])]);
        assert_eq!(form(&mut s, &[(a, &[70, 71])]).0, "0:12+3+2", "behind a jump there are drafts too");
        commit(&mut s, &[(a, &[80])]);
        assert_eq!(form(&mut s, &[]).0, "0:15+1+0");
    }

    #[test]
    fn only_what_was_said_is_published() {
        let mut s = scheduler(8, 64);
        let a = add(&mut s, 3, 20, 0);
        form(&mut s, &[]);
        commit(&mut s, &[(a, &[50])]);
        form(&mut s, &[(a, &[51, 52, 53, 54, 55, 56, 57, 58])]);
        commit(&mut s, &[(a, &[51, 52, 53, 54, 99])]);
        s.abort(RequestId(0));
        let stats = s.stats();
        assert_eq!((stats.blocks_cached, stats.blocks_used), (2, 0), "two full blocks of what was said");
        let prompt = tokens(&[0, 1, 2, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59]);
        let b = s.add(NewRequest::new(prompt, 1)).unwrap().choice(0);
        assert_eq!(form(&mut s, &[]).0, format!("{}:8+5+0", b.0), "the draft's third block is not there");
    }

    #[test]
    fn drafts_take_what_the_budget_leaves() {
        let mut s = scheduler(32, 12);
        let (a, b) = (add(&mut s, 3, 20, 0), add(&mut s, 3, 20, 1));
        form(&mut s, &[]);
        commit(&mut s, &[(a, &[50]), (b, &[50])]);
        let draft: Vec<u32> = (60..70).collect();
        assert_eq!(form(&mut s, &[(a, &draft), (b, &draft)]).0, "0:3+1+10 1:3+1+0");
        commit(&mut s, &[(a, &[50]), (b, &[50])]);
        let c = add(&mut s, 7, 20, 2);
        assert_eq!(form(&mut s, &[(a, &draft), (b, &draft)]).0, "0:4+1+3 1:4+1+0 2:0+7+0");
        commit(&mut s, &[(a, &[50]), (b, &[50]), (c, &[50])]);
        add(&mut s, 30, 20, 3);
        assert_eq!(form(&mut s, &[(a, &draft)]).0, "0:5+1+0 1:5+1+0 2:7+1+0 3:0+9+0", "prompts come first");
        commit(&mut s, &[(a, &[50]), (b, &[50]), (c, &[50])]);
        assert!(s.draft(a).is_empty(), "a draft is for one step");
    }

    #[test]
    fn nobody_is_preempted_for_a_draft() {
        let mut s = scheduler(4, 64);
        let (a, b) = (add(&mut s, 4, 12, 0), add(&mut s, 4, 12, 1));
        form(&mut s, &[]);
        commit(&mut s, &[(a, &[50]), (b, &[50])]);
        // Each takes its second block; none is left.
        assert_eq!(form(&mut s, &[(a, &[1, 2, 3, 4, 5]), (b, &[1, 2, 3, 4])]).0, "0:4+1+3 1:4+1+3");
        commit(&mut s, &[(a, &[50]), (b, &[50])]);
        assert_eq!(s.stats().preemptions, 0);
        // A background sequence may have what is free, and gives it back.
        let mut s = scheduler(3, 64);
        let prompt = (0..4).map(TokenId).collect();
        let request = NewRequest { priority: Priority::Background, ..NewRequest::new(prompt, 8) };
        let a = s.add(request).unwrap().choice(0);
        form(&mut s, &[]);
        commit(&mut s, &[(a, &[50])]);
        assert_eq!(form(&mut s, &[(a, &[1, 2, 3, 4, 5])]).0, "0:4+1+5");
        commit(&mut s, &[(a, &[50])]);
        assert_eq!(s.stats().blocks_used, 2);
    }

    #[test]
    fn a_draft_never_reaches_beyond_the_end() {
        let mut s = scheduler(8, 64);
        let a = add(&mut s, 3, 4, 0);
        form(&mut s, &[]);
        commit(&mut s, &[(a, &[50])]);
        assert_eq!(s.draft_room(), [(a, 2)], "three tokens are left, of which the last needs no row");
        form(&mut s, &[(a, &[51, 52])]);
        commit(&mut s, &[(a, &[51, 52])]);
        assert_eq!(form(&mut s, &[]).0, "0:5+1+0", "the last token is always computed");
        commit(&mut s, &[]);
        assert_eq!(s.draft_room(), [], "one more token needs no guess");
    }

    #[test]
    #[should_panic(expected = "a draft of 3 tokens, where 2 could be used")]
    fn a_draft_that_is_too_long_is_a_bug() {
        let mut s = scheduler(8, 64);
        let a = add(&mut s, 3, 4, 0);
        form(&mut s, &[]);
        commit(&mut s, &[(a, &[50])]);
        s.set_draft(a, tokens(&[1, 2, 3]));
    }

    #[test]
    fn choices_draft_each_for_itself() {
        let mut s = scheduler(16, 64);
        let prompt = (0..6).map(TokenId).collect();
        let request = s.add(NewRequest { n_choices: 2, ..NewRequest::new(prompt, 10) }).unwrap();
        let (a, b) = (request.choice(0), request.choice(1));
        form(&mut s, &[]);
        assert_eq!(s.draft_room(), [], "nothing is guessed before the choices part");
        commit(&mut s, &[(a, &[50]), (b, &[60])]);
        let (story, batch) = form(&mut s, &[(a, &[51, 52, 53]), (b, &[61])]);
        assert_eq!(
            (story.as_str(), batch.copies.len()),
            ("0:6+1+3 1:6+1+1", 1),
            "one writes into its own copy"
        );
        commit(&mut s, &[(a, &[51, 99]), (b, &[61, 62])]);
        assert_eq!(form(&mut s, &[]).0, "0:8+1+0 1:8+1+0");
    }
}

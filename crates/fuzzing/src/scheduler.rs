//! The scheduler under traffic that a fuzzer makes up.

use std::collections::BTreeMap;

use ingle_chat::Pooling;
use ingle_engine::scheduler::{
    AddError, NewRequest, Priority, QueueBounds, RequestId, Sampled, Scheduler, SchedulerConfig, Shift,
    SwapSlot,
};
use ingle_step::{BlockImport, Executor, SeqStep, TokenId};
use ingle_testkit::scripted::{ScriptedExecutor, hashed_hidden, hashed_logits};

use crate::source::Source;

const N_VOCAB: usize = 8;
const END: TokenId = TokenId(0);
/// From this token on they come several at a time, up to so many.
const JUMPING: TokenId = TokenId(6);
const JUMP_MAX: usize = 12;
/// Requests that are there at once.
const CLIENTS_MAX: usize = 24;
/// Steps until all that fits in here must have ended.
const STEPS_MAX: usize = 5_000;

struct Client {
    prompt: Vec<TokenId>,
    max_tokens: usize,
    /// What makes way where so many tokens are there.
    shift: Option<(Shift, usize)>,
    prompt_logits: bool,
    pooling: Option<Pooling>,
    got: Vec<Vec<TokenId>>,
    done: Vec<bool>,
    n_prompt_rows: usize,
    paused: bool,
}

impl Client {
    /// How many rows before the prompt's last it gets.
    fn n_early_rows(&self) -> usize {
        let all = self.prompt.len() - 1;
        match self.pooling {
            Some(Pooling::Mean) => all,
            Some(Pooling::Cls | Pooling::Rank) => all.min(1),
            None if self.prompt_logits => all,
            None | Some(Pooling::Last) => 0,
        }
    }

    /// The text that a choice goes on from.
    fn text(&self, choice: usize) -> Vec<TokenId> {
        let mut text = self.prompt.clone();
        for &token in &self.got[choice] {
            text.push(token);
            if let Some((Shift { n_keep, n_discard }, _)) =
                self.shift.filter(|&(_, n_ctx)| text.len() == n_ctx)
            {
                text.drain(n_keep..n_keep + n_discard);
            }
        }
        text
    }

    /// The next token of a choice: the best one, moved by the choice's number so that choices differ. Some tokens are
    /// certain to be followed by others.
    fn sample(&mut self, choice: usize, logits: &[f32]) -> (Vec<TokenId>, bool) {
        assert!(!self.done[choice], "a finished choice has a result");
        let text = self.text(choice);
        let mut expected = [0.0; N_VOCAB];
        hashed_logits(&text, &mut expected);
        assert_eq!(logits, expected, "the logits of another history");
        if self.max_tokens == 0 {
            self.done[choice] = true;
            return (Vec::new(), true);
        }
        let best = (0..N_VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("there are tokens");
        let token = TokenId(((best + choice) % N_VOCAB) as u32);
        let n_jumped = if token.0 >= JUMPING.0 { text.len() % JUMP_MAX } else { 0 };
        let room = self.max_tokens - self.got[choice].len();
        let tokens: Vec<TokenId> = std::iter::repeat_n(token, (1 + n_jumped).min(room)).collect();
        self.got[choice].extend(&tokens);
        let done = token == END || self.got[choice].len() == self.max_tokens;
        self.done[choice] = done;
        (tokens, done)
    }
}

struct Traffic {
    config: SchedulerConfig,
    scheduler: Scheduler,
    executor: ScriptedExecutor,
    clients: BTreeMap<RequestId, Client>,
    /// What preempted sequences left outside.
    outside: BTreeMap<SwapSlot, Vec<u8>>,
}

/// Sizes, then arrivals, departures, pauses, steps and failures: after each the books balance, every row of values is
/// of its own sequence's history, and in the end everybody is served.
pub fn scheduler(data: &[u8]) {
    let mut source = Source::new(data);
    let config = SchedulerConfig {
        block_size: 1 + source.below(6),
        n_blocks: 1 + source.below(24),
        n_ctx: 2 + source.below(48),
        max_running_seqs: source.below(8),
        step_token_budget: source.below(32),
        queue: QueueBounds::shared(source.below(12), source.below(200)),
        prefix_cache: !source.flag(),
        max_preemptions: source.below(4) as u32,
        swap_blocks: source.below(16),
        attention_depth: 100,
        record_published: false,
    };
    let mut traffic = Traffic {
        executor: ScriptedExecutor::new(N_VOCAB, config.n_ctx, config.block_size, config.n_blocks),
        scheduler: Scheduler::new(config.clone()),
        config,
        clients: BTreeMap::new(),
        outside: BTreeMap::new(),
    };
    while !source.is_empty() {
        match source.byte() {
            0..=99 => traffic.arrive(&mut source),
            100..=119 => traffic.leave(&mut source),
            120..=149 => traffic.pause(&mut source),
            150..=159 => drop(traffic.step(true)),
            _ => drop(traffic.step(false)),
        }
        traffic.scheduler.check_integrity();
    }
    traffic.end();
}

impl Traffic {
    fn arrive(&mut self, source: &mut Source) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        // Few different beginnings, so that they are often shared.
        let (shared, n_shared) = (source.below(3), source.below(24));
        let mut prompt: Vec<TokenId> =
            (0..n_shared).map(|i| TokenId(((i * i + shared) % N_VOCAB) as u32)).collect();
        prompt.extend((0..1 + source.below(4)).map(|_| TokenId(source.below(N_VOCAB) as u32)));
        let max_tokens = source.below(32);
        let n_choices = [1, 1, 1, 2, 3, 5][source.below(6)];
        let kind = source.below(6);
        let prompt_logits = kind == 1;
        let pooling = [None, None, None, Some(Pooling::Mean), Some(Pooling::Cls), Some(Pooling::Last)][kind];
        let (max_tokens, n_choices) = if pooling.is_some() { (0, 1) } else { (max_tokens, n_choices) };
        let n_ctx = self.scheduler.max_seq_tokens();
        let shift = (pooling.is_none() && n_ctx > 1 && source.below(4) == 3).then(|| {
            let n_keep = source.below(n_ctx - 1);
            Shift { n_keep, n_discard: 1 + source.below(n_ctx - 1 - n_keep) }
        });
        let n_more = if shift.is_some() { max_tokens.min(1) } else { max_tokens };
        let fits = prompt.len() + n_more <= n_ctx;
        let added = self.scheduler.add(NewRequest {
            n_choices,
            shift,
            salt: source.below(2) as u64,
            prompt_logits,
            pooling: pooling.map(Into::into),
            priority: if source.below(4) == 3 { Priority::Background } else { Priority::Normal },
            ..NewRequest::new(prompt.clone(), max_tokens)
        });
        let (got, done) = (vec![Vec::new(); n_choices as usize], vec![false; n_choices as usize]);
        match added {
            Ok(id) => {
                assert!(fits, "what can never run was admitted");
                let client = Client {
                    prompt,
                    max_tokens,
                    shift: shift.map(|shift| (shift, n_ctx)),
                    prompt_logits,
                    pooling,
                    got,
                    done,
                    n_prompt_rows: 0,
                    paused: false,
                };
                assert!(self.clients.insert(id, client).is_none(), "an id is given twice");
            }
            Err(AddError::TooLong { .. }) => assert!(!fits, "what fits was refused"),
            Err(AddError::Full { .. } | AddError::TenantFull { .. }) => {}
        }
    }

    fn pick(&self, source: &mut Source) -> Option<RequestId> {
        let n = self.clients.len();
        (n > 0).then(|| *self.clients.keys().nth(source.below(n)).expect("there are that many"))
    }

    fn leave(&mut self, source: &mut Source) {
        if let Some(id) = self.pick(source) {
            self.scheduler.abort(id);
            self.clients.remove(&id);
        }
    }

    fn pause(&mut self, source: &mut Source) {
        if let Some(id) = self.pick(source) {
            let client = self.clients.get_mut(&id).expect("it was picked");
            client.paused = !client.paused;
            self.scheduler.set_paused(id, client.paused);
        }
    }

    /// One step; `false` if there is nothing to do.
    fn step(&mut self, fails: bool) -> bool {
        let batch = self.scheduler.schedule();
        let moves = self.scheduler.take_moves();
        for (block, slot) in moves.out {
            let bytes = self.executor.export_block(block).expect("the block is there");
            self.outside.insert(slot, bytes);
        }
        let Some(mut batch) = batch else {
            assert!(moves.back.is_empty(), "blocks come back with a batch");
            return false;
        };
        let back = moves.back.into_iter().map(|(slot, block)| {
            let bytes = self.outside.remove(&slot).expect("what comes back was moved out");
            BlockImport { block, bytes }
        });
        batch.imports = back.collect();
        let n_rows: usize = batch.seqs.iter().map(|s| s.inputs.len()).sum();
        let most = self.config.step_token_budget.max(self.config.max_running_seqs.max(1) + 1);
        assert!(n_rows <= most, "{n_rows} rows over a budget of {most}");
        // Counted with what has made way.
        let start = |s: &SeqStep| s.start + self.scheduler.n_discarded(s.seq) as u32;
        let starts: Vec<u32> = batch.seqs.iter().map(start).collect();
        self.executor.submit(batch).expect("the scheduler forms sound batches");
        let out = self.executor.wait().expect("no fault is scripted");
        if fails {
            for id in self.scheduler.in_flight() {
                self.scheduler.abort(id);
                self.clients.remove(&id).expect("only who is there runs");
            }
            self.scheduler.reset_kv();
            return true;
        }
        let mut results = Vec::new();
        for (seq_out, start) in out.seqs.into_iter().zip(starts) {
            let choices = self.scheduler.choices_of(seq_out.seq);
            let request = RequestId(seq_out.seq.0 - u64::from(choices.start));
            let client = self.clients.get_mut(&request).expect("only who is there runs");
            assert!(!client.paused, "a paused sequence runs");
            for row in seq_out.rows {
                let position = (start + row.row) as usize;
                if client.pooling.is_some() {
                    assert_eq!(row.values, hashed_hidden(&client.prompt[..=position]));
                    let is_last = position + 1 == client.prompt.len();
                    if is_last {
                        client.done[0] = true;
                        results.push(Sampled { seq: seq_out.seq, tokens: Vec::new(), done: true });
                    } else {
                        assert_eq!(position, client.n_prompt_rows, "early rows come once and in order");
                        client.n_prompt_rows += 1;
                    }
                    continue;
                }
                if position + 1 < client.prompt.len() {
                    let mut expected = [0.0; N_VOCAB];
                    hashed_logits(&client.prompt[..=position], &mut expected);
                    assert_eq!(position, client.n_prompt_rows, "prompt rows come once and in order");
                    assert_eq!(row.values, expected);
                    client.n_prompt_rows += 1;
                    continue;
                }
                for choice in choices.clone() {
                    let (tokens, done) = client.sample(choice as usize, &row.values);
                    results.push(Sampled { seq: request.choice(choice), tokens, done });
                }
            }
        }
        self.scheduler.commit(&results);
        self.clients.retain(|_, client| {
            let done = client.done.iter().all(|&done| done);
            let n_rows = client.n_early_rows();
            assert!(!done || client.n_prompt_rows == n_rows, "prompt rows are missing");
            !done
        });
        true
    }

    /// Everybody reads on: all end, and nothing is left behind.
    fn end(mut self) {
        for (&id, client) in &mut self.clients {
            client.paused = false;
            self.scheduler.set_paused(id, false);
        }
        for n_steps in 0.. {
            if self.clients.is_empty() {
                break;
            }
            assert!(n_steps < STEPS_MAX, "no end:\n{}", self.scheduler);
            assert!(self.step(false), "nothing runs, though these wait:\n{}", self.scheduler);
            self.scheduler.check_integrity();
        }
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.queued_requests, stats.queued_tokens), (0, 0, 0, 0));
        assert_eq!(stats.blocks_used, 0, "blocks leaked:\n{}", self.scheduler);
    }
}

//! Random traffic through the real scheduler, allocator, prefix cache and samplers, from a seed. After every step
//! the books must balance, and whatever happens (pauses, preemption, aborts of others, failed steps), a request's
//! tokens must be those that it gets alone, and a pooled text's rows those of that text. Some requests jump ahead:
//! certain tokens are followed by others that nobody samples. A part of the traffic is in the background: it must never
//! run while somebody normal has not begun, and must end all the same.

use std::collections::{BTreeMap, BTreeSet};

use ingle_chat::Pooling;
use ingle_engine::sampling::{DryBreakers, Sampler};
use ingle_engine::scheduler::{
    AddError, NewRequest, Priority, RequestId, Sampled, Scheduler, SchedulerConfig,
};
use ingle_step::{Executor, SamplingParams, StepBatch, TokenId};
use ingle_testkit::rng::Rng;
use ingle_testkit::scripted::{ScriptedExecutor, hashed_hidden, hashed_logits};

const N_VOCAB: usize = 16;
const END: TokenId = TokenId(0);

/// What one request is to get, and what it has got.
struct Client {
    prompt: Vec<TokenId>,
    max_tokens: usize,
    prompt_logits: bool,
    pooling: Option<Pooling>,
    priority: Priority,
    samplers: Vec<Sampler>,
    /// Of what is certain to follow; `None` if nothing is.
    jumps: Option<u64>,
    /// Per choice, as if it ran alone.
    expected: Vec<Vec<TokenId>>,
    got: Vec<Vec<TokenId>>,
    done: Vec<bool>,
    n_prompt_rows: usize,
    paused: bool,
}

impl Client {
    fn new(rng: &mut Rng, seq_max: usize) -> Self {
        // Few different beginnings, so that they are often shared.
        let mut base = Rng::new(rng.below(3) as u64);
        let n_shared = rng.below(seq_max);
        let n_prompt = (1 + n_shared + rng.below(4)).min(seq_max);
        let prompt: Vec<TokenId> = (0..n_prompt)
            .map(|i| {
                let draw = if i < n_shared { base.below(N_VOCAB) } else { rng.below(N_VOCAB) };
                TokenId(draw as u32)
            })
            .collect();
        let pooling = rng.one_in(4).then(|| Pooling::ALL[rng.below(3)]);
        let max_tokens = if pooling.is_some() { 0 } else { rng.below(seq_max - n_prompt + 1) };
        let params = SamplingParams {
            temperature: if rng.one_in(3) { 0.0 } else { 1.0 },
            seed: rng.next_u64(),
            ..SamplingParams::default()
        };
        let n_choices = if pooling.is_none() && rng.one_in(3) { 1 + rng.below(5) } else { 1 };
        let samplers: Vec<Sampler> = (0..n_choices as u32)
            .map(|choice| {
                let mut sampler = Sampler::new(params.clone(), DryBreakers::default(), choice);
                prompt.iter().for_each(|&t| sampler.accept(t));
                sampler
            })
            .collect();
        let jumps = rng.one_in(3).then(|| rng.next_u64());
        let expected = samplers.iter().map(|s| alone(s.clone(), jumps, &prompt, max_tokens)).collect();
        Self {
            prompt,
            max_tokens,
            prompt_logits: pooling.is_none() && rng.one_in(6),
            pooling,
            priority: if rng.one_in(3) { Priority::Background } else { Priority::Normal },
            samplers,
            jumps,
            expected,
            got: vec![Vec::new(); n_choices],
            done: vec![false; n_choices],
            n_prompt_rows: 0,
            paused: false,
        }
    }

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

    /// Takes the logits at the end of a choice's sequence.
    fn sample(&mut self, choice: usize, logits: &[f32]) -> (Vec<TokenId>, bool) {
        assert!(!self.done[choice], "a finished choice has a result");
        if self.max_tokens == 0 {
            self.done[choice] = true;
            return (Vec::new(), true);
        }
        let mut history = self.prompt.clone();
        history.extend(&self.got[choice]);
        let n_before = history.len();
        let token = self.samplers[choice].sample(&mut logits.to_vec(), n_before as u64);
        history.push(token);
        history.extend(self.jumps.map(|salt| certain(salt, &history)).unwrap_or_default());
        let new = cut(history.split_off(n_before), self.max_tokens - self.got[choice].len());
        new.iter().for_each(|&token| self.samplers[choice].accept(token));
        self.got[choice].extend(&new);
        let done = new.last() == Some(&END) || self.got[choice].len() == self.max_tokens;
        self.done[choice] = done;
        (new, done)
    }
}

/// What follows these tokens whatever anyone would sample: a function of them alone.
fn certain(salt: u64, tokens: &[TokenId]) -> Vec<TokenId> {
    let seed = tokens.iter().fold(salt, |hash, token| {
        (hash ^ u64::from(token.0)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    });
    let mut rng = Rng::new(seed);
    let n = if rng.one_in(3) { 1 + rng.below(12) } else { 0 };
    (0..n).map(|_| TokenId(rng.below(N_VOCAB) as u32)).collect()
}

/// Up to an end, and no more than so many.
fn cut(mut tokens: Vec<TokenId>, most: usize) -> Vec<TokenId> {
    let n = tokens.iter().position(|&token| token == END).map_or(tokens.len(), |at| at + 1);
    tokens.truncate(n.min(most));
    tokens
}

/// One token a step, whatever is certain.
fn alone(mut sampler: Sampler, jumps: Option<u64>, prompt: &[TokenId], max_tokens: usize) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    let mut logits = vec![0.0; N_VOCAB];
    let mut ahead = Vec::new().into_iter();
    while tokens.len() < prompt.len() + max_tokens {
        hashed_logits(&tokens, &mut logits);
        let forced = ahead.next();
        let token = forced.unwrap_or_else(|| sampler.sample(&mut logits, tokens.len() as u64));
        sampler.accept(token);
        tokens.push(token);
        if token == END {
            break;
        }
        if forced.is_none()
            && let Some(salt) = jumps
        {
            ahead = certain(salt, &tokens).into_iter();
        }
    }
    tokens.split_off(prompt.len())
}

#[derive(Default)]
struct Tally {
    finished: usize,
    /// Those of them that were pooled.
    pooled: usize,
    /// Those of them that were in the background.
    background: usize,
    /// Steps in which somebody of the background has begun and does not run.
    made_way: usize,
    aborted: usize,
    failed: usize,
    refused: usize,
    preemptions: u64,
    cached_tokens: u64,
    copies: usize,
    jumped: usize,
    steps: usize,
}

struct Simulation {
    rng: Rng,
    config: SchedulerConfig,
    scheduler: Scheduler,
    executor: ScriptedExecutor,
    clients: BTreeMap<RequestId, Client>,
    /// Everyone who was admitted and has ended, to see that nobody ends twice.
    ended: BTreeSet<RequestId>,
    tally: Tally,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let block_size = 1 + rng.below(6);
        let config = SchedulerConfig {
            block_size,
            n_blocks: 3 + rng.below(24),
            n_ctx: 8 + rng.below(48),
            max_running_seqs: 1 + rng.below(8),
            step_token_budget: 1 + rng.below(32),
            max_waiting_requests: 1 + rng.below(12),
            max_waiting_tokens: 8 + rng.below(200),
            prefix_cache: !rng.one_in(4),
            max_preemptions: rng.below(4) as u32,
        };
        Self {
            executor: ScriptedExecutor::new(N_VOCAB, config.n_ctx, block_size, config.n_blocks),
            scheduler: Scheduler::new(config.clone()),
            config,
            rng,
            clients: BTreeMap::new(),
            ended: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    fn run(mut self) -> Tally {
        let n_turns = 40 + self.rng.below(120);
        for _ in 0..n_turns {
            for _ in 0..self.rng.below(3) {
                self.arrive();
            }
            if self.rng.one_in(12) {
                self.leave();
            }
            self.pause();
            self.step();
        }
        // Everybody reads again: all must end.
        let ids: Vec<RequestId> = self.clients.keys().copied().collect();
        for id in ids {
            self.scheduler.set_paused(id, false);
            self.clients.get_mut(&id).unwrap().paused = false;
        }
        let mut steps_max = 20_000;
        while !self.clients.is_empty() {
            assert!(self.step(), "nothing runs, though these wait:\n{}", self.scheduler);
            steps_max -= 1;
            assert!(steps_max > 0, "no end:\n{}", self.scheduler);
        }
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.queued_requests, stats.queued_tokens), (0, 0, 0, 0));
        assert_eq!(stats.blocks_used, 0, "blocks leaked:\n{}", self.scheduler);
        self.tally.preemptions = stats.preemptions;
        self.tally.cached_tokens = stats.cached_tokens;
        self.tally
    }

    fn arrive(&mut self) {
        let client = Client::new(&mut self.rng, self.scheduler.max_seq_tokens());
        let too_long = self.rng.one_in(30) && client.pooling.is_none();
        let max_tokens = if too_long { self.config.n_ctx } else { client.max_tokens };
        let added = self.scheduler.add(NewRequest {
            n_choices: client.samplers.len() as u32,
            salt: self.rng.below(2) as u64,
            prompt_logits: client.prompt_logits,
            pooling: client.pooling.map(Into::into),
            priority: client.priority,
            ..NewRequest::new(client.prompt.clone(), max_tokens)
        });
        match added {
            Ok(id) => {
                assert!(!too_long, "what can never run was admitted");
                assert!(self.clients.insert(id, client).is_none());
            }
            Err(AddError::TooLong { .. }) => assert!(too_long, "what fits was refused"),
            Err(AddError::Full { waiting }) => {
                assert!(waiting > 0);
                self.tally.refused += 1;
            }
        }
    }

    fn pick(&mut self) -> Option<RequestId> {
        let n = self.clients.len();
        (n > 0).then(|| *self.clients.keys().nth(self.rng.below(n)).unwrap())
    }

    fn leave(&mut self) {
        if let Some(id) = self.pick() {
            self.scheduler.abort(id);
            self.end(id);
            self.tally.aborted += 1;
        }
    }

    fn pause(&mut self) {
        if self.rng.one_in(4)
            && let Some(id) = self.pick()
        {
            let client = self.clients.get_mut(&id).unwrap();
            client.paused = !client.paused;
            self.scheduler.set_paused(id, client.paused);
        }
    }

    fn end(&mut self, id: RequestId) -> Client {
        assert!(self.ended.insert(id), "request {} ends twice", id.0);
        self.clients.remove(&id).expect("who ends was there")
    }

    fn step(&mut self) -> bool {
        let Some(batch) = self.scheduler.schedule() else { return false };
        self.check_batch(&batch);
        self.tally.steps += 1;
        self.tally.copies += batch.copies.len();
        let starts: Vec<u32> = batch.seqs.iter().map(|s| s.start).collect();
        self.executor.submit(batch).unwrap();
        let out = self.executor.wait().unwrap();
        if self.rng.one_in(60) {
            self.fail_step();
            return true;
        }
        let mut results = Vec::new();
        for (seq_out, start) in out.seqs.into_iter().zip(starts) {
            let choices = self.scheduler.choices_of(seq_out.seq);
            let request = RequestId(seq_out.seq.0 - u64::from(choices.start));
            let client = self.clients.get_mut(&request).expect("only who is there runs");
            for row in seq_out.rows {
                let position = (start + row.row) as usize;
                if client.pooling.is_some() {
                    assert_eq!(row.values, hashed_hidden(&client.prompt[..=position]), "of its own text");
                    if position + 1 == client.prompt.len() {
                        client.done[0] = true;
                        self.tally.pooled += 1;
                        results.push(Sampled { seq: seq_out.seq, tokens: Vec::new(), done: true });
                    } else {
                        assert_eq!(position, client.n_prompt_rows, "early rows come once and in order");
                        client.n_prompt_rows += 1;
                    }
                    continue;
                }
                if position + 1 < client.prompt.len() {
                    let mut expected = vec![0.0; N_VOCAB];
                    hashed_logits(&client.prompt[..=position], &mut expected);
                    assert_eq!(position, client.n_prompt_rows, "prompt rows come once and in order");
                    assert_eq!(row.values, expected);
                    client.n_prompt_rows += 1;
                    continue;
                }
                for choice in choices.clone() {
                    let (tokens, done) = client.sample(choice as usize, &row.values);
                    self.tally.jumped += tokens.len().saturating_sub(1);
                    results.push(Sampled { seq: request.choice(choice), tokens, done });
                }
            }
        }
        self.scheduler.commit(&results);
        self.scheduler.check_integrity();
        let done = self.clients.iter().filter(|(_, c)| c.done.iter().all(|&d| d));
        for id in done.map(|(&id, _)| id).collect::<Vec<_>>() {
            let client = self.end(id);
            assert_eq!(client.got, client.expected, "request {} differs from itself alone", id.0);
            assert_eq!(client.n_prompt_rows, client.n_early_rows());
            self.tally.finished += 1;
            self.tally.background += usize::from(client.priority == Priority::Background);
        }
        true
    }

    fn fail_step(&mut self) {
        for id in self.scheduler.in_flight() {
            self.scheduler.abort(id);
            self.end(id);
            self.tally.failed += 1;
        }
        self.scheduler.reset_kv();
        self.scheduler.check_integrity();
        assert_eq!(self.scheduler.stats().blocks_free, self.config.n_blocks);
    }

    fn check_batch(&mut self, batch: &StepBatch) {
        let n_rows: usize = batch.seqs.iter().map(|s| s.inputs.len()).sum();
        let budget = self.config.step_token_budget.max(self.config.max_running_seqs + 1);
        assert!(n_rows <= budget, "{n_rows} rows over a budget of {budget}");
        for seq in &batch.seqs {
            let client = self.clients.range(..=RequestId(seq.seq.0)).next_back();
            assert!(!client.expect("only who is there runs").1.paused, "a paused sequence runs");
        }
        let runs = |id: &RequestId| {
            batch.seqs.iter().any(|s| self.clients.range(..=RequestId(s.seq.0)).next_back().unwrap().0 == id)
        };
        // The first choice tells, as long as it is there.
        let has_begun = |id: &RequestId, c: &Client| c.done[0] || self.scheduler.cached_tokens(*id).is_some();
        let mut background = self.clients.iter().filter(|(_, c)| c.priority == Priority::Background);
        if background.clone().any(|(id, _)| runs(id)) {
            let mut normal = self.clients.iter().filter(|(_, c)| c.priority == Priority::Normal && !c.paused);
            let waits = normal.find(|(id, c)| !has_begun(id, c));
            assert!(waits.is_none(), "somebody waits while the background runs:\n{}", self.scheduler);
        }
        let made_way = background.any(|(id, c)| !c.paused && has_begun(id, c) && !runs(id));
        self.tally.made_way += usize::from(made_way);
    }
}

/// Names the seed of a simulation that panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation failed: INGLE_SIMULATOR_SEED={} replays it", self.0);
        }
    }
}

#[test]
fn whatever_happens_a_request_gets_its_own_tokens() {
    let only: Option<u64> = std::env::var("INGLE_SIMULATOR_SEED").ok().map(|s| s.parse().expect("a seed"));
    let mut total = Tally::default();
    for seed in only.map_or(0..1000, |seed| seed..seed + 1) {
        let guard = Seed(seed);
        let tally = Simulation::new(seed).run();
        drop(guard);
        total.finished += tally.finished;
        total.pooled += tally.pooled;
        total.background += tally.background;
        total.made_way += tally.made_way;
        total.aborted += tally.aborted;
        total.failed += tally.failed;
        total.refused += tally.refused;
        total.preemptions += tally.preemptions;
        total.cached_tokens += tally.cached_tokens;
        total.copies += tally.copies;
        total.jumped += tally.jumped;
        total.steps += tally.steps;
    }
    println!(
        "{} steps: {} finished ({} in the background, which made way in {} steps), {} aborted, {} failed, {} refused, \
         {} preemptions, {} cached tokens, {} copies, {} tokens jumped",
        total.steps,
        total.finished,
        total.background,
        total.made_way,
        total.aborted,
        total.failed,
        total.refused,
        total.preemptions,
        total.cached_tokens,
        total.copies,
        total.jumped
    );
    if only.is_none() {
        // A simulation in which a thing never happens proves nothing about it.
        for (what, n) in [
            ("finished", total.finished),
            ("pooled", total.pooled),
            ("finished in the background", total.background),
            ("steps in which the background made way", total.made_way),
            ("aborted", total.aborted),
            ("failed", total.failed),
            ("refused", total.refused),
            ("preemptions", total.preemptions as usize),
            ("cached tokens", total.cached_tokens as usize),
            ("copies", total.copies),
            ("jumped tokens", total.jumped),
        ] {
            assert!(n >= 100, "{what}: only {n} in all simulations");
        }
    }
}

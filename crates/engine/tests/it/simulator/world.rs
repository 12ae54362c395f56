//! Random traffic from a seed: tenants with weights, ranks and deadlines, a clock that steps move, readers that pause,
//! clients that leave, memory that is too small, steps that fail. After every step everything is checked that must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ingle_engine::scheduler::{
    AddError, NewRequest, Overdue, Pace, Priority, QueueBounds, RequestId, Sampled, Scheduler,
    SchedulerConfig, StepBudget, n_accepted, row_counts,
};
use ingle_step::{AdapterId, AdapterUse, Executor, SeqStep, StepBatch, StepOut, TokenId};
use ingle_testkit::rng::Rng;
use ingle_testkit::scripted::{ScriptedExecutor, hashed_hidden, hashed_logits};

use super::client::{Client, N_VOCAB};
use super::tally::Tally;
use super::tiers::Outside;

/// For how many steps a request may wait that could run, is of the best level there is, and was at no time kept waiting
/// by a better one. Measured: an eighth of it.
const IDLE_STEPS_MAX: usize = 4000;

/// How large steps are.
enum Size {
    Full,
    Random,
    Paced(Pace),
}

pub struct Simulation {
    rng: Rng,
    config: SchedulerConfig,
    scheduler: Scheduler,
    executor: ScriptedExecutor,
    outside: Outside,
    size: Size,
    now: Duration,
    /// What a step takes, and each of its tokens, in microseconds.
    costs: (u64, u64),
    weights: Vec<u32>,
    has_ranks: bool,
    has_deadlines: bool,
    /// One step in so many fails.
    fault_rate: usize,
    /// One step in so many brings a request.
    arrival_rate: usize,
    clients: BTreeMap<RequestId, Client>,
    /// Who ended lately: nobody ends twice.
    ended: BTreeSet<RequestId>,
    budget: StepBudget,
    pub tally: Tally,
    pub idle_most: usize,
}

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let block_size = 1 + rng.below(6);
        let (requests, tokens) = (1 + rng.below(12), 8 + rng.below(200));
        let config = SchedulerConfig {
            block_size,
            n_blocks: 3 + rng.below(24),
            n_ctx: 8 + rng.below(48),
            max_running_seqs: 1 + rng.below(8),
            step_token_budget: 1 + rng.below(32),
            queue: QueueBounds {
                requests,
                tokens,
                tenant_requests: if rng.one_in(2) { requests } else { 1 + rng.below(requests) },
                tenant_tokens: if rng.one_in(2) { tokens } else { 1 + rng.below(tokens) },
            },
            prefix_cache: !rng.one_in(4),
            max_preemptions: rng.below(4) as u32,
            swap_blocks: if rng.one_in(3) { 0 } else { rng.below(30) },
            attention_depth: 1 + rng.below(100),
            record_published: true,
        };
        let weights = (0..1 + rng.below(4)).map(|_| 1 + rng.below(4) as u32).collect();
        let size = match rng.below(3) {
            0 => Size::Full,
            1 => Size::Random,
            _ => Size::Paced(Pace::new(Duration::from_millis(20), config.step_token_budget)),
        };
        Self {
            executor: ScriptedExecutor::new(N_VOCAB, config.n_ctx, block_size, config.n_blocks),
            scheduler: Scheduler::new(config.clone()),
            outside: Outside::default(),
            config,
            size,
            now: Duration::ZERO,
            costs: (rng.below(20_000) as u64, 100 + rng.below(5_000) as u64),
            weights,
            has_ranks: rng.one_in(3),
            has_deadlines: rng.one_in(2),
            fault_rate: [60, 500, usize::MAX][rng.below(3)],
            arrival_rate: 1 + rng.below(3),
            rng,
            clients: BTreeMap::new(),
            ended: BTreeSet::new(),
            budget: StepBudget { tokens: 1, fixed_cost: 0 },
            tally: Tally::default(),
            idle_most: 0,
        }
    }

    /// Traffic for so many turns, and then until all have ended.
    pub fn run(mut self, n_turns: usize) -> (Tally, usize) {
        for turn in 0..n_turns {
            // Mostly not many more than find room: to be refused is soon told.
            let is_crowded = self.clients.len() > self.config.queue.requests + 4;
            let n_arrivals = match is_crowded && !self.rng.one_in(8) {
                true => 0,
                false => usize::from(self.rng.one_in(self.arrival_rate)) + self.rng.below(2),
            };
            for _ in 0..n_arrivals {
                self.arrive();
            }
            if self.rng.one_in(12) {
                self.leave();
            }
            if self.rng.one_in(500) {
                self.now += Duration::from_secs(3600);
                self.tally.clock_jumps += 1;
            }
            self.pause();
            self.step();
            // What ended long ago cannot end again.
            if turn % 1000 == 0 {
                self.ended.clear();
            }
        }
        self.finish();
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.queued_requests, stats.queued_tokens), (0, 0, 0, 0));
        assert_eq!(stats.blocks_used, 0, "blocks leaked:\n{}", self.scheduler);
        assert_eq!(stats.blocks_swapped, 0, "slots leaked:\n{}", self.scheduler);
        self.tally.swapped_in = stats.blocks_swapped_in as usize;
        self.tally.preemptions = stats.preemptions as usize;
        self.tally.shifts = stats.shifts as usize;
        self.tally.cached_tokens = stats.cached_tokens as usize;
        (self.tally, self.idle_most)
    }

    /// Everybody reads again: all must end.
    fn finish(&mut self) {
        let ids: Vec<RequestId> = self.clients.keys().copied().collect();
        for id in ids {
            self.scheduler.set_paused(id, false);
            self.clients.get_mut(&id).unwrap().paused = false;
        }
        let mut steps_max = 20_000;
        while !self.clients.is_empty() {
            let ran = self.step();
            assert!(ran || self.clients.is_empty(), "nothing runs, though these wait:\n{}", self.scheduler);
            steps_max -= 1;
            assert!(steps_max > 0, "no end:\n{}", self.scheduler);
        }
    }

    fn arrive(&mut self) {
        let mut client = Client::new(&mut self.rng, self.scheduler.max_seq_tokens());
        client.tenant = self.rng.below(self.weights.len());
        if self.has_ranks && self.rng.one_in(3) {
            client.rank = self.rng.below(3) as i16 - 1;
        }
        if self.has_deadlines {
            let mut time = || self.rng.one_in(3).then(|| Duration::from_millis(self.rng.below(3000) as u64));
            client.queue_deadline = time().map(|after| self.now + after);
            client.deadline = time().map(|after| self.now + 2 * after);
        }
        let too_long = self.rng.one_in(30) && client.pooling.is_none() && client.shift.is_none();
        let max_tokens = if too_long { self.config.n_ctx } else { client.max_tokens };
        // Some have an adapter, and with it a salt of their own: the executor notices a block that was computed without.
        let is_adapted = client.pooling.is_none() && self.rng.one_in(4);
        let used = AdapterUse { adapter: AdapterId(7), scale: 0.5 };
        let salt = if is_adapted { 2 } else { (client.tenant % 2) as u64 };
        if self.rng.one_in(2) {
            let Self { outside, scheduler, executor, tally, config, .. } = self;
            outside.adopt(scheduler, executor, config.block_size, salt, &client.prompt, tally);
        }
        let added = self.scheduler.add(NewRequest {
            n_choices: client.samplers.len() as u32,
            salt,
            adapters: if is_adapted { vec![used] } else { Vec::new() },
            shift: client.shift,
            prompt_logits: client.prompt_logits,
            pooling: client.pooling.map(Into::into),
            priority: client.priority,
            rank: client.rank,
            tenant: client.tenant as u64,
            weight: self.weights[client.tenant],
            queue_deadline: client.queue_deadline,
            deadline: client.deadline,
            ..NewRequest::new(client.prompt.clone(), max_tokens)
        });
        match added {
            Ok(id) => {
                assert!(!too_long, "what can never run was admitted");
                client.expect();
                self.outside.enter(id, salt);
                self.tally.ranked += usize::from(client.rank != 0);
                assert!(self.clients.insert(id, client).is_none());
            }
            Err(AddError::TooLong { .. }) => assert!(too_long, "what fits was refused"),
            Err(AddError::Full { waiting }) => {
                assert!(waiting >= self.config.queue.requests.min(1));
                self.tally.refused += 1;
            }
            Err(AddError::TenantFull { waiting }) => {
                let of_tenant = |c: &&Client| (c.tenant, c.priority) == (client.tenant, client.priority);
                let own = self.clients.values().filter(of_tenant).filter(|c| !c.has_begun).count();
                assert_eq!(own, waiting, "requests of the tenant wait");
                self.tally.tenant_refused += 1;
            }
        }
    }

    /// Proposes what sequences say next, as often wrong as each client has it.
    fn guess(&mut self) {
        for (seq, n_max) in self.scheduler.draft_room() {
            let (&id, client) =
                self.clients.range(..=RequestId(seq.0)).next_back().expect("only who is there decodes");
            if client.guesses == 0 {
                continue;
            }
            let choice = (seq.0 - id.0) as usize;
            let known = client.expected[choice].iter().skip(client.got[choice].len());
            let n = (1 + self.rng.below(9)).min(n_max);
            let rng = &mut self.rng;
            let mut token = |token: Option<&TokenId>| match token {
                Some(&token) if !rng.one_in(client.guesses) => token,
                _ => TokenId(rng.below(N_VOCAB) as u32),
            };
            let known = known.map(Some).chain(std::iter::repeat(None));
            let draft: Vec<TokenId> = known.take(n).map(&mut token).collect();
            self.scheduler.set_draft(seq, draft);
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
        self.outside.leave(id);
        self.clients.remove(&id).expect("who ends was there")
    }

    /// Ends whose time is over: exactly those.
    fn end_overdue(&mut self) {
        let now = self.now;
        let why = |c: &Client| {
            let is_over = |at: Option<Duration>| at.is_some_and(|at| at <= now);
            let queued = (is_over(c.queue_deadline) && !c.has_begun).then_some(Overdue::Queued);
            is_over(c.deadline).then_some(Overdue::Unfinished).or(queued)
        };
        let expected: Vec<_> = self.clients.iter().filter_map(|(&id, c)| Some((id, why(c)?))).collect();
        assert_eq!(self.scheduler.overdue(now), expected, "at {now:?}");
        for (id, why) in expected {
            self.scheduler.abort(id);
            self.end(id);
            match why {
                Overdue::Queued => self.tally.late_queued += 1,
                Overdue::Unfinished => self.tally.late_running += 1,
            }
        }
    }

    fn draw_budget(&mut self) -> StepBudget {
        let most = self.config.step_token_budget.max(self.config.max_running_seqs + 1);
        match &self.size {
            Size::Full => StepBudget { tokens: most, fixed_cost: usize::MAX },
            Size::Random => StepBudget { tokens: 1 + self.rng.below(most), fixed_cost: self.rng.below(most) },
            Size::Paced(pace) => pace.budget(),
        }
    }

    fn step(&mut self) -> bool {
        self.end_overdue();
        self.guess();
        self.budget = self.draw_budget();
        let batch = self.scheduler.schedule_within(self.budget);
        let imports = self.outside.move_blocks(&mut self.scheduler, &mut self.executor);
        let Some(mut batch) = batch else {
            assert!(imports.is_empty(), "blocks come back with a batch");
            // Time goes on where nothing runs.
            self.now += Duration::from_millis(50);
            return false;
        };
        batch.imports = imports;
        self.check_batch(&batch);
        let n_rows: usize = batch.seqs.iter().map(|s| s.inputs.len()).sum();
        self.tally.steps += 1;
        self.tally.rows += n_rows;
        self.tally.copies += batch.copies.len();
        self.pass_time(n_rows);
        // Counted with what has made way.
        let start = |s: &SeqStep| s.start + self.scheduler.n_discarded(s.seq) as u32;
        let starts: Vec<u32> = batch.seqs.iter().map(start).collect();
        self.executor.submit(batch).unwrap();
        let out = self.executor.wait().unwrap();
        if self.rng.one_in(self.fault_rate) {
            self.fail_step();
            return true;
        }
        let (results, touched) = self.sample(out, &starts);
        self.scheduler.commit(&results);
        self.scheduler.check_integrity();
        let Self { outside, scheduler, executor, tally, config, .. } = self;
        outside.keep_published(scheduler, executor, config.block_size, tally);
        for id in touched {
            if self.clients[&id].done.iter().all(|&d| d) {
                let client = self.end(id);
                client.check(id);
                self.tally.finished += 1;
                self.tally.background += usize::from(client.priority == Priority::Background);
            }
        }
        true
    }

    /// A step takes its time, sometimes a multiple of it.
    fn pass_time(&mut self, n_rows: usize) {
        let slowness = if self.rng.one_in(40) { 20 } else { 1 };
        let took = Duration::from_micros((self.costs.0 + self.costs.1 * n_rows as u64) * slowness);
        self.now += took;
        if let Size::Paced(pace) = &mut self.size {
            pace.step(n_rows, took);
        }
    }

    /// What the step gives everyone in it, and whose requests those are.
    fn sample(&mut self, out: StepOut, starts: &[u32]) -> (Vec<Sampled>, BTreeSet<RequestId>) {
        let (mut results, mut touched) = (Vec::new(), BTreeSet::new());
        for (seq_out, start) in out.seqs.into_iter().zip(starts) {
            let choices = self.scheduler.choices_of(seq_out.seq);
            let request = RequestId(seq_out.seq.0 - u64::from(choices.start));
            touched.insert(request);
            let client = self.clients.get_mut(&request).expect("only who is there runs");
            let draft = self.scheduler.draft(seq_out.seq);
            let n_tokens = self.scheduler.n_tokens(seq_out.seq) + self.scheduler.n_discarded(seq_out.seq);
            let (mut said, mut is_done) = (Vec::new(), false);
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
                let n_guessed = (position + 1).saturating_sub(n_tokens);
                if is_done || (n_guessed > 0 && !row_counts(n_guessed, &said, draft)) {
                    continue;
                }
                for choice in choices.clone() {
                    let (tokens, done): (Vec<TokenId>, bool) = client.sample(choice as usize, &row.values);
                    self.tally.jumped += tokens.len().saturating_sub(1);
                    is_done = done;
                    if n_guessed == 0 {
                        said = tokens.clone();
                        results.push(Sampled { seq: request.choice(choice), tokens, done });
                    } else if let Some(last) = results.last_mut() {
                        said.extend(&tokens);
                        last.tokens.extend(tokens);
                        last.done = done;
                    }
                }
            }
            let n_equal = n_accepted(&said, draft);
            self.tally.accepted += n_equal;
            self.tally.rejected += draft.len() - n_equal;
        }
        (results, touched)
    }

    fn fail_step(&mut self) {
        for id in self.scheduler.in_flight() {
            self.scheduler.abort(id);
            self.end(id);
            self.tally.failed += 1;
        }
        self.scheduler.reset_kv();
        self.outside.reset();
        self.scheduler.check_integrity();
        assert_eq!(self.scheduler.stats().blocks_free, self.config.n_blocks);
    }

    fn check_batch(&mut self, batch: &StepBatch) {
        let n_rows: usize = batch.seqs.iter().map(|s| s.inputs.len()).sum();
        assert!(n_rows <= self.budget.tokens, "{n_rows} rows over a budget of {}", self.budget.tokens);
        let n_places = self.config.max_running_seqs;
        assert!(batch.seqs.len() <= n_places, "{} sequences in {n_places} places", batch.seqs.len());
        let owner =
            |seq: u64| *self.clients.range(..=RequestId(seq)).next_back().expect("only who is there runs").0;
        let members: BTreeSet<RequestId> = batch.seqs.iter().map(|s| owner(s.seq.0)).collect();
        for id in &members {
            assert!(!self.clients[id].paused, "a paused sequence runs");
        }
        self.check_order(&members);
        self.check_waits(&members);
        for id in members {
            let client = self.clients.get_mut(&id).expect("a member");
            client.has_begun = true;
        }
    }

    /// Who begins does so in turn: nobody while a better level waits, or an older request of the tenant.
    fn check_order(&mut self, members: &BTreeSet<RequestId>) {
        let waits = |(id, c): &(&RequestId, &Client)| !c.has_begun && !c.paused && !members.contains(id);
        let waiting: Vec<(&RequestId, &Client)> = self.clients.iter().filter(waits).collect();
        for id in members {
            let client = &self.clients[id];
            if client.priority == Priority::Background {
                let normal = waiting.iter().find(|(_, c)| c.priority == Priority::Normal);
                assert!(normal.is_none(), "somebody waits while the background runs:\n{}", self.scheduler);
            }
            if client.has_begun {
                continue;
            }
            for (other, waiting) in &waiting {
                let is_passed = waiting.level() < client.level()
                    || (waiting.level() == client.level() && waiting.tenant == client.tenant && *other < id);
                assert!(!is_passed, "request {} passes {}:\n{}", id.0, other.0, self.scheduler);
            }
        }
        let background = self.clients.iter().filter(|(_, c)| c.priority == Priority::Background);
        let made_way = background.clone().any(|(id, c)| !c.paused && c.has_begun && !members.contains(id));
        self.tally.made_way += usize::from(made_way);
    }

    /// Nobody waits for ever.
    fn check_waits(&mut self, members: &BTreeSet<RequestId>) {
        let best = self.clients.values().filter(|c| !c.paused).map(Client::level).min();
        for (id, client) in &mut self.clients {
            if client.paused || members.contains(id) {
                client.idle = 0;
            } else if Some(client.level()) == best {
                client.idle += 1;
                self.idle_most = self.idle_most.max(client.idle);
                assert!(client.idle <= IDLE_STEPS_MAX, "request {} starves:\n{}", id.0, self.scheduler);
            }
        }
    }
}

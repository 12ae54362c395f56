//! How tenants share a step: weighted fair queueing on computed tokens.
//!
//! Each tenant has an **account**: the tokens that were computed for it, divided by its weight. The next rows of a step go
//! to the tenant whose account is lowest, a few at a time, so that accounts of tenants that want more than they get stay
//! within some rows of each other, whatever each of them sends. Who gets all that it wants saves no more up than
//! [`CREDIT_STEPS`]: its account is raised to that much below the lowest of those who want more. Who comes starts there
//! too. So the few requests of a tenant that asks for little are computed at once, as if it were alone, and it is only
//! then one of many; and nobody has to make good what was computed while nobody else wanted it.
//!
//! Accounts are kept for each [`Level`]: better levels go first, and owe nothing to the others.
//!
//! The places of a step, where they are scarce, are given one by one to the tenant that has least in it, by weight, whatever
//! its account says: an answer that has begun goes on, however long its prompt was. For the same reason a
//! quarter of each tenant's part of a step, at least a row if its part is one, goes to its decodes before all else. Within
//! its part a tenant's decodes go first (those first that were longest without a row, where not all can go), then its
//! prompts in the order of their age. Where decodes alone would fill the part, every fourth row is for a prompt that has
//! begun.

use std::collections::{BTreeMap, BTreeSet};

use ingle_step::SeqId;

use super::plan::Plan;
use super::sequence::State;
use super::{Priority, Scheduler, StepBudget};

/// Whom a sequence goes before: those of later levels. Within the background nothing is ranked before normal requests.
pub(super) type Level = (Priority, i16);

/// What one token costs a tenant of weight 1. Weights divide it.
const TOKEN_COST: u64 = 1 << 20;
/// How far below those who want more the account of a tenant begins that comes or wants more again, as full steps of
/// weight 1: two or three seconds. Nobody loses more than that to it before it has waited as long again.
const CREDIT_STEPS: usize = 16;
/// Where accounts begin: above all credit.
const FLOOR_FIRST: u64 = 1 << 44;
/// What part of a tenant's part of a step its decodes get before all else.
const DECODES_PART: usize = 4;
/// The largest weight.
pub(super) const WEIGHT_MAX: u32 = 1000;
/// The most rows of a prompt that a tenant gets before it is looked whose turn is next.
pub(super) const QUANTUM: usize = 16;
/// Rows of prompts that a tenant gets even beside a prompt that could end in the step and is shorter.
const BESIDE_MIN: usize = 16;
/// Rows of decodes that a tenant gets for each row of its prompts, where not all can have one.
const DECODES_FIRST: usize = 3;

/// One tenant's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// Computed tokens times [`TOKEN_COST`] by weight.
    pub used: u64,
    pub weight: u32,
    /// Sequences that are there.
    pub n_seqs: usize,
    /// The step that it had part in last.
    last_step: u64,
}

impl Account {
    fn cost(&self, n_rows: usize) -> u64 {
        self.by_weight(n_rows, TOKEN_COST)
    }

    /// So many of `unit`, divided by the weight.
    fn by_weight(&self, n: usize, unit: u64) -> u64 {
        (n as u64).saturating_mul(unit) / u64::from(self.weight)
    }
}

/// The accounts of one level.
#[derive(Clone, Debug)]
struct Ledger {
    /// The lowest account of those who want more than they get. A newcomer's begins a credit below it.
    floor: u64,
    tenants: BTreeMap<u64, Account>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { floor: FLOOR_FIRST, tenants: BTreeMap::new() }
    }
}

/// The accounts of all levels that have sequences.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    levels: BTreeMap<Level, Ledger>,
    /// [`CREDIT_STEPS`] of the size that they have now.
    credit: u64,
}

impl Shares {
    /// A step of so many tokens is formed. Nobody keeps more credit than steps of its size give.
    pub fn note_budget(&mut self, n_tokens: usize) {
        self.credit = ((n_tokens * CREDIT_STEPS) as u64).saturating_mul(TOKEN_COST).min(FLOOR_FIRST);
        for ledger in self.levels.values_mut() {
            let start = ledger.start(self.credit);
            ledger.tenants.values_mut().for_each(|account| account.used = account.used.max(start));
        }
    }

    /// A sequence is there.
    pub fn enter(&mut self, level: Level, tenant: u64, weight: u32) {
        let ledger = self.levels.entry(level).or_default();
        let start = ledger.start(self.credit);
        let account =
            ledger.tenants.entry(tenant).or_insert(Account { used: start, weight, n_seqs: 0, last_step: 0 });
        if account.n_seqs == 0 {
            account.used = account.used.max(start);
        }
        account.weight = weight.clamp(1, WEIGHT_MAX);
        account.n_seqs += 1;
    }

    /// A sequence has gone. What its tenant has used is remembered while others of the level are there.
    pub fn leave(&mut self, level: Level, tenant: u64) {
        let ledger = self.levels.get_mut(&level).expect("who leaves has entered");
        let account = ledger.tenants.get_mut(&tenant).expect("who leaves has an account");
        account.n_seqs -= 1;
        if ledger.tenants.values().all(|account| account.n_seqs == 0) {
            self.levels.remove(&level);
        } else {
            ledger.forget_the_even(self.credit);
        }
    }

    pub fn account(&self, level: Level, tenant: u64) -> &Account {
        &self.levels[&level].tenants[&tenant]
    }

    pub fn levels(&self) -> Vec<Level> {
        self.levels.keys().copied().collect()
    }

    /// The weights of all tenants with sequences, together.
    pub fn weight_present(&self, level: Level) -> u64 {
        let present = self.levels[&level].tenants.values().filter(|account| account.n_seqs > 0);
        present.map(|account| u64::from(account.weight)).sum()
    }

    fn charge(&mut self, level: Level, tenant: u64, n_rows: usize, step: u64) {
        if let Some(account) = self.levels.get_mut(&level).and_then(|ledger| ledger.tenants.get_mut(&tenant))
        {
            account.used += account.cost(n_rows);
            account.last_step = step;
        }
    }

    /// After a step: raises the accounts of those who got what they wanted. `hungry` are the others.
    fn settle(&mut self, level: Level, hungry: &BTreeSet<u64>) {
        let Some(ledger) = self.levels.get_mut(&level) else { return };
        let used = |tenant: &u64| ledger.tenants.get(tenant).map(|account| account.used);
        let lowest = hungry.iter().filter_map(used).min();
        let all = || ledger.tenants.values().map(|account| account.used).max();
        let floor = lowest.or_else(all).unwrap_or(0).max(ledger.floor);
        ledger.floor = floor;
        let start = ledger.start(self.credit);
        for (tenant, account) in &mut ledger.tenants {
            if !hungry.contains(tenant) {
                account.used = account.used.max(start);
            }
        }
        ledger.forget_the_even(self.credit);
    }
}

impl Ledger {
    /// Where a newcomer's account begins.
    fn start(&self, credit: u64) -> u64 {
        self.floor.saturating_sub(credit)
    }

    /// Whoever has gone and has used up none of its credit is as a newcomer.
    fn forget_the_even(&mut self, credit: u64) {
        let start = self.start(credit);
        self.tenants.retain(|_, account| account.n_seqs > 0 || account.used > start);
    }
}

/// What a sequence wants of a step, and what it gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub id: SeqId,
    pub wanted: usize,
    pub granted: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Decode,
    Prefill,
    Waiting,
}

impl Wish {
    pub fn is_waiting(&self) -> bool {
        self.kind == Kind::Waiting
    }

    fn is_decode(&self) -> bool {
        self.kind == Kind::Decode
    }

    fn lacks(&self) -> usize {
        self.wanted - self.granted
    }
}

/// One tenant's part in a step.
#[derive(Clone, Debug)]
struct Part {
    account: Account,
    oldest: SeqId,
    /// Decodes first, then prompts by age, those that run first.
    wishes: Vec<Wish>,
    n_decodes: usize,
    /// Places of its own: of so many decodes, and of its first prompt.
    decode_places: usize,
    has_prompt_place: bool,
    /// Rows that its decodes get before all else.
    first_rows: usize,
    /// The next decode without a row, the next that may have more than one, the next prompt.
    decode: usize,
    jump: usize,
    prompt: usize,
    decode_rows: usize,
    prompt_rows: usize,
}

impl Part {
    fn new(account: Account, mut wishes: Vec<Wish>) -> Self {
        wishes.sort_by_key(|wish| wish.kind);
        let n_decodes = wishes.iter().filter(|wish| wish.is_decode()).count();
        Self {
            account,
            oldest: wishes.iter().map(|wish| wish.id).min().expect("who has a part wants something"),
            wishes,
            n_decodes,
            decode_places: 0,
            has_prompt_place: false,
            first_rows: 0,
            decode: 0,
            jump: 0,
            prompt: n_decodes,
            decode_rows: 0,
            prompt_rows: 0,
        }
    }

    /// How many places it wants before others get more than it: for its decodes and its first prompt.
    fn places_wanted(&self) -> usize {
        self.wishes.len().min(self.n_decodes + 1)
    }

    /// Gives it so many of them: to decodes, and to a prompt that has begun after the first few of those; to one that
    /// has not, only what decodes leave.
    fn set_places(&mut self, n_places: usize) {
        let before = match self.wishes.get(self.n_decodes) {
            None => usize::MAX,
            Some(wish) if wish.is_waiting() => self.n_decodes,
            Some(_) => self.n_decodes.min(DECODES_FIRST),
        };
        self.has_prompt_place = n_places > before;
        self.decode_places = n_places - usize::from(self.has_prompt_place);
    }

    /// Whose turn is next: whoever's decodes have not had yet what goes to them before all else, then
    /// the one with the lowest account. Ties go to the one that had no part in a step for longest, then to the one with the
    /// oldest sequence.
    fn turn(&self) -> (bool, u64, u64, SeqId) {
        let is_first = self.decode_rows < self.first_rows && self.decode < self.decode_places;
        (!is_first, self.account.used, self.account.last_step, self.oldest)
    }

    /// Takes the next few rows, at most `budget`. Gives how many, and whether a place is taken that was nobody's yet, of
    /// which there are some if `has_place`. `None` if it wants no more, or has no place for it.
    fn take(&mut self, budget: usize, quantum: usize, has_place: bool) -> Option<(usize, bool)> {
        while self.wishes.get(self.prompt).is_some_and(|wish| wish.lacks() == 0) {
            self.prompt += 1;
        }
        let may_read = self.wishes.get(self.prompt).is_some_and(|wish| {
            has_place || wish.granted > 0 || (self.prompt == self.n_decodes && self.has_prompt_place)
        });
        let decodes_wait = self.decode < self.decode_places;
        if decodes_wait && (!may_read || self.decode_rows < DECODES_FIRST * (self.prompt_rows + 1)) {
            self.wishes[self.decode].granted = 1;
            self.decode += 1;
            self.decode_rows += 1;
            return Some((1, false));
        }
        if may_read && (self.prompt_rows == 0 || decodes_wait) {
            return Some(self.read(1));
        }
        while self.jump < self.decode && self.wishes[self.jump].lacks() == 0 {
            self.jump += 1;
        }
        if self.jump < self.decode {
            let wish = &mut self.wishes[self.jump];
            let n_rows = wish.lacks().min(quantum).min(budget);
            wish.granted += n_rows;
            self.decode_rows += n_rows;
            return Some((n_rows, false));
        }
        may_read.then(|| self.read(quantum.min(budget)))
    }

    /// Takes rows of the prompt that is next.
    fn read(&mut self, most: usize) -> (usize, bool) {
        let wish = &mut self.wishes[self.prompt];
        let is_own = self.prompt == self.n_decodes && self.has_prompt_place;
        let takes_place = wish.granted == 0 && !is_own;
        let n_rows = wish.lacks().min(most);
        wish.granted += n_rows;
        self.prompt_rows += n_rows;
        (n_rows, takes_place)
    }

    /// Whether a prompt could end in this step.
    fn ends_a_prompt(&self) -> bool {
        self.wishes.iter().any(|wish| !wish.is_decode() && wish.lacks() == 0)
    }

    /// Gives rows of prompts back until no more than `most` are left, the last ones first.
    fn limit_prompts(&mut self, most: usize) {
        for wish in self.wishes[self.n_decodes..].iter_mut().rev() {
            let n_rows = self.prompt_rows.saturating_sub(most).min(wish.granted);
            wish.granted -= n_rows;
            self.prompt_rows -= n_rows;
        }
    }
}

/// Who could not use rows for want of memory.
#[derive(Default)]
pub(super) struct Stuck {
    seqs: BTreeSet<SeqId>,
    tenants: BTreeSet<u64>,
    /// Those of which somebody could not begin.
    pub tenants_waiting: BTreeSet<u64>,
    /// Who was the first that could not begin.
    pub head: Option<SeqId>,
}

impl Stuck {
    fn holds(&self, scheduler: &Scheduler, id: SeqId) -> bool {
        let waits = || scheduler.seqs[&id].state == State::Waiting;
        self.seqs.contains(&id) || (waits() && self.tenants_waiting.contains(&scheduler.seqs[&id].tenant))
    }
}

/// Rows of a level, dealt.
struct Deal {
    /// Who gets rows: who runs by age, then who waits, by account.
    wishes: Vec<Wish>,
    /// Whether rows are left over on purpose.
    is_limited: bool,
}

impl Scheduler {
    /// Deals the next rows of a step to a level's sequences, but for those that are done with it.
    fn deal(&self, level: Level, is_done: impl Fn(SeqId) -> bool, budget: StepBudget, places: usize) -> Deal {
        let mut parts = self.parts(level, is_done);
        // Whoever is alone needs no turns.
        let takes_turns = parts.len() > 1 && !self.has_whole_texts;
        let turn = (budget.tokens / (4 * parts.len().max(1))).clamp(1, QUANTUM);
        let quantum = if takes_turns { turn } else { usize::MAX };
        let mut left = budget.tokens;
        let weights: usize = parts.iter().map(|part| part.account.weight as usize).sum();
        for part in &mut parts {
            let own = left.saturating_mul(part.account.weight as usize) / weights;
            part.first_rows = (own / DECODES_PART).max(own.min(1));
        }
        let mut places = give_places(&mut parts, places);
        let mut full = vec![false; parts.len()];
        while left > 0 {
            let next = parts.iter().zip(&full).enumerate().filter(|(_, (_, full))| !**full);
            let Some((i, _)) = next.min_by_key(|(_, (part, _))| part.turn()) else { break };
            match parts[i].take(left, quantum, places > 0) {
                Some((n_rows, takes_place)) => {
                    left -= n_rows;
                    places -= usize::from(takes_place);
                    let account = &mut parts[i].account;
                    account.used += account.cost(n_rows);
                }
                None => full[i] = true,
            }
        }
        let is_limited = takes_turns && limit_beside(&mut parts, budget.fixed_cost);
        parts.sort_by_key(|part| (part.account.used, part.oldest));
        let mut wishes: Vec<Wish> =
            parts.into_iter().flat_map(|part| part.wishes).filter(|wish| wish.granted > 0).collect();
        wishes.sort_by_key(|wish| (wish.kind, if wish.is_waiting() { SeqId(0) } else { wish.id }));
        Deal { wishes, is_limited }
    }

    /// What each tenant wants.
    fn parts(&self, level: Level, is_done: impl Fn(SeqId) -> bool) -> Vec<Part> {
        let mut wishes: BTreeMap<u64, Vec<Wish>> = BTreeMap::new();
        let mut wish = |id: SeqId, kind, wanted| {
            let wish = Wish { id, wanted, granted: 0, kind };
            wishes.entry(self.seqs[&id].tenant).or_default().push(wish);
        };
        let mut decodes = Vec::new();
        for id in self.runnable().filter(|&id| !is_done(id)) {
            let seq = &self.seqs[&id];
            if seq.level() != level {
                continue;
            }
            match seq.is_decode() {
                true => decodes.push((seq.last_step, id)),
                false => wish(id, Kind::Prefill, seq.n_pending()),
            }
        }
        decodes.sort_unstable();
        decodes.into_iter().for_each(|(_, id)| wish(id, Kind::Decode, self.seqs[&id].n_pending()));
        for id in self.admissible(level).filter(|&id| !is_done(id)) {
            wish(id, Kind::Waiting, self.seqs[&id].tokens.len());
        }
        let part = |(tenant, wishes)| Part::new(*self.shares.account(level, tenant), wishes);
        wishes.into_iter().map(part).collect()
    }

    /// Adds a level's rows to a step. Rows that could not be used for want of memory are dealt again to others.
    pub(super) fn plan_level(&mut self, plan: &mut Plan, level: Level, fixed_cost: usize) {
        let mut stuck = Stuck::default();
        let mut is_limited = false;
        // Each turn somebody gets in, or turns out to be stuck.
        while plan.budget > 0 {
            let places = self.config.max_running_seqs.saturating_sub(plan.members.len());
            let budget = StepBudget { tokens: plan.budget, fixed_cost };
            let deal =
                self.deal(level, |id| plan.members.contains(&id) || stuck.holds(self, id), budget, places);
            let n_members = plan.members.len();
            if deal.wishes.is_empty() {
                break;
            }
            for wish in deal.wishes {
                self.grant(plan, &wish, &mut stuck);
            }
            is_limited |= deal.is_limited && plan.members.len() > n_members;
            if is_limited {
                break;
            }
        }
        self.note_head(level, stuck.head);
        // Who only lacks places owes nobody tokens.
        let is_full = plan.budget == 0 || is_limited;
        let hungry = if is_full { self.hungry(plan, level, &stuck) } else { BTreeSet::new() };
        self.shares.settle(level, &hungry);
        if is_limited {
            plan.budget = 0; // nor shall worse levels make the step longer
        }
    }

    /// Gives a sequence its rows, if there is memory for them.
    fn grant(&mut self, plan: &mut Plan, wish: &Wish, stuck: &mut Stuck) {
        let Wish { id, granted, .. } = *wish;
        if !wish.is_waiting() && !self.running.contains(&id) {
            return; // preempted for another in this step
        }
        let tenant = self.seqs[&id].tenant;
        let level = self.seqs[&id].level();
        // A text that has to be computed as a whole waits for a step that has room for it.
        let has_room = self.seqs[&id].rows_within(granted.min(plan.budget)) > 0;
        let is_in = has_room && (!wish.is_waiting() || self.admit(plan, id, stuck));
        let before = plan.budget;
        if is_in && self.plan_rows(plan, id, granted) {
            self.shares.charge(level, tenant, before - plan.budget, self.step);
            self.seq_mut(id).last_step = self.step;
        } else {
            stuck.seqs.insert(id);
            stuck.tenants.insert(tenant);
        }
    }

    /// The tenants that could have used more rows.
    fn hungry(&self, plan: &Plan, level: Level, stuck: &Stuck) -> BTreeSet<u64> {
        let rows = |id: &SeqId| plan.batch.seqs.iter().find(|s| s.seq == *id).map_or(0, |s| s.inputs.len());
        let lacks = self.runnable().filter(|id| {
            let seq = &self.seqs[id];
            seq.level() == level && seq.n_pending() > rows(id)
        });
        let all = lacks.chain(self.admissible(level)).map(|id| self.seqs[&id].tenant);
        all.filter(|tenant| !stuck.tenants.contains(tenant)).collect()
    }
}

/// Gives each part its places: as many to each, by weight, as far as it wants them. Where that leaves one over, it goes to
/// whoever has had no part in a step for longest. Gives how many are left.
fn give_places(parts: &mut [Part], n_places: usize) -> usize {
    let n_wanted: usize = parts.iter().map(Part::places_wanted).sum();
    let mut given: Vec<usize> = parts.iter().map(Part::places_wanted).collect();
    if n_wanted > n_places {
        given.fill(0);
        for _ in 0..n_places {
            let wants =
                parts.iter().zip(&given).enumerate().filter(|(_, (part, n))| **n < part.places_wanted());
            let key = |(part, n): (&Part, &usize)| {
                (part.account.by_weight(*n, 1000), part.account.last_step, part.oldest)
            };
            let Some((i, _)) = wants.min_by_key(|&(_, part)| key(part)) else { break };
            given[i] += 1;
        }
    }
    parts.iter_mut().zip(&given).for_each(|(part, n)| part.set_places(*n));
    n_places.saturating_sub(n_wanted)
}

/// Where a prompt could end in this step, others' prompts shall not make the step much longer: each tenant has as many
/// rows as that one, by weight, and together those that cost as much as a step does anyway. As their decodes go on
/// whatever comes, all may have what the one with most of those has. Whether anyone was limited.
fn limit_beside(parts: &mut [Part], fixed_cost: usize) -> bool {
    // In thousandths of a row for weight 1.
    let by_weight = |part: &Part, n_rows: usize| part.account.by_weight(n_rows, 1000);
    let ending = parts.iter().enumerate().filter(|(_, part)| part.ends_a_prompt());
    let shortest = ending.map(|(i, part)| (by_weight(part, part.prompt_rows), i)).min();
    let Some((alike, shortest)) = shortest.filter(|_| parts.len() > 1) else { return false };
    let own_cost = fixed_cost / (parts.len() - 1);
    let others = parts.iter().enumerate().filter(|(i, _)| *i != shortest);
    let needed = |part: &Part| {
        by_weight(part, own_cost).saturating_add(alike).max(by_weight(part, part.decode_rows + BESIDE_MIN))
    };
    let most = others.map(|(_, part)| needed(part)).max().unwrap_or(0);
    let mut is_limited = false;
    for (_, part) in parts.iter_mut().enumerate().filter(|(i, _)| *i != shortest) {
        let rows = most.saturating_mul(u64::from(part.account.weight)).div_ceil(1000);
        let most = usize::try_from(rows).unwrap_or(usize::MAX).saturating_sub(part.decode_rows);
        is_limited |= part.prompt_rows > most;
        part.limit_prompts(most);
    }
    is_limited
}

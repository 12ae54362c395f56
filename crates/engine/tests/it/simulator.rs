//! The real scheduler, allocator, prefix cache, samplers and pace under random traffic, each simulation from a seed. After
//! every step the books must balance, bounds hold and time be kept; and whatever happens (pauses, preemption, aborts of
//! others, deadlines, failed steps), a request's tokens must be those that it gets alone, and a pooled text's rows those of
//! that text.
//!
//! `INGLE_SIMULATOR_TURNS` sets how long each simulation is, `INGLE_SIMULATOR_SEED` runs a single one,
//! `INGLE_SIMULATOR_STEPS_MIN` is how many steps there must be in all.

mod client;
mod fair;
mod seeds;
mod tally;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tally::Tally;
use world::Simulation;

const N_SEEDS: u64 = 1024;
/// Turns of a simulation; about as many steps.
const TURNS: usize = 1000;

/// Names the seed of a simulation that panics.
struct Seed(u64, usize);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self(seed, turns) = self;
            eprintln!(
                "simulation failed: INGLE_SIMULATOR_SEED={seed} INGLE_SIMULATOR_TURNS={turns} replays it"
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|s| s.parse().unwrap_or_else(|_| panic!("{name}={s} is no number")))
}

#[test]
fn whatever_happens_a_request_gets_its_own_tokens() {
    let turns = number("INGLE_SIMULATOR_TURNS").map_or(TURNS, |n| n as usize);
    let only = number("INGLE_SIMULATOR_SEED");
    let seeds = only.map_or(0..N_SEEDS, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((Tally::default(), 0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let guard = Seed(seed, turns);
            let (tally, idle_most) = Simulation::new(seed).run(turns);
            drop(guard);
            let mut total = total.lock().expect("a failed simulation ends the test");
            total.0.add(&tally);
            total.1 = total.1.max(idle_most);
        }
    };
    let n_threads = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| (0..n_threads).for_each(|_| drop(scope.spawn(work))));
    let (total, idle_most) = total.into_inner().expect("no simulation failed");
    println!("{} simulations: {total}; the longest wait was {idle_most} steps", seeds.end - seeds.start);
    let least = number("INGLE_SIMULATOR_STEPS_MIN").unwrap_or(0);
    assert!(total.steps as u64 >= least, "{} steps were checked, fewer than {least}", total.steps);
    if only.is_none() {
        total.check();
    }
}

#[test]
fn what_was_wrong_once_is_not_again() {
    for &(seed, turns, what) in seeds::FOUND {
        println!("seed {seed}: {what}");
        let _guard = Seed(seed, turns);
        Simulation::new(seed).run(turns);
    }
}

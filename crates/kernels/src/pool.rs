//! The process-wide thread pool.
//!
//! It owns `n_threads - 1` workers; the caller of [`Pool::run`] is the last thread. A loop is published in one word
//! (`Gate`): which loop it is, whether it may be joined, and how many workers are inside. A worker that comes late
//! finds the gate closed and stays out, so the caller never waits for a thread that the system has not scheduled yet:
//! it does the work itself. Whoever waits spins for [`SPIN_MAX`] and then sleeps, which gives the core to whoever is
//! being waited for when the machine is shared.

#![expect(unsafe_code, reason = "a borrowed closure is lent to the workers for the time of a loop")]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Isa;
use crate::turns::{Member, Turns};

/// How long a thread spins before it sleeps. A wake-up costs 5 to 50 us, so spinning longer than that loses more
/// than it can gain.
const SPIN_MAX: Duration = Duration::from_micros(40);
/// Spins between two looks at the clock.
const SPINS_PER_CLOCK: u32 = 32;
/// More workers than this do not fit into the gate's counter; nobody has as many cores that share one memory.
const N_THREADS_MAX: usize = 1024;

/// In which order a pool hands out work: results must not depend on it, and tests force it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimOrder {
    /// Ascending, each to whoever comes first.
    #[default]
    Forward,
    /// Descending.
    Reverse,
    /// A permutation drawn from a seed.
    Shuffled(u64),
}

/// Threads that run one parallel loop at a time. The caller's thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the caller whose loop runs: others take turns.
    turn: Mutex<()>,
    /// Whose steps run; a step is many loops.
    turns: Arc<Turns>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
    order: ClaimOrder,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("n_threads", &self.n_threads())
            .field("isa", &self.isa)
            .field("order", &self.order)
            .finish()
    }
}

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The gate word: `epoch << 16 | OPEN | workers inside`.
const OPEN: u32 = 1 << 15;
const INSIDE: u32 = OPEN - 1;
const EPOCH_SHIFT: u32 = 16;

/// A value alone on its cache lines (two, because the prefetcher pairs them).
#[repr(align(128))]
struct Alone<T>(T);

struct Shared {
    gate: Alone<AtomicU32>,
    /// The next claim.
    next: Alone<AtomicUsize>,
    /// The loop that runs. Written only while the gate is closed and nobody is inside; read only from inside.
    job: UnsafeCell<Option<Job>>,
    /// The first panic of the loop.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    n_sleeping: AtomicU32,
    caller_sleeps: AtomicBool,
    sleep: Mutex<()>,
    work_came: Condvar,
    work_done: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    n: usize,
}

// SAFETY: `job` is the only part that is not Sync. The caller that holds `turn` writes it while the gate is closed
// with nobody inside; workers read it only after they entered through the open gate, and the pointer stays valid until
// the last of them has left, because `run_shared` waits for that. The closure behind the pointer is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above: moving `Shared` between threads moves a pointer to a Sync closure.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread runs a task now: a nested loop then runs inline, which cannot deadlock.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `n_threads` (at least 1), the caller included, with the best instruction set.
    pub fn new(n_threads: usize) -> Self {
        Self::with(n_threads, Isa::detect(), ClaimOrder::Forward)
    }

    /// A pool with everything chosen: for tests and benchmarks. If the system refuses a thread, there are fewer.
    ///
    /// # Panics
    /// If the machine does not have `isa`: every kernel relies on this check.
    pub fn with(n_threads: usize, isa: Isa, order: ClaimOrder) -> Self {
        assert!(Isa::available().any(|i| i == isa), "this machine has no {}", isa.name());
        let shared = Arc::new(Shared {
            gate: Alone(AtomicU32::new(0)),
            next: Alone(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            n_sleeping: AtomicU32::new(0),
            caller_sleeps: AtomicBool::new(false),
            sleep: Mutex::new(()),
            work_came: Condvar::new(),
            work_done: Condvar::new(),
        });
        let workers = (1..n_threads.clamp(1, N_THREADS_MAX))
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("ingle-compute-{i}"))
                    .spawn(move || shared.work())
                    .ok()
            })
            .collect();
        Self { shared, turn: Mutex::new(()), turns: Arc::default(), workers, isa, order }
    }

    /// How many threads there are.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Joins those who take turns of several loops each. Of time that several want, each gets a share by its weight (at
    /// least 1).
    pub fn join(&self, weight: u32) -> Member {
        self.turns.join(weight)
    }

    /// The instruction set that kernels called with this pool use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `task(i)` for every `i` in `0..n`, each exactly once, on all threads, and returns when all are done.
    /// Callers on several threads take turns. A loop started from within a task runs on that task's thread alone.
    /// A panic in a task is carried to the caller after the others have finished.
    pub fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync)) {
        match self.order {
            _ if n <= 1 => {
                if n == 1 {
                    task(0);
                }
            }
            ClaimOrder::Forward => self.run_ordered(n, task),
            ClaimOrder::Reverse => self.run_ordered(n, &|i| task(n - 1 - i)),
            ClaimOrder::Shuffled(seed) => {
                let order = permutation(n, seed);
                self.run_ordered(n, &|i| task(order[i]));
            }
        }
    }

    /// Runs `task(i, chunk i)` for all chunks of `chunk_len` elements of `data`; the last may be shorter.
    pub(crate) fn run_chunks<T: Send>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        task: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        /// The start of `data`.
        struct Start<T>(*mut T);
        // SAFETY: the loop below hands disjoint parts of a mutable slice of Send elements to threads.
        unsafe impl<T: Send> Sync for Start<T> {}
        impl<T> Start<T> {
            fn get(&self) -> *mut T {
                self.0
            }
        }
        let len = data.len();
        let start = Start(data.as_mut_ptr());
        self.run(len.div_ceil(chunk_len.max(1)), &|i| {
            let first = i * chunk_len;
            // SAFETY: `i` is below the number of chunks, so `first < len`; every `i` comes once and chunks are
            // disjoint; `data` is borrowed until `run` returns.
            let chunk =
                unsafe { std::slice::from_raw_parts_mut(start.get().add(first), chunk_len.min(len - first)) };
            task(i, chunk);
        });
    }

    fn run_ordered(&self, n: usize, task: &Task<'_>) {
        let panic = if self.workers.is_empty() || IN_TASK.get() {
            let next = AtomicUsize::new(0);
            let first = Mutex::new(None);
            claim_all(&next, n, task, &first);
            first.into_inner().unwrap_or_else(PoisonError::into_inner)
        } else {
            let _turn = lock(&self.turn);
            self.run_shared(n, task);
            lock(&self.shared.panic).take()
        };
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Publishes the loop, takes part in it, and returns when nobody is inside any more. Needs `turn`.
    fn run_shared(&self, n: usize, task: &Task<'_>) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers use the pointer only while inside the gate, and this function
        // does not return before it has closed the gate and all have left; nothing in between can unwind, because
        // `claim_all` catches every panic of a task.
        let task_static: *const Task<'static> =
            unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: the gate is closed and nobody is inside (the last loop ended so, and we hold `turn`), so nobody
        // else touches `job`.
        unsafe { *shared.job.get() = Some(Job { task: task_static, n }) };
        shared.next.0.store(0, Relaxed);
        let epoch = (shared.gate.0.load(Relaxed) >> EPOCH_SHIFT).wrapping_add(1);
        shared.gate.0.store(epoch << EPOCH_SHIFT | OPEN, SeqCst);
        let n_sleeping = shared.n_sleeping.load(SeqCst) as usize;
        if n_sleeping > 0 {
            // Through the lock: whoever counted itself as sleeping has either seen the new gate or waits by now.
            drop(lock(&shared.sleep));
            for _ in 0..n_sleeping.min(n - 1) {
                shared.work_came.notify_one();
            }
        }
        claim_all(&shared.next.0, n, task, &shared.panic);
        shared.gate.0.fetch_and(!OPEN, SeqCst);
        shared.wait_until_empty();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.work_came.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a task and has nothing else that could fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self) {
        let mut epoch_done = 0;
        while let Some(epoch) = self.enter(epoch_done) {
            // SAFETY: we are inside the gate, so the job is set and nobody writes it until we leave.
            let job = unsafe { (*self.job.get()).expect("an open gate has a job") };
            // SAFETY: the closure outlives the loop: the caller waits until we have left.
            let task = unsafe { &*job.task };
            claim_all(&self.next.0, job.n, task, &self.panic);
            epoch_done = epoch;
            let left = self.gate.0.fetch_sub(1, SeqCst) - 1;
            if left & (INSIDE | OPEN) == 0 && self.caller_sleeps.load(SeqCst) {
                drop(lock(&self.sleep));
                self.work_done.notify_one();
            }
        }
    }

    /// Waits for a loop other than `epoch_done` and enters it; `None` when the pool stops.
    fn enter(&self, epoch_done: u32) -> Option<u32> {
        let joinable = || {
            let gate = self.gate.0.load(SeqCst);
            gate & OPEN != 0 && gate >> EPOCH_SHIFT != epoch_done
        };
        loop {
            spin_until(|| joinable() || self.stop.load(Relaxed));
            if !joinable() {
                self.n_sleeping.fetch_add(1, SeqCst);
                let mut guard = lock(&self.sleep);
                while !joinable() && !self.stop.load(SeqCst) {
                    guard = self.work_came.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                drop(guard);
                self.n_sleeping.fetch_sub(1, SeqCst);
            }
            if self.stop.load(SeqCst) {
                return None;
            }
            let gate = self.gate.0.load(Relaxed);
            let epoch = gate >> EPOCH_SHIFT;
            if gate & OPEN != 0
                && epoch != epoch_done
                && self.gate.0.compare_exchange(gate, gate + 1, AcqRel, Relaxed).is_ok()
            {
                return Some(epoch);
            }
        }
    }

    /// The caller's wait for the last worker inside. The gate is closed.
    fn wait_until_empty(&self) {
        let empty = || self.gate.0.load(Acquire) & INSIDE == 0;
        if spin_until(empty) {
            return;
        }
        self.caller_sleeps.store(true, SeqCst);
        let mut guard = lock(&self.sleep);
        while self.gate.0.load(SeqCst) & INSIDE != 0 {
            guard = self.work_done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.caller_sleeps.store(false, SeqCst);
    }
}

/// Claims and runs until nothing is left. Keeps the first panic and goes on.
fn claim_all(next: &AtomicUsize, n: usize, task: &Task<'_>, panic: &Mutex<Option<Box<dyn Any + Send>>>) {
    let was_in_task = IN_TASK.replace(true);
    loop {
        // Every thread overshoots at most once per loop, so this cannot wrap.
        let i = next.fetch_add(1, Relaxed);
        if i >= n {
            break;
        }
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(i))) {
            lock(panic).get_or_insert(payload);
        }
    }
    IN_TASK.set(was_in_task);
}

/// Spins until `ready` or [`SPIN_MAX`] has passed; whether it is ready.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..SPINS_PER_CLOCK {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() >= SPIN_MAX {
            return false;
        }
    }
}

/// No data under these locks can be left half-changed, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A permutation of `0..n` (Fisher–Yates over SplitMix64).
fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = seed;
    for i in (1..n).rev() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        order.swap(i, (z % (i as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests;

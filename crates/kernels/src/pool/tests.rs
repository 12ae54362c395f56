use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::*;

const ORDERS: [ClaimOrder; 4] =
    [ClaimOrder::Forward, ClaimOrder::Reverse, ClaimOrder::Shuffled(1), ClaimOrder::Shuffled(77)];
/// Miri runs these too, some hundred times slower.
const N_LOOPS: usize = if cfg!(miri) { 10 } else { 2000 };

fn check_each_once(pool: &Pool, n: usize) {
    let counts: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
    pool.run(n, &|i| {
        counts[i].fetch_add(1, Relaxed);
    });
    assert!(counts.iter().all(|c| c.load(Relaxed) == 1), "{pool:?} n {n}");
}

#[test]
fn runs_each_index_exactly_once() {
    for order in ORDERS {
        for n_threads in [0, 1, 2, 3, 5] {
            let pool = Pool::with(n_threads, Isa::Scalar, order);
            assert_eq!(pool.n_threads(), n_threads.max(1));
            for n in [0, 1, 2, 3, 7, 64, 100] {
                check_each_once(&pool, n);
            }
        }
    }
}

#[test]
fn survives_many_short_loops_with_pauses() {
    let pool = Pool::with(3, Isa::Scalar, ClaimOrder::Forward);
    let sum = AtomicUsize::new(0);
    for round in 0..N_LOOPS {
        pool.run(1 + round % 9, &|i| {
            sum.fetch_add(i + 1, Relaxed);
        });
        // Long enough that workers fall asleep now and then.
        if round % 200 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    let expected: usize = (0..N_LOOPS).map(|round| (1..=1 + round % 9).sum::<usize>()).sum();
    assert_eq!(sum.load(Relaxed), expected);
}

#[test]
fn waits_for_a_slow_task_on_a_worker() {
    let pool = Pool::with(2, Isa::Scalar, ClaimOrder::Forward);
    let done = AtomicUsize::new(0);
    for _ in 0..3 {
        pool.run(2, &|_| {
            std::thread::sleep(Duration::from_millis(3));
            done.fetch_add(1, Relaxed);
        });
    }
    assert_eq!(done.load(Relaxed), 6);
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = Arc::new(Pool::with(2, Isa::Scalar, ClaimOrder::Forward));
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let pool = Arc::clone(&pool);
            scope.spawn(move || {
                for round in 0..N_LOOPS / 10 {
                    check_each_once(&pool, 1 + (caller + round) % 13);
                }
            });
        }
    });
}

#[test]
fn a_panic_reaches_the_caller_after_the_others_and_the_pool_stays_usable() {
    for n_threads in [1, 2, 4] {
        let pool = Pool::with(n_threads, Isa::Scalar, ClaimOrder::Forward);
        for bad in [0, 3, 9] {
            let done = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(10, &|i| {
                    assert!(i != bad, "task {i} fails");
                    done.fetch_add(1, Relaxed);
                });
            }));
            let payload = result.expect_err("the panic arrives");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {bad} fails")));
            assert_eq!(done.load(Relaxed), 9);
            check_each_once(&pool, 20);
        }
    }
}

#[test]
fn a_loop_within_a_task_runs_inline() {
    let pool = Pool::with(3, Isa::Scalar, ClaimOrder::Reverse);
    let count = AtomicUsize::new(0);
    pool.run(6, &|_| {
        let here = std::thread::current().id();
        pool.run(5, &|_| {
            assert_eq!(std::thread::current().id(), here);
            count.fetch_add(1, Relaxed);
        });
    });
    assert_eq!(count.load(Relaxed), 30);
    check_each_once(&pool, 8);
}

#[test]
fn shuffling_is_a_permutation_that_follows_from_its_seed() {
    let mut order = permutation(100, 5);
    assert_eq!(order, permutation(100, 5));
    assert_ne!(order, permutation(100, 6));
    order.sort_unstable();
    assert!(order.into_iter().eq(0..100));
}

#[test]
fn chunks_are_disjoint_and_cover_everything() {
    for order in ORDERS {
        let pool = Pool::with(3, Isa::Scalar, order);
        for (n, chunk) in [(0, 3), (1, 3), (9, 3), (10, 3), (5, 9)] {
            let mut data = vec![0usize; n];
            pool.run_chunks(&mut data, chunk, &|i, part| {
                for (j, x) in part.iter_mut().enumerate() {
                    *x += i * chunk + j + 1;
                }
            });
            assert!(data.iter().copied().eq(1..=n), "{n} {chunk}");
        }
    }
}

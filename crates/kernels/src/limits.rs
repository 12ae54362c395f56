//! What this machine can do at most, measured: kernels are judged by their share of it. Each probe takes some tens
//! of milliseconds and gives the best of a few tries.
#![expect(unsafe_code, reason = "vector instructions, called after they were detected")]

use std::hint::black_box;
use std::time::Instant;

use crate::memory::{AlignedBytes, Disjoint};
use crate::{Isa, Pool};

/// Tries of a probe; the best counts.
const N_TRIES: usize = 5;

/// Iterations of a compute probe: about 5 ms.
const N_ITERATIONS: usize = 1 << 20;

/// Bytes that the read probe reads per try, far more than caches hold.
const READ_BYTES: usize = 512 << 20;

/// int8 operations per second in 10^9 (a multiplication and an addition count as two), with the instructions that the
/// pool's instruction set has for them: `vpdpbusd`, or for AVX2 `vpmaddubsw` and additions in 16 bits, of which no
/// kernel can do more (weights over 4 bits take further instructions).
pub fn int8_gops(pool: &Pool) -> f64 {
    compute_gops(
        pool,
        match Isa::usable(pool.isa()) {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86_64::int8_avx512,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if is_x86_feature_detected!("avxvnni") => x86_64::int8_avx_vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => x86_64::int8_avx512_vnni_256,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86_64::int8_avx2,
            _ => int8_scalar,
        },
    )
}

/// bf16 operations per second in 10^9, or `None` if the machine has no instruction for them.
pub fn bf16_gops(pool: &Pool) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if Isa::usable(pool.isa()) == Isa::Avx512 && is_x86_feature_detected!("avx512bf16") {
        return Some(compute_gops(pool, x86_64::bf16_avx512));
    }
    let _ = pool;
    None
}

/// F32 fused multiply-adds per second in 10^9 (counted as two operations).
pub fn f32_gops(pool: &Pool) -> f64 {
    compute_gops(
        pool,
        match Isa::usable(pool.isa()) {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86_64::f32_avx512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => x86_64::f32_avx2,
            _ => f32_scalar,
        },
    )
}

/// Bytes read from memory per second in 10^9: one ascending stream per thread, prefetched by software.
pub fn read_gbs(pool: &Pool) -> f64 {
    let isa = Isa::usable(pool.isa());
    let n = pool.n_threads();
    let part = (READ_BYTES / n) & !4095;
    let mut bytes = AlignedBytes::zeroed(part * n);
    let out = Disjoint::new(&mut bytes);
    pool.run(n, &|i| {
        // Untouched pages are all one page of zeros, which would be read from a cache.
        // SAFETY: each part belongs to one claim.
        unsafe { out.range(i * part, part) }.fill(1);
    });
    best_per_second(pool, (part * n) as f64, || {
        pool.run(n, &|i| {
            black_box(read(isa, &bytes[i * part..][..part]));
        })
    })
}

/// A probe: runs a number of iterations and returns the operations done.
type Probe = unsafe fn(usize) -> f64;

fn compute_gops(pool: &Pool, probe: Probe) -> f64 {
    let n = pool.n_threads();
    // SAFETY: the callers above pick a probe whose instructions were detected.
    let operations = unsafe { probe(1) } * N_ITERATIONS as f64 * n as f64;
    best_per_second(pool, operations, || {
        pool.run(n, &|_| {
            // SAFETY: as above.
            black_box(unsafe { probe(black_box(N_ITERATIONS)) });
        })
    })
}

/// `amount / seconds / 10^9` of the fastest try.
fn best_per_second(pool: &Pool, amount: f64, mut run: impl FnMut()) -> f64 {
    let seconds = (0..N_TRIES).map(|_| {
        let start = Stopwatch::start(pool);
        run();
        start.seconds()
    });
    amount / seconds.fold(f64::INFINITY, f64::min) / 1e9
}

/// Measures work that a pool does. With one thread that is the thread's processor time, so that other processes on
/// the machine do not count; with more it is the time on the clock.
#[derive(Debug)]
pub struct Stopwatch {
    started: Instant,
    cpu_started: Option<f64>,
}

impl Stopwatch {
    /// Starts, on the thread that will call the pool.
    pub fn start(pool: &Pool) -> Self {
        let cpu_started = if pool.n_threads() == 1 { thread_seconds() } else { None };
        Self { started: Instant::now(), cpu_started }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        match (self.cpu_started, thread_seconds()) {
            (Some(before), Some(now)) => now - before,
            _ => self.started.elapsed().as_secs_f64(),
        }
    }
}

/// Processor time of this thread.
#[cfg(unix)]
fn thread_seconds() -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a valid timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    (result == 0).then(|| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// Processor time of this thread, where it can be asked for.
#[cfg(not(unix))]
fn thread_seconds() -> Option<f64> {
    None
}

fn read(isa: Isa, bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: AVX2 was detected.
        return unsafe { x86_64::read_avx2(bytes) };
    }
    let _ = isa;
    bytes.chunks_exact(8).fold(0, |sum, b| sum ^ u64::from_le_bytes(b.try_into().expect("eight bytes")))
}

/// Independent chains of the scalar probes: what the compiler needs to fill vectors.
const N_CHAINS: usize = 64;

fn int8_scalar(n: usize) -> f64 {
    let mut sums = [0i32; N_CHAINS];
    let (a, b) = (black_box([3i32; N_CHAINS]), black_box([5i32; N_CHAINS]));
    for _ in 0..n / 16 + 1 {
        for i in 0..N_CHAINS {
            sums[i] = sums[i].wrapping_mul(a[i]).wrapping_add(b[i]);
        }
    }
    black_box(sums);
    (2 * N_CHAINS) as f64 / 16.0
}

fn f32_scalar(n: usize) -> f64 {
    let mut sums = [0f32; N_CHAINS];
    let (a, b) = (black_box([0.5f32; N_CHAINS]), black_box([0.25f32; N_CHAINS]));
    for _ in 0..n / 16 + 1 {
        for i in 0..N_CHAINS {
            sums[i] = sums[i] * a[i] + b[i];
        }
    }
    black_box(sums);
    (2 * N_CHAINS) as f64 / 16.0
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Independent chains: more than latency times throughput of any processor.
    const N: usize = 12;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn int8_avx512(n: usize) -> f64 {
        let mut sums = [_mm512_setzero_si512(); N];
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
        for _ in 0..n {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        (2 * 64 * N) as f64
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16_avx512(n: usize) -> f64 {
        let mut sums = [_mm512_setzero_ps(); N];
        let a: __m512i = black_box(_mm512_set1_epi32(0x3F80_3F80));
        // SAFETY: both are 64 bytes in which every bit pattern is a value.
        let a: __m512bh = unsafe { std::mem::transmute(a) };
        for _ in 0..n {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, a);
            }
        }
        black_box(sums);
        (2 * 32 * N) as f64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_avx512(n: usize) -> f64 {
        let mut sums = [_mm512_setzero_ps(); N];
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        for _ in 0..n {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        (2 * 16 * N) as f64
    }

    macro_rules! int8_vnni {
        ($name:ident, $features:literal, $dpbusd:ident) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(n: usize) -> f64 {
                let mut sums = [_mm256_setzero_si256(); N];
                let (a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(5)));
                for _ in 0..n {
                    for sum in &mut sums {
                        *sum = $dpbusd(*sum, a, b);
                    }
                }
                black_box(sums);
                (2 * 32 * N) as f64
            }
        };
    }
    int8_vnni!(int8_avx_vnni, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
    int8_vnni!(int8_avx512_vnni_256, "avx512vl,avx512vnni", _mm256_dpbusd_epi32);

    #[target_feature(enable = "avx2")]
    pub(super) fn int8_avx2(n: usize) -> f64 {
        let mut sums = [_mm256_setzero_si256(); N];
        let (a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(5)));
        for _ in 0..n {
            for sum in &mut sums {
                *sum = _mm256_add_epi16(a, _mm256_maddubs_epi16(*sum, b));
            }
        }
        black_box(sums);
        (2 * 32 * N) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_avx2(n: usize) -> f64 {
        let mut sums = [_mm256_setzero_ps(); N];
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(0.25)));
        for _ in 0..n {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        (2 * 8 * N) as f64
    }

    /// Reads every cache line, 2 KB behind its prefetches.
    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(bytes: &[u8]) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 2];
        for line in bytes.as_chunks::<64>().0 {
            let at = line.as_ptr();
            _mm_prefetch::<_MM_HINT_NTA>(at.wrapping_add(2048).cast());
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: half of a line of 64 bytes.
                let half = unsafe { at.add(i * 32).cast::<__m256i>().read_unaligned() };
                *sum = _mm256_xor_si256(*sum, half);
            }
        }
        _mm256_extract_epi64::<0>(_mm256_xor_si256(sums[0], sums[1])) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClaimOrder;

    #[test]
    fn every_isa_has_limits() {
        for isa in Isa::available() {
            let pool = Pool::with(1, isa, ClaimOrder::Forward);
            assert!(int8_gops(&pool) > 0.1 && f32_gops(&pool) > 0.1, "{}", isa.name());
            assert!(bf16_gops(&pool).is_none_or(|gops| gops > 0.1));
        }
    }
}

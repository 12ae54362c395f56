//! The prefix cache on disk: a conversation goes on after its model was unloaded, with only new tokens computed and the
//! same bytes as without any cache; what lies in the folder is believed only if it is what was written, for the same
//! model, arithmetic and tenant.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures_executor::{block_on, block_on_stream};
use ingle_chat::{Echo, Event, KvTierStatus, Principal, Prompt, Request, Sampling, Task, Usage};
use ingle_runtime::{Engine, LoadError, LoadOptions, Source};
use ingle_step::{KvType, TokenId};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::{Arch, TinySpec};
use tempfile::TempDir;

const N_CTX: usize = 1024;
const BLOCK: usize = 32;
const N_TURNS: usize = 10;
const N_NEW: u32 = 40;

/// Models of a process share its pool, whose size the first one says.
static TURN: Mutex<()> = Mutex::new(());

struct Case {
    spec: TinySpec,
    kv_type: KvType,
    dir: Option<PathBuf>,
}

impl Case {
    fn new(spec: TinySpec) -> Self {
        Self { spec: TinySpec { n_ctx: N_CTX, ..spec }, kv_type: KvType::F16, dir: None }
    }

    fn load(&self) -> Engine {
        let options = LoadOptions {
            n_threads: Some(1),
            kv_type: Some(self.kv_type),
            kv_cache_dir: self.dir.clone(),
            no_prefix_cache: self.dir.is_none(),
            ..LoadOptions::default()
        };
        Engine::load_with(&Source::Bytes(self.spec.bytes()), &options, &mut |_, _| {})
            .expect("a tiny model loads")
    }
}

/// Tokens with the bits of their log-probabilities.
type Answer = Vec<(u32, u32)>;

fn ask(engine: &Engine, tenant: &str, prompt: &[TokenId]) -> (Answer, Usage) {
    let task = Task::Completion { prompt: Prompt::Tokens(prompt.to_vec()), echo: Echo::No };
    let principal = Principal { tenant: tenant.into(), ..Principal::local() };
    let request = Request {
        max_tokens: Some(N_NEW),
        ignore_eos: true,
        logprobs: Some(0),
        sampling: Sampling { temperature: Some(0.8), seed: Some(5), ..Sampling::default() },
        ..Request::new("turn", principal, task)
    };
    let (mut answer, mut usage) = (Vec::new(), Usage::default());
    for delta in block_on_stream(block_on(engine.provider().start(request)).expect("it is admitted")) {
        match delta.expect("it does not fail").event {
            Event::Text { logprobs, .. } => {
                let bits = |p: Option<f32>| p.expect("new tokens have one").to_bits();
                answer.extend(logprobs.iter().map(|l| (l.token.0, bits(l.logprob))));
            }
            Event::Done(used) => usage = used,
            _ => {}
        }
    }
    (answer, usage)
}

fn tiers(engine: &Engine) -> KvTierStatus {
    engine.provider().status().kv_tiers
}

fn words(rng: &mut Rng, n: usize) -> Vec<TokenId> {
    (0..n).map(|_| TokenId(rng.below(256) as u32)).collect()
}

/// How many of these tokens can come from a cache that has seen `n_before` of them, of which the last was never computed.
fn cacheable(n_before: usize) -> u64 {
    (n_before.saturating_sub(1) / BLOCK * BLOCK) as u64
}

/// A conversation of ten turns with a restart before each of some; each turn's answer and usage.
fn converse(case: &Case, restart_before: &[usize], check_cached: bool) -> Vec<Answer> {
    let mut rng = Rng::new(11);
    let mut engine = case.load();
    let (mut context, mut answers) = (Vec::new(), Vec::new());
    for turn in 0..N_TURNS {
        if restart_before.contains(&turn) {
            drop(engine);
            engine = case.load();
        }
        let n_before = context.len();
        let question = words(&mut rng, 20 + turn);
        context.extend(question);
        let before = tiers(&engine).disk_tokens_read_total;
        let (answer, usage) = ask(&engine, "ann", &context);
        if check_cached {
            let cached = usage.cached_tokens;
            assert!(cached >= cacheable(n_before) && cached < context.len() as u64, "turn {turn}: {cached}");
            if restart_before.contains(&turn) {
                let read = tiers(&engine).disk_tokens_read_total - before;
                assert_eq!((read, cached), (cacheable(n_before), read), "turn {turn}: from the disk");
            }
        } else {
            assert_eq!(usage.cached_tokens, 0);
        }
        assert_eq!(answer.len(), N_NEW as usize);
        context.extend(answer.iter().map(|&(token, _)| TokenId(token)));
        answers.push(answer);
    }
    answers
}

fn check(mut case: Case) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let alone = converse(&case, &[], false);
    let dir = TempDir::new().unwrap();
    case.dir = Some(dir.path().join("kv"));
    let found = converse(&case, &[4, 5, 9], true);
    assert!(found == alone, "{:?} differs from itself without a cache", case.kv_type);
}

#[test]
fn a_conversation_outlives_its_engine() {
    check(Case::new(TinySpec::new(Arch::Qwen3)));
}

#[test]
fn also_in_few_bits() {
    check(Case { kv_type: KvType::Q4_0, ..Case::new(TinySpec::new(Arch::Qwen2)) });
}

#[test]
fn also_where_layers_see_a_window() {
    check(Case::new(TinySpec { sliding_window: Some(70), ..TinySpec::new(Arch::Llama) }));
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir.join("blocks")).unwrap().map(|folder| folder.unwrap().path());
    let mut files: Vec<PathBuf> =
        folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path())).collect();
    files.sort();
    files
}

#[test]
fn only_what_was_written_is_believed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new().unwrap();
    let case = Case { dir: Some(dir.path().to_owned()), ..Case::new(TinySpec::new(Arch::Qwen3)) };
    let prompt = words(&mut Rng::new(3), 300);
    let (expected, usage) = ask(&case.load(), "ann", &prompt);
    assert_eq!(usage.cached_tokens, 0);
    let n_blocks = (300 + N_NEW as usize - 1) / BLOCK;
    assert_eq!(files(dir.path()).len(), n_blocks);

    // Another tenant, another arithmetic and another model find nothing, and lose nothing.
    assert_eq!(ask(&case.load(), "bob", &prompt).1.cached_tokens, 0);
    let others = [
        Case { kv_type: KvType::F32, dir: case.dir.clone(), ..Case::new(TinySpec::new(Arch::Qwen3)) },
        Case { dir: case.dir.clone(), ..Case::new(TinySpec { n_vocab: 300, ..TinySpec::new(Arch::Qwen3) }) },
    ];
    for other in others {
        assert_eq!(ask(&other.load(), "ann", &prompt).1.cached_tokens, 0);
    }
    let (answer, usage) = ask(&case.load(), "ann", &prompt);
    assert!(answer == expected && usage.cached_tokens == cacheable(300), "{}", usage.cached_tokens);

    // Any byte of any file changed: computed again, with the same answer.
    let mut rng = Rng::new(9);
    for file in files(dir.path()) {
        let mut bytes = fs::read(&file).unwrap();
        let at = rng.below(bytes.len());
        bytes[at] ^= 1 << rng.below(8);
        fs::write(&file, bytes).unwrap();
    }
    let engine = case.load();
    let (answer, usage) = ask(&engine, "ann", &prompt);
    assert!(answer == expected && usage.cached_tokens == 0);
    assert!(tiers(&engine).disk_blocks_refused_total >= 1);
    drop(engine);
    let (answer, usage) = ask(&case.load(), "ann", &prompt);
    assert!(answer == expected && usage.cached_tokens == cacheable(300), "what was refused is written anew");
}

#[test]
fn who_is_flushed_is_forgotten_on_disk_too() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new().unwrap();
    let case = Case { dir: Some(dir.path().to_owned()), ..Case::new(TinySpec::new(Arch::Qwen3)) };
    let prompt = words(&mut Rng::new(3), 100);
    let principal = |tenant: &str| Principal { tenant: tenant.into(), ..Principal::local() };
    let engine = case.load();
    for tenant in ["ann", "bob"] {
        ask(&engine, tenant, &prompt);
    }
    engine.provider().flush_cache(&principal("ann")).unwrap();
    // The thread flushes before it takes this.
    ask(&engine, "eve", &prompt);
    drop(engine);
    let engine = case.load();
    assert_eq!(ask(&engine, "ann", &prompt).1.cached_tokens, 0);
    assert_eq!(ask(&engine, "bob", &prompt).1.cached_tokens, cacheable(100));
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let load = |dir: &Path, no_prefix_cache: bool| {
        let options =
            LoadOptions { kv_cache_dir: Some(dir.to_owned()), no_prefix_cache, ..LoadOptions::default() };
        Engine::load_with(&Source::Shipped, &options, &mut |_, _| {})
    };
    let error = load(dir.path(), false).err().expect("refused");
    assert!(matches!(error, LoadError::KvCache(_)) && error.to_string().contains("other files"), "{error}");
    assert!(matches!(load(&dir.path().join("kv"), true), Err(LoadError::KvCacheOff)));
    // Two models of one process share a folder.
    let shared = dir.path().join("kv");
    let (a, b) = (load(&shared, false).unwrap(), load(&shared, false).unwrap());
    assert_eq!((a.notices().len(), b.notices().len()), (0, 0));
    // Another process has it: the model goes without, and says so.
    drop((a, b));
    let lock = fs::File::options().write(true).open(shared.join("lock")).unwrap();
    lock.lock().unwrap();
    let engine = load(&shared, false).unwrap();
    assert!(engine.notices()[0].contains("used by another process"), "{:?}", engine.notices());
}

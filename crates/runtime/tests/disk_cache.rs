//! The prefix cache on disk: a conversation goes on after its model was unloaded, with only new tokens computed and the
//! same bytes as without any cache; what lies in the folder is believed only if it is what was written, for the same
//! model, arithmetic and tenant.
//!
//! **New** are the tokens of a prompt that no step has computed before: those of the question, and the last one of the
//! answer before it, which was sampled and then needed nobody. Of a prompt that was computed to its end, the last token is
//! computed again, to have its logits.

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

/// How many tokens can come from a cache that has seen `n` of them, of which the last was never computed, or must be again.
fn cacheable(n: usize) -> u64 {
    n.saturating_sub(1) as u64
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
        let before = engine.provider().status();
        let (answer, usage) = ask(&engine, "ann", &context);
        let status = engine.provider().status();
        let computed = status.prompt_tokens_total - before.prompt_tokens_total;
        assert_eq!(computed, context.len() as u64 - usage.cached_tokens, "turn {turn}");
        if check_cached {
            assert_eq!(usage.cached_tokens, cacheable(n_before), "turn {turn}: all but what is new");
            let read = status.kv_tiers.disk_tokens_read_total - before.kv_tiers.disk_tokens_read_total;
            let is_restarted = restart_before.contains(&turn);
            assert_eq!(
                read,
                if is_restarted { cacheable(n_before) } else { 0 },
                "turn {turn}: from the disk"
            );
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
    for restart_before in [&[4, 5, 9][..], &[1, 2, 3, 4, 5, 6, 7, 8, 9]] {
        let dir = TempDir::new().unwrap();
        let folder = dir.path().join("kv");
        case.dir = Some(folder.clone());
        let found = converse(&case, restart_before, true);
        assert!(found == alone, "{:?} differs from itself without a cache", case.kv_type);
        // Whoever replaces a tail removes it: there are all full blocks, and the tail of the last turn.
        let questions: usize = (0..N_TURNS).map(|turn| 20 + turn).sum();
        let n_computed = questions + N_TURNS * N_NEW as usize - 1;
        assert_eq!(files(&folder).len(), n_computed.div_ceil(BLOCK));
    }
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
    let n_blocks = (300 + N_NEW as usize - 1).div_ceil(BLOCK);
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
    assert!(answer == expected, "what was refused is written anew");
    assert_eq!(usage.cached_tokens, cacheable(300), "what was refused is written anew");
}

/// At each field and each length, by the description of files in the engine's `disk_cache/record.rs`.
#[test]
fn a_tail_that_is_not_what_was_written_is_computed_again() {
    type Damage = fn(&mut Vec<u8>);
    const TOKENS: usize = 128;
    const PAYLOAD: usize = TOKENS + 19 * 4;
    let damage: [(&str, Damage); 16] = [
        ("version", |bytes| bytes[7] ^= 1),
        ("payload's length", |bytes| bytes[8] ^= 1),
        ("number of tokens", |bytes| bytes[16] ^= 1),
        ("cost", |bytes| bytes[24] ^= 1),
        ("key", |bytes| bytes[33] ^= 1),
        ("parent", |bytes| bytes[65] ^= 1),
        ("tenant", |bytes| bytes[97] ^= 1),
        ("tokens", |bytes| bytes[TOKENS + 1] ^= 1),
        ("payload", |bytes| bytes[PAYLOAD] ^= 1),
        ("MAC", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("empty", Vec::clear),
        ("cut within the header", |bytes| bytes.truncate(TOKENS / 2)),
        ("cut within the tokens", |bytes| bytes.truncate(TOKENS + 6)),
        ("cut within the payload", |bytes| bytes.truncate(bytes.len() / 2)),
        ("cut within the MAC", |bytes| bytes.truncate(bytes.len() - 1)),
        ("longer", |bytes| bytes.push(0)),
    ];
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let case = |dir: Option<&Path>| {
        let dir = dir.map(Path::to_owned);
        Case { dir, ..Case::new(TinySpec::new(Arch::Qwen3)) }
    };
    let origin = TempDir::new().unwrap();
    let mut rng = Rng::new(3);
    let mut context = words(&mut rng, 300);
    let (answer, _) = ask(&case(Some(origin.path())).load(), "ann", &context);
    context.extend(answer.iter().map(|&(token, _)| TokenId(token)));
    context.extend(words(&mut rng, 25));
    let expected = ask(&case(None).load(), "ann", &context).0;
    for (what, damage) in damage {
        let dir = TempDir::new().unwrap();
        copy(origin.path(), dir.path());
        // 339 tokens are ten blocks and 19.
        let n_tokens =
            |file: &PathBuf| u64::from_le_bytes(fs::read(file).unwrap()[16..24].try_into().unwrap());
        let tail = files(dir.path()).into_iter().find(|file| n_tokens(file) == 19).expect("it is there");
        let mut bytes = fs::read(&tail).unwrap();
        damage(&mut bytes);
        fs::write(&tail, bytes).unwrap();
        let engine = case(Some(dir.path())).load();
        let (answer, usage) = ask(&engine, "ann", &context);
        assert!(answer == expected, "{what}");
        assert_eq!(usage.cached_tokens, 320, "{what}: all but the tail");
        assert_eq!(tiers(&engine).disk_blocks_refused_total, 1, "{what}");
        drop(engine);
        assert!(!tail.exists(), "{what}: it is removed");
        let again = ask(&case(Some(dir.path())).load(), "ann", &context);
        assert!(again.0 == expected && again.1.cached_tokens == cacheable(context.len()), "{what}");
    }
    // Whole, it is believed.
    let (answer, usage) = ask(&case(Some(origin.path())).load(), "ann", &context);
    assert!(answer == expected && usage.cached_tokens == 339);
}

/// All of a folder, that no engine has.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
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
    assert_eq!(ask(&case.load(), "ann", &prompt).1.cached_tokens, 0);
    // Anew, so that nobody knows yet whether reading or computing takes longer.
    assert_eq!(ask(&case.load(), "bob", &prompt).1.cached_tokens, cacheable(100));
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

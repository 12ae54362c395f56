use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

const BLOCK: usize = 4;
const PAYLOAD: usize = 500;

/// A folder, and its cache as long as it is open.
struct Fixture {
    dir: TempDir,
    tier: Option<DiskTier>,
    max_bytes: u64,
}

impl Fixture {
    fn new(max_bytes: u64) -> Self {
        let mut fixture = Self { dir: TempDir::new().unwrap(), tier: None, max_bytes };
        assert_eq!(fixture.open(), [""; 0]);
        fixture
    }

    /// Opens it anew; gives the notices.
    fn open(&mut self) -> Vec<String> {
        self.tier = None;
        let cache = DiskCache::open(self.dir.path(), self.max_bytes).unwrap();
        let notices = cache.notices().to_vec();
        self.tier = Some(DiskTier::new(Arc::new(cache), "model"));
        notices
    }

    fn tier(&self) -> &DiskTier {
        self.tier.as_ref().unwrap()
    }

    fn chain(&self, tenant: &str, text: &str) -> Vec<Key> {
        self.tier().chain(&self.tier().tenant(tenant), &tokens(text), BLOCK)
    }

    /// The names of a text's blocks, the last of which may be a tail.
    fn chain_to_end(&self, tenant: &str, text: &str) -> Vec<Key> {
        let mut keys = self.chain(tenant, text);
        let tail = &text[(keys.len() - 1) * BLOCK..];
        if !tail.is_empty() {
            keys.push(self.tier().child(keys.last().unwrap(), &tokens(tail)));
        }
        keys
    }

    /// Hands over what is not there of a text's blocks.
    fn hand_over(&self, tenant: &str, text: &str) -> Vec<Key> {
        let keys = self.chain_to_end(tenant, text);
        for (i, (pair, tokens)) in keys.windows(2).zip(tokens(text).chunks(BLOCK)).enumerate() {
            let (parent, key) = (pair[0], pair[1]);
            if self.tier().wants(&key, &parent, tokens) {
                let tenant = self.tier().tenant(tenant);
                let (tokens, payload, wake) = (tokens.into(), payload(&keys, i), thread::current());
                self.tier().write(Write { key, parent, tenant, cost: 1024, tokens, payload, wake });
            }
        }
        keys
    }

    /// Writes all full blocks of a text, and waits until they are there.
    fn write(&self, tenant: &str, text: &str) {
        self.write_to_end(tenant, &text[..text.len() / BLOCK * BLOCK]);
    }

    /// Writes all blocks of a text, and waits until they are there.
    fn write_to_end(&self, tenant: &str, text: &str) {
        let keys = self.hand_over(tenant, text);
        let deadline = Instant::now() + Duration::from_secs(20);
        while keys[1..].iter().any(|key| self.tier().cache.shared.state().pending.contains_key(key)) {
            assert!(Instant::now() < deadline, "nothing is written");
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// How many blocks of a text can be read. All of them are what was written.
    fn read(&self, tenant: &str, text: &str) -> usize {
        let keys = self.chain(tenant, text);
        let reply = self.tier().read(keys[1..].to_vec()).unwrap();
        let blocks = reply.recv_timeout(Duration::from_secs(20)).expect("an answer");
        for (i, block) in blocks.iter().enumerate() {
            assert_eq!(*block, payload(&keys, i));
        }
        blocks.len()
    }

    /// How much of a text can be had: full blocks, and slots of one more.
    fn find(&self, tenant: &str, text: &str) -> (usize, usize) {
        let keys = self.chain(tenant, text);
        let n_found = self.tier().n_found(&keys[1..]);
        let next = self.tier().nearest(&keys[n_found], &tokens(&text[n_found * BLOCK..]));
        (n_found, next.map_or(0, |next| next.n_common))
    }

    /// The file of a text's last block.
    fn file(&self, tenant: &str, text: &str) -> PathBuf {
        self.tier().cache.shared.folder.file(*self.chain_to_end(tenant, text).last().unwrap())
    }

    fn n_files(&self) -> usize {
        let folders = fs::read_dir(self.dir.path().join("blocks")).unwrap();
        folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }
}

fn tokens(text: &str) -> Vec<TokenId> {
    text.bytes().map(|b| TokenId(b.into())).collect()
}

/// Something that depends on all of the text.
fn payload(keys: &[Key], i: usize) -> Vec<u8> {
    keys[i + 1].0.iter().copied().cycle().take(PAYLOAD).collect()
}

fn file_bytes() -> u64 {
    (record::HEADER_BYTES + 4 * BLOCK + PAYLOAD + record::MAC_BYTES) as u64
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let mut f = Fixture::new(1 << 20);
    f.write("ann", "the beginning of it");
    assert_eq!(f.read("ann", "the beginning of it"), 4);
    assert_eq!(f.open(), [""; 0]);
    assert_eq!(f.tier().n_found(&f.chain("ann", "the beginning of it")[1..]), 4);
    assert_eq!(f.read("ann", "the beginning of another"), 4);
    assert_eq!(f.read("ann", "the end"), 1);
    assert_eq!(f.read("bob", "the beginning of it"), 0, "another tenant finds nothing");
    let stats = f.tier().stats();
    assert_eq!((stats.blocks, stats.bytes, stats.blocks_refused), (4, 4 * file_bytes(), 0));
}

#[test]
fn what_was_handed_over_is_written_at_the_end() {
    let mut f = Fixture::new(1 << 20);
    f.hand_over("ann", &"abcd".repeat(20));
    f.open();
    assert_eq!(f.read("ann", &"abcd".repeat(20)), 20);
}

#[test]
fn a_damaged_file_is_removed_and_counted() {
    type Damage = fn(&mut Vec<u8>);
    let damage: [(&str, Damage); 5] = [
        ("a byte of the payload", |bytes| bytes[300] ^= 1),
        ("a byte of the MAC", |bytes| *bytes.last_mut().unwrap() ^= 128),
        ("the end is missing", |bytes| bytes.truncate(400)),
        ("nothing is left", Vec::clear),
        ("too long", |bytes| bytes.push(0)),
    ];
    for (what, damage) in damage {
        for restart in [false, true] {
            let mut f = Fixture::new(1 << 20);
            f.write("ann", "one two three");
            let file = f.file("ann", "one two ");
            let mut bytes = fs::read(&file).unwrap();
            damage(&mut bytes);
            fs::write(&file, bytes).unwrap();
            if restart {
                f.open();
            }
            assert_eq!(f.read("ann", "one two three"), 1, "{what}");
            assert_eq!(f.tier().stats().blocks_refused, 1, "{what}");
            // Computed and written again, it leads to the rest.
            f.write("ann", "one two ");
            assert_eq!(f.read("ann", "one two three"), 3, "{what}");
        }
    }
}

/// What hangs on a block that is missing may be damaged as well, and nobody would read it to find out.
#[test]
fn what_is_behind_a_gap_is_written_anew() {
    let mut f = Fixture::new(1 << 20);
    let text = "one two three four";
    f.write_to_end("ann", text);
    fs::remove_file(f.file("ann", "one two ")).unwrap();
    f.open();
    let n_files = f.n_files();
    let keys = f.chain("ann", text);
    let n_found = f.tier().n_found(&keys[1..]);
    assert_eq!(n_found, 1);
    let rest = &tokens(text)[(keys.len() - 1) * BLOCK..];
    f.tier().forget_behind(&keys[1 + n_found..], rest);
    assert!(f.tier().wants(&keys[3], &keys[2], &tokens(text)[2 * BLOCK..3 * BLOCK]));
    assert!(!f.tier().wants(&keys[1], &keys[0], &tokens(text)[..BLOCK]), "what is before the gap stays");
    f.write_to_end("ann", text);
    assert_eq!((f.read("ann", text), f.n_files()), (keys.len() - 1, n_files + 1));
}

#[test]
fn a_tail_is_kept_until_a_longer_block_replaces_it() {
    let mut f = Fixture::new(1 << 20);
    let check = |f: &mut Fixture, text: &str, expected: (usize, usize), n_files: usize| {
        f.open();
        assert_eq!((f.find("ann", text), f.n_files()), (expected, n_files), "{text}");
    };
    f.write_to_end("ann", "one tw");
    check(&mut f, "one two three", (1, 2), 2);
    assert_eq!(f.find("bob", "one two"), (0, 0), "another tenant finds nothing");
    f.write_to_end("ann", "one two");
    check(&mut f, "one two three", (1, 3), 2);
    f.write_to_end("ann", "one t");
    check(&mut f, "one two three", (1, 3), 2);
    f.write_to_end("ann", "one two three");
    check(&mut f, "one two three", (3, 1), 4);
    // Another end of the same beginning.
    f.write_to_end("ann", "one to");
    check(&mut f, "one to", (1, 2), 5);
    // Who parts from a block takes what it has in common with it.
    check(&mut f, "one twice", (1, 2), 5);
    check(&mut f, "one", (0, 3), 5);
    assert_eq!(f.tier().stats().blocks_refused, 0);
}

#[test]
fn of_a_tail_that_is_not_what_was_written_nothing_is_left() {
    type Damage = fn(&mut Vec<u8>);
    const HEADER: usize = record::HEADER_BYTES;
    // At each field and each length, as the file's description has them.
    let damage: [(&str, Damage); 18] = [
        ("magic", |bytes| bytes[0] ^= 1),
        ("version", |bytes| bytes[7] ^= 3),
        ("payload's length", |bytes| bytes[8] ^= 1),
        ("number of tokens", |bytes| bytes[16] ^= 1),
        ("cost", |bytes| bytes[24] ^= 1),
        ("key", |bytes| bytes[32] ^= 1),
        ("parent", |bytes| bytes[64] ^= 1),
        ("tenant", |bytes| bytes[96] ^= 1),
        ("tokens", |bytes| bytes[HEADER] ^= 1),
        ("payload", |bytes| bytes[HEADER + 12 + 100] ^= 1),
        ("MAC", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("nothing is left", Vec::clear),
        ("cut within the numbers", |bytes| bytes.truncate(20)),
        ("cut behind the header", |bytes| bytes.truncate(HEADER)),
        ("cut within the tokens", |bytes| bytes.truncate(HEADER + 5)),
        ("cut within the payload", |bytes| bytes.truncate(HEADER + 12 + 100)),
        ("cut within the MAC", |bytes| bytes.truncate(bytes.len() - 1)),
        ("too long", |bytes| bytes.push(0)),
    ];
    for (what, damage) in damage {
        for restart in [false, true] {
            let mut f = Fixture::new(1 << 20);
            f.write_to_end("ann", "one two");
            let file = f.file("ann", "one two");
            let mut bytes = fs::read(&file).unwrap();
            damage(&mut bytes);
            fs::write(&file, bytes).unwrap();
            if restart {
                f.open();
            }
            let keys = f.chain_to_end("ann", "one two");
            let blocks = f.tier().read(keys[1..].to_vec()).unwrap();
            let blocks = blocks.recv_timeout(Duration::from_secs(20)).expect("an answer");
            assert!(blocks == [payload(&keys, 0)], "{what}: only the block before it");
            assert_eq!((f.find("ann", "one two"), f.tier().stats().blocks_refused), ((1, 0), 1), "{what}");
            f.write_to_end("ann", "one two");
            f.open();
            assert_eq!((f.find("ann", "one two"), f.n_files()), ((1, 3), 2), "{what}");
        }
    }
}

#[test]
fn a_file_under_another_name_is_not_believed() {
    let f = Fixture::new(1 << 20);
    f.write("ann", "one two ");
    f.write("bob", "one two ");
    // A block of bob's where ann's is: its own name stands in it, and is signed.
    fs::copy(f.file("bob", "one "), f.file("ann", "one ")).unwrap();
    assert_eq!(f.read("ann", "one two "), 0);
    assert_eq!(f.tier().stats().blocks_refused, 1);
    assert_eq!(f.read("bob", "one two "), 2);
}

#[test]
fn what_a_crash_left_half_written_is_cleared() {
    let mut f = Fixture::new(1 << 20);
    f.write("ann", "one two ");
    let file = f.file("ann", "one ");
    let bytes = fs::read(&file).unwrap();
    for n in [0, 1, 100, bytes.len() - 1] {
        let mut name = file.file_name().unwrap().to_owned();
        name.push(".tmp");
        fs::write(file.with_file_name(name), &bytes[..n]).unwrap();
        assert_eq!(f.open(), [""; 0]);
        assert_eq!((f.read("ann", "one two "), f.n_files()), (2, 2));
    }
    // A rename that came through without what was renamed.
    fs::write(&file, b"").unwrap();
    let notices = f.open();
    assert!(notices.len() == 1 && notices[0].contains("1 damaged files were removed"), "{notices:?}");
    assert_eq!((f.read("ann", "one two "), f.n_files()), (0, 1));
}

#[test]
fn it_has_a_size() {
    let mut f = Fixture::new(5 * file_bytes());
    f.write("ann", "aaaabbbbcccc");
    f.write("ann", "ddddeeeeffff");
    assert_eq!((f.n_files(), f.tier().stats().blocks), (5, 5));
    assert_eq!(f.read("ann", "ddddeeeeffff"), 3);
    assert_eq!(f.read("ann", "aaaabbbbcccc"), 2, "the end of the older one made way");
    // A smaller one, from now on. The removals come before anything that is asked for later.
    f.max_bytes = 2 * file_bytes();
    f.open();
    assert_eq!(f.tier().stats().blocks, 2);
    f.write("ann", "gggg");
    f.open();
    assert_eq!(f.n_files(), 2);
    // What is larger than all of it is not kept.
    f.max_bytes = file_bytes() - 1;
    f.open();
    f.write("ann", "hhhh");
    assert_eq!((f.tier().stats().blocks, f.tier().stats().blocks_dropped), (0, 1));
}

#[test]
fn a_tenant_is_forgotten() {
    let mut f = Fixture::new(1 << 20);
    f.write("ann", "aaaabbbb");
    f.write("bob", "aaaabbbb");
    f.tier().flush(&f.tier().tenant("ann"));
    assert_eq!((f.read("ann", "aaaabbbb"), f.read("bob", "aaaabbbb")), (0, 2));
    f.write("ann", "aaaa");
    f.open();
    assert_eq!((f.read("ann", "aaaabbbb"), f.read("bob", "aaaabbbb"), f.n_files()), (1, 2, 3));
    assert_eq!(f.tier().stats().blocks_refused, 0);
}

#[test]
fn one_process_at_a_time() {
    let f = Fixture::new(1 << 20);
    let error = DiskCache::open(f.dir.path(), 1 << 20).expect_err("it is in use");
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    assert!(error.to_string().contains("used by another process"), "{error}");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let error = DiskCache::open(dir.path(), 1 << 20).expect_err("refused");
    assert!(matches!(error, OpenError::Foreign(_)), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
    let file = dir.path().join("thesis.txt");
    assert!(matches!(DiskCache::open(&file, 1 << 20).err(), Some(OpenError::Io { .. })));
}

#[test]
fn another_version_or_a_lost_key_starts_empty() {
    let check = |damage: fn(&Path), expected: &str| {
        let mut f = Fixture::new(1 << 20);
        f.write("ann", "aaaabbbb");
        let name = f.file("ann", "aaaa");
        f.tier = None;
        damage(f.dir.path());
        let notices = f.open();
        assert!(notices.len() == 1 && notices[0].contains(expected), "{notices:?}");
        assert_eq!((f.read("ann", "aaaabbbb"), f.n_files()), (0, 0));
        assert_ne!(f.file("ann", "aaaa"), name, "under a key of its own");
        f.write("ann", "aaaabbbb");
        assert_eq!(f.open(), [""; 0]);
        assert_eq!(f.read("ann", "aaaabbbb"), 2);
    };
    check(|dir| fs::write(dir.join("format"), "ingle kv cache 99\n").unwrap(), "`ingle kv cache 99`");
    check(|dir| fs::remove_file(dir.join("key")).unwrap(), "key is missing");
    check(|dir| fs::write(dir.join("key"), "short").unwrap(), "key is missing");
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let f = Fixture::new(1 << 20);
    f.write("ann", "aaaa");
    for path in [f.dir.path().join("key"), f.file("ann", "aaaa"), f.dir.path().join("blocks")] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
    }
    let name = f.file("ann", "aaaa");
    assert!(!name.to_string_lossy().contains("ann"));
}

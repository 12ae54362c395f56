//! Compiled grammars, the last used ones first to stay.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Grammar;

/// A bounded map from formats to grammars. Bounded by bytes, not entries: schemas differ by orders of magnitude.
pub(crate) struct Cache {
    entries: HashMap<String, Entry>,
    limit_bytes: usize,
    used_bytes: usize,
    /// Counts the uses, to know the oldest.
    clock: u64,
}

struct Entry {
    grammar: Arc<Grammar>,
    bytes: usize,
    last_use: u64,
}

impl Cache {
    pub fn new(limit_bytes: usize) -> Self {
        Self { entries: HashMap::new(), limit_bytes, used_bytes: 0, clock: 0 }
    }

    pub fn get(&mut self, key: &str) -> Option<Arc<Grammar>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.last_use = self.clock;
        Some(Arc::clone(&entry.grammar))
    }

    /// Keeps a grammar, and drops others until all fit; one that is larger than the whole cache is not kept.
    pub fn insert(&mut self, key: String, grammar: Arc<Grammar>, bytes: usize) {
        if bytes > self.limit_bytes {
            return;
        }
        self.clock += 1;
        if let Some(old) = self.entries.remove(&key) {
            self.used_bytes -= old.bytes;
        }
        while self.used_bytes + bytes > self.limit_bytes {
            let oldest =
                self.entries.iter().min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone());
            let Some(dropped) = oldest.and_then(|key| self.entries.remove(&key)) else { break };
            self.used_bytes -= dropped.bytes;
        }
        self.used_bytes += bytes;
        self.entries.insert(key, Entry { grammar, bytes, last_use: self.clock });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

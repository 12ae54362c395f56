//! Sets of characters.

/// Ranges of characters by number, ends included, in order, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Chars(Vec<(u32, u32)>);

const LAST: u32 = 0x10_FFFF;
const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);

impl Chars {
    pub fn new(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub fn one(c: char) -> Self {
        Self(vec![(u32::from(c), u32::from(c))])
    }

    pub fn all() -> Self {
        Self(vec![(0, SURROGATES.0 - 1), (SURROGATES.1 + 1, LAST)])
    }

    pub fn negated(&self) -> Self {
        let mut ranges = Vec::new();
        let mut next = 0;
        for &(first, last) in &self.0 {
            if first > next {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            ranges.push((next, LAST));
        }
        // The halves of pairs are no characters.
        let mut apart = Vec::new();
        for (first, last) in ranges {
            if first < SURROGATES.0 {
                apart.push((first, last.min(SURROGATES.0 - 1)));
            }
            if last > SURROGATES.1 {
                apart.push((first.max(SURROGATES.1 + 1), last));
            }
        }
        Self(apart)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn meets(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(&&x), Some(&&y)) = (a.peek(), b.peek()) {
            if x.0 <= y.1 && y.0 <= x.1 {
                return true;
            }
            if x.1 < y.1 {
                a.next()
            } else {
                b.next()
            };
        }
        false
    }

    /// Becomes what is in either; whether that is more.
    pub fn add(&mut self, other: &Self) -> bool {
        let joined = Self::new(self.0.iter().chain(&other.0).copied().collect());
        let is_more = joined != *self;
        *self = joined;
        is_more
    }

    /// As a regular expression.
    pub fn regex(&self) -> String {
        let ranges = self.0.iter().map(|(first, last)| format!("\\x{{{first:x}}}-\\x{{{last:x}}}"));
        format!("[{}]", ranges.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_sets() {
        let digits = Chars::new(vec![(53, 57), (48, 52), (50, 51)]);
        assert_eq!(digits, Chars(vec![(48, 57)]));
        assert!(digits.meets(&Chars::one('7')) && !digits.meets(&Chars::one('a')));
        assert!(!digits.meets(&digits.negated()) && digits.negated().meets(&Chars::one('a')));
        assert_eq!(Chars::default().negated(), Chars::all());
        assert!(Chars::all().negated().is_empty());
        let mut set = digits.clone();
        assert!(!set.add(&Chars::one('1')) && set.add(&Chars::one('a')) && set.meets(&Chars::one('a')));
        assert_eq!(digits.regex(), r"[\x{30}-\x{39}]");
    }
}

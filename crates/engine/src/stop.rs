//! Stop strings in a stream of text that arrives in arbitrary pieces.

/// Finds the first of some strings to be complete, however the text is cut. Text that might be the start of one
/// is held back; everything else is let through at once.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// Text that is held back: the longest part of a stop string that it ends with.
    held: String,
}

#[derive(Clone, Debug)]
struct Stop {
    text: String,
    /// Length of the longest proper beginning of `text[..=i]` that is also its end (Knuth, Morris, Pratt).
    border: Vec<usize>,
    /// How many leading bytes the text so far ends with.
    matched: usize,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Text that is certainly not part of a stop string.
    pub text: String,
    /// The stop string that is now complete. Nothing comes after it.
    pub stopped_by: Option<String>,
}

impl StopMatcher {
    /// A matcher for non-empty strings.
    pub fn new(stops: &[String]) -> Self {
        assert!(stops.iter().all(|s| !s.is_empty()), "an empty stop string would match at once");
        Self { stops: stops.iter().map(|s| Stop::new(s)).collect(), held: String::new() }
    }

    /// Takes the next piece. The first stop string to be complete wins, the longest of those that end together.
    pub fn push(&mut self, piece: &str) -> Released {
        let start = self.held.len();
        self.held.push_str(piece);
        for (i, byte) in piece.bytes().enumerate() {
            self.stops.iter_mut().for_each(|stop| stop.advance(byte));
            let complete = self.stops.iter().filter(|s| s.matched == s.text.len());
            if let Some(stop) = complete.max_by_key(|s| s.text.len()) {
                let matched = stop.text.clone();
                self.held.truncate(start + i + 1 - matched.len());
                return Released { text: self.finish(), stopped_by: Some(matched) };
            }
        }
        let n_held = self.stops.iter().map(|s| s.matched).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - n_held);
        Released { text: std::mem::replace(&mut self.held, held), stopped_by: None }
    }

    /// The text ends here: gives what was held back.
    pub fn finish(&mut self) -> String {
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        std::mem::take(&mut self.held)
    }
}

impl Stop {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut border = vec![0; bytes.len()];
        let mut n = 0;
        for i in 1..bytes.len() {
            while n > 0 && bytes[i] != bytes[n] {
                n = border[n - 1];
            }
            n += usize::from(bytes[i] == bytes[n]);
            border[i] = n;
        }
        Self { text: text.to_owned(), border, matched: 0 }
    }

    fn advance(&mut self, byte: u8) {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.border[self.matched - 1];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text before the stop, and the stop, by looking at the whole text.
    fn naive(stops: &[String], text: &str) -> (String, Option<String>) {
        for end in 0..=text.len() {
            let complete = stops.iter().filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some(stop) = complete.max_by_key(|s| s.len()) {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    fn check(stops: &[&str], text: &str) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        let cuts: Vec<usize> = text.char_indices().map(|(i, _)| i).skip(1).collect();
        let expected = naive(&stops, text);
        // All ways to cut the text in up to three pieces, and into single characters.
        let mut splits: Vec<Vec<usize>> = vec![vec![], cuts.clone()];
        for (i, &a) in cuts.iter().enumerate() {
            splits.push(vec![a]);
            splits.extend(cuts[i + 1..].iter().map(|&b| vec![a, b]));
        }
        for split in splits {
            let mut matcher = StopMatcher::new(&stops);
            let (mut out, mut stopped_by, mut from) = (String::new(), None, 0);
            for to in split.iter().copied().chain([text.len()]) {
                let released = matcher.push(&text[from..to]);
                out += &released.text;
                from = to;
                if released.stopped_by.is_some() {
                    stopped_by = released.stopped_by;
                    break;
                }
                assert!(matcher.held.len() < longest.max(1), "{:?} is too much to hold back", matcher.held);
                assert_eq!(out.len() + matcher.held.len(), to);
            }
            if stopped_by.is_none() {
                out += &matcher.finish();
            }
            assert_eq!((out, stopped_by), expected, "{stops:?} in {text:?} cut at {split:?}");
        }
    }

    #[test]
    fn the_text_ends_before_the_stop_however_it_is_cut() {
        check(&[], "no stops at all");
        check(&["\n\n"], "one\n\ntwo");
        check(&["###"], "a # b ## c ### d");
        check(&["abab"], "aababaab");
        check(&["aaab"], "aaaaaaab!");
        check(&["STOP", "TO"], "go STOP");
        check(&["xyz", "yz"], "wxyz");
        check(&["User:", "\nUser:"], "hello\nUser: hi");
        check(&["é", "ü"], "crème brûlée für");
        check(&["終わり"], "これで終わ終わりです");
        check(&["🙂🙂"], "🙂 🙂🙂🙂");
        check(&["end"], "the en");
        check(&["whole"], "whole");
    }

    #[test]
    fn random_texts_over_a_small_alphabet() {
        let mut rng = ingle_testkit::rng::Rng::new(1);
        let word = |rng: &mut ingle_testkit::rng::Rng, n_max: usize| -> String {
            (0..1 + rng.below(n_max)).map(|_| ['a', 'b', 'é', 'è'][rng.below(4)]).collect()
        };
        for _ in 0..300 {
            let stops: Vec<String> = (0..1 + rng.below(4)).map(|_| word(&mut rng, 5)).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            check(&stops, &word(&mut rng, 14));
        }
    }
}

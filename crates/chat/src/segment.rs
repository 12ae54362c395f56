//! Text that remembers where it came from.
//!
//! Templates render to typed segments. Only [`Segment::Template`] text may encode to control tokens; what users,
//! tools and documents say is [`Segment::Content`] and never can, whatever it spells.

/// A run of text from one kind of source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The template's own text: may spell control tokens.
    Template(String),
    /// Text from outside: never becomes a control token.
    Content(String),
}

impl Segment {
    /// The text.
    pub fn text(&self) -> &str {
        match self {
            Self::Template(s) | Self::Content(s) => s,
        }
    }
}

/// A prompt in typed runs. Neighbours of the same kind are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// Only content: what a raw completion prompt is.
    pub fn content(text: impl Into<String>) -> Self {
        Self(vec![Segment::Content(text.into())])
    }

    /// Only template text: trusted callers.
    pub fn template(text: impl Into<String>) -> Self {
        Self(vec![Segment::Template(text.into())])
    }

    /// Appends a run, joining it to the last one if it is of the same kind.
    pub fn push(&mut self, segment: Segment) {
        if segment.text().is_empty() {
            return;
        }
        match (self.0.last_mut(), segment) {
            (Some(Segment::Template(last)), Segment::Template(next))
            | (Some(Segment::Content(last)), Segment::Content(next)) => last.push_str(&next),
            (_, segment) => self.0.push(segment),
        }
    }

    /// The runs in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Segment> {
        self.0.iter()
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.0.iter().map(Segment::text).collect()
    }
}

impl FromIterator<Segment> for Segments {
    fn from_iter<I: IntoIterator<Item = Segment>>(iter: I) -> Self {
        let mut segments = Self::default();
        iter.into_iter().for_each(|s| segments.push(s));
        segments
    }
}

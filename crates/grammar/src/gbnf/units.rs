//! Which parts of a grammar become terminals, and the grammar in the recognizer's notation.
//!
//! At first every part that is regular, and in no larger one, is a unit. The recognizer follows all units that may
//! come at once, and takes the longest text that one matches. That is right as long as no unit R, having matched,
//! may be followed by a character that another unit S (or R) could go on with: then the longest text is the only one
//! that leads on. Where it is not so, S is split into its parts, down to single characters if need be; those never go
//! on.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use ingle_step::TokenId;

use super::chars::Chars;
use super::parser::{Expr, Grammar};
use crate::vocabulary::Vocabulary;
use crate::{GrammarError, Limits};

/// Characters of a unit: larger ones are split.
const POSITIONS_MAX: usize = 200;
const UNITS_MAX: usize = 2_000;
/// Characters of a grammar that is regular as a whole, with what each rule stands for in its place.
const EXPANDED_MAX: u64 = 100_000;
/// Pairs of positions that are looked at, in all.
const PAIRS_MAX: usize = 5_000_000;

/// A part of the grammar above its units.
#[derive(Clone, Debug)]
enum Node {
    Unit(usize),
    Sequence(Vec<Node>),
    Any(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
    Rule(usize),
    Token(String),
}

struct Unit {
    expr: Expr,
    /// What it became instead.
    split: Option<Node>,
    automaton: Option<Automaton>,
}

/// What may begin a part, and what may follow it.
#[derive(Clone, Default)]
struct Surroundings {
    first: Chars,
    nullable: bool,
    follow: Chars,
}

/// The positions of characters in an expression, and which may come after which. Repetitions are without end here:
/// that is more text than there is, and so on the safe side.
#[derive(Default)]
struct Automaton {
    chars: Vec<Chars>,
    next: Vec<Vec<usize>>,
    first: Vec<usize>,
    last: Vec<bool>,
    nullable: bool,
}

struct Units<'a> {
    grammar: &'a Grammar,
    /// By rule; `None` while it is looked at, which makes it recursive.
    regular: HashMap<usize, Option<bool>>,
    units: Vec<Unit>,
    by_expr: HashMap<Expr, usize>,
    /// By rule, for those that are no terminals.
    bodies: HashMap<usize, Node>,
    text_tokens: TextTokens<'a>,
    named: Vec<TokenId>,
}

/// All tokens of text but one.
struct TextTokens<'a>(&'a Vocabulary);

impl TextTokens<'_> {
    fn but(&self, not: TokenId) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for id in self.0.text.tokens().filter(|&id| id != not) {
            match ranges.last_mut() {
                Some(range) if range.1 + 1 == id.0 => range.1 = id.0,
                _ => ranges.push((id.0, id.0)),
            }
        }
        let ranges: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        format!("<[{}]>", ranges.join(","))
    }
}

/// The grammar, and the special tokens that it names.
pub(super) fn write(
    grammar: &Grammar,
    vocabulary: &Vocabulary,
    limits: &Limits,
) -> Result<(String, Vec<TokenId>), GrammarError> {
    if !ends(grammar) {
        return Err(GrammarError::invalid(
            "no text can be derived: the rules refer to each other without end",
        ));
    }
    let mut units = Units {
        grammar,
        regular: HashMap::new(),
        units: Vec::new(),
        by_expr: HashMap::new(),
        bodies: HashMap::new(),
        text_tokens: TextTokens(vocabulary),
        named: Vec::new(),
    };
    let start = units.node(&Expr::Rule(grammar.root))?;
    // A grammar that is regular as a whole is followed as a whole.
    if !matches!(start, Node::Unit(_)) {
        units.split_conflicts(&start)?;
    } else if expanded(&Expr::Rule(grammar.root), grammar, &mut HashMap::new()) > EXPANDED_MAX {
        let reason = format!("written without rules, the grammar is longer than {EXPANDED_MAX} characters");
        return Err(GrammarError::too_large(reason));
    }
    let mut writer =
        Writer { units: &units, out: String::new(), n: 0, terminals: HashMap::new(), rules: HashSet::new() };
    let start = writer.node(&start);
    if writer.n > limits.definitions {
        let reason =
            format!("the grammar has {} parts: at most {} are allowed", writer.n, limits.definitions);
        return Err(GrammarError::too_large(reason));
    }
    Ok((format!("start: {start}\n{}", writer.out), units.named))
}

/// How many characters a regular expression has, with what each rule stands for in its place. Repetitions are not
/// unrolled.
fn expanded(expr: &Expr, grammar: &Grammar, known: &mut HashMap<usize, u64>) -> u64 {
    match expr {
        Expr::Chars(_) | Expr::Token { .. } => 1,
        Expr::Sequence(parts) | Expr::Any(parts) => {
            parts.iter().fold(0, |sum: u64, part| sum.saturating_add(expanded(part, grammar, known)))
        }
        Expr::Repeat(inner, ..) => expanded(inner, grammar, known),
        Expr::Rule(rule) => {
            if let Some(&size) = known.get(rule) {
                return size;
            }
            let size = expanded(&grammar.rules[*rule], grammar, known);
            known.insert(*rule, size);
            size
        }
    }
}

/// Whether some text can be derived from the root.
fn ends(grammar: &Grammar) -> bool {
    fn expr_ends(expr: &Expr, known: &[bool]) -> bool {
        match expr {
            Expr::Chars(_) | Expr::Token { .. } => true,
            Expr::Sequence(parts) => parts.iter().all(|part| expr_ends(part, known)),
            Expr::Any(parts) => parts.iter().any(|part| expr_ends(part, known)),
            Expr::Repeat(inner, min, _) => *min == 0 || expr_ends(inner, known),
            Expr::Rule(rule) => known[*rule],
        }
    }
    let mut known = vec![false; grammar.rules.len()];
    loop {
        let mut changed = false;
        // Backwards: rules are mostly named before they are defined.
        for (at, rule) in grammar.rules.iter().enumerate().rev() {
            if !known[at] && expr_ends(rule, &known) {
                known[at] = true;
                changed = true;
            }
        }
        if !changed || known[grammar.root] {
            return known[grammar.root];
        }
    }
}

impl Units<'_> {
    fn is_regular(&mut self, expr: &Expr) -> bool {
        match expr {
            Expr::Chars(_) => true,
            Expr::Token { .. } => false,
            Expr::Sequence(parts) | Expr::Any(parts) => parts.iter().all(|part| self.is_regular(part)),
            Expr::Repeat(inner, ..) => self.is_regular(inner),
            Expr::Rule(rule) => match self.regular.get(rule) {
                Some(known) => known.unwrap_or(false),
                None => {
                    self.regular.insert(*rule, None);
                    let grammar = self.grammar;
                    let regular = self.is_regular(&grammar.rules[*rule]);
                    self.regular.insert(*rule, Some(regular));
                    regular
                }
            },
        }
    }

    fn node(&mut self, expr: &Expr) -> Result<Node, GrammarError> {
        if !self.is_regular(expr) {
            return self.structure(expr);
        }
        if let Some(&unit) = self.by_expr.get(expr) {
            return Ok(Node::Unit(unit));
        }
        let unit = self.units.len();
        if unit >= UNITS_MAX {
            return Err(GrammarError::too_large(format!(
                "the grammar has more than {UNITS_MAX} different parts"
            )));
        }
        let automaton = Automaton::new(expr, self.grammar);
        self.units.push(Unit { expr: expr.clone(), split: None, automaton });
        self.by_expr.insert(expr.clone(), unit);
        Ok(Node::Unit(unit))
    }

    /// An expression as what it is made of.
    fn structure(&mut self, expr: &Expr) -> Result<Node, GrammarError> {
        Ok(match expr {
            Expr::Chars(_) => self.node(expr)?,
            Expr::Sequence(parts) => Node::Sequence(self.nodes(parts)?),
            Expr::Any(parts) => Node::Any(self.nodes(parts)?),
            Expr::Repeat(inner, min, max) => Node::Repeat(Box::new(self.node(inner)?), *min, *max),
            Expr::Rule(rule) => {
                if !self.bodies.contains_key(rule) {
                    // There already, for those that are in it.
                    self.bodies.insert(*rule, Node::Sequence(Vec::new()));
                    let grammar = self.grammar;
                    let body = self.structure(&grammar.rules[*rule])?;
                    self.bodies.insert(*rule, body);
                }
                Node::Rule(*rule)
            }
            Expr::Token { id, negated: false } => {
                self.named.push(*id);
                Node::Token(format!("<[{}]>", id.0))
            }
            Expr::Token { id, negated: true } => Node::Token(self.text_tokens.but(*id)),
        })
    }

    fn nodes(&mut self, parts: &[Expr]) -> Result<Vec<Node>, GrammarError> {
        parts.iter().map(|part| self.node(part)).collect()
    }

    fn split_conflicts(&mut self, start: &Node) -> Result<(), GrammarError> {
        let mut budget = PAIRS_MAX;
        loop {
            let around = self.surroundings(start);
            let whole: Vec<usize> = around
                .keys()
                .filter_map(|key| match key {
                    Part::Unit(unit) if self.units[*unit].split.is_none() => Some(*unit),
                    _ => None,
                })
                .collect();
            let mut guilty = HashSet::new();
            for &s in &whole {
                let Some(going_on) = &self.units[s].automaton else {
                    guilty.insert(s);
                    continue;
                };
                for &r in &whole {
                    let Some(matched) = &self.units[r].automaton else { continue };
                    let follow = &around[&Part::Unit(r)].follow;
                    if conflict(matched, going_on, follow, &mut budget) {
                        guilty.insert(s);
                        break;
                    }
                }
                if budget == 0 {
                    return Err(GrammarError::too_large(
                        "the grammar's parts are too many to compare with each other",
                    ));
                }
            }
            if guilty.is_empty() {
                return Ok(());
            }
            let mut guilty: Vec<usize> = guilty.into_iter().collect();
            guilty.sort_unstable();
            for unit in guilty {
                let expr = self.units[unit].expr.clone();
                self.units[unit].split = Some(self.structure(&expr)?);
            }
        }
    }

    /// Of every part that `start` can reach.
    fn surroundings(&self, start: &Node) -> HashMap<Part, Surroundings> {
        let mut around = HashMap::new();
        loop {
            let mut changed = false;
            self.visit(start, &Chars::default(), &mut around, &mut changed);
            let parts: Vec<Part> = around.keys().copied().collect();
            for part in parts {
                let body = match part {
                    Part::Rule(rule) => self.bodies.get(&rule),
                    Part::Unit(unit) => self.units[unit].split.as_ref(),
                };
                let Some(body) = body else { continue };
                let follow = around[&part].follow.clone();
                let (first, nullable) = self.visit(body, &follow, &mut around, &mut changed);
                let own = around.entry(part).or_default();
                changed |= own.first.add(&first) | (nullable && !own.nullable);
                own.nullable |= nullable;
            }
            if !changed {
                return around;
            }
        }
    }

    /// Notes what follows the parts of `node`; what may begin it, and whether it may be nothing.
    fn visit(
        &self,
        node: &Node,
        follow: &Chars,
        around: &mut HashMap<Part, Surroundings>,
        changed: &mut bool,
    ) -> (Chars, bool) {
        match node {
            Node::Token(_) => (Chars::default(), false),
            Node::Rule(rule) => note(Part::Rule(*rule), follow, around, changed),
            Node::Unit(unit) => {
                let (first, nullable) = note(Part::Unit(*unit), follow, around, changed);
                match (&self.units[*unit].split, &self.units[*unit].automaton) {
                    (None, Some(automaton)) => automaton.beginning(),
                    // Unknown: it is split in this very round.
                    _ => (first, nullable),
                }
            }
            Node::Sequence(parts) => {
                let (mut first, mut nullable) = (Chars::default(), true);
                for part in parts.iter().rev() {
                    let mut behind = first.clone();
                    if nullable {
                        behind.add(follow);
                    }
                    let (own, own_nullable) = self.visit(part, &behind, around, changed);
                    if own_nullable {
                        first.add(&own);
                    } else {
                        first = own;
                    }
                    nullable &= own_nullable;
                }
                (first, nullable)
            }
            Node::Any(parts) => {
                let (mut first, mut nullable) = (Chars::default(), false);
                for part in parts {
                    let (own, own_nullable) = self.visit(part, follow, around, changed);
                    first.add(&own);
                    nullable |= own_nullable;
                }
                (first, nullable)
            }
            Node::Repeat(inner, min, _) => {
                let (first, nullable) = self.visit(inner, follow, around, changed);
                let mut behind = first.clone();
                behind.add(follow);
                self.visit(inner, &behind, around, changed);
                (first, nullable || *min == 0)
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Rule(usize),
    Unit(usize),
}

fn note(
    part: Part,
    follow: &Chars,
    around: &mut HashMap<Part, Surroundings>,
    changed: &mut bool,
) -> (Chars, bool) {
    *changed |= !around.contains_key(&part);
    let own = around.entry(part).or_default();
    *changed |= own.follow.add(follow);
    (own.first.clone(), own.nullable)
}

/// Whether `going_on` could go on, with a character that may follow `matched`, from a text that `matched` matches.
fn conflict(matched: &Automaton, going_on: &Automaton, follow: &Chars, budget: &mut usize) -> bool {
    if follow.is_empty() {
        return false;
    }
    let mut seen = HashSet::new();
    let mut todo = Vec::new();
    let mut meet = |from: &[usize], with: &[usize], todo: &mut Vec<(usize, usize)>| {
        for &r in from {
            for &s in with {
                *budget = budget.saturating_sub(1);
                if *budget > 0 && matched.chars[r].meets(&going_on.chars[s]) && seen.insert((r, s)) {
                    todo.push((r, s));
                }
            }
        }
    };
    meet(&matched.first, &going_on.first, &mut todo);
    while let Some((r, s)) = todo.pop() {
        if matched.last[r] && going_on.next[s].iter().any(|&next| going_on.chars[next].meets(follow)) {
            return true;
        }
        meet(&matched.next[r], &going_on.next[s], &mut todo);
    }
    false
}

impl Automaton {
    /// `None` if it is too large.
    fn new(expr: &Expr, grammar: &Grammar) -> Option<Self> {
        let mut automaton = Self::default();
        let (first, last, nullable) = automaton.add(expr, grammar)?;
        automaton.first = first;
        automaton.last = vec![false; automaton.chars.len()];
        last.iter().for_each(|&at| automaton.last[at] = true);
        automaton.nullable = nullable;
        Some(automaton)
    }

    /// The positions that it begins and ends with, and whether it may be nothing.
    fn add(&mut self, expr: &Expr, grammar: &Grammar) -> Option<(Vec<usize>, Vec<usize>, bool)> {
        match expr {
            Expr::Chars(chars) => {
                let at = self.chars.len();
                if at >= POSITIONS_MAX {
                    return None;
                }
                self.chars.push(chars.clone());
                self.next.push(Vec::new());
                Some((vec![at], vec![at], false))
            }
            Expr::Sequence(parts) => {
                let (mut first, mut last, mut nullable) = (Vec::new(), Vec::new(), true);
                for part in parts {
                    let (own_first, own_last, own_nullable) = self.add(part, grammar)?;
                    self.link(&last, &own_first);
                    if nullable {
                        first.extend(&own_first);
                    }
                    if own_nullable {
                        last.extend(own_last);
                    } else {
                        last = own_last;
                    }
                    nullable &= own_nullable;
                }
                Some((first, last, nullable))
            }
            Expr::Any(parts) => {
                let (mut first, mut last, mut nullable) = (Vec::new(), Vec::new(), false);
                for part in parts {
                    let own = self.add(part, grammar)?;
                    first.extend(own.0);
                    last.extend(own.1);
                    nullable |= own.2;
                }
                Some((first, last, nullable))
            }
            Expr::Repeat(inner, min, max) => {
                let (first, last, nullable) = self.add(inner, grammar)?;
                if *max != Some(1) {
                    self.link(&last, &first);
                }
                Some((first, last, nullable || *min == 0))
            }
            Expr::Rule(rule) => self.add(&grammar.rules[*rule], grammar),
            Expr::Token { .. } => None,
        }
    }

    fn link(&mut self, from: &[usize], to: &[usize]) {
        for &at in from {
            for &next in to {
                if !self.next[at].contains(&next) {
                    self.next[at].push(next);
                }
            }
        }
    }

    fn beginning(&self) -> (Chars, bool) {
        let mut first = Chars::default();
        self.first.iter().for_each(|&at| _ = first.add(&self.chars[at]));
        (first, self.nullable)
    }
}

struct Writer<'a> {
    units: &'a Units<'a>,
    out: String,
    n: usize,
    terminals: HashMap<Expr, String>,
    rules: HashSet<String>,
}

impl Writer<'_> {
    fn define(&mut self, prefix: &str, body: &str) -> String {
        self.n += 1;
        let name = format!("{prefix}{}", self.n);
        // Writing to a text cannot fail.
        _ = writeln!(self.out, "{name}: {body}");
        name
    }

    fn terminal(&mut self, expr: &Expr) -> String {
        if let Some(name) = self.terminals.get(expr) {
            return name.clone();
        }
        let body = match expr {
            Expr::Chars(chars) => return format!("/{}/", chars.regex()),
            Expr::Sequence(parts) => {
                let mut body = String::new();
                for part in parts {
                    match part {
                        // Characters in a row are one expression: each name costs.
                        Expr::Chars(chars) if body.ends_with('/') => {
                            body.pop();
                            body.push_str(&chars.regex());
                            body.push('/');
                        }
                        part => {
                            if !body.is_empty() {
                                body.push(' ');
                            }
                            body.push_str(&self.terminal(part));
                        }
                    }
                }
                if body.is_empty() { "\"\"".to_owned() } else { body }
            }
            Expr::Any(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.terminal(part)).collect();
                parts.join(" | ")
            }
            Expr::Repeat(inner, min, max) => repeated(&self.terminal(inner), *min, *max),
            Expr::Rule(rule) => self.terminal(&self.units.grammar.rules[*rule]),
            // No regular part has one.
            Expr::Token { .. } => "\"\"".to_owned(),
        };
        let name = self.define("T", &body);
        self.terminals.insert(expr.clone(), name.clone());
        name
    }

    fn node(&mut self, node: &Node) -> String {
        match node {
            Node::Token(text) => text.clone(),
            Node::Unit(unit) => match &self.units.units[*unit].split {
                None => self.terminal(&self.units.units[*unit].expr),
                Some(split) => self.rule(format!("u-{unit}"), split),
            },
            Node::Rule(rule) => match self.units.bodies.get(rule) {
                Some(body) => self.rule(format!("r-{rule}"), body),
                None => self.terminal(&Expr::Rule(*rule)),
            },
            Node::Sequence(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.node(part)).collect();
                let body = if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") };
                self.define("s", &body)
            }
            Node::Any(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.node(part)).collect();
                self.define("a", &parts.join(" | "))
            }
            Node::Repeat(inner, min, max) => {
                let body = repeated(&self.node(inner), *min, *max);
                self.define("q", &body)
            }
        }
    }

    fn rule(&mut self, name: String, body: &Node) -> String {
        if self.rules.insert(name.clone()) {
            let body = self.node(body);
            _ = writeln!(self.out, "{name}: {body}");
        }
        name
    }
}

fn repeated(inner: &str, min: u32, max: Option<u32>) -> String {
    match (min, max) {
        (_, Some(0)) => "\"\"".to_owned(),
        (0, None) => format!("{inner}*"),
        (min, None) => format!("{inner}{{{min},}}"),
        (min, Some(max)) => format!("{inner}{{{min},{max}}}"),
    }
}

//! Operators, attributes, subscripts and iteration, as in Python under Jinja's sandbox.

use super::ast::{ArithOp, CmpOp};
use super::eval::Interp;
use super::methods;
use super::strfmt;
use super::text::{Text, TextBuf};
use super::value::{Eval, Value, View, fail, range_len};

impl Interp<'_> {
    pub fn negate(&self, value: Value, negative: bool) -> Eval<Value> {
        match &value {
            Value::Float(f) => Ok(Value::Float(if negative { -f } else { *f })),
            Value::Undefined(what) => fail(format!("{what} is undefined")),
            other => match other.as_int() {
                Some(i) if negative => match i.checked_neg() {
                    Some(i) => Ok(Value::Int(i)),
                    None => fail("an integer is too large"),
                },
                Some(i) => Ok(Value::Int(i)),
                None => fail(format!("bad operand type for a sign: '{}'", other.type_name())),
            },
        }
    }

    pub fn arith(&self, op: ArithOp, left: Value, right: Value) -> Eval<Value> {
        if let (Value::Undefined(what), _) | (_, Value::Undefined(what)) = (&left, &right)
            && !(op == ArithOp::Mod && matches!(left, Value::Str(_)))
        {
            return fail(format!("{what} is undefined"));
        }
        if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
            return int_arith(op, a, b);
        }
        if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
            return float_arith(op, a, b);
        }
        match (op, &left, &right) {
            (ArithOp::Add, Value::Str(a), Value::Str(b)) => {
                self.fuel.charge_bytes(a.len() + b.len())?;
                self.check_size(a.len() + b.len())?;
                let markup = a.is_markup() || b.is_markup();
                let (a, b) = if markup { (a.escaped(), b.escaped()) } else { (a.clone(), b.clone()) };
                let mut buf = TextBuf::default();
                buf.push(&a);
                buf.push(&b);
                Ok(Value::Str(buf.into_text().with_markup(markup)))
            }
            (ArithOp::Add, Value::List(a), Value::List(b))
            | (ArithOp::Add, Value::Tuple(a), Value::Tuple(b)) => {
                let (a, b) = (a.0.borrow(), b.0.borrow());
                self.fuel.charge(a.len() + b.len())?;
                let items = a.iter().chain(b.iter()).cloned().collect();
                Ok(if matches!(left, Value::List(_)) { self.list(items) } else { self.tuple(items) })
            }
            (ArithOp::Mul, sequence @ (Value::Str(_) | Value::List(_) | Value::Tuple(_)), times)
            | (ArithOp::Mul, times, sequence @ (Value::Str(_) | Value::List(_) | Value::Tuple(_)))
                if times.as_int().is_some() =>
            {
                let times =
                    usize::try_from(times.as_int().expect("checked above").max(0)).unwrap_or(usize::MAX);
                self.repeat(sequence, times)
            }
            (ArithOp::Mod, Value::Str(format), _) => strfmt::percent(self, format, &right).map(Value::Str),
            _ => fail(format!(
                "unsupported operand type(s) for {op:?}: '{}' and '{}'",
                left.type_name(),
                right.type_name()
            )),
        }
    }

    fn repeat(&self, sequence: &Value, times: usize) -> Eval<Value> {
        match sequence {
            Value::Str(s) => {
                let bytes = s.len().saturating_mul(times);
                self.check_size(bytes)?;
                self.fuel.charge_bytes(bytes)?;
                let mut buf = TextBuf::default();
                for _ in 0..if s.is_empty() { 0 } else { times } {
                    buf.push(s);
                }
                Ok(Value::Str(buf.into_text().with_markup(s.is_markup())))
            }
            Value::List(l) | Value::Tuple(l) => {
                let items = l.0.borrow();
                self.fuel.charge(items.len().saturating_mul(times))?;
                let repeated: Vec<Value> = if items.is_empty() {
                    Vec::new()
                } else {
                    (0..times).flat_map(|_| items.iter().cloned()).collect()
                };
                Ok(if matches!(sequence, Value::List(_)) {
                    self.list(repeated)
                } else {
                    self.tuple(repeated)
                })
            }
            _ => unreachable!("only sequences are repeated"),
        }
    }

    pub fn compare(&self, op: CmpOp, left: &Value, right: &Value) -> Eval<bool> {
        if let (Value::Str(a), Value::Str(b)) = (left, right) {
            self.fuel.charge_bytes(a.len() + b.len())?;
        }
        Ok(match op {
            CmpOp::Eq => left.equals(right, self.fuel)?,
            CmpOp::Ne => !left.equals(right, self.fuel)?,
            CmpOp::In => self.contains(right, left)?,
            CmpOp::NotIn => !self.contains(right, left)?,
            CmpOp::Lt => left.compare(right, self.fuel)?.is_some_and(|o| o.is_lt()),
            CmpOp::Le => left.compare(right, self.fuel)?.is_some_and(|o| o.is_le()),
            CmpOp::Gt => left.compare(right, self.fuel)?.is_some_and(|o| o.is_gt()),
            CmpOp::Ge => left.compare(right, self.fuel)?.is_some_and(|o| o.is_ge()),
        })
    }

    /// `item in container`
    pub fn contains(&self, container: &Value, item: &Value) -> Eval<bool> {
        match container {
            Value::Str(s) => match item {
                Value::Str(needle) => {
                    self.fuel.charge_bytes(s.len() + needle.len())?;
                    Ok(s.as_str().contains(needle.as_str()))
                }
                other => {
                    fail(format!("'in <string>' requires string as left operand, not {}", other.type_name()))
                }
            },
            Value::Dict(d) | Value::View(View::Keys, d) => {
                Ok(d.0.borrow().contains_key(&item.key(self.fuel)?))
            }
            Value::Undefined(_) => Ok(false),
            Value::Namespace(_) | Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                fail(format!("argument of type '{}' is not iterable", container.type_name()))
            }
            other => {
                for candidate in self.iterate(other)? {
                    if candidate.equals(item, self.fuel)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// What a `for` would go through.
    pub fn iterate(&self, value: &Value) -> Eval<Vec<Value>> {
        Ok(match value {
            Value::Undefined(_) => Vec::new(),
            Value::List(l) | Value::Tuple(l) => {
                self.fuel.charge(l.0.borrow().len())?;
                l.0.borrow().clone()
            }
            Value::Generator(l) => {
                self.fuel.charge(l.0.borrow().len())?;
                std::mem::take(&mut *l.0.borrow_mut())
            }
            Value::Dict(d) | Value::View(View::Keys, d) => {
                self.fuel.charge(d.0.borrow().len())?;
                d.0.borrow().values().map(|(k, _)| k.clone()).collect()
            }
            Value::View(View::Values, d) => {
                self.fuel.charge(d.0.borrow().len())?;
                d.0.borrow().values().map(|(_, v)| v.clone()).collect()
            }
            Value::View(View::Items, d) => self.items_of(d)?,
            Value::Range(start, stop, step) => {
                let n = range_len(*start, *stop, *step);
                self.fuel.charge(n)?;
                (0..n as i128).map(|i| Value::Int(start + i * step)).collect()
            }
            Value::Str(s) => {
                self.fuel.charge(s.len())?;
                s.chars().into_iter().map(Value::Str).collect()
            }
            other => return fail(format!("'{}' object is not iterable", other.type_name())),
        })
    }

    /// The pairs of a dict.
    pub fn items_of(&self, d: &super::value::DictObj) -> Eval<Vec<Value>> {
        let map = d.0.borrow();
        self.fuel.charge(2 * map.len())?;
        Ok(map.values().map(|(k, v)| self.tuple(vec![k.clone(), v.clone()])).collect())
    }

    /// `value.name`: an attribute or method first, then an item.
    pub fn attr(&self, value: &Value, name: &str) -> Eval<Value> {
        if let Some(found) = self.own_attr(value, name)? {
            return Ok(found);
        }
        match value {
            Value::Dict(d) => {
                if let Some((_, found)) = d.0.borrow().get(&Value::own(name).key(self.fuel)?) {
                    return Ok(found.clone());
                }
            }
            Value::Undefined(what) => return fail(format!("{what} is undefined")),
            _ => {}
        }
        Ok(Value::undefined(&format!("'{}' object has no attribute '{name}'", value.type_name())))
    }

    /// `value[key]`: an item first, then an attribute.
    pub fn item(&self, value: &Value, key: &Value) -> Eval<Value> {
        let index = |n: usize| {
            key.as_int()
                .and_then(|i| usize::try_from(if i < 0 { i + n as i128 } else { i }).ok())
                .filter(|i| *i < n)
        };
        let found = match value {
            Value::Undefined(what) => return fail(format!("{what} is undefined")),
            Value::Str(s) if key.as_int().is_some() => {
                self.fuel.charge_bytes(s.len())?;
                let n = s.as_str().chars().count();
                index(n).map(|i| {
                    let (at, c) = s.as_str().char_indices().nth(i).expect("the index is below the length");
                    Value::Str(s.slice(at, at + c.len_utf8()))
                })
            }
            Value::List(l) | Value::Tuple(l) => {
                let items = l.0.borrow();
                index(items.len()).map(|i| items[i].clone())
            }
            Value::Range(start, stop, step) => {
                index(range_len(*start, *stop, *step)).map(|i| Value::Int(start + i as i128 * step))
            }
            Value::Dict(d) if !matches!(key, Value::List(_) | Value::Dict(_)) => {
                d.0.borrow().get(&key.key(self.fuel)?).map(|(_, v)| v.clone())
            }
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let Value::Str(name) = key
            && let Some(found) = self.own_attr(value, name.as_str())?
        {
            return Ok(found);
        }
        let mut shown = TextBuf::default();
        key.write_repr(&mut shown, self.fuel, 0)?;
        Ok(Value::undefined(&format!("'{}' object has no element {}", value.type_name(), shown.as_str())))
    }

    /// Attributes and methods; names that start with an underscore are nobody's business.
    fn own_attr(&self, value: &Value, name: &str) -> Eval<Option<Value>> {
        if name.starts_with('_') {
            return Ok(None);
        }
        if methods::has(value, name) {
            return Ok(Some(Value::Method(std::rc::Rc::new((value.clone(), name.into())))));
        }
        Ok(match value {
            Value::Namespace(d) => {
                d.0.borrow().get(&Value::own(name).key(self.fuel)?).map(|(_, v)| v.clone())
            }
            Value::Loop(l) => {
                let items = l.items.0.borrow();
                let (at, n) = (l.at.get() as i128, items.len() as i128);
                let neighbour = |i: i128, what: &str| {
                    let item = usize::try_from(i).ok().and_then(|i| items.get(i)).cloned();
                    item.unwrap_or_else(|| Value::undefined(what))
                };
                Some(match name {
                    "index" => Value::Int(at + 1),
                    "index0" => Value::Int(at),
                    "revindex" => Value::Int(n - at),
                    "revindex0" => Value::Int(n - at - 1),
                    "first" => Value::Bool(at == 0),
                    "last" => Value::Bool(at + 1 == n),
                    "length" => Value::Int(n),
                    "depth" => Value::Int(l.depth as i128 + 1),
                    "depth0" => Value::Int(l.depth as i128),
                    "previtem" => neighbour(at - 1, "there is no previous item"),
                    "nextitem" => neighbour(at + 1, "there is no next item"),
                    _ => return Ok(None),
                })
            }
            // What `groupby` gives.
            Value::Tuple(t) if t.0.borrow().len() == 2 && matches!(name, "grouper" | "list") => {
                Some(t.0.borrow()[usize::from(name == "list")].clone())
            }
            Value::Macro(m) if name == "name" => Some(Value::own(&m.def.name)),
            Value::Cycler(c) if name == "current" => Some(c.0.0.borrow()[c.1.get()].clone()),
            _ => None,
        })
    }

    /// `value[start:stop:step]`
    pub fn slice(
        &self,
        value: &Value,
        start: Option<Value>,
        stop: Option<Value>,
        step: Option<Value>,
    ) -> Eval<Value> {
        let bound = |v: Option<Value>| match v {
            None | Some(Value::None) => Ok(None),
            Some(v) => match v.as_int() {
                Some(i) => Ok(Some(i)),
                None => fail("slice indices must be integers or None"),
            },
        };
        let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
        if step == 0 {
            return fail("slice step cannot be zero");
        }
        let n = match value {
            Value::Undefined(what) => return fail(format!("{what} is undefined")),
            Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(..) => value.length()? as i128,
            other => return fail(format!("'{}' object cannot be sliced", other.type_name())),
        };
        // Python's rule: clip to the ends, which lie one further left for a negative step.
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let clip = |i: Option<i128>, default: i128| match i {
            None => default,
            Some(i) => (if i < 0 { i.saturating_add(n) } else { i }).clamp(low, high),
        };
        let (start, stop) =
            if step > 0 { (clip(start, 0), clip(stop, n)) } else { (clip(start, n - 1), clip(stop, -1)) };
        let step = step.clamp(-n - 1, n + 1);
        let count = range_len(start, stop, step);
        self.fuel.charge(count / 16 + 1)?;
        let indices = || (0..count as i128).map(|i| (start + i * step) as usize);
        Ok(match value {
            Value::Str(s) => {
                self.fuel.charge_bytes(s.len())?;
                if step == 1 {
                    let byte_at = |i: i128| match s.as_str().char_indices().nth(i as usize) {
                        Some((at, _)) => at,
                        None => s.len(),
                    };
                    let from = byte_at(start);
                    return Ok(Value::Str(s.slice(from, byte_at(start + count as i128).max(from))));
                }
                let chars: Vec<Text> = s.chars();
                self.fuel.charge(chars.len())?;
                let mut buf = TextBuf::default();
                indices().for_each(|i| buf.push(&chars[i]));
                Value::Str(buf.into_text().with_markup(s.is_markup()))
            }
            Value::List(l) => {
                self.fuel.charge(count)?;
                let items = indices().map(|i| l.0.borrow()[i].clone()).collect();
                self.list(items)
            }
            Value::Tuple(l) => {
                self.fuel.charge(count)?;
                let items = indices().map(|i| l.0.borrow()[i].clone()).collect();
                self.tuple(items)
            }
            Value::Range(a, _, c) => {
                Value::Range(a + start * c, a + (start + count as i128 * step) * c, c * step)
            }
            _ => unreachable!("checked above"),
        })
    }
}

fn int_arith(op: ArithOp, a: i128, b: i128) -> Eval<Value> {
    let result = match op {
        ArithOp::Add => a.checked_add(b),
        ArithOp::Sub => a.checked_sub(b),
        ArithOp::Mul => a.checked_mul(b),
        ArithOp::Div | ArithOp::FloorDiv | ArithOp::Mod if b == 0 => return fail("division by zero"),
        ArithOp::Div => return Ok(Value::Float(a as f64 / b as f64)),
        // Rounds to minus infinity; the remainder has the divisor's sign.
        ArithOp::FloorDiv => {
            a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        }
        ArithOp::Mod => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        ArithOp::Pow if b < 0 => return float_arith(op, a as f64, b as f64),
        ArithOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    match result {
        Some(i) => Ok(Value::Int(i)),
        None => fail("an integer is too large"),
    }
}

fn float_arith(op: ArithOp, a: f64, b: f64) -> Eval<Value> {
    let floor_mod = |a: f64, b: f64| {
        let r = a % b;
        if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
    };
    Ok(Value::Float(match op {
        ArithOp::Add => a + b,
        ArithOp::Sub => a - b,
        ArithOp::Mul => a * b,
        ArithOp::Div | ArithOp::FloorDiv | ArithOp::Mod if b == 0.0 => return fail("division by zero"),
        ArithOp::Div => a / b,
        ArithOp::FloorDiv => ((a - floor_mod(a, b)) / b).round(),
        ArithOp::Mod => floor_mod(a, b),
        ArithOp::Pow if a == 0.0 && b < 0.0 => return fail("0.0 cannot be raised to a negative power"),
        ArithOp::Pow => a.powf(b),
    }))
}

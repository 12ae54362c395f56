//! Runs a syntax tree. Python's semantics throughout; every step pays fuel, every level of nesting is counted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Args, Expr, ForLoop, MacroDef, Post, Stmt, StmtKind, Target};
use super::scope::Scope;
use super::text::{Text, TextBuf};
use super::value::{DictObj, Eval, Fuel, Func, ListObj, LoopState, MacroObj, Value, fail};
use super::{CivilTime, TemplateError, tests};

/// Levels of evaluation: expressions within expressions, blocks within blocks, macros within macros.
const DEPTH_MAX: u32 = 160;

/// Arguments of a call, evaluated.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Call {
    /// Sorts arguments into parameters by position and name.
    pub fn bind<const N: usize>(self, what: &str, params: [&str; N]) -> Eval<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return fail(format!("{what} takes at most {N} arguments, {} given", self.positional.len()));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match params.iter().position(|p| **p == *name) {
                Some(i) if bound[i].is_none() => bound[i] = Some(value),
                Some(_) => return fail(format!("{what} got two values for `{name}`")),
                None => return fail(format!("{what} takes no argument `{name}`")),
            }
        }
        Ok(bound)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// Things that may hold each other in circles or long chains. They are emptied one by one in the end, so that
/// nothing leaks and nothing is dropped recursively.
enum Held {
    List(Rc<ListObj>),
    Dict(Rc<DictObj>),
    Scope(Rc<Scope>),
}

/// One rendering.
pub(super) struct Interp<'a> {
    pub fuel: &'a Fuel,
    pub now: CivilTime,
    pub output_bytes_max: usize,
    depth: Cell<u32>,
    held: RefCell<Vec<Held>>,
}

impl Drop for Interp<'_> {
    fn drop(&mut self) {
        for held in self.held.borrow().iter() {
            match held {
                Held::List(l) => drop(std::mem::take(&mut *l.0.borrow_mut())),
                Held::Dict(d) => drop(std::mem::take(&mut *d.0.borrow_mut())),
                Held::Scope(s) => s.clear(),
            }
        }
    }
}

impl<'a> Interp<'a> {
    pub fn new(fuel: &'a Fuel, now: CivilTime, output_bytes_max: usize) -> Self {
        Self { fuel, now, output_bytes_max, depth: Cell::new(0), held: RefCell::default() }
    }

    /// Renders a template with these variables.
    pub fn render(&self, body: &[Stmt], vars: Vec<(Arc<str>, Value)>) -> Eval<TextBuf> {
        let globals = Rc::new(Scope::default());
        for (name, func) in [
            ("range", Func::Range),
            ("dict", Func::Dict),
            ("namespace", Func::Namespace),
            ("cycler", Func::Cycler),
            ("joiner", Func::Joiner),
            ("raise_exception", Func::RaiseException),
            ("strftime_now", Func::StrftimeNow),
        ] {
            globals.set(&name.into(), Value::Func(func));
        }
        let root = Scope::inside(&globals);
        self.held.borrow_mut().push(Held::Scope(root.clone()));
        for (name, value) in vars {
            root.set(&name, value);
        }
        let mut out = TextBuf::default();
        self.exec(body, &root, &mut out)?;
        Ok(out)
    }

    /// Runs `f` one level deeper.
    pub fn nested<T>(&self, f: impl FnOnce(&Self) -> Eval<T>) -> Eval<T> {
        let depth = self.depth.get();
        if depth >= DEPTH_MAX {
            return Err(TemplateError::Limit { what: "nesting", limit: DEPTH_MAX.into() });
        }
        self.depth.set(depth + 1);
        let result = f(self);
        self.depth.set(depth);
        result
    }

    pub fn check_size(&self, bytes: usize) -> Eval<()> {
        if bytes > self.output_bytes_max {
            return Err(TemplateError::Limit { what: "bytes of text", limit: self.output_bytes_max as u64 });
        }
        Ok(())
    }

    /// A list that is emptied in the end, whoever holds it.
    pub fn list_obj(&self, items: Vec<Value>) -> Rc<ListObj> {
        let list = Rc::new(ListObj(RefCell::new(items)));
        self.held.borrow_mut().push(Held::List(list.clone()));
        list
    }

    pub fn list(&self, items: Vec<Value>) -> Value {
        Value::List(self.list_obj(items))
    }

    pub fn tuple(&self, items: Vec<Value>) -> Value {
        Value::Tuple(self.list_obj(items))
    }

    pub fn generator(&self, items: Vec<Value>) -> Value {
        Value::Generator(self.list_obj(items))
    }

    fn dict_obj(&self, entries: Vec<(Value, Value)>) -> Eval<Rc<DictObj>> {
        let dict = Rc::new(DictObj::default());
        self.held.borrow_mut().push(Held::Dict(dict.clone()));
        for (key, value) in entries {
            self.insert(&dict, key, value)?;
        }
        Ok(dict)
    }

    pub fn dict(&self, entries: Vec<(Value, Value)>) -> Eval<Value> {
        self.dict_obj(entries).map(Value::Dict)
    }

    /// Sets an entry; an equal key that is there already keeps its spelling.
    pub fn insert(&self, dict: &DictObj, key: Value, value: Value) -> Eval<()> {
        self.fuel.charge(1)?;
        let hash = key.key(self.fuel)?;
        let mut map = dict.0.borrow_mut();
        let _old = match map.get_mut(&hash) {
            Some(entry) => Some(std::mem::replace(&mut entry.1, value)),
            None => {
                map.insert(hash, (key, value));
                None
            }
        };
        Ok(())
    }

    // Statements

    fn exec(&self, body: &[Stmt], scope: &Rc<Scope>, out: &mut TextBuf) -> Eval<Flow> {
        self.nested(|interp| {
            for stmt in body {
                let flow = interp.exec_one(stmt, scope, out).map_err(|e| e.at_line(stmt.line))?;
                interp.check_size(out.len()).map_err(|e| e.at_line(stmt.line))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    fn exec_one(&self, stmt: &Stmt, scope: &Rc<Scope>, out: &mut TextBuf) -> Eval<Flow> {
        self.fuel.charge(1)?;
        match &stmt.kind {
            StmtKind::Data(text) => {
                self.fuel.charge_bytes(text.len())?;
                out.push(text);
            }
            StmtKind::Print(expr) => self.eval(expr, scope)?.write_str(out, self.fuel)?,
            StmtKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.truth() {
                        return self.exec(body, scope, out);
                    }
                }
                return self.exec(otherwise, scope, out);
            }
            StmtKind::For(def) => {
                let items = self.eval(&def.iter, scope)?;
                self.exec_loop(def, items, 0, scope, out)?;
            }
            StmtKind::Set(target, expr) => {
                let value = self.eval(expr, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let value = self.filtered_body(filters, body, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::FilterBlock(filters, body) => {
                self.filtered_body(filters, body, scope)?.write_str(out, self.fuel)?;
            }
            StmtKind::Macro(def) => scope.set(&def.name, self.macro_value(def, scope)),
            StmtKind::Call(call, def) => {
                let caller = self.macro_value(def, scope);
                self.call_with_caller(call, caller, scope)?.write_str(out, self.fuel)?;
            }
            StmtKind::With(values, body) => {
                let inner = Scope::inside(scope);
                for (target, expr) in values {
                    let value = self.eval(expr, scope)?;
                    self.assign(target, value, &inner)?;
                }
                self.exec(body, &inner, out)?;
            }
            StmtKind::Scope(body) => {
                self.exec(body, &Scope::inside(scope), out)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn macro_value(&self, def: &Arc<MacroDef>, scope: &Rc<Scope>) -> Value {
        self.held.borrow_mut().push(Held::Scope(scope.clone()));
        Value::Macro(Rc::new(MacroObj { def: def.clone(), scope: scope.clone() }))
    }

    fn filtered_body(&self, filters: &[(Arc<str>, Args)], body: &[Stmt], scope: &Rc<Scope>) -> Eval<Value> {
        let mut buf = TextBuf::default();
        self.exec(body, &Scope::inside(scope), &mut buf)?;
        let mut value = Value::Str(buf.into_text());
        for (name, args) in filters {
            let call = self.args(args, scope)?;
            value = self.filter(name, value, call)?;
        }
        Ok(value)
    }

    fn call_with_caller(&self, call: &Expr, caller: Value, scope: &Rc<Scope>) -> Eval<Value> {
        let Expr::Chain(primary, posts) = call else { return fail("`call` needs a call") };
        let Some((Post::Call(args), before)) = posts.split_last() else { return fail("`call` needs a call") };
        let callee = self.chain(primary, before, scope)?;
        let mut call = self.args(args, scope)?;
        call.named.push(("caller".into(), caller));
        self.call(&callee, call)
    }

    fn exec_loop(
        &self,
        def: &Arc<ForLoop>,
        items: Value,
        depth: usize,
        scope: &Rc<Scope>,
        out: &mut TextBuf,
    ) -> Eval<()> {
        let mut items = self.iterate(&items)?;
        if let Some(filter) = &def.filter {
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                let inner = Scope::inside(scope);
                self.assign(&def.target, item.clone(), &inner)?;
                if self.eval(filter, &inner)?.truth() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.exec(&def.otherwise, &Scope::inside(scope), out).map(drop);
        }
        if def.recursive {
            self.held.borrow_mut().push(Held::Scope(scope.clone()));
        }
        let n = items.len();
        let state = Rc::new(LoopState {
            items: self.list_obj(items),
            at: Cell::new(0),
            depth,
            last_changed: RefCell::new(None),
            recurse: def.recursive.then(|| (def.clone(), scope.clone())),
        });
        let name: Arc<str> = "loop".into();
        for at in 0..n {
            self.fuel.charge(1)?;
            state.at.set(at);
            let item = state.items.0.borrow()[at].clone();
            let inner = Scope::inside(scope);
            inner.set(&name, Value::Loop(state.clone()));
            self.assign(&def.target, item, &inner)?;
            if self.exec(&def.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Eval<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attr(name, attr) => match scope.get(name) {
                Some(Value::Namespace(d)) => self.insert(&d, Value::own(attr), value)?,
                _ => return fail(format!("cannot assign to an attribute of `{name}`: it is no namespace")),
            },
            Target::Tuple(targets) => {
                let values = self.iterate(&value)?;
                if values.len() != targets.len() {
                    return fail(format!("cannot unpack {} values to {} names", values.len(), targets.len()));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
        }
        Ok(())
    }

    // Expressions

    pub fn eval(&self, expr: &Expr, scope: &Rc<Scope>) -> Eval<Value> {
        self.fuel.charge(1)?;
        match expr {
            Expr::Str(s) => Ok(Value::Str(s.clone())),
            Expr::Int(i) => Ok(Value::Int(*i)),
            Expr::Float(f) => Ok(Value::Float(*f)),
            Expr::Bool(b) => Ok(Value::Bool(*b)),
            Expr::None => Ok(Value::None),
            Expr::Name(name) => Ok(scope.get(name).unwrap_or_else(|| Value::undefined(&format!("'{name}'")))),
            _ => self.nested(|interp| interp.eval_compound(expr, scope)),
        }
    }

    fn eval_all(&self, items: &[Expr], scope: &Rc<Scope>) -> Eval<Vec<Value>> {
        items.iter().map(|e| self.eval(e, scope)).collect()
    }

    fn eval_compound(&self, expr: &Expr, scope: &Rc<Scope>) -> Eval<Value> {
        match expr {
            Expr::List(items) => Ok(self.list(self.eval_all(items, scope)?)),
            Expr::Tuple(items) => Ok(self.tuple(self.eval_all(items, scope)?)),
            Expr::Dict(items) => {
                let mut entries = Vec::with_capacity(items.len());
                for (key, value) in items {
                    entries.push((self.eval(key, scope)?, self.eval(value, scope)?));
                }
                self.dict(entries)
            }
            Expr::Chain(primary, posts) => self.chain(primary, posts, scope),
            Expr::Not(e) => Ok(Value::Bool(!self.eval(e, scope)?.truth())),
            Expr::Neg(e) => self.negate(self.eval(e, scope)?, true),
            Expr::Pos(e) => self.negate(self.eval(e, scope)?, false),
            Expr::Arith(first, rest) => {
                let mut value = self.eval(first, scope)?;
                for (op, operand) in rest {
                    let operand = self.eval(operand, scope)?;
                    value = self.arith(*op, value, operand)?;
                }
                Ok(value)
            }
            Expr::Concat(items) => {
                let mut buf = TextBuf::default();
                for item in items {
                    self.eval(item, scope)?.write_str(&mut buf, self.fuel)?;
                    self.check_size(buf.len())?;
                }
                Ok(Value::Str(buf.into_text()))
            }
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (op, right) in rest {
                    let right = self.eval(right, scope)?;
                    if !self.compare(*op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::And(items) | Expr::Or(items) => {
                let stop_at = matches!(expr, Expr::Or(_));
                let mut value = Value::None;
                for item in items {
                    value = self.eval(item, scope)?;
                    if value.truth() == stop_at {
                        break;
                    }
                }
                Ok(value)
            }
            Expr::Cond(cond) => {
                if self.eval(&cond.test, scope)?.truth() {
                    return self.eval(&cond.then, scope);
                }
                match &cond.otherwise {
                    Some(e) => self.eval(e, scope),
                    None => {
                        Ok(Value::undefined("the inline if-expression evaluated to false and without `else`"))
                    }
                }
            }
            _ => unreachable!("simple expressions are evaluated by `eval`"),
        }
    }

    fn chain(&self, primary: &Expr, posts: &[Post], scope: &Rc<Scope>) -> Eval<Value> {
        let mut value = self.eval(primary, scope)?;
        for post in posts {
            self.fuel.charge(1)?;
            value = match post {
                Post::Attr(name) => self.attr(&value, name)?,
                Post::Item(key) => {
                    let key = self.eval(key, scope)?;
                    self.item(&value, &key)?
                }
                Post::Slice(start, stop, step) => {
                    let part = |e: &Option<Expr>| e.as_ref().map(|e| self.eval(e, scope)).transpose();
                    let (start, stop, step) = (part(start)?, part(stop)?, part(step)?);
                    self.slice(&value, start, stop, step)?
                }
                Post::Call(args) => {
                    let call = self.args(args, scope)?;
                    self.call(&value, call)?
                }
                Post::Filter(name, args) => {
                    let call = self.args(args, scope)?;
                    self.filter(name, value, call)?
                }
                Post::Test { name, args, negated } => {
                    let call = self.args(args, scope)?;
                    Value::Bool(tests::run(self, name, &value, call.positional)? != *negated)
                }
            };
        }
        Ok(value)
    }

    fn args(&self, args: &Args, scope: &Rc<Scope>) -> Eval<Call> {
        let mut call = Call { positional: self.eval_all(&args.positional, scope)?, named: Vec::new() };
        if let Some(star) = &args.star {
            let more = self.eval(star, scope)?;
            call.positional.extend(self.iterate(&more)?);
        }
        for (name, e) in &args.named {
            call.named.push((name.clone(), self.eval(e, scope)?));
        }
        if let Some(star_star) = &args.star_star {
            let Value::Dict(d) = self.eval(star_star, scope)? else {
                return fail("argument after ** must be a mapping");
            };
            for (key, value) in d.0.borrow().values() {
                match key {
                    Value::Str(s) => call.named.push((s.shared(), value.clone())),
                    _ => return fail("keywords must be strings"),
                }
            }
        }
        Ok(call)
    }

    // Calls

    pub fn call(&self, callee: &Value, call: Call) -> Eval<Value> {
        self.nested(|interp| match callee {
            Value::Func(func) => interp.call_func(*func, call),
            Value::Macro(m) => interp.call_macro(m, call),
            Value::Method(m) => interp.method(&m.0, &m.1, call),
            Value::Loop(l) => {
                let Some((def, scope)) = &l.recurse else {
                    return fail("The loop must have the 'recursive' marker enabled.");
                };
                let [items] = call.bind("loop", ["iterable"])?;
                let Some(items) = items else { return fail("loop takes one argument") };
                let mut buf = TextBuf::default();
                interp.exec_loop(def, items, l.depth + 1, scope, &mut buf)?;
                Ok(Value::Str(buf.into_text()))
            }
            Value::Joiner(j) => {
                let first = !j.1.replace(true);
                Ok(Value::Str(if first { Text::own("") } else { j.0.clone() }))
            }
            Value::Undefined(what) => fail(format!("{what} is undefined")),
            other => fail(format!("'{}' object is not callable", other.type_name())),
        })
    }

    fn call_macro(&self, m: &MacroObj, call: Call) -> Eval<Value> {
        let def = &m.def;
        let scope = Scope::inside(&m.scope);
        let mut positional = call.positional.into_iter();
        let mut named = call.named;
        let mut take = |name: &str| named.iter().position(|(n, _)| &**n == name).map(|i| named.remove(i).1);
        for (name, default) in &def.params {
            let value = match positional.next().or_else(|| take(name)) {
                Some(value) => value,
                None => match default {
                    Some(e) => self.eval(e, &scope)?,
                    None => Value::undefined(&format!("parameter '{name}' was not provided")),
                },
            };
            scope.set(name, value);
        }
        if def.uses_caller {
            let caller = take("caller").unwrap_or_else(|| Value::undefined("No caller defined: 'caller'"));
            scope.set(&"caller".into(), caller);
        }
        if def.uses_kwargs {
            let entries = named.drain(..).map(|(n, v)| (Value::own(&n), v)).collect();
            scope.set(&"kwargs".into(), self.dict(entries)?);
        } else if let Some((name, _)) = named.first() {
            return fail(format!("macro '{}' takes no keyword argument '{name}'", def.name));
        }
        let rest: Vec<Value> = positional.collect();
        if def.uses_varargs {
            scope.set(&"varargs".into(), self.tuple(rest));
        } else if !rest.is_empty() {
            return fail(format!(
                "macro '{}' takes not more than {} argument(s)",
                def.name,
                def.params.len()
            ));
        }
        let mut buf = TextBuf::default();
        self.exec(&def.body, &scope, &mut buf)?;
        Ok(Value::Str(buf.into_text()))
    }

    fn call_func(&self, func: Func, call: Call) -> Eval<Value> {
        match func {
            Func::Range => {
                let mut numbers = Vec::new();
                for value in &call.positional {
                    match value.as_int().and_then(|i| i64::try_from(i).ok()) {
                        Some(i) => numbers.push(i128::from(i)),
                        None => return fail("range takes integers"),
                    }
                }
                let (start, stop, step) = match (numbers.as_slice(), call.named.is_empty()) {
                    ([stop], true) => (0, *stop, 1),
                    ([start, stop], true) => (*start, *stop, 1),
                    ([start, stop, step], true) => (*start, *stop, *step),
                    _ => return fail("range takes one to three integers"),
                };
                if step == 0 {
                    return fail("range() arg 3 must not be zero");
                }
                const RANGE_MAX: usize = 100_000;
                if super::value::range_len(start, stop, step) > RANGE_MAX {
                    return Err(TemplateError::Limit { what: "items of a range", limit: RANGE_MAX as u64 });
                }
                Ok(Value::Range(start, stop, step))
            }
            Func::Dict | Func::Namespace => {
                let mut entries = Vec::new();
                if call.positional.len() > 1 {
                    return fail("dict takes at most one positional argument");
                }
                match call.positional.first() {
                    Some(Value::Dict(d)) => entries.extend(d.0.borrow().values().cloned()),
                    Some(pairs) => {
                        for pair in self.iterate(pairs)? {
                            let pair = self.iterate(&pair)?;
                            let [key, value] = pair.as_slice() else {
                                return fail("dict takes pairs of key and value");
                            };
                            entries.push((key.clone(), value.clone()));
                        }
                    }
                    None => {}
                }
                entries.extend(call.named.into_iter().map(|(n, v)| (Value::own(&n), v)));
                let dict = self.dict_obj(entries)?;
                Ok(if func == Func::Dict { Value::Dict(dict) } else { Value::Namespace(dict) })
            }
            Func::Cycler => {
                if call.positional.is_empty() {
                    return fail("at least one item has to be provided");
                }
                Ok(Value::Cycler(Rc::new((self.list_obj(call.positional), Cell::new(0)))))
            }
            Func::Joiner => {
                let [sep] = call.bind("joiner", ["sep"])?;
                let sep = sep.unwrap_or_else(|| Value::own(", ")).to_text(self.fuel)?;
                Ok(Value::Joiner(Rc::new((sep, Cell::new(false)))))
            }
            Func::RaiseException => {
                let [message] = call.bind("raise_exception", ["message"])?;
                let message = message.unwrap_or(Value::None).to_text(self.fuel)?;
                Err(TemplateError::Raised { message: message.as_str().to_owned() })
            }
            Func::StrftimeNow => {
                let [format] = call.bind("strftime_now", ["format"])?;
                let Some(Value::Str(format)) = format else { return fail("strftime_now takes a format") };
                self.fuel.charge_bytes(format.len())?;
                Ok(Value::Str(Text::marked(&self.now.format(format.as_str()), format.is_foreign())))
            }
        }
    }

    /// Sorts stably by a key that has an order; the first error wins.
    pub fn sort_by_key<T: Clone>(&self, items: &mut Vec<T>, key: impl Fn(&T) -> Eval<Value>) -> Eval<()> {
        let mut keyed = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            keyed.push((key(item)?, i));
        }
        // A merge sort of our own: the standard one may panic where values have no consistent order (NaN).
        let mut width = 1;
        while width < keyed.len() {
            let mut merged = Vec::with_capacity(keyed.len());
            for run in keyed.chunks(2 * width) {
                let (left, right) = run.split_at(width.min(run.len()));
                let (mut i, mut j) = (0, 0);
                while i < left.len() && j < right.len() {
                    let right_first =
                        right[j].0.compare(&left[i].0, self.fuel)? == Some(std::cmp::Ordering::Less);
                    if right_first {
                        merged.push(right[j].clone());
                        j += 1;
                    } else {
                        merged.push(left[i].clone());
                        i += 1;
                    }
                }
                merged.extend_from_slice(&left[i..]);
                merged.extend_from_slice(&right[j..]);
            }
            self.fuel.charge(keyed.len())?;
            keyed = merged;
            width *= 2;
        }
        *items = keyed.into_iter().map(|(_, i)| items[i].clone()).collect();
        Ok(())
    }
}

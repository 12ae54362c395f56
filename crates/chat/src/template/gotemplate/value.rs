//! What pipelines evaluate to: the few types of Go that a conversation is made of.

use std::ops::Range;
use std::rc::Rc;

use crate::template::text::Text;
use crate::template::value::{Eval, Fuel, fail};

/// A value. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// No value at all.
    Invalid,
    /// `nil` where a value of any type can stand.
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Str(Text),
    List(Rc<List>),
    Map(Rc<Dict>),
    Struct(Rc<Struct>),
    /// A pointer to nothing.
    NilPointer(&'static Shape),
}

/// The types of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListType {
    Any,
    Strings,
    Messages,
    /// Shows itself as JSON.
    Tools,
    ToolCalls,
    Images,
    Properties,
    /// The types of a schema: shows itself as one word where there is one.
    SchemaTypes,
}

/// A list, or a part of one: parts share the items of the whole, as in Go. Templates cut the rest of a conversation at
/// each of its messages, and would take the square of its length if that were copied.
#[derive(Debug)]
pub(super) struct List {
    pub ty: ListType,
    whole: Rc<Vec<Value>>,
    range: Range<usize>,
    pub is_nil: bool,
}

impl List {
    fn new(ty: ListType, items: Vec<Value>, is_nil: bool) -> Self {
        let range = 0..items.len();
        Self { ty, whole: Rc::new(items), range, is_nil }
    }

    pub fn items(&self) -> &[Value] {
        &self.whole[self.range.clone()]
    }

    /// The items `from..to`, which this list has.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        let range = self.range.start + from..self.range.start + to;
        assert!(from <= to && range.end <= self.range.end, "a part of a list lies in it");
        Self { ty: self.ty, whole: Rc::clone(&self.whole), range, is_nil: self.is_nil }
    }
}

/// The types of maps; their keys are strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DictType {
    Any,
    /// Arguments of a call: show themselves as JSON.
    Args,
    /// The parameters of a function: show themselves as JSON.
    Properties,
    /// The same without a say in how they are shown.
    PlainProperties,
}

/// A map, sorted by key.
#[derive(Debug)]
pub(super) struct Dict {
    pub ty: DictType,
    pub entries: Vec<(Text, Value)>,
    pub is_nil: bool,
}

impl Dict {
    fn get(&self, key: &str) -> Option<&Value> {
        let at = self.entries.binary_search_by(|entry| entry.0.as_str().cmp(key)).ok()?;
        Some(&self.entries[at].1)
    }
}

/// What a field is that a map lacks: Go's option `missingkey`.
#[derive(Clone, Copy)]
pub(super) enum Missing {
    /// Its type's zero (`zero`); of that, no further field can be asked for if it is `nil`.
    Zero,
    /// Nothing at all (`default`), as is each field of nothing.
    Invalid,
}

/// A field of a structure: its name, its name in JSON, and whether JSON leaves it out when it is empty.
pub(super) type Field = (&'static str, &'static str, bool);

/// The type of a structure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub name: &'static str,
    pub fields: &'static [Field],
    /// Whether it is always behind a pointer.
    pub is_pointer: bool,
    /// Whether it shows itself as JSON.
    pub is_stringer: bool,
}

/// A structure.
#[derive(Debug)]
pub(super) struct Struct {
    pub shape: &'static Shape,
    pub values: Vec<Value>,
}

pub(super) static MESSAGE: Shape = Shape {
    name: "*template.templateMessage",
    fields: &[
        ("Role", "Role", false),
        ("Content", "Content", false),
        ("Thinking", "Thinking", false),
        ("Images", "Images", false),
        ("ToolCalls", "ToolCalls", false),
        ("ToolName", "ToolName", false),
        ("ToolCallID", "ToolCallID", false),
    ],
    is_pointer: true,
    is_stringer: false,
};
pub(super) static TOOL_CALL: Shape = Shape {
    name: "template.templateToolCall",
    fields: &[("ID", "ID", false), ("Function", "Function", false)],
    is_pointer: false,
    is_stringer: false,
};
pub(super) static CALLED: Shape = Shape {
    name: "template.templateToolCallFunction",
    fields: &[("Index", "Index", false), ("Name", "Name", false), ("Arguments", "Arguments", false)],
    is_pointer: false,
    is_stringer: false,
};
pub(super) static TOOL: Shape = Shape {
    name: "template.templateTool",
    fields: &[("Type", "type", false), ("Items", "items", true), ("Function", "function", false)],
    is_pointer: false,
    is_stringer: true,
};
pub(super) static FUNCTION: Shape = Shape {
    name: "template.templateToolFunction",
    fields: &[
        ("Name", "name", false),
        ("Description", "description", false),
        ("Parameters", "parameters", false),
    ],
    is_pointer: false,
    is_stringer: false,
};
pub(super) static PARAMETERS: Shape = Shape {
    name: "template.templateToolFunctionParameters",
    fields: &[
        ("Type", "type", false),
        ("Defs", "$defs", true),
        ("Items", "items", true),
        ("Required", "required", true),
        ("Properties", "properties", false),
    ],
    is_pointer: false,
    is_stringer: false,
};
pub(super) static PROPERTY: Shape = Shape {
    name: "api.ToolProperty",
    fields: &[
        ("AnyOf", "anyOf", true),
        ("Type", "type", true),
        ("Items", "items", true),
        ("Description", "description", true),
        ("Enum", "enum", true),
        ("Properties", "properties", true),
        ("Required", "required", true),
    ],
    is_pointer: false,
    is_stringer: false,
};
/// Properties of a property, which keep their order. Its one field is private: a list of pairs of name and property.
pub(super) static ORDERED: Shape =
    Shape { name: "*api.ToolPropertiesMap", fields: &[], is_pointer: true, is_stringer: false };

impl Value {
    pub fn own(s: &str) -> Self {
        Self::Str(Text::own(s))
    }

    pub fn foreign(s: &str) -> Self {
        Self::Str(Text::foreign(s))
    }

    pub fn list(ty: ListType, items: Vec<Self>) -> Self {
        Self::List(Rc::new(List::new(ty, items, false)))
    }

    pub fn nil_list(ty: ListType) -> Self {
        Self::List(Rc::new(List::new(ty, Vec::new(), true)))
    }

    /// A map; of equal keys the last counts.
    pub fn map(ty: DictType, mut entries: Vec<(Text, Self)>) -> Self {
        entries.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        entries.reverse();
        entries.dedup_by(|a, b| a.0 == b.0);
        entries.reverse();
        Self::Map(Rc::new(Dict { ty, entries, is_nil: false }))
    }

    pub fn nil_map(ty: DictType) -> Self {
        Self::Map(Rc::new(Dict { ty, entries: Vec::new(), is_nil: true }))
    }

    pub fn structure(shape: &'static Shape, values: Vec<Self>) -> Self {
        Self::Struct(Rc::new(Struct { shape, values }))
    }

    /// `nil` of any type is no value.
    pub fn dug(self) -> Self {
        match self {
            Self::Nil => Self::Invalid,
            value => value,
        }
    }

    /// Whether a condition holds.
    pub fn truth(&self) -> bool {
        match self {
            Self::Invalid | Self::Nil | Self::NilPointer(_) => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Uint(n) => *n != 0,
            Self::Float(f) => *f != 0.0,
            Self::Str(s) => !s.is_empty(),
            Self::List(l) => !l.items().is_empty(),
            Self::Map(m) => !m.entries.is_empty(),
            Self::Struct(_) => true,
        }
    }

    pub fn is_nil(&self) -> bool {
        match self {
            Self::Invalid | Self::Nil | Self::NilPointer(_) => true,
            Self::List(l) => l.is_nil,
            Self::Map(m) => m.is_nil,
            _ => false,
        }
    }

    /// The name of its type, for messages and `%T`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Invalid | Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint8",
            Self::Float(_) => "float64",
            Self::Str(_) => "string",
            Self::List(l) => match l.ty {
                ListType::Any => "[]interface {}",
                ListType::Strings => "[]string",
                ListType::Messages => "[]*template.templateMessage",
                ListType::Tools => "template.templateTools",
                ListType::ToolCalls => "[]template.templateToolCall",
                ListType::Images => "[]api.ImageData",
                ListType::Properties => "[]api.ToolProperty",
                ListType::SchemaTypes => "api.PropertyType",
            },
            Self::Map(m) => match m.ty {
                DictType::Any => "map[string]interface {}",
                DictType::Args => "template.templateArgs",
                DictType::Properties => "template.templateProperties",
                DictType::PlainProperties => "map[string]api.ToolProperty",
            },
            Self::Struct(s) => s.shape.name,
            Self::NilPointer(shape) => shape.name,
        }
    }

    /// What a map of this type gives for keys that it does not have.
    fn absent(ty: DictType) -> Self {
        match ty {
            DictType::Any | DictType::Args => Self::Nil,
            DictType::Properties | DictType::PlainProperties => property_zero(),
        }
    }

    /// The value of a key, zero if there is none.
    pub fn entry(map: &Dict, key: &str) -> Self {
        map.get(key).cloned().unwrap_or_else(|| Self::absent(map.ty))
    }

    /// `.name` of this value, without arguments. Methods go first. What a map lacks is as `missing` says.
    pub fn field(&self, name: &str, missing: Missing, fuel: &Fuel) -> Eval<Self> {
        if let Some(value) = self.method(name, fuel)? {
            return Ok(value);
        }
        match self {
            Self::Invalid => Ok(Self::Invalid),
            Self::Nil => fail(format!("nil pointer evaluating interface {{}}.{name}")),
            Self::NilPointer(shape) => fail(format!("nil pointer evaluating {}.{name}", shape.name)),
            Self::Map(map) => Ok(match (map.get(name), missing) {
                (Some(value), _) => value.clone(),
                (None, Missing::Zero) => Self::absent(map.ty),
                (None, Missing::Invalid) => Self::Invalid,
            }),
            Self::Struct(s) => match s.shape.fields.iter().position(|f| f.0 == name) {
                Some(at) => Ok(s.values[at].clone()),
                None => fail(format!("can't evaluate field {name} in type {}", s.shape.name)),
            },
            other => fail(format!("can't evaluate field {name} in type {}", other.type_name())),
        }
    }

    /// The result of a method that the value has.
    fn method(&self, name: &str, fuel: &Fuel) -> Eval<Option<Self>> {
        Ok(match (self, name) {
            (Self::Struct(s), "ToTypeScriptType") if *s.shape == PROPERTY => {
                Some(Self::Str(type_script(s, fuel)?))
            }
            (Self::Struct(s), "Len") if *s.shape == ORDERED => Some(Self::Int(s.values.len() as i64 / 2)),
            (Self::Struct(s), "ToMap") if *s.shape == ORDERED => Some(ordered_to_map(s, fuel)?),
            (Self::NilPointer(_), "Len") => Some(Self::Int(0)),
            (Self::NilPointer(_), "ToMap") => Some(Self::nil_map(DictType::PlainProperties)),
            (_, "String") if self.shows_itself() => Some(Self::Str(super::show::own_string(self, fuel)?)),
            _ => None,
        })
    }

    /// Whether it has a say in how it is printed.
    pub fn shows_itself(&self) -> bool {
        match self {
            Self::List(l) => matches!(l.ty, ListType::Tools | ListType::SchemaTypes),
            Self::Map(m) => matches!(m.ty, DictType::Args | DictType::Properties),
            Self::Struct(s) => s.shape.is_stringer,
            _ => false,
        }
    }
}

/// A property of which nothing is said.
pub(super) fn property_zero() -> Value {
    Value::structure(
        &PROPERTY,
        vec![
            Value::nil_list(ListType::Properties),
            Value::nil_list(ListType::SchemaTypes),
            Value::Nil,
            Value::own(""),
            Value::nil_list(ListType::Any),
            Value::NilPointer(&ORDERED),
            Value::nil_list(ListType::Strings),
        ],
    )
}

fn ordered_to_map(ordered: &Struct, fuel: &Fuel) -> Eval<Value> {
    fuel.charge(ordered.values.len())?;
    let pairs = ordered.values.chunks_exact(2).filter_map(|pair| match &pair[0] {
        Value::Str(name) => Some((name.clone(), pair[1].clone())),
        _ => None,
    });
    Ok(Value::map(DictType::PlainProperties, pairs.collect()))
}

/// The type of a property in TypeScript's words.
pub(super) fn type_script(property: &Struct, fuel: &Fuel) -> Eval<Text> {
    fn items(value: &Value) -> &[Value] {
        match value {
            Value::List(list) => list.items(),
            _ => &[],
        }
    }
    let word = |ty: &Value| match ty {
        Value::Str(s) => match s.as_str() {
            "string" => "string",
            "number" | "integer" => "number",
            "boolean" => "boolean",
            "array" => "any[]",
            "object" => "Record<string, any>",
            "null" => "null",
            _ => "any",
        },
        _ => "any",
    };
    let (choices, types) = (items(&property.values[0]), items(&property.values[1]));
    fuel.charge(1 + choices.len() + types.len())?;
    let mut words = Vec::new();
    for choice in choices {
        if let Value::Struct(s) = choice {
            words.push(type_script(s, fuel)?.as_str().to_owned());
        }
    }
    if words.is_empty() {
        words.extend(types.iter().map(|ty| word(ty).to_owned()));
    }
    if words.is_empty() {
        words.push("any".to_owned());
    }
    let text = words.join(" | ");
    fuel.charge_bytes(text.len())?;
    Ok(Text::own(&text))
}

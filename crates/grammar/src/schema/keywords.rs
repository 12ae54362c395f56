//! What the keywords of JSON Schema do here.

/// Of which kind a keyword is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Enforced, if the value is of this type, on values of these types.
    Enforced(Shape, &'static [&'static str]),
    /// Says how the value is to be read by people or by other keywords; demands nothing.
    Annotation,
    /// Demands what is not enforced, of values of these types, and why.
    Refused(&'static [&'static str], &'static str),
}

/// What a keyword's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Schema,
    Schemas,
    /// Schemas by name.
    Properties,
    /// Schemas by regular expression.
    Patterns,
    /// A schema, or in older drafts a list.
    Items,
    /// Names of types.
    Types,
    Names,
    Values,
    Value,
    Count,
    Number,
    Pattern,
    Format,
    Reference,
}

const ANY: &[&str] = &TYPES;
const OBJECT: &[&str] = &["object"];
const ARRAY: &[&str] = &["array"];
const STRING: &[&str] = &["string"];
const NUMBER: &[&str] = &["number", "integer"];

/// The types of JSON, as `type` names them.
pub(super) const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];

/// The formats that are enforced.
pub(super) const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Keywords that say something of the same value as the schema they stand in.
pub(super) const APPLICATORS: [&str; 6] = ["const", "enum", "allOf", "anyOf", "oneOf", "$ref"];

/// Keywords whose presence makes `unevaluatedProperties` and `unevaluatedItems` depend on the value.
pub(super) const EVALUATING: [&str; 11] = [
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "$ref",
    "$dynamicRef",
    "dependentSchemas",
    "contains",
];

/// Every keyword that demands something, in any draft, and in the dialects near it. All others annotate.
pub(super) fn kind(keyword: &str) -> Kind {
    use Kind::{Annotation, Enforced, Refused};
    match keyword {
        "type" => Enforced(Shape::Types, ANY),
        "const" => Enforced(Shape::Value, ANY),
        "enum" => Enforced(Shape::Values, ANY),
        "allOf" | "anyOf" | "oneOf" => Enforced(Shape::Schemas, ANY),
        "$ref" => Enforced(Shape::Reference, ANY),
        "properties" => Enforced(Shape::Properties, OBJECT),
        "patternProperties" => Enforced(Shape::Patterns, OBJECT),
        "additionalProperties" => Enforced(Shape::Schema, OBJECT),
        "required" => Enforced(Shape::Names, OBJECT),
        "minProperties" | "maxProperties" => Enforced(Shape::Count, OBJECT),
        "items" => Enforced(Shape::Items, ARRAY),
        "prefixItems" => Enforced(Shape::Schemas, ARRAY),
        "additionalItems" => Enforced(Shape::Schema, ARRAY),
        "minItems" | "maxItems" => Enforced(Shape::Count, ARRAY),
        "minLength" | "maxLength" => Enforced(Shape::Count, STRING),
        "pattern" => Enforced(Shape::Pattern, STRING),
        "format" => Enforced(Shape::Format, STRING),
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
            Enforced(Shape::Number, NUMBER)
        }
        "not" => Refused(ANY, "what must not be cannot be enforced: say what may be"),
        "if" | "then" | "else" => Refused(ANY, "conditions cannot be enforced: write the cases as `anyOf`"),
        "uniqueItems" => {
            Refused(ARRAY, "it cannot be enforced that items differ: leave it out, and check the answer")
        }
        "contains" | "minContains" | "maxContains" => {
            Refused(ARRAY, "it cannot be enforced that some item is of a kind: say what all are")
        }
        "unevaluatedItems" => Refused(ARRAY, "it cannot be enforced here: use `items`"),
        "unevaluatedProperties" => Refused(OBJECT, "it cannot be enforced here: use `additionalProperties`"),
        "propertyNames" => Refused(OBJECT, "names cannot be checked apart: use `patternProperties`"),
        "dependencies" | "dependentRequired" | "dependentSchemas" => {
            Refused(OBJECT, "what depends on other properties cannot be enforced: write the cases as `anyOf`")
        }
        "$dynamicRef" | "$recursiveRef" => Refused(ANY, "dynamic references are not supported: use `$ref`"),
        "extends" | "disallow" | "divisibleBy" => {
            Refused(ANY, "it is of a draft before 4: use today's keywords")
        }
        "nullable" => Refused(ANY, "it is no keyword of JSON Schema: add \"null\" to `type`"),
        "formatMinimum"
        | "formatMaximum"
        | "formatExclusiveMinimum"
        | "formatExclusiveMaximum"
        | "patternRequired"
        | "uniqueItemProperties"
        | "instanceof"
        | "typeof" => Refused(ANY, "it is no keyword of JSON Schema, and is not enforced"),
        "x-guidance" => Refused(ANY, "options of the grammar compiler are not taken from schemas"),
        _ => Annotation,
    }
}

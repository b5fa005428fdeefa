//! What a call brings: held against the tool's own schema before the tool runs, then read by name.

use super::tools;
use crate::http::respond::Fault;
use rmcp::model::Tool;
use serde_json::{Map, Value};
use std::sync::LazyLock;

pub(super) type Arguments = Map<String, Value>;

/// Longest part of a wrong value that the refusal repeats, characters.
const SHOWN_MAX: usize = 80;

/// Takes out what is null, which is the same as left out, and refuses what the schema of `tool` does not name (a slip of the pen would
/// pass for something left out) or has as something else (a limit that is text would pass for no limit). What is inside of objects
/// and lists is for the tool to read.
pub(super) fn check(tool: &str, arguments: &mut Arguments) -> Result<(), Fault> {
    static LIST: LazyLock<Vec<Tool>> = LazyLock::new(|| tools::list().unwrap_or_default());
    let schema = LIST.iter().find(|known| known.name == tool).map(|known| &known.input_schema);
    let Some(named) = schema.and_then(|schema| schema.get("properties")?.as_object()) else { return Ok(()) };
    if let Some(name) = arguments.keys().find(|name| !named.contains_key(*name)) {
        let names: Vec<&str> = named.keys().map(String::as_str).collect();
        return Err(Fault::invalid(name, format!("is no argument of {tool}; it takes {}", names.join(", "))));
    }
    arguments.retain(|_, value| !value.is_null());
    for (name, value) in arguments.iter() {
        if let Some(wanted) = named.get(name).and_then(|schema| wanted(schema, value)) {
            return Err(Fault::invalid(name, format!("must be {wanted}; came {}", came(value))));
        }
    }
    Ok(())
}

/// What `schema` wants in the place of `value`; `None` where it takes it. Knows what the list of tools uses: `type`, `enum`, `minimum`
/// and `maximum`; anything else is for the tool to read.
fn wanted(schema: &Value, value: &Value) -> Option<String> {
    if let Some(words) = schema["enum"].as_array() {
        let shown = || words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
        return (!words.contains(value)).then(|| format!("one of {}", shown()));
    }
    let (fits, what) = match schema["type"].as_str()? {
        "string" => (value.is_string(), "text"),
        "integer" => (value.is_i64(), "a whole number"),
        "number" => (value.is_number(), "a number"),
        "boolean" => (value.is_boolean(), "true or false"),
        "array" => (value.is_array(), "a list"),
        "object" => (value.is_object(), "an object"),
        _ => return None,
    };
    let (least, most) = (&schema["minimum"], &schema["maximum"]);
    let outside = value.as_f64().is_some_and(|value| {
        least.as_f64().is_some_and(|least| value < least) || most.as_f64().is_some_and(|most| value > most)
    });
    (!fits || outside).then(|| match (least, most) {
        (Value::Null, Value::Null) => what.to_owned(),
        (least, Value::Null) => format!("{what} of {least} or more"),
        (Value::Null, most) => format!("{what} of {most} or less"),
        (least, most) => format!("{what} from {least} to {most}"),
    })
}

/// A value in words, cut short.
pub(super) fn came(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the text",
        Value::Array(_) => "the list",
        Value::Object(_) => "the object",
    };
    let text = value.to_string();
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let rest = if shown.len() < text.len() { "..." } else { "" };
    format!("{kind} {shown}{rest}")
}

/// Text that must be there.
pub(super) fn text<'a>(arguments: &'a Arguments, name: &str) -> Result<&'a str, Fault> {
    arguments.get(name).and_then(Value::as_str).ok_or_else(|| Fault::invalid(name, "is missing; must be text"))
}

/// An object that must be there.
pub(super) fn object(arguments: &Arguments, name: &str) -> Result<Value, Fault> {
    let value = arguments.get(name).filter(|value| value.is_object());
    value.cloned().ok_or_else(|| Fault::invalid(name, "is missing; must be an object"))
}

/// A whole number that may be left out. [`check`] has refused anything else.
pub(super) fn whole(arguments: &Arguments, name: &str) -> Option<i64> {
    arguments.get(name).and_then(Value::as_i64)
}

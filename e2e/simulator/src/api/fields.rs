//! Reading fields of a request body: absent and null are the same, a wrong type is a 400 that names the field.

use serde_json::{Map, Value};

use super::errors::ApiError;

/// The object that a body must be.
pub(crate) type Fields = Map<String, Value>;

/// Parses a body.
pub(crate) fn object(body: &[u8]) -> Result<Fields, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::malformed("body", "Input should be a valid dictionary")),
        Err(error) => {
            let place = format!("body.{}", offset(body, &error));
            Err(ApiError::malformed(place, format!("JSON decode error: {error}")))
        }
    }
}

/// At which byte, from 0 on, a body stops being JSON.
fn offset(body: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return body.len();
    }
    let lines = body.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    (before + error.column()).saturating_sub(1)
}

fn present<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn wrong_type(name: &str, expected: &str) -> ApiError {
    ApiError::malformed(format!("body.{name}"), format!("Input should be a valid {expected}"))
}

fn python_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// A field that must be there.
pub(crate) fn required<'a>(fields: &'a Fields, name: &str) -> Result<&'a Value, ApiError> {
    present(fields, name).ok_or_else(|| ApiError::malformed(format!("body.{name}"), "Field required"))
}

/// A string, if it is there.
pub(crate) fn string<'a>(fields: &'a Fields, name: &str) -> Result<Option<&'a str>, ApiError> {
    match present(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong_type(name, "string")),
    }
}

/// A list that must be there and have entries. That another type is refused by Python, not by validation, is recorded of chat.
pub(crate) fn entries<'a>(fields: &'a Fields, name: &'static str) -> Result<&'a [Value], ApiError> {
    match required(fields, name)? {
        Value::Array(entries) if entries.is_empty() => {
            Err(ApiError::invalid(name, format!("`{name}` must not be empty")))
        }
        Value::Array(entries) => Ok(entries),
        other => Err(ApiError::not_iterable(python_type(other))),
    }
}

/// A flag; false if it is not there.
pub(crate) fn flag(fields: &Fields, name: &str) -> Result<bool, ApiError> {
    match present(fields, name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(wrong_type(name, "boolean")),
    }
}

/// A whole number from 1 on, if it is there.
pub(crate) fn count(fields: &Fields, name: &'static str) -> Result<Option<u32>, ApiError> {
    let Some(value) = present(fields, name) else {
        return Ok(None);
    };
    let Some(number) = value.as_i64() else {
        return Err(wrong_type(name, "integer"));
    };
    match u32::try_from(number) {
        Ok(number) if number > 0 => Ok(Some(number)),
        _ => Err(ApiError::invalid(
            name,
            format!("{name} must be at least 1, got {number}."),
        )),
    }
}

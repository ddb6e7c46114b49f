//! Reading fields of a request body: absent and null are the same, a wrong type is a 400 that names the field.

use serde_json::{Map, Value};

use super::errors::ApiError;

/// The object that a body must be.
pub(crate) type Fields = Map<String, Value>;

/// Parses a body.
pub(crate) fn object(body: &[u8]) -> Result<Fields, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::malformed("Input should be a valid dictionary, at body")),
        Err(error) => Err(ApiError::malformed(format!("JSON decode error, at body: {error}"))),
    }
}

fn present<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn wrong_type(name: &str, expected: &str) -> ApiError {
    ApiError::malformed(format!("Input should be a valid {expected}, at body.{name}"))
}

/// A field that must be there.
pub(crate) fn required<'a>(fields: &'a Fields, name: &str) -> Result<&'a Value, ApiError> {
    present(fields, name).ok_or_else(|| ApiError::malformed(format!("Field required, at body.{name}")))
}

/// A string, if it is there.
pub(crate) fn string<'a>(fields: &'a Fields, name: &str) -> Result<Option<&'a str>, ApiError> {
    match present(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong_type(name, "string")),
    }
}

/// A list that must be there and have entries.
pub(crate) fn entries<'a>(fields: &'a Fields, name: &'static str) -> Result<&'a [Value], ApiError> {
    match required(fields, name)? {
        Value::Array(entries) if entries.is_empty() => {
            Err(ApiError::invalid(name, format!("`{name}` must not be empty")))
        }
        Value::Array(entries) => Ok(entries),
        _ => Err(wrong_type(name, "list")),
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

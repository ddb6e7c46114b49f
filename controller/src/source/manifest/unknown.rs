//! Fields that no version of a kind has: most often a slip of the pen, which an API server would drop without a word.

use kthena_gateway_api::FieldIssue;
use serde_json::Value;

/// Fields of `given` that are not in `understood`, which is the same object after it was read.
pub(super) fn fields(given: &Value, understood: &Value) -> Vec<FieldIssue> {
    let mut issues = Vec::new();
    compare(String::new(), given, understood, &mut issues);
    issues
}

fn compare(path: String, given: &Value, understood: &Value, issues: &mut Vec<FieldIssue>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (key, value) in given {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match understood.get(key) {
                    Some(known) => compare(path, value, known, issues),
                    // What is empty is left out when it is written again. Status is not for us to read.
                    None if is_empty(value) || path == "status" => {}
                    None => issues.push(FieldIssue::new(path, "there is no such field: it has no effect")),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (i, (given, understood)) in given.iter().zip(understood).enumerate() {
                compare(format!("{path}[{i}]"), given, understood, issues);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

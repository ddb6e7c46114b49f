//! The tokens of a request: a stand-in for chat templates.
//!
//! Every message becomes a header, its text and an end mark, each tokenized apart; a prompt that asks for an answer ends
//! with the header of the assistant's message. So a conversation whose next turn repeats the answer repeats its tokens,
//! whichever API form it came in.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::{self, Fields};
use crate::engine::prompt::{Token, push_tokens};

const END: &str = "<|end|>";

fn begin_message(role: &str, tokens: &mut Vec<Token>) {
    push_tokens("<|", tokens);
    push_tokens(role, tokens);
    push_tokens("|>", tokens);
}

/// Appends what a message says: a string, or parts whose texts count as such and whose other content counts as JSON.
fn push_content(content: &Value, tokens: &mut Vec<Token>) {
    match content {
        Value::Null => {}
        Value::String(text) => push_tokens(text, tokens),
        Value::Array(parts) => {
            for part in parts {
                match part.get("text") {
                    Some(Value::String(text)) => push_tokens(text, tokens),
                    _ => push_content(part, tokens),
                }
            }
        }
        other => push_tokens(&other.to_string(), tokens),
    }
}

fn push_message(message: &Value, tokens: &mut Vec<Token>) -> Result<(), ApiError> {
    let Value::Object(fields) = message else {
        return Err(ApiError::malformed(
            "body.messages",
            "Input should be a valid dictionary",
        ));
    };
    let role = fields::string(fields, "role")?;
    begin_message(role.unwrap_or("item"), tokens);
    match role {
        Some(_) => {
            push_content(fields.get("content").unwrap_or(&Value::Null), tokens);
            push_content(fields.get("tool_calls").unwrap_or(&Value::Null), tokens);
        }
        None => push_tokens(&message.to_string(), tokens),
    }
    push_tokens(END, tokens);
    Ok(())
}

/// The prompt of a conversation: tools and instructions first, as chat templates have them.
pub(crate) fn conversation(fields: &Fields, system: &str, messages: &Value) -> Result<Vec<Token>, ApiError> {
    let mut tokens = Vec::new();
    push_content(fields.get("tools").unwrap_or(&Value::Null), &mut tokens);
    if let Some(system) = fields.get(system).filter(|system| !system.is_null()) {
        begin_message("system", &mut tokens);
        push_content(system, &mut tokens);
        push_tokens(END, &mut tokens);
    }
    match messages {
        Value::Array(messages) => messages
            .iter()
            .try_for_each(|message| push_message(message, &mut tokens))?,
        text => {
            begin_message("user", &mut tokens);
            push_content(text, &mut tokens);
            push_tokens(END, &mut tokens);
        }
    }
    begin_message("assistant", &mut tokens);
    Ok(tokens)
}

/// The prompts of a field that is a string, a list of strings, token ids, or a list of lists of token ids.
pub(crate) fn plain(name: &'static str, value: &Value) -> Result<Vec<Vec<Token>>, ApiError> {
    let prompts = match value {
        Value::Array(entries) if entries.first().is_some_and(Value::is_number) => vec![token_ids(name, entries)?],
        Value::Array(entries) => entries.iter().map(|entry| one(name, entry)).collect::<Result<_, _>>()?,
        single => vec![one(name, single)?],
    };
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(ApiError::invalid(name, format!("`{name}` must not be empty")));
    }
    Ok(prompts)
}

fn one(name: &'static str, value: &Value) -> Result<Vec<Token>, ApiError> {
    match value {
        Value::String(text) => {
            let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
            push_tokens(text, &mut tokens);
            Ok(tokens)
        }
        Value::Array(ids) => token_ids(name, ids),
        _ => Err(ApiError::malformed(
            format!("body.{name}"),
            "Input should be a valid string or list of integers",
        )),
    }
}

fn token_ids(name: &'static str, ids: &[Value]) -> Result<Vec<Token>, ApiError> {
    let id = |value: &Value| value.as_u64().and_then(|id| Token::try_from(id).ok());
    let wrong = || ApiError::malformed(format!("body.{name}"), "Input should be a valid token id");
    ids.iter().map(|value| id(value).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(messages: Value) -> Vec<Token> {
        conversation(&Fields::new(), "system", &messages).unwrap()
    }

    #[test]
    fn the_next_turn_begins_with_the_last_prompt_and_its_answer() {
        let question = json!({"role": "user", "content": "what is a prefix?"});
        let first = chat(json!([question]));
        let answer = json!({"role": "assistant", "content": " the and you"});
        let second = chat(json!([question, answer, {"role": "user", "content": "and then?"}]));
        let mut expected = first;
        push_tokens(" the and you", &mut expected);
        assert_eq!(second[..expected.len()], expected);
    }

    #[test]
    fn parts_count_like_the_string_that_they_make() {
        let string = chat(json!([{"role": "user", "content": "some text"}]));
        assert_eq!(
            string,
            chat(json!([{"role": "user", "content": [{"type": "text", "text": "some text"}]}]))
        );
        assert_eq!(
            string,
            conversation(&Fields::new(), "instructions", &json!("some text")).unwrap()
        );
    }

    #[test]
    fn plain_prompts_come_in_four_forms() {
        let lengths = |value: Value| plain("prompt", &value).map(|p| p.iter().map(Vec::len).collect::<Vec<_>>());
        assert_eq!(lengths(json!("eight by")).unwrap(), [2]);
        assert_eq!(lengths(json!(["a", "b"])).unwrap(), [1, 1]);
        assert_eq!(lengths(json!([1, 2, 3])).unwrap(), [3]);
        assert_eq!(lengths(json!([[1, 2], [3]])).unwrap(), [2, 1]);
        assert!(lengths(json!([])).is_err());
        assert!(lengths(json!("")).is_err());
        assert!(lengths(json!([1, "x"])).is_err());
        assert!(lengths(json!([-1])).is_err());
        assert!(lengths(json!({})).is_err());
    }
}

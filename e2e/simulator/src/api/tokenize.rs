//! `POST /tokenize`: the tokens of a prompt or of a conversation, which are those that the engine computes.

use super::errors::ApiError;
use super::json::{Json, NULL, object};
use super::{fields, prompts, request};
use crate::settings::ModelServer;

/// Answers a body.
pub(crate) fn answer(body: &[u8], server: &ModelServer) -> Result<Json, ApiError> {
    let fields = fields::object(body)?;
    let tokens = match fields.get("messages").filter(|messages| !messages.is_null()) {
        Some(messages) => {
            fields::entries(&fields, "messages")?;
            prompts::conversation(&fields, "system", messages)?
        }
        None => prompts::plain("prompt", fields::required(&fields, "prompt")?)?.concat(),
    };
    request::the_model(&fields, server)?;
    Ok(object! {
        "count": tokens.len(), "max_model_len": server.max_model_len, "tokens": tokens, "token_strs": NULL,
    })
}

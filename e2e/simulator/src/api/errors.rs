//! Errors as vLLM words them: an OpenAI error object, or Anthropic's envelope on `/v1/messages`.

use http::StatusCode;

use super::json::{Json, object};

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    /// The status.
    pub(crate) status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<&'static str>,
}

impl ApiError {
    /// The body is not JSON, or a field is missing or of the wrong type.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "Bad Request",
            message: message.into(),
            param: None,
        }
    }

    /// A field has a value that cannot be served.
    pub(crate) fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message: message.into(),
            param: Some(param),
        }
    }

    /// No such model here.
    pub(crate) fn unknown_model(name: &str, aliases: &[&str]) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message: format!(
                "The model `{name}` does not exist. Valid aliases: {}.",
                aliases.join(", ")
            ),
            param: Some("model"),
        }
    }

    /// An error that says no more than its status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("Error");
        Self {
            status,
            kind: reason,
            message: reason.to_owned(),
            param: None,
        }
    }

    /// A fault that was switched on, or a full queue.
    pub(crate) fn server(status: StatusCode, message: &str) -> Self {
        Self {
            status,
            kind: "InternalServerError",
            message: message.to_owned(),
            param: None,
        }
    }

    /// As an OpenAI error object.
    pub(crate) fn to_openai(&self) -> Json {
        object! {"error": object! {
            "message": self.message.as_str(), "type": self.kind, "param": self.param, "code": self.status.as_u16()
        }}
    }

    /// As Anthropic's error envelope.
    pub(crate) fn to_anthropic(&self) -> Json {
        object! {"type": "error", "error": object! {"type": self.kind, "message": self.message.as_str()}}
    }
}

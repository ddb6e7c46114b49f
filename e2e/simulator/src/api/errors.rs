//! Errors as vLLM words them.
//!
//! There are three forms. What the web server itself refuses (paths, methods) is a `detail`; a body that does not validate is an OpenAI
//! error object, on every path; what the API refuses is an OpenAI error object, or Anthropic's envelope on `/v1/messages`.

use std::fmt::Display;

use http::StatusCode;

use super::json::{Json, object};

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    /// The status.
    pub(crate) status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    by: By,
}

/// Who refuses a request, which decides about the form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Server,
    Validation,
    Api,
}

impl ApiError {
    /// The body is not JSON, or a field is missing or of the wrong type; `place` is `body` and what leads there: `body.model`.
    pub(crate) fn malformed(place: impl Into<String>, message: impl Display) -> Self {
        let place = place.into();
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "Bad Request",
            message: format!("1 validation error:\n  {{'loc': '{place}', 'msg': '{message}'}}"),
            param: Some(place),
            by: By::Validation,
        }
    }

    /// Something that should be a list is of this other type, in the words of vLLM's Python.
    pub(crate) fn not_iterable(python_type: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message: format!("'{python_type}' object is not iterable"),
            param: None,
            by: By::Api,
        }
    }

    /// A field has a value that cannot be served.
    pub(crate) fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message: message.into(),
            param: Some(param.to_owned()),
            by: By::Api,
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
            param: Some("model".to_owned()),
            by: By::Api,
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
            by: By::Server,
        }
    }

    /// A fault that was switched on, or a full queue.
    pub(crate) fn server(status: StatusCode, message: &str) -> Self {
        Self {
            status,
            kind: "InternalServerError",
            message: message.to_owned(),
            param: None,
            by: By::Api,
        }
    }

    /// The body of the answer on the paths of OpenAI's API.
    pub(crate) fn to_openai(&self) -> Json {
        match self.by {
            By::Server => object! {"detail": self.message.as_str()},
            By::Validation | By::Api => object! {"error": object! {
                "message": self.message.as_str(), "type": self.kind, "param": self.param.clone(),
                "code": self.status.as_u16()
            }},
        }
    }

    /// The body of the answer on the paths of Anthropic's API.
    pub(crate) fn to_anthropic(&self) -> Json {
        match self.by {
            By::Server | By::Validation => self.to_openai(),
            By::Api => object! {
                "type": "error", "error": object! {"type": self.kind, "message": self.message.as_str()}
            },
        }
    }
}

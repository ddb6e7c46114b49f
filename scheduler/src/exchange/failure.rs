//! Every way a request ends with an answer of ours, and what the client is told: the one table of conditions.
//!
//! What must always hold: 4xx is the client's to mend, 429 and 503 say when to come back where that can help, and the words of Kthena v1.0
//! ("route not found", "rate limit") stay inside the message, as its users' scripts look for them. Errors are OpenAI error
//! objects; on `/v1/messages` they wear Anthropic's envelope.

use serde_json::json;

use crate::exchange::effect::{Header, LocalReply};
use crate::exchange::header;
use crate::request::{ApiForm, BodyError};

/// Why a request is answered by us with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The body is refused.
    Body(BodyError),
    /// Bodies are not read, and the head names no model.
    ModelNotNamed,
    /// The body is larger than the bound.
    BodyTooLarge {
        /// The bound, bytes.
        limit: u64,
    },
    /// A content encoding that we cannot read.
    ContentEncoding(String),
    /// A body of parts, as uploads are: it is no JSON.
    Multipart(String),
    /// No ModelRoute for the model.
    RouteNotFound {
        /// The model asked for.
        model: String,
    },
    /// There are ModelRoutes for the model, and none of their rules holds for this request.
    NoRule {
        /// The model asked for.
        model: String,
    },
    /// The route leads to an external provider.
    ExternalProvider(String),
    /// The route leads to a ModelServer that does not exist.
    NoModelServer(String),
    /// The ModelServer has no endpoint that can serve.
    NoEndpoint(String),
    /// Every endpoint is over its limits, and the operator chose to reject.
    Saturated(String),
    /// No state from the controller yet.
    NoState,
}

/// The status, type, code and parameter that a client sees, and the word that metrics and logs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// HTTP status.
    pub status: u16,
    /// OpenAI's `error.type`.
    pub kind: &'static str,
    /// Anthropic's `error.type`.
    pub anthropic_kind: &'static str,
    /// `error.code`.
    pub code: &'static str,
    /// `error.param`.
    pub param: Option<&'static str>,
    /// Kthena's `error_type` in metrics and access log.
    pub error_type: &'static str,
    /// Seconds after which a retry makes sense.
    pub retry_after_s: Option<u32>,
}

const fn bad_request(code: &'static str, param: Option<&'static str>, error_type: &'static str) -> Row {
    Row {
        status: 400,
        kind: "invalid_request_error",
        anthropic_kind: "invalid_request_error",
        code,
        param,
        error_type,
        retry_after_s: None,
    }
}

const fn unavailable(code: &'static str, error_type: &'static str) -> Row {
    Row {
        status: 503,
        kind: "server_error",
        anthropic_kind: "overloaded_error",
        code,
        param: None,
        error_type,
        retry_after_s: Some(1),
    }
}

impl Failure {
    /// The row of the table.
    pub fn row(&self) -> Row {
        match self {
            Self::Body(error) => body_row(error),
            Self::ModelNotNamed => body_row(&BodyError::ModelMissing),
            Self::BodyTooLarge { .. } => Row {
                status: 413,
                anthropic_kind: "request_too_large",
                ..bad_request("request_too_large", None, "request_parsing")
            },
            Self::ContentEncoding(_) => Row {
                status: 415,
                ..bad_request("unsupported_content_encoding", None, "request_parsing")
            },
            Self::Multipart(_) => Row {
                status: 415,
                ..bad_request("unsupported_content_type", None, "request_parsing")
            },
            Self::RouteNotFound { .. } | Self::NoRule { .. } => Row {
                status: 404,
                anthropic_kind: "not_found_error",
                ..bad_request("model_not_found", Some("model"), "route_not_found")
            },
            // It does not help to come back: somebody has to change the route.
            Self::ExternalProvider(_) => Row {
                retry_after_s: None,
                ..unavailable("external_provider_not_served", "provider_discovery")
            },
            Self::NoModelServer(_) => unavailable("model_server_not_found", "pod_discovery"),
            Self::NoEndpoint(_) => unavailable("no_endpoint", "pod_discovery"),
            Self::Saturated(_) => Row {
                status: 429,
                kind: "rate_limit_error",
                anthropic_kind: "rate_limit_error",
                ..unavailable("saturated", "scheduling")
            },
            Self::NoState => unavailable("no_state", "scheduling"),
        }
    }

    /// What the client reads: what is wrong, where, and what to do.
    pub fn message(&self) -> String {
        match self {
            Self::Body(error) => body_message(error),
            Self::ModelNotNamed => format!(
                "model not found: this gateway does not read bodies; name the model in the header {}, or in the path: \
                 /m/<model>/v1/...",
                header::MODEL
            ),
            Self::BodyTooLarge { limit } => format!("the request body is larger than {limit} bytes"),
            Self::ContentEncoding(encoding) => {
                format!("content-encoding `{encoding}` is not supported: send the body without compression")
            }
            Self::Multipart(kind) => format!(
                "content-type `{}` is not supported: uploads are not routed by their model yet; send a JSON body",
                short(kind)
            ),
            Self::RouteNotFound { model } => {
                let model = short(model);
                format!("the model `{model}` does not exist: route not found; GET /v1/models lists those that do")
            }
            Self::NoRule { model } => {
                let model = short(model);
                format!(
                    "no rule for the model `{model}` holds for this request: route not found; its rules want another path \
                     or other headers"
                )
            }
            Self::ExternalProvider(name) => {
                format!(
                    "external model provider {name} is not served by this gateway: external targets are not built yet"
                )
            }
            Self::NoModelServer(name) => format!("can't find model server: {name}"),
            Self::NoEndpoint(name) => format!("no available pods for model server: {name}"),
            Self::Saturated(name) => {
                format!("rate limit: every pod of model server {name} is saturated; retry later")
            }
            Self::NoState => "the gateway has no routing state yet; retry shortly".to_owned(),
        }
    }

    /// The answer, in the envelope of the API that the client speaks.
    pub fn reply(&self, form: ApiForm) -> LocalReply {
        let row = self.row();
        let message = self.message();
        let body = match form {
            ApiForm::Messages => json!({"type": "error", "error": {"type": row.anthropic_kind, "message": message}}),
            _ => json!({"error": {"message": message, "type": row.kind, "param": row.param, "code": row.code}}),
        };
        let retry_after = row.retry_after_s.map(|s| Header {
            name: "retry-after",
            value: s.to_string(),
        });
        LocalReply {
            status: row.status,
            headers: retry_after.into_iter().collect(),
            body: body.to_string().into_bytes(),
            details: row.code,
        }
    }
}

/// The longest model name that a message repeats, characters; a name that is configured has no more.
const LONGEST_NAME: usize = 256;

/// A name that a client gave, for a message.
fn short(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

fn body_row(error: &BodyError) -> Row {
    match error {
        BodyError::Malformed { .. }
        | BodyError::Trailing { .. }
        | BodyError::TooDeep { .. }
        | BodyError::InvalidUtf8 { .. }
        | BodyError::NotAnObject => bad_request("invalid_json", None, "request_parsing"),
        BodyError::ModelMissing => bad_request("missing_required_parameter", Some("model"), "request_parsing"),
        BodyError::ModelNotAString | BodyError::ModelBlank | BodyError::ModelTwice { .. } => {
            bad_request("invalid_model", Some("model"), "request_parsing")
        }
        BodyError::WrongType { field, .. } => bad_request("invalid_type", Some(field), "prompt_parsing"),
        BodyError::EmptyPrompt { field } => bad_request("empty_prompt", Some(field), "prompt_parsing"),
    }
}

fn body_message(error: &BodyError) -> String {
    match error {
        BodyError::ModelMissing | BodyError::ModelNotAString | BodyError::ModelBlank => {
            format!("model not found: {error}")
        }
        BodyError::EmptyPrompt { .. } => format!("prompt not found: {error}"),
        other => other.to_string(),
    }
}

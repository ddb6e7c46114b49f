//! Which request this is, by method and path alone.
//!
//! The form decides which fields of the body carry the prompt. Nothing fails here: a path that means nothing to us passes.

use std::borrow::Cow;

/// The API a request body is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApiForm {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/messages`, the Anthropic form
    Messages,
    /// Any other `POST` under `/v1/`: routed by its model, its prompt read where we recognise one.
    Other,
}

/// What is to be done with a request, before its body is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'a> {
    /// Scan the body and choose an endpoint.
    Infer(ApiForm),
    /// Answer with the list of models.
    ListModels,
    /// Answer with one model. The name is percent-decoded and may contain `/`.
    GetModel(Cow<'a, str>),
    /// Not ours: passes untouched.
    Pass,
}

/// Reads method and `:path` (with its query, which does not count).
pub fn classify<'a>(method: &str, path_and_query: &'a str) -> Route<'a> {
    let path = path_and_query.split(['?', '#']).next().unwrap_or_default();
    let Some(rest) = path.strip_prefix("/v1/") else {
        return Route::Pass;
    };
    match method {
        "POST" => Route::Infer(form_of(rest)),
        "GET" => match rest.strip_prefix("models") {
            Some("" | "/") => Route::ListModels,
            Some(name) => name
                .strip_prefix('/')
                .map_or(Route::Pass, |name| Route::GetModel(percent_decode(name))),
            None => Route::Pass,
        },
        _ => Route::Pass,
    }
}

/// The model that a path names, and the path without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedInPath<'a> {
    /// The name, percent-decoded; it may contain `/`.
    pub model: Cow<'a, str>,
    /// The path that a model server knows, with its query: what begins with `/v1/`.
    pub path: &'a str,
}

/// Reads `/m/<model>/v1/...`, the form for clients that cannot set a header; `None` when the path has another form.
pub fn model_in_path(path_and_query: &str) -> Option<NamedInPath<'_>> {
    let rest = path_and_query.strip_prefix("/m/")?;
    let path = rest.split(['?', '#']).next()?;
    let at = path.find("/v1/").filter(|at| *at > 0)?;
    Some(NamedInPath {
        model: percent_decode(&rest[..at]),
        path: &rest[at..],
    })
}

fn form_of(path: &str) -> ApiForm {
    match path {
        "chat/completions" => ApiForm::ChatCompletions,
        "completions" => ApiForm::Completions,
        "responses" => ApiForm::Responses,
        "embeddings" => ApiForm::Embeddings,
        "messages" => ApiForm::Messages,
        _ => ApiForm::Other,
    }
}

/// Percent-decoding as a server does it: a `%` without two hex digits stands for itself, bytes that are not UTF-8 become
/// U+FFFD (no model has such a name).
fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let byte = if first == b'%' {
            after.first_chunk().and_then(hex_byte)
        } else {
            None
        };
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn hex_byte(digits: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_under_v1_are_inference_by_path() {
        for (path, form) in [
            ("/v1/chat/completions", ApiForm::ChatCompletions),
            ("/v1/chat/completions?api-version=1", ApiForm::ChatCompletions),
            ("/v1/completions", ApiForm::Completions),
            ("/v1/responses", ApiForm::Responses),
            ("/v1/embeddings", ApiForm::Embeddings),
            ("/v1/messages", ApiForm::Messages),
            ("/v1/rerank", ApiForm::Other),
            ("/v1/messages/count_tokens", ApiForm::Other),
            ("/v1/models", ApiForm::Other),
        ] {
            assert_eq!(classify("POST", path), Route::Infer(form), "{path}");
        }
    }

    #[test]
    fn models_are_answered_here() {
        assert_eq!(classify("GET", "/v1/models"), Route::ListModels);
        assert_eq!(classify("GET", "/v1/models/?limit=20"), Route::ListModels);
        for (path, name) in [
            ("/v1/models/gpt", "gpt"),
            ("/v1/models/org/name", "org/name"),
            ("/v1/models/org%2Fname%20x?y", "org/name x"),
            ("/v1/models/%e4%bd%a0", "你"),
            ("/v1/models/50%", "50%"),
            ("/v1/models/%zz%4", "%zz%4"),
            ("/v1/models/%ff", "\u{fffd}"),
        ] {
            assert_eq!(classify("GET", path), Route::GetModel(name.into()), "{path}");
        }
    }

    #[test]
    fn a_path_may_name_the_model() {
        for (path, model, rest) in [
            ("/m/llama/v1/chat/completions", "llama", "/v1/chat/completions"),
            (
                "/m/meta/llama/v1/completions?x=/v1/",
                "meta/llama",
                "/v1/completions?x=/v1/",
            ),
            ("/m/meta%2Fllama%20x/v1/models/v1/y", "meta/llama x", "/v1/models/v1/y"),
        ] {
            let expected = NamedInPath {
                model: model.into(),
                path: rest,
            };
            assert_eq!(model_in_path(path), Some(expected), "{path}");
        }
        for other in [
            "/m/llama",
            "/m//v1/completions",
            "/m/v1/completions",
            "/v1/m/x/v1/y",
            "/m/x?/v1/y",
            "/m/",
            "",
        ] {
            assert_eq!(model_in_path(other), None, "{other}");
        }
    }

    #[test]
    fn everything_else_passes() {
        for (method, path) in [
            ("GET", "/"),
            ("GET", ""),
            ("GET", "/v1/modelsx"),
            ("GET", "/v1/chat/completions"),
            ("POST", "/v2/chat/completions"),
            ("POST", "/v1"),
            ("PUT", "/v1/chat/completions"),
            ("OPTIONS", "/v1/models"),
            ("post", "/v1/completions"),
        ] {
            assert_eq!(classify(method, path), Route::Pass, "{method} {path}");
        }
    }
}

//! The HTTP/1.1 side of an endpoint (vLLM's server speaks nothing else): paths, bodies, headers, and the faults that
//! change an answer.
//!
//! Every answer carries `x-simulator-endpoint` (who answered) and `x-simulator-incarnation`; an answer to a `POST` also
//! `x-simulator-body-bytes` and `x-simulator-body-hash` (XXH3 of the exact bytes received, 16 hex digits) and, where
//! the body could be read, `x-simulator-model`. A client that goes away drops the future or the body here, which frees
//! its sequences in the engine.

mod body;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use twox_hash::XxHash3_64;

use crate::api::errors::ApiError;
use crate::api::json::Json;
use crate::api::request::{Ask, Form};
use crate::api::{self, Choice, Heading, models, tokenize, unix_seconds};
use crate::endpoint::{Endpoint, Generation};
use crate::engine::stats::FinishReason;
use crate::journal::Journal;
use crate::metrics;
pub(crate) use body::Answer;
use body::EventStream;

const ENDPOINT: HeaderName = HeaderName::from_static("x-simulator-endpoint");
const INCARNATION: HeaderName = HeaderName::from_static("x-simulator-incarnation");
const MODEL: HeaderName = HeaderName::from_static("x-simulator-model");
const BODY_BYTES: HeaderName = HeaderName::from_static("x-simulator-body-bytes");
const BODY_HASH: HeaderName = HeaderName::from_static("x-simulator-body-hash");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// What all endpoints answer with.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where requests are recorded.
    pub(crate) journal: Journal,
    /// Largest request body.
    pub(crate) max_body_bytes: usize,
    /// Numbers answers.
    pub(crate) answers: AtomicU64,
}

impl Context {
    /// An id that no other answer of this process has: sixteen hex digits like vLLM's.
    fn next_id(&self) -> String {
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", XxHash3_64::oneshot(&number.to_le_bytes()))
    }
}

/// A `POST` path that this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Ask(Form),
    Tokenize,
}

fn post(path: &str) -> Option<Post> {
    Some(match path {
        "/v1/chat/completions" => Post::Ask(Form::Chat),
        "/v1/completions" => Post::Ask(Form::Completions),
        "/v1/responses" => Post::Ask(Form::Responses),
        "/v1/messages" => Post::Ask(Form::Messages),
        "/v1/embeddings" => Post::Ask(Form::Embeddings),
        "/tokenize" => Post::Tokenize,
        _ => return None,
    })
}

/// Answers one request.
pub(crate) async fn answer(
    endpoint: Arc<Endpoint>,
    context: Arc<Context>,
    request: Request<Incoming>,
) -> Response<Answer> {
    endpoint.until_answering().await;
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET, path @ ("/v1/models" | "/metrics" | "/health" | "/version")) => get(&endpoint, path),
        _ => receive(&endpoint, &context, request).await,
    };
    let headers = response.headers_mut();
    headers.insert(ENDPOINT, endpoint.address_header.clone());
    headers.insert(INCARNATION, endpoint.incarnation().into());
    headers.insert(header::SERVER, HeaderValue::from_static("uvicorn"));
    response
}

fn get(endpoint: &Endpoint, path: &str) -> Response<Answer> {
    match path {
        "/v1/models" => {
            let created = unix_seconds(SystemTime::now());
            json(StatusCode::OK, &models::list(&endpoint.server, created))
        }
        "/metrics" => {
            let text = endpoint.frozen_metrics().unwrap_or_else(|| metrics::render(endpoint));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            respond(StatusCode::OK, kind, Answer::whole(text))
        }
        "/version" => json(StatusCode::OK, &api::version()),
        _ => Response::new(Answer::whole(Bytes::new())),
    }
}

/// Reads and records a request, and answers it if it is one that is known.
async fn receive(endpoint: &Arc<Endpoint>, context: &Context, request: Request<Incoming>) -> Response<Answer> {
    let (head, incoming) = request.into_parts();
    let target = post(head.uri.path());
    let form = match target {
        Some(Post::Ask(form)) => form,
        _ => Form::Chat,
    };
    let method = head.method.clone();
    let body = match Limited::new(incoming, context.max_body_bytes).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return refuse(form, &ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Err(_) => return refuse(form, &ApiError::malformed("body", "the body ended early")),
    };
    let mut echo = HeaderMap::with_capacity(8);
    let hash = XxHash3_64::oneshot(&body);
    echo.insert(BODY_BYTES, HeaderValue::from(body.len()));
    if let Ok(hash) = HeaderValue::try_from(format!("{hash:016x}")) {
        echo.insert(BODY_HASH, hash);
    }
    context.journal.record(endpoint.address, head, body.clone(), hash);
    let mut response = match target {
        None => refuse(form, &ApiError::of_status(StatusCode::NOT_FOUND)),
        Some(_) if method != Method::POST => refuse(form, &ApiError::of_status(StatusCode::METHOD_NOT_ALLOWED)),
        Some(target) => posted(endpoint, context, target, &body, &mut echo)
            .await
            .unwrap_or_else(|e| refuse(form, &e)),
    };
    response.headers_mut().extend(echo);
    response
}

async fn posted(
    endpoint: &Arc<Endpoint>,
    context: &Context,
    target: Post,
    body: &[u8],
    echo: &mut HeaderMap,
) -> Result<Response<Answer>, ApiError> {
    let (delay, failure) = endpoint.next_fault();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if let Some(status) = failure.and_then(|status| StatusCode::from_u16(status).ok()) {
        return Err(ApiError::server(status, "this fault was switched on"));
    }
    match target {
        Post::Tokenize => Ok(json(StatusCode::OK, &tokenize::answer(body, &endpoint.server)?)),
        Post::Ask(form) => {
            let ask = Ask::read(form, body, &endpoint.server)?;
            if let Ok(model) = HeaderValue::try_from(ask.model.as_str()) {
                echo.insert(MODEL, model);
            }
            generate(endpoint, context, ask).await
        }
    }
}

async fn generate(endpoint: &Arc<Endpoint>, context: &Context, mut ask: Ask) -> Result<Response<Answer>, ApiError> {
    let heading = Heading {
        id: context.next_id(),
        created: unix_seconds(SystemTime::now()),
        model: ask.model.clone(),
        limit: ask.submissions.first().map_or(0, |submission| submission.tokens),
        details: endpoint.server.prompt_tokens_details,
        block_size: endpoint.server.engine.block_size,
    };
    let form = ask.stream.then(|| api::streamed(&ask, &heading));
    let submissions = std::mem::take(&mut ask.submissions);
    let seeds: Vec<u64> = submissions.iter().map(|submission| submission.prompt.seed()).collect();
    let queue_full = |_| ApiError::server(StatusCode::SERVICE_UNAVAILABLE, "the queue is full");
    let generations = endpoint.submit(submissions).map_err(queue_full)?;
    let seeded = generations.into_iter().zip(seeds);
    match form {
        Some(form) => {
            let events = EventStream::new(seeded.collect(), ask.copies, ask.prompt_tokens, form);
            Ok(respond(StatusCode::OK, EVENTS, Answer::Events(Box::new(events))))
        }
        None => Ok(json(StatusCode::OK, &finish(&ask, &heading, seeded.collect()).await)),
    }
}

/// Waits for all choices.
async fn finish(ask: &Ask, heading: &Heading, generations: Vec<(Generation, u64)>) -> Json {
    let mut choices = Vec::with_capacity(generations.len());
    let mut ends = Vec::with_capacity(generations.len());
    for (generation, seed) in &generations {
        let end = generation.finished().await;
        let finish = end.finished.unwrap_or(FinishReason::Stop);
        choices.push(Choice {
            seed: *seed,
            tokens: end.generated,
            finish,
        });
        ends.push(end);
    }
    let usage = body::usage(ask.prompt_tokens, ask.copies as usize, ends.into_iter());
    api::plain(ask, heading, &choices, usage)
}

fn refuse(form: Form, error: &ApiError) -> Response<Answer> {
    let body = match form {
        Form::Messages => error.to_anthropic(),
        _ => error.to_openai(),
    };
    json(error.status, &body)
}

fn json(status: StatusCode, body: &Json) -> Response<Answer> {
    respond(status, JSON, Answer::whole(body.to_text()))
}

fn respond(status: StatusCode, kind: HeaderValue, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

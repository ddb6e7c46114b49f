//! Logs, and one span per request for those that are traced.
//!
//! What must always hold: a request that is not traced costs a look at its `traceparent` and one random number: no span
//! is made for it and its header goes on as it came. Whether a request is traced is its client's (or Envoy's) decision
//! where there is one, else ours by share; so a trace is whole or absent. Spans are sent in the background; when nobody
//! takes them they are dropped, never waited for.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::Duration;

use kthena_scheduler::exchange::Record;
use kthena_scheduler::snapshot::Engine;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Status, TraceContextExt, TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{EnvFilter, ParseError, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{LogFormat, Telemetry, TraceHeader};
use crate::metrics::{Request, operation};

/// The target of request spans: traced, never logged.
const TARGET: &str = "kthena_request";
/// Time for the last spans to leave when the process stops.
const FLUSH: Duration = Duration::from_secs(3);

/// Why telemetry cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is not one.
    #[error("--log: {0}; give a level as `info`, or directives as `info,kthena_ext_proc=debug`")]
    Filter(#[from] ParseError),
    /// The endpoint cannot be used.
    #[error("--otlp-endpoint {0}: give http://host:port of a collector that speaks OTLP over gRPC")]
    Endpoint(String),
    /// The exporter could not be made.
    #[error("--otlp-endpoint: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// Somebody else logs already.
    #[error(transparent)]
    Taken(#[from] TryInitError),
}

/// Makes spans, where they are wanted.
#[derive(Debug)]
pub struct Tracing {
    provider: Option<SdkTracerProvider>,
    /// A random number below it means that a request without a decision is traced.
    threshold: u64,
    set_header: bool,
}

/// The span of one request, or nothing.
#[derive(Debug, Default)]
pub struct RequestSpan {
    span: Option<Span>,
    set_header: bool,
}

/// Begins to log and, where an endpoint is given, to trace. To be called inside the runtime.
///
/// # Errors
/// When the filter or the endpoint cannot be used.
pub fn install(config: &Telemetry) -> Result<Tracing, TelemetryError> {
    let filter = EnvFilter::try_new(&config.log)?;
    let no_requests = filter_fn(|metadata: &Metadata<'_>| metadata.target() != TARGET);
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let log = match config.log_format {
        LogFormat::Text => format.boxed(),
        LogFormat::Json => format.json().boxed(),
    };
    let provider = config.otlp_endpoint.as_deref().map(provider).transpose()?;
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("kthena-ext-proc"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata: &Metadata<'_>| metadata.target() == TARGET))
    });
    tracing_subscriber::registry()
        .with(traces)
        .with(log.with_filter(no_requests).with_filter(filter))
        .try_init()?;
    Ok(Tracing::new(provider, config))
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    if !endpoint.starts_with("http://") {
        return Err(TelemetryError::Endpoint(endpoint.to_owned()));
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(FLUSH)
        .build()?;
    let resource = Resource::builder().with_service_name("kthena-ext-proc").build();
    // A span is only made for a request that is traced: the decision was taken before.
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

// === impl Tracing ===

impl Tracing {
    fn new(provider: Option<SdkTracerProvider>, config: &Telemetry) -> Self {
        Self {
            provider,
            // 1.0 maps to the largest number, which a share of one in 2^64 does not deserve.
            threshold: (config.trace_share * u64::MAX as f64) as u64,
            set_header: config.trace_header == TraceHeader::Set,
        }
    }

    /// Nothing is traced.
    pub fn off() -> Self {
        Self {
            provider: None,
            threshold: 0,
            set_header: false,
        }
    }

    /// Whether anything is traced at all.
    pub fn is_on(&self) -> bool {
        self.provider.is_some()
    }

    /// Begins the span of a request, if it is traced. `random` is uniform.
    pub fn start(&self, traceparent: Option<&str>, tracestate: Option<&str>, random: u64) -> RequestSpan {
        if self.provider.is_none() {
            return RequestSpan::default();
        }
        let traced = traceparent
            .and_then(sampled)
            .unwrap_or(random < self.threshold || self.threshold == u64::MAX);
        if !traced {
            return RequestSpan::default();
        }
        let span = tracing::info_span!(target: TARGET, parent: None, "request", otel.kind = "client");
        // Fails only where spans are not exported; the span is then without a parent and goes nowhere.
        let _ = span.set_parent(parent(traceparent, tracestate));
        RequestSpan {
            span: Some(span),
            set_header: self.set_header,
        }
    }

    /// Sends what is left. May take some seconds when nobody takes it.
    pub fn shutdown(&self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}

// === impl RequestSpan ===

impl RequestSpan {
    /// The `traceparent` that makes the model server's span a child of this one; `None` = the header stays as it is.
    pub fn traceparent(&self) -> Option<String> {
        let span = self.span.as_ref().filter(|_| self.set_header)?;
        let context = span.context();
        let id = context.span().span_context().clone();
        id.is_valid().then(|| {
            let flags = id.trace_flags().to_u8();
            format!("00-{}-{}-{flags:02x}", id.trace_id(), id.span_id())
        })
    }

    /// Ends the span with what is known of the request.
    pub fn finish(self, record: &Record) {
        let Some(span) = self.span else { return };
        let request = Request::of(record);
        let operation = operation(request.path);
        let model = record.model.as_deref().unwrap_or("unknown");
        span.context().span().update_name(format!("{operation} {model}"));
        let set = |key: &'static str, value: Option<Cow<'_, str>>| {
            if let Some(value) = value {
                span.set_attribute(key, value.into_owned());
            }
        };
        let text = |value: Option<&str>| value.map(|value| Cow::Owned(value.to_owned()));
        set("gen_ai.operation.name", text(Some(operation)));
        set(
            "gen_ai.provider.name",
            text(record.server.as_ref().map(|server| provider_name(server.engine))),
        );
        set("gen_ai.request.model", text(record.model.as_deref()));
        set("gen_ai.response.model", text(record.upstream_model.as_deref()));
        set("kthena.model_route", text(request.route));
        set("kthena.model_server", text(request.server));
        set(
            "kthena.pod",
            text(record.selected.as_ref().map(|endpoint| &*endpoint.pod)),
        );
        let served = record
            .served
            .as_deref()
            .or(record.selected.as_ref().map(|endpoint| &*endpoint.address));
        if let Some((address, port)) = served.and_then(|served| served.rsplit_once(':')) {
            set("server.address", text(Some(address)));
            span.set_attribute("server.port", port.parse::<i64>().unwrap_or_default());
        }
        span.set_attribute("gen_ai.request.stream", record.stream);
        span.set_attribute("kthena.prefix.matched_blocks", i64::from(record.matched_blocks));
        span.set_attribute("kthena.prefix.total_blocks", i64::from(record.total_blocks));
        span.set_attribute("kthena.saturated", record.saturated);
        finish_usage(&span, record);
        if let Some(status) = record.status {
            span.set_attribute("http.response.status_code", i64::from(status));
        }
        if let Some(error) = record.error_type {
            span.set_attribute("error.type", error);
            span.set_status(Status::error(error));
        }
    }
}

fn finish_usage(span: &Span, record: &Record) {
    let counts = [
        ("gen_ai.usage.input_tokens", record.usage.input_tokens),
        ("gen_ai.usage.output_tokens", record.usage.output_tokens),
        ("gen_ai.usage.cache_read.input_tokens", record.usage.cached_tokens),
    ];
    for (name, count) in counts {
        if let Some(count) = count.and_then(|count| i64::try_from(count).ok()) {
            span.set_attribute(name, count);
        }
    }
}

fn provider_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Vllm => "vllm",
        Engine::Sglang => "sglang",
    }
}

/// What a `traceparent` says about tracing; `None` when it is not one.
fn sampled(traceparent: &str) -> Option<bool> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && version != "ff";
    well_formed.then(|| u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1))
}

struct Headers<'a>(Option<&'a str>, Option<&'a str>);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.0,
            "tracestate" => self.1,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

fn parent(traceparent: Option<&str>, tracestate: Option<&str>) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(traceparent, tracestate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::KeyValue;
    use opentelemetry_sdk::trace::InMemorySpanExporter;
    use tracing_subscriber::Registry;

    const TRACED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const NOT_TRACED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn tracing(share: f64) -> (Tracing, InMemorySpanExporter, impl tracing::Subscriber + Send + Sync) {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let tracing = Tracing {
            provider: Some(provider),
            threshold: (share * u64::MAX as f64) as u64,
            set_header: true,
        };
        (tracing, exporter, Registry::default().with(layer))
    }

    #[test]
    fn the_clients_decision_counts_and_ours_where_there_is_none() {
        let (tracing, _, subscriber) = tracing(0.5);
        tracing::subscriber::with_default(subscriber, || {
            let traced = |header, random| tracing.start(header, None, random).span.is_some();
            assert!(traced(Some(TRACED), u64::MAX) && !traced(Some(NOT_TRACED), 0));
            assert!(traced(None, 0) && !traced(None, u64::MAX));
            assert!(traced(Some("nonsense"), 0) && !traced(Some("nonsense"), u64::MAX));
        });
    }

    #[test]
    fn a_span_is_a_child_of_the_clients_and_the_engine_becomes_its_child() {
        let (tracing, exporter, subscriber) = tracing(1.0);
        let sent = tracing::subscriber::with_default(subscriber, || {
            let span = tracing.start(Some(TRACED), None, 0);
            let sent = span.traceparent().unwrap();
            let record = Record {
                form: Some(kthena_scheduler::request::ApiForm::ChatCompletions),
                model: Some("m".into()),
                ..Record::default()
            };
            span.finish(&record);
            sent
        });
        let spans = exporter.get_finished_spans().unwrap();
        let span = &spans[0];
        assert_eq!(span.name, "chat m");
        assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(
            sent,
            format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", span.span_context.span_id())
        );
        assert!(span.attributes.contains(&KeyValue::new("gen_ai.request.model", "m")));
    }

    #[test]
    fn nothing_is_made_when_nothing_is_exported() {
        let span = Tracing::off().start(Some(TRACED), None, 0);
        assert!(span.span.is_none() && span.traceparent().is_none());
        span.finish(&Record::default());
    }
}

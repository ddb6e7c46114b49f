//! The client: so many connections, each with one request at a time, for so long or so many requests.
//!
//! A request that is not answered as expected counts as an error and its connection is opened anew; nothing is sent twice. Latency is from
//! handing the request to the connection until the last byte of the answer, so for a stream it is the length of the stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::traffic::Traffic;

/// Time for one answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// Time before a connection is opened again that could not be used.
const PAUSE: Duration = Duration::from_millis(20);

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// No request begins after this time.
    Time(Duration),
    /// After so many requests.
    Requests(u64),
}

/// What to send where.
#[derive(Clone, Debug)]
pub struct Load {
    /// Who is asked.
    pub to: SocketAddr,
    /// What for.
    pub traffic: Arc<Traffic>,
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// When it ends.
    pub length: Length,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Latencies of the good answers in microseconds, in ascending order.
    pub latencies_us: Vec<u32>,
    /// Requests that were not answered as expected.
    pub errors: u64,
    /// What was wrong with one of them.
    pub error: Option<String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Outcome {
    /// Good answers.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.latencies_us.len() as u64
    }

    /// Good answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.good() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that this share (0 to 1) of the good answers did not exceed; 0 when there were none.
    #[must_use]
    pub fn percentile_us(&self, share: f64) -> u32 {
        let last = self.latencies_us.len().saturating_sub(1);
        let at = (share * last as f64).round() as usize;
        self.latencies_us.get(at).copied().unwrap_or(0)
    }

    /// Fails when there were errors.
    ///
    /// # Errors
    /// The number of errors, and one of them.
    pub fn all_good(self) -> Result<Self> {
        match &self.error {
            Some(error) => bail!(
                "{} of {} requests failed: {error}",
                self.errors,
                self.errors + self.good()
            ),
            None => Ok(self),
        }
    }

    fn failed(&mut self, error: String) {
        self.errors += 1;
        self.error.get_or_insert(error);
    }

    fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.errors += other.errors;
        self.error = self.error.take().or(other.error);
    }
}

/// Whether one more request may begin.
#[derive(Debug)]
enum Budget {
    Until(Instant),
    Left(AtomicU64),
}

impl Budget {
    fn one_more(&self) -> bool {
        match self {
            Self::Until(end) => Instant::now() < *end,
            Self::Left(left) => left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok(),
        }
    }
}

/// Sends the load and waits until every request has been answered.
///
/// # Errors
/// When a task of ours fails; wrong answers are counted in the outcome.
pub async fn send(load: Load) -> Result<Outcome> {
    let begun = Instant::now();
    let budget = Arc::new(match load.length {
        Length::Time(time) => Budget::Until(begun + time),
        Length::Requests(requests) => Budget::Left(AtomicU64::new(requests)),
    });
    let mut connections = JoinSet::new();
    for _ in 0..load.connections {
        connections.spawn(connection(load.to, Arc::clone(&load.traffic), Arc::clone(&budget)));
    }
    let mut all = Outcome::default();
    while let Some(one) = connections.join_next().await {
        all.add(one.context("a connection's task failed")?);
    }
    all.elapsed = begun.elapsed();
    all.latencies_us.sort_unstable();
    Ok(all)
}

async fn connection(to: SocketAddr, traffic: Arc<Traffic>, budget: Arc<Budget>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut open = None;
    while budget.one_more() {
        let body = traffic.next();
        let asked = tokio::time::timeout(ANSWERED_WITHIN, ask(to, &mut open, &traffic, body)).await;
        match asked.unwrap_or_else(|_| bail!("no answer within {ANSWERED_WITHIN:?}")) {
            Ok(latency) => outcome
                .latencies_us
                .push(latency.as_micros().try_into().unwrap_or(u32::MAX)),
            Err(error) => {
                outcome.failed(format!("{error:#}"));
                open = None;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    outcome
}

type Sender = SendRequest<Full<Bytes>>;

/// One request on the open connection, or on a new one.
async fn ask(to: SocketAddr, open: &mut Option<Sender>, traffic: &Traffic, body: Bytes) -> Result<Duration> {
    // After some answers, such as 413, Envoy closes the connection: nothing has been sent on it that could be lost.
    let usable = match open {
        Some(sender) => sender.ready().await.is_ok(),
        None => false,
    };
    if !usable {
        *open = Some(connect(to).await.with_context(|| format!("cannot connect to {to}"))?);
    }
    let Some(sender) = open else { bail!("no connection") };
    let request = Request::post(crate::openai::CHAT)
        .header(header::HOST, "bench")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let begun = Instant::now();
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    let latency = begun.elapsed();
    traffic.check(head.status.as_u16(), &body).map_err(anyhow::Error::msg)?;
    Ok(latency)
}

async fn connect(to: SocketAddr) -> Result<Sender> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Whoever waits for an answer on it is told.
        let _ = connection.await;
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::traffic::{Expected, MODEL, Shape};
    use crate::scripted::{Behaviour, Scripted};

    async fn twenty(behaviour: Behaviour) -> Outcome {
        let server = Scripted::start(behaviour).await.unwrap();
        let shape = Shape {
            bytes: 400,
            tokens: 2,
            stream: false,
        };
        send(Load {
            to: server.address(),
            traffic: Arc::new(Traffic::new(shape, MODEL, Expected::Answer)),
            connections: 4,
            length: Length::Requests(20),
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn every_request_of_the_budget_is_sent_once_and_measured() {
        let good = r#"{"model":"bench-model","usage":{"completion_tokens":2}}"#;
        let outcome = twenty(Behaviour::Answer(200, good.to_owned())).await;
        assert_eq!((outcome.good(), outcome.errors), (20, 0), "{:?}", outcome.error);
        assert!(outcome.percentile_us(0.5) > 0 && outcome.percentile_us(0.5) <= outcome.percentile_us(0.99));
        assert!(outcome.rate() > 0.0 && outcome.all_good().is_ok());
    }

    #[tokio::test]
    async fn wrong_answers_and_broken_connections_are_errors() {
        for behaviour in [Behaviour::Answer(503, String::new()), Behaviour::Reset] {
            let outcome = twenty(behaviour).await;
            assert_eq!((outcome.good(), outcome.errors), (0, 20));
            assert_eq!(outcome.percentile_us(0.5), 0);
            assert!(outcome.all_good().unwrap_err().to_string().contains("20 of 20"));
        }
    }
}

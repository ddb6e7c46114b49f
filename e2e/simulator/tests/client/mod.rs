//! A fleet in the test's own process, and a client of it. Each fleet has addresses of its own, so tests do not meet.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use kthena_simulator::{Fleet, FleetConfig, FleetGroup, JournalConfig};
use serde_json::Value;

static FLEETS: AtomicU32 = AtomicU32::new(0);

/// Longest that anything is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A running fleet.
pub(crate) struct Running {
    /// Its addresses are this and a number from 1 on.
    pub(crate) network: String,
    pub(crate) port: u16,
    pub(crate) fleet: Fleet,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer that is all there.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Starts endpoints of the given `--fleet` options without `addresses`, one group after the other with `count` each.
pub(crate) async fn start(groups: &[(&str, u8)]) -> Running {
    let number = FLEETS.fetch_add(1, Ordering::Relaxed);
    let network = format!("127.{}.{}.", 30 + std::process::id() % 200, number);
    let mut next = 1;
    let groups: Vec<FleetGroup> = groups
        .iter()
        .map(|(options, count)| {
            let first = next;
            next += count;
            let group = format!("addresses={network}{first}-{network}{},{options}", next - 1);
            group.parse().unwrap()
        })
        .collect();
    let port = TcpListener::bind(format!("{network}1:0"))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let fleet = Fleet::start(FleetConfig {
        port,
        groups,
        time_scale: 1.0,
        control: ([127, 0, 0, 1], 0).into(),
        journal: JournalConfig {
            requests: 100,
            body_bytes: 32 << 20,
        },
        max_body_bytes: 20 << 20,
        max_connections: 1000,
    })
    .await
    .unwrap();
    Running {
        network,
        port,
        fleet,
        client: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
    }
}

impl Running {
    pub(crate) fn authority(&self, endpoint: u8) -> String {
        format!("{}{endpoint}:{}", self.network, self.port)
    }

    pub(crate) fn address(&self, endpoint: u8) -> String {
        format!("{}{endpoint}", self.network)
    }

    /// Sends a request and returns as soon as the head of the answer is there.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: String,
        body: impl Into<Bytes>,
    ) -> Result<http::Response<Incoming>, Error> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/json");
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(DEADLINE, self.client.request(request))
            .await
            .expect("an answer in time")
    }

    async fn whole(&self, method: Method, url: String, body: impl Into<Bytes>) -> Answer {
        let (head, body) = self.send(method, url, body).await.unwrap().into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect())
            .await
            .expect("a body in time")
            .unwrap()
            .to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    pub(crate) fn url(&self, endpoint: u8, path: &str) -> String {
        format!("http://{}{path}", self.authority(endpoint))
    }

    pub(crate) async fn post(&self, endpoint: u8, path: &str, body: impl Into<Bytes>) -> Answer {
        self.whole(Method::POST, self.url(endpoint, path), body).await
    }

    pub(crate) async fn get(&self, endpoint: u8, path: &str) -> Answer {
        self.whole(Method::GET, self.url(endpoint, path), "").await
    }

    /// Asks the control API.
    pub(crate) async fn control(&self, method: Method, path: &str, body: &str) -> Answer {
        self.whole(method, format!("http://{}{path}", self.fleet.control), body.to_owned())
            .await
    }

    /// Switches a fault on at one endpoint.
    pub(crate) async fn inflict(&self, endpoint: u8, fault: &str) {
        let order = format!(r#"{{"addresses":"{}","fault":{fault}}}"#, self.address(endpoint));
        let answer = self.control(Method::PUT, "/faults", &order).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Switches all faults off at one endpoint.
    pub(crate) async fn heal(&self, endpoint: u8) {
        let path = format!("/faults?addresses={}", self.address(endpoint));
        assert_eq!(self.control(Method::DELETE, &path, "").await.status, 200);
    }

    /// One endpoint as the control API describes it.
    pub(crate) async fn describe(&self, endpoint: u8) -> Value {
        let all = self.control(Method::GET, "/endpoints", "").await.json();
        all.as_array()
            .unwrap()
            .iter()
            .find(|one| one["address"] == self.authority(endpoint))
            .unwrap()
            .clone()
    }

    /// Waits until the description of an endpoint is as wanted.
    pub(crate) async fn until(&self, endpoint: u8, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let description = self.describe(endpoint).await;
            if wanted(&description) {
                return description;
            }
            assert!(started.elapsed() < DEADLINE, "in vain: {description}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The value of one series; its name and labels must contain all of `parts`.
    pub(crate) async fn metric(&self, endpoint: u8, parts: &[&str]) -> f64 {
        let answer = self.get(endpoint, "/metrics").await;
        let found = |line: &&str| !line.starts_with('#') && parts.iter().all(|part| line.contains(part));
        let line = answer
            .text()
            .lines()
            .find(found)
            .unwrap_or_else(|| panic!("no series {parts:?}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// A chat request of one message.
pub(crate) fn chat(content: &str, more: &str) -> String {
    format!(
        r#"{{"messages":[{{"role":"user","content":{}}}]{more}}}"#,
        Value::from(content)
    )
}

/// The data of every event of a stream.
pub(crate) fn events(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(str::to_owned)
        .collect()
}

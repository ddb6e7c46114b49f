//! Model servers that misbehave on demand.
#![allow(dead_code)] // each story uses some of it

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// What an engine answers.
#[derive(Clone, Default)]
pub(crate) struct Answers {
    /// `None` = 404.
    pub(crate) metrics: Option<String>,
    pub(crate) models: &'static str,
    pub(crate) unhealthy: bool,
    /// Takes requests and never answers.
    pub(crate) hangs: bool,
}

pub(crate) struct Engine {
    pub(crate) address: SocketAddr,
    pub(crate) answers: Arc<Mutex<Answers>>,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    pub(crate) server: AbortHandle,
}

pub(crate) const MODELS: &str = r#"{"object":"list","data":[{"id":"llama"},{"id":"adapter"}]}"#;

pub(crate) fn metrics(waiting: u32, started: u32) -> String {
    format!(
        "# TYPE x gauge\nvllm:num_requests_waiting{{engine=\"0\"}} {waiting}.0\nprocess_start_time_seconds {started}\n\
         vllm:cache_config_info{{block_size=\"16\",num_gpu_blocks=\"100\"}} 1.0\n"
    )
}

impl Engine {
    pub(crate) async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), None).await
    }

    pub(crate) async fn start_on(address: SocketAddr, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let answers = Arc::new(Mutex::new(Answers {
            metrics: Some(metrics(1, 5)),
            models: MODELS,
            ..Answers::default()
        }));
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let address = listener.local_addr().unwrap();
        let shared = (Arc::clone(&answers), Arc::clone(&connections), Arc::clone(&requests));
        let server = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, connections, requests) = shared.clone();
                let tls = tls.clone();
                connections.fetch_add(1, SeqCst);
                open.spawn(async move {
                    match tls {
                        None => serve(stream, answers, requests).await,
                        Some(tls) => serve(tls.accept(stream).await.unwrap(), answers, requests).await,
                    }
                });
            }
        });
        Self {
            address,
            answers,
            connections,
            requests,
            server: server.abort_handle(),
        }
    }

    pub(crate) fn asked(&self, path: &str) -> usize {
        self.requests.lock().iter().filter(|asked| *asked == path).count()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: Arc<Mutex<Answers>>,
    requests: Arc<Mutex<Vec<String>>>,
) {
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => read.extend_from_slice(&chunk[..count]),
        }
        if !read.ends_with(b"\r\n\r\n") {
            continue;
        }
        let request = String::from_utf8(std::mem::take(&mut read)).unwrap();
        assert!(request.to_ascii_lowercase().contains("\r\nhost: "), "{request}");
        let path = request.split(' ').nth(1).unwrap().to_string();
        requests.lock().push(path.clone());
        let answers = answers.lock().clone();
        if answers.hangs {
            std::future::pending::<()>().await;
        }
        let (status, body) = match path.as_str() {
            "/metrics" => answers.metrics.map_or((404, String::new()), |text| (200, text)),
            "/v1/models" => (200, answers.models.to_string()),
            "/health" if answers.unhealthy => (503, "engine dead".into()),
            _ => (200, String::new()),
        };
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

//! Fetches the config dump from Envoy's admin interface: one request, with a deadline and a bound.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Time for the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest dump read: one of many thousand endpoints.
const MAX_BYTES: usize = 256 << 20;

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL cannot be used.
    #[error("`{0}` is not the URL of an admin interface: give http://host:port")]
    Url(String),
    /// Envoy did not answer.
    #[error("{url} cannot be read: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// The answer is not a config dump.
    #[error("{url} is not a config dump: {reason}")]
    NotADump {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
}

/// The config dump of the Envoy whose admin interface is at `admin` (`http://host:port`).
///
/// # Errors
/// When the URL is not one, nobody answers in time, or the answer is something else.
pub async fn fetch(admin: &str) -> Result<Value, FetchError> {
    let url = format!("{}/config_dump?include_eds", admin.trim_end_matches('/'));
    let uri: http::Uri = url.parse().map_err(|_| FetchError::Url(admin.to_owned()))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err(FetchError::Url(admin.to_owned()));
    }
    let unreachable = |reason: String| FetchError::Unreachable {
        url: url.clone(),
        reason,
    };
    let body = tokio::time::timeout(PATIENCE, read(uri))
        .await
        .map_err(|_| unreachable(format!("no answer in {} s", PATIENCE.as_secs())))?
        .map_err(|error| unreachable(error.to_string()))?;
    serde_json::from_slice(&body).map_err(|error| FetchError::NotADump {
        url,
        reason: error.to_string(),
    })
}

async fn read(uri: http::Uri) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.get(uri).await?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("status {}", answer.status()).into());
    }
    Ok(Limited::new(answer.into_body(), MAX_BYTES).collect().await?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_asked_is_told() {
        for url in ["localhost", "https://a", "/x"] {
            assert!(matches!(fetch(url).await, Err(FetchError::Url(_))), "{url}");
        }
        // Port 1 of loopback: nobody listens there.
        let nobody = fetch("http://127.0.0.1:1").await.unwrap_err().to_string();
        assert!(nobody.contains("127.0.0.1:1/config_dump"), "{nobody}");
    }
}

//! The way to the API server: a kubeconfig as kubectl reads it, or the service account of the pod that this runs in.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection may be silent before it is taken for dead. An idle watch is sent a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(90);

/// Which API server, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// A kubeconfig file. Without one: those in `KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; without one its current context.
    pub context: Option<String>,
}

/// An API server, not spoken to yet.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Speaks to it.
    pub client: ClientOf,
    /// The namespace of the context, or of the pod that this runs in.
    pub namespace: String,
    /// Where it is, for people.
    pub server: String,
}

/// A client that can be shown in debug output without its credentials.
#[derive(Clone)]
pub struct ClientOf(pub Client);

impl std::fmt::Debug for ClientOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// No API server can be spoken to with these settings.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {which} cannot be used: {source}")]
    Kubeconfig {
        /// Which.
        which: String,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "there is no kubeconfig (--kubeconfig, KUBECONFIG, ~/.kube/config) and this is no pod with a service account: {0}; \
         give --kubeconfig, or --folder to run without an API server"
    )]
    Nowhere(#[source] InClusterError),
    /// The client cannot be made.
    #[error("no client for the API server {server}: {source}")]
    Client {
        /// Where it is.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

// === impl Target ===

impl Target {
    /// Reads the settings and makes a client. The API server is not spoken to.
    ///
    /// # Errors
    /// No API server is named, or what names it cannot be used.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|source| ConnectError::Client {
            server: server.clone(),
            source: Box::new(source),
        })?;
        Ok(Connection {
            client: ClientOf(client),
            namespace,
            server,
        })
    }

    async fn config(&self) -> Result<Config, ConnectError> {
        let (which, read) = match &self.kubeconfig {
            Some(file) => (file.display().to_string(), Kubeconfig::read_from(file)),
            None => {
                let variable = std::env::var("KUBECONFIG").unwrap_or_default();
                let which = match variable.as_str() {
                    "" => "~/.kube/config".to_owned(),
                    some => some.to_owned(),
                };
                match Kubeconfig::read() {
                    // Nobody named a file, and there is none: this may be a pod.
                    Err(_) if variable.is_empty() && self.context.is_none() => {
                        return Config::incluster().map_err(ConnectError::Nowhere);
                    }
                    read => (which, read),
                }
            }
        };
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let result = match read {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
            Err(error) => Err(error),
        };
        result.map_err(|source| ConnectError::Kubeconfig {
            which,
            source: Box::new(source),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: secret-token}}]
contexts:
- {name: here, context: {cluster: c, user: u, namespace: mine}}
";

    #[tokio::test]
    async fn a_kubeconfig_names_server_and_namespace_and_its_token_is_not_shown() {
        let file = std::env::temp_dir().join(format!("kthena-kubeconfig-{}", std::process::id()));
        std::fs::write(&file, CONFIG).unwrap();
        let mut target = Target {
            kubeconfig: Some(file.clone()),
            context: None,
        };
        let connection = target.connect().await.unwrap();
        assert_eq!(connection.namespace, "mine");
        assert!(connection.server.starts_with("https://127.0.0.1:1"));
        assert!(!format!("{connection:?}").contains("secret-token"));
        target.context = Some("elsewhere".into());
        let error = target.connect().await.unwrap_err().to_string();
        assert!(error.contains("elsewhere"), "{error}");
        std::fs::remove_file(file).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let target = Target {
            kubeconfig: Some("/does/not/exist".into()),
            context: None,
        };
        let error = target.connect().await.unwrap_err().to_string();
        assert!(error.contains("/does/not/exist"), "{error}");
    }
}

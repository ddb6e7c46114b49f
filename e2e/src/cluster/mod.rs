//! A real Kubernetes API server with its etcd, as child processes on ports and in a folder of its own.
//!
//! No kubelet runs: a story plays it ([`kubelet`]), with the loopback addresses of the simulated fleet in the pods' status. RBAC is on: the
//! controller comes as the chart's own ServiceAccount ([`rights`]). The API server can be killed and started again at the same address, also
//! with a compacted etcd, so that watches are too old. What must always hold: nothing outlives the [`Cluster`]; every wait has a deadline;
//! what fails shows the end of its log.

pub mod kubelet;
pub mod parts;
pub mod proxy;
pub mod rights;
mod server;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::process::wait_until;
use parts::Part;
use proxy::Proxy;
use server::{ADMINISTRATOR, PATIENCE, Servers};

/// What of a cluster can be chosen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Controllers of Kubernetes that run, such as `namespace-controller`; none = no controller manager.
    pub controllers: Vec<String>,
    /// Leaves the routing kinds undefined.
    pub bare: bool,
    /// Gives the controller no ServiceAccount and no rights.
    pub without_rights: bool,
    /// The controller goes by a [`Proxy`], which can be cut.
    pub proxied: bool,
}

/// A running API server. Dropping it ends all of it.
#[derive(Debug)]
pub struct Cluster {
    servers: Servers,
    client: Administrator,
    proxy: Option<Proxy>,
    folder: PathBuf,
}

struct Administrator(Client);

impl std::fmt::Debug for Administrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Cluster {
    /// Starts etcd and the API server with their files in `folder`, defines the routing kinds, and gives the controller its rights.
    ///
    /// # Errors
    /// When a program is missing, ends or is not ready in time; the error says which and shows the end of its log.
    pub async fn start(options: &Options, folder: &Path) -> Result<Self> {
        let folder = folder.join("cluster");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut servers = Servers::prepare(&folder, &options.controllers)?;
        servers.start_etcd().await?;
        servers.start_api_server()?;
        let cluster = Self {
            client: Administrator(client(&servers.kubeconfig(ADMINISTRATOR)).await?),
            proxy: match options.proxied {
                true => Some(Proxy::start(servers.address()).await?),
                false => None,
            },
            servers,
            folder,
        };
        cluster.wait_ready().await?;
        let mut cluster = cluster;
        cluster.servers.start_controller_manager()?;
        if !options.without_rights {
            cluster.apply(&rights::of_the_controller()?).await?;
            let account = ["create", "token", rights::ACCOUNT, "-n", rights::NAMESPACE];
            let token = cluster.kubectl(&account, "").await?;
            cluster.servers.set_account_token(token.trim());
        }
        if !options.bare {
            cluster.define_kinds().await?;
        }
        Ok(cluster)
    }

    /// Defines the routing kinds and InferencePool, and waits until they are served.
    ///
    /// # Errors
    /// When the API server refuses them.
    pub async fn define_kinds(&self) -> Result<()> {
        let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/kthena/crds");
        self.kubectl(&["apply", "-f", ours], "").await?;
        let pools = Part::InferencePoolDefinition.path()?;
        let pools = pools.to_str().context("the cache's path is no text")?;
        self.kubectl(&["apply", "-f", pools], "").await?;
        self.kubectl(
            &["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"],
            "",
        )
        .await?;
        Ok(())
    }

    /// A client with all rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.0.clone()
    }

    /// The kubeconfig of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.servers.kubeconfig(ADMINISTRATOR)
    }

    /// The kubeconfig of the system's controller, which goes by the proxy where there is one.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn kubeconfig_of_the_controller(&self) -> Result<PathBuf> {
        match &self.proxy {
            Some(proxy) => self.servers.account_kubeconfig(proxy.address()),
            None => self.kubeconfig_of_another_controller(),
        }
    }

    /// A kubeconfig of the controller that goes straight.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn kubeconfig_of_another_controller(&self) -> Result<PathBuf> {
        self.servers.account_kubeconfig(self.servers.address())
    }

    /// What the controller goes by.
    ///
    /// # Errors
    /// When it goes straight.
    pub fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("the controller goes by no proxy")
    }

    /// Runs kubectl as the administrator and returns what it prints.
    ///
    /// # Errors
    /// When it fails; the error is what it says.
    pub async fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(Part::Kubectl.path()?)
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.folder.join("kubectl"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(input.as_bytes())
                .await
                .context("kubectl does not read")?;
        }
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .with_context(|| format!("kubectl {args:?} does not end"))??;
        if !output.status.success() {
            bail!("kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies objects as users do.
    ///
    /// # Errors
    /// When one is refused; the error is what kubectl says.
    pub async fn apply(&self, objects: &[Value]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl(&["apply", "-f", "-"], &list.to_string()).await.map(drop)
    }

    /// An object as the API server has it, by kubectl's names: `get("modelroute/llama", "default")`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, what: &str, namespace: &str) -> Result<Value> {
        let text = self.kubectl(&["get", what, "-n", namespace, "-o", "json"], "").await?;
        serde_json::from_str(&text).context("kubectl prints no JSON")
    }

    /// Deletes an object and waits until it is gone.
    ///
    /// # Errors
    /// When there is none.
    pub async fn delete(&self, what: &str, namespace: &str) -> Result<()> {
        self.kubectl(&["delete", what, "-n", namespace], "").await.map(drop)
    }

    /// Kills the API server at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_api_server(&mut self) -> Result<()> {
        self.servers.kill_api_server()
    }

    /// Starts the API server again at the same address and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.servers.start_api_server()?;
        self.wait_ready().await
    }

    /// Makes etcd forget the past: a watch that begins there is too old.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn compact(&self) -> Result<()> {
        self.servers.compact().await
    }

    /// What the audit log holds of the controller, oldest first.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn audit(&self) -> Result<Vec<Value>> {
        self.audit_of(rights::USER)
    }

    /// What the audit log holds of a user, oldest first.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn audit_of(&self, user: &str) -> Result<Vec<Value>> {
        self.servers.audit(user)
    }

    async fn wait_ready(&self) -> Result<()> {
        let ready = http::Request::get("/readyz").body(Vec::new())?;
        let waited = wait_until("the API server to be ready", PATIENCE, async || {
            let answer = self.client.0.request_text(ready.clone()).await;
            answer.is_ok_and(|text| text == "ok") && self.default_namespace_is_there().await
        });
        waited.await.with_context(|| self.servers.last_lines())
    }

    // Made by the API server itself, a moment after it is ready for the first time.
    async fn default_namespace_is_there(&self) -> bool {
        let request = http::Request::get("/api/v1/namespaces/default").body(Vec::new());
        match request {
            Ok(request) => self.client.0.request_text(request).await.is_ok(),
            Err(_) => false,
        }
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let read = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(2));
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

//! The processes of the control plane, and the files that they are started with.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::parts::Part;
use super::rights;
use crate::authority::Authority;
use crate::client::{Ask, Client};
use crate::ports::Reserved;
use crate::process::{Launch, Process, wait_until};

/// What takes the servers seconds at most, on a machine that does much else.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The user that may do everything.
pub(super) const ADMINISTRATOR: &str = "administrator";

/// Everything is written down, without bodies: which calls were made, by whom.
const AUDIT: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// What is started, and with what.
#[derive(Debug)]
pub(super) struct Servers {
    // Fields are dropped in this order: who asks goes before who answers.
    controller_manager: Option<Process>,
    api_server: Option<Process>,
    etcd: Option<Process>,
    controllers: Vec<String>,
    /// The token of the controller's ServiceAccount.
    account_token: String,
    folder: PathBuf,
    port: Reserved,
    etcd_ports: [Reserved; 2],
}

impl Servers {
    /// Chooses ports and writes all files.
    pub(super) fn prepare(folder: &Path, controllers: &[String]) -> Result<Self> {
        let reserved = || Reserved::loopback().context("no free port on 127.0.0.1");
        let servers = Self {
            controller_manager: None,
            api_server: None,
            etcd: None,
            controllers: controllers.to_owned(),
            account_token: String::new(),
            folder: folder.to_owned(),
            port: reserved()?,
            etcd_ports: [reserved()?, reserved()?],
        };
        let authority = Authority::new()?;
        let (certificate, key) = authority.sign("127.0.0.1")?;
        servers.write("ca.crt", authority.pem())?;
        servers.write("tls.crt", &certificate)?;
        servers.write("tls.key", &key)?;
        let accounts = KeyPair::generate()?;
        servers.write("sa.key", &accounts.serialize_pem())?;
        servers.write("sa.pub", &accounts.public_key_pem())?;
        servers.write("audit.yaml", AUDIT)?;
        let token = format!("{ADMINISTRATOR}-token");
        let line = format!("{token},{ADMINISTRATOR},{ADMINISTRATOR},\"system:masters\"\n");
        servers.write("tokens.csv", &line)?;
        servers.write_kubeconfig(ADMINISTRATOR, &token, servers.address())?;
        Ok(servers)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}-{}.kubeconfig", self.port.port()))
    }

    /// What the controller's ServiceAccount proves itself with.
    pub(super) fn set_account_token(&mut self, token: &str) {
        self.account_token = token.to_owned();
    }

    /// The kubeconfig of the controller's ServiceAccount, which goes by this address.
    pub(super) fn account_kubeconfig(&self, address: SocketAddr) -> Result<PathBuf> {
        self.write_kubeconfig(rights::ACCOUNT, &self.account_token, address)
    }

    fn write_kubeconfig(&self, user: &str, token: &str, address: SocketAddr) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "story",
            "clusters": [{"name": "story", "cluster": {
                "server": format!("https://{address}"), "certificate-authority": self.folder.join("ca.crt"),
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "story", "context": {"cluster": "story", "user": user, "namespace": rights::NAMESPACE}}],
        });
        let name = format!("{user}-{}.kubeconfig", address.port());
        self.write(&name, &config.to_string())?;
        Ok(self.folder.join(name))
    }

    pub(super) async fn start_etcd(&mut self) -> Result<()> {
        let [client, peer] =
            [&self.etcd_ports[0], &self.etcd_ports[1]].map(|port| format!("http://{}", port.address()));
        let args = [
            format!("--data-dir={}", self.folder.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let etcd = self.launch(Part::Etcd, "etcd", args.into())?;
        let health = Client::http1(self.etcd_ports[0].address());
        let waited = wait_until("etcd to be ready", PATIENCE, async || {
            let answer = health.send(Ask::get("/health")).await;
            answer.is_ok_and(|answer| answer.status.is_success())
        });
        waited.await.with_context(|| etcd.last_lines(20))?;
        self.etcd = Some(etcd);
        Ok(())
    }

    pub(super) fn start_api_server(&mut self) -> Result<()> {
        self.kill_api_server()?;
        let file = |name: &str| self.folder.join(name).display().to_string();
        let args = vec![
            format!("--etcd-servers=http://{}", self.etcd_ports[0].address()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", self.port.port()),
            format!("--tls-cert-file={}", file("tls.crt")),
            format!("--tls-private-key-file={}", file("tls.key")),
            format!("--cert-dir={}", file("certificates")),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
            // A story has one API server: it need not wait for others to hear that it goes.
            "--shutdown-delay-duration=0s".to_owned(),
        ];
        self.api_server = Some(self.launch(Part::ApiServer, "kube-apiserver", args)?);
        Ok(())
    }

    pub(super) fn kill_api_server(&mut self) -> Result<()> {
        match self.api_server.take() {
            Some(mut process) => process.kill().context("cannot kill the API server"),
            None => Ok(()),
        }
    }

    /// Starts the controllers that were asked for, if any.
    pub(super) fn start_controller_manager(&mut self) -> Result<()> {
        if self.controllers.is_empty() {
            return Ok(());
        }
        let args = vec![
            format!("--kubeconfig={}", self.kubeconfig(ADMINISTRATOR).display()),
            format!(
                "--service-account-private-key-file={}",
                self.folder.join("sa.key").display()
            ),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            format!("--controllers={}", self.controllers.join(",")),
        ];
        self.controller_manager = Some(self.launch(Part::ControllerManager, "kube-controller-manager", args)?);
        Ok(())
    }

    /// Compacts etcd up to now.
    pub(super) async fn compact(&self) -> Result<()> {
        let etcd = Client::http1(self.etcd_ports[0].address());
        // Any key will do: the answer's header holds the revision.
        let answer = etcd.send(Ask::post("/v3/kv/range", r#"{"key":"Lw=="}"#)).await?;
        let answer = answer.json()?;
        let revision = answer["header"]["revision"].clone();
        let body = json!({"revision": revision, "physical": true});
        let answer = etcd.send(Ask::post("/v3/kv/compaction", body.to_string())).await?;
        anyhow::ensure!(answer.status.is_success(), "etcd does not compact: {}", answer.text());
        Ok(())
    }

    pub(super) fn audit(&self, user: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.join("audit.log")).context("there is no audit log")?;
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(entries.filter(|entry| entry["user"]["username"] == user).collect())
    }

    pub(super) fn last_lines(&self) -> String {
        self.api_server
            .as_ref()
            .map_or_else(String::new, |one| one.last_lines(20))
    }

    fn launch(&self, part: Part, name: &str, args: Vec<String>) -> Result<Process> {
        Process::start(Launch {
            name: name.to_owned(),
            program: part.path()?,
            args: args.into_iter().map(OsString::from).collect(),
            env: Vec::new(),
            log: self.folder.join(format!("{name}.log")),
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

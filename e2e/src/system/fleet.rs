//! The simulated model servers: which there are, what is wrong with them, and what they have received and counted.
//!
//! The simulator is a program of its own; here it is started and spoken to through its control API. Every [`Group`] has loopback addresses
//! of its own, all at one port that no other fleet on this machine has, so that systems side by side do not meet.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use http::Method;
pub use kthena_simulator::Fault;
use serde::Deserialize;
use serde_json::{Value, json};

use super::binaries::binary;
use super::manifests;
use super::program::{Program, Ready};
use crate::client::{Answer, Ask, Client};
use crate::exposition;
use crate::ports::Reserved;
use crate::process::Launch;

/// Model servers that serve the same, and the ModelServer and Pods that describe them.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Name of the ModelServer, of the Pods' label `app`, and the beginning of the Pods' names.
    pub name: String,
    /// The name under which the engines serve the model.
    pub model: String,
    /// Adapters that the engines have loaded.
    pub adapters: Vec<String>,
    /// How many there are, 1 to 250.
    pub endpoints: u8,
    /// Profile and changes to it, as the simulator's `--fleet` has them: `profile=l4-qwen2-7b,kv_tokens=32768`.
    pub figures: String,
    /// The `scheduling` block of the ModelServer, if it has one.
    pub scheduling: Option<Value>,
}

impl Group {
    /// Model servers that take no time, under the default scheduling profile.
    #[must_use]
    pub fn instant(name: &str, model: &str, endpoints: u8) -> Self {
        Self {
            name: name.to_owned(),
            model: model.to_owned(),
            adapters: Vec::new(),
            endpoints,
            figures: "profile=test-nodelay".to_owned(),
            scheduling: None,
        }
    }
}

/// An endpoint as the simulator describes it; counters are those of this incarnation.
#[derive(Clone, Debug, Deserialize)]
pub struct EndpointState {
    /// Where it listens.
    pub address: SocketAddr,
    /// How often it has been started.
    pub incarnation: u64,
    /// Requests in its batch.
    pub running: u64,
    /// Requests in its queue.
    pub waiting: u64,
    /// Requests that it has answered in full.
    pub finished: u64,
}

/// A request as it arrived at a model server.
#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// Counts all requests of the fleet from 1 on.
    pub number: u64,
    /// Which endpoint received it.
    pub endpoint: SocketAddr,
    /// Path and query.
    pub path: String,
    /// Names and values, in the order of arrival.
    pub headers: Vec<(String, String)>,
}

impl Received {
    /// A header's value; empty when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Prompt tokens as the engines count them in `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PromptTokens {
    /// All.
    pub total: f64,
    /// Those that came from the KV cache.
    pub cached: f64,
}

impl PromptTokens {
    /// Reads them from a page of vLLM's metrics, summed over label sets.
    #[must_use]
    pub fn parse(page: &str) -> Self {
        let sum = |name| exposition::sum(page, name).unwrap_or_default();
        Self {
            total: sum("vllm:prompt_tokens_total"),
            cached: sum("vllm:prompt_tokens_cached_total"),
        }
    }

    /// The share that came from the cache, 0 to 1; 0 when there were none.
    #[must_use]
    pub fn hit_share(&self) -> f64 {
        if self.total > 0.0 {
            self.cached / self.total
        } else {
            0.0
        }
    }
}

/// A running fleet, or one that was killed and can be started again. A fleet without groups is no program at all.
#[derive(Debug)]
pub struct Fleet {
    program: Option<Program>,
    groups: Vec<Group>,
    port: Reserved,
    control: Client,
    _control_port: Reserved,
}

impl Fleet {
    /// Starts the model servers of these groups; `time_scale` is a factor on all their times.
    ///
    /// # Errors
    /// When the simulator is not built or does not become ready.
    pub(super) async fn start(groups: Vec<Group>, time_scale: f64, logs: &Path) -> Result<Self> {
        let port = Reserved::loopback().context("no free port for the fleet")?;
        let control_port = Reserved::loopback().context("no free port for the fleet")?;
        let mut args = vec![
            format!("--port={}", port.port()),
            format!("--control={}", control_port.address()),
            format!("--time-scale={time_scale}"),
        ];
        for (at, group) in groups.iter().enumerate() {
            let (first, last) = bounds(at, group)?;
            let mut fleet = format!(
                "--fleet=addresses={first}-{last},model={},{}",
                group.model, group.figures
            );
            if !group.adapters.is_empty() {
                fleet.push_str(&format!(",lora={}", group.adapters.join("+")));
            }
            args.push(fleet);
        }
        let program = match groups.is_empty() {
            true => None,
            false => Some(serve(args, control_port.address(), logs).await?),
        };
        Ok(Self {
            program,
            groups,
            control: Client::http1(control_port.address()),
            port,
            _control_port: control_port,
        })
    }

    /// The port that all model servers listen on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// The groups.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The addresses of a group, in the order of its Pods; empty when there is no such group.
    #[must_use]
    pub fn addresses(&self, group: &str) -> Vec<Ipv4Addr> {
        let at = self.groups.iter().position(|candidate| candidate.name == group);
        at.map_or(Vec::new(), |at| {
            numbers(&self.groups[at]).map(|number| address(at, number)).collect()
        })
    }

    /// The ModelServer of a group and its Pods, `<group>-0` and on, as the folder gets them at the start.
    #[must_use]
    pub fn manifests(&self, group: &str) -> Vec<Value> {
        let server = self.model_server(group);
        let addresses = self.addresses(group);
        let pods = addresses.into_iter().enumerate();
        let pods = pods.map(|(number, ip)| manifests::pod(&format!("{group}-{number}"), group, ip));
        server.into_iter().chain(pods).collect()
    }

    /// The ModelServer of a group.
    #[must_use]
    pub fn model_server(&self, group: &str) -> Option<Value> {
        let described = self.groups.iter().find(|candidate| candidate.name == group)?;
        let mut server = manifests::model_server(group, &described.model, self.port());
        if let Some(scheduling) = &described.scheduling {
            server["spec"]["scheduling"] = scheduling.clone();
        }
        Some(server)
    }

    /// The program, to kill and restart the whole fleet.
    ///
    /// # Errors
    /// When the fleet has no groups.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.program.as_mut().context("there are no simulated model servers")
    }

    /// Switches a fault on, on these model servers; on all when none is named. It has taken effect when this returns.
    ///
    /// # Errors
    /// When an address is not in the fleet, or the fault cannot be.
    pub async fn inflict(&self, fault: &Fault, addresses: &[Ipv4Addr]) -> Result<()> {
        let mut order = json!({"fault": fault});
        if !addresses.is_empty() {
            order["addresses"] = json!(joined(addresses));
        }
        let mut ask = Ask::post("/faults", order.to_string());
        ask.method = Method::PUT;
        self.ask(ask).await.map(drop)
    }

    /// Switches all faults off on these model servers; on all when none is named. What was dead starts again with an empty cache.
    ///
    /// # Errors
    /// When an address is not in the fleet.
    pub async fn heal(&self, addresses: &[Ipv4Addr]) -> Result<()> {
        let query = if addresses.is_empty() {
            String::new()
        } else {
            // A plus sign in a query means a space.
            format!("?addresses={}", joined(addresses).replace('+', "%2B"))
        };
        let mut ask = Ask::get(&format!("/faults{query}"));
        ask.method = Method::DELETE;
        self.ask(ask).await.map(drop)
    }

    /// All endpoints as they are now.
    ///
    /// # Errors
    /// When the fleet does not answer.
    pub async fn endpoints(&self) -> Result<Vec<EndpointState>> {
        let page = self.ask(Ask::get("/endpoints")).await?;
        serde_json::from_slice(&page.body).context("the simulator's list of endpoints has another form")
    }

    /// The requests that arrived after the one with this number (0 for all that are kept), oldest first.
    ///
    /// # Errors
    /// When the fleet does not answer.
    pub async fn received(&self, after: u64) -> Result<Vec<Received>> {
        #[derive(Deserialize)]
        struct Page {
            requests: Vec<Received>,
        }
        let page = self
            .ask(Ask::get(&format!("/requests?after={after}&limit=100000")))
            .await?;
        let page: Page =
            serde_json::from_slice(&page.body).context("the simulator's list of requests has another form")?;
        Ok(page.requests)
    }

    /// The body of a request, byte by byte.
    ///
    /// # Errors
    /// When it is not kept any more.
    pub async fn body(&self, number: u64) -> Result<bytes::Bytes> {
        Ok(self.ask(Ask::get(&format!("/requests/{number}/body"))).await?.body)
    }

    /// The prompt tokens that the engines of a group have counted, from their metrics.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub async fn prompt_tokens(&self, group: &str) -> Result<PromptTokens> {
        let mut sum = PromptTokens::default();
        for address in self.addresses(group) {
            let server = Client::http1((address, self.port()).into());
            let page = server.send(Ask::get("/metrics")).await?;
            let tokens = PromptTokens::parse(&page.text());
            sum.total += tokens.total;
            sum.cached += tokens.cached;
        }
        Ok(sum)
    }

    async fn ask(&self, ask: Ask) -> Result<Answer> {
        let what = format!("{} {}", ask.method, ask.path);
        let answer = self.control.send(ask).await?;
        if !answer.status.is_success() {
            bail!("the simulator refuses {what}: {}", answer.text());
        }
        Ok(answer)
    }
}

async fn serve(args: Vec<String>, control: SocketAddr, logs: &Path) -> Result<Program> {
    let launch = Launch {
        name: "kthena-simulator".to_owned(),
        program: binary("kthena-simulator")?,
        args: args.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        log: logs.join("simulator.log"),
    };
    let ready = Ready {
        at: control,
        path: "/endpoints",
    };
    Program::start(launch, ready).await
}

fn numbers(group: &Group) -> RangeInclusive<u8> {
    1..=group.endpoints
}

/// Group 0 has 127.0.1.1 and on, group 1 127.0.2.1 and on.
fn address(group: usize, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, (group + 1) as u8, number)
}

fn bounds(at: usize, group: &Group) -> Result<(Ipv4Addr, Ipv4Addr)> {
    if at >= 250 || !(1..=250).contains(&group.endpoints) {
        bail!(
            "{}: there are addresses for 250 groups of 1 to 250 endpoints",
            group.name
        );
    }
    Ok((address(at, 1), address(at, group.endpoints)))
}

fn joined(addresses: &[Ipv4Addr]) -> String {
    addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hit_share_is_what_was_cached_of_all_prompt_tokens() {
        let page =
            "vllm:prompt_tokens_total{engine=\"0\"} 1024.0\nvllm:prompt_tokens_cached_total{engine=\"0\"} 2.56e2\n";
        let tokens = PromptTokens::parse(page);
        assert_eq!(
            tokens,
            PromptTokens {
                total: 1024.0,
                cached: 256.0
            }
        );
        assert_eq!(tokens.hit_share(), 0.25);
        assert_eq!(PromptTokens::default().hit_share(), 0.0);
    }
}

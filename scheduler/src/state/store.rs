//! The filter's copy of the state: named resources, each at its last good version, and the snapshot made of them.
//!
//! What must always hold: one bad resource is refused by name with a reason, keeps its last good version (or is absent
//! if it never had one) and takes nothing else down; a snapshot is only made once the first complete state has come; an
//! endpoint keeps its load cell over all of this. Everything held is bounded. Time is an argument: the shell that owns
//! the stream calls in.

use std::sync::Arc;

use prost::bytes::Bytes;

use super::endpoints::Registry;
use super::loads::Loads;
use super::parts::Parts;
use super::proto::{self, ResourceType};
use super::reports::Reports;
use super::resources::{Held, Resources};
use super::translate;
use crate::load::Fleet;
use crate::prefix::Holder;
use crate::snapshot::{Endpoint, EndpointId, Snapshot};
use crate::time::Time;

/// Longest name of a resource: a Kubernetes namespace and name, with room to spare.
const MAX_NAME: usize = 512;

/// What a filter keeps at most, and how it treats what it no longer hears of.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Resources of all types.
    pub max_resources: usize,
    /// Bytes of one resource, and of all those that are incomplete.
    pub max_resource_bytes: usize,
    /// Bytes of all resources but loads, as they come over the wire.
    pub max_bytes: usize,
    /// Values remembered of each endpoint until the controller echoes a report.
    pub max_unechoed_reports: usize,
    /// Others' counts are gone so long after the controller was lost, milliseconds.
    pub fade_ms: u64,
    /// Whether bodies are kept, so that [`Store::saved`] can give them back.
    pub keep_bodies: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_resources: 50_000,
            max_resource_bytes: 32 << 20,
            max_bytes: 256 << 20,
            max_unechoed_reports: 256,
            fade_ms: 5_000,
            keep_bodies: false,
        }
    }
}

/// How often bounds were hit and resources refused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Resources refused.
    pub refused: u64,
    /// Endpoints that have no load cell now, since all are taken.
    pub unplaced_endpoints: u64,
    /// Values of reports forgotten before they were echoed.
    pub forgotten_reports: u64,
}

/// What one update did.
#[derive(Debug)]
pub struct Applied {
    /// The answer to the controller.
    pub ack: proto::Ack,
    /// The new snapshot, when configuration or endpoints changed and the state is complete.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Load cells that have a new owner: what the prefix index knew of the former one must be forgotten before the
    /// snapshot is used.
    pub claimed: Vec<u32>,
}

/// The filter's copy of all resources.
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    parts: Parts,
    resources: Resources,
    /// Bytes of their bodies.
    bytes: usize,
    registry: Registry,
    loads: Loads,
    reports: Reports,
    synced: bool,
    counters: Counters,
}

/// What happened while the resources of one update were taken in.
#[derive(Default)]
struct Progress {
    refused: Vec<proto::Refusal>,
    configuration: bool,
    endpoints: Vec<Box<str>>,
    loads: Vec<Box<str>>,
}

impl Store {
    /// An empty copy for the process called `origin`, with load cells in `fleet`.
    pub fn new(fleet: Arc<Fleet>, origin: String, limits: Limits) -> Self {
        Self {
            parts: Parts::new(limits.max_resource_bytes),
            resources: Resources::new(),
            bytes: 0,
            registry: Registry::new(fleet),
            loads: Loads::new(limits.fade_ms),
            reports: Reports::new(origin, limits.max_unechoed_reports),
            synced: false,
            counters: Counters::default(),
            limits,
        }
    }

    /// Takes an update in. `echoes` are those of the message that carried it.
    pub fn apply(&mut self, update: &proto::Update, echoes: &[proto::Echo], now: Time) -> Applied {
        let merged = self.reports.echo(echoes);
        let mut progress = Progress::default();
        for removed in &update.removed {
            self.remove(removed, &mut progress);
        }
        for resource in &update.resources {
            if let Err(reason) = self.take(resource, (now, merged), &mut progress) {
                progress.refuse(resource, reason);
            }
        }
        let claimed = self.settle(update, &mut progress);
        let was_synced = self.synced;
        self.synced |= update.synced;
        self.counters.refused += progress.refused.len() as u64;
        self.counters.forgotten_reports = self.reports.forgotten;
        let changed = progress.configuration || !progress.endpoints.is_empty();
        Applied {
            ack: proto::Ack {
                nonce: update.nonce,
                refused: progress.refused,
            },
            snapshot: (self.synced && (changed || !was_synced))
                .then(|| Arc::new(self.resources.snapshot(&self.registry))),
            claimed,
        }
    }

    /// What a reconnecting filter says it has. Loads are left out: their ages make every version another one.
    pub fn have(&self) -> Vec<proto::ResourceVersion> {
        self.resources.versions()
    }

    /// The resources as one update that brings another store to the same configuration; `None` before the first
    /// complete state, or when bodies are not kept.
    pub fn saved(&self) -> Option<proto::Update> {
        if !self.synced || !self.limits.keep_bodies {
            return None;
        }
        Some(proto::Update {
            nonce: 0,
            resources: self.resources.bodies(),
            removed: Vec::new(),
            synced: true,
        })
    }

    /// The process that this copy speaks for.
    pub fn origin(&self) -> &str {
        self.reports.origin()
    }

    /// Whether the first complete state has come.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// How often bounds were hit.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The endpoint of this identity, when some ModelServer lists it.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.registry.get(id)
    }

    /// Where the prefix index keeps what this endpoint holds; `None` when it is not known, or prompts do not matter to
    /// what decides about it.
    pub fn holder(&self, id: EndpointId) -> Option<Holder> {
        let endpoint = self.registry.get(id)?;
        let profile = self.resources.profile_of(self.registry.server_of(id)?);
        Some(Holder {
            slot: endpoint.slot.index(),
            capacity: profile.residency()?.capacity_of(endpoint.kv_capacity_tokens),
        })
    }

    /// A stream to a controller stands: the next report is complete.
    pub fn connected(&mut self) {
        self.reports.reconnected();
        self.loads.set_lost(None);
    }

    /// The stream is lost: what came in parts stays incomplete, and others' counts begin to fade.
    pub fn disconnected(&mut self, now: Time) {
        self.parts.clear();
        self.loads.set_lost(Some(now));
    }

    /// Lets others' counts fade while no controller is heard; to be called now and then.
    pub fn fade(&mut self, now: Time) {
        self.loads.fade(now, &self.registry);
    }

    /// What this process has in flight, when it changed since the last report.
    pub fn report(&mut self) -> Option<proto::Report> {
        self.reports.next(self.registry.own())
    }

    fn take(
        &mut self,
        resource: &proto::Resource,
        (now, merged): (Time, Option<u64>),
        progress: &mut Progress,
    ) -> Result<(), String> {
        let r#type = ResourceType::try_from(resource.r#type).unwrap_or(ResourceType::Unspecified);
        if r#type == ResourceType::Unspecified {
            return Err("a type of resource that this version does not know".to_owned());
        }
        if resource.name.is_empty() || resource.name.len() > MAX_NAME {
            return Err(format!("its name must have 1 to {MAX_NAME} bytes"));
        }
        let known = self.resources.contains(r#type, &resource.name) || self.loads.contains(&resource.name);
        if !known && self.resources.len() + self.loads.len() >= self.limits.max_resources {
            return Err(format!("more than {} resources", self.limits.max_resources));
        }
        let Some(body) = self.parts.add(resource)? else {
            return Ok(());
        };
        let bytes = self.bytes_with(r#type, &resource.name, body.len())?;
        let name: Box<str> = resource.name.as_str().into();
        match r#type {
            ResourceType::Route => {
                let value = Arc::new(translate::route(&name, &body)?);
                self.resources
                    .routes
                    .insert(name, self.limits.hold(resource, &body, value));
                progress.configuration = true;
            }
            ResourceType::Server => {
                let value = translate::server(&name, &body)?;
                self.resources
                    .servers
                    .insert(name, self.limits.hold(resource, &body, value));
                progress.configuration = true;
            }
            ResourceType::Profile => {
                let value = Arc::new(translate::profile(&name, &body)?);
                self.resources
                    .profiles
                    .insert(name, self.limits.hold(resource, &body, value));
                progress.configuration = true;
            }
            ResourceType::Endpoints => {
                self.registry.set(&name, translate::endpoints(&body)?);
                self.resources
                    .endpoints
                    .insert(name.clone(), self.limits.hold(resource, &body, ()));
                progress.endpoints.push(name);
            }
            ResourceType::Load => {
                let observed = translate::load(&body)?;
                self.loads.set(&name, observed, now, merged, &self.reports);
                progress.loads.push(name);
            }
            ResourceType::Unspecified => {}
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Bytes of all resources once this one has a body of that length.
    fn bytes_with(&self, r#type: ResourceType, name: &str, length: usize) -> Result<usize, String> {
        if r#type == ResourceType::Load {
            return Ok(self.bytes);
        }
        let bytes = self.bytes - self.resources.size_of(r#type, name) + length;
        let most = self.limits.max_bytes;
        if bytes > most {
            return Err(format!(
                "no room: all resources would have {bytes} bytes, {most} are allowed"
            ));
        }
        Ok(bytes)
    }

    fn remove(&mut self, removed: &proto::ResourceVersion, progress: &mut Progress) {
        self.parts.forget(removed.r#type, &removed.name);
        let name = removed.name.as_str();
        let r#type = ResourceType::try_from(removed.r#type).unwrap_or(ResourceType::Unspecified);
        self.bytes -= self.resources.size_of(r#type, name);
        match r#type {
            ResourceType::Route => progress.configuration |= self.resources.routes.remove(name).is_some(),
            ResourceType::Server => progress.configuration |= self.resources.servers.remove(name).is_some(),
            ResourceType::Profile => progress.configuration |= self.resources.profiles.remove(name).is_some(),
            ResourceType::Endpoints => {
                if self.resources.endpoints.remove(name).is_some() {
                    self.loads.remove(name, &self.registry);
                    self.registry.remove(name);
                    progress.endpoints.push(name.into());
                }
            }
            ResourceType::Load => self.loads.remove(name, &self.registry),
            ResourceType::Unspecified => {}
        }
    }

    /// Places endpoints, then writes loads into their cells. Returns the cells with a new owner.
    fn settle(&mut self, update: &proto::Update, progress: &mut Progress) -> Vec<u32> {
        let mut claimed = Vec::new();
        if !progress.endpoints.is_empty() || self.registry.is_short() {
            let before = self.counters.unplaced_endpoints;
            let changed = self.registry.settle();
            self.counters.unplaced_endpoints = changed.unplaced as u64;
            progress.configuration |= before != self.counters.unplaced_endpoints;
            claimed = changed.claimed;
        }
        for name in progress.endpoints.iter().chain(&progress.loads) {
            self.loads.write(name, &self.registry);
        }
        for name in &progress.endpoints {
            let (unplaced, all) = self.registry.unplaced(name);
            let sent = update.resources.iter().find(|resource| *resource.name == **name);
            if let (Some(resource), true) = (sent, unplaced > 0) {
                let reason = format!("no room for {unplaced} of its {all} endpoints; the others are in use");
                progress
                    .refused
                    .push(refusal(ResourceType::Endpoints as i32, resource, reason));
            }
        }
        claimed
    }
}

impl Limits {
    fn hold<T>(&self, resource: &proto::Resource, body: &Bytes, value: T) -> Held<T> {
        Held {
            version: resource.version,
            size: body.len(),
            // A body is a view of the message it came in: a copy lets go of the rest.
            body: self.keep_bodies.then(|| Bytes::copy_from_slice(body)),
            value,
        }
    }
}

impl Progress {
    fn refuse(&mut self, resource: &proto::Resource, reason: String) {
        self.refused.push(refusal(resource.r#type, resource, reason));
    }
}

fn refusal(r#type: i32, resource: &proto::Resource, reason: String) -> proto::Refusal {
    proto::Refusal {
        r#type,
        name: resource.name.clone(),
        version: resource.version,
        reason,
    }
}

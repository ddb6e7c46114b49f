//! The configuration as held: every named resource at its last good version.
//!
//! What must always hold: maps are ordered by name, so that nothing made of them depends on the order of arrival.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use prost::bytes::Bytes;

use super::endpoints::Registry;
use super::proto::{self, ResourceType};
use super::translate::Server;
use crate::profile::Profile;
use crate::routing::{ModelRoute, RouteTable};
use crate::snapshot::{ModelServer, Snapshot};

/// The size of a prompt block where the default profile does not use prompts: Kthena's default.
const BLOCK_BYTES: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// One resource.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) version: u64,
    /// Bytes of its body.
    pub(super) size: usize,
    /// Kept where the configuration is to be given back.
    pub(super) body: Option<Bytes>,
    pub(super) value: T,
}

/// All resources but loads. The endpoints themselves are the registry's.
#[derive(Debug)]
pub(super) struct Resources {
    pub(super) routes: BTreeMap<Box<str>, Held<Arc<ModelRoute>>>,
    pub(super) servers: BTreeMap<Box<str>, Held<Server>>,
    pub(super) profiles: BTreeMap<Box<str>, Held<Arc<Profile>>>,
    pub(super) endpoints: BTreeMap<Box<str>, Held<()>>,
    built_in: Arc<Profile>,
}

fn entries<T>(
    r#type: ResourceType,
    held: &BTreeMap<Box<str>, Held<T>>,
) -> impl Iterator<Item = (ResourceType, &str, u64, Option<&Bytes>)> {
    held.iter()
        .map(move |(name, held)| (r#type, &**name, held.version, held.body.as_ref()))
}

impl Resources {
    pub(super) fn new() -> Self {
        Self {
            routes: BTreeMap::new(),
            servers: BTreeMap::new(),
            profiles: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            built_in: Arc::new(Profile::default_profile()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.routes.len() + self.servers.len() + self.profiles.len() + self.endpoints.len()
    }

    pub(super) fn contains(&self, r#type: ResourceType, name: &str) -> bool {
        match r#type {
            ResourceType::Route => self.routes.contains_key(name),
            ResourceType::Server => self.servers.contains_key(name),
            ResourceType::Profile => self.profiles.contains_key(name),
            ResourceType::Endpoints => self.endpoints.contains_key(name),
            ResourceType::Load | ResourceType::Unspecified => false,
        }
    }

    /// Bytes of the body of a resource; 0 when it is not held.
    pub(super) fn size_of(&self, r#type: ResourceType, name: &str) -> usize {
        let size = match r#type {
            ResourceType::Route => self.routes.get(name).map(|held| held.size),
            ResourceType::Server => self.servers.get(name).map(|held| held.size),
            ResourceType::Profile => self.profiles.get(name).map(|held| held.size),
            ResourceType::Endpoints => self.endpoints.get(name).map(|held| held.size),
            ResourceType::Load | ResourceType::Unspecified => None,
        };
        size.unwrap_or(0)
    }

    pub(super) fn versions(&self) -> Vec<proto::ResourceVersion> {
        self.all()
            .map(|(r#type, name, version, _)| proto::ResourceVersion {
                r#type: r#type as i32,
                name: name.to_owned(),
                version,
            })
            .collect()
    }

    pub(super) fn bodies(&self) -> Vec<proto::Resource> {
        self.all()
            .filter_map(|(r#type, name, version, body)| {
                Some(proto::Resource {
                    r#type: r#type as i32,
                    name: name.to_owned(),
                    version,
                    body: body?.clone(),
                    part: 0,
                    parts: 1,
                })
            })
            .collect()
    }

    /// Everything put together. A ModelServer whose profile is absent has the default one; where that is absent too, the
    /// built-in one.
    pub(super) fn snapshot(&self, registry: &Registry) -> Snapshot {
        let servers = self.servers.iter().map(|(name, held)| {
            let endpoints = registry.of(name).to_vec();
            Arc::new(ModelServer {
                name: name.clone(),
                model: held.value.model.clone(),
                engine: held.value.engine,
                cluster: held.value.cluster.clone(),
                timeout_ms: held.value.timeout_ms,
                retry: held.value.retry,
                profile: Arc::clone(self.profile(&held.value.profile)),
                slots: endpoints.iter().map(|endpoint| endpoint.slot.index()).collect(),
                endpoints,
            })
        });
        let routes = self.routes.values().map(|held| Arc::clone(&held.value));
        Snapshot {
            routes: RouteTable::new(routes.collect()),
            servers: servers.collect(),
            block_bytes: self.profile("default").block_bytes().unwrap_or(BLOCK_BYTES),
        }
    }

    /// What decides among a ModelServer's endpoints.
    pub(super) fn profile_of(&self, server: &str) -> &Arc<Profile> {
        let named = self.servers.get(server).map_or("default", |held| &held.value.profile);
        self.profile(named)
    }

    fn profile(&self, name: &str) -> &Arc<Profile> {
        let held = self.profiles.get(name).or_else(|| self.profiles.get("default"));
        held.map_or(&self.built_in, |held| &held.value)
    }

    fn all(&self) -> impl Iterator<Item = (ResourceType, &str, u64, Option<&Bytes>)> {
        entries(ResourceType::Profile, &self.profiles)
            .chain(entries(ResourceType::Server, &self.servers))
            .chain(entries(ResourceType::Endpoints, &self.endpoints))
            .chain(entries(ResourceType::Route, &self.routes))
    }
}

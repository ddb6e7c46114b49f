//! Many objects, put into the API server side by side.
//!
//! Namespaces take turns; a ModelServer has its ModelRoute and its pods. Nobody listens at the pods' addresses.

use std::fmt::Debug;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kthena_gateway_api::{ModelRoute, ModelServer};
use kube::Resource;
use kube::api::{Api, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::cluster::kubelet::PodSpec;
use crate::system::manifests;

/// Namespaces.
pub(super) const NAMESPACES: usize = 10;

/// Pods of a ModelServer.
pub(super) const PODS: usize = 5;

/// Writes in flight at one time.
const IN_FLIGHT: usize = 32;

/// The port of all pods.
const PORT: u16 = 8000;

/// A ModelServer with its route and pods, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served(pub(super) usize);

impl Served {
    /// Its namespace.
    pub(super) fn namespace(self) -> String {
        format!("bench-{}", self.0 % NAMESPACES)
    }

    /// Its name, which is its route's too.
    pub(super) fn name(self) -> String {
        format!("s{:04}", self.0)
    }

    /// Namespace and name, as filters know it.
    pub(super) fn full_name(self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    /// One of its pods.
    pub(super) fn pod(self, number: usize) -> PodSpec {
        // 10.0.0.1 and on.
        let ip = 0x0a00_0001 + u32::try_from(self.0 * PODS + number).unwrap_or_default();
        PodSpec {
            namespace: self.namespace(),
            ..PodSpec::new(&format!("{}-{number}", self.name()), &self.name(), Ipv4Addr::from(ip))
        }
    }

    fn object<K: DeserializeOwned>(self, mut object: Value) -> Result<K> {
        object["metadata"]["namespace"] = json!(self.namespace());
        serde_json::from_value(object).context("an object of the bench")
    }
}

/// Makes the namespaces.
pub(super) async fn namespaces(cluster: &Cluster) -> Result<()> {
    let api: Api<Namespace> = Api::all(cluster.client());
    for number in 0..NAMESPACES {
        let object = serde_json::from_value(json!({"metadata": {"name": Served(number).namespace()}}))?;
        api.create(&PostParams::default(), &object)
            .await
            .context("cannot make a namespace")?;
    }
    Ok(())
}

/// Puts these ModelServers there, with routes and pods that are ready.
pub(super) async fn fill(cluster: &Cluster, numbers: std::ops::Range<usize>) -> Result<()> {
    let served = numbers.map(Served);
    stream::iter(served.map(|one| put(cluster, one)))
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await
}

async fn put(cluster: &Cluster, one: Served) -> Result<()> {
    let name = one.name();
    let server: ModelServer = one.object(manifests::model_server(&name, "bench", PORT))?;
    let route: ModelRoute = one.object(manifests::model_route(&name, &name, &name))?;
    create(cluster, one, &server).await?;
    create(cluster, one, &route).await?;
    for number in 0..PODS {
        cluster.run_pod(&one.pod(number)).await?;
    }
    Ok(())
}

async fn create<K>(cluster: &Cluster, one: Served, object: &K) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let api: Api<K> = Api::namespaced(cluster.client(), &one.namespace());
    let created = api.create(&PostParams::default(), object).await;
    created.with_context(|| format!("cannot make {} {}", K::kind(&()), one.full_name()))?;
    Ok(())
}

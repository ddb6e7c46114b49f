//! A kind that the API server does not know: its CustomResourceDefinition is awaited.
//!
//! What must always hold: waiting is one watch of one definition by its name, so that nothing is asked while nothing happens; where that right is
//! missing, the kind itself is asked for again and again, with long pauses.

use std::future::ready;

use futures::stream::{BoxStream, StreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::Api;
use kube::core::{PartialObjectMeta, Resource};
use kube::runtime::watcher::{self, Event, watcher};

/// What is seen of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Definition {
    /// It is there.
    There,
    /// The API server says that there is none.
    Absent,
    /// It cannot be watched.
    Hidden,
}

/// The name of a kind's definition.
pub(super) fn name<K: Resource<DynamicType = ()>>() -> String {
    format!("{}.{}", K::plural(&()), K::group(&()))
}

/// What is seen of a kind's definition, as it changes.
pub(super) fn seen<K: Resource<DynamicType = ()>>(client: Client) -> BoxStream<'static, Definition> {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", name::<K>()));
    watcher(api, config)
        .filter_map(|event| {
            ready(match event {
                Ok(Event::InitApply(_) | Event::Apply(_)) => Some(Definition::There),
                // Listed, and it was not there.
                Ok(Event::InitDone) => Some(Definition::Absent),
                Ok(Event::Init | Event::Delete(_)) => None,
                Err(_) => Some(Definition::Hidden),
            })
        })
        .boxed()
}

//! A kind that the API server does not know: its CustomResourceDefinition is awaited.
//!
//! What must always hold: waiting is one watch of one definition by its name, so that nothing is asked while nothing
//! happens; where that right is missing, the kind itself is asked for again and again, with long pauses.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;
use kube::core::{PartialObjectMeta, Resource};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::sleep;

use super::watch::{Ended, Signal, Trouble, Watch};

/// Time between two tries where the definition cannot be watched.
const BLIND: Duration = Duration::from_secs(30);

/// Returns when it is worth asking for the kind again.
pub(super) async fn wait<K: Resource<DynamicType = ()>>(watch: &Watch, trouble: &mut Trouble) -> Result<(), Ended> {
    let name = format!("{}.{}", K::plural(&()), K::group(&()));
    if K::group(&()).is_empty() {
        sleep(BLIND).await;
        return Ok(());
    }
    trouble.notice(&format!(
        "the API server does not know it: the CustomResourceDefinition {name} is not installed, and is awaited"
    ));
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(watch.client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, config));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(_) | Event::Apply(_)) => return Ok(()),
            // Listed, and it was not there.
            Ok(Event::InitDone) => watch.tell(Signal::KindAbsent).await?,
            Ok(Event::Init | Event::Delete(_)) => {}
            Err(_) => {
                sleep(BLIND).await;
                return Ok(());
            }
        }
    }
    Ok(())
}

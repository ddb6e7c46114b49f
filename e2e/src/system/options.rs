//! What of a system can be chosen. Values only.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::fleet::Group;
use crate::cluster;

/// Who decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Filter {
    /// The ext_proc servers, which Envoy asks.
    #[default]
    ExtProc,
    /// The wasm filter in Envoy, with this configuration. Envoy asks no ext_proc server, but there may be some.
    Wasm(Value),
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model servers, with a ModelServer and Pods each.
    pub groups: Vec<Group>,
    /// The ModelRoutes.
    pub routes: Vec<Value>,
    /// Further objects, such as ModelServers and Pods of engines that run already.
    pub further: Vec<Value>,
    /// A Kubernetes API server holds the objects, instead of a folder.
    pub cluster: Option<cluster::Options>,
    /// A factor on all times of the fleet.
    pub time_scale: f64,
    /// The scheduler configuration file, as YAML; empty for the defaults.
    pub scheduler_config: String,
    /// Who decides.
    pub filter: Filter,
    /// How many controllers, which know of each other. The first writes Envoy's files; ext_proc servers subscribe to them in turn.
    pub controllers: usize,
    /// How many ext_proc servers.
    pub ext_procs: usize,
    /// Whether each ext_proc server is told of all controllers, and not of its own alone.
    pub ext_procs_know_all: bool,
    /// Further flags of each ext_proc server; `--state` replaces the controller's address.
    pub ext_proc_flags: Vec<String>,
    /// Further flags of each controller; `--state-listen` replaces its address.
    pub controller_flags: Vec<String>,
    /// Where Envoy listens; a free port when absent.
    pub listen: Option<SocketAddr>,
    /// Worker threads of Envoy.
    pub workers: u32,
    /// Whether Envoy can be replaced by another without a pause ([`System::replace_envoy`](super::System::replace_envoy)).
    pub replaceable_envoy: bool,
    /// A change to the reference configuration of Envoy.
    pub change_envoy: Change,
}

/// A change to a configuration of Envoy.
#[derive(Clone)]
pub struct Change(Arc<dyn Fn(&mut Value) + Send + Sync>);

impl Change {
    /// What this function does to it.
    pub fn new(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self(Arc::new(change))
    }

    pub(super) fn apply(&self, configuration: &mut Value) {
        (self.0)(configuration);
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Change")
    }
}

impl Default for Options {
    /// Two ext_proc servers that explain, an Envoy of two workers, and nothing to serve.
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            routes: Vec::new(),
            further: Vec::new(),
            cluster: None,
            time_scale: 1.0,
            scheduler_config: String::new(),
            filter: Filter::ExtProc,
            controllers: 1,
            ext_procs: 2,
            ext_procs_know_all: false,
            ext_proc_flags: vec!["--explain=on".to_owned()],
            controller_flags: Vec::new(),
            listen: None,
            workers: 2,
            replaceable_envoy: false,
            change_envoy: Change::new(|_| ()),
        }
    }
}

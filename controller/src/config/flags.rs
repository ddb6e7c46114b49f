//! The flags of the state service and of observation.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::duration::duration;
use crate::peers::Place;
use crate::publish::Rule;
use crate::source::kubernetes;

/// The API server.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct Kubernetes {
    /// Kubeconfig file. Without it: those that KUBECONFIG names, ~/.kube/config, or the service account of this pod.
    #[arg(long, env = "KTHENA_KUBECONFIG", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. Without it, its current one.
    #[arg(long, env = "KTHENA_CONTEXT", value_name = "NAME")]
    pub(super) context: Option<String>,

    /// Only these namespaces are watched, with commas between them. Without it, all.
    #[arg(long, env = "KTHENA_NAMESPACES", value_name = "NAMES", value_delimiter = ',')]
    pub(super) namespaces: Vec<String>,

    /// Objects taken in, of all kinds together: more are left out.
    #[arg(long, env = "KTHENA_WATCH_MAX_OBJECTS", default_value_t = 200_000)]
    pub(super) watch_max_objects: usize,

    /// Objects in one page of a list.
    #[arg(long, env = "KTHENA_WATCH_PAGE", default_value_t = 500)]
    pub(super) watch_page: u32,

    /// Time until a watch that failed is tried again; it doubles with each failure.
    #[arg(long, env = "KTHENA_WATCH_RETRY", default_value = "200ms", value_parser = duration, value_name = "TIME")]
    pub(super) watch_retry: Duration,

    /// Longest time until a watch that failed is tried again.
    #[arg(long, env = "KTHENA_WATCH_RETRY_MAX", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(super) watch_retry_max: Duration,
}

impl Kubernetes {
    pub(super) fn target(&self) -> kubernetes::Target {
        kubernetes::Target {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
        }
    }

    pub(super) fn settings(&self) -> kubernetes::Settings {
        kubernetes::Settings {
            namespaces: self.namespaces.clone(),
            max_objects: self.watch_max_objects,
            page: self.watch_page,
            retry: (self.watch_retry, self.watch_retry_max.max(self.watch_retry)),
        }
    }
}

/// Who of several controllers leads.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Leader election")]
pub(super) struct Leader {
    /// Whether only the holder of a Lease writes status and events. Without it every controller does: run one.
    #[arg(long, env = "KTHENA_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) leader_elect: bool,

    /// Name of the Lease.
    #[arg(
        long,
        env = "KTHENA_LEADER_ELECT_RESOURCE_NAME",
        default_value = "kthena-controller",
        value_name = "NAME"
    )]
    pub(super) leader_elect_resource_name: String,

    /// Namespace of the Lease. Without it, that of this pod or of the kubeconfig's context.
    #[arg(long, env = "KTHENA_LEADER_ELECT_RESOURCE_NAMESPACE", value_name = "NAME")]
    pub(super) leader_elect_resource_namespace: Option<String>,

    /// How long others wait for a leader that does not renew its Lease.
    #[arg(long, env = "KTHENA_LEADER_ELECT_LEASE_DURATION", default_value = "9s", value_parser = duration, value_name = "TIME")]
    pub(super) leader_elect_lease_duration: Duration,

    /// How long a leader goes on that cannot renew its Lease.
    #[arg(long, env = "KTHENA_LEADER_ELECT_RENEW_DEADLINE", default_value = "6s", value_parser = duration, value_name = "TIME")]
    pub(super) leader_elect_renew_deadline: Duration,

    /// Time from one look at the Lease to the next.
    #[arg(long, env = "KTHENA_LEADER_ELECT_RETRY_PERIOD", default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub(super) leader_elect_retry_period: Duration,
}

/// The state service.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "State service")]
pub(super) struct State {
    /// Where filters subscribe: ip:port, or unix:/path. Off loopback it needs mutual TLS or a token.
    #[arg(
        long,
        env = "KTHENA_STATE_LISTEN",
        default_value = "127.0.0.1:9911",
        value_name = "ADDRESS"
    )]
    pub(super) state_listen: String,

    /// PEM certificate chain of the state service.
    #[arg(long, env = "KTHENA_STATE_TLS_CERT", value_name = "FILE")]
    pub(super) state_tls_cert: Option<PathBuf>,

    /// PEM private key of the state service.
    #[arg(long, env = "KTHENA_STATE_TLS_KEY", value_name = "FILE")]
    pub(super) state_tls_key: Option<PathBuf>,

    /// PEM certificates of the authorities that sign the filters' certificates.
    #[arg(long, env = "KTHENA_STATE_CLIENT_CA", value_name = "FILE")]
    pub(super) state_client_ca: Option<PathBuf>,

    /// File with the bearer token that filters must send; read anew for every subscription.
    #[arg(long, env = "KTHENA_STATE_TOKEN_FILE", value_name = "FILE")]
    pub(super) state_token_file: Option<PathBuf>,

    /// What clients may see, by a DNS or URI name (a SPIFFE ID, say) of their certificate: namespaces with commas between them, or *. May be
    /// repeated (in the environment with semicolons between them); then others get nothing. Without it, all see everything.
    #[arg(
        long,
        env = "KTHENA_STATE_SCOPE",
        value_name = "NAME=NAMESPACES",
        value_delimiter = ';'
    )]
    pub(super) state_scope: Vec<Rule>,

    /// Filters connected at one time.
    #[arg(long, env = "KTHENA_STATE_MAX_SUBSCRIBERS", default_value_t = 1024)]
    pub(super) state_max_subscribers: usize,

    /// Deciders (workers of an Envoy) that one filter may report for.
    #[arg(long, env = "KTHENA_STATE_MAX_ORIGINS", default_value_t = 1024)]
    pub(super) state_max_origins: usize,

    /// Entries (endpoint and adapter, or ModelServer) that one decider may report.
    #[arg(long, env = "KTHENA_STATE_MAX_REPORT_ENTRIES", default_value_t = 65_536)]
    pub(super) state_max_report_entries: usize,

    /// How long what a lost decider had in flight still counts.
    #[arg(long, env = "KTHENA_STATE_LOST_AFTER", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(super) state_lost_after: Duration,

    /// Bytes of prompt placements kept for new and slow filters.
    #[arg(long, env = "KTHENA_STATE_PLACEMENT_BYTES", default_value_t = 8 * 1024 * 1024)]
    pub(super) state_placement_bytes: usize,

    /// Settlements that may wait for one filter.
    #[arg(long, env = "KTHENA_STATE_MAX_SETTLEMENTS", default_value_t = 16_384)]
    pub(super) state_max_settlements: usize,

    /// Kinds of requests told apart in what filters without a page of metrics tell; further ones are counted together.
    #[arg(long, env = "KTHENA_STATE_MAX_METRIC_SERIES", default_value_t = 2_000)]
    pub(super) state_max_metric_series: usize,

    /// Deciders whose last message of counts is remembered, so that it is not added twice.
    #[arg(long, env = "KTHENA_STATE_MAX_COUNTED_ORIGINS", default_value_t = 16_384)]
    pub(super) state_max_counted_origins: usize,

    /// How often merged reports are pushed.
    #[arg(long, env = "KTHENA_STATE_TICK", default_value = "100ms", value_parser = duration, value_name = "TIME")]
    pub(super) state_tick: Duration,

    /// How long a filter may take to acknowledge an update, or to take a message.
    #[arg(long, env = "KTHENA_STATE_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(super) state_timeout: Duration,
}

/// The other controllers.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Other controllers")]
pub(super) struct Peers {
    /// Where all controllers of the deployment are (this one may be among them), with commas between: a name whose addresses are all of them, or
    /// each by itself. They share what filters report and what is observed. Without it, this one is alone.
    #[arg(long, env = "KTHENA_PEERS", value_name = "HOST:PORT", value_delimiter = ',')]
    pub(super) peers: Vec<Place>,

    /// Name in the controllers' certificates, where it is not the host of --peers. Each shows --state-tls-cert to the others.
    #[arg(long, env = "KTHENA_PEER_SERVER_NAME", value_name = "NAME", requires = "peers")]
    pub(super) peer_server_name: Option<String>,

    /// PEM certificates of the authorities that sign the controllers' certificates. Without it, --state-client-ca.
    #[arg(long, env = "KTHENA_PEER_CA", value_name = "FILE", requires = "peers")]
    pub(super) peer_ca: Option<PathBuf>,

    /// Time from one look-up of the names to the next.
    #[arg(long, env = "KTHENA_PEER_LOOKUP_INTERVAL", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(super) peer_lookup_interval: Duration,

    /// How long another controller may be silent before it is given up.
    #[arg(long, env = "KTHENA_PEER_TIMEOUT", default_value = "4s", value_parser = duration, value_name = "TIME")]
    pub(super) peer_timeout: Duration,

    /// Other controllers at one time.
    #[arg(long, env = "KTHENA_MAX_PEERS", default_value_t = 16)]
    pub(super) max_peers: usize,

    /// Deciders that another controller may tell of.
    #[arg(long, env = "KTHENA_PEER_MAX_ORIGINS", default_value_t = 16_384)]
    pub(super) peer_max_origins: usize,

    /// Resources that another controller may tell how far its filters have got with.
    #[arg(long, env = "KTHENA_PEER_MAX_RESOURCES", default_value_t = 400_000)]
    pub(super) peer_max_resources: usize,
}

/// Observation.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Observation")]
pub(super) struct Scrape {
    /// Time from one scrape of an endpoint's metrics to the next.
    #[arg(long, env = "KTHENA_SCRAPE_INTERVAL", default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(super) scrape_interval: Duration,

    /// How long a scrape may take, at most ten intervals.
    #[arg(long, env = "KTHENA_SCRAPE_TIMEOUT", default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(super) scrape_timeout: Duration,

    /// Time from one look at an endpoint's models and health to the next.
    #[arg(long, env = "KTHENA_SCRAPE_MODELS_INTERVAL", default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(super) scrape_models_interval: Duration,

    /// Scrapes failed in a row after which an endpoint is down.
    #[arg(long, env = "KTHENA_SCRAPE_DOWN_AFTER", default_value_t = 3)]
    pub(super) scrape_down_after: u32,

    /// Bytes read of one answer.
    #[arg(long, env = "KTHENA_SCRAPE_MAX_BYTES", default_value_t = 4 * 1024 * 1024)]
    pub(super) scrape_max_bytes: usize,

    /// Scrapes in flight at one time.
    #[arg(long, env = "KTHENA_SCRAPE_MAX_IN_FLIGHT", default_value_t = 256)]
    pub(super) scrape_max_in_flight: usize,

    /// Endpoints observed.
    #[arg(long, env = "KTHENA_SCRAPE_MAX_TARGETS", default_value_t = 10_000)]
    pub(super) scrape_max_targets: usize,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

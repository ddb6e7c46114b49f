//! API types and their pure validation.
//!
//! Kthena's routing objects as kube custom resources: the same group, version, field names, defaults and limits, so that a
//! manifest written for Kthena applies unchanged; what is added is optional. What must always hold: parsing is tolerant
//! (an unknown field is skipped, as an API server may be newer), judging (see [`validate`]) is not, and every remark carries the
//! path of its field. Nothing here does I/O, and no input makes it panic.

mod duration;
mod external_model_provider;
mod field;
mod model_route;
mod model_server;
pub mod validate;

pub use duration::{Duration, InvalidDuration};
pub use external_model_provider::{
    AuthScheme, ExternalModelProvider, ExternalModelProviderSpec, ProviderAuth, ProviderType, SecretKeySelector,
};
pub use field::FieldIssue;
pub use model_route::{
    BodyMatch, GlobalRateLimit, ModelMatch, ModelRoute, ModelRouteSpec, ParentReference, RateLimit, RateLimitUnit,
    RedisConfig, RouteRule, StringMatch, TargetModel,
};
pub use model_server::{
    InferenceEngine, KvConnector, KvConnectorType, ModelServer, ModelServerSpec, PdGroup, PortProtocol, Retry,
    TrafficPolicy, WorkloadPort, WorkloadSelector,
};

/// API group of the routing objects.
pub const NETWORKING_GROUP: &str = "networking.serving.volcano.sh";
/// Their only version.
pub const NETWORKING_VERSION: &str = "v1alpha1";

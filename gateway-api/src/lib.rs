//! API types and their pure validation.
//!
//! Kthena's routing objects as kube custom resources: the same group, version, field names, defaults and limits, so that a
//! manifest written for Kthena applies unchanged; what is added is optional. What must always hold: parsing is tolerant
//! (an unknown field is skipped, as an API server may be newer), judging (see [`validate`]) is not, and every remark carries the
//! path of its field. Nothing here does I/O, and no input makes it panic.

mod duration;
mod external_model_provider;
mod field;
mod inference_pool;
mod model_route;
mod model_server;
mod schema;
mod status;
pub mod validate;

pub use duration::{Duration, InvalidDuration};
pub use external_model_provider::{
    AuthScheme, ExternalModelProvider, ExternalModelProviderSpec, ProviderAuth, ProviderType, SecretKeySelector,
};
pub use field::FieldIssue;
pub use inference_pool::{
    EndpointPickerRef, FailureMode, InferencePool, InferencePoolSpec, PickerPort, PoolSelector, TargetPort,
};
pub use model_route::{
    BodyMatch, GlobalRateLimit, ModelMatch, ModelRoute, ModelRouteSpec, ParentReference, RateLimit, RateLimitUnit,
    RedisConfig, RouteRule, StringMatch, TargetModel,
};
pub use model_server::{
    InferenceEngine, KvConnector, KvConnectorType, ModelServer, ModelServerSpec, PdGroup, PortProtocol, Retry,
    TrafficPolicy, WorkloadPort, WorkloadSelector,
};
pub use schema::definitions;
pub use status::{
    ACCEPTED, EndpointCounts, ExternalModelProviderStatus, ModelRouteStatus, ModelServerStatus, PROGRAMMED,
    RESOLVED_REFS,
};

/// API group of the routing objects.
pub const NETWORKING_GROUP: &str = "networking.serving.volcano.sh";
/// Their only version.
pub const NETWORKING_VERSION: &str = "v1alpha1";
/// API group of [`InferencePool`].
pub const INFERENCE_GROUP: &str = "inference.networking.k8s.io";
/// The version of it that is read.
pub const INFERENCE_VERSION: &str = "v1";

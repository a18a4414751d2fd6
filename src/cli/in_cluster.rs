//! What every process of ours that runs in a cluster is told.

use std::net::SocketAddr;

#[derive(Debug, clap::Args)]
pub(super) struct InCluster {
    /// Where /healthz, /readyz and /metrics are
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080",
        env = "SITE_RECOVERY_PROBES"
    )]
    pub(super) probes: SocketAddr,
    /// Watch only this namespace (repeat for more); none: all
    #[arg(
        long = "namespace",
        value_name = "NAMESPACE",
        env = "SITE_RECOVERY_NAMESPACES",
        value_delimiter = ','
    )]
    pub(super) namespaces: Vec<String>,
    /// A namespace whose sites may use this process's own Azure identity (repeat for more)
    #[arg(
        long = "ambient-identity-namespace",
        value_name = "NAMESPACE",
        env = "SITE_RECOVERY_AMBIENT_IDENTITY_NAMESPACES",
        value_delimiter = ','
    )]
    pub(super) ambient_namespaces: Vec<String>,
}

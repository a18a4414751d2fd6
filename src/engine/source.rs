//! The hypervisor, off the runtime's threads: its calls block.

use std::sync::Arc;

use crate::engine::Error;
use crate::host::{self, Hypervisor};

/// Calls the hypervisor on a thread where blocking is allowed.
///
/// # Errors
/// The hypervisor's, or that the call panicked.
pub async fn ask<T: Send + 'static>(
    hypervisor: &Arc<dyn Hypervisor>,
    call: impl FnOnce(&dyn Hypervisor) -> host::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let hypervisor = hypervisor.clone();
    let answer = tokio::task::spawn_blocking(move || call(hypervisor.as_ref())).await;
    Ok(answer.map_err(|_| Error::Broken {
        doing: "asked the hypervisor",
    })??)
}

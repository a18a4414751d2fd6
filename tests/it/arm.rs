//! The client of Azure's control plane against the lab's, and the lab's against judges that are not ours: Azure's own
//! SDK, and the JSON schemas of its request bodies.

mod begun;
mod checks;
mod disks;
mod identity;
mod life;
mod lost;
mod schemas;
mod sdk;
mod snapshots;
pub(crate) mod world;

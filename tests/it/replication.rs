//! Engine and data path against the real emulator, with a hypervisor that is a model: what was published equals what the
//! model froze, whatever happens in between.

mod broken;
mod chain;
mod copy;
mod delta;
mod grow;
mod hand;
mod inbox;
pub(crate) mod model;
mod prune;
mod refused;
mod workers;
pub(crate) mod world;

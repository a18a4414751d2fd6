//! Engine and data path against the real emulator, with a hypervisor that is a model: what was published equals what the
//! model froze, whatever happens in between.

mod broken;
mod chain;
mod copy;
mod delta;
mod gone;
mod grow;
mod hand;
mod import;
mod inbox;
pub(crate) mod model;
mod prune;
mod refused;
mod tables;
mod workers;
pub(crate) mod world;

//! The lab hypervisor, as a process of its own, through the hands of those who use it: agents (the trait, a client over a
//! socket), guests (NBD, with clients that are not ours too), and tools that judge the images that it leaves.

// By this attribute the lints know helpers for what they are: parts of tests.
#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod guests;
#[cfg(test)]
mod images;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod model;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod nbd;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod tracking;
#[cfg(test)]
mod world;

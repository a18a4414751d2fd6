//! The storage edge against Azure's own emulator, against Azure's own client, and against a network that misbehaves.

mod access;
mod block_blobs;
mod containers;
pub(crate) mod emulator;
mod faulty;
mod hostile;
mod identity;
mod network;
mod page_blobs;
pub(crate) mod server;

//! Virtual machines are protected: real API server, real storage, the controller by its chart, agents on the lab
//! hypervisor; every part a process of its own.

mod adoption;
mod disks;
mod enable;
mod hands;
mod identity;
mod interruptions;
mod moves;
mod pauses;
mod refusals;
mod removal;
mod requests;
mod watched;
mod workers;
mod world;

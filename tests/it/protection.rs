//! Virtual machines are protected: real API server, real storage, the controller by its chart, agents on the lab
//! hypervisor; every part a process of its own.

mod adoption;
mod classes;
mod deletions;
mod disks;
mod enable;
mod generations;
mod hands;
mod hours;
mod identity;
mod interruptions;
mod look;
mod moves;
mod pauses;
mod refusals;
mod removal;
mod requests;
mod retries;
mod triggers;
mod watched;
mod workers;
mod world;

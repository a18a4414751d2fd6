//! Virtual machines are protected: real API server, real storage, the controller by its chart, agents on the lab
//! hypervisor; every part a process of its own.

mod adoption;
mod enable;
mod interruptions;
mod refusals;
mod removal;
mod requests;
mod watched;
mod workers;
mod world;

//! `replica list|verify|restore` on replicas that engine and data path made, against the real emulator: what is listed
//! is what stands there, every kind of damage is found, and what is restored is what was frozen.

mod beside;
mod commands;
mod damage;
mod table;
mod world;

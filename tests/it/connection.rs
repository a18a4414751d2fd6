//! Agent and controller over real TCP and TLS: who gets in, what flows, what is noticed, what is bounded.

mod bounds;
mod certificates;
mod commands;
mod life;
mod proxy;
mod refused;
mod world;

//! stub
pub mod authority;
pub mod azurite;
pub mod cluster;
pub mod process;
pub mod tools;

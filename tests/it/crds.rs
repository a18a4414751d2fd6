//! The CustomResourceDefinitions on a real API server: what it takes, what it refuses with which words, what it fills in.

mod files;
mod object;
mod server;
mod site;
mod vm;

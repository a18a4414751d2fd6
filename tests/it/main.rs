//! The integration tests: one binary, so that they link once.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod architecture;
mod blob;
mod connection;
mod corpus;
mod formats;
mod lab_tools;
mod replication;

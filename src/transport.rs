//! What both edges of Azure, storage and its control plane, stand on: HTTP exchanges, identities, tokens.
//!
//! It knows of neither edge, sends nothing by itself, and prints no token.

pub mod http;
pub mod identity;
pub mod refusal;
pub(crate) mod token;

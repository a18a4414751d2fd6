//! The Helm chart: what it refuses, what it renders, and a controller that has only what the chart gives it.

mod files;
mod life;
mod release;
mod replicas;
mod rights;

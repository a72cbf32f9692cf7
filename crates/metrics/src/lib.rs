#![doc = include_str!("../README.md")]

mod instruments;
mod layer;
pub mod names;
#[cfg(feature = "prometheus")]
mod prometheus;
mod route;
mod stream;

pub use self::layer::StreamMetricsLayer;
#[cfg(feature = "prometheus")]
pub use self::prometheus::Prometheus;

#[cfg(test)]
mod tests;

#![doc = include_str!("../README.md")]

mod args;
mod client;
mod digests;
pub mod doctor;
mod ending;
mod html;
mod records;
mod report;
mod request;
mod run;
mod stream;
mod tally;
#[cfg(feature = "tls")]
mod tls;
mod watch;

pub use self::{
    args::{Args, Format, Http, Output, Percent, UsageError},
    ending::Ending,
    report::{Report, Verdict},
    run::{Load, Running, run},
    watch::{Stream, Watch},
};

//! Shared code of the layers' benches.
//!
//! In this workspace, every speed claim is a **ratio to a named peer in the same run**. A bench runs its candidates in
//! one criterion group, and then prints what [`Group`] reads back:
//!
//! ```no_run
//! let group = tower_stream_bench_support::Group::new("1000 frames of 64 B");
//! group.print_over("bare", &["ours", "tower-http Trace"], 1_000, "frame");
//! ```

mod contest;
mod cpu;

pub use self::{contest::Contest, cpu::CpuTime};

use std::{
    hint::black_box,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame};

/// A body that returns the same frame a number of times, then `None`.
///
/// Its poll is not inlined and its error is boxed, as in a real body behind a router.
#[derive(Clone, Debug)]
pub struct Frames {
    frame: Bytes,
    left: usize,
}

impl Frames {
    /// A body of `count` frames like `frame`.
    #[must_use]
    pub fn new(frame: impl Into<Bytes>, count: usize) -> Self {
        Self {
            frame: frame.into(),
            left: count,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    #[inline(never)]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

/// Polls a body, which must always be ready, to its end. Returns the number of bytes.
///
/// # Panics
///
/// Panics if the body is pending or fails.
pub fn consume<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    loop {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => {
                bytes += black_box(frame).data_ref().map_or(0, Bytes::len);
            }
            Poll::Ready(None) => return bytes,
            Poll::Ready(Some(Err(_))) => panic!("the body failed"),
            Poll::Pending => panic!("the body is pending"),
        }
    }
}

/// A criterion group of this run, read back from criterion's output files.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// The group with this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        // The path of a bench is `<target>/release/deps/<name>-<hash>`.
        let target = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.ancestors().nth(3).map(PathBuf::from));
        Self(
            target
                .unwrap_or_default()
                .join("criterion")
                .join(file_name(name)),
        )
    }

    /// Returns the median time of one iteration in nanoseconds, or `None` if that function did not run.
    #[must_use]
    pub fn median(&self, function: &str) -> Option<f64> {
        let path = self.0.join(file_name(function)).join("new/estimates.json");
        let estimates = std::fs::read(path).ok()?;
        let estimates: serde_json::Value = serde_json::from_slice(&estimates).ok()?;
        estimates["median"]["point_estimate"].as_f64()
    }

    /// Prints, for each function, the cost of one of the `units` in an iteration: absolute, above `base`, and as a
    /// ratio.
    #[allow(clippy::print_stdout)] // Printing is the purpose of a bench.
    pub fn print_over(&self, base: &str, functions: &[&str], units: u32, unit: &str) {
        let per = f64::from(units);
        let Some(bare) = self.median(base) else {
            return;
        };
        println!("{base}: {:.2} ns a {unit}", bare / per);
        for function in functions {
            if let Some(time) = self.median(function) {
                println!(
                    "{function}: {:.2} ns a {unit}, {:+.2} ns over {base}, {:.2}x",
                    time / per,
                    (time - bare) / per,
                    time / bare
                );
            }
        }
    }
}

/// The directory name that criterion uses for `name`.
fn file_name(name: &str) -> String {
    let mut name = name.replace(['?', '"', '/', '\\', '*', '<', '>', ':', '|', '^'], "_");
    name.truncate(64);
    name
}

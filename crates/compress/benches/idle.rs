//! Resident memory of compressed streams that have sent some events and wait for more, beside tower-http's
//! `CompressionLayer`: `cargo bench -p tower-stream-compress --features zstd --bench idle`.
//!
//! Each candidate runs in a process of its own, which prints how much its resident set has grown. A process that has freed the
//! streams of another candidate would take their memory again.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    convert::Infallible,
    pin::Pin,
    process::Command,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::{ServiceExt, layer::util::Identity, service_fn};
use tower_http::compression::{CompressionLayer, CompressionLevel, predicate::SizeAbove};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_compress::{Coding, CompressLayer, CompressionSwitch, Settings};

const EVENTS: usize = 20;

/// Some events one by one, and then nothing forever.
struct Events {
    polls: usize,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polls += 1;
        if self.polls > 2 * EVENTS || self.polls.is_multiple_of(2) {
            return Poll::Pending;
        }
        let event = format!(
            "data: {{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\
             \"delta\":{{\"content\":\" {:x}\"}},\"finish_reason\":null}}]}}\n\n",
            self.polls * 2_654_435_761
        );
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}

enum Candidate {
    Bare,
    Ours(Coding, u8),
    TowerHttp(Coding, i32),
    /// Ours with its bound of 256 MiB.
    Bounded,
}

/// What it is, how many streams, and the layer.
const CANDIDATES: [(&str, usize, Candidate); 11] = [
    ("without a layer", 10_000, Candidate::Bare),
    ("gzip 1", 10_000, Candidate::Ours(Coding::Gzip, 1)),
    ("gzip 6", 10_000, Candidate::Ours(Coding::Gzip, 6)),
    ("zstd 1", 10_000, Candidate::Ours(Coding::Zstd, 1)),
    ("zstd 3", 10_000, Candidate::Ours(Coding::Zstd, 3)),
    ("br 3", 1_000, Candidate::Ours(Coding::Br, 3)),
    ("br 4", 1_000, Candidate::Ours(Coding::Br, 4)),
    ("br 5", 1_000, Candidate::Ours(Coding::Br, 5)),
    (
        "tower-http, gzip 6",
        1_000,
        Candidate::TowerHttp(Coding::Gzip, 6),
    ),
    ("tower-http, br 4", 200, Candidate::TowerHttp(Coding::Br, 4)),
    ("the default, with its bound", 10_000, Candidate::Bounded),
];

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") * 1024
}

/// Opens the streams, and prints what one of them takes.
fn open<S, B>(
    name: &str,
    count: usize,
    service: &S,
    coding: &str,
    switch: Option<&CompressionSwitch>,
) where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut streams = Vec::with_capacity(count);
    let before = resident();
    for _ in 0..count {
        let request = Request::builder().header("accept-encoding", coding);
        let response = service.clone().oneshot(request.body(()).unwrap());
        let response = response.now_or_never().expect("ready").expect("infallible");
        let mut body = Box::pin(response.into_body());
        for _ in 0..2 * EVENTS + 2 {
            let _ = body
                .as_mut()
                .poll_frame(&mut cx)
                .map(|frame| frame.is_some());
        }
        streams.push(body);
    }
    let grown = resident().saturating_sub(before);
    let one = grown as f64 / count as f64 / 1024.0;
    let all = grown as f64 / 1024.0 / 1024.0;
    let stats = switch.map(CompressionSwitch::stats);
    let compressed = stats.map_or_else(String::new, |stats| {
        format!(
            "{} | {:.0} MiB",
            stats.streams,
            stats.memory as f64 / 1024.0 / 1024.0
        )
    });
    println!("| {name} | {count} | {one:.1} KiB | {all:.0} MiB | {compressed} |");
    drop(streams);
}

fn run(name: &str, count: usize, candidate: &Candidate) {
    let events = service_fn(async |_: Request<()>| {
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, Infallible>(response.body(Events { polls: 0 }).unwrap())
    });
    match *candidate {
        Candidate::Bare => open(name, count, &Identity::new().layer(events), "gzip", None),
        Candidate::Ours(coding, level) => {
            let settings = Settings::on().codings([(coding, level)]);
            let layer = CompressLayer::new()
                .settings(settings)
                .max_memory(usize::MAX);
            let switch = layer.switch();
            open(
                name,
                count,
                &layer.layer(events),
                coding.as_str(),
                Some(&switch),
            );
        }
        Candidate::TowerHttp(coding, level) => {
            let layer = CompressionLayer::new().quality(CompressionLevel::Precise(level));
            let service = layer.compress_when(SizeAbove::new(0)).layer(events);
            open(name, count, &service, coding.as_str(), None);
        }
        Candidate::Bounded => {
            let layer = CompressLayer::new();
            let switch = layer.switch();
            open(
                name,
                count,
                &layer.layer(events),
                "gzip, br, zstd",
                Some(&switch),
            );
        }
    }
}

fn main() {
    let place = std::env::args()
        .skip_while(|word| word != "--candidate")
        .nth(1);
    if let Some(place) = place {
        let (name, count, candidate) = &CANDIDATES[place.parse::<usize>().expect("a number")];
        run(name, *count, candidate);
        return;
    }
    println!("| | streams | resident memory of one | of all | compressed | reserved |");
    println!("|---|--:|--:|--:|--:|--:|");
    let program = std::env::current_exe().expect("this program");
    for (place, (_, _, candidate)) in CANDIDATES.iter().enumerate() {
        if matches!(candidate, Candidate::Ours(coding, _) if !coding.is_available()) {
            continue;
        }
        let child = Command::new(&program)
            .args(["--candidate", &place.to_string()])
            .status();
        assert!(child.expect("it starts").success());
    }
}

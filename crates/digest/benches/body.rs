//! Cost of the layers: of a frame in process, and of the bytes that a server sends per second of CPU time. Compares no
//! layer, the `md-5` crate, and the kernel of this crate.
//!
//! `cargo bench -p tower-stream-digest --bench body`
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    pin::Pin,
    task::{Context, Poll, Waker},
    thread,
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tower::{Layer, Service, layer::util::Identity};
use tower_stream_bench_support::Contest;
use tower_stream_digest::{Algorithm, DigestLayer, Md5, VerifyDigestLayer};

/// MD5 by the `md-5` crate, as an algorithm of the layers.
#[derive(Clone, Default)]
struct Reference(md5::Md5);

impl digest::HashMarker for Reference {}

impl digest::OutputSizeUser for Reference {
    type OutputSize = digest::consts::U16;
}

impl digest::Update for Reference {
    fn update(&mut self, data: &[u8]) {
        digest::Update::update(&mut self.0, data);
    }
}

impl digest::FixedOutput for Reference {
    fn finalize_into(self, out: &mut digest::Output<Self>) {
        digest::FixedOutput::finalize_into(self.0, out);
    }
}

impl Algorithm for Reference {
    const KEY: &'static str = Md5::KEY;
}

/// A body of this many frames of zeros, ready or after one `Pending`.
#[derive(Clone)]
struct Frames {
    frame: Bytes,
    left: usize,
    pending: bool,
}

impl Frames {
    fn len(&self) -> u64 {
        (self.frame.len() * self.left) as u64
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::take(&mut self.pending) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

/// A handler that responds with these frames and declares their digest.
#[derive(Clone)]
struct Handler {
    frames: Frames,
    promise: String,
}

impl Handler {
    fn new(frame: usize, frames: usize) -> Self {
        let frames = Frames {
            frame: Bytes::from(vec![0; frame]),
            left: frames,
            pending: true,
        };
        let mut md5 = <Md5 as digest::Digest>::new();
        (0..frames.left).for_each(|_| digest::Digest::update(&mut md5, &frames.frame));
        Self {
            frames,
            promise: hex::encode(digest::Digest::finalize(md5)),
        }
    }
}

impl<R> Service<Request<R>> for Handler {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Frames>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<R>) -> Self::Future {
        let head = Response::builder().header("x-content-md5", &self.promise);
        std::future::ready(Ok(head.body(self.frames.clone()).expect("a response")))
    }
}

/// Passes one response through a layer, without a server.
fn drive<L, B>(layer: &L, handler: &Handler) -> usize
where
    L: Layer<Handler>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut service = layer.layer(handler.clone());
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_2;
    let mut response = std::pin::pin!(service.call(request));
    let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut cx) else {
        panic!("the head is not held back")
    };
    let mut body = std::pin::pin!(response.into_body());
    let mut bytes = 0;
    loop {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Poll::Ready(Some(Err(_))) => panic!("the promise is kept"),
            Poll::Ready(None) => return bytes,
        }
    }
}

/// Overwrites the digest fields, because the handler always declares one.
fn announce<D: Algorithm>() -> DigestLayer {
    DigestLayer::new::<D>().overwrite(true)
}

fn benches(c: &mut Criterion) {
    for (frame, frames) in [(64, 1000), (16 * 1024, 100), (256 * 1024, 10)] {
        let handler = Handler::new(frame, frames);
        let mut group = c.benchmark_group(format!("body/{frames}x{frame}"));
        group.throughput(Throughput::Bytes(handler.frames.len()));
        group.bench_function("bare", |b| b.iter(|| drive(&Identity::new(), &handler)));
        group.bench_function("off", |b| {
            b.iter(|| drive(&DigestLayer::off(), &handler));
        });
        group.bench_function("announce, md-5", |b| {
            b.iter(|| drive(&announce::<Reference>(), &handler));
        });
        group.bench_function("announce, kernel", |b| {
            b.iter(|| drive(&announce::<Md5>(), &handler));
        });
        let segments = announce::<Md5>().segments(1 << 20);
        group.bench_function("announce with segments, kernel", |b| {
            b.iter(|| drive(&segments, &handler));
        });
        let verify = VerifyDigestLayer::md5();
        group.bench_function("verify, kernel", |b| b.iter(|| drive(&verify, &handler)));
        group.finish();
    }
}

/// In process: nanoseconds per frame above no layer, and GB/s.
fn in_process() {
    println!("\nin process, best of interleaved rounds: ns a frame (of these, over bare), GB/s");
    for (frame, frames) in [(64, 1000), (16 * 1024, 16), (256 * 1024, 4)] {
        let handler = Handler::new(frame, frames);
        let (md5, kernel) = (announce::<Reference>(), announce::<Md5>());
        let (md5_segments, kernel_segments) = (
            md5.clone().segments(1 << 20),
            kernel.clone().segments(1 << 20),
        );
        let (off, verify) = (DigestLayer::off(), VerifyDigestLayer::md5());
        let seconds = Contest::new(10)
            .entry(|| drive(&Identity::new(), &handler))
            .entry(|| drive(&off, &handler))
            .entry(|| drive(&md5, &handler))
            .entry(|| drive(&kernel, &handler))
            .entry(|| drive(&verify, &handler))
            .entry(|| drive(&md5_segments, &handler))
            .entry(|| drive(&kernel_segments, &handler))
            .seconds();
        println!("  frames of {frame} bytes");
        let names = [
            "bare",
            "off",
            "announce md-5",
            "announce kernel",
            "verify kernel",
            "segments md-5 (twice)",
            "segments kernel",
        ];
        for (name, s) in names.iter().zip(&seconds) {
            let ns = s * 1e9 / frames as f64;
            let over = ns - seconds[0] * 1e9 / frames as f64;
            println!(
                "  {name:<22} {ns:>10.1} ({over:>10.1}) {:>8.3}",
                handler.frames.len() as f64 / s / 1e9
            );
        }
    }
}

/// CPU time of this thread in nanoseconds, from the scheduler (Linux).
fn cpu_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

/// Serves one response to a client on another thread. Returns bytes per nanosecond of the server's CPU time.
fn serve<L, B>(layer: &L, handler: &Handler) -> f64
where
    L: Layer<Handler> + Sync,
    L::Service:
        Service<Request<hyper::body::Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    <L::Service as Service<Request<hyper::body::Incoming>>>::Future: 'static,
    B: Body<Data = Bytes, Error: Into<tower::BoxError>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let bytes = handler.frames.len();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).expect("the server");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n")
            .expect("a request");
        let mut buffer = vec![0; 1 << 20];
        let mut seen = 0;
        loop {
            match stream.read(&mut buffer).expect("an answer") {
                0 => return seen,
                n => seen += n as u64,
            }
        }
    });
    let (stream, _) = listener.accept().expect("the client");
    stream.set_nonblocking(true).expect("a socket");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let before = cpu_ns().expect("Linux");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
        let service = TowerToHyperService::new(layer.layer(handler.clone()));
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
            .expect("served");
    });
    let spent = cpu_ns().expect("Linux") - before;
    assert!(client.join().expect("the client") >= bytes);
    bytes as f64 / spent as f64
}

fn over_loopback() {
    if cpu_ns().is_none() {
        return println!("\nover loopback: needs Linux's schedstat");
    }
    let handler = Handler::new(64 * 1024, 1024);
    let (md5, kernel) = (announce::<Reference>(), announce::<Md5>());
    let segments = kernel.clone().segments(1 << 20);
    let verify = VerifyDigestLayer::md5();
    let mut best = [0f64; 5];
    for _ in 0..15 {
        let round = [
            serve(&Identity::new(), &handler),
            serve(&md5, &handler),
            serve(&kernel, &handler),
            serve(&segments, &handler),
            serve(&verify, &handler),
        ];
        best.iter_mut()
            .zip(round)
            .for_each(|(best, rate)| *best = best.max(rate));
    }
    println!(
        "\nover loopback, 64 MiB in frames of 64 KiB: GB a second of the server's CPU, and over the layer on md-5"
    );
    for (name, rate) in [
        "bare",
        "announce md-5",
        "announce kernel",
        "segments kernel",
        "verify kernel",
    ]
    .iter()
    .zip(best)
    {
        println!("  {name:<16} {rate:>7.3} {:>6.2}x", rate / best[1]);
    }
}

criterion_group!(bodies, benches);

fn main() {
    // `cargo test --benches` passes `--test`: run each routine once, without tables.
    bodies();
    if std::env::args().any(|arg| arg == "--bench") {
        in_process();
        over_loopback();
    }
    Criterion::default().configure_from_args().final_summary();
}

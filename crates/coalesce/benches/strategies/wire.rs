//! One connection: a hyper server on a thread, and a client that reads.

use std::{
    cell::Cell,
    convert::Infallible,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use criterion::measurement::Measurement;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
        pki_types::{PrivateKeyDer, ServerName},
    },
};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_stream_bench_support::CpuTime;

use super::bodies::{
    Events, Exact, FixedRing, Growing, Joining, Pooled, Predicted, Strategy, Vectored,
};

/// What the client requests.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) frames: u32,
    pub(crate) bytes: usize,
    /// Time from one frame to the next. Without it, all are ready.
    pub(crate) pace: Option<Duration>,
}

/// One response.
pub(crate) struct Measured {
    pub(crate) frames: u32,
    /// From the request to the last byte.
    pub(crate) elapsed: Duration,
    /// CPU time of the server, without the handshake.
    pub(crate) cpu: Duration,
    /// Nanoseconds from the making of each paced frame to its last byte at the client.
    pub(crate) delays: Vec<u64>,
}

pub(crate) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate");
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let client = ClientConfig::builder().with_root_certificates(roots);
        let server = ServerConfig::builder().with_no_client_auth();
        let server = server.with_single_cert(vec![certificate], key);
        Self {
            server: Arc::new(server.expect("a key")),
            client: Arc::new(client.with_no_client_auth()),
        }
    }
}

/// Serves one connection with this strategy, and reads it.
pub(crate) fn measure(strategy: Strategy, tls: Option<Arc<Tls>>, ask: Ask) -> Measured {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let epoch = Instant::now();
    let acceptor = tls
        .as_ref()
        .map(|tls| TlsAcceptor::from(Arc::clone(&tls.server)));
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let (stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(strategy.nodelay()).expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
        runtime.block_on(serve(strategy, acceptor, ask, epoch, stream))
    });
    let stream = TcpStream::connect(address).expect("the server");
    let (elapsed, reads) = match tls {
        None => read(stream, ask),
        Some(tls) => {
            let name = ServerName::try_from("localhost").expect("a name");
            let connection = ClientConnection::new(Arc::clone(&tls.client), name);
            read(StreamOwned::new(connection.expect("a client"), stream), ask)
        }
    };
    let delays = delays(&reads, epoch);
    let cpu = server.join().expect("the server");
    assert!(ask.pace.is_none() || delays.len() == ask.frames as usize);
    Measured {
        frames: ask.frames,
        elapsed,
        cpu,
        delays,
    }
}

async fn serve(
    strategy: Strategy,
    acceptor: Option<TlsAcceptor>,
    ask: Ask,
    epoch: Instant,
    stream: TcpStream,
) -> Duration {
    let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
    match acceptor {
        None => with_strategy(strategy, ask, epoch, stream).await,
        Some(acceptor) => {
            let stream = acceptor.accept(stream).await.expect("a handshake");
            with_strategy(strategy, ask, epoch, stream).await
        }
    }
}

async fn with_strategy<T>(strategy: Strategy, ask: Ask, epoch: Instant, io: T) -> Duration
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let events = || Events::new(ask.frames, ask.bytes, ask.pace, epoch);
    macro_rules! joined {
        ($buffer:expr) => {
            run(io, true, || Response::new(Joining::new(events(), $buffer))).await
        };
    }
    match strategy {
        Strategy::EachFrame | Strategy::Nagle => run(io, true, || Response::new(events())).await,
        Strategy::Flattened => run(io, false, || Response::new(events())).await,
        Strategy::FixedRing => joined!(FixedRing::new()),
        Strategy::Growing => joined!(Growing::default()),
        Strategy::Pooled => joined!(Pooled::default()),
        Strategy::Predicted => joined!(Predicted::default()),
        Strategy::Exact => joined!(Exact::default()),
        Strategy::Vectored => joined!(Vectored::default()),
        Strategy::Coalesce | Strategy::CoalesceNagle | Strategy::Linger => {
            let service = tower::service_fn(async |_: Request<()>| {
                Ok::<_, Infallible>(Response::new(events()))
            });
            let service = strategy.layer().layer(service);
            let respond = || {
                let response = service.clone().oneshot(Request::new(())).now_or_never();
                response.expect("ready").expect("infallible")
            };
            run(io, true, respond).await
        }
    }
}

/// The CPU time of this thread from the request to the end of the connection.
async fn run<T, B>(io: T, writev: bool, respond: impl Fn() -> Response<B>) -> Duration
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let start = Cell::new(Duration::ZERO);
    let service = service_fn(|_| {
        start.set(CpuTime.start());
        std::future::ready(Ok::<_, Infallible>(respond()))
    });
    let mut builder = http1::Builder::new();
    let connection = builder
        .writev(writev)
        .serve_connection(TokioIo::new(io), service);
    // A TLS client that leaves at the end does not wait for the close.
    let _ = connection.await;
    CpuTime.end(start.get())
}

/// The time to the last byte, and what was read when, if the frames are paced.
fn read(mut stream: impl Read + Write, ask: Ask) -> (Duration, Vec<(Instant, Vec<u8>)>) {
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).expect("the server reads");
    stream.flush().expect("the server reads");
    let start = Instant::now();
    let mut buffer = vec![0; 256 * 1024];
    let (mut reads, mut bytes) = (Vec::new(), 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                bytes += count;
                if ask.pace.is_some() {
                    reads.push((Instant::now(), buffer[..count].to_vec()));
                }
            }
        }
    }
    let elapsed = start.elapsed();
    assert!(bytes > ask.bytes * ask.frames as usize, "{bytes} bytes");
    (elapsed, reads)
}

/// A frame ends with a line feed, and begins with `@`, the time and `@`.
fn delays(reads: &[(Instant, Vec<u8>)], epoch: Instant) -> Vec<u64> {
    let (mut delays, mut text) = (Vec::new(), Vec::new());
    for (at, data) in reads {
        text.extend_from_slice(data);
        while let Some(start) = text.iter().position(|byte| *byte == b'@') {
            let Some(frame) = text.get(start..start + 64) else {
                break;
            };
            let made = std::str::from_utf8(&frame[1..21]).expect("digits");
            let made = made.parse::<u64>().expect("digits");
            let read = at.duration_since(epoch).as_nanos() as u64;
            delays.push(read.saturating_sub(made));
            text.drain(..start + 64);
        }
    }
    delays
}

//! Logs about a collector that is not reachable. The pipeline exports on a separate thread, so the subscriber is
//! global, and this is the only test of its binary.

#![cfg(feature = "otlp")]

use std::{
    fmt,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use opentelemetry::trace::Tracer;
use parking_lot::Mutex;
use tower_stream_trace::pipeline::Pipeline;
use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

/// The events with the public target, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        if event.metadata().target() == "tower_stream_trace::loss" {
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().push((*event.metadata().level(), fields.0));
        }
    }
}

/// Reads a request, whose body is known to contain no boundary, and responds to it.
fn answer(mut connection: TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head = request.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.unwrap().parse().unwrap();
            if request.len() >= head + 4 + length {
                break;
            }
        }
        let read = connection.read(&mut buffer).unwrap();
        assert!(read > 0, "the request was cut short");
        request.extend_from_slice(&buffer[..read]);
    }
    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    connection.write_all(response).unwrap();
}

#[test]
fn a_collector_that_is_not_there_is_told_with_endpoint_and_cause_and_so_is_its_return() {
    let log = Log::default();
    tracing_subscriber::registry().with(log.clone()).init();

    // A collector that closes connections until it is up.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            if is_up.load(Ordering::SeqCst) {
                answer(connection);
            }
        }
    });

    let url = format!("http://user:secret@{address}");
    let pipeline = Pipeline::builder("test").endpoint(url).build().unwrap();
    let span = || drop(pipeline.tracer().start("span"));
    span();
    pipeline.provider().force_flush().unwrap_err();
    let (level, warning) = log.0.lock()[0].clone();
    assert_eq!(level, Level::WARN);
    let endpoint = format!(r#"endpoint="http://{address}/v1/traces""#);
    for part in [&*endpoint, "lost=1", "span export fails"] {
        assert!(warning.contains(part), "no `{part}` in {warning}");
    }
    // The exporter only reports "network error", which does not help.
    assert!(warning.contains("connection"), "{warning}");
    assert!(!warning.contains("secret"), "{warning}");

    up.store(true, Ordering::SeqCst);
    span();
    pipeline.provider().force_flush().unwrap();
    let (level, told) = log.0.lock().last().cloned().unwrap();
    assert_eq!(level, Level::INFO);
    for part in [&*endpoint, "lost=1", "span export works again"] {
        assert!(told.contains(part), "no `{part}` in {told}");
    }
}

//! When streams start, and how latency is measured.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use parking_lot::Mutex;
use stream_load::{Args, Ending, Load, Stream, Watch, run};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    sync::watch,
    time::{Instant, sleep},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn args(url: &str, more: &[&str]) -> Args {
    let args = ["stream-load", url, "--no-progress"];
    Args::parse_from(args.iter().chain(more))
}

/// Starts a server that answers no request until it is told to, and then answers all.
async fn paused() -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let go_on = watch::Sender::new(false);
    let paused = go_on.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut go_on = paused.subscribe();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = go_on.wait_for(|go_on| *go_on).await;
                let _ = stream.write_all(OK).await;
                while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    (url, go_on)
}

#[derive(Default)]
struct Starts(Mutex<Vec<Instant>>);

impl Watch for Starts {
    fn ended(&self, stream: &Stream<'_>) {
        assert_eq!(stream.ending, Ending::Whole, "{}", stream.reason);
        self.0.lock().push(stream.started);
    }
}

/// 20 streams at 100 per second and at most two at a time, against a server that pauses for the first 400 ms.
#[tokio::test]
async fn a_pause_of_the_server_is_in_the_latency_of_the_streams_that_were_due_meanwhile() {
    let (url, go_on) = paused().await;
    let starts = Arc::new(Starts::default());
    let limited = args(&url, &["-n", "2", "--rate", "100", "--total", "20"]);
    let load = Load::new(limited).unwrap().watch(Arc::clone(&starts));
    let mut running = load.start().await.unwrap();
    sleep(Duration::from_millis(400)).await;
    go_on.send_replace(true);
    running.ended().await;
    let report = running.finish().await;
    let json = report.to_json();

    // Only the first two streams start during the pause, and the last one is due at 190 ms.
    assert!(report.behind_schedule() >= 18, "{report}");
    assert_eq!(json["behind_schedule"]["count"], report.behind_schedule());
    assert!(
        json["behind_schedule"]["max"].as_f64().unwrap() >= 0.35,
        "{json}"
    );
    for what in ["head", "first_chunk", "duration"] {
        assert_eq!(json["latency"][what]["count"], 20);
        assert_eq!(json["service_time"][what]["count"], 20);
        assert!(
            json["latency"][what]["p50"].as_f64().unwrap() >= 0.35,
            "{json}"
        );
        let mean = |of: &str| json[of][what]["mean"].as_f64().unwrap();
        assert!(mean("latency") >= mean("service_time") + 0.3, "{json}");
    }
    assert!(report.to_string().contains("behind schedule: "), "{report}");

    // The rate is an upper limit, also after the pause: ten streams never start within 80 ms.
    let mut starts = starts.0.lock().clone();
    starts.sort();
    assert_eq!(starts.len(), 20);
    for ten in starts.windows(10) {
        assert!(
            ten[9] - ten[0] >= Duration::from_millis(79),
            "{:?}",
            ten[9] - ten[0]
        );
    }
}

#[tokio::test]
async fn a_pause_of_the_server_does_not_stop_the_schedule() {
    let (url, go_on) = paused().await;
    // Without --streams, more than ten streams may be open.
    let mut running = Load::new(args(&url, &["--rate", "100", "--total", "20"]))
        .unwrap()
        .start()
        .await
        .unwrap();
    let mut opened = 0;
    let server = go_on.clone();
    while opened < 20 {
        sleep(Duration::from_millis(5)).await;
        opened = server.receiver_count();
    }
    go_on.send_replace(true);
    running.ended().await;
    assert_eq!(running.finish().await.count(Ending::Whole), 20);
}

#[tokio::test]
async fn streams_that_were_due_and_did_not_begin_are_counted() {
    let (url, _go_on) = paused().await;
    let more = [
        "-n",
        "2",
        "--rate",
        "100",
        "--duration",
        "300ms",
        "--grace",
        "0s",
    ];
    let report = run(&args(&url, &more)).await.unwrap();
    assert_eq!(report.streams() + report.not_begun(), 30, "{report}");
    assert!(report.streams() <= 2, "{report}");
    assert_eq!(report.to_json()["not_begun"], report.not_begun());
}

#[tokio::test]
async fn streams_that_were_moved_beyond_the_end_of_the_run_are_counted() {
    let (url, go_on) = paused().await;
    let more = ["-n", "2", "--rate", "20", "--duration", "620ms"];
    let load = Load::new(args(&url, &more)).unwrap();
    let mut running = load.start().await.unwrap();
    sleep(Duration::from_millis(300)).await;
    go_on.send_replace(true);
    running.ended().await;
    let report = running.finish().await;
    assert_eq!(report.streams() + report.not_begun(), 13, "{report}");
    // Two during the pause, and those of at most 330 ms after it.
    assert!(report.streams() <= 2 + 7, "{report}");
}

#[tokio::test]
async fn without_a_rate_latency_is_service_time() {
    let (url, go_on) = paused().await;
    go_on.send_replace(true);
    let report = run(&args(&url, &["-n", "2", "--total", "20"]))
        .await
        .unwrap();
    let json = report.to_json();
    assert_eq!(json["latency"], json["service_time"]);
    assert_eq!((report.behind_schedule(), report.not_begun()), (0, 0));
}

/// The clock is paused, so a minute of attempts takes no time and the delays are exact.
#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_not_retried_in_a_busy_loop() {
    // Bound, so that no other test gets the port, but not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    let more = ["-n", "2", "--duration", "1m", "--grace", "0s"];
    let report = run(&args(&url, &more)).await.unwrap();
    assert!(report.streams() >= 2, "{report}");
    // Each worker waits 10, 20, 40 .. ms, then tries twice a second.
    assert!(report.streams() <= 2 * 130, "{report}");
    assert!(!report.verdict().is_pass());
}

#[tokio::test]
async fn no_more_workers_than_streams_are_started() {
    let (url, go_on) = paused().await;
    go_on.send_replace(true);
    let more = ["-n", "1000000", "--total", "3"];
    let running = Load::new(args(&url, &more)).unwrap().start().await.unwrap();
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert!(tasks < 100, "{tasks}");
    drop(running);
}

//! HTTP/2 clients that stop reading a stream, or the connection.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use h2::{RecvStream, client, client::SendRequest};
use http::Request;

use super::{
    stall::{FRAME, ended, producers},
    *,
};

/// More than any test uses.
const WIDE: u32 = 100_000_000;

/// Runs the connection of a client.
struct Driver {
    /// The client neither reads nor writes any more.
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<(), h2::Error>>,
}

/// Opens a connection with these windows for each stream and for all of them.
async fn open(rig: &Rig, stream: u32, connection: u32) -> (SendRequest<Bytes>, Driver) {
    let handshake = client::Builder::new()
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .handshake(rig.connect().io);
    let (requests, mut connection) = handshake.await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(poll_fn(move |cx| {
        if stopped.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut connection).poll(cx)
    }));
    (requests, Driver { stop, task })
}

async fn request(requests: &mut SendRequest<Bytes>, path: &str) -> RecvStream {
    let request = Request::get(format!("http://a{path}")).body(()).unwrap();
    *requests = requests.clone().ready().await.unwrap();
    let (response, _) = requests.send_request(request, true).unwrap();
    response.await.unwrap().into_body()
}

/// Reads a frame and allows the server to send as much again. Returns 0 at the end.
async fn read(body: &mut RecvStream) -> usize {
    let Some(data) = body.data().await else {
        return 0;
    };
    let bytes = data.unwrap().len();
    body.flow_control().release_capacity(bytes).unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn one_stalled_stream_harms_none_of_its_neighbours() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let (mut requests, _driver) = open(&rig, 65_535, WIDE).await;
    let mut stalled = request(&mut requests, "/endless").await;
    let mut neighbours = Vec::new();
    for _ in 0..100 {
        neighbours.push(request(&mut requests, "/twenty").await);
    }
    let mut reading = Vec::new();
    for mut body in neighbours {
        reading.push(tokio::spawn(async move {
            let mut total = 0;
            loop {
                match read(&mut body).await {
                    0 => break total,
                    bytes => total += bytes,
                }
                sleep(4 * SECOND).await;
            }
        }));
    }
    let began = Instant::now();
    assert_eq!(ended(&mut ends).await, "slow_reader");
    assert_eq!(began.elapsed().as_secs(), 30, "before the neighbours end");

    for reading in reading {
        assert_eq!(reading.await.unwrap(), 20 * FRAME);
        assert_eq!(ended(&mut ends).await, "none");
    }
    // When the window of the stalled one opens, it is reset.
    let error = loop {
        match stalled.data().await.unwrap() {
            Ok(data) => {
                let mut window = stalled.flow_control().clone();
                window.release_capacity(data.len()).unwrap();
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_with_nothing_to_send_outlives_a_stalled_stream() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let (mut requests, driver) = open(&rig, 65_535, WIDE).await;
    let mut quiet = request(&mut requests, "/quiet").await;
    assert_eq!(read(&mut quiet).await, FRAME);
    let _stalled = request(&mut requests, "/endless").await;
    assert_eq!(ended(&mut ends).await, "slow_reader");
    let ended = timeout(1000 * SECOND, ends.recv()).await;
    assert!(ended.is_err(), "{ended:?}");
    assert!(!driver.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_large_frame_for_a_window_of_0_is_freed_and_named() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let (mut requests, _driver) = open(&rig, 0, WIDE).await;
    let _quiet = request(&mut requests, "/silent").await;
    let mut body = request(&mut requests, "/full").await;
    let began = Instant::now();
    assert_eq!(ended(&mut ends).await, "slow_reader");
    assert_eq!(began.elapsed().as_secs(), 30);
    let error = body.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_window_is_used_up_is_closed() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let (mut requests, driver) = open(&rig, WIDE, 65_535).await;
    let _silent = request(&mut requests, "/silent").await;
    let _one = request(&mut requests, "/endless").await;
    let _two = request(&mut requests, "/endless").await;
    let began = Instant::now();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(ended(&mut ends).await);
    }
    all.sort_unstable();
    assert_eq!(all, ["none", "slow_reader", "slow_reader"]);
    assert_eq!(began.elapsed().as_secs(), 30);
    let _ = timeout(1000 * SECOND, driver.task)
        .await
        .expect("the connection is still open");
    rig.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_only_stream_has_stalled_is_closed() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let (mut requests, driver) = open(&rig, 65_535, WIDE).await;
    let _body = request(&mut requests, "/endless").await;
    assert_eq!(ended(&mut ends).await, "slow_reader");
    let _ = timeout(1000 * SECOND, driver.task)
        .await
        .expect("the connection is still open");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_socket_is_aborted() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server.ping_interval(None));
    let (mut requests, driver) = open(&rig, WIDE, WIDE).await;
    let _silent = request(&mut requests, "/silent").await;
    let later = Request::get("http://a/later").body(()).unwrap();
    let (_later, _) = requests.send_request(later, true).unwrap();
    let _endless = request(&mut requests, "/endless").await;
    driver.stop.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(ended(&mut ends).await);
    }
    all.sort_unstable();
    assert_eq!(all, ["none", "slow_reader", "slow_reader"]);
    assert_eq!(began.elapsed().as_secs(), 30);
    rig.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_read_slowly_or_with_pauses_is_served() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server.min_rate(6900));
    let (mut requests, _driver) = open(&rig, 65_535, WIDE).await;
    let mut body = request(&mut requests, "/endless").await;
    for _ in 0..10 {
        sleep(15 * SECOND).await;
        for _ in 0..10 {
            read(&mut body).await;
        }
    }
    // 56 kbit/s
    for _ in 0..100 {
        sleep(Duration::from_millis(2340)).await;
        let mut left = FRAME;
        while left > 0 {
            left = left.saturating_sub(read(&mut body).await);
        }
    }
    assert!(ends.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_read_below_the_minimum_rate_is_reset() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server.min_rate(7000));
    let (mut requests, _driver) = open(&rig, 65_535, WIDE).await;
    let mut body = request(&mut requests, "/endless").await;
    let mut read = 0;
    while ends.try_recv().is_err() {
        sleep(4 * SECOND).await;
        let Some(Ok(data)) = body.data().await else {
            break;
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        read += data.len();
        assert!(read < 1_000_000, "still served");
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_response_needs_no_additional_frame() {
    let rig = Rig::start(|server| server.ping_interval(None));
    let mut client = rig.connect();
    client.send([H2_START, H2_GET].concat()).await;
    let (received, _) = client.closed().await;
    let data = h2_frames(&received).into_iter().filter(|kind| *kind == 0);
    assert_eq!(data.count(), 1);
}

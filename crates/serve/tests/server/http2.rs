//! The limits of an HTTP/2 connection, as its client meets them.

use bytes::Bytes;
use http::{Request, StatusCode};

use super::*;

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// HEADERS of this stream: GET, http, `/never`, whose path is a literal that is not indexed.
fn never(stream: u32) -> Vec<u8> {
    let mut frame = b"\0\0\x0a\x01\x05".to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend(b"\x82\x86\x04\x06/never");
    frame
}

fn reset(stream: u32) -> Vec<u8> {
    let mut frame = b"\0\0\x04\x03\0".to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend(8_u32.to_be_bytes()); // CANCEL
    frame
}

/// A frame as it was received.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn next_frame(client: &mut Client) -> Frame {
    let mut head = [0; 9];
    client.io.read_exact(&mut head).await.unwrap();
    let [a, b, c, kind, _, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    client.io.read_exact(&mut payload).await.unwrap();
    let stream = u32::from_be_bytes(stream);
    Frame {
        kind,
        stream,
        payload,
    }
}

/// Connects, and returns the server's SETTINGS.
async fn greet(rig: &Rig) -> (Client, Vec<(u16, u32)>) {
    let mut client = rig.connect();
    client.send(H2_START).await;
    let settings = next_frame(&mut client).await;
    assert_eq!(settings.kind, 4);
    let settings = settings.payload.chunks(6).map(|setting| {
        let [a, b, value @ ..] = setting else {
            unreachable!()
        };
        let id = u16::from_be_bytes([*a, *b]);
        (id, u32::from_be_bytes(value.try_into().unwrap()))
    });
    let settings = settings.collect();
    (client, settings)
}

#[tokio::test(start_paused = true)]
async fn a_stream_above_max_concurrent_streams_is_refused_and_the_others_are_not() {
    let rig = Rig::start(|server| server.max_concurrent_streams(2));
    let (mut client, settings) = greet(&rig).await;
    assert!(settings.contains(&(3, 2)), "{settings:?}");
    for stream in [1, 3, 5] {
        client.send(never(stream)).await;
    }
    let refused = loop {
        let frame = next_frame(&mut client).await;
        if frame.kind == RST_STREAM {
            break frame;
        }
    };
    assert_eq!(
        (refused.stream, &refused.payload[..]),
        (5, &7_u32.to_be_bytes()[..])
    );
    // A stream that ends makes room for the next one.
    client.send(reset(1)).await;
    sleep(SECOND).await;
    client.send(b"\0\0\x03\x01\x05\0\0\0\x07\x82\x86\x84").await;
    let mut hello = next_frame(&mut client).await;
    while hello.kind != 0 {
        assert!(![RST_STREAM, GOAWAY].contains(&hello.kind), "{hello:?}");
        hello = next_frame(&mut client).await;
    }
    assert_eq!((hello.stream, &hello.payload[..]), (7, &b"hello"[..]));
    assert_eq!(rig.drain.stats().in_flight, 1, "stream 3");
}

#[tokio::test(start_paused = true)]
async fn as_many_resets_as_max_pending_resets_are_accepted_and_one_more_is_not() {
    for (limit, default) in [(5, false), (20, true), (200, false)] {
        let rig = Rig::start(|server| match default {
            true => server,
            false => server.max_pending_resets(limit),
        });
        for (resets, accepted) in [(limit as u32, true), (limit as u32 + 1, false)] {
            let (mut client, _) = greet(&rig).await;
            // In one piece, so that the server has no time for the streams in between.
            let streams = (0..resets).map(|n| 2 * n + 1);
            let flood = streams.flat_map(|stream| [never(stream), reset(stream)].concat());
            client.send(flood.collect::<Vec<_>>()).await;
            // A PING is answered after all of it.
            client.send(b"\0\0\x08\x06\0\0\0\0\0whatever").await;
            let end = loop {
                let frame = next_frame(&mut client).await;
                if frame.kind == GOAWAY || frame.payload == b"whatever" {
                    break frame;
                }
            };
            match accepted {
                true => assert_eq!(end.kind, 6, "{limit} {end:?}"),
                false => {
                    assert_eq!(end.kind, GOAWAY, "{limit} {end:?}");
                    assert_eq!(end.payload[4..8], 11_u32.to_be_bytes(), "ENHANCE_YOUR_CALM");
                    client.closed().await;
                }
            }
        }
        rig.idle().await;
    }
}

/// A client that answers PINGs.
async fn connected(rig: &Rig) -> h2::client::SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(rig.connect().io).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_head_above_max_header_size_is_answered_431_and_the_connection_goes_on() {
    let rig = Rig::start(|server| server.max_header_size(10_000));
    let (_, settings) = greet(&rig).await;
    assert!(settings.contains(&(6, 10_000)), "{settings:?}");
    let mut client = connected(&rig).await;
    for (length, status) in [
        (5_000, StatusCode::OK),
        (12_000, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        (5_000, StatusCode::OK),
    ] {
        let request = Request::get("http://a/").header("x", "x".repeat(length));
        let (response, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), status, "{length}");
        client = client.ready().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_ping_in_time_is_closed() {
    let pings =
        |server: Serve<Pipes, Router>| server.ping_interval(5 * SECOND).ping_timeout(3 * SECOND);
    let rig = Rig::start(pings);
    let (mut client, _) = greet(&rig).await;
    client.send(never(1)).await;
    let (received, took) = client.closed().await;
    assert!(h2_frames(&received).contains(&6), "no PING");
    assert_eq!(took.as_secs(), 8);
    rig.idle().await;

    // `/slow` takes 200 s.
    let mut client = connected(&rig).await;
    let request = Request::get("http://a/slow").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn without_pings_a_client_that_has_vanished_is_kept() {
    let rig = Rig::start(|server| server.ping_interval(None));
    let (mut client, _) = greet(&rig).await;
    client.send(never(1)).await;
    assert!(timeout(10_000 * SECOND, client.closed()).await.is_err());
    assert_eq!(rig.drain.stats().in_flight, 1);
}

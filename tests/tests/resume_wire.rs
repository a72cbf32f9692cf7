//! Resumable streams over real sockets: a connection that is cut after any byte loses no event and doubles none.

use std::{error::Error, net::SocketAddr};

use demo_server::Args;
use e2e::{Protocol, Request, h1, h2, start_demo};

type Outcome = Result<(), Box<dyn Error>>;

/// What a client has made of all bytes that it received, over all its connections.
#[derive(Default)]
struct Client {
    /// The bytes of the whole events.
    whole: String,
    cursor: Option<String>,
}

impl Client {
    /// Takes the bytes of one response, of which the last event may be cut.
    fn take(&mut self, text: &str) {
        let mut rest = text;
        while let Some((block, next)) = rest.split_once("\n\n") {
            let id = block.lines().find_map(|line| line.strip_prefix("id: "));
            self.cursor = id.map(str::to_owned).or(self.cursor.take());
            // Only a cursor: it comes again with each response that begins at the start.
            if block.contains("data: ") {
                self.whole.push_str(&rest[..block.len() + 2]);
            }
            rest = next;
        }
    }

    fn request(&self, path: &str) -> Request {
        let request = Request::get(path);
        match &self.cursor {
            Some(cursor) => request.header("last-event-id", cursor),
            None => request,
        }
    }

    /// Asserts that the events have these numbers, and come from one producer.
    fn assert_whole(&self, words: usize, when: &str) {
        let mut runs = Vec::new();
        let data = self
            .whole
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        let numbers: Vec<_> = data
            .map(|data| {
                let event: serde_json::Value = serde_json::from_str(data).unwrap();
                runs.push(event["run"].as_str().unwrap().to_owned());
                event["n"].as_u64().unwrap() as usize
            })
            .collect();
        assert!(numbers.iter().copied().eq(0..words), "{when}: {numbers:?}");
        runs.dedup();
        assert_eq!(runs.len(), 1, "{when}: {runs:?}");
    }
}

/// The body bytes of an HTTP/1.1 response of which this much was received.
fn body(received: &[u8]) -> String {
    let text = String::from_utf8_lossy(received);
    let Some((_, mut chunks)) = text.split_once("\r\n\r\n") else {
        return String::new();
    };
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let (data, rest) = rest.split_at(size.min(rest.len()));
        body.push_str(data);
        chunks = rest.strip_prefix("\r\n").unwrap_or_default();
    }
    body
}

/// Opens a connection, and cuts it after this many bytes. Returns false if the response was shorter.
async fn cut(
    addr: SocketAddr,
    client: &mut Client,
    path: &str,
    bytes: usize,
) -> Result<bool, Box<dyn Error>> {
    let mut connection = h1::Connection::open(addr).await?;
    connection.send(&client.request(path)).await?;
    while connection.received().len() < bytes {
        connection
            .read_some(bytes - connection.received().len())
            .await?;
        if connection.received().ends_with(b"\r\n0\r\n\r\n") {
            break;
        }
    }
    let is_cut = !connection.received().ends_with(b"\r\n0\r\n\r\n");
    client.take(&body(connection.received()));
    connection.reset()?;
    Ok(is_cut)
}

async fn finish(addr: SocketAddr, client: &mut Client, protocol: Protocol, path: &str) -> Outcome {
    let rest = protocol.send(addr, &client.request(path)).await?;
    if rest.status() != 204 {
        assert_eq!(rest.status(), 200);
        assert!(rest.end.is_whole(), "{}", rest.end);
        client.take(&rest.text());
    }
    // At the end, and from now on: an `EventSource` stops at this status.
    let over = protocol.send(addr, &client.request(path)).await?;
    assert_eq!((over.status(), over.text().as_str()), (204, ""));
    Ok(())
}

#[tokio::test]
async fn h1_is_cut_after_every_byte() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let (addr, path) = (server.public_addr(), "/story?words=4&interval_ms=0");
    for bytes in 1.. {
        let mut client = Client::default();
        let is_cut = cut(addr, &mut client, path, bytes).await?;
        finish(addr, &mut client, Protocol::Http11, path).await?;
        client.assert_whole(4, &format!("cut after {bytes} bytes"));
        if !is_cut {
            assert!(bytes > 600, "the head and the events");
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_long_stream_is_cut_again_and_again_and_is_the_same_to_the_byte() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let (addr, path) = (server.public_addr(), "/story?words=1000&interval_ms=0");
    let mut client = Client::default();
    let mut step = 0;
    // Each connection brings one event at least.
    while cut(addr, &mut client, path, 1_500 + step * 977 % 5_000).await? {
        step += 1;
        assert!(step < 1_000, "no progress");
    }
    finish(addr, &mut client, Protocol::Http2, path).await?;
    client.assert_whole(1_000, "cut again and again");
    assert!(step > 20, "{step} cuts");
    let id = client.cursor.unwrap();
    let id = id.split('.').next().unwrap();
    let whole = Protocol::Http11
        .send(addr, &Request::get(&format!("/streams/{id}")))
        .await?;
    let mut other = Client::default();
    other.take(&whole.text());
    assert!(other.whole == client.whole);
    Ok(())
}

#[tokio::test]
async fn h2_is_cut_after_every_frame() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let (addr, path) = (server.public_addr(), "/story?words=20&interval_ms=0");
    for frames in 1.. {
        let mut client = Client::default();
        let mut connection = h2::Connection::open(addr).await?;
        let mut reply = connection
            .send(&client.request(path))
            .await?
            .reply()
            .await?;
        let mut text = String::new();
        let mut read = 0;
        while read < frames {
            let Some(chunk) = reply.chunk().await else {
                break;
            };
            text.push_str(std::str::from_utf8(&chunk.data)?);
            read += 1;
        }
        client.take(&text);
        drop((reply, connection));
        finish(addr, &mut client, Protocol::Http2, path).await?;
        client.assert_whole(20, &format!("cut after {frames} frames"));
        if read < frames {
            assert!(frames > 1, "no frame");
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_waits_for_the_producer_and_tells_its_reader_to_come_back() -> Outcome {
    let server = start_demo(Args {
        advertise: std::time::Duration::from_millis(50),
        deadline: std::time::Duration::from_millis(400),
        ..Args::default()
    })
    .await?;
    let (addr, path) = (server.public_addr(), "/story?words=100000&interval_ms=10");
    let mut connection = h1::Connection::open(addr).await?;
    connection.send(&Request::get(path)).await?;
    let mut reply = connection.reply().await?;
    reply.chunk().await;
    let report = tokio::spawn(server.shutdown());
    let response = reply.finish().await;
    let text = response.text();
    assert!(
        text.contains("event: drain\n"),
        "{}",
        &text[text.len() - 300..]
    );
    assert!(text.contains("\nretry: "), "{}", &text[text.len() - 300..]);
    assert!(response.end.is_whole(), "{}", response.end);
    let report = report.await??;
    assert_eq!(
        (report.stats.in_flight, report.stats.aborted),
        (0, 0),
        "{report}"
    );
    Ok(())
}

//! Digests as the demo gives them: `/files` and `/bytes` announce, `/promise` is verified, `/upload` is checked.

use std::error::Error;

use demo_server::{Args, Server};
use e2e::{End, Protocol, Request, Response, h1, start_demo};
use md5::{Digest, Md5};
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn Error>>;

fn md5(data: &[u8]) -> String {
    hex::encode(Md5::digest(data))
}

fn content() -> Vec<u8> {
    (0..700_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

async fn server() -> Result<(Server, TempDir), Box<dyn Error>> {
    let dir = TempDir::new()?;
    std::fs::write(dir.path().join("big"), content())?;
    let files = Some(dir.path().to_owned());
    Ok((
        start_demo(Args {
            files,
            ..Args::default()
        })
        .await?,
        dir,
    ))
}

async fn get(
    server: &Server,
    protocol: Protocol,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Response, End> {
    let request = Request::get(target).header("TE", "trailers");
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    protocol.send(server.public_addr(), &request).await
}

#[tokio::test]
async fn files_and_bytes_announce_what_arrives() -> Outcome {
    let (server, _dir) = server().await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        for (target, range) in [
            ("/files/big", None),
            ("/files/big", Some("bytes=1000-649999")),
            ("/files/big", Some("bytes=-1")),
            ("/bytes?size=100000", None),
            ("/bytes?size=100000&length=0", None),
            ("/bytes?size=10", None),
        ] {
            let range: Vec<_> = range.map(|range| ("Range", range)).into_iter().collect();
            let answer = get(&server, protocol, target, &range).await?;
            assert_eq!(answer.status(), if range.is_empty() { 200 } else { 206 });
            assert!(answer.end.is_whole());
            let announced = answer
                .trailer("x-content-md5")
                .or(answer.header("x-content-md5"));
            assert_eq!(
                announced,
                Some(&*md5(&answer.body())),
                "{protocol:?} {target} {range:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_head_and_a_stream_of_events_have_no_digest() -> Outcome {
    let (server, _dir) = server().await?;
    for protocol in Protocol::ALL {
        let head = protocol
            .send(server.public_addr(), &Request::head("/files/big"))
            .await?;
        assert_eq!(
            (head.header("content-length"), head.header("x-content-md5")),
            (Some("700000"), None)
        );
        let events = get(&server, protocol, "/events?count=2&interval_ms=1", &[]).await?;
        assert!(events.header("x-content-md5").is_none() && events.trailers.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_promise_is_kept_or_visibly_broken() -> Outcome {
    let (server, _dir) = server().await?;
    for protocol in Protocol::ALL {
        for length in [0, 1] {
            for (promised_as, name) in [
                ("md5hex", "x-content-md5"),
                ("md5b64", "content-md5"),
                ("content-digest", "content-digest"),
            ] {
                let unframed = protocol == Protocol::Http10 && length == 0;
                for size in [1000, 1_000_000] {
                    let target = format!("/promise?size={size}&length={length}&as={promised_as}");
                    let kept = get(&server, protocol, &target, &[]).await?;
                    assert_eq!(
                        (kept.status(), kept.body().len()),
                        (200, size),
                        "{protocol:?} {target}"
                    );
                    assert!(kept.header(name).is_some());
                    assert!(
                        kept.end.is_whole() || unframed,
                        "{protocol:?} {target}: {}",
                        kept.end
                    );

                    let broken = get(&server, protocol, &format!("{target}&corrupt=1"), &[]).await;
                    match broken {
                        Ok(answer) if answer.status() == 502 => assert_eq!(size, 1000),
                        Ok(answer) if unframed => {
                            assert_eq!((size, answer.end), (1_000_000, End::Closed));
                        }
                        Ok(answer) => {
                            assert!(answer.end.is_cut(), "{protocol:?} {target}: {}", answer.end);
                        }
                        Err(end) => assert!(!end.is_whole(), "{protocol:?} {target}: {end}"),
                    }
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_upload_is_checked() -> Outcome {
    let (server, _dir) = server().await?;
    let body = content();
    for protocol in Protocol::ALL {
        let upload = Request::new("PUT", "/upload").body(body.clone());
        let answer = protocol.send(server.public_addr(), &upload).await?;
        assert_eq!(
            (answer.status(), answer.json()["size"].as_u64()),
            (200, Some(700_000))
        );
        assert_eq!(answer.json()["md5"], md5(&body));
        let good = upload.clone().header("X-Content-MD5", &md5(&body));
        assert_eq!(
            protocol.send(server.public_addr(), &good).await?.status(),
            200
        );
        let bad = upload.header("X-Content-MD5", &md5(b"other"));
        let answer = protocol.send(server.public_addr(), &bad).await?;
        assert_eq!(answer.status(), 400, "{protocol:?}");
        assert_eq!(answer.json()["title"], "BadDigest");
    }
    // A chunked upload with its digest in the trailers.
    for (trailer, status) in [(md5(b"hello"), 200), (md5(b"other"), 400)] {
        let mut connection = h1::Connection::open(server.public_addr()).await?;
        let request = format!(
            "PUT /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Content-MD5\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Content-MD5: {trailer}\r\n\r\n"
        );
        connection.send_raw(request.as_bytes()).await?;
        assert_eq!(connection.reply().await?.finish().await.status(), status);
    }
    Ok(())
}

//! `/files` over every protocol: the file as it is on disk, ranges, and nothing else on the machine.

use std::{error::Error, fs};

use demo_server::{Args, Server};
use e2e::{Protocol, Request, h1, start_demo};
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn Error>>;

fn content() -> Vec<u8> {
    (0..2_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// `served/big` and `served/name with space.txt`; `secret` beside `served`.
async fn server() -> Result<(Server, TempDir), Box<dyn Error>> {
    let dir = TempDir::new()?;
    fs::create_dir(dir.path().join("served"))?;
    fs::write(dir.path().join("served/big"), content())?;
    fs::write(dir.path().join("served/name with space.txt"), "spaced")?;
    fs::write(dir.path().join("secret"), "secret")?;
    std::os::unix::fs::symlink("../secret", dir.path().join("served/link"))?;
    let args = Args {
        files: Some(dir.path().join("served")),
        ..Args::default()
    };
    Ok((start_demo(args).await?, dir))
}

#[tokio::test]
async fn a_file_arrives_as_it_is() -> Outcome {
    let (server, _dir) = server().await?;
    for protocol in Protocol::ALL {
        let response = protocol
            .send(server.public_addr(), &Request::get("/files/big"))
            .await?;
        assert_eq!(response.status(), 200, "{protocol:?}");
        assert!(response.end.is_whole());
        assert!(
            response.body() == content(),
            "{protocol:?}: other bytes arrived"
        );
        let head = protocol
            .send(server.public_addr(), &Request::head("/files/big"))
            .await?;
        assert_eq!(
            (head.header("content-length"), head.body().len()),
            (Some("2000000"), 0)
        );
        let spaced = Request::get("/files/name%20with%20space.txt");
        assert_eq!(
            protocol.send(server.public_addr(), &spaced).await?.text(),
            "spaced"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_range_is_that_range() -> Outcome {
    let (server, _dir) = server().await?;
    let all = content();
    for protocol in Protocol::ALL {
        for (range, expected) in [
            ("bytes=0-0", &all[..1]),
            ("bytes=1000-99999", &all[1000..100_000]),
            ("bytes=1999990-", &all[1_999_990..]),
            ("bytes=-5", &all[all.len() - 5..]),
        ] {
            let request = Request::get("/files/big").header("Range", range);
            let response = protocol.send(server.public_addr(), &request).await?;
            assert_eq!(response.status(), 206, "{protocol:?} {range}");
            assert!(response.body() == expected, "{protocol:?} {range}");
            assert!(
                response
                    .header("content-range")
                    .is_some_and(|value| value.ends_with("/2000000"))
            );
        }
        let past = Request::get("/files/big").header("Range", "bytes=2000000-");
        assert_eq!(
            protocol.send(server.public_addr(), &past).await?.status(),
            416
        );
    }
    Ok(())
}

#[tokio::test]
async fn no_path_escapes() -> Outcome {
    let (server, _dir) = server().await?;
    for path in [
        "../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "./../secret",
        "big/../../secret",
        "link",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..%5csecret",
        "",
        ".",
        "none",
        "big%00",
    ] {
        for protocol in Protocol::ALL {
            let request = Request::get(&format!("/files/{path}"));
            let response = protocol.send(server.public_addr(), &request).await?;
            assert_eq!(
                response.status(),
                404,
                "{protocol:?} {path:?}: {:?}",
                response.body()
            );
        }
    }
    // These bytes are sent raw, because no URI library accepts them.
    let mut connection = h1::Connection::open(server.public_addr()).await?;
    connection
        .send_raw(b"GET /files/..\\secret HTTP/1.1\r\nHost: a\r\n\r\n")
        .await?;
    assert!(matches!(connection.reply().await?.head().status, 400 | 404));
    Ok(())
}

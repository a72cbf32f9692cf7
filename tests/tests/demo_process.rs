//! The demo server as a process: its first line, its exit codes, its signals.

use std::{error::Error, time::Duration};

use e2e::{DemoProcess, End, Protocol, Request, Signal, h1, h2};
use tokio::time::timeout;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

/// Flags of a server that does not advertise for long.
const QUICK: [&str; 2] = ["--advertise", "200ms"];

#[tokio::test]
async fn it_names_its_addresses_and_serves_there() -> Outcome {
    let demo = DemoProcess::start(&[]).await?;
    for protocol in Protocol::ALL {
        let lines = protocol
            .send(
                demo.public_addr(),
                &Request::get("/lines?count=2&interval_ms=1"),
            )
            .await?;
        assert_eq!(lines.status(), 200, "{protocol:?}");
        let ready = protocol
            .send(demo.admin_addr(), &Request::get("/readyz"))
            .await?;
        assert_eq!(ready.status(), 200, "{protocol:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_flag_is_named_and_exits_2() -> Outcome {
    for (flag, value) in [
        ("--idle-timeout", "soon"),
        ("--public", "nowhere"),
        ("--files", "/no/such/directory"),
    ] {
        let output = DemoProcess::command()?.args([flag, value]).output().await?;
        assert_eq!(output.status.code(), Some(2), "{flag}");
        assert!(String::from_utf8(output.stderr)?.contains(flag));
        assert!(output.stdout.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() -> Outcome {
    let demo = DemoProcess::start(&[]).await?;
    let taken = demo.public_addr().to_string();
    let output = DemoProcess::command()?
        .args(["--public", &taken])
        .output()
        .await?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr)?.contains(&taken));
    Ok(())
}

#[tokio::test]
async fn every_flag_is_an_environment_variable_too() -> Outcome {
    let output = DemoProcess::command()?
        .env("DEMO_IDLE_TIMEOUT", "soon")
        .output()
        .await?;
    assert_eq!(output.status.code(), Some(2));
    let help = DemoProcess::command()?.arg("--help").output().await?;
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout)?;
    for flag in help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
    {
        let flag = flag.split([' ', '\n']).next().unwrap_or_default();
        let variable = format!("[env: DEMO_{}=", flag.replace('-', "_").to_uppercase());
        assert!(help.contains(&variable), "{variable} in\n{help}");
    }
    Ok(())
}

#[tokio::test]
async fn a_signal_ends_it_once_its_streams_have_ended() -> Outcome {
    for signal in [Signal::TERM, Signal::INT] {
        let mut demo = DemoProcess::start(&QUICK).await?;
        let mut connection = h1::Connection::open(demo.public_addr()).await?;
        connection
            .send(&Request::get("/events?count=10&interval_ms=30"))
            .await?;
        let mut reply = connection.reply().await?;
        assert!(reply.chunk().await.is_some());
        demo.signal(signal)?;
        let response = reply.finish().await;
        assert_eq!(
            (response.text().matches("data: ").count(), response.end),
            (10, End::LastChunk),
            "{signal:?}"
        );
        assert_eq!(
            demo.exit(SOON).await?.code(),
            Some(0),
            "{signal:?}: {}",
            demo.log().text()
        );
    }
    Ok(())
}

#[tokio::test]
async fn while_it_stops_it_is_alive_but_not_ready() -> Outcome {
    let mut demo = DemoProcess::start(&QUICK).await?;
    let mut connection = h1::Connection::open(demo.public_addr()).await?;
    connection
        .send(&Request::get("/events?count=0&interval_ms=20"))
        .await?;
    let mut reply = connection.reply().await?;
    assert!(reply.chunk().await.is_some());
    demo.signal(Signal::TERM)?;
    let probe = async |route| {
        Protocol::Http11
            .send(demo.admin_addr(), &Request::get(route))
            .await
    };
    while probe("/readyz").await?.status() == 200 {
        assert!(reply.chunk().await.is_some());
    }
    assert_eq!(
        (
            probe("/readyz").await?.status(),
            probe("/livez").await?.status()
        ),
        (503, 200)
    );
    // After a second signal, the server does not wait for the stream, but still sends its last event.
    demo.signal(Signal::TERM)?;
    assert_eq!(demo.exit(SOON).await?.code(), Some(0));
    let response = reply.finish().await;
    assert_eq!(response.end, End::LastChunk);
    assert_eq!(response.text().matches("event: drain\n").count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_signal_before_the_first_request_ends_it() -> Outcome {
    let mut demo = DemoProcess::start(&QUICK).await?;
    demo.signal(Signal::TERM)?;
    assert_eq!(demo.exit(SOON).await?.code(), Some(0));
    let refused = Protocol::Http11
        .send(demo.public_addr(), &Request::get("/events"))
        .await;
    assert_eq!(refused.map(|response| response.end), Err(End::TcpReset));
    Ok(())
}

/// As long as a test would have to wait if Ctrl-C took the time that is meant for load balancers.
const SLOW: [&str; 4] = ["--advertise", "10m", "--deadline", "20m"];

#[tokio::test]
async fn ctrl_c_with_nothing_in_flight_ends_it_at_once() -> Outcome {
    let mut demo = DemoProcess::start(&SLOW).await?;
    let events = Request::get("/events?count=1");
    let answered = Protocol::Http11.send(demo.public_addr(), &events).await?;
    assert_eq!(answered.status(), 200);
    let status = Request::get("/status");
    loop {
        let status = Protocol::Http11.send(demo.admin_addr(), &status).await?;
        if status.text().contains("\"in_flight\":0") {
            break;
        }
    }
    demo.signal(Signal::INT)?;
    assert_eq!(demo.exit(SOON).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn ctrl_c_with_a_stream_in_flight_says_what_a_second_one_does() -> Outcome {
    let mut demo = DemoProcess::start(&SLOW).await?;
    let mut connection = h1::Connection::open(demo.public_addr()).await?;
    connection
        .send(&Request::get("/events?count=0&interval_ms=20"))
        .await?;
    let mut reply = connection.reply().await?;
    assert!(reply.chunk().await.is_some());
    demo.signal(Signal::INT)?;
    timeout(SOON, async {
        while !demo.log().text().contains("press Ctrl-C again") {
            assert!(reply.chunk().await.is_some());
        }
    })
    .await?;
    demo.signal(Signal::INT)?;
    assert_eq!(demo.exit(SOON).await?.code(), Some(0));
    let response = reply.finish().await;
    assert_eq!(response.text().matches("event: drain\n").count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_signal_is_a_goaway_to_h2() -> Outcome {
    let mut demo = DemoProcess::start(&QUICK).await?;
    let mut connection = h2::Connection::open(demo.public_addr()).await?;
    let stream = connection
        .send(&Request::get("/events?count=20&interval_ms=40"))
        .await?;
    let id = stream.id();
    let mut reply = stream.reply().await?;
    assert!(reply.chunk().await.is_some());
    demo.signal(Signal::TERM)?;
    assert_eq!(connection.go_away().await?, (id, h2::Reason::NO_ERROR));
    assert_eq!(reply.finish().await.end, End::EndStream);
    assert_eq!(demo.exit(SOON).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn with_a_json_log_a_panic_is_one_line_like_any_other() -> Outcome {
    let mut demo = DemoProcess::start(&["--log", "json", "--advertise", "0s"]).await?;
    for how in [
        "panic-body",
        "panic-handler",
        "producer-panic",
        "panic-drop",
    ] {
        let target = format!("/fail?how={how}&after=2&format=sse");
        // Other tests check how this response ends.
        let _ = Protocol::Http11
            .send(demo.public_addr(), &Request::get(&target))
            .await;
    }
    demo.signal(Signal::TERM)?;
    assert_eq!(demo.exit(SOON).await?.code(), Some(0));
    let lines = demo.log().json();
    let errors = lines.iter().filter(|line| line["level"] == "ERROR");
    let errors: Vec<_> = errors
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default();
            let own = text("location").contains("demo-server");
            (text("message"), text("outcome"), own)
        })
        .collect();
    let expected = [
        ("response failed", "panic", true),
        ("response failed", "panic", true),
        // The panic of the task, and what it did to the response.
        ("panicked", "", true),
        ("response failed", "panic", false),
        ("a response body panicked while it was dropped", "", true),
    ];
    assert_eq!(errors, expected, "{lines:#?}");
    let access = lines.iter().filter(|line| line["message"] == "response");
    let outcomes: Vec<_> = access
        .map(|line| line["outcome"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        outcomes,
        ["panic", "panic", "panic", "complete"],
        "{lines:#?}"
    );
    Ok(())
}

/// Out of descriptors, connections wait in the backlog. A drain that starts then answers them as others end.
///
/// The streams end by themselves. At the deadline a drain waits at most `--settle` for the backlog, which a busy machine may
/// need longer for.
#[tokio::test]
async fn clients_in_the_backlog_of_a_server_out_of_descriptors_are_answered() -> Outcome {
    let command = DemoProcess::command()?;
    let mut limited = tokio::process::Command::new("bash");
    limited
        .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
        .arg(command.as_std().get_program())
        .args(["--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(QUICK);
    let mut demo = DemoProcess::start_command(&mut limited).await?;
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = h1::Connection::open(demo.public_addr()).await?;
        client
            .send(&Request::get("/events?count=30&interval_ms=200"))
            .await?;
        clients.push(client);
    }
    while !demo.log().text().contains("cannot accept") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    demo.signal(Signal::TERM)?;
    let ends = clients.into_iter().map(|mut client| async move {
        let answer = client.reply().await?.finish().await;
        Ok::<_, End>((answer.status(), answer.end))
    });
    for end in futures_util::future::join_all(ends).await {
        let (status, end) = end?;
        assert!(
            [200, 503].contains(&status) && end.is_whole(),
            "{status} {end}"
        );
    }
    assert_eq!(demo.exit(SOON).await?.code(), Some(0));
    Ok(())
}

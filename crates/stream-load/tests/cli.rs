//! Exit codes and messages of the program.

use std::process::Stdio;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};

/// Runs the program. Returns its exit code, standard output and standard error.
async fn stream_load(arguments: &[&str]) -> (Option<i32>, String, String) {
    let child = Command::new(env!("CARGO_BIN_EXE_stream-load"))
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = child.await.unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Starts a server that answers each request with `answer`, or never when `answer` is empty.
async fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    url
}

#[tokio::test]
async fn a_value_out_of_range_is_a_usage_error_that_names_the_flag_and_the_range() {
    for (flag, value, takes) in [
        ("--rate", "1e-30", "a number from 0.001 to 1000000"),
        ("--rate", "0", "a number from 0.001 to 1000000"),
        ("--rate", "NaN", "a number from 0.001 to 1000000"),
        ("--rate", "inf", "a number from 0.001 to 1000000"),
        ("--rate", "fast", "a number from 0.001 to 1000000"),
        (
            "--opening",
            "18446744073709551615",
            "a number from 1 to 1000000",
        ),
        ("--opening", "0", "a number from 1 to 1000000"),
        ("--streams", "0", "a number from 1 to 1000000"),
        ("--streams", "99999999999", "a number from 1 to 1000000"),
        ("--streams", "many", "a number from 1 to 1000000"),
        ("--total", "0", "a number from 1 to 1000000000000"),
        (
            "--streams-per-connection",
            "0",
            "a number from 1 to 1000000",
        ),
        (
            "--expect-bytes",
            "1.5",
            "a number from 0 to 18446744073709551615",
        ),
        ("--duration", "500000000000years", "from 1ms to 1year"),
        ("--duration", "0s", "from 1ms to 1year"),
        ("--duration", "30", "a time such as 500ms, 30s or 2m"),
        ("--grace", "500000000000years", "from 0s to 1year"),
        ("--connect-timeout", "10000000000years", "from 1ms to 1year"),
        ("--idle-timeout", "10000000000years", "from 1ms to 1year"),
        ("--timeout", "10000000000years", "from 1ms to 1year"),
        ("--max-cut", "101%", "a percentage from 0 to 100"),
    ] {
        // Nothing listens on this port, so a run that starts by mistake ends soon.
        let url = "http://127.0.0.1:1/";
        let (code, _, message) = stream_load(&[url, flag, value]).await;
        assert_eq!(code, Some(2), "{flag} {value}: {message}");
        assert!(message.contains(flag), "{flag} {value}: {message}");
        assert!(message.contains(takes), "{flag} {value}: {message}");
    }
}

#[tokio::test]
async fn other_schemes_are_usage_errors() {
    let (code, _, message) = stream_load(&["ftp://127.0.0.1/"]).await;
    assert_eq!(code, Some(2));
    assert!(message.contains("ftp"), "{message}");
}

#[tokio::test]
async fn whole_streams_pass() {
    let url = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let (code, report, _) = stream_load(&["-n", "2", &url]).await;
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("latency"), "{report}");
    assert!(report.contains("service time"), "{report}");
    assert!(!report.contains("behind schedule"), "{report}");
}

#[tokio::test]
async fn streams_answered_with_4xx_or_5xx_fail_the_run() {
    for (answer, name) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "4xx"),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "5xx"),
    ] {
        let url = server(answer).await;
        let (code, report, _) = stream_load(&["-n", "2", &url]).await;
        assert_eq!(code, Some(1), "{report}");
        assert!(report.contains(&format!("fail: {name}")), "{report}");
        let (code, report, _) =
            stream_load(&["-n", "2", &url, &format!("--max-{name}"), "100%"]).await;
        assert_eq!(code, Some(0), "{report}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_fails_the_run() {
    let url = server("").await;
    let over = ["-n", "2", "-d", "200ms", "--grace", "0s", &url];
    let (code, report, _) = stream_load(&over).await;
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("running"), "{report}");
    assert!(!report.contains("in time"), "{report}");
    // `--max-running` does not help here: no stream got a response.
    let allowed = [&over[..], &["--max-running", "100%", "-o", "json"]].concat();
    let (code, report, _) = stream_load(&allowed).await;
    assert_eq!(code, Some(1), "{report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["endings"]["running"], 2);
    assert_eq!(report["broken_thresholds"][0], "no stream was answered");
}

#[tokio::test]
async fn streams_that_have_not_ended_fail_the_run_unless_they_may_run_on() {
    let url = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello").await;
    let over = ["-n", "2", "-d", "2s", "--grace", "0s", &url];
    let (code, report, _) = stream_load(&over).await;
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("fail: streams still running"), "{report}");
    let allowed = [&over[..], &["--max-running", "100%"]].concat();
    let (code, report, _) = stream_load(&allowed).await;
    assert_eq!(code, Some(0), "{report}");
}

#[tokio::test]
async fn the_report_has_the_fields_that_the_readme_describes_and_a_page() {
    let url = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.html");
    let path = file.to_str().unwrap();
    let (code, out, _) = stream_load(&[&url, "-n", "1", "-o", "json", "--html", path]).await;
    assert_eq!(code, Some(0), "{out}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let mut fields: Vec<&str> = report
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    let table = include_str!("../README.md")
        .split("## The report")
        .nth(1)
        .unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let names = rows
        .flat_map(|row| row.split(", "))
        .map(|name| name.trim_matches('`'));
    let mut documented: Vec<&str> = names.collect();
    documented.sort_unstable();
    assert_eq!(fields, documented);
    let page = std::fs::read_to_string(file).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<p class=\"pass\">pass</p>"));
    let (code, _, error) = stream_load(&[&url, "-n", "1", "--html", "/no/such/directory/x"]).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("/no/such/directory/x"), "{error}");
}

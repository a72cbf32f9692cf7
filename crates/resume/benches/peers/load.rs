//! The clients of fan-out and of replay, and what all clients share.

use std::{fs, process::id, time::Duration};

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::sleep};

use crate::now;

/// One connection for one request. The server has a keep-alive connection that is dropped with the body.
pub(crate) async fn ask(
    method: Method,
    url: &str,
    last_event_id: Option<&str>,
) -> Result<(StatusCode, HeaderMap, Incoming), hyper::Error> {
    let uri: Uri = url.parse().unwrap();
    let authority = uri.authority().unwrap().as_str().to_owned();
    let io = TcpStream::connect(&authority).await.unwrap();
    io.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move { drop(connection.await) });
    let mut request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().unwrap().as_str())
        .header(header::HOST, authority);
    if let Some(cursor) = last_event_id {
        request = request.header("last-event-id", cursor);
    }
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await?;
    let (parts, body) = response.into_parts();
    Ok((parts.status, parts.headers, body))
}

/// A server that is compared.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// Where streams are opened: `http://host:port/stream`
    #[arg(long)]
    pub(crate) open: String,

    /// Where a stream is read, if it is another server: `http://host:port/streams`
    #[arg(long)]
    pub(crate) at: Option<String>,
}

impl Server {
    fn base(&self) -> &str {
        self.open.rsplit_once('/').unwrap().0
    }

    pub(crate) async fn post(&self, path: &str) {
        let url = format!("{}/{path}", self.base());
        let (status, ..) = ask(Method::POST, &url, None).await.unwrap();
        assert!(status.is_success(), "{url}: {status}");
    }

    /// Opens a stream. Returns its first response, unless the server wants it read elsewhere, and where it is read.
    pub(crate) async fn open(&self, query: &str) -> (Option<Incoming>, String) {
        let (status, headers, body) = ask(Method::GET, &format!("{}?{query}", self.open), None)
            .await
            .unwrap();
        assert!(status.is_success(), "{}: {status}", self.open);
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap());
        if let Some(elsewhere) = text("location") {
            return (None, elsewhere.to_owned());
        }
        let Some(id) = text("stream-id") else {
            return (Some(body), String::new());
        };
        let at = match (&self.at, self.open.strip_suffix("/stream")) {
            (Some(at), _) => format!("{at}/{id}"),
            (None, Some(base)) => format!("{base}/streams/{id}"),
            (None, None) => format!("{}/{id}", self.open),
        };
        (Some(body), at)
    }
}

/// Finds the events in a body: calls `found` with the number of each, and when it was made.
#[derive(Default)]
pub(crate) struct Finder {
    open: Vec<u8>,
}

impl Finder {
    pub(crate) fn push(&mut self, chunk: &[u8], mut found: impl FnMut(u64, u64)) {
        self.open.extend_from_slice(chunk);
        let mut rest = &self.open[..];
        while let Some(start) = memchr::memchr(b'@', rest) {
            let Some(length) = memchr::memchr(b'@', &rest[start + 1..]) else {
                rest = &rest[start..];
                let rest = rest.to_vec();
                self.open = rest;
                return;
            };
            let text = std::str::from_utf8(&rest[start + 1..start + 1 + length]).unwrap();
            let (n, at) = text.split_once(',').unwrap();
            found(n.parse().unwrap(), at.parse().unwrap());
            rest = &rest[start + length + 2..];
        }
        self.open.clear();
    }
}

#[derive(Debug, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 1_000)]
    readers: usize,
    #[arg(long, default_value_t = 100)]
    count: u64,
    #[arg(long, default_value_t = 50_000)]
    interval_us: u64,
    /// Processes whose CPU time is counted
    #[arg(long)]
    cpu: Vec<u32>,
}

impl Fanout {
    pub(crate) async fn run(self) {
        self.server.post("wait").await;
        let query = format!("count={}&interval_us={}", self.count, self.interval_us);
        let (first, at) = self.server.open(&query).await;
        let mut bodies = Vec::from_iter(first);
        while bodies.len() < self.readers {
            let missing = (self.readers - bodies.len()).min(100);
            let more = join_all((0..missing).map(|_| ask(Method::GET, &at, None))).await;
            for more in more {
                let (status, _, body) = more.unwrap();
                assert_eq!(status, StatusCode::OK, "{at}");
                bodies.push(body);
            }
        }
        let readers: Vec<_> = bodies
            .into_iter()
            .map(|body| tokio::spawn(delays(body)))
            .collect();
        sleep(Duration::from_millis(500)).await;
        let (cpu, own) = (cpu(&self.cpu), cpu(&[id()]));
        let started = now();
        self.server.post("go").await;
        let read = join_all(readers).await;
        let seconds = (now() - started) as f64 / 1e9;
        let (cpu, own) = (self::cpu(&self.cpu) - cpu, self::cpu(&[id()]) - own);
        let (mut all, mut ends) = (Vec::new(), 0);
        for read in read {
            let (delays, is_whole) = read.unwrap();
            all.extend(delays);
            ends += usize::from(is_whole);
        }
        all.sort_unstable();
        let due = self.readers as u64 * self.count;
        println!(
            "{{\"p50\":{},\"p99\":{},\"events\":{},\"lost\":{},\"ends\":{ends},\"seconds\":{seconds},\"cpu\":{},\"load_cpu\":{}}}",
            micros(&all, 0.5),
            micros(&all, 0.99),
            all.len(),
            due - all.len() as u64,
            cpu / due as f64,
            own / due as f64,
        );
    }
}

/// How late each event of a body is, and whether the body was whole.
async fn delays(mut body: Incoming) -> (Vec<u64>, bool) {
    let (mut finder, mut delays) = (Finder::default(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return (delays, false);
        };
        if let Some(data) = frame.data_ref() {
            let now = now();
            finder.push(data, |_, made| delays.push(now.saturating_sub(made)));
        }
    }
    (delays, true)
}

/// A quantile of sorted nanoseconds, in microseconds.
fn micros(sorted: &[u64], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * quantile).round() as usize;
    sorted.get(at).map_or(f64::NAN, |nanos| *nanos as f64 / 1e3)
}

/// The CPU time of these processes, in microseconds.
fn cpu(processes: &[u32]) -> f64 {
    let ticks = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // A tick is 10 ms on Linux.
    processes.iter().map(ticks).sum::<u64>() as f64 * 10_000.0
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 2_000)]
    count: u64,
    /// How often the stream is read, one after the other
    #[arg(long, default_value_t = 100)]
    times: usize,
    /// The stream does not end before it is read
    #[arg(long)]
    hold: bool,
}

impl Replay {
    pub(crate) async fn run(self) {
        self.server.post("wait").await;
        let query = format!(
            "count={}&interval_us=0&hold={}",
            self.count,
            u8::from(self.hold)
        );
        let (first, at) = self.server.open(&query).await;
        self.server.post("go").await;
        if let Some(first) = first {
            // Held until the stream was read often enough, as by a client that reads on.
            tokio::spawn(delays(first));
        }
        sleep(Duration::from_secs(2)).await;
        let (mut firsts, mut lasts, mut lost) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.times {
            let started = now();
            let (status, _, mut body) = ask(Method::GET, &at, None).await.unwrap();
            assert_eq!(status, StatusCode::OK, "{at}");
            let (mut finder, mut seen) = (Finder::default(), 0);
            while seen < self.count {
                let Some(Ok(frame)) = body.frame().await else {
                    break;
                };
                if let Some(data) = frame.data_ref() {
                    let before = seen;
                    finder.push(data, |_, _| seen += 1);
                    if before == 0 && seen > 0 {
                        firsts.push(now() - started);
                    }
                }
            }
            lasts.push(now() - started);
            lost += self.count - seen;
        }
        self.server.post("end").await;
        firsts.sort_unstable();
        lasts.sort_unstable();
        let per_second = self.count as f64 / micros(&lasts, 0.5) * 1e6;
        println!(
            "{{\"per_second\":{per_second},\"first_p50\":{},\"first_p99\":{},\"lost\":{lost}}}",
            micros(&firsts, 0.5),
            micros(&firsts, 0.99),
        );
    }
}

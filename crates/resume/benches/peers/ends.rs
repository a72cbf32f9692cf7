//! Clients that lose their connection or their server: what they miss, and whether they learn how the stream ended.

use std::{collections::BTreeMap, process::Command, time::Duration};

use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use crate::load::{Finder, Server, ask};

/// What a client says to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cursor {
    /// `Last-Event-ID`, the last `id:`
    Id,
    /// `?after=`, the number of characters
    Chars,
    /// `offset=`, the last `streamNextOffset`
    Offset,
    /// Nothing
    None,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// With its last chunk.
    Whole,
    /// With an error, or the connection was closed in the middle.
    Failed,
    /// It went on, or was silent, until the client gave up.
    Open,
    /// There was none: the server had nothing more to send.
    Nothing,
}

/// How long a client waits for the end of its stream.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads a body to its end, or up to this many events.
async fn read(body: Option<Incoming>, at_most: usize) -> (Vec<u8>, End) {
    let Some(mut body) = body else {
        return (Vec::new(), End::Nothing);
    };
    let (mut text, mut finder, mut seen) = (Vec::new(), Finder::default(), 0);
    let reading = async {
        while seen < at_most {
            match body.frame().await {
                None => return End::Whole,
                Some(Err(_)) => return End::Failed,
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        text.extend_from_slice(data);
                        finder.push(data, |_, _| seen += 1);
                    }
                }
            }
        }
        End::Open
    };
    let end = timeout(PATIENCE, reading).await.unwrap_or(End::Open);
    (text, end)
}

/// The part of a body that has whole records only, and the cursor after it.
fn whole(text: &[u8], cursor: Cursor) -> (String, Option<String>) {
    let text = std::str::from_utf8(text).unwrap();
    let end_of = |start: usize| text[start..].find("\n\n").map(|end| start + end + 2);
    let last_records = text.rfind("\n\n").map_or(0, |at| at + 2);
    let value = |name: &str, close: char| {
        let start = text[..last_records].rfind(name)? + name.len();
        let length = text[start..].find(close)?;
        Some((end_of(start)?, text[start..start + length].to_owned()))
    };
    match cursor {
        Cursor::Id => {
            let id = value("id: ", '\n').map(|(_, id)| id);
            (text[..last_records].to_owned(), id)
        }
        Cursor::Chars => (
            text[..last_records].to_owned(),
            Some(last_records.to_string()),
        ),
        Cursor::Offset => match value("\"streamNextOffset\":\"", '"') {
            // The records of one offset are one step.
            Some((end, offset)) => (text[..end].to_owned(), Some(offset)),
            None => (String::new(), None),
        },
        Cursor::None => (text[..last_records].to_owned(), None),
    }
}

async fn go_on(at: &str, cursor: Cursor, value: Option<&str>) -> Option<Incoming> {
    let value = value.unwrap_or_default();
    let (url, id) = match cursor {
        Cursor::Id => (at.to_owned(), Some(value).filter(|id| !id.is_empty())),
        Cursor::Chars => (format!("{at}?after={value}"), None),
        Cursor::Offset => {
            let start = at.split('?').next().unwrap();
            let offset = if value.is_empty() { "-1" } else { value };
            (format!("{start}?offset={offset}&live=sse"), None)
        }
        Cursor::None => (at.to_owned(), None),
    };
    let (status, _, body) = ask(Method::GET, &url, id).await.ok()?;
    (status == 200).then_some(body)
}

/// What the clients got.
#[derive(Default)]
struct Sum {
    lost: u64,
    doubled: u64,
    ends: BTreeMap<End, usize>,
}

impl Sum {
    fn add(&mut self, text: &[u8], count: u64, end: End) {
        let mut seen = BTreeMap::new();
        Finder::default().push(text, |n, _| *seen.entry(n).or_insert(0_u64) += 1);
        self.lost += count.saturating_sub(seen.len() as u64);
        self.doubled += seen.values().map(|times| times - 1).sum::<u64>();
        *self.ends.entry(end).or_default() += 1;
    }

    fn print(&self) {
        let end = |end| self.ends.get(&end).copied().unwrap_or_default();
        println!(
            "{{\"lost\":{},\"doubled\":{},\"whole\":{},\"failed\":{},\"open\":{},\"nothing\":{}}}",
            self.lost,
            self.doubled,
            end(End::Whole),
            end(End::Failed),
            end(End::Open),
            end(End::Nothing),
        );
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cut {
    #[command(flatten)]
    server: Server,
    #[arg(long)]
    cursor: Cursor,
    #[arg(long, default_value_t = 100)]
    clients: u64,
    #[arg(long, default_value_t = 200)]
    count: u64,
    #[arg(long, default_value_t = 5_000)]
    interval_us: u64,
    /// How long a client stays away
    #[arg(long, default_value_t = 0)]
    away_ms: u64,
}

impl Cut {
    /// Each client has a stream of its own, and is cut off after another event.
    pub(crate) async fn run(self) {
        self.server.post("wait").await;
        let query = format!("count={}&interval_us={}", self.count, self.interval_us);
        let opened = join_all((0..self.clients).map(|_| self.server.open(&query))).await;
        let clients = (0..).zip(opened).map(|(client, (first, at))| {
            let cut = 1 + (client * (self.count - 2) / self.clients) as usize;
            let (cursor, away) = (self.cursor, Duration::from_millis(self.away_ms));
            tokio::spawn(async move {
                let first = match first {
                    Some(first) => Some(first),
                    None => go_on(&at, cursor, None).await,
                };
                let (text, _) = read(first, cut).await;
                let (mut text, value) = whole(&text, cursor);
                sleep(away).await;
                let body = go_on(&at, cursor, value.as_deref()).await;
                let (rest, end) = read(body, usize::MAX).await;
                text.push_str(std::str::from_utf8(&rest).unwrap());
                (text, end)
            })
        });
        let clients: Vec<_> = clients.collect();
        sleep(Duration::from_millis(300)).await;
        self.server.post("go").await;
        let mut sum = Sum::default();
        for client in join_all(clients).await {
            let (text, end) = client.unwrap();
            sum.add(text.as_bytes(), self.count, end);
        }
        sum.print();
    }
}

#[derive(Debug, Args)]
pub(crate) struct Follow {
    #[command(flatten)]
    server: Server,
    #[arg(long, default_value_t = 100)]
    clients: u64,
    #[arg(long, default_value_t = 400)]
    count: u64,
    #[arg(long, default_value_t = 5_000)]
    interval_us: u64,
    /// What happens when half of the events are there
    #[arg(long)]
    halfway: String,
}

impl Follow {
    /// Each client reads a stream of its own at another server, from its start.
    pub(crate) async fn run(self) {
        self.server.post("wait").await;
        let query = format!("count={}&interval_us={}", self.count, self.interval_us);
        let opened = join_all((0..self.clients).map(|_| self.server.open(&query))).await;
        let clients = opened.into_iter().map(|(first, at)| {
            tokio::spawn(async move {
                if let Some(first) = first {
                    tokio::spawn(read(Some(first), usize::MAX));
                }
                let body = go_on(&at, Cursor::None, None).await;
                read(body, usize::MAX).await
            })
        });
        let clients: Vec<_> = clients.collect();
        sleep(Duration::from_millis(500)).await;
        self.server.post("go").await;
        sleep(Duration::from_micros(self.count / 2 * self.interval_us)).await;
        let status = Command::new("sh")
            .args(["-c", &self.halfway])
            .status()
            .unwrap();
        assert!(status.success(), "{}", self.halfway);
        let mut sum = Sum::default();
        for client in join_all(clients).await {
            let (text, end) = client.unwrap();
            sum.add(&text, self.count, end);
        }
        sum.print();
    }
}

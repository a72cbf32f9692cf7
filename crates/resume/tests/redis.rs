//! The log in a real Redis: `tests/resume/run` installs it.

#![cfg(all(feature = "redis", feature = "conformance"))]

mod store;

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tempfile::TempDir;
use tower_stream_resume::{
    End, Entry, Epoch, LogErrorKind, Overflow, Redis, RedisBuilder, StreamId, StreamLog,
    conformance::Conformance,
};

use store::{MAX, is_up, one, stream};

/// A server of one test, on a Unix socket, which writes each append to its disk.
struct Server {
    directory: TempDir,
    process: Child,
}

impl Server {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let process = spawn(&directory);
        let server = Self { directory, process };
        is_up(server.log()).await;
        server
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = spawn(&self.directory);
        is_up(self.log()).await;
    }

    fn builder(&self) -> RedisBuilder {
        let socket = self.directory.path().join("socket");
        Redis::builder(format!("redis+unix://{}", socket.display())).max_stream_bytes(MAX)
    }

    fn log(&self) -> Redis {
        self.builder().build().unwrap()
    }

    fn command(&self, command: &[&str]) {
        let mut cli = Command::new("redis-cli");
        cli.arg("-s").arg(self.directory.path().join("socket"));
        let done = cli.args(command).stdout(Stdio::null()).status().unwrap();
        assert!(done.success(), "{command:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(directory: &TempDir) -> Child {
    let mut server = Command::new("redis-server");
    server.args(
        "--port 0 --unixsocket socket --save '' --appendonly yes --appendfsync always".split(' '),
    );
    server.current_dir(directory).stdout(Stdio::null());
    server.spawn().expect("redis-server is installed")
}

#[tokio::test]
#[ignore = "needs redis-server: tests/resume/run"]
async fn it_conforms() {
    let server = Server::start().await;
    let suite = Conformance::new(Arc::new(server.log()));
    let suite = suite.second(Arc::new(server.log()));
    suite.max_stream_bytes(MAX).run().await;
}

#[tokio::test]
#[ignore = "needs redis-server: tests/resume/run"]
async fn logs_with_different_prefixes_share_nothing() {
    let server = Server::start().await;
    let ours = server.builder().prefix("ours:").build().unwrap();
    let theirs = server.builder().prefix("theirs:").build().unwrap();
    let id = stream(&ours).await;
    let missing = theirs.status(&id).await.unwrap_err();
    assert_eq!(missing.kind(), LogErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs redis-server: tests/resume/run"]
async fn a_stream_is_gone_some_time_after_its_last_write() {
    let server = Server::start().await;
    let log = server.builder().max_age(Duration::from_millis(200));
    let log = log.build().unwrap();
    let id = stream(&log).await;
    log.append(&id, Epoch::FIRST, &one(1), Overflow::Refuse)
        .await
        .unwrap();
    let mut reader = log.read(&id, 0);
    reader.next().await.unwrap().unwrap();
    let gone = reader.next().await.unwrap().unwrap_err();
    assert_eq!(gone.kind(), LogErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs redis-server: tests/resume/run"]
async fn many_readers_come_and_go_and_miss_nothing() {
    let server = Server::start().await;
    let log = server.log();
    let id = stream(&log).await;
    for round in 0..20_u64 {
        // Waits for its message, and leaves: the next one subscribes while this one's channel is unsubscribed.
        let mut left = log.read(&id, round);
        assert!(left.next().now_or_never().is_none());
        let other = stream(&log).await;
        let mut others = log.read(&other, 0);
        assert!(others.next().now_or_never().is_none());
        drop(left);
        let mut reader = log.read(&id, round);
        let read = reader.next();
        let next = one(round + 1);
        let append = log.append(&id, Epoch::FIRST, &next, Overflow::Refuse);
        let (item, stored) = tokio::join!(read, append);
        stored.unwrap();
        assert_eq!(item.unwrap().unwrap(), next);
    }
    let end = Entry::end(21, End::Complete);
    log.append(&id, Epoch::FIRST, &end, Overflow::Refuse)
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs redis-server: tests/resume/run"]
async fn readers_and_producers_go_on_after_the_server_was_killed() {
    let mut server = Server::start().await;
    let log = server.log();
    let id = stream(&log).await;
    log.append(&id, Epoch::FIRST, &one(1), Overflow::Refuse)
        .await
        .unwrap();
    let mut reader = log.read(&id, 0);
    assert_eq!(reader.next().await.unwrap().unwrap(), one(1));
    server.kill();
    // Unknown, and not lost: the same entry is tried again until the server answers.
    let next = one(2);
    let down = log.append(&id, Epoch::FIRST, &next, Overflow::Refuse).await;
    assert_eq!(down.unwrap_err().kind(), LogErrorKind::Unavailable);
    server.start_again().await;
    while let Err(error) = log.append(&id, Epoch::FIRST, &next, Overflow::Refuse).await {
        assert_eq!(error.kind(), LogErrorKind::Unavailable);
    }
    let end = Entry::end(3, End::Complete);
    log.append(&id, Epoch::FIRST, &end, Overflow::Refuse)
        .await
        .unwrap();
    let mut reader = log.read(&id, 1);
    let mut read = Vec::new();
    while let Some(entry) = reader.next().await {
        read.push(entry.unwrap());
    }
    assert_eq!(read, [next, end]);
}

#[tokio::test]
#[ignore = "needs redis-server: tests/resume/run"]
async fn a_stream_that_the_server_lost_is_not_found_and_not_unavailable() {
    let server = Server::start().await;
    let log = server.log();
    let id = stream(&log).await;
    let mut reader = log.read(&id, 0);
    assert!(reader.next().now_or_never().is_none());
    server.command(&["FLUSHALL"]);
    let lost = log
        .append(&id, Epoch::FIRST, &one(1), Overflow::Refuse)
        .await;
    assert_eq!(lost.unwrap_err().kind(), LogErrorKind::NotFound);
    let lost = reader.next().await.unwrap().unwrap_err();
    assert_eq!(lost.kind(), LogErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs redis-server: tests/resume/run"]
async fn a_server_without_memory_is_full_and_changes_nothing() {
    let server = Server::start().await;
    let log = server.log();
    let id = stream(&log).await;
    let records = |first, count: u64| {
        let record = Bytes::from(vec![b'x'; 1_024]);
        Entry::records(first, vec![record; count as usize])
    };
    log.append(&id, Epoch::FIRST, &records(1, 200), Overflow::Trim)
        .await
        .unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let before = log.status(&id).await.unwrap();
    let more = records(201, 100);
    let full = log.append(&id, Epoch::FIRST, &more, Overflow::Trim);
    assert_eq!(full.await.unwrap_err().kind(), LogErrorKind::Full);
    let after = log.status(&id).await.unwrap();
    let all = |status: &tower_stream_resume::Status| (status.first, status.next, status.bytes);
    assert_eq!(all(&before), all(&after));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    log.append(&id, Epoch::FIRST, &more, Overflow::Trim)
        .await
        .unwrap();
    // The first entry had to go.
    let status = log.status(&id).await.unwrap();
    assert_eq!((status.first, status.next), (201, 301));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_a_wrong_url_an_error() {
    let nobody = Redis::builder("redis+unix:///nowhere").timeout(Duration::from_millis(300));
    let log = nobody.build().unwrap();
    let id = StreamId::random();
    let unknown = log.status(&id).await.unwrap_err();
    assert_eq!(unknown.kind(), LogErrorKind::Unavailable);
    let unknown = log.read(&id, 0).next().await.unwrap().unwrap_err();
    assert_eq!(unknown.kind(), LogErrorKind::Unavailable);
    let wrong = Redis::builder("http://127.0.0.1").build().unwrap_err();
    assert_eq!(wrong.kind(), LogErrorKind::Unavailable);
}

//! The log in a real NATS server: `tests/resume/run` installs it.

#![cfg(all(feature = "nats", feature = "conformance"))]

mod store;

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tempfile::TempDir;
use tower_stream_resume::{
    End, Entry, Epoch, LogErrorKind, Nats, NatsBuilder, Overflow, StreamId, StreamLog, Takeover,
    conformance::Conformance,
};

use store::{MAX, is_up, one, stream};

/// A server of one test, on a port that it has chosen.
struct Server {
    directory: TempDir,
    process: Child,
    url: String,
}

impl Server {
    async fn start() -> Self {
        Self::with("").await
    }

    /// With further lines of its configuration.
    async fn with(config: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().display();
        let all = format!(
            "ports_file_dir: \"{path}\"\njetstream {{ store_dir: \"{path}/store\" }}\n{config}\n"
        );
        fs::write(directory.path().join("config"), all).unwrap();
        let process = spawn(&directory, -1);
        let mut server = Self {
            directory,
            process,
            url: String::new(),
        };
        server.url = server.listens().await;
        is_up(server.log()).await;
        server
    }

    /// The file that the server writes when it listens: `{"nats":["nats://127.0.0.1:PORT"]}`.
    async fn listens(&self) -> String {
        let name = format!("nats-server_{}.ports", self.process.id());
        loop {
            let ports = fs::read_to_string(self.directory.path().join(&name)).unwrap_or_default();
            if let Some(url) = ports.split('"').find(|part| part.starts_with("nats://")) {
                return url.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        let port = self.url.rsplit(':').next().unwrap().parse().unwrap();
        self.process = spawn(&self.directory, port);
        is_up(self.log()).await;
    }

    fn builder(&self) -> NatsBuilder {
        Nats::builder(&self.url).max_stream_bytes(MAX)
    }

    fn log(&self) -> Nats {
        self.builder().build().unwrap()
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(&self.url).await.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(directory: &TempDir, port: i32) -> Child {
    let mut server = Command::new("nats-server");
    server.args(["--config", "config", "--addr", "127.0.0.1", "--port"]);
    server.arg(port.to_string()).current_dir(directory);
    let output = fs::File::create(directory.path().join("log")).unwrap();
    server.stdout(Stdio::null()).stderr(output);
    server.spawn().expect("nats-server is installed")
}

async fn appended(log: &Nats, id: &StreamId, entry: &Entry) {
    let stored = log.append(id, Epoch::FIRST, entry, Overflow::Refuse).await;
    stored.unwrap();
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn it_conforms() {
    let server = Server::start().await;
    let suite = Conformance::new(Arc::new(server.log()));
    let suite = suite.second(Arc::new(server.log()));
    suite.max_stream_bytes(MAX).run().await;
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn logs_with_different_names_share_nothing() {
    let server = Server::start().await;
    let ours = server.builder().name("ours").build().unwrap();
    let theirs = server.builder().name("theirs").build().unwrap();
    let id = stream(&ours).await;
    let missing = theirs.status(&id).await.unwrap_err();
    assert_eq!(missing.kind(), LogErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn a_stream_is_gone_some_time_after_its_last_write() {
    let server = Server::start().await;
    let log = server.builder().max_age(Duration::from_millis(300));
    let log = log.build().unwrap();
    let id = stream(&log).await;
    appended(&log, &id, &one(1)).await;
    let mut reader = log.read(&id, 0);
    reader.next().await.unwrap().unwrap();
    let gone = reader.next().await.unwrap().unwrap_err();
    assert_eq!(gone.kind(), LogErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn a_reader_finds_its_place_in_a_long_stream_among_others() {
    let server = Server::start().await;
    let log = server.log();
    let (id, other) = (stream(&log).await, stream(&log).await);
    for n in 0..60 {
        appended(&log, &other, &one(1 + n)).await;
        let three = Entry::records(1 + 3 * n, vec![Bytes::from("x"); 3]);
        appended(&log, &id, &three).await;
        log.renew(&id, Epoch::FIRST).await.unwrap();
    }
    for after in [1, 2, 3, 88, 89, 90, 177, 178, 179] {
        let first = log.read(&id, after).next().await.unwrap().unwrap();
        assert_eq!(first.first, after + 1);
    }
    // Of the renewals in between, one is kept after each entry, and not one per renewal.
    for _ in 0..5 {
        log.renew(&id, Epoch::FIRST).await.unwrap();
    }
    let context = server.jetstream().await;
    let mut stream = context.get_stream("tower-stream").await.unwrap();
    let messages = stream.info().await.unwrap().state.messages;
    assert!(messages <= 2 + 60 + 2 * 60 + 1, "{messages}");
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn readers_and_producers_go_on_after_the_server_was_killed() {
    let mut server = Server::start().await;
    let log = server.builder().timeout(Duration::from_secs(1));
    let log = log.build().unwrap();
    let id = stream(&log).await;
    appended(&log, &id, &one(1)).await;
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
    appended(&log, &id, &Entry::end(3, End::Complete)).await;
    let mut reader = log.read(&id, 1);
    let mut read = Vec::new();
    while let Some(entry) = reader.next().await {
        read.push(entry.unwrap());
    }
    assert_eq!(read, [next, Entry::end(3, End::Complete)]);
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn a_jetstream_stream_that_was_deleted_is_not_found_and_made_again() {
    let server = Server::start().await;
    let log = server.log();
    let id = stream(&log).await;
    let mut reader = log.read(&id, 0);
    assert!(reader.next().now_or_never().is_none());
    let context = server.jetstream().await;
    context.delete_stream("tower-stream").await.unwrap();
    let next = one(1);
    let lost = log.append(&id, Epoch::FIRST, &next, Overflow::Refuse);
    assert_eq!(lost.await.unwrap_err().kind(), LogErrorKind::NotFound);
    let lost = log.renew(&id, Epoch::FIRST).await.unwrap_err();
    assert_eq!(lost.kind(), LogErrorKind::NotFound);
    let lost = reader.next().await.unwrap().unwrap_err();
    assert_eq!(lost.kind(), LogErrorKind::NotFound);
    // The next stream begins in a new one.
    let id = stream(&log).await;
    appended(&log, &id, &one(1)).await;
    assert_eq!(log.status(&id).await.unwrap().next, 2);
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn a_record_over_the_limit_of_the_server_is_too_large_and_changes_nothing() {
    let server = Server::with("max_payload: 65536").await;
    let log = server.log();
    let id = stream(&log).await;
    let large = |bytes| Entry::records(1, vec![Bytes::from(vec![b'x'; bytes])]);
    for bytes in [65_536, MAX / 2, 2 * MAX] {
        let large = large(bytes);
        let refused = log.append(&id, Epoch::FIRST, &large, Overflow::Refuse);
        assert_eq!(refused.await.unwrap_err().kind(), LogErrorKind::TooLarge);
    }
    assert_eq!(log.status(&id).await.unwrap().next, 1);
    let fits = large(60_000);
    appended(&log, &id, &fits).await;
    let read = log.read(&id, 0).next().await.unwrap().unwrap();
    assert_eq!(read, fits);
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn of_two_producers_of_one_stream_the_one_that_was_replaced_stores_nothing() {
    let server = Server::start().await;
    let (old, new) = (server.log(), server.log());
    let id = stream(&old).await;
    appended(&old, &id, &one(1)).await;
    let claimed = new.take_over(&id, Takeover::Always).await.unwrap();
    // The old one remembers the sequence number of its last message, and the server refuses what follows that.
    let next = one(2);
    let late = old.append(&id, Epoch::FIRST, &next, Overflow::Refuse);
    let (late, stored) = tokio::join!(late, async {
        let mine = Entry::records(2, vec![Bytes::from("mine")]);
        let stored = new.append(&id, claimed.epoch, &mine, Overflow::Refuse);
        stored.await.map(|()| mine)
    });
    assert_eq!(late.unwrap_err().kind(), LogErrorKind::Fenced);
    let read = new.read(&id, 1).next().await.unwrap().unwrap();
    assert_eq!(read, stored.unwrap());
}

#[tokio::test]
#[ignore = "needs nats-server: tests/resume/run"]
async fn a_server_without_room_is_full() {
    let server = Server::start().await;
    // Made beforehand, and not as this log makes it.
    let subjects = ["stream.*", "attended.*", "key.*", "clock"];
    let config = jetstream::stream::Config {
        name: "tower-stream".to_owned(),
        subjects: subjects.map(|rest| format!("tower-stream.{rest}")).into(),
        max_bytes: 32 * 1_024,
        discard: jetstream::stream::DiscardPolicy::New,
        allow_rollup: true,
        ..Default::default()
    };
    let context = server.jetstream().await;
    context.create_stream(config).await.unwrap();
    let log = server.log();
    let id = stream(&log).await;
    let record = |first| Entry::records(first, vec![Bytes::from(vec![b'x'; 20_000])]);
    appended(&log, &id, &record(1)).await;
    let next = record(2);
    let full = log.append(&id, Epoch::FIRST, &next, Overflow::Trim);
    assert_eq!(full.await.unwrap_err().kind(), LogErrorKind::Full);
    assert_eq!(log.status(&id).await.unwrap().next, 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_a_wrong_url_an_error() {
    let nobody = Nats::builder("nats://127.0.0.1:1").timeout(Duration::from_millis(300));
    let log = nobody.build().unwrap();
    let id = StreamId::random();
    let unknown = log.status(&id).await.unwrap_err();
    assert_eq!(unknown.kind(), LogErrorKind::Unavailable);
    let unknown = log.read(&id, 0).next().await.unwrap().unwrap_err();
    assert_eq!(unknown.kind(), LogErrorKind::Unavailable);
    for (url, name) in [("http://127.0.0.1", "a"), ("nats://127.0.0.1", "a.b")] {
        let wrong = Nats::builder(url).name(name).build().unwrap_err();
        assert_eq!(wrong.kind(), LogErrorKind::Unavailable);
    }
}

//! The operations on JetStream that the log needs, and their errors.

use std::time::{Duration, SystemTime};

use async_nats::{
    Client,
    jetstream::{
        self, ErrorCode,
        context::{Context, ContextBuilder, PublishErrorKind},
        message::PublishMessage,
        stream::{Config, LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{NatsBuilder, state::State};
use crate::{LogError, LogErrorKind};

/// A message of the JetStream stream.
pub(super) struct Message {
    pub(super) sequence: u64,
    /// When the server stored it, by its clock.
    pub(super) at: SystemTime,
    pub(super) payload: Bytes,
}

impl Message {
    pub(super) fn state(&self) -> Result<State, LogError> {
        State::decode(self.payload.clone()).map_err(LogError::unavailable)
    }
}

/// Why a message was not stored.
pub(super) enum Unstored {
    /// The last message of the subject is another one than was expected.
    Changed,
    /// There is no JetStream stream for the subject.
    NoStream,
    Failed(LogError),
}

/// How long the difference to the server's clock is relied on.
const CLOCK_AGE: Duration = Duration::from_secs(60);

pub(super) struct JetStream {
    pub(super) client: Client,
    context: Context,
    stream: Stream<()>,
    config: Config,
    clock_subject: String,
    /// A time of the server, and when it was that time here.
    clock: Mutex<Option<(SystemTime, Instant)>>,
}

impl JetStream {
    pub(super) async fn new(client: Client, bounds: &NatsBuilder) -> Result<Self, LogError> {
        let context = ContextBuilder::new()
            .timeout(bounds.timeout)
            .ack_timeout(bounds.timeout)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let name = &bounds.name;
        let stream = context.get_stream_no_info(name).await;
        Ok(Self {
            client,
            stream: stream.map_err(LogError::unavailable)?,
            context,
            config: bounds.config(),
            clock_subject: format!("{name}.clock"),
            clock: Mutex::default(),
        })
    }

    /// Creates the JetStream stream if there is none.
    pub(super) async fn create(&self) -> Result<(), LogError> {
        let created = self.context.get_or_create_stream(&self.config).await;
        created.map(drop).map_err(LogError::unavailable)
    }

    /// Stores a message, if the last one of its subject has this sequence number. 0: there must be none.
    pub(super) async fn publish(
        &self,
        subject: String,
        payload: Bytes,
        expected: u64,
    ) -> Result<u64, Unstored> {
        let message = PublishMessage::build().payload(payload);
        let message = message.expected_last_subject_sequence(expected);
        self.send(subject, message).await
    }

    /// Stores a message in the place of all earlier ones of its subject.
    pub(super) async fn replace(&self, subject: String, payload: Bytes) -> Result<u64, LogError> {
        let message = PublishMessage::build().payload(payload);
        let message = message.header(async_nats::header::NATS_ROLLUP, "sub");
        let stored = self.send(subject, message).await;
        stored.map_err(|error| match error {
            Unstored::Failed(error) => error,
            _ => LogErrorKind::NotFound.into(),
        })
    }

    async fn send(&self, subject: String, message: PublishMessage) -> Result<u64, Unstored> {
        let stored = async { self.context.send_publish(subject, message).await?.await };
        let error = match stored.await {
            Ok(ack) => return Ok(ack.sequence),
            Err(error) => error,
        };
        let kind = match error.kind() {
            PublishErrorKind::WrongLastSequence => return Err(Unstored::Changed),
            PublishErrorKind::StreamNotFound => return Err(Unstored::NoStream),
            PublishErrorKind::MaxPayloadExceeded => LogErrorKind::TooLarge,
            _ => refused(&error),
        };
        Err(Unstored::Failed(LogError::new(kind, error)))
    }

    /// The last message of a subject.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<Message>, LogError> {
        self.get(self.stream.get_last_raw_message_by_subject(subject))
            .await
    }

    /// The first message of a subject with at least this sequence number.
    pub(super) async fn next(
        &self,
        subject: &str,
        sequence: u64,
    ) -> Result<Option<Message>, LogError> {
        // 0 is "not given" to the server.
        let sequence = sequence.max(1);
        self.get(
            self.stream
                .get_first_raw_message_by_subject(subject, sequence),
        )
        .await
    }

    /// Asked of the leader of the stream and not of any replica, for a follower may not have the latest message yet.
    async fn get(
        &self,
        get: impl Future<
            Output = Result<
                jetstream::message::StreamMessage,
                async_nats::error::Error<LastRawMessageErrorKind>,
            >,
        >,
    ) -> Result<Option<Message>, LogError> {
        match get.await {
            Ok(message) => Ok(Some(Message {
                sequence: message.sequence,
                at: message.time.into(),
                payload: message.payload,
            })),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(cause)
                    if cause.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(None)
                }
                _ => Err(LogError::unavailable(error)),
            },
        }
    }

    /// Removes the messages of a subject, all or those before this sequence number. Returns how many there were.
    pub(super) async fn purge(&self, subject: &str, before: Option<u64>) -> Result<u64, LogError> {
        let purge = self.stream.purge().filter(subject);
        let purged = match before {
            Some(before) => purge.sequence(before).await,
            None => purge.await,
        };
        Ok(purged.map_err(LogError::unavailable)?.purged)
    }

    /// Removes one message.
    pub(super) async fn remove(&self, sequence: u64) {
        if let Err(error) = self.stream.delete_message(sequence).await {
            tracing::debug!(%error, "a message that is no longer needed stays");
        }
    }

    /// The time of the server, perhaps a little earlier. A NATS server has no request for it, so the time of a message is taken.
    pub(super) async fn now(&self) -> Result<SystemTime, LogError> {
        let known = *self.clock.lock();
        let (server, here) = match known {
            Some((server, here)) if here.elapsed() < CLOCK_AGE => (server, here),
            _ => {
                let subject = self.clock_subject.clone();
                self.replace(subject, Bytes::new()).await?;
                let here = Instant::now();
                let message = self.last(&self.clock_subject).await?;
                let message = message.ok_or(LogErrorKind::NotFound)?;
                *self.clock.lock() = Some((message.at, here));
                (message.at, here)
            }
        };
        Ok(server + here.elapsed())
    }
}

/// What it means that the server refused a message.
fn refused(error: &(dyn std::error::Error + 'static)) -> LogErrorKind {
    let cause = error.source();
    let cause = cause.and_then(|cause| cause.downcast_ref::<jetstream::Error>());
    match cause.map(jetstream::Error::error_code) {
        Some(
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM,
        ) => LogErrorKind::TooLarge,
        Some(
            ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ) => LogErrorKind::Full,
        _ => LogErrorKind::Unavailable,
    }
}

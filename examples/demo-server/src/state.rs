//! State shared by handlers and layers.

use std::{io, sync::Arc};

use tower_stream_compress::{CompressLayer, Settings};
use tower_stream_digest::{DigestLayer, VerifyDigestLayer};
use tower_stream_drain::Drain;
use tower_stream_ids::RequestIdLayer;
use tower_stream_limit::{BreakerLayer, StreamLimitLayer};
use tower_stream_metrics::{Prometheus, StreamMetricsLayer};
use tower_stream_serve::Connections;

use tower_stream_resume::{Memory, Resume};

use crate::{Args, ResumeLog, Traces, layers};

/// Shared by both listeners. Clones share the state.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) args: Arc<Args>,
    pub(crate) request_ids: RequestIdLayer,
    pub(crate) prometheus: Prometheus,
    pub(crate) metrics: StreamMetricsLayer,
    pub(crate) compression: CompressLayer,
    pub(crate) drain: Drain,
    pub(crate) limit: StreamLimitLayer,
    pub(crate) breaker: BreakerLayer,
    /// Those of the public listener.
    pub(crate) connections: Connections,
    pub(crate) digests: DigestLayer,
    pub(crate) verify: VerifyDigestLayer,
    pub(crate) traces: Traces,
    /// `None` with `--resume off`.
    pub(crate) resume: Option<Resume>,
}

impl State {
    /// The state of a server that has just started.
    ///
    /// # Errors
    ///
    /// Fails if the directory of `--files` cannot be resolved (the message names it), if the times of the drain
    /// contradict each other, or if the traces cannot be set up.
    pub fn new(mut args: Args) -> io::Result<Self> {
        if let Some(files) = &mut args.files {
            // `/files` compares resolved paths with this one.
            *files = files.canonicalize().map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("--files {}: {error}", files.display()),
                )
            })?;
        }
        let request_ids = RequestIdLayer::new();
        let drain = args
            .drain()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let (limit, breaker) = (args.limit(), args.breaker());
        let settings = Settings::on().mode(args.compress.mode());
        let compression = CompressLayer::new().settings(settings);
        let digests = layers::announced_digest();
        let verify = VerifyDigestLayer::md5();
        let traces = Traces::new(args.otlp.as_deref())?;

        let resume = match &args.resume {
            _ if args.bare => None,
            ResumeLog::Off => None,
            ResumeLog::Memory => Some(Resume::builder(Memory::new()).owner(owner).build()),
            ResumeLog::Redis(url) => Some(redis(url)?),
            ResumeLog::Nats(url) => Some(nats(url)?),
        };

        let prometheus = Prometheus::new("demo-server");
        let meter = prometheus.meter();
        // A demo shows everything. Both are off by default, because each chunk then needs one more clock read.
        let metrics = StreamMetricsLayer::new(&meter)
            .producer_wait(true)
            .consumer_hold(true);
        request_ids.observe(&meter);
        drain.observe(&meter);
        compression.switch().observe(&meter);
        limit.observe(&meter);
        breaker.observe(&meter);
        if let Some(resume) = &resume {
            resume.observe(&meter);
        }
        digests.observe(&meter);
        verify.observe(&meter);
        traces.observe(&meter);

        Ok(Self {
            prometheus,
            metrics,
            traces,
            args: Arc::new(args),
            compression,
            drain,
            limit,
            breaker,
            connections: Connections::default(),
            digests,
            verify,
            request_ids,
            resume,
        })
    }

    /// The exporter of spans.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }
}

/// The API key of a request with an `Idempotency-Key`, so that two clients may use the same key; the demo accepts any. Other streams are
/// for everyone who knows their id.
fn owner(request: &axum::http::request::Parts) -> Option<String> {
    request.headers.get("idempotency-key")?;
    let key = request.headers.get(axum::http::header::AUTHORIZATION)?;
    key.to_str().ok().map(str::to_owned)
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> io::Result<Resume> {
    shared(tower_stream_resume::Redis::builder(url).build(), url)
}

#[cfg(feature = "nats")]
fn nats(url: &str) -> io::Result<Resume> {
    shared(tower_stream_resume::Nats::builder(url).build(), url)
}

#[cfg(any(feature = "redis", feature = "nats"))]
fn shared(
    log: Result<impl tower_stream_resume::StreamLog, tower_stream_resume::LogError>,
    url: &str,
) -> io::Result<Resume> {
    let log = log.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    // Every server with this log must accept the ids that another one signed. A service of yours has a secret of its own.
    Ok(Resume::builder(log).secret(url).owner(owner).build())
}

#[cfg(not(feature = "nats"))]
fn nats(_: &str) -> io::Result<Resume> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> io::Result<Resume> {
    Err(io::ErrorKind::Unsupported.into())
}

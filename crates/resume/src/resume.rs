//! The handle that everything of this crate is made from.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::request::Parts;
use http_body::Body;
use parking_lot::Mutex;

use tower_stream_core::BoxError;

#[cfg(doc)]
use crate::Restart;
use crate::{
    LostStream, ResumeLayer, StreamId, StreamLog, Streams,
    cursor::Issuer,
    keys::Turns,
    live::Live,
    restart::{RestartFn, restart_fn},
};

/// The streams of one log: makes the [`ResumeLayer`] for handlers and the routes under which a stream is resumed, cancelled and looked
/// at. A clone shares them.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_stream_resume::{Memory, Resume};
///
/// let resume = Resume::builder(Memory::new()).owner(|request| {
///     let user = request.headers.get("x-user")?;
///     user.to_str().ok().map(str::to_owned)
/// });
/// let resume = resume.build();
/// # async fn story() {}
/// let app: Router = Router::new()
///     .route("/story", get(story))
///     .layer(resume.layer())
///     .nest_service("/streams", resume.routes());
/// ```
#[derive(Clone)]
pub struct Resume {
    pub(crate) shared: Arc<Shared>,
}

/// Configures a [`Resume`].
#[must_use = "a builder does nothing until it is built"]
pub struct Builder {
    log: Arc<dyn StreamLog>,
    secret: Option<Vec<u8>>,
    owner: Option<OwnerOf>,
    path: String,
    lease: Duration,
    renew: Duration,
    refuses_gaps: bool,
    origins: Vec<String>,
    restart: Option<RestartFn>,
}

type OwnerOf = Arc<dyn Fn(&Parts) -> Option<String> + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) log: Arc<dyn StreamLog>,
    pub(crate) issuer: Issuer,
    pub(crate) owner: Option<OwnerOf>,
    /// The path of the routes, without a slash at its end.
    pub(crate) path: String,
    pub(crate) lease: Duration,
    pub(crate) renew: Duration,
    pub(crate) refuses_gaps: bool,
    pub(crate) origins: Vec<String>,
    pub(crate) restart: Option<RestartFn>,
    /// The streams whose producer runs in this process.
    live: Mutex<HashMap<StreamId, Arc<Live>>>,
    pub(crate) turns: Turns,
    figures: Figures,
}

#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) created: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) orphans: AtomicU64,
    pub(crate) restarted: AtomicU64,
    pub(crate) broken: AtomicU64,
    pub(crate) refused: AtomicU64,
    #[cfg(feature = "metrics")]
    pub(crate) appends: std::sync::OnceLock<opentelemetry::metrics::Histogram<f64>>,
}

/// What a [`Resume`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Streams that were created.
    pub created: u64,
    /// Responses that read a stream which existed already, found by its id, a cursor or a key.
    pub resumed: u64,
    /// Gaps that a client was told.
    pub gaps: u64,
    /// Streams of lost producers that this process ended.
    pub orphans: u64,
    /// Streams of lost producers that this process continued.
    pub restarted: u64,
    /// Streams that the log stopped storing, and that cannot be resumed any more.
    pub broken: u64,
    /// Cursors and ids that were refused: malformed, foreign, or of a stream that is gone.
    pub refused: u64,
    /// Producers that run in this process.
    pub producers: u64,
    /// Records of these producers that are in memory, beside the log.
    pub held: u64,
}

/// What happens to the producer of a stream when its last reader leaves. See [`ResumeLayer::who_left`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhoLeft {
    /// The producer stops.
    Cancel,
    /// The producer stops if no reader comes within this time. The default, with 30 s.
    Grace(Duration),
    /// The producer goes on to the end of the stream, at most for this time without a reader.
    Detach(Duration),
}

impl WhoLeft {
    pub(crate) fn longest_alone(self) -> Duration {
        match self {
            Self::Cancel => Duration::ZERO,
            Self::Grace(time) | Self::Detach(time) => time,
        }
    }

    pub(crate) fn is_detached(self) -> bool {
        matches!(self, Self::Detach(_))
    }
}

/// When a reader gets a record: see [`ResumeLayer::durability`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// At once, while it is being stored. A crash of the server may lose the last records that its readers have seen. The default.
    #[default]
    Live,
    /// When the log has stored it, so that no crash of the server loses a record that a reader has seen. Each record then waits for
    /// the log; records that are ready at the same time are stored together.
    ///
    /// If the log is unavailable, the readers wait, the producer pauses after 1,024 records or 1 MiB, and both go on when the log is
    /// back. If the log will never store the rest (it has lost the stream, a record is too large, or the end could not be stored
    /// for some 15 s), the producer stops, and the readers get what is stored and then a failure
    /// ([`FaultKind::Io`](tower_stream_core::FaultKind::Io)). A request whose stream the log does not create is answered with 503.
    Stored,
}

impl Default for WhoLeft {
    fn default() -> Self {
        Self::Grace(Duration::from_secs(30))
    }
}

impl Resume {
    /// Keeps streams in this log.
    pub fn builder(log: impl StreamLog) -> Builder {
        Builder {
            log: Arc::new(log),
            secret: None,
            owner: None,
            path: "/streams".to_owned(),
            lease: Duration::from_secs(5),
            renew: Duration::from_secs(1),
            refuses_gaps: false,
            origins: Vec::new(),
            restart: None,
        }
    }

    /// The layer for handlers whose streams are to be resumable.
    pub fn layer(&self) -> ResumeLayer {
        ResumeLayer::new(Arc::clone(&self.shared))
    }

    /// The service for the paths below [`Builder::path`]: `GET /{id}` resumes a stream (with `Last-Event-ID`, or with
    /// `?after=`; else from its start), `DELETE /{id}` cancels it, `GET /{id}/status` describes it.
    ///
    /// With axum: `Router::nest_service("/streams", resume.routes())`. A stream that was opened by a POST, or that has no cursors in its
    /// events, is resumed here.
    pub fn routes(&self) -> Streams {
        Streams::new(Arc::clone(&self.shared))
    }

    /// The figures since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let figures = &self.shared.figures;
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let live = self.shared.live.lock();
        Stats {
            created: read(&figures.created),
            resumed: read(&figures.resumed),
            gaps: read(&figures.gaps),
            orphans: read(&figures.orphans),
            restarted: read(&figures.restarted),
            broken: read(&figures.broken),
            refused: read(&figures.refused),
            producers: live.len() as u64,
            held: live.values().map(|live| live.held() as u64).sum(),
        }
    }
}

impl Builder {
    /// Sets the secret that the ids of streams are signed with. All replicas need the same one, and it should outlast their restarts.
    /// Default: a random one, which is right for a log in memory only.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// Sets who owns a stream: only a request of the same owner can resume or cancel it, and anyone else is told that there is no
    /// such stream (404). `None` is a request without an owner; streams of these belong to whoever knows their id.
    ///
    /// An `EventSource` cannot set `Authorization`, so this is usually the user of a session cookie. The extractor is called for
    /// each request. Default: none, so the id of a stream is a bearer secret.
    pub fn owner(
        mut self,
        owner: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.owner = Some(Arc::new(owner));
        self
    }

    /// Sets where [`Resume::routes`] are mounted, for the `Link` of a response. Default: `/streams`.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        let path = path.into();
        self.path = path.trim_end_matches('/').to_owned();
        self
    }

    /// Sets how long a producer may be silent towards the log before its stream counts as lost, and how often it renews its lease.
    /// Default: 5 s and 1 s.
    ///
    /// # Panics
    ///
    /// Panics if `renew` is zero or not shorter than `lease`.
    pub fn lease(mut self, lease: Duration, renew: Duration) -> Self {
        assert!(
            !renew.is_zero() && renew < lease,
            "a lease must be renewed before it expires"
        );
        self.lease = lease;
        self.renew = renew;
        self
    }

    /// Responds 410 to a cursor whose next records are no longer kept, instead of a stream that begins with a gap. An `EventSource`
    /// then gives up. Default: no.
    pub fn refuse_gaps(mut self, refuse: bool) -> Self {
        self.refuses_gaps = refuse;
        self
    }

    /// Allows pages of this origin (`https://example.com`) to cancel streams. Pages of the server's own host always may, and so may
    /// clients that send no `Origin`.
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }

    /// Sets what continues a stream whose producer was lost. Default: nothing, so such a stream ends with `producer_lost`.
    ///
    /// When the lease of a producer has expired, because its server was killed or has reached the deadline of its drain, the first reader
    /// that resumes the stream elsewhere, or reads it there already, takes it over: the function is called on that server and gets the
    /// seed that the handler gave to [`Restart`], the number of the records that are stored, and these records. The body that it
    /// returns is the rest of the stream: it goes on after the stored records, in the format of the handler's. `None`
    /// ends the stream with `producer_lost`. Of several servers that try at once, one is the producer, and the others read.
    ///
    /// Only streams with a [`Restart`] are restarted. The function runs in the task of the producer, with the
    /// [`WhoLeft`] and the [`Durability`] of the stream's first request.
    ///
    /// With [`Durability::Live`], a reader may have seen records that were not stored. It is told so when it goes on: by a gap with
    /// `forked_at`, the offset from which on it gets other records than it had, or by a failure if its dialect has no
    /// room for that. With [`Durability::Stored`] that does not happen.
    ///
    /// ```
    /// use axum::body::Body;
    /// use tower_stream_resume::{LostStream, Memory, Resume};
    ///
    /// # fn answer(job: String, from: u64) -> Body { Body::empty() }
    /// let resume = Resume::builder(Memory::new()).restart(|lost: LostStream| async move {
    ///     // A job that takes its server down is not tried on every server.
    ///     if lost.attempt() > 3 {
    ///         return None;
    ///     }
    ///     let job = String::from_utf8(lost.seed().to_vec()).ok()?;
    ///     Some(answer(job, lost.records()))
    /// });
    /// ```
    pub fn restart<F, R, B>(mut self, restart: F) -> Self
    where
        F: Fn(LostStream) -> R + Send + Sync + 'static,
        R: Future<Output = Option<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.restart = Some(restart_fn(restart));
        self
    }

    /// Creates the handle.
    ///
    /// # Panics
    ///
    /// Panics if there is no secret and the operating system gives no random numbers.
    #[must_use]
    pub fn build(self) -> Resume {
        if self.owner.is_none() {
            tracing::warn!(
                "streams have no owner: whoever knows the id of a stream can read and cancel it"
            );
        }
        let secret = self.secret.unwrap_or_else(|| {
            let mut secret = vec![0; 32];
            getrandom::fill(&mut secret).expect("the operating system gives random numbers");
            secret
        });
        Resume {
            shared: Arc::new(Shared {
                log: self.log,
                issuer: Issuer::new(&secret),
                owner: self.owner,
                path: self.path,
                lease: self.lease,
                renew: self.renew,
                refuses_gaps: self.refuses_gaps,
                origins: self.origins,
                restart: self.restart,
                live: Mutex::default(),
                turns: Turns::default(),
                figures: Figures::default(),
            }),
        }
    }
}

impl Shared {
    pub(crate) fn owner_of(&self, request: &Parts) -> Option<String> {
        self.owner.as_ref().and_then(|owner| owner(request))
    }

    pub(crate) fn live(&self, id: &StreamId) -> Option<Arc<Live>> {
        self.live.lock().get(id).cloned()
    }

    pub(crate) fn remember(&self, live: &Arc<Live>) {
        self.live.lock().insert(live.id, Arc::clone(live));
    }

    pub(crate) fn forget(&self, live: &Arc<Live>) {
        let mut all = self.live.lock();
        // It may have been restarted here since.
        if all
            .get(&live.id)
            .is_some_and(|known| Arc::ptr_eq(known, live))
        {
            all.remove(&live.id);
        }
    }

    pub(crate) fn count(&self, figure: impl FnOnce(&Figures) -> &AtomicU64) {
        figure(&self.figures).fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn appends(&self) -> &std::sync::OnceLock<opentelemetry::metrics::Histogram<f64>> {
        &self.figures.appends
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resume")
            .field("log", &self.shared.log)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("log", &self.log)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

//! The layer.

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

use crate::{
    Adaptive, KeyBy, LimitStats, Rate,
    limit::{Config, Limit, Queue},
};

/// Limits how many streams are open at once, in all and per client, and how many requests a client may send. See the
/// [crate] documentation.
///
/// A layer is a handle to its limit: clones share it, so one layer on several routes is one limit. A setter creates a new
/// limit, and does not change that of an earlier clone. A request that passes two layers of one limit is counted once.
///
/// ```
/// use std::time::Duration;
/// use tower_stream_limit::{Rate, StreamLimitLayer};
///
/// let limit = StreamLimitLayer::new()
///     .streams(1_000)
///     .wait(100, Duration::from_secs(2))
///     .streams_per_key(4)
///     .rate_per_key(Rate::per_second(10));
/// assert_eq!(limit.stats().in_use, 0);
/// ```
///
/// # Panics
///
/// Panics if a request has to wait outside of a tokio runtime with its timer enabled.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct StreamLimitLayer {
    pub(crate) limit: Option<Arc<Limit>>,
}

impl StreamLimitLayer {
    /// Creates a layer without a limit, which only counts. Add at least one of [`streams`](Self::streams),
    /// [`streams_per_key`](Self::streams_per_key) and [`rate_per_key`](Self::rate_per_key).
    pub fn new() -> Self {
        Self {
            limit: Some(Limit::new(Config {
                streams: None,
                adaptive: None,
                per_key: None,
                rate: None,
                key: KeyBy::peer(),
                keys: 65_536,
                expiry: Duration::from_secs(60),
                queue: None,
                until_head: false,
                retry_after: Duration::from_secs(2),
                exempt: None,
            })),
        }
    }

    /// A disabled layer of the same type.
    pub const fn off() -> Self {
        Self { limit: None }
    }

    /// Sets the most streams at once, in all. Zero refuses every request. Over it, a request [waits](Self::wait) or is
    /// refused with 503. Default: no limit.
    pub fn streams(self, most: usize) -> Self {
        self.set(|config| config.streams = Some(most))
    }

    /// Limits how many streams may await their first chunk, by a limit that follows the time that this takes. Over it, a
    /// request [waits](Self::wait) or is refused with 503; a stream that was admitted is never ended. Default: no such limit.
    pub fn adaptive(self, adaptive: Adaptive) -> Self {
        self.set(|config| config.adaptive = Some(adaptive))
    }

    /// Sets the most streams at once for each [key](Self::key). Zero refuses every request. Over it, a request
    /// [waits](Self::wait) or is refused with 429. Default: no limit.
    pub fn streams_per_key(self, most: usize) -> Self {
        self.set(|config| config.per_key = Some(most))
    }

    /// Sets how many requests each [key](Self::key) may send. Over it, a request is refused with 429 and does not wait.
    /// Each response has the fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers). Default: no
    /// limit.
    pub fn rate_per_key(self, rate: Rate) -> Self {
        self.set(|config| config.rate = Some(rate))
    }

    /// Sets which requests belong together. Default: [`KeyBy::peer`], those of one client address.
    pub fn key(self, key: KeyBy) -> Self {
        self.set(|config| config.key = key)
    }

    /// Sets for how many keys the limit counts at once, and how long it keeps a key without a stream. Default: 65,536 keys,
    /// 60 s. One takes about 300 bytes.
    ///
    /// While so many keys are known, all new ones together are counted as one key, so invented keys neither take memory nor
    /// harm a client that is known. A key is kept at least until its [rate](Self::rate_per_key) has forgotten it.
    pub fn remember(self, keys: usize, time: Duration) -> Self {
        self.set(|config| {
            config.keys = keys;
            config.expiry = time;
        })
    }

    /// Lets requests over a limit wait: at most `length` for the limit for all, each for at most `time`, first come, first
    /// served. If the queue is full, a new request is refused at once. Default: no request waits.
    ///
    /// For the limit of a key, at most as many requests wait as the key may have streams, and no more than `length`.
    ///
    /// While a request waits, the future of the inner service exists and is not polled. The routers of axum and tonic do
    /// all work in their future. Of a service that begins its work in `call`, such as `tower::buffer`, make one that does
    /// not: `service_fn(move |request| buffer.clone().oneshot(request))`.
    pub fn wait(self, length: usize, time: Duration) -> Self {
        let time = time.min(Duration::from_secs(365 * 24 * 60 * 60));
        self.set(|config| {
            config.queue = (length > 0 && !time.is_zero()).then_some(Queue { length, time });
        })
    }

    /// Gives the permit back when the response head is there, as `tower::limit` does, and not at the end of the body. For
    /// work that is over with the head.
    pub fn until_head(self) -> Self {
        self.set(|config| config.until_head = true)
    }

    /// Sets the shortest `Retry-After` of a refusal because of a limit of streams. The time in a response is between this
    /// and twice as long, at random, so that the clients do not come back at once. Default: 2 s.
    ///
    /// A refusal because of a rate has the time until the next request is admitted, and up to a second or that time more.
    pub fn retry_after(self, wait: Duration) -> Self {
        self.set(|config| config.retry_after = wait)
    }

    /// Sets which requests are neither limited nor counted: health probes, for example. Default: none.
    ///
    /// ```
    /// use tower_stream_limit::StreamLimitLayer;
    ///
    /// let limit = StreamLimitLayer::new().streams(100).exempt(|head| head.uri.path() == "/livez");
    /// # drop(limit);
    /// ```
    pub fn exempt(self, rule: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        let rule = Arc::new(rule);
        self.set(|config| config.exempt = Some(rule))
    }

    /// Changes the most streams at once, in all, while the limit is in use. Streams that are open stay open: if there are
    /// more, no request is admitted until enough of them have ended. Does nothing for a layer that is off.
    ///
    /// ```
    /// use tower_stream_limit::StreamLimitLayer;
    ///
    /// let limit = StreamLimitLayer::new().streams(100);
    /// limit.set_streams(50);
    /// assert_eq!(limit.stats().limit, 50);
    /// ```
    pub fn set_streams(&self, most: usize) {
        if let Some(limit) = &self.limit {
            limit.slots.set_limit(most);
        }
    }

    /// The figures of the limit now. All zero for a layer that is off.
    #[must_use]
    pub fn stats(&self) -> LimitStats {
        let limit = self.limit.as_ref();
        limit.map(|limit| limit.stats()).unwrap_or_default()
    }

    fn set(self, change: impl FnOnce(&mut Config)) -> Self {
        let Some(limit) = self.limit else {
            return self;
        };
        let mut config = limit.config.clone();
        change(&mut config);
        Self {
            limit: Some(Limit::new(config)),
        }
    }
}

impl Default for StreamLimitLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for StreamLimitLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

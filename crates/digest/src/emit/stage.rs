//! Hashes one response body and announces its digest.

use std::{fmt, sync::Arc, task::Poll};

use http::{HeaderMap, Method, Request, Uri, Version, header, response::Parts};
use http_body::SizeHint;
use tower_stream_core::{
    BoxError, Cause, ExpectedDigest, FaultKind, StreamEnd, digests_changed,
    wrapper::{
        AfterHead, Hints, Piece, Polled, ResponseHead, Source, Stage, StageContext, at_least,
    },
};

use super::{Sent, layer::Config};
use crate::{
    Announce, DigestHandle, DigestValue, Placement, Segments,
    algorithm::ErasedAlgorithm,
    fields,
    hasher::Hasher,
    replay::{Ahead, Replay},
};

/// The state of [`DigestLayer`](super::DigestLayer) for one request.
pub struct DigestStage(Box<Response>);

/// Boxed: all stages of a stack share one allocation, which should not grow for the few responses that are hashed.
struct Response {
    config: Arc<Config>,
    method: Method,
    uri: Uri,
    version: Version,
    /// The algorithm for `Content-Digest` and `Repr-Digest`; `None` if the client refuses.
    wanted: Option<ErasedAlgorithm>,
    /// Whether trailers reach the client.
    trailers: bool,
    declared: Option<u64>,
    replay: Replay,
    hash: Hash,
    bytes: u64,
    plan: Placement,
    announced: Announced,
    /// Receives the result; `None` until the response head is known.
    handle: Option<DigestHandle<Sent>>,
}

enum Hash {
    /// Not hashed, or not started.
    None,
    Running(Hasher),
    Done(DigestValue, Option<Segments>),
}

/// Where the digest of a streamed body is announced.
enum Announced {
    Nowhere,
    Trailers {
        fields: Announce,
        /// Sent chunked although the length was known. hyper then does not notice a body that is too long.
        chunked: bool,
    },
    /// The trailers, or an error in place of them, were returned.
    Over {
        trailers: bool,
    },
}

impl DigestStage {
    pub(super) fn new<B>(config: &Arc<Config>, request: &Request<B>) -> Self {
        let headers = request.headers();
        let wish = match config.announce.contains(Announce::CONTENT_DIGEST) {
            true => &fields::WANT_CONTENT_DIGEST,
            false => &fields::WANT_REPR_DIGEST,
        };
        Self(Box::new(Response {
            config: Arc::clone(config),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            wanted: match config.negotiate {
                true => fields::wanted(headers, wish, &config.algorithms),
                false => Some(config.algorithms[0]),
            },
            trailers: match request.version() {
                Version::HTTP_09 | Version::HTTP_10 => false,
                Version::HTTP_11 => fields::te_trailers(headers),
                _ => true,
            },
            declared: None,
            replay: Replay::default(),
            hash: Hash::None,
            bytes: 0,
            plan: Placement::Unannounced,
            announced: Announced::Nowhere,
            handle: None,
        }))
    }
}

impl Stage for DigestStage {
    const RARE: bool = true;

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        Poll::Ready(self.0.on_head(head, up, cx))
    }

    #[inline]
    fn on_poll(&mut self, _: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        self.0.on_poll(cx)
    }

    #[inline]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        self.0.replay.on_polled(polled);
        self.0.given(polled, cx);
    }

    fn on_latched(&mut self) {
        self.0.finish();
    }

    fn on_end(&mut self, end: &StreamEnd) {
        self.0.report(end);
    }

    fn has_more(&self) -> bool {
        match self.0.announced {
            // The trailers follow.
            Announced::Trailers { .. } => true,
            Announced::Nowhere | Announced::Over { .. } => self.0.replay.is_holding(),
        }
    }

    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        let inner = self.0.replay.size_hint(up);
        match self.0.announced {
            Announced::Trailers { chunked: true, .. } => {
                // With a Content-Length, an h1 server drops the trailers.
                at_least(inner.lower())
            }
            _ => inner,
        }
    }
}

impl Response {
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> AfterHead {
        let size = up.size_hint();
        let delivery = head.delivery(&self.method, &size);
        if delivery.is_bodiless() {
            return AfterHead::Leave;
        }
        let expected = head.extensions.get::<ExpectedDigest>();
        if expected.is_some_and(|expected| !expected.holds_for(&head.headers)) {
            digests_changed(&mut head.headers);
        }
        let config = Arc::clone(&self.config);
        if !config.wants(head) {
            return AfterHead::Leave;
        }
        let (algorithm, fields) = self.choose(head);
        if fields.is_empty() && config.segment_size.is_none() && config.on_sent.is_none() {
            return AfterHead::Leave;
        }

        self.declared = delivery.declared_length();
        let handle = DigestHandle::new();
        head.extensions.insert(handle.clone());
        self.handle = Some(handle);
        let ahead = self
            .replay
            .look_ahead(up, cx, config.look_ahead, self.declared);

        let hasher = Hasher::new(algorithm, config.algorithms[0], config.segment_size);
        if ahead == Ahead::Whole && cx.exchange.cause().is_none() {
            if let Some(digest) = self.hash_ahead(hasher) {
                fields.write(&digest, &mut head.headers);
                if !fields.is_empty() {
                    self.plan = Placement::Header;
                }
            }
        } else if self.trailers && ahead != Ahead::Failed && !fields.is_empty() {
            let chunked = self.version == Version::HTTP_11;
            announce_trailers(&config, fields, chunked, &mut head.headers);
            self.announced = Announced::Trailers { fields, chunked };
            self.hash = Hash::Running(hasher);
            self.plan = Placement::Trailer;
        } else if config.hash_unannounced {
            self.hash = Hash::Running(hasher);
        }
        AfterHead::Stay
    }

    /// The algorithm, and the fields that announce the digest.
    fn choose(&self, head: &Parts) -> (ErasedAlgorithm, Announce) {
        let mut fields = self.config.announce;
        if !fields::is_whole(head.status, &head.headers) {
            fields -= Announce::REPR_DIGEST;
        }
        if !self.config.overwrite {
            fields = fields.missing_in(&head.headers);
        }
        let mut algorithm = self.config.algorithms[0];
        let negotiated = Announce::CONTENT_DIGEST | Announce::REPR_DIGEST;
        if fields.intersects(negotiated) {
            match self.wanted {
                Some(wanted) => algorithm = wanted,
                None => fields -= negotiated,
            }
        }
        (algorithm, fields.for_algorithm(algorithm.key))
    }

    /// Hashes a body that was polled ahead to its end. Returns `None` if its length is not the declared one.
    fn hash_ahead(&mut self, mut hasher: Hasher) -> Option<DigestValue> {
        let mut bytes = 0;
        for data in self.replay.data_ahead() {
            hasher.update(data);
            bytes += data.len() as u64;
        }
        if self.declared.is_some_and(|declared| declared != bytes) {
            return None;
        }
        let (digest, segments) = hasher.finish();
        self.hash = Hash::Done(digest, segments);
        Some(digest)
    }

    #[inline]
    fn on_poll(&mut self, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        if let Announced::Over { .. } = self.announced {
            return Some(Poll::Ready(None));
        }
        let mut polled = self.replay.on_poll()?;
        self.given(&mut polled, cx);
        Some(polled)
    }

    /// Hashes data from the body or the replay.
    #[inline]
    fn given(&mut self, polled: &mut Polled, cx: &mut StageContext<'_, '_>) {
        if let Poll::Ready(Some(Ok(Piece::Data { data, .. }))) = polled {
            self.bytes += data.len() as u64;
            if let Hash::Running(hasher) = &mut self.hash {
                hasher.update(data);
            }
        }
        if let Announced::Trailers { fields, chunked } = self.announced
            && let Poll::Ready(given) = polled
        {
            let given = self.before_trailers(given.take(), fields, chunked, cx);
            *polled = Poll::Ready(given);
        }
    }

    /// Changes what is returned when trailers of this layer follow the data.
    #[inline]
    fn before_trailers(
        &mut self,
        polled: Option<Result<Piece, BoxError>>,
        fields: Announce,
        chunked: bool,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<Result<Piece, BoxError>> {
        let trailers = match polled.transpose() {
            Err(error) => return Some(Err(error)),
            Ok(Some(Piece::Data { data, .. })) => {
                return Some(match self.declared {
                    Some(declared) if chunked && self.bytes > declared => {
                        Err(self.too_long(declared, cx))
                    }
                    _ => Ok(Piece::open(data)),
                });
            }
            Ok(Some(Piece::Other(frame))) => match frame.into_trailers() {
                Ok(trailers) => trailers,
                Err(other) => return Some(Ok(Piece::Other(Box::new(other)))),
            },
            Ok(None) => HeaderMap::new(),
        };
        let trailers = self.trailers(trailers, fields, cx);
        (!trailers.is_empty()).then(|| Ok(Piece::trailers(trailers)))
    }

    /// Returns the trailers of the body, with the digest added if the body is complete.
    #[cold]
    fn trailers(
        &mut self,
        mut trailers: HeaderMap,
        fields: Announce,
        cx: &mut StageContext<'_, '_>,
    ) -> HeaderMap {
        let mut announced = false;
        self.finish();
        if cx.exchange.cause().is_none()
            && let Some(digest) = self.digest()
        {
            let fields = match self.config.overwrite {
                true => fields,
                false => fields.missing_in(&trailers),
            };
            fields.write(&digest, &mut trailers);
            announced = true;
        }
        self.announced = Announced::Over {
            trailers: announced,
        };
        trailers
    }

    /// Returns the error of a body that is longer than its declared length. With a `Content-Length`, the server would
    /// have closed the connection early. Sent chunked, the body would look complete without this error.
    #[cold]
    fn too_long(&mut self, declared: u64, cx: &mut StageContext<'_, '_>) -> BoxError {
        self.announced = Announced::Over { trailers: false };
        let message = format!("the body has {} bytes and declared {declared}", self.bytes);
        let cause = Cause::new(FaultKind::Other, message);
        cx.exchange.record(cause.clone());
        cause.into()
    }

    /// The body has ended.
    fn finish(&mut self) {
        self.hash = match std::mem::replace(&mut self.hash, Hash::None) {
            Hash::Running(hasher) => {
                let (digest, segments) = hasher.finish();
                Hash::Done(digest, segments)
            }
            other => other,
        };
    }

    /// The digest of the whole body, if it has the declared length.
    fn digest(&self) -> Option<DigestValue> {
        match self.hash {
            Hash::Done(digest, _)
                if self.declared.is_none_or(|declared| declared == self.bytes) =>
            {
                Some(digest)
            }
            _ => None,
        }
    }

    fn report(&mut self, end: &StreamEnd) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        // The declared length was sent completely, and the client did not wait for the trailers.
        let end = match (end, &self.announced) {
            (StreamEnd::Dropped, Announced::Trailers { .. })
                if self.declared == Some(self.bytes) =>
            {
                self.finish();
                &StreamEnd::Complete
            }
            _ => end,
        };
        let digest = self.digest().filter(|_| *end == StreamEnd::Complete);
        let placement = match (self.plan, &self.announced) {
            (Placement::Trailer, Announced::Over { trailers: true }) if digest.is_some() => {
                Placement::Trailer
            }
            (Placement::Trailer, _) => Placement::Unannounced,
            (plan, _) => plan,
        };
        let config = &self.config;
        config.counts.add(placement);
        let segments = match &mut self.hash {
            Hash::Done(_, segments) => segments.take(),
            Hash::None | Hash::Running(_) => None,
        };
        handle.tell(config.on_sent.as_ref(), || Sent {
            method: std::mem::take(&mut self.method),
            uri: std::mem::take(&mut self.uri),
            digest,
            segments: segments.filter(|_| digest.is_some()),
            bytes: self.bytes,
            placement,
            end: end.clone(),
        });
    }
}

/// Changes the head for a body whose digest is sent in the trailers.
fn announce_trailers(config: &Config, fields: Announce, chunked: bool, head: &mut HeaderMap) {
    if config.overwrite {
        fields.remove_from(head);
    }
    if chunked {
        head.remove(header::CONTENT_LENGTH);
    }
    // HTTP/2 does not require `Trailer`, but it tells a recipient before the body that hashing it is worthwhile (RFC
    // 9110 section 6.6.2).
    head.append(header::TRAILER, fields.names());
}

impl fmt::Debug for DigestStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestStage")
            .field("bytes", &self.0.bytes)
            .field("plan", &self.0.plan)
            .finish_non_exhaustive()
    }
}

//! Hashing a message with an algorithm chosen at run time.

use crate::{Algorithm, DigestValue, Segments, algorithm::ErasedAlgorithm, segments::Segmenter};

/// The hashers of one body. The whole body is hashed with the layer's algorithm or with the one that the client
/// prefers, the segments with the layer's.
pub(crate) struct Hasher {
    whole: Box<dyn Run>,
    /// Set only if the whole body is hashed with another algorithm. A single algorithm hashes both in one pass.
    segments: Option<Box<dyn Run>>,
}

impl Hasher {
    pub(crate) fn new(
        whole: ErasedAlgorithm,
        own: ErasedAlgorithm,
        segment_size: Option<u64>,
    ) -> Self {
        if whole.key == own.key {
            return Self {
                whole: whole.hash(segment_size),
                segments: None,
            };
        }
        Self {
            whole: whole.hash(None),
            segments: segment_size.map(|size| own.hash_segments(size)),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.whole.update(data);
        if let Some(segments) = &mut self.segments {
            segments.update(data);
        }
    }

    pub(crate) fn finish(self) -> (DigestValue, Option<Segments>) {
        let segments = self.segments.and_then(|run| run.finish().1);
        let (digest, own_segments) = self.whole.finish();
        let digest = digest.expect("hashes the whole");
        (digest, own_segments.or(segments))
    }
}

/// A digest in progress.
pub(crate) trait Run: Send {
    fn update(&mut self, data: &[u8]);

    /// Returns the digest of the whole body and those of the segments, as far as they were requested.
    fn finish(self: Box<Self>) -> (Option<DigestValue>, Option<Segments>);
}

pub(crate) struct Running<D> {
    whole: Option<D>,
    segments: Option<Segmenter<D>>,
}

impl<D: Algorithm> Running<D> {
    pub(crate) fn new(whole: bool, segment_size: Option<u64>) -> Self {
        Self {
            whole: whole.then(D::new),
            segments: segment_size.map(Segmenter::new),
        }
    }
}

impl<D: Algorithm> Run for Running<D> {
    fn update(&mut self, data: &[u8]) {
        match (&mut self.whole, &mut self.segments) {
            (Some(whole), None) => whole.update(data),
            (Some(whole), Some(segments)) => segments.update_with(whole, data),
            (None, Some(segments)) => segments.update(data),
            (None, None) => {}
        }
    }

    fn finish(self: Box<Self>) -> (Option<DigestValue>, Option<Segments>) {
        (
            self.whole.map(DigestValue::finish),
            self.segments.map(Segmenter::finish),
        )
    }
}

//! Digests of equally sized parts of a body.

use std::ops::Range;

use digest::Digest;

use crate::{Algorithm, DigestValue, algorithm::MD5};

/// The digests of consecutive segments of `size` bytes; the last segment may be shorter.
///
/// Comparing two sets of the same size shows *where* two bodies differ. They also allow checking a `Range` that starts
/// and ends at segment boundaries without the rest of the body.
///
/// ```
/// use tower_stream_digest::{Md5, Segments};
///
/// let stored = Segments::of::<Md5>(4, b"the whole body");
/// let received = Segments::of::<Md5>(4, b"the wh0le body");
/// assert_eq!(received.first_difference(&stored), Some(4..8));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    algorithm: &'static str,
    size: u64,
    /// Total number of bytes.
    len: u64,
    /// All digests, concatenated.
    digests: Vec<u8>,
    width: usize,
}

impl Segments {
    /// Hashes `data` in segments of `size` bytes.
    ///
    /// # Panics
    ///
    /// Panics if `size` is 0.
    pub fn of<D: Algorithm>(size: u64, data: impl AsRef<[u8]>) -> Self {
        let mut segmenter = Segmenter::<D>::new(size);
        segmenter.update(data.as_ref());
        segmenter.finish()
    }

    /// The key of the algorithm, see [`Algorithm::KEY`].
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// Number of bytes in each segment except the last.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of segments. An empty body has none.
    pub fn count(&self) -> usize {
        self.digests.len() / self.width
    }

    /// The digests in order, each as bytes.
    pub fn digests(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.digests.chunks_exact(self.width)
    }

    /// The range of bytes that a segment covers.
    pub fn range(&self, index: usize) -> Range<u64> {
        let start = self.size * index as u64;
        start.min(self.len)..(start + self.size).min(self.len)
    }

    /// Returns the byte range of the first segment whose digest differs from `other` or is missing there. If `other`
    /// only has more segments, returns the empty range at the end of this body. Returns `None` if all are equal.
    ///
    /// # Panics
    ///
    /// Panics if the two have different sizes or algorithms, and so cannot be compared.
    pub fn first_difference(&self, other: &Self) -> Option<Range<u64>> {
        assert_eq!(
            (self.size, self.algorithm),
            (other.size, other.algorithm),
            "segments of one size and algorithm"
        );
        if self == other {
            return None;
        }
        let same = self
            .digests()
            .zip(other.digests())
            .take_while(|(a, b)| a == b)
            .count();
        Some(self.range(same))
    }

    /// The `ETag` that S3 assigns to an object that was uploaded in parts of this size, without the quotes: the MD5 of
    /// the concatenated MD5s of the parts, `-`, and the number of parts. `None` for other algorithms and for an empty
    /// body.
    ///
    /// This tag is not a digest of the bytes: with another part size, the same bytes have another tag. If the part size
    /// of the upload is known, the tag shows whether the object in S3 is the body that was sent, without downloading
    /// it:
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    ///
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use http_body_util::BodyExt;
    /// use tower::ServiceExt;
    /// use tower_stream_digest::DigestLayer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// // `aws s3api head-object` returns this for an object of four bytes that was uploaded in parts of three
    /// const STORED: &str = "97acfc19e2d2a1b3f78b62b84f541c49-2";
    ///
    /// let is_the_object = Arc::new(Mutex::new(None));
    /// let found = is_the_object.clone();
    /// let layer = DigestLayer::md5().segments(3).on_sent(move |sent| {
    ///     let tag = sent.segments.as_ref().and_then(|segments| segments.s3_etag());
    ///     *found.lock().unwrap() = Some(tag.as_deref() == Some(STORED));
    /// });
    /// let app = Router::new().route("/object", get(|| async { "aaaa" })).layer(layer);
    /// let request = Request::get("/object").body(Body::empty()).unwrap();
    /// app.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    /// assert_eq!(*is_the_object.lock().unwrap(), Some(true));
    /// # }
    /// ```
    pub fn s3_etag(&self) -> Option<String> {
        (self.algorithm == MD5 && self.count() > 0).then(|| {
            format!(
                "{}-{}",
                DigestValue::of::<crate::Md5>(&self.digests),
                self.count()
            )
        })
    }
}

/// Hashes one segment after the other.
#[derive(Debug)]
pub(crate) struct Segmenter<D> {
    size: u64,
    /// Bytes missing in the current segment.
    left: u64,
    len: u64,
    current: D,
    digests: Vec<u8>,
}

impl<D: Algorithm> Segmenter<D> {
    pub(crate) fn new(size: u64) -> Self {
        assert!(size > 0, "a segment holds at least one byte");
        Self {
            size,
            left: size,
            len: 0,
            current: D::new(),
            digests: Vec::new(),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.split(data, |current, piece| current.update(piece));
    }

    /// Also feeds `whole`, in the same pass.
    pub(crate) fn update_with(&mut self, whole: &mut D, data: &[u8]) {
        self.split(data, |current, piece| D::update_two(whole, current, piece));
    }

    fn split(&mut self, mut data: &[u8], mut update: impl FnMut(&mut D, &[u8])) {
        while !data.is_empty() {
            let take = usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()));
            let (piece, rest) = data.split_at(take);
            update(&mut self.current, piece);
            data = rest;
            self.len += take as u64;
            self.left -= take as u64;
            if self.left == 0 {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let done = std::mem::replace(&mut self.current, D::new());
        self.digests.extend_from_slice(&done.finalize());
        self.left = self.size;
    }

    pub(crate) fn finish(mut self) -> Segments {
        if self.left < self.size {
            self.close();
        }
        Segments {
            algorithm: D::KEY,
            size: self.size,
            len: self.len,
            digests: self.digests,
            width: <D as Digest>::output_size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Md5;

    fn parts(size: usize, data: &[u8]) -> Vec<Vec<u8>> {
        data.chunks(size)
            .map(|part| md5::Md5::digest(part).to_vec())
            .collect()
    }

    #[test]
    fn segments_are_those_of_hashing_each_part_alone() {
        let data: Vec<u8> = (0..1000u32)
            .map(|i| (i * i % 251).to_le_bytes()[0])
            .collect();
        for size in [1, 3, 63, 64, 65, 100, 999, 1000, 1001] {
            for cut in [0, 1, 64, 500, 1000] {
                let mut whole = Md5::new();
                let mut segmenter = Segmenter::<Md5>::new(size as u64);
                segmenter.update_with(&mut whole, &data[..cut]);
                segmenter.update_with(&mut whole, &data[cut..]);
                let segments = segmenter.finish();
                assert!(
                    segments.digests().eq(parts(size, &data)),
                    "size {size}, cut {cut}"
                );
                assert_eq!(whole.finalize(), md5::Md5::digest(&data));
                assert_eq!(segments, Segments::of::<Md5>(size as u64, &data));
            }
        }
    }

    #[test]
    fn the_first_different_range_is_named() {
        let stored = Segments::of::<Md5>(10, [7; 35]);
        let range = |data: &[u8]| Segments::of::<Md5>(10, data).first_difference(&stored);
        assert_eq!(range(&[7; 35]), None);
        let mut bad = [7; 35];
        bad[34] = 0;
        assert_eq!(range(&bad), Some(30..35));
        bad[10] = 0;
        assert_eq!(range(&bad), Some(10..20));
        assert_eq!(range(&[7; 33]), Some(30..33));
        assert_eq!(range(&[7; 40]), Some(30..40));
        assert_eq!(
            range(&[7; 30]),
            Some(30..30),
            "it ends where more was expected"
        );
        assert_eq!(range(&[]), Some(0..0));
    }

    /// Computed with `printf aaaa | split -b 3`, then `cat <(printf aaa | openssl md5 -binary) <(printf a | openssl md5
    /// -binary) | md5sum`.
    #[test]
    fn the_s3_tag_of_a_multipart_upload() {
        let segments = Segments::of::<Md5>(3, b"aaaa");
        assert_eq!(
            segments.s3_etag().as_deref(),
            Some("97acfc19e2d2a1b3f78b62b84f541c49-2")
        );
        assert_eq!(Segments::of::<Md5>(3, b"").s3_etag(), None);
        #[cfg(feature = "sha2")]
        assert_eq!(Segments::of::<sha2::Sha256>(3, b"aaaa").s3_etag(), None);
    }
}

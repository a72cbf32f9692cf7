//! The hasher of one announced body.

use digest::Digest;

use crate::{Algorithm, DigestValue, Md5, Segments, algorithm::MD5, segments::Segmenter};

/// What hashes a body: the layer's algorithm or the one that the client wants instead, and the segments beside it.
///
/// What few bodies need is boxed, for a hasher is moved a few times until it stands in its body.
#[derive(Debug)]
pub(crate) struct Hasher<D> {
    whole: Whole<D>,
    segments: Option<Box<Segmenter<D>>>,
}

#[derive(Debug)]
enum Whole<D> {
    Own(D),
    Md5(Box<Md5>),
    #[cfg(feature = "sha2")]
    Sha256(Box<sha2::Sha256>),
    #[cfg(feature = "sha2")]
    Sha512(Box<sha2::Sha512>),
}

impl<D: Algorithm> Hasher<D> {
    /// The keys that [`Hasher::new`] takes, the layer's own first, then the stronger ones.
    pub(crate) const KEYS: &[&'static str] = &[
        D::KEY,
        #[cfg(feature = "sha2")]
        "sha-256",
        #[cfg(feature = "sha2")]
        "sha-512",
        MD5,
    ];

    /// Hashes by the algorithm of this key, one of [`Hasher::KEYS`].
    pub(crate) fn new(key: &'static str, segment_size: Option<u64>) -> Self {
        let whole = match key {
            _ if key == D::KEY => Whole::Own(D::new()),
            #[cfg(feature = "sha2")]
            "sha-256" => Whole::Sha256(Box::default()),
            #[cfg(feature = "sha2")]
            "sha-512" => Whole::Sha512(Box::default()),
            _ => Whole::Md5(Box::default()),
        };
        Self {
            whole,
            segments: segment_size.map(Segmenter::new).map(Box::new),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match (&mut self.whole, &mut self.segments) {
            (Whole::Own(whole), None) => whole.update(data),
            (Whole::Own(whole), Some(segments)) => return segments.update_with(whole, data),
            (Whole::Md5(whole), _) => whole.update(data),
            #[cfg(feature = "sha2")]
            (Whole::Sha256(whole), _) => whole.update(data),
            #[cfg(feature = "sha2")]
            (Whole::Sha512(whole), _) => whole.update(data),
        }
        if let Some(segments) = &mut self.segments {
            segments.update(data);
        }
    }

    pub(crate) fn finish(self) -> (DigestValue, Option<Segments>) {
        let digest = match self.whole {
            Whole::Own(whole) => DigestValue::finish(whole),
            Whole::Md5(whole) => DigestValue::finish(*whole),
            #[cfg(feature = "sha2")]
            Whole::Sha256(whole) => DigestValue::finish(*whole),
            #[cfg(feature = "sha2")]
            Whole::Sha512(whole) => DigestValue::finish(*whole),
        };
        (digest, self.segments.map(|segments| segments.finish()))
    }
}

//! The fields that announce a digest, and counters of where digests were announced.

use std::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    DigestValue,
    algorithm::MD5,
    fields::{CONTENT_DIGEST, CONTENT_MD5, REPR_DIGEST, X_CONTENT_MD5},
    value::header_value,
};

bitflags! {
    /// The fields that announce a digest. Combine them with `|`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Announce: u8 {
        /// `Content-Digest: md5=:<base64>:` (RFC 9530 section 2), for any algorithm.
        const CONTENT_DIGEST = 1;
        /// `Repr-Digest: md5=:<base64>:` (RFC 9530 section 3), for any algorithm: the digest of the whole
        /// representation. Not added to a partial response (a 206, or one with `Content-Range`).
        const REPR_DIGEST = 1 << 1;
        /// `X-Content-MD5: <hex>`, for MD5 only.
        const X_CONTENT_MD5 = 1 << 2;
        /// `Content-MD5: <base64>` (RFC 1864), which S3-style clients know, for MD5 only.
        const CONTENT_MD5 = 1 << 3;
    }
}

impl Announce {
    fn fields(self) -> impl Iterator<Item = (Self, HeaderName)> {
        [
            (Self::CONTENT_DIGEST, CONTENT_DIGEST),
            (Self::REPR_DIGEST, REPR_DIGEST),
            (Self::X_CONTENT_MD5, X_CONTENT_MD5),
            (Self::CONTENT_MD5, CONTENT_MD5),
        ]
        .into_iter()
        .filter(move |(field, _)| self.contains(*field))
    }

    /// Returns the fields that can carry a digest by this algorithm.
    pub(crate) fn for_algorithm(self, key: &str) -> Self {
        match key {
            MD5 => self,
            _ => self & (Self::CONTENT_DIGEST | Self::REPR_DIGEST),
        }
    }

    /// Returns the fields that are not in `fields` yet.
    pub(crate) fn missing_in(self, fields: &HeaderMap) -> Self {
        self.fields()
            .filter(|(_, name)| !fields.contains_key(name))
            .map(|(field, _)| field)
            .collect()
    }

    /// The field names, as a value of `Trailer`.
    pub(crate) fn names(self) -> HeaderValue {
        let names: Vec<_> = self.fields().map(|(_, name)| name).collect();
        let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
        header_value(names.join(", "))
    }

    pub(crate) fn remove_from(self, fields: &mut HeaderMap) {
        for (_, name) in self.fields() {
            fields.remove(name);
        }
    }

    /// Sets each field to this digest.
    pub(crate) fn write(self, digest: &DigestValue, fields: &mut HeaderMap) {
        for (field, name) in self.fields() {
            let text = match field {
                Self::X_CONTENT_MD5 => digest.hex(),
                Self::CONTENT_MD5 => digest.base64(),
                _ => digest.content_digest(),
            };
            fields.insert(name, header_value(text));
        }
    }
}

/// Where the digest of a body was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// In the response head: the body was short and ready.
    Header,
    /// In the trailers.
    Trailer,
    /// Not announced: trailers would not arrive, or the body failed.
    Unannounced,
}

/// How often each [`Placement`] happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placements {
    /// Bodies announced in the head.
    pub header: u64,
    /// Bodies announced in trailers.
    pub trailer: u64,
    /// Bodies that were hashed but not announced.
    pub unannounced: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; 3]);

impl Counts {
    pub(crate) fn add(&self, placement: Placement) {
        self.0[placement as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Placements {
        let [header, trailer, unannounced] =
            [0, 1, 2].map(|i: usize| self.0[i].load(Ordering::Relaxed));
        Placements {
            header,
            trailer,
            unannounced,
        }
    }
}

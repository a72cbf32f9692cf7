//! Which fields announce a digest, and where they went.

use std::{
    fmt,
    ops::BitOr,
    sync::atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    DigestValue,
    algorithm::MD5,
    fields::{CONTENT_DIGEST, CONTENT_MD5, X_CONTENT_MD5},
    value::header_value,
};

/// A field that announces a digest. Combine them with `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// `Content-Digest: md5=:<base64>:` (RFC 9530 section 2), for any algorithm.
    ContentDigest,
    /// `X-Content-MD5: <hex>`, for MD5 only.
    XContentMd5,
    /// `Content-MD5: <base64>` (RFC 1864), which S3-style clients know, for MD5 only.
    ContentMd5,
}

impl Announce {
    const ALL: [Self; 3] = [Self::ContentDigest, Self::XContentMd5, Self::ContentMd5];

    /// The name of the field.
    pub fn field(self) -> HeaderName {
        match self {
            Self::ContentDigest => CONTENT_DIGEST,
            Self::XContentMd5 => X_CONTENT_MD5,
            Self::ContentMd5 => CONTENT_MD5,
        }
    }

    fn can_carry(self, algorithm: &str) -> bool {
        self == Self::ContentDigest || algorithm == MD5
    }
}

/// A set of [`Announce`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Announcements(u8);

impl Announcements {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn contains(self, field: Announce) -> bool {
        self.0 & 1 << field as u8 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Those that can say a digest by this algorithm.
    pub(crate) fn for_algorithm(self, algorithm: &str) -> Self {
        self.filter(|field| field.can_carry(algorithm))
    }

    /// Those that these fields do not have yet.
    pub(crate) fn missing_in(self, fields: &HeaderMap) -> Self {
        self.filter(|field| !fields.contains_key(field.field()))
    }

    pub(crate) fn without(self, field: Announce) -> Self {
        self.filter(|other| other != field)
    }

    fn filter(self, keep: impl Fn(Announce) -> bool) -> Self {
        self.iter()
            .filter(|field| keep(*field))
            .fold(Self::NONE, Self::bitor)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Announce> {
        Announce::ALL
            .into_iter()
            .filter(move |field| self.contains(*field))
    }

    /// Their names, for `Trailer`.
    pub(crate) fn names(self) -> HeaderValue {
        let names: Vec<_> = self.iter().map(Announce::field).collect();
        let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
        header_value(names.join(", "))
    }

    pub(crate) fn remove(self, fields: &mut HeaderMap) {
        for field in self.iter() {
            fields.remove(field.field());
        }
    }

    /// Sets each field to this digest.
    pub(crate) fn write(self, digest: &DigestValue, fields: &mut HeaderMap) {
        for field in self.iter() {
            let text = match field {
                Announce::ContentDigest => digest.content_digest(),
                Announce::XContentMd5 => digest.hex(),
                Announce::ContentMd5 => digest.base64(),
            };
            fields.insert(field.field(), header_value(text));
        }
    }
}

impl From<Announce> for Announcements {
    fn from(field: Announce) -> Self {
        Self(1 << field as u8)
    }
}

impl BitOr for Announce {
    type Output = Announcements;

    fn bitor(self, other: Self) -> Announcements {
        Announcements::from(self) | other
    }
}

impl BitOr<Announce> for Announcements {
    type Output = Self;

    fn bitor(self, other: Announce) -> Self {
        Self(self.0 | Self::from(other).0)
    }
}

impl fmt::Debug for Announcements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Where the digest of a body was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// In the head: the body was short and ready.
    Header,
    /// In the trailers.
    Trailer,
    /// Nowhere on the wire: trailers would not arrive, or the body failed.
    Unannounced,
}

/// How often each [`Placement`] happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placements {
    /// Bodies announced in the head.
    pub header: u64,
    /// Bodies announced in trailers.
    pub trailer: u64,
    /// Bodies that were hashed and not announced.
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

//! Digest algorithms with a name in HTTP.

use digest::{Digest, typenum::Unsigned};

use crate::{
    Md5,
    hasher::{Run, Running},
    value,
};

/// A digest algorithm with a name in HTTP.
///
/// Implemented for [`Md5`] and, with the default feature `sha2`, for `Sha256` and `Sha512`. To use another hash of the
/// `digest` crate, implement this trait:
///
/// ```
/// use tower_stream_digest::{Algorithm, DigestLayer};
/// # #[derive(Clone, Default)]
/// # struct Sha3(sha2::Sha256);
/// # impl digest::Update for Sha3 { fn update(&mut self, data: &[u8]) { digest::Digest::update(&mut self.0, data) } }
/// # impl digest::OutputSizeUser for Sha3 { type OutputSize = digest::consts::U32; }
/// # impl digest::FixedOutput for Sha3 {
/// #     fn finalize_into(self, out: &mut digest::Output<Self>) { digest::FixedOutput::finalize_into(self.0, out) }
/// # }
/// # impl digest::HashMarker for Sha3 {}
///
/// impl Algorithm for Sha3 {
///     const KEY: &'static str = "sha3-256";
/// }
/// let layer = DigestLayer::new::<Sha3>();
/// # drop(layer);
/// ```
pub trait Algorithm: Digest + Send + 'static {
    /// The key in `Content-Digest` and `Want-Content-Digest`: lower case, as registered with IANA (RFC 9530 section 7.2).
    const KEY: &'static str;

    /// Feeds the same data to two hashers. Override this only for a hash that is faster when it computes both at once.
    fn update_two(a: &mut Self, b: &mut Self, data: &[u8]) {
        a.update(data);
        b.update(data);
    }
}

/// The key of MD5, the only algorithm with header fields of its own.
pub(crate) const MD5: &str = Md5::KEY;

#[cfg(feature = "sha2")]
impl Algorithm for sha2::Sha256 {
    const KEY: &'static str = "sha-256";
}

#[cfg(feature = "sha2")]
impl Algorithm for sha2::Sha512 {
    const KEY: &'static str = "sha-512";
}

/// An [`Algorithm`] with its type erased, so that a layer can choose one per message.
#[derive(Clone, Copy)]
pub(crate) struct ErasedAlgorithm {
    pub(crate) key: &'static str,
    /// Length of the digest in bytes.
    pub(crate) len: usize,
    run: fn(bool, Option<u64>) -> Box<dyn Run>,
}

impl ErasedAlgorithm {
    /// The algorithms of this crate, in the layers' order of preference.
    pub(crate) const ALL: &[Self] = &[
        #[cfg(feature = "sha2")]
        Self::of::<sha2::Sha256>(),
        #[cfg(feature = "sha2")]
        Self::of::<sha2::Sha512>(),
        Self::of::<Md5>(),
    ];

    pub(crate) const fn of<D: Algorithm>() -> Self {
        const {
            assert!(
                D::OutputSize::USIZE <= value::MAX,
                "a digest is 64 bytes at most"
            );
        };
        Self {
            key: D::KEY,
            len: D::OutputSize::USIZE,
            run: |whole, segment_size| Box::new(Running::<D>::new(whole, segment_size)),
        }
    }

    /// Starts to hash a message, and also its segments if there is a segment size.
    pub(crate) fn hash(self, segment_size: Option<u64>) -> Box<dyn Run> {
        (self.run)(true, segment_size)
    }

    /// Starts to hash only the segments of a message.
    pub(crate) fn hash_segments(self, size: u64) -> Box<dyn Run> {
        (self.run)(false, Some(size))
    }
}

/// The expected result in tests.
#[cfg(test)]
impl Algorithm for ::md5::Md5 {
    const KEY: &'static str = MD5;
}

impl std::fmt::Debug for ErasedAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key)
    }
}

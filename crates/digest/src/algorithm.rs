//! The digest algorithms that HTTP has names for.

use digest::Digest;

use crate::kernel;

/// The MD5 that `md5()` of the layers uses: [`kernel::Md5`] where it is known to be the faster one (x86-64, with the
/// default feature `kernel`), `md5::Md5` of the `md-5` crate elsewhere. The digests are the same.
#[cfg(all(feature = "kernel", target_arch = "x86_64"))]
pub type Md5 = kernel::Md5;

/// The MD5 that `md5()` of the layers uses: [`kernel::Md5`] where it is known to be the faster one (x86-64, with the
/// default feature `kernel`), `md5::Md5` of the `md-5` crate elsewhere. The digests are the same.
#[cfg(not(all(feature = "kernel", target_arch = "x86_64")))]
pub type Md5 = md5::Md5;

/// A digest algorithm with a name in HTTP.
///
/// Implemented for both MD5s and, with the default feature `sha2`, for SHA-256 and SHA-512. For any other hash of the
/// `digest` crate it takes one line:
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
/// let layer = DigestLayer::<Sha3>::new();
/// # drop(layer);
/// ```
pub trait Algorithm: Digest + Send + 'static {
    /// The key in `Content-Digest` and `Want-Content-Digest`: lower case, as registered with IANA (RFC 9530 section 7.2).
    const KEY: &'static str;

    /// Feeds the same data to two hashers. Only worth writing for a hash that gains from doing it at once.
    fn update_two(a: &mut Self, b: &mut Self, data: &[u8]) {
        a.update(data);
        b.update(data);
    }
}

/// The key of MD5, whoever implements it.
pub(crate) const MD5: &str = "md5";

impl Algorithm for md5::Md5 {
    const KEY: &'static str = MD5;
}

impl Algorithm for kernel::Md5 {
    const KEY: &'static str = MD5;

    fn update_two(a: &mut Self, b: &mut Self, data: &[u8]) {
        kernel::update_two((a, data), (b, data));
    }
}

#[cfg(feature = "sha2")]
impl Algorithm for sha2::Sha256 {
    const KEY: &'static str = "sha-256";
}

#[cfg(feature = "sha2")]
impl Algorithm for sha2::Sha512 {
    const KEY: &'static str = "sha-512";
}

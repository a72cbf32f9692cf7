//! MD5 by the fastest available implementation.

use std::fmt;

use digest::{
    FixedOutput, FixedOutputReset, HashMarker, Output, OutputSizeUser, Reset, Update,
    common::BlockSizeUser,
    consts::{U16, U64},
};

use crate::Algorithm;

#[cfg(all(feature = "kernel", target_arch = "x86_64"))]
use crate::kernel::{self, Kernel as Implementation};
#[cfg(not(all(feature = "kernel", target_arch = "x86_64")))]
use ::md5::Md5 as Implementation;

/// A running MD5 (RFC 1321). It implements the traits of the `digest` crate.
///
/// On x86-64, with the default feature `kernel`, this is the implementation of this crate: safe Rust, as fast as the
/// dependency chain of MD5 allows, and nearly as fast for two inputs at once. Otherwise it is the one of the `md-5`
/// crate. Both compute the same digests.
///
/// MD5 detects corruption, not attacks: two inputs with the same MD5 are easy to make.
///
/// ```
/// use tower_stream_digest::{Digest, Md5};
///
/// let sum = Md5::digest(b"message digest");
/// assert_eq!(hex::encode(sum), "f96b697d7cb7938d525a2f31aaf161d0");
/// ```
#[derive(Clone, Default)]
pub struct Md5(Implementation);

impl Algorithm for Md5 {
    const KEY: &'static str = "md5";

    #[cfg(all(feature = "kernel", target_arch = "x86_64"))]
    fn update_two(a: &mut Self, b: &mut Self, data: &[u8]) {
        kernel::update_two((&mut a.0, data), (&mut b.0, data));
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Md5").finish_non_exhaustive()
    }
}

impl HashMarker for Md5 {}

impl OutputSizeUser for Md5 {
    type OutputSize = U16;
}

impl BlockSizeUser for Md5 {
    type BlockSize = U64;
}

impl Update for Md5 {
    #[inline]
    fn update(&mut self, data: &[u8]) {
        Update::update(&mut self.0, data);
    }
}

impl FixedOutput for Md5 {
    fn finalize_into(self, out: &mut Output<Self>) {
        FixedOutput::finalize_into(self.0, out);
    }
}

impl Reset for Md5 {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

impl FixedOutputReset for Md5 {
    fn finalize_into_reset(&mut self, out: &mut Output<Self>) {
        std::mem::take(self).finalize_into(out);
    }
}

#[cfg(test)]
mod tests {
    use digest::Digest;

    use super::*;

    #[test]
    fn a_reset_hasher_starts_over() {
        let mut hasher = Md5::new_with_prefix("message digest");
        let first = hasher.finalize_reset();
        assert_eq!(hex::encode(first), "f96b697d7cb7938d525a2f31aaf161d0");
        assert_eq!(
            hex::encode(hasher.clone().finalize()),
            "d41d8cd98f00b204e9800998ecf8427e"
        );
        Digest::update(&mut hasher, "a");
        Digest::reset(&mut hasher);
        assert_eq!(
            hex::encode(hasher.finalize()),
            "d41d8cd98f00b204e9800998ecf8427e"
        );
    }

    #[test]
    fn two_hashers_at_once_are_each_alone() {
        let (mut body, mut segment) = (Md5::new_with_prefix("the first, "), Md5::new());
        Md5::update_two(&mut body, &mut segment, b"the second");
        assert_eq!(body.finalize(), Md5::digest("the first, the second"));
        assert_eq!(segment.finalize(), Md5::digest("the second"));
    }
}

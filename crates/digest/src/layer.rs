//! What the layers have in common.

/// A service with a layer of this crate around it: [`DigestService`](crate::DigestService),
/// [`VerifyDigestService`](crate::VerifyDigestService) or [`VerifyRequestDigestService`](crate::VerifyRequestDigestService).
#[derive(Clone, Debug)]
pub struct Layered<S, L> {
    pub(crate) inner: S,
    pub(crate) layer: L,
}

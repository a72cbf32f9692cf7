//! How much of a body is sent.

use http::{HeaderMap, Method, StatusCode, header};
use http_body::Body;

/// How much of a response body is sent, as decided by method, status and framing (RFC 9110 section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    bodiless: bool,
    declared: Option<u64>,
}

impl Delivery {
    /// Reads it from the request method and the response head. If the head declares no length, the exact size of `body`
    /// counts, because that is what the server declares.
    #[must_use]
    pub fn new<B: Body>(
        method: &Method,
        status: StatusCode,
        headers: &HeaderMap,
        body: &B,
    ) -> Self {
        Self::of(method, status, declared_length(headers), || {
            body.size_hint().exact()
        })
    }

    #[inline]
    pub(crate) fn of(
        method: &Method,
        status: StatusCode,
        declared: Option<u64>,
        size: impl FnOnce() -> Option<u64>,
    ) -> Self {
        let bodiless = never_sent(method, status);
        Self {
            bodiless,
            declared: declared.or_else(size).filter(|_| !bodiless),
        }
    }

    /// Returns whether a response with this head never has a body.
    #[inline]
    pub(crate) fn is_never_sent(method: &Method, status: StatusCode) -> bool {
        never_sent(method, status)
    }

    /// No body is sent: HEAD, 1xx, 204, 304, and 2xx to CONNECT. The server drops the body without polling it.
    #[must_use]
    pub fn is_bodiless(&self) -> bool {
        self.bodiless
    }

    /// The length in bytes that is declared to the client, if any. The body must not be longer.
    #[must_use]
    pub fn declared_length(&self) -> Option<u64> {
        self.declared
    }
}

fn never_sent(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (method == Method::CONNECT && status.is_success())
}

/// The value of `Content-Length`, if it is valid (RFC 9110 section 8.6).
#[must_use]
pub fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    // `u64::from_str` accepts a leading `+`; RFC 9110 section 8.6 does not.
    value
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| value.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty, Full};

    fn delivery(method: &Method, status: u16, length: Option<&str>) -> Delivery {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.parse().unwrap());
        }
        let body = http_body_util::StreamBody::new(futures_util::stream::empty::<
            Result<http_body::Frame<Bytes>, std::io::Error>,
        >());
        Delivery::new(
            method,
            StatusCode::from_u16(status).unwrap(),
            &headers,
            &body,
        )
    }

    #[test]
    fn what_never_has_a_body() {
        for (method, status) in [
            (Method::HEAD, 200),
            (Method::GET, 101),
            (Method::GET, 204),
            (Method::GET, 304),
            (Method::CONNECT, 200),
        ] {
            let delivery = delivery(&method, status, Some("5"));
            assert!(delivery.is_bodiless(), "{method} {status}");
            assert_eq!(delivery.declared_length(), None);
        }
        for (method, status) in [
            (Method::GET, 200),
            (Method::GET, 206),
            (Method::CONNECT, 502),
        ] {
            assert!(!delivery(&method, status, None).is_bodiless());
        }
    }

    #[test]
    fn the_header_declares_the_length() {
        assert_eq!(
            delivery(&Method::GET, 200, Some("5")).declared_length(),
            Some(5)
        );
        for bad in ["+5", "5, 5", "-1", "x", "99999999999999999999999", ""] {
            assert_eq!(
                delivery(&Method::GET, 200, Some(bad)).declared_length(),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn without_the_header_an_exact_size_is_what_the_server_declares() {
        let of = |body: &Full<Bytes>| {
            Delivery::new(&Method::GET, StatusCode::OK, &HeaderMap::new(), body).declared_length()
        };
        assert_eq!(of(&Full::new(Bytes::from("abc"))), Some(3));
        let empty = Empty::<Bytes>::new().boxed();
        assert_eq!(
            Delivery::new(&Method::GET, StatusCode::OK, &HeaderMap::new(), &empty)
                .declared_length(),
            Some(0)
        );
    }
}

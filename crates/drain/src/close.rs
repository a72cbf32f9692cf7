//! `Connection: close`.

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, response};
use tower_stream_core::members;

/// How a response can close the connection of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// By the `Connection` header.
    Header,
    /// By the header and HTTP/1.0 as the version of the response. If a client of HTTP/1.0 asked for keep-alive, hyper
    /// up to 1.11 otherwise responds with keep-alive.
    HeaderAndVersion,
    /// Not possible by a response: HTTP/2 and later.
    Never,
}

impl Closing {
    /// For a request of this HTTP version.
    pub fn of(version: Version) -> Self {
        match version {
            Version::HTTP_11 => Self::Header,
            Version::HTTP_10 | Version::HTTP_09 => Self::HeaderAndVersion,
            _ => Self::Never,
        }
    }

    /// Closes the connection after this response, unless it is an upgrade. `connect` says whether the method of the
    /// request was CONNECT.
    #[cold]
    pub fn close(self, connect: bool, head: &mut response::Parts) {
        let status = head.status;
        let tunnel = connect && status.is_success();
        if self == Self::Never || tunnel || status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        merge(&mut head.headers);
        if self == Self::HeaderAndVersion {
            head.version = Version::HTTP_10;
        }
    }
}

/// Adds `close` to the existing options (RFC 9110 section 7.6.1) and removes `keep-alive`, which contradicts it.
fn merge(headers: &mut HeaderMap) {
    let close = HeaderValue::from_static("close");
    if !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, close);
        return;
    }
    let mut options: Vec<&[u8]> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| members(line.as_bytes()))
        .filter(|option| !option.is_empty() && !option.eq_ignore_ascii_case(b"keep-alive"))
        .collect();
    if !options
        .iter()
        .any(|option| option.eq_ignore_ascii_case(b"close"))
    {
        options.push(b"close");
    }
    let merged = options.join(&b", "[..]);
    headers.insert(
        header::CONNECTION,
        // Parts of valid header values are valid.
        HeaderValue::from_bytes(&merged).unwrap_or(close),
    );
}

/// Returns whether a request asks for a tunnel.
pub(crate) fn is_connect(method: &Method) -> bool {
    *method == Method::CONNECT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONNECTION, value.parse().unwrap());
        }
        merge(&mut headers);
        let all: Vec<_> = headers.get_all(header::CONNECTION).iter().collect();
        assert_eq!(all.len(), 1);
        all[0].to_str().unwrap().to_owned()
    }

    #[test]
    fn close_joins_what_is_there() {
        for (values, want) in [
            (&[][..], "close"),
            (&["close"], "close"),
            (&["Close"], "Close"),
            (&["x-trace"], "x-trace, close"),
            (&["x-trace , x-hop", "te"], "x-trace, x-hop, te, close"),
            (&["Keep-Alive"], "close"),
            (&["keep-alive, x-trace"], "x-trace, close"),
            (&[" , "], "close"),
        ] {
            assert_eq!(merged(values), want, "{values:?}");
        }
    }

    #[test]
    fn who_is_told_and_who_is_not() {
        let closed = |version, connect, status: u16| {
            let (mut head, ()) = http::Response::new(()).into_parts();
            head.status = StatusCode::from_u16(status).unwrap();
            Closing::of(version).close(connect, &mut head);
            (head.headers.contains_key(header::CONNECTION), head.version)
        };
        for status in [200, 204, 304, 404, 500] {
            assert_eq!(
                closed(Version::HTTP_11, false, status),
                (true, Version::HTTP_11)
            );
            assert_eq!(
                closed(Version::HTTP_10, false, status),
                (true, Version::HTTP_10)
            );
            assert_eq!(
                closed(Version::HTTP_2, false, status),
                (false, Version::HTTP_11)
            );
        }
        assert!(!closed(Version::HTTP_11, false, 101).0);
        assert!(!closed(Version::HTTP_11, true, 200).0);
        assert!(closed(Version::HTTP_11, true, 502).0);
    }
}

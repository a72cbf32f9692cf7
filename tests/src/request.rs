use std::net::SocketAddr;

use bytes::Bytes;
use http::Version;

/// A request, the same for every protocol.
///
/// HTTP/1.x sends it as written here, and adds `Host` (1.1) and `Content-Length` if they are missing. For malformed
/// requests, write the bytes with [`h1::Connection::send_raw`](crate::h1::Connection::send_raw).
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) version: Version,
}

impl Request {
    /// Any method; `target` is path and query.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            version: Version::HTTP_11,
        }
    }

    /// `GET target`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `HEAD target`.
    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    /// `POST target` with a body of known length.
    pub fn post(target: &str, body: impl Into<Bytes>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// Appends a header; the same name may be given again.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends `HTTP/1.0` in the request line (ignored over h2).
    #[must_use]
    pub fn http10(mut self) -> Self {
        self.version = Version::HTTP_10;
        self
    }

    fn has(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// The bytes of this request in HTTP/1.x.
    pub(crate) fn encode(&self, peer: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} {:?}\r\n", self.method, self.target, self.version);
        if self.version == Version::HTTP_11 && !self.has("host") {
            head += &format!("Host: {peer}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let wants_length =
            !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH");
        if wants_length && !self.has("content-length") && !self.has("transfer-encoding") {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        [head.as_bytes(), &self.body].concat()
    }
}

//! Detects the HTTP version of a client.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// The start of each HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The HTTP version that the first bytes of a connection indicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// The first bytes of a connection, as far as hyper has not read them.
#[derive(Debug, Default)]
pub(crate) struct Peeked {
    bytes: [u8; PREFACE.len()],
    /// The part of `bytes` that has not been read yet.
    from: u8,
    to: u8,
}

impl Peeked {
    /// Reads until the version is known. hyper-util's `auto` does the same, but its time cannot be limited.
    ///
    /// # Errors
    ///
    /// Fails if the connection fails, or ends before the first byte.
    pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<(Self, Version)> {
        let mut bytes = [0; PREFACE.len()];
        let mut to = 0;
        let version = loop {
            let read = io.read(&mut bytes[to..]).await?;
            to += read;
            if bytes[..to] != PREFACE[..to] {
                break Version::Http1;
            }
            if to == PREFACE.len() {
                break Version::Http2;
            }
            match (read, to) {
                (0, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // hyper reports what is wrong with it.
                (0, _) => break Version::Http1,
                _ => {}
            }
        };
        let peeked = Self {
            bytes,
            from: 0,
            to: to as u8,
        };
        Ok((peeked, version))
    }

    /// Moves the bytes to `buf`. Returns false if there are none left.
    #[inline]
    pub(crate) fn take(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.from == self.to {
            return false;
        }
        let left = &self.bytes[usize::from(self.from)..usize::from(self.to)];
        let now = left.len().min(buf.remaining());
        buf.put_slice(&left[..now]);
        self.from += now as u8;
        true
    }
}

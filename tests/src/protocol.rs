use std::net::SocketAddr;

use crate::{End, Request, Response, h1, h2};

/// The protocol version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2, cleartext with prior knowledge.
    Http2,
}

impl Protocol {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Http10, Self::Http11, Self::Http2];

    /// Sends `request` on a new connection and reads the response to its end.
    ///
    /// # Errors
    /// How the exchange ended, if that was before a response head. A refused connection is [`End::TcpReset`].
    pub async fn send(self, addr: SocketAddr, request: &Request) -> Result<Response, End> {
        match self {
            Self::Http10 => Self::h1(addr, &request.clone().http10()).await,
            Self::Http11 => Self::h1(addr, request).await,
            Self::Http2 => {
                let mut connection = h2::Connection::open(addr).await?;
                let reply = connection.send(request).await?.reply().await?;
                Ok(reply.finish().await)
            }
        }
    }

    async fn h1(addr: SocketAddr, request: &Request) -> Result<Response, End> {
        let mut connection = h1::Connection::open(addr).await?;
        connection.send(request).await?;
        Ok(connection.reply().await?.finish().await)
    }
}

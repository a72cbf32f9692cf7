//! Connections to the server under load.

use std::{fmt, future::Future, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{self, TrySendError},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};

#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{Args, Http, UsageError};

/// Opens connections and keeps the reusable ones.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address,
    http: Http,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    keep_alive: bool,
    per_connection: usize,
    idle_h1: Mutex<Vec<conn::http1::SendRequest<Full<Bytes>>>>,
    shared_h2: Mutex<Vec<Shared>>,
    /// Held while an h2 connection is opened, so that streams that wait for one share it.
    connecting: tokio::sync::Mutex<()>,
}

/// Returns the address for the next connection.
pub(crate) struct Address(Box<dyn Fn() -> SocketAddr + Send + Sync>);

#[derive(Clone, Debug)]
struct Shared {
    sender: conn::http2::SendRequest<Full<Bytes>>,
    /// One reference for each stream that uses the connection, and one for this list.
    users: Arc<()>,
}

/// A connection that is in use by one stream.
pub(crate) enum Connection {
    H1(conn::http1::SendRequest<Full<Bytes>>),
    H2 {
        sender: conn::http2::SendRequest<Full<Bytes>>,
        _user: Arc<()>,
    },
}

/// Why a request got no response.
#[derive(Debug)]
pub(crate) enum Unanswered {
    NotConnected(io::Error),
    NotConnectedInTime,
    Failed(hyper::Error),
    NotInTime,
}

impl Client {
    pub(crate) fn new(args: &Args, address: Address) -> Result<Self, UsageError> {
        Ok(Self {
            address,
            http: args.http,
            #[cfg(feature = "tls")]
            tls: Tls::new(args)?,
            keep_alive: args.keep_alive,
            per_connection: args.streams_per_connection,
            idle_h1: Mutex::default(),
            shared_h2: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        })
    }

    /// Sends a request over a reused connection, or over a new one.
    ///
    /// The server may close a reused connection before any byte of the request was written. The request is then sent
    /// over the next connection, as every HTTP client with a pool does, and is not counted as a failure.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        by: Instant,
    ) -> Result<(Response<Incoming>, Connection), Unanswered> {
        loop {
            let connected = within(by, self.connect()).await;
            let (mut connection, known) = connected
                .ok_or(Unanswered::NotConnectedInTime)?
                .map_err(Unanswered::NotConnected)?;
            let sent = within(by, connection.send(request)).await;
            match sent.ok_or(Unanswered::NotInTime)? {
                Ok(response) => return Ok((response, connection)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if known => request = unsent,
                    Some(_) => {
                        let error = io::Error::other(failed.into_error());
                        return Err(Unanswered::NotConnected(error));
                    }
                    None => return Err(Unanswered::Failed(failed.into_error())),
                },
            }
        }
    }

    /// Returns a connection, and whether it is a reused one.
    async fn connect(&self) -> io::Result<(Connection, bool)> {
        let _connecting = match self.http {
            Http::H1 => None,
            Http::H2 => Some(self.connecting.lock().await),
        };
        if let Some(connection) = self.known().await {
            return Ok((connection, true));
        }
        let stream = TcpStream::connect(self.address.next()).await?;
        stream.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok((self.handshake(tls.connect(stream).await?).await?, false));
        }
        Ok((self.handshake(stream).await?, false))
    }

    async fn handshake<Io>(&self, io: Io) -> io::Result<Connection>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(io);
        Ok(match self.http {
            Http::H1 => {
                let (sender, connection) =
                    conn::http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Connection::H1(sender)
            }
            Http::H2 => {
                let (sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
                    .initial_max_send_streams(self.per_connection)
                    .handshake(io)
                    .await
                    .map_err(io::Error::other)?;
                tokio::spawn(connection);
                let users = Arc::new(());
                self.shared_h2.lock().push(Shared {
                    sender: sender.clone(),
                    users: Arc::clone(&users),
                });
                Connection::H2 {
                    sender,
                    _user: users,
                }
            }
        })
    }

    async fn known(&self) -> Option<Connection> {
        match self.http {
            Http::H1 => loop {
                let mut sender = self.idle_h1.lock().pop()?;
                // The response body was read to its end, but the connection task may not have noticed that yet.
                if sender.ready().await.is_ok() {
                    return Some(Connection::H1(sender));
                }
            },
            Http::H2 => {
                let mut shared = self.shared_h2.lock();
                shared.retain(|shared| !shared.sender.is_closed());
                let free = shared
                    .iter()
                    .find(|s| Arc::strong_count(&s.users) <= self.per_connection)?;
                Some(Connection::H2 {
                    sender: free.sender.clone(),
                    _user: Arc::clone(&free.users),
                })
            }
        }
    }

    /// Takes back a connection after its response was read to its end.
    pub(crate) fn give_back(&self, connection: Connection) {
        if let (Connection::H1(sender), true) = (connection, self.keep_alive) {
            self.idle_h1.lock().push(sender);
        }
    }
}

impl Connection {
    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        match self {
            Self::H1(sender) => sender.try_send_request(request).await,
            Self::H2 { sender, .. } => sender.try_send_request(request).await,
        }
    }
}

impl Address {
    pub(crate) fn new(next: impl Fn() -> SocketAddr + Send + Sync + 'static) -> Self {
        Self(Box::new(next))
    }

    /// Uses the first address of the URL's host.
    pub(crate) async fn of(args: &Args) -> io::Result<Self> {
        let host = args.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = args.url.port_u16().unwrap_or(match args.url.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
        let found = tokio::net::lookup_host((host, port)).await?.next();
        let address = found.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))
        })?;
        Ok(Self::new(move || address))
    }

    fn next(&self) -> SocketAddr {
        (self.0)()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.next()).finish()
    }
}

pub(crate) async fn within<F: Future>(by: Instant, future: F) -> Option<F::Output> {
    timeout_at(by, future).await.ok()
}

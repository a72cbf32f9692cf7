//! Connections to the server under load.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::{Args, Http};

/// Opens connections, and keeps those that can be used again.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    http: Http,
    keep_alive: bool,
    per_connection: usize,
    idle_h1: Mutex<Vec<conn::http1::SendRequest<Full<Bytes>>>>,
    shared_h2: Mutex<Vec<Shared>>,
    /// held while an h2 connection is made, so that those who wait share it
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Shared {
    sender: conn::http2::SendRequest<Full<Bytes>>,
    /// one for each stream that uses the connection, and one for this list
    users: Arc<()>,
}

/// A connection that carries one stream for now.
pub(crate) enum Connection {
    H1(conn::http1::SendRequest<Full<Bytes>>),
    H2 {
        sender: conn::http2::SendRequest<Full<Bytes>>,
        _user: Arc<()>,
    },
}

impl Client {
    pub(crate) async fn new(args: &Args) -> io::Result<Self> {
        let host = args.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = args.url.port_u16().unwrap_or(80);
        let address = tokio::net::lookup_host((host, port))
            .await?
            .next()
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))
            })?;
        Ok(Self {
            address,
            http: args.http,
            keep_alive: args.keep_alive,
            per_connection: args.streams_per_connection.get(),
            idle_h1: Mutex::default(),
            shared_h2: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let _connecting = match self.http {
            Http::H1 => None,
            Http::H2 => Some(self.connecting.lock().await),
        };
        if let Some(connection) = self.known() {
            return Ok(connection);
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        match self.http {
            Http::H1 => {
                let (sender, connection) =
                    conn::http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Ok(Connection::H1(sender))
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
                Ok(Connection::H2 {
                    sender,
                    _user: users,
                })
            }
        }
    }

    fn known(&self) -> Option<Connection> {
        match self.http {
            Http::H1 => {
                let mut idle = self.idle_h1.lock();
                while let Some(sender) = idle.pop() {
                    if sender.is_ready() {
                        return Some(Connection::H1(sender));
                    }
                }
                None
            }
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

    /// Takes back the connection of a stream that has ended whole.
    pub(crate) fn give_back(&self, connection: Connection) {
        if let (Connection::H1(sender), true) = (connection, self.keep_alive) {
            self.idle_h1.lock().push(sender);
        }
    }
}

impl Connection {
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::H1(sender) => sender.send_request(request).await,
            Self::H2 { sender, .. } => sender.send_request(request).await,
        }
    }
}

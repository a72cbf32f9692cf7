//! Where the public listener listens: a TCP address or a Unix socket.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// The value of `--public`: `127.0.0.1:3000`, or `unix:/run/demo.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl FromStr for ListenAddr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err("`unix:` needs the path of a socket"),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| "write it like 127.0.0.1:3000 or unix:/run/demo.sock"),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The bound public listener.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Bound {
    pub(crate) async fn bind(addr: &ListenAddr) -> io::Result<Self> {
        let bound = match addr {
            ListenAddr::Tcp(addr) => TcpListener::bind(addr).await.map(Self::Tcp),
            ListenAddr::Unix(path) => bind_unix(path).await,
        };
        bound.map_err(|error| cannot_bind("public", addr, &error))
    }

    /// The address, with the port that the system assigned.
    pub(crate) fn addr(&self) -> io::Result<ListenAddr> {
        Ok(match self {
            Self::Tcp(listener) => ListenAddr::Tcp(listener.local_addr()?),
            Self::Unix(_, file) => ListenAddr::Unix(file.path.clone()),
        })
    }
}

/// The error for the listener with this name.
pub(crate) fn cannot_bind(name: &str, addr: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot bind the {name} listener to {addr}: {error}"),
    )
}

/// Binds a Unix socket. Replaces the socket of a server that has ended without removing it.
async fn bind_unix(path: &Path) -> io::Result<Bound> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                let kind = io::ErrorKind::AlreadyExists;
                return Err(io::Error::new(kind, "the file exists and is not a socket"));
            }
            match UnixStream::connect(path).await {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {}
                // A server listens, or nothing is known about it.
                _ => return Err(error),
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }?;
    let file = SocketFile {
        path: path.to_owned(),
        id: id(path)?,
    };
    Ok(Bound::Unix(listener, file))
}

/// Removes the file of a Unix socket when it is dropped, unless another server has replaced it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "socket not removed");
        }
    }
}

/// The device and inode of a file.
fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_written_as_they_are_read() {
        for text in ["127.0.0.1:3000", "[::1]:80", "unix:/run/demo.sock"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        for text in ["", "here", "unix:", "127.0.0.1"] {
            assert!(text.parse::<ListenAddr>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_another_server_has_replaced_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let addr = ListenAddr::Unix(dir.path().join("socket"));
        let Bound::Unix(listener, old) = Bound::bind(&addr).await.unwrap() else {
            panic!("not a Unix socket")
        };
        let in_use = Bound::bind(&addr).await.unwrap_err();
        assert_eq!(in_use.kind(), io::ErrorKind::AddrInUse);
        assert!(in_use.to_string().contains(&addr.to_string()), "{in_use}");
        // The inode of a removed file may be given to the next one.
        fs::hard_link(&old.path, dir.path().join("kept")).unwrap();
        drop(listener);
        let new = Bound::bind(&addr).await.unwrap();
        drop(old);
        assert!(id(&dir.path().join("socket")).is_ok());
        drop(new);
        assert!(id(&dir.path().join("socket")).is_err());
    }
}

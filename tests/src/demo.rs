use std::{env, io, net::SocketAddr, path::PathBuf, process::ExitStatus, time::Duration};

use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{LogCapture, PATIENCE};

/// Starts the demo server in this process, always on free ports.
///
/// # Errors
/// As [`demo_server::Server::start`].
pub async fn start_demo(mut args: demo_server::Args) -> io::Result<demo_server::Server> {
    args.public = loopback().into();
    args.admin = loopback();
    demo_server::Server::start(args).await
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The demo server as a separate process: for signals, exit codes, log lines and crashes. Killed when dropped.
#[derive(Debug)]
pub struct DemoProcess {
    child: Child,
    public: String,
    admin: SocketAddr,
    log: LogCapture,
    reading: JoinHandle<()>,
}

impl DemoProcess {
    /// Starts it with these flags, on free ports unless they say otherwise, and waits for the line with its addresses.
    ///
    /// # Errors
    /// If it cannot be run, or if it exits or prints something else first; the message contains its stderr.
    pub async fn start(flags: &[&str]) -> io::Result<Self> {
        Self::start_command(Self::command()?.args(flags)).await
    }

    /// Like [`start`](Self::start), with a prepared [`command`](Self::command), for example to set environment
    /// variables.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_command(command: &mut Command) -> io::Result<Self> {
        use std::process::Stdio;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let log = LogCapture::default();
        let reading = tokio::spawn(copy(
            child.stderr.take().expect("stderr is piped"),
            log.clone(),
        ));
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await??;
        let Some((public, admin)) = addresses(&line) else {
            let _ = child.start_kill();
            let status = child.wait().await?;
            let _ = reading.await;
            return Err(io::Error::other(format!(
                "demo: {status}, said {line:?}\n{}",
                log.text()
            )));
        };
        Ok(Self {
            child,
            public,
            admin,
            log,
            reading,
        })
    }

    /// A command that runs the demo server, on free ports unless other flags are added.
    ///
    /// # Errors
    /// If its binary is not beside the test's. Cargo builds it together with the integration tests of package `e2e`.
    pub fn command() -> io::Result<Command> {
        let test: PathBuf = env::current_exe()?;
        // target/<profile>/deps/<test> -> target/<profile>/<binary>
        let binary = test
            .ancestors()
            .nth(2)
            .map(|dir| dir.join("demo-under-test"));
        match binary.filter(|path| path.exists()) {
            Some(path) => {
                let mut command = Command::new(path);
                // Not as flags, which may be given only once.
                command.envs(["DEMO_PUBLIC", "DEMO_ADMIN"].map(|name| (name, "127.0.0.1:0")));
                Ok(command)
            }
            None => Err(io::Error::other(format!(
                "no demo-under-test beside {}",
                test.display()
            ))),
        }
    }

    /// Address of the public listener.
    ///
    /// # Panics
    /// If it is a Unix socket.
    pub fn public_addr(&self) -> SocketAddr {
        self.public.parse().expect("the address of a TCP listener")
    }

    /// Address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id.
    ///
    /// # Panics
    /// If [`exit`](Self::exit) has seen it end.
    pub fn pid(&self) -> u32 {
        self.child
            .id()
            .expect("the process has not been waited for")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// As `kill(2)`.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        crate::signal(self.pid(), signal)
    }

    /// Waits for its exit; [`log`](Self::log) is then complete.
    ///
    /// # Errors
    /// `TimedOut` if it has not ended `within` this time.
    pub async fn exit(&mut self, within: Duration) -> io::Result<ExitStatus> {
        let status = timeout(within, self.child.wait()).await??;
        let _ = (&mut self.reading).await;
        Ok(status)
    }

    /// Its log (stderr) so far.
    pub fn log(&self) -> &LogCapture {
        &self.log
    }
}

/// `listening public=ADDR admin=ADDR`
fn addresses(line: &str) -> Option<(String, SocketAddr)> {
    let rest = line.trim_end().strip_prefix("listening public=")?;
    let (public, admin) = rest.split_once(" admin=")?;
    Some((public.to_owned(), admin.parse().ok()?))
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: LogCapture) {
    let mut buffer = vec![0; 8192];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let _ = io::Write::write(&mut to, &buffer[..n]);
    }
}

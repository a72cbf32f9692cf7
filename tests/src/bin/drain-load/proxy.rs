//! Real proxies, each with a minimal configuration.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use clap::ValueEnum;
use tokio::process::{Child, Command};

use crate::{BoxError, rolling::Backend};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    Nginx,
    Haproxy,
    Caddy,
}

impl Proxy {
    pub(crate) fn start(
        self,
        front: SocketAddr,
        backends: &[Backend],
        scratch: &Path,
    ) -> Result<Child, BoxError> {
        let config = match self {
            Self::Nginx => nginx(front, backends, scratch),
            Self::Haproxy => haproxy(front, backends),
            Self::Caddy => caddy(front, backends),
        };
        let path = scratch.join("config");
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(scratch.join("log"))?;
        let (program, args): (_, &[&str]) = match self {
            Self::Nginx => ("nginx", &["-p", ".", "-c"]),
            Self::Haproxy => ("haproxy", &["-db", "-f"]),
            Self::Caddy => ("caddy", &["run", "--adapter", "caddyfile", "--config"]),
        };
        let child = Command::new(program)
            .args(args)
            .arg(&path)
            .current_dir(scratch)
            // Where caddy stores its state.
            .env("HOME", scratch)
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        Ok(child.map_err(|error| format!("{self:?} cannot be run: {error}"))?)
    }
}

/// Its defaults, with keep-alive to the servers: nginx retries a request on another server only if that is safe.
fn nginx(front: SocketAddr, backends: &[Backend], scratch: &Path) -> String {
    let mut servers = String::new();
    for backend in backends {
        let _ = writeln!(servers, "    server {} fail_timeout=1s;", backend.public);
    }
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
           upstream demo {{\n{servers}    keepalive 64;\n  }}\n\
           server {{ listen {front};\n\
             location / {{ proxy_pass http://demo; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
           }}\n\
         }}\n",
        dir = scratch.display()
    )
}

fn haproxy(front: SocketAddr, backends: &[Backend]) -> String {
    let mut servers = String::new();
    for (n, backend) in backends.iter().enumerate() {
        let port = backend.admin.port();
        let _ = writeln!(
            servers,
            "  server s{n} {} check port {port} inter 100ms fall 2 rise 1",
            backend.public
        );
    }
    format!(
        "global\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n  option redispatch\n\
         frontend front\n  bind {front}\n  default_backend demo\n\
         backend demo\n  option httpchk GET /readyz\n  http-reuse safe\n{servers}"
    )
}

/// With active health checks: when a server has refused the connection, caddy 2.6 cannot send a request with a body to
/// another server (it has already closed the body, and responds with a 502), so it must know in advance.
///
/// With buffered requests: if a response starts before the request body was read to its end, caddy 2.6 closes the body,
/// fails to send it, and ends the response cleanly although it is incomplete. Without any restart, this happened to one
/// in 45 streamed responses to a POST.
fn caddy(front: SocketAddr, backends: &[Backend]) -> String {
    let servers: Vec<String> = backends.iter().map(|b| b.public.to_string()).collect();
    format!(
        "{{\n  admin off\n  auto_https off\n}}\n\
         http://{front} {{\n\
           reverse_proxy {servers} {{\n    health_uri /readyz\n    health_port {port}\n    health_interval 100ms\n    buffer_requests\n  }}\n\
         }}\n",
        servers = servers.join(" "),
        port = backends[0].admin.port()
    )
}

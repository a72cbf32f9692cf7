"""Proxies in front of a server, each with the least configuration that works, or with one that makes streaming hard."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

SCRATCH = pathlib.Path(os.environ["SCRATCH"])
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def nginx(name: str, port: int, server: str, idle: int, hard: bool, version: str = "1.1") -> list[str]:
    where = SCRATCH / name
    where.mkdir()
    temporary = " ".join(
        f"{kind}_temp_path {where}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Buffering is on, as it is by default. X-Accel-Buffering has to switch it off where nginx speaks HTTP/1.0 to the server;
    # over HTTP/1.1, version 1.22 passes each chunk on anyway.
    zipped = "gzip on; gzip_proxied any; gzip_types text/event-stream; gzip_min_length 0;" if hard else ""
    (where / "nginx.conf").write_text(f"""
        daemon off; pid {where}/pid; error_log {where}/error.log;
        events {{}}
        http {{
            access_log off; {temporary} {zipped}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://{server}; proxy_http_version {version}; proxy_set_header Connection "";
                    proxy_read_timeout {idle}s;
                }}
            }}
        }}""")
    return ["nginx", "-p", str(where), "-c", str(where / "nginx.conf")]


def nginx_by_default(name: str, port: int, server: str, idle: int, hard: bool) -> list[str]:
    return nginx(name, port, server, idle, hard, version="1.0")


def haproxy(name: str, port: int, server: str, idle: int, hard: bool) -> list[str]:
    config = SCRATCH / f"{name}.cfg"
    zipped = "compression algo gzip\n    compression type text/event-stream" if hard else ""
    config.write_text(f"""
defaults
    mode http
    timeout connect 5s
    timeout client {idle}s
    timeout server {idle}s
frontend in
    bind 127.0.0.1:{port}
    default_backend demo
backend demo
    {zipped}
    server demo {server}
""")
    return ["haproxy", "-db", "-f", str(config)]


def caddy(name: str, port: int, server: str, idle: int, hard: bool) -> list[str]:
    config = SCRATCH / f"{name}.caddyfile"
    zipped = "encode gzip {\n match header Content-Type text/event-stream*\n }" if hard else ""
    config.write_text(f"""
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    {zipped}
    reverse_proxy {server} {{
        transport http {{
            read_timeout {idle}s
        }}
    }}
}}
""")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


def envoy(name: str, port: int, server: str, idle: int, hard: bool) -> list[str]:
    host, _, upstream = server.partition(":")
    config = SCRATCH / f"{name}.yaml"
    zipped = """
          - name: gzip
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor
              response_direction_config: {common_config: {min_content_length: 1, content_type: [text/event-stream]}}
              compressor_library:
                name: gzip
                typed_config: {"@type": type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip}
    """ if hard else ""
    # a route ends each response after 15 s by default, whatever it does: streams need `timeout: 0s`
    config.write_text(f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          stream_idle_timeout: {idle}s
          http_filters:{zipped}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: demo
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: demo, timeout: 0s}}}}]
  clusters:
  - name: demo
    connect_timeout: 5s
    load_assignment:
      cluster_name: demo
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {upstream}}}}}}}}}]}}]
""")
    binary = pathlib.Path(sys.executable).parent / "envoy"
    return [str(binary), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]


PROXIES = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy, "envoy": envoy}
# over HTTP/1.0 a cut looks like an end, so this one is for streams that end well
ALL = {"nginx over HTTP/1.0": nginx_by_default, **PROXIES}


@contextlib.contextmanager
def running(kind: str, server: str, idle: int = 30, hard: bool = False):
    """Starts one in front of `server`, HOST:PORT, which cuts streams that are idle for `idle` seconds; gives its port.

    `hard`: it compresses events, as far as the response allows it.
    """
    port = free_port()
    name = f"proxy-{port}"
    command = ALL[kind](name, port, server, idle, hard)
    command[0] = shutil.which(command[0], path=PATH) or command[0]
    with (SCRATCH / f"{name}.log").open("wb") as log:
        environment = {**os.environ, "HOME": str(SCRATCH), "PATH": PATH}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError((SCRATCH / f"{name}.log").read_text()[-2000:])
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

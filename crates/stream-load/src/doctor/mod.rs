//! `stream-load doctor`: what stands between a stream and its reader.

mod check;
mod diagnosis;
mod probe;

use std::time::Duration;

#[cfg(feature = "tls")]
use std::path::PathBuf;

use clap::Parser;
use http::{HeaderName, HeaderValue, Uri, header, uri::PathAndQuery};

pub use self::diagnosis::{Check, Diagnosis, Finding, Severity};
use self::probe::{Probe, Seen};
use crate::{
    Args, Http, Output, UsageError,
    args::{MILLISECOND, YEAR, duration, parse_header},
};

/// Reads a stream as a client does, and says what the proxies on its way do to it.
///
/// The URL is one of server-sent events that come at a steady pace. When an event should have come is known from a time in
/// its data (a field `t`, `ts`, `at`, `time` or `timestamp` of a JSON object, in seconds or milliseconds since 1970), or from a query
/// parameter `interval_ms`, as the routes of the demo server have it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "stream-load doctor",
    version,
    after_help = "Exit code: 0 when there is no fault, 1 when there is one, 2 when the stream could not be examined.\n\
                  For a URL whose path ends in /events, as that of the demo server, the other streams are found by themselves: \
                  a paced one if the URL has no query, the broken one under /bare/fail, and the idle one."
)]
pub struct DoctorArgs {
    /// URL of a paced stream (`http://` or `https://`)
    pub url: Uri,

    /// Read the stream for at most this long
    #[arg(long = "for", value_parser = duration(MILLISECOND..=YEAR), default_value = "15s", value_name = "DURATION")]
    pub lasting: Duration,

    /// URL of a stream that the server breaks before its end, without an error record: shows whether its reader can tell
    #[arg(long, value_name = "URL")]
    pub broken: Option<Uri>,

    /// Also read a stream that is silent for this long (the URL with `count=2&interval_ms=..` if its path ends in /events,
    /// the URL itself otherwise): shows whether an idle stream is cut
    #[arg(long, value_parser = duration(MILLISECOND..=YEAR), value_name = "DURATION")]
    pub idle: Option<Duration>,

    /// The server sends heartbeats this often: shows, with --idle, whether they arrive
    #[arg(long, value_parser = duration(MILLISECOND..=YEAR), value_name = "DURATION")]
    pub heartbeat: Option<Duration>,

    /// HTTP version; over `https://`, the only protocol offered by ALPN
    #[arg(long, value_enum, default_value_t = Http::H1)]
    pub http: Http,

    /// https: trust only the certificates in this PEM file, not the system's
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub cacert: Option<PathBuf>,

    /// https: accept any server certificate
    #[cfg(feature = "tls")]
    #[arg(long)]
    pub insecure: bool,

    /// Request header as `name: value`; may be given more than once
    #[arg(short = 'H', long = "header", value_parser = parse_header, value_name = "HEADER")]
    pub headers: Vec<(HeaderName, HeaderValue)>,

    /// Longest time to connect, and longest time from there to the response head
    #[arg(long, value_parser = duration(MILLISECOND..=YEAR), default_value = "10s", value_name = "DURATION")]
    pub connect_timeout: Duration,

    /// Format of the diagnosis on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Examines the stream.
///
/// # Errors
///
/// The URL does not answer, is no stream of server-sent events, redirects, or needs TLS.
pub async fn examine(args: &DoctorArgs) -> Result<Diagnosis, UsageError> {
    let url = args.paced_url();
    let plain = args.probe(&url, args.lasting, "identity").await?;
    let plain = plain.must_be_events(&url)?;
    let codings = args.probe(&url, args.lasting, "br, gzip, zstd").await?;
    let mut diagnosis = Diagnosis::new(&url, &plain);
    check::paced(&mut diagnosis, &plain, schedule_of(&url));
    check::encoded(&mut diagnosis, &plain, &codings);
    if let Some(url) = args.broken_url() {
        let broken = args.probe(&url, args.lasting, "identity").await?;
        // The demo server has that route, another server need not.
        if args.broken.is_some() || broken.is_events() {
            check::broken(&mut diagnosis, &broken.must_be_events(&url)?);
        }
    }
    if let Some(idle) = args.idle {
        let url = args.idle_url(idle);
        let lasting = idle + Duration::from_secs(5);
        let seen = args.probe(&url, lasting, "identity").await?;
        let seen = seen.must_be_events(&url)?;
        check::idle(&mut diagnosis, &seen, idle, args.heartbeat);
    }
    Ok(diagnosis)
}

impl DoctorArgs {
    async fn probe(
        &self,
        url: &Uri,
        lasting: Duration,
        coding: &'static str,
    ) -> Result<Seen, UsageError> {
        let mut args = Args::of(url.clone());
        args.http = self.http;
        args.connect_timeout = self.connect_timeout;
        #[cfg(feature = "tls")]
        {
            args.cacert.clone_from(&self.cacert);
            args.insecure = self.insecure;
        }
        let accept = (
            header::ACCEPT,
            HeaderValue::from_static("text/event-stream"),
        );
        let coding = (header::ACCEPT_ENCODING, HeaderValue::from_static(coding));
        args.headers = vec![accept, coding];
        args.headers.extend(self.headers.iter().cloned());
        Probe::new(args, lasting).await?.run().await
    }

    fn is_demo(&self) -> bool {
        self.url.path().ends_with("/events")
    }

    fn paced_url(&self) -> Uri {
        match self.is_demo() && self.url.query().is_none() {
            true => self.sibling("/events?count=20&interval_ms=250"),
            false => self.url.clone(),
        }
    }

    fn broken_url(&self) -> Option<Uri> {
        let demo = || self.sibling("/bare/fail?how=error-body&format=sse&after=3");
        let found = self.is_demo().then(demo);
        self.broken.clone().or(found)
    }

    fn idle_url(&self, idle: Duration) -> Uri {
        let idle = idle.as_millis();
        match self.is_demo() {
            true => self.sibling(&format!("/events?count=2&interval_ms={idle}")),
            false => self.url.clone(),
        }
    }

    /// Another route of the server whose `/events` the URL names.
    fn sibling(&self, route: &str) -> Uri {
        let base = self.url.path().strip_suffix("/events").unwrap_or_default();
        let path = PathAndQuery::try_from(format!("{base}{route}"));
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = path.ok();
        Uri::from_parts(parts).unwrap_or_else(|_| self.url.clone())
    }
}

/// The time between two events that the URL asks for.
fn schedule_of(url: &Uri) -> Option<Duration> {
    let mut pairs = url.query()?.split('&');
    let interval = pairs.find_map(|pair| pair.strip_prefix("interval_ms="))?;
    interval.parse().ok().map(Duration::from_millis)
}

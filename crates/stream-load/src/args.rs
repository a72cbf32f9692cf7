//! The command line.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use http::{HeaderName, HeaderValue, Method, Uri};
use tower_stream_core::Dialect;

/// Opens streams over HTTP, reads each one to its end, and reports how they ended.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "stream-load",
    version,
    after_help = "Exit code: 0 when every threshold is met, 1 when one is not, 2 for a bad command line.\n\
                  Without --total and --duration, the run opens --streams streams (or 10) once.\n\
                  Latency is measured from the time at which a stream was due by --rate, service time from its actual \
                  start. Without --rate they are the same.\n\
                  Ctrl-C ends the run: streams that have not ended are reported as `running`.\n\
                  `stream-load doctor URL` says what stands between a stream and its reader: see stream-load doctor --help."
)]
pub struct Args {
    /// URL to request (`http://` or `https://`)
    pub url: Uri,

    /// Number of streams that are open at the same time [default: 10, or up to 1000 with --rate]
    #[arg(short = 'n', long, value_parser = number(1..=1_000_000_usize), value_name = "N")]
    pub streams: Option<usize>,

    /// Stop after this many streams
    #[arg(long, value_parser = number(1..=1_000_000_000_000_u64), value_name = "N")]
    pub total: Option<u64>,

    /// Open new streams for this long (30s, 2m)
    #[arg(short, long, value_parser = duration(MILLISECOND..=YEAR))]
    pub duration: Option<Duration>,

    /// Time that open streams have left after --duration; a stream that has not ended by then is reported as `running`
    #[arg(long, value_parser = duration(Duration::ZERO..=YEAR), default_value = "10s", value_name = "DURATION")]
    pub grace: Duration,

    /// Start new streams at this rate per second. A stream that is due while --streams are already open starts later
    /// and is reported as behind schedule
    #[arg(short, long, value_parser = number(0.001..=1_000_000.0_f64), value_name = "PER_SECOND")]
    pub rate: Option<f64>,

    /// Number of streams that may wait for their response heads at the same time. A server whose accept queue overflows
    /// (often at 128 connections) delays each further connection by a second
    #[arg(long, value_parser = number(1..=1_000_000_usize), value_name = "N")]
    pub opening: Option<usize>,

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

    /// HTTP/1.1: reuse connections
    #[arg(long)]
    pub keep_alive: bool,

    /// HTTP/2: number of streams that share a connection
    #[arg(long, value_parser = number(1..=1_000_000_usize), default_value = "100", value_name = "N")]
    pub streams_per_connection: usize,

    /// Request method
    #[arg(short = 'X', long, default_value = "GET")]
    pub method: Method,

    /// Request header as `name: value`; may be given more than once
    #[arg(short = 'H', long = "header", value_parser = parse_header, value_name = "HEADER")]
    pub headers: Vec<(HeaderName, HeaderValue)>,

    /// Request body; the method is then POST unless --method is given
    #[arg(long, value_name = "TEXT")]
    pub data: Option<String>,

    /// Format of the records in a body; `auto` decides by Content-Type
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub format: Format,

    /// The dialect of the streams: one that ends without its last record is `incomplete`
    #[arg(long, value_name = "NAME", value_parser = dialect)]
    pub dialect: Option<Dialect>,

    /// Longest time to connect, and longest time from there to the response head
    #[arg(long, value_parser = duration(MILLISECOND..=YEAR), default_value = "10s", value_name = "DURATION")]
    pub connect_timeout: Duration,

    /// Longest time between two chunks
    #[arg(long, value_parser = duration(MILLISECOND..=YEAR), default_value = "60s", value_name = "DURATION")]
    pub idle_timeout: Duration,

    /// Longest time for a whole stream
    #[arg(long, value_parser = duration(MILLISECOND..=YEAR), value_name = "DURATION")]
    pub timeout: Option<Duration>,

    /// Number of bytes that each body must have
    #[arg(long, value_parser = number(0..=u64::MAX), value_name = "N")]
    pub expect_bytes: Option<u64>,

    /// Number of records (events or lines) that each stream must have
    #[arg(long, value_parser = number(0..=u64::MAX), value_name = "N")]
    pub expect_records: Option<u64>,

    /// Text that the last record of each stream must contain, searched in the raw bytes (in a body without records: in
    /// its last 4 KiB)
    #[arg(long, value_name = "TEXT")]
    pub expect_last: Option<String>,

    /// Share of streams that stop reading after their first chunk but keep the connection open
    #[arg(long, default_value = "0%", value_name = "PERCENT")]
    pub stall: Percent,

    /// Allowed share of streams that got no connection or no response, streams rejected by GOAWAY or REFUSED_STREAM
    /// included
    #[arg(long, default_value = "0.5%", value_name = "PERCENT")]
    pub max_connect_failures: Percent,

    /// Allowed share of streams answered with a 4xx status
    #[arg(long, default_value = "0.1%", value_name = "PERCENT")]
    pub max_4xx: Percent,

    /// Allowed share of streams answered with a 5xx status
    #[arg(long, default_value = "0.1%", value_name = "PERCENT")]
    pub max_5xx: Percent,

    /// Allowed share of broken streams (connection or stream reset, early end of file, incomplete last record, wrong
    /// digest, timeout, or an --expect option not met)
    #[arg(long, default_value = "0.3%", value_name = "PERCENT")]
    pub max_cut: Percent,

    /// Allowed share of streams that ended with an error record
    #[arg(long, default_value = "100%", value_name = "PERCENT")]
    pub max_errors: Percent,

    /// Allowed share of streams that are still open at the end of the run; endless streams need 100%
    #[arg(long, default_value = "0%", value_name = "PERCENT")]
    pub max_running: Percent,

    /// Format of the report on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Also write the report as an HTML page with plots to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Show no progress bar, even on a terminal
    #[arg(long)]
    pub no_progress: bool,
}

/// HTTP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Http {
    /// HTTP/1.1
    #[value(name = "1", alias = "1.1", alias = "h1")]
    H1,
    /// HTTP/2: by prior knowledge in cleartext, by ALPN over TLS
    #[value(name = "2", alias = "h2")]
    H2,
}

/// Format of the records in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Decided by the Content-Type of the response
    Auto,
    /// Server-sent events
    Sse,
    /// JSON values, one per line
    Jsonl,
    /// Bytes without records
    Raw,
}

/// Format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Human-readable table
    Text,
    /// One JSON object
    Json,
}

impl Args {
    /// The defaults for this URL.
    pub(crate) fn of(url: Uri) -> Self {
        let mut args = Self::parse_from(["stream-load", "http://localhost/"]);
        args.url = url;
        args
    }

    /// Checks what clap cannot check by itself.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        match self.url.scheme_str() {
            Some("http") => {}
            Some("https") if cfg!(feature = "tls") => {}
            Some("https") => {
                let text = "https:// URLs need the cargo feature `tls`";
                return Err(UsageError(text.to_owned()));
            }
            _ => {
                let taken = "takes an http:// or https:// URL";
                return Err(UsageError(format!("<URL> {taken}, and not {}", self.url)));
            }
        }
        if self
            .url
            .authority()
            .is_some_and(|a| a.as_str().contains('@'))
        {
            let instead = "use --header 'authorization: ..'";
            return Err(UsageError(format!(
                "credentials in the URL are not supported: {instead}"
            )));
        }
        Ok(())
    }

    /// Number of streams in the run; `None` when only a duration is given.
    pub(crate) fn total(&self) -> Option<u64> {
        match (self.total, self.duration) {
            (Some(total), _) => Some(total),
            (None, None) => Some(self.streams.unwrap_or(STREAMS) as u64),
            (None, Some(_)) => None,
        }
    }

    /// Number of streams that may be open at the same time.
    pub(crate) fn concurrency(&self) -> usize {
        let default = match self.rate {
            Some(_) => STREAMS_ON_SCHEDULE,
            None => STREAMS,
        };
        let most = self.streams.unwrap_or(default);
        match self.total() {
            Some(total) => most.min(usize::try_from(total).unwrap_or(usize::MAX)),
            None => most,
        }
    }

    pub(crate) fn method(&self) -> Method {
        match self.data {
            Some(_) if self.method == Method::GET => Method::POST,
            _ => self.method.clone(),
        }
    }
}

const STREAMS: usize = 10;

/// Large enough for a server that pauses for one second at 1000 streams per second. With fewer streams, all of them
/// would wait for the server and no new one could start on schedule.
const STREAMS_ON_SCHEDULE: usize = 1000;

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

/// Upper limit for every duration, so that adding several of them to an `Instant` cannot overflow.
pub(crate) const YEAR: Duration = Duration::from_secs(31_557_600);

/// Parses a number in `range`. Unlike clap's own range parsers, the error also names the range when the text is not a
/// number.
fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("takes a number from {} to {}", range.start(), range.end()))
    }
}

pub(crate) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let time = humantime::parse_duration(text).ok();
        time.filter(|time| range.contains(time)).ok_or_else(|| {
            let [from, to] =
                [range.start(), range.end()].map(|end| humantime::format_duration(*end));
            format!("takes a time such as 500ms, 30s or 2m, from {from} to {to}")
        })
    }
}

fn dialect(name: &str) -> Result<Dialect, String> {
    let found = Dialect::VENDORS
        .into_iter()
        .find(|dialect| dialect.name() == name);
    found.ok_or_else(|| {
        let names = Dialect::VENDORS.map(|dialect| dialect.name());
        format!("one of {}", names.join(", "))
    })
}

pub(crate) fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is `name: value`")?;
    let name = HeaderName::from_str(name.trim()).map_err(|e| e.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|e| e.to_string())?;
    Ok((name, value))
}

/// A share of all streams, from 0 to 100 percent; `0.5%` and `0.5` are the same.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// The share as a number from 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        self.0 / 100.0
    }

    /// Returns whether `part` of `whole` is at most this share.
    #[must_use]
    pub fn allows(self, part: u64, whole: u64) -> bool {
        part as f64 <= self.ratio() * whole as f64
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text);
        match number.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err("takes a percentage from 0 to 100, such as 0.5%".to_owned()),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// The command line is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_and_compared() {
        let percent: Percent = "0.5%".parse().unwrap();
        assert_eq!("0.5".parse(), Ok(percent));
        assert!(percent.allows(5, 1000));
        assert!(!percent.allows(6, 1000));
        assert!("101".parse::<Percent>().is_err());
        assert!("-1%".parse::<Percent>().is_err());
        assert!("NaN".parse::<Percent>().is_err());
    }

    #[test]
    fn only_http_urls_are_taken() {
        let args = |url: &str| Args::parse_from(["stream-load", url]).check();
        assert!(args("http://127.0.0.1:1/x").is_ok());
        assert_eq!(args("https://127.0.0.1/").is_ok(), cfg!(feature = "tls"));
        assert!(args("ftp://127.0.0.1/").is_err());
        assert!(args("/x").is_err());
        assert!(args("http://me:secret@127.0.0.1/").is_err());
    }

    #[test]
    fn a_body_means_post() {
        let args = Args::parse_from(["stream-load", "http://h/", "--data", "{}"]);
        assert_eq!(args.method(), Method::POST);
        let args = Args::parse_from(["stream-load", "http://h/", "--data", "{}", "-X", "PUT"]);
        assert_eq!(args.method(), Method::PUT);
    }
}

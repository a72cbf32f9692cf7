//! What each thing that was seen means.

use std::time::Duration;

use http::{Version, header};
use tower_stream_core::is_encoded;

use super::{
    diagnosis::{Check, Diagnosis},
    probe::{End, Seen},
};

/// The least difference of delays that a proxy is blamed for; a busy machine holds up a stream for less.
const HELD: Duration = Duration::from_secs(1);

/// A stream that is cut after less silence was not cut for its silence.
const SILENCE: Duration = Duration::from_secs(5);

pub(super) fn paced(to: &mut Diagnosis, seen: &Seen, interval: Option<Duration>) {
    head(to, seen);
    match held(seen, interval) {
        None => to.note(
            Check::Buffered,
            "unknown: the events have no time in them, and the URL has no `interval_ms`",
        ),
        Some(held) if held >= HELD.max(interval.unwrap_or_default() * 3) => to.fault(
            Check::Buffered,
            format!("the first events were held back for {held:.1?}, and then came all at once"),
            "send `X-Accel-Buffering: no` (tower-stream-headers does); nginx: `proxy_buffering off`; Apache: `flushpackets=on`; \
             haproxy: no `option http-buffer-request` and no `http-response wait-for-body`",
        ),
        Some(_) => to.good(Check::Buffered, "each event arrives when it is sent"),
    }
    if let End::Cut(why) = &seen.end {
        cut(to, seen, why);
    }
}

fn cut(to: &mut Diagnosis, seen: &Seen, why: &str) {
    if seen.silence() >= SILENCE {
        idle_cut(to, seen, why);
        return;
    }
    to.fault(
        Check::Cut,
        format!("the stream was cut after {:.1?} ({why})", seen.ended),
        "look for a limit on the whole response: Envoy's route `timeout` (15 s by default), a load balancer's request \
         timeout, or a crash of the server",
    );
}

fn idle_cut(to: &mut Diagnosis, seen: &Seen, why: &str) {
    to.fault(
        Check::IdleCut,
        format!("the stream was cut after {:.0?} of silence ({why})", seen.silence()),
        "send heartbeats more often than that (tower-stream-heartbeat), or raise the limit: nginx: `proxy_read_timeout`; \
         haproxy: `timeout server` and `timeout client`; Envoy: `stream_idle_timeout`",
    );
}

/// How much later the first events came than the later ones, each compared with when it should have come.
fn held(seen: &Seen, interval: Option<Duration>) -> Option<Duration> {
    let events = &seen.events;
    let due = |index: usize| -> Option<Duration> {
        let time = |at: usize| events.get(at)?.time;
        match (time(0), time(index)) {
            (Some(first), Some(time)) => time.checked_sub(first),
            _ => interval.map(|interval| interval * u32::try_from(index).unwrap_or(u32::MAX)),
        }
    };
    let mut worst = Duration::ZERO;
    // The delay of each event, as seconds, because clocks differ.
    let mut latest = f64::MIN;
    for (index, event) in events.iter().enumerate() {
        let delay = event.at.as_secs_f64() - due(index)?.as_secs_f64();
        latest = latest.max(delay);
        worst = worst.max(Duration::from_secs_f64(latest - delay));
    }
    (events.len() >= 2).then_some(worst)
}

fn head(to: &mut Diagnosis, seen: &Seen) {
    let get = |name: &str| seen.headers.get(name).and_then(|value| value.to_str().ok());
    match seen.version {
        Version::HTTP_10 | Version::HTTP_09 => to.fault(
            Check::HttpVersion,
            "the response is HTTP/1.0, in which a cut looks like the end",
            "nginx: `proxy_http_version 1.1`",
        ),
        Version::HTTP_11 => to.good(
            Check::HttpVersion,
            "HTTP/1.1; a browser opens at most six connections to a host, so six such streams block a page",
        ),
        _ => to.good(Check::HttpVersion, format!("{:?}", seen.version)),
    }
    let chunked = seen.headers.contains_key(header::TRANSFER_ENCODING);
    if let Some(length) = get("content-length") {
        to.fault(
            Check::ContentLength,
            format!(
                "a stream has `Content-Length: {length}`, so something has read it to its end first"
            ),
            "turn off what buffers or caches the whole response",
        );
    } else if seen.version == Version::HTTP_11 && !chunked {
        to.fault(
            Check::ContentLength,
            "the response has neither a length nor chunks, so its reader cannot tell a cut from the end",
            "let the proxy speak HTTP/1.1 to its clients, with `Transfer-Encoding: chunked`",
        );
    } else {
        to.good(
            Check::ContentLength,
            "the end of the response can be told from a cut",
        );
    }
    cached(to, seen);
    let announced = seen.headers.contains_key(header::TRAILER);
    match (&seen.trailers, &seen.end) {
        (Some(_), _) => to.good(Check::Trailers, "trailers arrive"),
        (None, End::Clean) if announced => to.fault(
            Check::Trailers,
            "the head announces trailers, which do not arrive",
            "nginx and many load balancers drop them over HTTP/1.1: put what they say into the last record",
        ),
        _ => {}
    }
}

fn cached(to: &mut Diagnosis, seen: &Seen) {
    let get = |name: &str| seen.headers.get(name).and_then(|value| value.to_str().ok());
    let hit = ["x-cache", "x-cache-status", "cf-cache-status"]
        .into_iter()
        .filter_map(get)
        .any(|value| value.to_ascii_lowercase().contains("hit"));
    let old = get("age").is_some_and(|age| age != "0");
    let control = get("cache-control")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let guarded = ["no-cache", "no-store", "private"]
        .iter()
        .any(|word| control.contains(word));
    if hit || old {
        to.fault(
            Check::Cached,
            "the stream came from a cache",
            "send `Cache-Control: no-cache, no-transform` or `no-store` (tower-stream-headers does)",
        );
    } else if guarded {
        to.good(Check::Cached, "caches are told not to keep the stream");
    } else {
        to.note(
            Check::Cached,
            "no `Cache-Control: no-cache` tells caches not to keep the stream",
        );
    }
}

/// Compares the stream with the same one for a client that accepts codings.
pub(super) fn encoded(to: &mut Diagnosis, plain: &Seen, codings: &Seen) {
    if !is_encoded(&codings.headers) {
        to.good(Check::Compressed, "nobody compresses the stream");
        return;
    }
    let coding = codings.headers.get(header::CONTENT_ENCODING);
    let coding = coding
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    // Chunks that came together count once.
    let arrivals = |seen: &Seen| {
        let mut times = seen.chunks.clone();
        times.dedup_by_key(|at| at.as_millis() / 50);
        times.len()
    };
    let (live, held) = (arrivals(plain), arrivals(codings));
    if live >= 4 && held * 2 < live {
        to.fault(
            Check::Compressed,
            format!("the stream is compressed ({coding}) and held back: it came in {held} parts, and in {live} without"),
            "send `Cache-Control: no-transform` and let the server compress, with a flush after each event \
             (tower-stream-compress); nginx: `gzip off` for text/event-stream",
        );
    } else {
        to.good(
            Check::Compressed,
            format!("the stream is compressed ({coding}), and still arrives live"),
        );
    }
}

pub(super) fn broken(to: &mut Diagnosis, seen: &Seen) {
    match &seen.end {
        End::Clean if !seen.says_why => to.fault(
            Check::Laundered,
            "a stream that the server breaks ends as if it was complete",
            "end each stream with a last record of its dialect, or with an error record (tower-stream-errors), and let the proxy speak \
             HTTP/1.1 or 2 to the server: nginx: `proxy_http_version 1.1`",
        ),
        End::Open => to.note(Check::Laundered, "unknown: the broken stream did not end in time"),
        End::Clean => to.good(Check::Laundered, "a broken stream ends with an error record"),
        End::Cut(_) => to.good(Check::Laundered, "a broken stream is cut for its reader as well"),
    }
}

pub(super) fn idle(to: &mut Diagnosis, seen: &Seen, idle: Duration, heartbeat: Option<Duration>) {
    match &seen.end {
        End::Cut(why) => idle_cut(to, seen, why),
        End::Clean if seen.ended < idle => idle_cut(to, seen, "it looks complete"),
        End::Clean | End::Open => to.good(
            Check::IdleCut,
            format!("a stream that is silent for {idle:?} stays open"),
        ),
    }
    if let Some(heartbeat) = heartbeat.filter(|heartbeat| *heartbeat * 2 <= seen.ended) {
        match !seen.comments.is_empty() || seen.events.len() > 2 {
            true => to.good(Check::Heartbeats, "heartbeats arrive"),
            false => to.fault(
                Check::Heartbeats,
                format!("no heartbeat arrived in {:.0?}, although the server sends one each {heartbeat:?}", seen.ended),
                "a proxy removes or holds back comments: let the heartbeat be an event of its own \
                 (tower_stream_heartbeat::Heartbeat)",
            ),
        }
    }
}

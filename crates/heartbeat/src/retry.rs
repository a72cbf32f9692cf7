//! Adds `retry:` once per stream.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tower_stream_core::{RecordFormat, boundary::Scanner};

/// Offset of the handler's first event in a chunk that starts between two records.
///
/// An event is a record whose first line is a field of an event. A block with only comments or a `retry:` is not one:
/// if a `retry:` were added to it, some clients would take it for an event without data.
fn first_event(chunk: &[u8]) -> Option<usize> {
    let mut scanner = Scanner::new(RecordFormat::Sse);
    let mut at_start = true;
    for line in scanner.lines(chunk) {
        let name = line.text.split(|byte| *byte == b':').next();
        if at_start && matches!(name, Some(b"data" | b"event" | b"id")) {
            return Some(line.start);
        }
        at_start = line.ends_record;
    }
    None
}

/// Returns the chunk with `retry:` as the first line of its first event. `None` if it has no complete line of one.
pub(crate) fn inserted(chunk: &Bytes, retry: Duration) -> Option<Bytes> {
    let at = first_event(chunk)?;
    let line = format!("retry: {}\n", jittered(retry).as_millis());
    let mut with = BytesMut::with_capacity(chunk.len() + line.len());
    with.put_slice(&chunk[..at]);
    with.put_slice(line.as_bytes());
    with.put_slice(&chunk[at..]);
    Some(with.freeze())
}

/// A random time from `retry` to 1.5 times `retry`, so that the clients of a server that stopped do not all reconnect
/// at once.
fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(1.0 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_line_of_the_first_event() {
        for (chunk, at) in [
            ("data: 1\n\n", Some(0)),
            ("data: half of one", None),
            ("\u{feff}event: x\rdata: 1\r\r", Some(3)),
            (": hello\n\nid: 1\ndata: 1\n\n", Some(9)),
            ("\n\r\ndata: 1\n\n", Some(3)),
            (": hello\ndata: 1\n\n", None),
            ("retry: 1\n\n", None),
            ("database: 1\n\n", None),
        ] {
            assert_eq!(first_event(chunk.as_bytes()), at, "{chunk:?}");
            let Some(with) = inserted(&Bytes::from(chunk), Duration::from_secs(3)) else {
                assert_eq!(at, None);
                continue;
            };
            let with = std::str::from_utf8(&with).unwrap();
            let at = at.unwrap();
            let (line, rest) = with[at..].split_once('\n').unwrap();
            assert_eq!((&with[..at], rest), chunk.split_at(at));
            let millis: u64 = line.strip_prefix("retry: ").unwrap().parse().unwrap();
            assert!((3000..=4500).contains(&millis), "{millis}");
        }
    }
}

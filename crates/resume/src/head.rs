//! The response head of a stream, as it is kept, and as each reader gets it.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use tower_stream_core::{Dialect, RecordFormat, StreamKind};

use crate::{Durability, WhoLeft};

/// The fields that are kept. All others belong to one reader or to one connection.
const KEPT: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    HeaderName::from_static("x-vercel-ai-ui-message-stream"),
];

/// What every reader of a stream must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) kind: StreamKind,
    /// Whether each event has its cursor as `id:`.
    pub(crate) in_band: bool,
    /// The dialect, if it is one that this server may know by its name.
    pub(crate) dialect: String,
    /// The trace context of the request that began the stream. Empty: none.
    pub(crate) traceparent: String,
    pub(crate) durability: Durability,
    pub(crate) who_left: WhoLeft,
    /// What the stream can be restarted from.
    pub(crate) seed: Option<Bytes>,
    pub(crate) headers: HeaderMap,
}

impl Head {
    /// The head of this response. `None` if it is no stream of records that can be resumed.
    pub(crate) fn of(parts: &response::Parts, dialect: Option<Dialect>) -> Option<Self> {
        let kind = StreamKind::of(&parts.headers);
        kind.records()?;
        let whole = parts.status.is_success()
            && ![StatusCode::PARTIAL_CONTENT, StatusCode::NO_CONTENT].contains(&parts.status);
        if !whole {
            return None;
        }
        let dialect = dialect.filter(|dialect| dialect.kind() == kind);
        let mut headers = HeaderMap::new();
        for name in KEPT {
            if let Some(value) = parts.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        Some(Self {
            status: parts.status,
            kind,
            // Some clients of the dialects of vendors do not take an `id:`.
            in_band: kind == StreamKind::Sse && dialect.is_none(),
            dialect: dialect.map_or("", |dialect| dialect.name()).to_owned(),
            traceparent: String::new(),
            durability: Durability::default(),
            who_left: WhoLeft::default(),
            seed: None,
            headers,
        })
    }

    /// The format of the records.
    pub(crate) fn format(&self) -> RecordFormat {
        self.kind.records().unwrap_or(RecordFormat::Lines)
    }

    /// The dialect of a vendor, by the stored name.
    pub(crate) fn dialect(&self) -> Option<Dialect> {
        let mut vendors = Dialect::VENDORS.into_iter();
        vendors.find(|vendor| vendor.name() == self.dialect)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        to.put_u8(FORMAT);
        to.put_u16(self.status.as_u16());
        let is_durable = self.durability == Durability::Stored;
        let flags = [self.in_band, is_durable, self.seed.is_some()];
        let flags = flags.into_iter().rev();
        to.put_u8(flags.fold(0, |flags, flag| flags << 1 | u8::from(flag)));
        let (who_left, time) = match self.who_left {
            WhoLeft::Cancel => (0, Duration::ZERO),
            WhoLeft::Grace(time) => (1, time),
            WhoLeft::Detach(time) => (2, time),
        };
        to.put_u8(who_left);
        to.put_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        if let Some(seed) = &self.seed {
            put(&mut to, seed);
        }
        put(&mut to, self.dialect.as_bytes());
        put(&mut to, self.traceparent.as_bytes());
        for (name, value) in &self.headers {
            put(&mut to, name.as_str().as_bytes());
            put(&mut to, value.as_bytes());
        }
        to.freeze()
    }

    /// `None` if the bytes were written by another version.
    pub(crate) fn decode(mut from: Bytes) -> Option<Self> {
        if from.try_get_u8() != Ok(FORMAT) {
            return None;
        }
        let status = StatusCode::from_u16(from.try_get_u16().ok()?).ok()?;
        let flags = from.try_get_u8().ok()?;
        let who_left = from.try_get_u8().ok()?;
        let time = Duration::from_millis(from.try_get_u64().ok()?);
        let seed = match flags & 4 {
            0 => None,
            _ => Some(get(&mut from)?),
        };
        let mut text = || String::from_utf8(get(&mut from)?.to_vec()).ok();
        let (dialect, traceparent) = (text()?, text()?);
        let mut headers = HeaderMap::new();
        while !from.is_empty() {
            let name = HeaderName::from_bytes(&get(&mut from)?).ok()?;
            let value = HeaderValue::from_maybe_shared(get(&mut from)?).ok()?;
            headers.insert(name, value);
        }
        let kind = StreamKind::of(&headers);
        Some(Self {
            status,
            kind,
            in_band: flags & 1 != 0,
            dialect,
            traceparent,
            durability: match flags & 2 {
                0 => Durability::Live,
                _ => Durability::Stored,
            },
            who_left: match who_left {
                0 => WhoLeft::Cancel,
                1 => WhoLeft::Grace(time),
                _ => WhoLeft::Detach(time),
            },
            seed,
            headers,
        })
    }
}

/// Version of the encoding.
const FORMAT: u8 = 2;

fn put(to: &mut BytesMut, bytes: &[u8]) {
    to.put_u16(bytes.len() as u16);
    to.put_slice(bytes);
}

fn get(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(from.try_get_u16().ok()?);
    (length <= from.len()).then(|| from.split_to(length))
}

/// Adds the fields that name the stream, and those that keep its content from other people.
pub(crate) fn announce(headers: &mut HeaderMap, path: &str, public: &str) {
    let link = format!("<{path}/{public}>; rel=\"resume\"");
    if let (Ok(link), Ok(id)) = (HeaderValue::try_from(link), HeaderValue::try_from(public)) {
        headers.append(header::LINK, link);
        headers.insert(STREAM_ID, id);
    }
    headers.insert(header::CACHE_CONTROL, PRIVATE);
    headers.append(header::VARY, LAST_EVENT_ID_VALUE);
    headers.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.remove(header::CONTENT_LENGTH);
    tower_stream_core::bytes_changed(headers);
}

const STREAM_ID: HeaderName = HeaderName::from_static("stream-id");
const PRIVATE: HeaderValue = HeaderValue::from_static("no-store, private");
const LAST_EVENT_ID_VALUE: HeaderValue = HeaderValue::from_static("Last-Event-ID");
const EXPOSED: HeaderValue = HeaderValue::from_static("Stream-Id, Link");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_without_what_is_private() {
        let response = http::Response::builder()
            .status(201)
            .header("content-type", "text/event-stream; charset=utf-8")
            .header("set-cookie", "a=b")
            .header("connection", "close");
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let mut head = Head::of(&parts, Some(Dialect::OPENAI_CHAT)).unwrap();
        head.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
        head.durability = Durability::Stored;
        head.who_left = WhoLeft::Detach(Duration::from_millis(1_500));
        head.seed = Some(Bytes::from("seed"));
        assert_eq!(head.headers.len(), 1);
        assert!(!head.in_band);
        let read = Head::decode(head.encode()).unwrap();
        assert_eq!(read, head);
        assert_eq!(read.dialect().unwrap().name(), "openai-chat");
        assert!(Head::of(&parts, None).unwrap().in_band);
        let cut = head.encode();
        assert_eq!(Head::decode(cut.slice(..cut.len() - 1)), None);
    }

    #[test]
    fn a_response_without_records_is_no_stream() {
        for (status, content_type) in [
            (200, "text/html"),
            (200, "application/json"),
            (206, "text/event-stream"),
            (204, "text/event-stream"),
            (404, "text/event-stream"),
        ] {
            let response = http::Response::builder().status(status);
            let response = response.header("content-type", content_type);
            let (parts, ()) = response.body(()).unwrap().into_parts();
            assert_eq!(Head::of(&parts, None), None, "{status} {content_type}");
        }
    }
}

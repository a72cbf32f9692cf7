//! The bytes of a heartbeat.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tower_stream_core::KeepAlive;

use crate::fields;

const TEXT: &[u8] = b": heartbeat";
const COMMENT: &[u8] = b": heartbeat\n\n";
const COMMENT_ALONE: &[u8] = b": heartbeat\n";
const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// The bytes of a heartbeat.
///
/// No form suits every client; the table in the [crate] documentation shows how real clients handle each one. A handler
/// can insert a `Heartbeat` into the response extensions, which overrides the layer for that response.
///
/// ```
/// use tower_stream_heartbeat::Heartbeat;
///
/// assert_eq!(Heartbeat::comment().bytes(false), ": heartbeat\n\n");
/// assert_eq!(Heartbeat::comment_unless_ids().bytes(true), ": heartbeat\n");
/// assert_eq!(Heartbeat::comment().padded(32).bytes(false).len(), 32);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    form: Form,
    size: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    None,
    Comment,
    CommentAlone,
    CommentUnlessIds,
    Ping,
    /// Shared, because each stream has a copy.
    Custom(Arc<Bytes>),
}

impl Heartbeat {
    const fn new(form: Form) -> Self {
        Self { form, size: 0 }
    }

    /// A comment and a blank line: `: heartbeat\n\n`. Clients that follow the standard (WHATWG HTML section 9.2.6)
    /// ignore it.
    #[must_use]
    pub const fn comment() -> Self {
        Self::new(Form::Comment)
    }

    /// A comment without a blank line: `: heartbeat\n`. For clients that take every blank line for the end of an event.
    #[must_use]
    pub const fn comment_alone() -> Self {
        Self::new(Form::CommentAlone)
    }

    /// A comment, with a blank line until the stream has sent an `id:` or a `retry:`, and without one from then on. The
    /// default for server-sent events.
    ///
    /// Once a stream has had an id, the OpenAI SDK for Python and `httpx-sse` take each blank line for the end of an
    /// event. Without ids, `@google/genai` and other clients that split at blank lines lose the event after a comment
    /// without one.
    ///
    /// The layer knows whether a layer inside writes ids (`tower_stream_ids::SequenceLayer`). Otherwise it searches the
    /// first 16 chunks, and the next chunk after each heartbeat.
    #[must_use]
    pub const fn comment_unless_ids() -> Self {
        Self::new(Form::CommentUnlessIds)
    }

    /// An event: `event: ping\ndata: {"type":"ping"}\n\n`, as Anthropic's API sends it.
    #[must_use]
    pub const fn ping() -> Self {
        Self::new(Form::Ping)
    }

    /// No heartbeat.
    #[must_use]
    pub const fn none() -> Self {
        Self::new(Form::None)
    }

    /// These bytes. They must be complete lines, and a complete record unless they are comments.
    ///
    /// ```
    /// # use tower_stream_heartbeat::Heartbeat;
    /// let blank_line_of_json_lines = Heartbeat::custom("\n");
    /// # assert_eq!(blank_line_of_json_lines.bytes(false), "\n");
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if the bytes do not end with a line end, or contain an `id:` or `retry:` line. With an `id:`, a client
    /// would resume after an event that it has not received; with a `retry:`, it would wait for another time than the
    /// server wants.
    #[must_use]
    pub fn custom(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        assert!(
            bytes.ends_with(b"\n"),
            "a heartbeat has to end with a line end: {bytes:?}"
        );
        assert!(
            !fields::has_id_or_retry(&bytes),
            "a heartbeat must not have an `id:` or a `retry:`: {bytes:?}"
        );
        Self::new(Form::Custom(Arc::new(bytes)))
    }

    /// Pads the heartbeat to `size` bytes, for a proxy or a client that passes data on in blocks: a comment gets
    /// longer, and any other form gets a comment before it.
    #[must_use]
    pub const fn padded(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Returns whether nothing is written.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.form == Form::None
    }

    /// Returns whether the form depends on whether the stream has had ids.
    pub(crate) fn asks_for_ids(&self) -> bool {
        self.form == Form::CommentUnlessIds
    }

    /// The bytes to write. `after_ids`: the stream has sent an `id:` or a `retry:`.
    #[must_use]
    pub fn bytes(&self, after_ids: bool) -> Bytes {
        let plain = match &self.form {
            Form::None => return Bytes::new(),
            Form::CommentUnlessIds if !after_ids => Bytes::from_static(COMMENT),
            Form::Comment => Bytes::from_static(COMMENT),
            Form::CommentUnlessIds | Form::CommentAlone => Bytes::from_static(COMMENT_ALONE),
            Form::Ping => Bytes::from_static(PING),
            Form::Custom(bytes) => Bytes::clone(bytes),
        };
        match self.size.saturating_sub(plain.len()) {
            0 => plain,
            missing => pad(&plain, missing),
        }
    }
}

/// Lengthens a comment, or puts a comment (of at least two bytes) before any other form.
#[cold]
fn pad(plain: &Bytes, missing: usize) -> Bytes {
    let mut padded = BytesMut::with_capacity(plain.len() + missing);
    let rest = match plain.strip_prefix(TEXT) {
        Some(rest) => {
            padded.put_slice(TEXT);
            padded.put_bytes(b' ', missing);
            rest
        }
        None if missing == 1 => plain,
        None => {
            padded.put_u8(b':');
            padded.put_bytes(b' ', missing - 2);
            padded.put_u8(b'\n');
            plain
        }
    };
    padded.put_slice(rest);
    padded.freeze()
}

impl From<KeepAlive> for Heartbeat {
    fn from(keep_alive: KeepAlive) -> Self {
        match keep_alive {
            KeepAlive::Comment => Self::comment(),
            KeepAlive::CommentAlone => Self::comment_alone(),
            KeepAlive::CommentUnlessIds => Self::comment_unless_ids(),
            KeepAlive::Ping => Self::ping(),
            _ => Self::none(),
        }
    }
}

//! What is written.

use bytes::{BufMut, Bytes, BytesMut};
use tower_stream_core::KeepAlive;

use crate::fields;

const TEXT: &str = ": heartbeat";

/// The bytes of a heartbeat.
///
/// No bytes suit every client; the table in the documentation of the [crate] has what real clients make of each form. A handler
/// may put one into the response extensions, which overrules the layer for that response.
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
    Custom(Bytes),
}

impl Heartbeat {
    const fn new(form: Form) -> Self {
        Self { form, size: 0 }
    }

    /// A comment and a blank line: `: heartbeat\n\n`. Whoever follows the standard (WHATWG HTML section 9.2.6) ignores it.
    #[must_use]
    pub const fn comment() -> Self {
        Self::new(Form::Comment)
    }

    /// A comment without a blank line: `: heartbeat\n`. For clients that take every blank line for the end of an event.
    #[must_use]
    pub const fn comment_alone() -> Self {
        Self::new(Form::CommentAlone)
    }

    /// A comment, which has a blank line until the stream has sent an `id:` or a `retry:`, and none from then on. The default
    /// for server-sent events.
    ///
    /// Once a stream has had an id, the OpenAI SDK for Python and `httpx-sse` take each blank line for the end of an event.
    /// Without ids, `@google/genai` and others that split at blank lines lose the event behind a comment that has none.
    ///
    /// The layer knows of the ids that a layer inside writes (`tower_stream_ids::SequenceLayer`); otherwise it searches the
    /// first 16 chunks, and the next one after each heartbeat.
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

    /// These bytes, which have to be whole lines, and a whole record unless they are comments.
    ///
    /// ```
    /// # use tower_stream_heartbeat::Heartbeat;
    /// let blank_line_of_json_lines = Heartbeat::custom("\n");
    /// # assert_eq!(blank_line_of_json_lines.bytes(false), "\n");
    /// ```
    ///
    /// # Panics
    ///
    /// When they do not end with a line end, or a line of them is an `id:` or a `retry:`: a client would resume behind an event
    /// that it has not seen, or wait for another time than the server said.
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
        Self::new(Form::Custom(bytes))
    }

    /// Fills it up to `size` bytes, for a proxy or a client that lets bytes through in blocks: a comment gets longer, anything
    /// else a comment before it.
    #[must_use]
    pub const fn padded(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.form == Form::None
    }

    /// Whether it matters for what is written if the stream has had ids.
    pub(crate) fn asks_for_ids(&self) -> bool {
        self.form == Form::CommentUnlessIds
    }

    /// What is written. `after_ids`: the stream has sent an `id:` or a `retry:`.
    #[must_use]
    pub fn bytes(&self, after_ids: bool) -> Bytes {
        let (comment, rest) = match &self.form {
            Form::None => return Bytes::new(),
            Form::Comment => (TEXT, "\n\n".as_bytes()),
            Form::CommentUnlessIds if !after_ids => (TEXT, "\n\n".as_bytes()),
            Form::CommentUnlessIds | Form::CommentAlone => (TEXT, "\n".as_bytes()),
            Form::Ping => ("", "event: ping\ndata: {\"type\":\"ping\"}\n\n".as_bytes()),
            Form::Custom(bytes) => ("", bytes.as_ref()),
        };
        let size = comment.len() + rest.len();
        if let (Form::Custom(bytes), true) = (&self.form, size >= self.size) {
            return bytes.clone();
        }
        let mut padded = BytesMut::with_capacity(size.max(self.size));
        padded.put_slice(comment.as_bytes());
        let missing = self.size.saturating_sub(size);
        match (missing, comment) {
            (0, _) => {}
            // the shortest comment line of its own
            (1, "") => {}
            (_, "") => {
                padded.put_u8(b':');
                padded.put_bytes(b' ', missing - 2);
                padded.put_u8(b'\n');
            }
            _ => padded.put_bytes(b' ', missing),
        }
        padded.put_slice(rest);
        padded.freeze()
    }
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

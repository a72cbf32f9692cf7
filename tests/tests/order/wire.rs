//! Checks what the client received: the bytes, the headers and the trailers, and that no failed response looks
//! complete.

use std::io::Read;

use e2e::{End, Protocol, Response};
use md5::{Digest as _, Md5};

use crate::{
    endings::{Ending, Kind},
    layers::{Piece, Stack},
};

/// One exchange, as its client saw it.
pub(crate) struct Exchange<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) protocol: Protocol,
    pub(crate) kind: Kind,
    pub(crate) ending: Ending,
    /// The drain has ended it: only of [`Ending::Hang`].
    pub(crate) drained: bool,
}

impl Exchange<'_> {
    pub(crate) fn check(&self, seen: &Result<Response, End>) {
        match seen {
            Ok(response) if self.ending.is_fine() => self.check_fine(response),
            Ok(response) if self.is_fine() => self.check_whole(response),
            Ok(_) if self.is_hidden() => {}
            Ok(response) => self.check_failed(response),
            Err(end) => {
                assert!(!self.is_fine(), "no head: {end}");
                assert!(!end.is_whole(), "whole without a head: {end}");
                let answers = matches!(self.ending, Ending::ErrorFirst | Ending::PanicHandler);
                assert!(
                    !(answers && self.stack.has(Piece::Errors)),
                    "the error writer answers"
                );
            }
        }
        if let Ok(response) = seen {
            self.check_head(response);
        }
    }

    /// Whether the response must look complete to its client.
    fn is_fine(&self) -> bool {
        self.ending.is_fine()
            || self.ending == Ending::BrokenPromise && !self.stack.verifies(self.kind)
    }

    /// Whether the client cannot know that a body was too short. tower-http's compression removes the length from the
    /// head, and ends the encoded body cleanly even if its input was too short, unless one of our layers inside of it
    /// turns that into an error. Our spans, metrics and log report the failure in any case.
    fn is_hidden(&self) -> bool {
        let writer = self.stack.is_inside(Piece::Errors, Piece::Gzip);
        let stamped = self.kind == Kind::Sse && self.stack.is_inside(Piece::Sequence, Piece::Gzip);
        self.ending == Ending::Short && self.stack.has(Piece::Gzip) && !writer && !stamped
    }

    fn check_fine(&self, response: &Response) {
        if self.ending.is_head() {
            assert_eq!(response.status(), 200);
            assert!(response.end.is_whole(), "{}", response.end);
            assert_eq!(response.body(), "", "an answer to HEAD");
            return;
        }
        self.check_whole(response);
        let trailer = (self.ending == Ending::Trailers).then_some("7");
        assert_eq!(response.trailer("x-sum"), trailer, "the handler's trailer");
    }

    fn check_whole(&self, response: &Response) {
        assert_eq!(response.status(), 200);
        assert!(response.end.is_whole(), "{}", response.end);
        let (text, finished) = unzipped(response);
        assert!(finished, "the compressed stream has its end");
        let sent = match self.ending {
            Ending::Empty => String::new(),
            _ => self.kind.frames().concat(),
        };
        assert_eq!(self.plain(&text), sent);
        if self.stack.stamps(self.kind) {
            let events = text.matches("data: ").count();
            let ids: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("id: "))
                .collect();
            let expected: Vec<_> = (1..=events).map(|n| format!("id: {n}")).collect();
            assert_eq!(ids, expected, "in {text:?}");
        }
        if let Some(length) = response.header("content-length") {
            assert_eq!(length, response.body().len().to_string());
            assert_ne!(response.end, End::LastChunk, "chunked with a length");
        }
        self.check_digest(response);
    }

    /// A digest of what is sent is true wherever nothing outside of its layer changes bytes.
    fn check_digest(&self, response: &Response) {
        let stack = self.stack;
        let changed = stack.is_inside(Piece::Digest, Piece::Gzip)
            || stack.is_inside(Piece::Digest, Piece::Sequence)
            || stack.is_inside(Piece::Digest, Piece::Heartbeat);
        if !stack.has(Piece::Digest) || changed {
            return;
        }
        let name = "x-content-md5";
        let told = response.header(name).or_else(|| response.trailer(name));
        let Some(told) = told else {
            // Over HTTP/1.1, only a client that asks for trailers receives them.
            let asked = self.protocol == Protocol::Http2 || self.ending == Ending::Trailers;
            let short = matches!(self.ending, Ending::Empty);
            assert!(!asked && !short, "no digest in {response:?}");
            return;
        };
        if self.ending != Ending::BrokenPromise {
            assert_eq!(told, hex::encode(Md5::digest(response.body())));
        }
    }

    /// Asserts that the response never looks complete: it is cut, replaced by an error response, or ends with an error
    /// record.
    fn check_failed(&self, response: &Response) {
        let (text, finished) = unzipped(response);
        if response.status() >= 500 {
            assert!(
                response.end.is_whole(),
                "an answer in place: {}",
                response.end
            );
            assert!(text.contains("\"status\":"), "a problem document: {text:?}");
            return;
        }
        assert_eq!(response.status(), 200);
        assert!(
            !matches!(self.ending, Ending::ErrorFirst | Ending::PanicHandler),
            "a head of a handler that gave nothing"
        );
        let text = self.plain(&text);
        let sent = match self.ending {
            Ending::BrokenPromise => self.kind.frames().concat(),
            _ => self.kind.beginning().to_owned(),
        };
        let (begun, last) = match text.find("event: error\n").or(text.find("event: drain\n")) {
            Some(at) => text.split_at(at),
            None => (text.as_str(), ""),
        };
        assert!(sent.starts_with(begun), "{text:?}");
        let whole = response.end.is_whole() && finished;
        assert_eq!(whole, !last.is_empty(), "{} after {text:?}", response.end);
        if whole {
            let writes = self.stack.has(Piece::Errors) || self.stack.has(Piece::Farewell);
            assert!(writes && self.kind == Kind::Sse, "who wrote {last:?}?");
            assert_eq!(begun, sent, "whole records before the last one");
            check_record(last);
        }
        if self.has_last_record() {
            assert!(whole, "{} after {text:?}", response.end);
        }
    }

    fn has_last_record(&self) -> bool {
        if !self.drained {
            return self.ending.has_last_record(self.kind, self.stack);
        }
        let compressed = self.stack.is_inside(Piece::Gzip, Piece::Farewell);
        self.kind == Kind::Sse && !compressed
    }

    /// Without the lines that stamps add.
    fn plain(&self, text: &str) -> String {
        match self.kind {
            Kind::Text => text.to_owned(),
            Kind::Sse => {
                let lines = text.split_inclusive('\n');
                lines.filter(|line| !line.starts_with("id: ")).collect()
            }
        }
    }

    fn check_head(&self, response: &Response) {
        let stack = self.stack;
        // The error writer and the digest check replace a head from further inside by one of their own.
        let replaced = |piece| {
            let inside = |outer| stack.is_inside(piece, outer);
            response.status() >= 500 && (inside(Piece::Errors) || inside(Piece::Verify))
        };
        let kept = |piece| stack.has(piece) && !replaced(piece);
        if kept(Piece::RequestId) {
            let ids = response.head.headers.all("x-request-id").count();
            assert_eq!(ids, 1, "one request id");
        }
        // An error response in place of the stream is not a stream, so only a 200 is checked.
        if stack.has(Piece::Headers) && self.kind == Kind::Sse && response.status() == 200 {
            assert_eq!(response.header("x-accel-buffering"), Some("no"));
            let cache_control = response.header("cache-control");
            assert_eq!(cache_control, Some("no-cache, no-transform"));
        }
        if kept(Piece::Cors) {
            assert!(response.header("access-control-allow-origin").is_some());
        }
        if kept(Piece::SetHeader) {
            assert_eq!(response.header("x-foreign"), Some("1"));
        }
        // Our compression layer leaves responses to HEAD unchanged, and documents as short as these.
        let declared = matches!(self.ending, Ending::Length | Ending::Sized);
        let short = stack.our_gzip && (declared || self.ending.is_head());
        if stack.has(Piece::Gzip) && self.is_fine() && self.ending != Ending::Empty && !short {
            assert_eq!(response.header("content-encoding"), Some("gzip"));
        }
    }
}

/// The text, and whether a compressed one came to its end.
pub(crate) fn unzipped(response: &Response) -> (String, bool) {
    let body = response.body();
    if response.header("content-encoding") != Some("gzip") || body.is_empty() {
        let text = String::from_utf8(body.to_vec());
        return (text.expect("scripted bodies are ASCII"), true);
    }
    let mut bytes = Vec::new();
    let finished = flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut bytes);
    let text = String::from_utf8(bytes);
    (text.expect("scripted bodies are ASCII"), finished.is_ok())
}

/// One event, which a client dispatches, whose data is JSON.
fn check_record(record: &str) {
    assert!(record.ends_with("\n\n"), "{record:?}");
    assert_eq!(record.matches("\n\n").count(), 1, "{record:?}");
    let data = record.lines().find_map(|line| line.strip_prefix("data: "));
    let data: serde_json::Value = serde_json::from_str(data.expect("a data line")).expect("JSON");
    assert!(data.is_object());
}

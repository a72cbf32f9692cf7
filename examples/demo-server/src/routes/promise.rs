//! `GET /promise`: a body whose digest the handler declares before it sends a byte.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use axum::{
    body::Body,
    extract::RawQuery,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use http_body::Body as _;
use tower_stream_digest::{Digest, DigestValue, Md5};

use super::bytes::Generated;
use crate::{problem::Problem, query::Query};

/// Largest body: hashing it before the head takes about a second.
const MAX_SIZE: u64 = 1 << 30;

const CHUNK: usize = 16 * 1024;

/// Number of corrupt bytes at the end with `corrupt=1`.
const CORRUPT: u64 = 10;

#[derive(Clone, Copy)]
enum Field {
    XContentMd5,
    ContentMd5,
    ContentDigest,
}

const AS: [(&str, Field); 3] = [
    ("md5hex", Field::XContentMd5),
    ("md5b64", Field::ContentMd5),
    ("content-digest", Field::ContentDigest),
];

/// `size` bytes as from `/bytes`, with their digest declared in the header that `as` selects. With `corrupt=1` the
/// digest is wrong.
///
/// The layer that checks declared digests must not let a corrupt body look complete.
pub(crate) async fn promise(RawQuery(raw): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let size = query.number("size", 1024 * 1024, 0..=MAX_SIZE)?;
    let length = query.flag("length", true)?;
    let corrupt = query.flag("corrupt", false)?;
    let promised_as = query.choice("as", Some(Field::XContentMd5), &AS)?;
    query.finish()?;
    if corrupt && size == 0 {
        return Err(Problem::parameter(
            "corrupt",
            "an empty body has no bytes to break",
        ));
    }

    let whole = Generated::new(size, CHUNK, length);
    let digest = tokio::task::spawn_blocking(move || md5_of(whole))
        .await
        .expect("hashing does not panic");
    let mut body = Generated::new(size, CHUNK, length);
    if corrupt {
        body = body.corrupt_last(CORRUPT);
    }

    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    if length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    }
    let (name, value) = field(promised_as, &digest);
    headers.insert(name, value);
    Ok(response)
}

fn field(promised_as: Field, digest: &DigestValue) -> (HeaderName, HeaderValue) {
    let (name, value) = match promised_as {
        Field::XContentMd5 => ("x-content-md5", digest.hex()),
        Field::ContentMd5 => ("content-md5", digest.base64()),
        Field::ContentDigest => ("content-digest", digest.content_digest()),
    };
    let value = HeaderValue::try_from(value).expect("digests are visible ASCII");
    (HeaderName::from_static(name), value)
}

/// The generator is always ready.
fn md5_of(mut body: Generated) -> DigestValue {
    let mut md5 = Md5::new();
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
        if let Some(data) = frame.data_ref() {
            md5.update(data);
        }
    }
    DigestValue::finish(md5)
}

#[cfg(test)]
mod tests {
    use crate::testing::get;

    /// Computed with `python3 -c "import hashlib; print(hashlib.md5(bytes(i % 251 for i in
    /// range(1000))).hexdigest())"`.
    const MD5_OF_1000: &str = "a24f1e3ef66950e1327f210e3997ba2c";

    #[tokio::test]
    async fn a_promise_is_kept() {
        for (promised_as, name, value) in [
            ("", "x-content-md5", MD5_OF_1000),
            ("&as=md5hex", "x-content-md5", MD5_OF_1000),
            ("&as=md5b64", "content-md5", "ok8ePvZpUOEyfyEOOZe6LA=="),
            (
                "&as=content-digest",
                "content-digest",
                "md5=:ok8ePvZpUOEyfyEOOZe6LA==:",
            ),
        ] {
            for length in [0, 1] {
                let answer = get(&format!("/promise?size=1000&length={length}{promised_as}")).await;
                assert_eq!((answer.status, answer.header(name)), (200, value));
                assert_eq!(answer.frames.concat().len(), 1000);
            }
        }
    }

    #[tokio::test]
    async fn a_short_body_that_breaks_its_promise_is_a_502() {
        for size in [1, 9, 10, 11, 1000, 65536] {
            let answer = get(&format!("/promise?size={size}&corrupt=1")).await;
            assert_eq!(answer.status, 502, "{size}");
            assert_eq!(answer.json()["title"], "BadDigest");
        }
    }

    #[tokio::test]
    async fn a_bad_parameter_is_named() {
        for (query, name) in [
            ("size=0&corrupt=1", "corrupt"),
            ("as=sha1", "as"),
            ("size=1073741825", "size"),
        ] {
            get(&format!("/promise?{query}")).await.assert_names(name);
        }
    }
}

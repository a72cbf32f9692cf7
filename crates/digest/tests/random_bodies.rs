//! Random bodies through both layers, read as a server reads them. A digest that arrives matches the bytes that arrive.
//! A body that does not match its declared digest never looks complete, and a correct one always does.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body::Body;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_stream_core::mock::{self, MockBody};
use tower_stream_digest::{DigestLayer, DigestValue, Md5, VerifyDigestLayer};

/// xorshift64: the same cases in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn bool(&mut self) -> bool {
        self.below(2) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Promised {
    Nothing,
    Right,
    Wrong,
}

impl Promised {
    fn random(random: &mut Random) -> Self {
        [Self::Nothing, Self::Right, Self::Wrong][random.below(3) as usize]
    }

    fn value(self, of: &[u8]) -> Option<DigestValue> {
        match self {
            Self::Nothing => None,
            Self::Right => Some(DigestValue::of::<Md5>(of)),
            Self::Wrong => Some(DigestValue::of::<Md5>("other bytes")),
        }
    }
}

#[derive(Debug)]
struct Case {
    /// The length of each frame; `None` is a `Pending`.
    frames: Vec<Option<usize>>,
    in_head: Promised,
    in_trailers: Promised,
    other_trailer: bool,
    fails: bool,
    /// Difference between the declared and the actual length.
    declared: Option<i64>,
    tells_end: bool,
    true_size: bool,
    version: Version,
    te: bool,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let frames = (0..random.below(7)).map(|_| match random.below(9) {
            0 => None,
            1 => Some(0),
            2 => Some(70_000),
            3 => Some(64 * 1024),
            4 if random.below(8) == 0 => Some(300_000),
            _ => Some(1 + random.below(200) as usize),
        });
        let mut case = Self {
            frames: frames.collect(),
            in_head: Promised::random(random),
            in_trailers: Promised::random(random),
            other_trailer: random.below(4) == 0,
            fails: random.below(12) == 0,
            declared: [Some(0), Some(1), Some(-1), None, None][random.below(5) as usize],
            tells_end: random.bool(),
            true_size: random.bool(),
            version: [Version::HTTP_11, Version::HTTP_2][random.below(2) as usize],
            te: random.bool(),
        };
        // An upper size hint that disagrees with the declared length would be a fault of the handler; no body here has
        // one.
        case.true_size &= !case.fails && matches!(case.declared, None | Some(0));
        case
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.frames.iter().flatten().sum();
        (0..len).map(|i: usize| ((i * 31) >> 2) as u8).collect()
    }

    fn response(&self, bytes: &[u8]) -> Response<MockBody> {
        let mut response = Response::builder();
        let mut rest = Bytes::copy_from_slice(bytes);
        let mut steps: Vec<_> = (self.frames.iter())
            .map(|frame| match frame {
                None => mock::pending(),
                Some(len) => mock::data(rest.split_to(*len)),
            })
            .collect();
        if let Some(digest) = self.in_head.value(bytes) {
            response = response.header("x-content-md5", digest.hex());
        }
        if let Some(digest) = self.in_trailers.value(bytes) {
            response = response.header("trailer", "content-md5");
            steps.push(mock::trailer("content-md5", &digest.base64()));
        } else if self.other_trailer {
            response = response.header("trailer", "x-other");
            steps.push(mock::trailer("x-other", "1"));
        }
        if self.fails {
            steps.push(mock::error("boom"));
        }
        if let Some(declared) = self.declared_length(bytes) {
            response = response.header("content-length", declared);
        }
        let mut body = MockBody::new(steps);
        if self.tells_end {
            body = body.tells_end();
        }
        if self.true_size {
            body = body.with_true_size();
        }
        response.body(body).unwrap()
    }

    fn declared_length(&self, bytes: &[u8]) -> Option<u64> {
        (bytes.len() as u64).checked_add_signed(self.declared?)
    }

    fn pass(&self, bytes: &[u8]) -> Got {
        let mut response = Some(self.response(bytes));
        let handler = service_fn(move |_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))
        });
        let service = ServiceBuilder::new()
            .layer(DigestLayer::md5().segments(100))
            .layer(VerifyDigestLayer::md5())
            .service(handler);
        let mut request = Request::builder().version(self.version);
        if self.te {
            request = request.header("te", "trailers");
        }
        let mut context = Context::from_waker(Waker::noop());
        let answered = pin!(service.oneshot(request.body(()).unwrap())).poll(&mut context);
        let Poll::Ready(Ok(response)) = answered else {
            panic!("no head: {self:?}")
        };
        Got::read(response, self.version == Version::HTTP_2)
    }
}

/// What arrives at the client.
struct Got {
    status: u16,
    head: HeaderMap,
    bytes: Vec<u8>,
    trailers: HeaderMap,
    /// Whether the body looks complete.
    whole: bool,
}

impl Got {
    /// Reads as hyper does: over h1 up to the declared length, otherwise to the end, which `is_end_stream` may report.
    fn read(response: Response<impl Body<Data = Bytes>>, h2: bool) -> Self {
        let (parts, body) = response.into_parts();
        let mut body = pin!(body);
        let declared = parts.headers.get("content-length");
        let declared = declared.map(|length| length.to_str().unwrap().parse().unwrap());
        let declared: Option<usize> =
            declared.or_else(|| body.size_hint().exact().map(|exact| exact as usize));
        let mut got = Self {
            status: parts.status.as_u16(),
            head: parts.headers,
            bytes: Vec::new(),
            trailers: HeaderMap::new(),
            whole: true,
        };
        let mut context = Context::from_waker(Waker::noop());
        while !body.is_end_stream() && (h2 || declared.is_none_or(|all| got.bytes.len() < all)) {
            match body.as_mut().poll_frame(&mut context) {
                Poll::Pending => {}
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(_))) => {
                    got.whole = false;
                    return got;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => got.bytes.extend_from_slice(&data),
                    Err(frame) => {
                        got.trailers = frame.into_trailers().unwrap_or_default();
                        break;
                    }
                },
            }
        }
        if let Some(declared) = declared {
            if !h2 {
                got.bytes.truncate(declared);
            }
            got.whole = got.bytes.len() == declared;
        }
        got
    }
}

#[test]
fn what_arrives_is_what_its_digest_says() {
    let mut random = Random(0x1234_5678);
    let (mut whole, mut refused, mut cut, mut digests) = (0, 0, 0, 0);
    for _ in 0..6000 {
        let case = Case::random(&mut random);
        let bytes = case.bytes();
        let got = case.pass(&bytes);
        let wrong_length = case.declared.is_some() && case.declared != Some(0) && {
            case.declared_length(&bytes) != Some(bytes.len() as u64)
        };
        let wrong = case.in_head == Promised::Wrong || case.in_trailers == Promised::Wrong;
        if got.status == 502 {
            assert!(wrong || wrong_length, "refused without a reason: {case:?}");
            refused += 1;
            continue;
        }
        if !got.whole {
            assert!(
                wrong || wrong_length || case.fails,
                "cut without a reason: {case:?}"
            );
            cut += 1;
            continue;
        }
        whole += 1;
        // Over h1, a body with a length has no trailers.
        let reads_trailers =
            case.version == Version::HTTP_2 || !(case.true_size || case.declared.is_some());
        assert_ne!(case.in_head, Promised::Wrong, "{case:?}");
        let unseen = case.in_trailers == Promised::Wrong && reads_trailers;
        assert!(!unseen, "a wrong promise looked whole: {case:?}");
        let digest = DigestValue::of::<Md5>(&got.bytes);
        for (name, value) in got.head.iter().chain(&got.trailers) {
            let expected = match name.as_str() {
                "x-content-md5" => digest.hex(),
                "content-md5" => digest.base64(),
                "content-digest" => digest.content_digest(),
                _ => continue,
            };
            assert_eq!(value, &expected, "{name}: {case:?}");
            digests += 1;
        }
        if !wrong_length {
            assert_eq!(got.bytes, bytes, "{case:?}");
        }
    }
    // The random cases must cover all kinds of outcome.
    assert!(whole > 1000 && refused > 1000 && cut > 1000 && digests > 1000);
}

//! Every ending through one stack, and what everybody told of it.

use std::{collections::BTreeMap, convert::Infallible, fmt::Debug, time::Duration};

use axum::body::Body;
use e2e::{PATIENCE, Protocol, Request, h1, h2};
use http::Response;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_stream::metrics::names;

use crate::{
    endings::{Ending, Kind},
    layers::{Piece, Served, Stack, Telemetry},
    wire::Exchange,
};

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Http11, Protocol::Http2];

/// Says where a failed assertion was; the output of a test that passes is not shown.
pub(crate) struct Place(String);

impl Place {
    pub(crate) fn new(stack: &Stack, protocol: Protocol, what: impl Debug) -> Self {
        Self(format!("{what:?} over {protocol:?} through {stack:?}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let place = &self.0;
            // This is output of the test, which libtest captures.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("it was {place}");
            }
        }
    }
}

/// Sends each ending of each kind over `protocol`, then a drain, and checks all that is told.
pub(crate) async fn every_ending(stack: Stack, protocol: Protocol, telemetry: &Telemetry) {
    let served = Served::start(stack, telemetry).await;
    let mut tally = Tally::new(&served, protocol, telemetry);
    for kind in Kind::ALL {
        for ending in Ending::ALL {
            let _place = Place::new(&served.stack, protocol, (ending, kind));
            let told = ending.told(kind, &served.stack);
            if ending == Ending::Hang {
                let request = request(ending, kind, &served.stack);
                leave(&served, protocol, &request).await;
                tally.told(told, &[ending.path(kind)]).await;
            } else {
                tally.exchange(ending, kind, told).await;
            }
        }
    }
    let _place = Place::new(&served.stack, protocol, "the sums");
    tally.check_sums();
    if served.stack.has(Piece::Farewell) {
        let _place = Place::new(&served.stack, protocol, "a drain");
        farewell(&served, protocol, &mut tally).await;
        tally.check_sums();
    }
}

fn request(ending: Ending, kind: Kind, stack: &Stack) -> Request {
    let method = if ending.is_head() { "HEAD" } else { "GET" };
    let mut request = Request::new(method, &ending.path(kind)).header("origin", "http://a.test");
    if ending == Ending::Trailers {
        request = request.header("te", "trailers");
    }
    if stack.has(Piece::Gzip) {
        request = request.header("accept-encoding", "gzip");
    }
    request
}

/// Reads the first chunk, then leaves.
async fn leave(served: &Served, protocol: Protocol, request: &Request) {
    let addr = served.server.addr();
    if protocol == Protocol::Http2 {
        let mut client = h2::Connection::open(addr).await.expect("it listens");
        let stream = client.send(request).await.expect("a request is taken");
        let mut reply = stream.reply().await.expect("a head");
        assert!(reply.chunk().await.is_some());
        reply.reset(h2::Reason::CANCEL);
        // Wait until the RST_STREAM has been sent, before the connection is dropped.
        are_over(served, 1).await;
    } else {
        let mut client = h1::Connection::open(addr).await.expect("it listens");
        client.send(request).await.expect("a request is taken");
        let mut reply = client.reply().await.expect("a head");
        assert!(reply.chunk().await.is_some());
        client.reset().expect("a socket option");
    }
}

/// A stream of each kind is open when the drain comes to its deadline.
async fn farewell(served: &Served, protocol: Protocol, tally: &mut Tally<'_>) {
    let (addr, drain) = (served.server.addr(), &served.drain);
    // A drain that counts nothing is dead before its deadline, and then has no stream to end. Without `Piece::Drain`,
    // one more request holds it.
    let uncounted = !served.stack.has(Piece::Drain);
    let counted = service_fn(|_: http::Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let held = uncounted.then(|| {
        drain
            .layer()
            .layer(counted)
            .oneshot(http::Request::new(Body::empty()))
    });
    let held = match held {
        Some(held) => Some(held.await.expect("infallible")),
        None => None,
    };
    let opened = Semaphore::new(0);
    let exchange = async |kind: Kind| {
        let request = request(Ending::Hang, kind, &served.stack);
        if protocol == Protocol::Http2 {
            let mut client = h2::Connection::open(addr).await.expect("it listens");
            let stream = client.send(&request).await.expect("a request is taken");
            let mut reply = stream.reply().await.expect("a head");
            assert!(reply.chunk().await.is_some());
            opened.add_permits(1);
            reply.finish().await
        } else {
            let mut client = h1::Connection::open(addr).await.expect("it listens");
            client.send(&request).await.expect("a request is taken");
            let mut reply = client.reply().await.expect("a head");
            assert!(reply.chunk().await.is_some());
            opened.add_permits(1);
            reply.finish().await
        }
    };
    let start = async {
        let _both = opened.acquire_many(2).await.expect("never closed");
        drain.start_within(Duration::ZERO);
    };
    let [text, sse] = Kind::ALL;
    let (text, sse, ()) = tokio::join!(exchange(text), exchange(sse), start);
    drop(held);
    for (kind, seen) in Kind::ALL.into_iter().zip([text, sse]) {
        let exchange = Exchange {
            stack: &served.stack,
            protocol,
            kind,
            ending: Ending::Hang,
            drained: true,
        };
        exchange.check(&Ok(seen));
    }
    let routes = Kind::ALL.map(|kind| Ending::Hang.path(kind));
    tally.told("aborted drain", &routes).await;
}

/// Waits until this many requests are over, and none holds the drain or a permit.
pub(crate) async fn are_over(served: &Served, requests: usize) {
    let idle = async {
        while served.outside.len() < requests
            || served.drain.in_flight() > 0
            || served.limit.stats().in_use > 0
        {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let idle = timeout(PATIENCE, idle).await;
    assert!(
        idle.is_ok(),
        "not over: {:?} told, {} in flight, {} permits",
        served.outside.take(),
        served.drain.in_flight(),
        served.limit.stats().in_use
    );
}

/// Checks that all layers report the same end, once for each request.
pub(crate) struct Tally<'a> {
    served: &'a Served,
    protocol: Protocol,
    telemetry: &'a Telemetry,
    before: BTreeMap<String, i64>,
    expected: BTreeMap<String, i64>,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(served: &'a Served, protocol: Protocol, telemetry: &'a Telemetry) -> Self {
        telemetry.spans();
        telemetry.log();
        Self {
            served,
            protocol,
            telemetry,
            before: telemetry.sums(names::STREAM_COUNT),
            expected: BTreeMap::new(),
        }
    }

    /// Sends one request, reads its response to the end, and checks that all layers report this end.
    pub(crate) async fn exchange(&mut self, ending: Ending, kind: Kind, told: &str) {
        let (served, protocol) = (self.served, self.protocol);
        let _place = Place::new(&served.stack, protocol, (ending, kind));
        let request = request(ending, kind, &served.stack);
        let seen = protocol.send(served.server.addr(), &request).await;
        let exchange = Exchange {
            stack: &served.stack,
            protocol,
            kind,
            ending,
            drained: false,
        };
        exchange.check(&seen);
        self.told(told, &[ending.path(kind)]).await;
    }

    /// A request of each route is over, and ended like this.
    pub(crate) async fn told(&mut self, end: &str, routes: &[String]) {
        let served = self.served;
        are_over(served, routes.len()).await;
        let told_by = |there: bool| match there {
            true => vec![end.to_owned(); routes.len()],
            false => Vec::new(),
        };
        let stack = &served.stack;
        let outside = served.outside.take();
        assert_eq!(outside, told_by(true), "told by the probe outside");
        let inside = served.inside.take();
        let probed = told_by(stack.probed_inside);
        assert_eq!(inside, probed, "told by the probe inside");
        let spanned = told_by(stack.has(Piece::RequestSpan));
        assert_eq!(self.telemetry.spans(), spanned, "told by the request span");
        self.telemetry.log().check(stack, end, routes.len());
        // The digest layer does not hash every body.
        let hashed = served.hashed.take();
        let agrees = hashed.iter().all(|told| told == end);
        assert!(
            hashed.len() <= routes.len() && agrees,
            "told by the digest: {hashed:?}"
        );
        if stack.has(Piece::Metrics) {
            for route in routes {
                *self.expected.entry(format!("{route} {end}")).or_default() += 1;
            }
        }
    }

    /// The metrics of all requests so far.
    pub(crate) fn check_sums(&mut self) {
        let now = self.telemetry.sums(names::STREAM_COUNT);
        let mut counted = now.clone();
        for (route, count) in &self.before {
            *counted.entry(route.clone()).or_default() -= count;
        }
        counted.retain(|_, count| *count != 0);
        assert_eq!(counted, self.expected, "told by the metrics");
        let active = self.telemetry.sums(names::STREAM_ACTIVE);
        assert!(
            active.values().all(|count| *count == 0),
            "active: {active:?}"
        );
        self.before = now;
        self.expected.clear();
    }
}

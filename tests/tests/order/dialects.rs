//! Streams that are to end with a last record, in both orders of every two layers and in the whole stack.

use axum::{Extension, Router, body::Body, response::IntoResponse, routing::any};
use e2e::{Protocol, Request};
use tower_stream::core::{
    Dialect,
    mock::{self, MockBody, Step},
};

use crate::{
    layers::{Piece, Served, Stack, Telemetry},
    run::{PROTOCOLS, Place, Tally},
};

const TOKEN: &str = "data: {\"choices\":[]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    /// `is_end_stream` is true after the last record: an HTTP/1.1 server asks for no `None`.
    TellsEnd,
    /// The last record comes in two chunks, together with another one.
    Split,
    /// It comes twice.
    Twice,
    /// It never comes.
    Incomplete,
    /// Likewise, with `is_end_stream` after the last frame.
    IncompleteTellsEnd,
    Failed,
    /// The body fails behind its last record.
    LateError,
    LatePanic,
}

impl Ending {
    const ALL: [Self; 9] = [
        Self::Whole,
        Self::TellsEnd,
        Self::Split,
        Self::Twice,
        Self::Incomplete,
        Self::IncompleteTellsEnd,
        Self::Failed,
        Self::LateError,
        Self::LatePanic,
    ];

    fn path(self) -> String {
        format!("/{self:?}")
    }

    fn told(self) -> &'static str {
        match self {
            Self::Incomplete | Self::IncompleteTellsEnd => "error incomplete",
            Self::Failed => "error _OTHER",
            _ => "complete",
        }
    }

    fn body(self) -> MockBody {
        let token = || [mock::data(TOKEN), mock::pending()];
        let with = |rest: Vec<Step>| MockBody::new(token().into_iter().chain(rest));
        let done = || mock::data(DONE);
        // In this pause the server flushes what is ready.
        let pause = || mock::sleep(std::time::Duration::from_millis(2));
        match self {
            Self::Whole => with(vec![done()]),
            Self::TellsEnd => with(vec![done()]).tells_end(),
            Self::Split => with(vec![
                mock::data("data: {}\n\nda"),
                mock::data("ta: [DONE]\n\n"),
            ]),
            Self::Twice => with(vec![done(), done()]),
            Self::Incomplete => with(vec![]),
            Self::IncompleteTellsEnd => with(vec![mock::data(TOKEN)]).tells_end(),
            Self::Failed => with(vec![pause(), mock::error("disk gone")]),
            Self::LateError => with(vec![done(), pause(), mock::error("disk gone")]),
            Self::LatePanic => with(vec![done(), pause(), mock::panic("scripted")]),
        }
    }
}

fn routes() -> Router {
    let mut routes = Router::new();
    for ending in Ending::ALL {
        let handler = move || async move {
            let content_type = [("content-type", "text/event-stream")];
            let dialect = Extension(Dialect::OPENAI_CHAT);
            (content_type, dialect, Body::new(ending.body())).into_response()
        };
        routes = routes.route(&ending.path(), any(handler));
    }
    routes
}

async fn every_ending(stack: Stack, protocol: Protocol, telemetry: &Telemetry) {
    let served = Served::serving(routes(), stack, telemetry).await;
    let mut tally = Tally::new(&served, protocol, telemetry);
    for ending in Ending::ALL {
        let _place = Place::new(&served.stack, protocol, ending);
        let request = Request::get(&ending.path());
        let seen = protocol.send(served.server.addr(), &request).await;
        let writes = served.stack.has(Piece::Errors);
        let (text, whole) = match &seen {
            Ok(response) => (response.text().to_string(), response.end.is_whole()),
            Err(_) => (String::new(), false),
        };
        let errors = text.matches("data: {\"error\":{").count();
        match ending.told() {
            "complete" => {
                let late = matches!(ending, Ending::LateError | Ending::LatePanic);
                assert!(whole || (late && !writes), "{seen:?}");
                assert!(text.contains("data: [DONE]\n"), "{text}");
                assert_eq!(errors, 0, "{text}");
            }
            _ => {
                assert_eq!(whole, writes, "{seen:?}");
                assert_eq!(errors, usize::from(writes), "{text}");
                assert!(!text.contains("[DONE]"), "{text}");
            }
        }
        tally.told(ending.told(), &[ending.path()]).await;
    }
    tally.check_sums();
}

#[tokio::test]
async fn every_pair_and_the_stack() {
    let telemetry = Telemetry::new();
    for protocol in PROTOCOLS {
        every_ending(Stack::new(Piece::OURS), protocol, &telemetry).await;
        for outer in Piece::OURS {
            for inner in Piece::OURS.into_iter().filter(|inner| *inner != outer) {
                let mut stack = Stack::new([outer, inner]);
                // Most pairs run without the probe next to the handler, so that the layers themselves must notice the
                // end.
                stack.probed_inside = outer == Piece::Errors;
                every_ending(stack, protocol, &telemetry).await;
            }
        }
    }
}

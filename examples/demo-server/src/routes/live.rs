//! `GET /live`: the server's own figures, once a second.

use std::time::Duration;

use axum::{body::Body, extract, extract::RawQuery, response::Response};
use bytes::Bytes;
use tower_stream_drain::Policy;

use crate::{State, figures, problem::Problem, query::Query, records::Records, reply};

/// An event a second with [`figures::live`], until the client leaves or the server drains.
pub(crate) async fn live(
    extract::State(state): extract::State<State>,
    RawQuery(raw): RawQuery,
) -> Result<Response, Problem> {
    Query::parse(raw.as_deref())?.finish()?;
    let body = Records::new(None, Duration::from_secs(1), move |_| {
        Bytes::from(format!("data: {}\n\n", figures::live(&state)))
    });
    let mut response = reply::stream(reply::EVENTS, Body::new(body));
    // An open page must not delay a drain to its deadline.
    response.extensions_mut().insert(Policy::EndEarly);
    Ok(response)
}

//! Shows and switches compression, on the admin listener.

use axum::{
    extract::{self, RawQuery},
    http::StatusCode,
    response::Response,
};
use serde_json::json;
use tower_stream_compress::Mode;

use crate::{State, problem::Problem, query::Query, reply};

/// How responses are compressed, and what that did so far.
pub(crate) async fn show(extract::State(state): extract::State<State>) -> Response {
    reply::json(StatusCode::OK, &figures(&state))
}

/// Switches compression for the responses that begin from now on.
pub(crate) async fn switch(
    extract::State(state): extract::State<State>,
    RawQuery(raw): RawQuery,
) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let modes = [Mode::Off, Mode::On, Mode::Adaptive].map(|mode| (mode.as_str(), mode));
    let mode = query.choice("mode", None, &modes)?;
    query.finish()?;
    state.compression.switch().set_mode(mode);
    Ok(reply::json(StatusCode::OK, &figures(&state)))
}

fn figures(state: &State) -> serde_json::Value {
    let switch = state.compression.switch();
    let stats = switch.stats();
    let codings = switch.current().into_iter();
    let codings = codings.map(|(coding, level)| json!({"coding": coding.as_str(), "level": level}));
    let counts = stats.compressed.iter();
    let counts = counts.map(|(coding, count)| (coding.as_str().to_owned(), json!(count)));
    json!({
        "mode": switch.settings().current_mode().as_str(),
        "codings": codings.collect::<Vec<_>>(),
        "streams": stats.streams,
        "memory": stats.memory,
        "compressed": counts.collect::<serde_json::Map<_, _>>(),
        "over_memory": stats.over_memory,
        "plain_bytes": stats.plain_bytes,
        "encoded_bytes": stats.encoded_bytes,
    })
}

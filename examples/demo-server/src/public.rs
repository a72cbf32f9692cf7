//! The public listener's routes.

use axum::{
    Router,
    routing::{get, post, put},
};

use tower_stream_drain::{FarewellLayer, Policy};

use crate::{State, admin, chat, layers, routes};

/// The public routes with all layers.
pub fn app(state: &State) -> Router {
    // Clients of /events may reconnect at any time.
    let early = match state.args.early_end_window {
        Some(_) => state.drain.farewell().policy(Policy::EndEarly),
        None => FarewellLayer::off(),
    };
    let chat = post(chat::chat_completions).layer(layers::tokens(state));
    let routes = Router::new()
        .route("/v1/chat/completions", chat)
        .route("/v1/models", get(chat::models))
        .route("/events", get(routes::events::events).layer(early))
        .route("/lines", get(routes::lines::lines))
        .route("/bytes", get(routes::bytes::bytes))
        .route("/promise", get(routes::promise::promise))
        .route(
            "/upload",
            routes::upload::checked(put(routes::upload::upload)),
        )
        .route("/files/{*path}", get(routes::files::files))
        .route(
            "/fail",
            get(routes::fail::fail).layer(layers::breaker(state)),
        )
        .route("/whoami", get(routes::whoami::whoami))
        .fallback(admin::not_found)
        .method_not_allowed_fallback(admin::method_not_allowed)
        .with_state(state.clone());
    layers::stack(routes, state)
}

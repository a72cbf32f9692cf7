//! The public listener's routes.

use axum::{
    Router,
    middleware::from_fn,
    routing::{get, post, put},
};
use tower_stream_drain::{FarewellLayer, Policy};

use crate::{State, admin, chat, forgery, layers, page, routes};

/// The public routes with all layers (with none, if the flags say `--bare`), and below `/bare` without any.
pub fn app(state: &State) -> Router {
    let app = if state.args.bare {
        routes(state, false)
    } else {
        layers::stack(routes(state, true), state)
    };
    app.nest("/bare", routes(state, false))
}

fn routes(state: &State, layered: bool) -> Router {
    let mut chat = post(chat::chat_completions);
    let mut fail = get(routes::fail::fail);
    let mut early = FarewellLayer::off();
    if layered {
        chat = chat.layer(layers::tokens(state));
        fail = fail.layer(layers::breaker(state));
        // Clients of /events may reconnect at any time.
        if state.args.early_end_window.is_some() {
            early = state.drain.farewell().policy(Policy::EndEarly);
        }
    }
    let mut routes = match &state.resume {
        Some(resume) if layered => Router::new().nest_service("/streams", resume.routes()),
        _ => Router::new(),
    };
    routes = routes
        .route("/story", get(routes::story::story))
        .route("/v1/chat/completions", chat)
        .route("/v1/models", get(chat::models))
        .route("/api/chat", post(routes::ui_chat::chat))
        .route("/api/chat/{id}/stream", get(routes::ui_chat::running))
        .route("/events", get(routes::events::events).layer(early))
        .route("/lines", get(routes::lines::lines))
        .route("/bytes", get(routes::bytes::bytes))
        .route("/promise", get(routes::promise::promise))
        .route(
            "/upload",
            routes::upload::checked(put(routes::upload::upload)),
        )
        .route("/files/{*path}", get(routes::files::files))
        .route("/fail", fail)
        .route("/whoami", get(routes::whoami::whoami))
        .route("/live", get(routes::live::live))
        .route("/", get(page::index))
        .route("/page/{file}", get(page::file));
    if state.args.page_may_drain {
        routes = routes.route("/drain", post(admin::drain));
    }
    routes
        .fallback(admin::not_found)
        .method_not_allowed_fallback(admin::method_not_allowed)
        .with_state(state.clone())
        // Inside of the layers, so that a refusal has a request id and is counted.
        .layer(from_fn(forgery::refuse_foreign))
}

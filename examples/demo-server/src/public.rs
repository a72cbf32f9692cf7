//! The public listener's routes.

use axum::{Router, routing::get};

use crate::{State, admin, layers, routes};

/// The public routes with every layer around them.
pub fn app(state: &State) -> Router {
    let routes = Router::new()
        .route("/events", get(routes::events::events))
        .route("/lines", get(routes::lines::lines))
        .route("/bytes", get(routes::bytes::bytes))
        .route("/fail", get(routes::fail::fail))
        .fallback(admin::not_found)
        .method_not_allowed_fallback(admin::method_not_allowed)
        .with_state(state.clone());
    layers::stack(routes, state)
}

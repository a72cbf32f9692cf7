//! The order of layers: every pair of our layers in both orders, and the whole stack in random orders, with every way
//! in which a response can end. The bytes, trailers and lengths that the client receives must be correct, and the span,
//! the metric, the digest, the log and the probes outside and inside must report the same end.

mod dialects;
mod endings;
#[path = "../grpc/mod.rs"]
mod grpc;
mod heartbeats;
mod layers;
mod log;
mod pairs;
mod probe;
mod resume;
mod retry;
mod run;
mod stack;
mod tonic;
mod wire;

use std::sync::Once;

/// Panics that a script asks for are not printed; any other is.
fn silence_scripted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
            if text != Some("scripted") {
                default(info);
            }
        }));
    });
}

//! The text of a backtrace, short enough for a log line.

use std::{backtrace::Backtrace, fmt::Write};

/// Functions of these crates are left out: they are the same below every handler. `tower_stream` stands for all crates
/// whose name begins so.
const LIBRARIES: [&str; 22] = [
    "__rustc",
    "alloc",
    "axum",
    "axum_core",
    "core",
    "futures",
    "futures_core",
    "futures_util",
    "h2",
    "http_body",
    "http_body_util",
    "hyper",
    "hyper_util",
    "std",
    "tokio",
    "tonic",
    "tower",
    "tower_http",
    "tower_layer",
    "tower_service",
    "tracing",
    "tracing_core",
];

/// No more frames than this are in the text.
const FRAMES: usize = 32;

/// No more bytes of the name of a function are in the text. A name includes its type parameters, and those of a stack of
/// layers are kilobytes.
const NAME: usize = 160;

/// The frames of the user's code, or all frames if `RUST_BACKTRACE` is `full`.
#[cold]
pub(crate) fn text(backtrace: &Backtrace) -> String {
    let all = backtrace.to_string();
    match std::env::var_os("RUST_BACKTRACE") {
        Some(value) if value == "full" => all,
        _ => short(&all),
    }
}

/// One frame: its number and function, and where that is in the source, if this is known.
struct Frame<'a> {
    name: &'a str,
    head: &'a str,
    at: Option<&'a str>,
}

fn short(all: &str) -> String {
    let mut frames: Vec<Frame<'_>> = Vec::new();
    for line in all.lines() {
        let head = line.trim_start();
        let numbered = head
            .split_once(": ")
            .filter(|(number, _)| number.parse::<u32>().is_ok());
        match (numbered, frames.last_mut()) {
            (Some((_, name)), _) => frames.push(Frame {
                name,
                head: line,
                at: None,
            }),
            (None, Some(frame)) if head.starts_with("at ") => frame.at = Some(line),
            (None, _) => {}
        }
    }
    let own = |frame: &&Frame<'_>| !is_library(frame.name);
    // A panic without a frame of the user, such as one in a library's task.
    let none = !frames.iter().any(|frame| own(&frame));
    let kept = frames.iter().filter(|frame| none || own(frame));
    let mut text = String::new();
    let mut shown = 0;
    for frame in kept.take(FRAMES) {
        let (number, name) = frame.head.split_at(frame.head.len() - frame.name.len());
        text.push_str(number);
        match name.char_indices().find(|(at, _)| *at >= NAME) {
            Some((end, _)) => text.extend([&name[..end], ".."]),
            None => text.push_str(name),
        }
        text.push('\n');
        if let Some(at) = frame.at {
            text.push_str(at);
            text.push('\n');
        }
        shown += 1;
    }
    if shown < frames.len() {
        let left_out = frames.len() - shown;
        let _ = writeln!(
            text,
            "{left_out} frames are left out, RUST_BACKTRACE=full shows them"
        );
    }
    text
}

/// Returns whether a function belongs to a library. The method of a type belongs to the crate of the type, and that of a
/// type parameter, which has no path, to the crate of the trait: `<F as axum::handler::Handler<..>>::call`.
fn is_library(name: &str) -> bool {
    let of_type = name.trim_start_matches(['<', '&', '(', '[']);
    let of_type = of_type.strip_prefix("dyn ").unwrap_or(of_type);
    let path = match of_type.split_once(" as ") {
        Some((parameter, of_trait)) if !parameter.contains("::") => of_trait,
        _ => of_type,
    };
    // Without a path it is a function of C: `main`, `__rust_try`, `clone3`.
    let Some((krate, _)) = path.split_once("::") else {
        return true;
    };
    LIBRARIES.contains(&krate) || krate.starts_with("tower_stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_of_the_user_are_shown() {
        let name = "Layer<".repeat(2000);
        let all = format!(
            "   0: std::backtrace::Backtrace::create
   1: __rustc::rust_begin_unwind
             at /rustc/abc/library/core/src/panicking.rs:80:14
   2: my_app::routes::fail
             at ./src/routes.rs:10:5
   3: <my_app::Feed as http_body::Body>::poll_frame
   4: <F as axum::handler::Handler<my_app::State>>::call
   5: <tower_stream_core::WrappedBody<my_app::Feed> as http_body::Body>::poll_frame
   6: <&mut my_app::Feed as core::future::Future>::poll
   7: my_app::{name}
  10: <alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once
  11: main
  12: __libc_start_main
"
        );
        let long = &name[..NAME - "my_app::".len()];
        assert_eq!(
            short(&all),
            format!(
                "   2: my_app::routes::fail
             at ./src/routes.rs:10:5
   3: <my_app::Feed as http_body::Body>::poll_frame
   6: <&mut my_app::Feed as core::future::Future>::poll
   7: my_app::{long}..
7 frames are left out, RUST_BACKTRACE=full shows them
"
            )
        );
    }

    #[test]
    fn without_one_the_first_frames_are_shown() {
        let all: String = (0..100)
            .map(|n| format!("{n:4}: tokio::runtime::é\n"))
            .collect();
        let text = short(&all);
        assert_eq!(text.lines().count(), FRAMES + 1);
        assert!(text.starts_with("   0: tokio::runtime::é\n"), "{text}");
        assert!(
            text.ends_with("68 frames are left out, RUST_BACKTRACE=full shows them\n"),
            "{text}"
        );
    }

    /// The text that this toolchain writes is understood.
    #[test]
    fn a_real_backtrace_is_short() {
        let backtrace = Backtrace::force_capture();
        let text = short(&backtrace.to_string());
        assert!(text.contains("frames are left out"), "{text}");
        assert!(text.len() < FRAMES * 2 * (NAME + 60), "{}", text.len());
    }
}

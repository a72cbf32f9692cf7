//! The public routes, one module each.

pub(crate) mod bytes;
pub(crate) mod events;
pub(crate) mod fail;
pub(crate) mod files;
pub(crate) mod lines;
pub(crate) mod live;
pub(crate) mod promise;
pub(crate) mod story;
pub(crate) mod ui_chat;
pub(crate) mod upload;
pub(crate) mod whoami;

use crate::text;

/// The payload of record `n`: `{"n":..,"text":".."}` with `bytes` bytes of text.
fn payload(n: u64, bytes: usize) -> String {
    format!(r#"{{"n":{n},"text":"{}"}}"#, text::excerpt(n, bytes))
}

/// Largest number of text bytes in one record.
const MAX_RECORD: u64 = 16 * 1024 * 1024;

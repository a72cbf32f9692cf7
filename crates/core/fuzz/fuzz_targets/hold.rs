//! A hold loses nothing, changes no order, and what it gave out ends with a record whenever it says so.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tower_stream_core::{RecordFormat, RecordHold, boundary::Scanner};

fuzz_target!(|input: (Vec<Vec<u8>>, u8, bool)| {
    let (chunks, cap, sse) = input;
    let format = if sse { RecordFormat::Sse } else { RecordFormat::Lines };
    let mut hold = RecordHold::new(format, cap.into());
    let mut out = Vec::new();
    let mut scanner = Scanner::new(format);
    for chunk in &chunks {
        if let Some(ready) = hold.push(Bytes::copy_from_slice(chunk)) {
            scanner.last_boundary(&ready);
            out.extend_from_slice(&ready);
        }
        assert_eq!(scanner.at_boundary(), hold.is_clean());
        assert!(hold.held() <= cap.into());
    }
    out.extend(hold.finish().unwrap_or_default());
    assert_eq!(out, chunks.concat());
});

//! How the promises of digests were kept.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tower_stream_digest::Verification;

/// The words of `Verdict::as_str`.
const WORDS: [&str; 5] = [
    "verified",
    "mismatch",
    "length_mismatch",
    "aborted",
    "unverifiable",
];

/// How often each verdict was reached; a clone counts into the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts(Arc<[AtomicU64; WORDS.len()]>);

impl Verdicts {
    /// Counts one.
    pub(crate) fn count(&self, verification: &Verification) {
        let word = verification.verdict.as_str();
        for (_, count) in WORDS
            .iter()
            .zip(&*self.0)
            .filter(|(known, _)| **known == word)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each verdict with its count, those at 0 too.
    pub(crate) fn counts(&self) -> [(&'static str, u64); WORDS.len()] {
        std::array::from_fn(|n| (WORDS[n], self.0[n].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use crate::{Args, State};

    #[tokio::test]
    async fn a_promise_kept_and_one_broken_are_counted() {
        let state = State::new(Args::default()).unwrap();
        for path in [
            "/promise?size=1000&corrupt=0",
            "/promise?size=1000&corrupt=1",
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = crate::app(&state).oneshot(request).await.unwrap();
            let _ = response.into_body().collect().await;
        }
        let text = state.metrics.text().unwrap();
        for (verdict, count) in [("verified", 1), ("mismatch", 1), ("aborted", 0)] {
            let line = format!(
                r#"http_server_response_digest_count_total{{digest_outcome="{verdict}"}} {count}"#
            );
            assert!(text.contains(&line), "no `{line}` in\n{text}");
        }
    }
}

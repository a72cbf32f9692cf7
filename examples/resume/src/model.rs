//! Stands for a language model: the same chat gives the same tokens, and it can begin after any of them.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use futures_util::{StreamExt, stream};

const TEXT: &str = "When a server dies in the middle of an answer, the connection to it breaks, and the rest of the \
    answer is lost, unless someone has kept what was said so far and knows how to go on. Here another server \
    reads the stored part, takes the stream over with a new epoch, and says the rest, so that the reader \
    gets each token once.";

/// All tokens of this chat.
pub(crate) fn tokens(chat: &str) -> impl Iterator<Item = String> + use<> {
    let first = format!("[chat {chat}]");
    [first]
        .into_iter()
        .chain(TEXT.split_whitespace().map(str::to_owned))
}

/// The events of this chat after the first `from` ones. Each has a token and the pid of the server that produced it.
pub(crate) fn answer(chat: &str, from: u64) -> Body {
    let pid = std::process::id();
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let events = stream::iter(tokens(chat).skip(from)).then(move |token| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(format!("data: {pid} {token}\n\n"))
    });
    Body::from_stream(events)
}

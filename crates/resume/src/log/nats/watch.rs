//! Wakes the readers of a stream when it has changed.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use async_nats::Client;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OnceCell},
    task::AbortHandle,
};

use crate::{LogError, StreamId};

/// The streams that have readers in this process. Each has one subscription.
#[derive(Default)]
pub(super) struct Watches {
    watched: Mutex<HashMap<StreamId, Weak<Watch>>>,
}

pub(super) struct Watch {
    pub(super) changed: Arc<Notify>,
    /// The task that receives the messages.
    task: OnceCell<AbortHandle>,
}

impl Watches {
    /// Watches the stream whose changes are told on this subject. Subscribed when this returns, so that a change after that is
    /// noticed: the server handles what comes over one connection in order.
    pub(super) async fn watch(
        &self,
        client: &Client,
        id: StreamId,
        subject: String,
    ) -> Result<Arc<Watch>, LogError> {
        let watch = self.begin(id);
        let subscribe = || async {
            let mut messages = client.subscribe(subject).await?;
            let changed = Arc::clone(&watch.changed);
            let task = tokio::spawn(async move {
                while messages.next().await.is_some() {
                    changed.notify_waiters();
                }
            });
            Ok::<_, async_nats::SubscribeError>(task.abort_handle())
        };
        let task = watch.task.get_or_try_init(subscribe).await;
        task.map_err(LogError::unavailable)?;
        Ok(watch)
    }

    fn begin(&self, id: StreamId) -> Arc<Watch> {
        let mut watched = self.watched.lock();
        if let Some(watch) = watched.get(&id).and_then(Weak::upgrade) {
            return watch;
        }
        // Those of streams that have no reader any more.
        if watched.len() == watched.capacity() {
            watched.retain(|_, watch| watch.strong_count() > 0);
        }
        let watch = Arc::new(Watch {
            changed: Arc::default(),
            task: OnceCell::new(),
        });
        watched.insert(id, Arc::downgrade(&watch));
        watch
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Its subscription ends with it.
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

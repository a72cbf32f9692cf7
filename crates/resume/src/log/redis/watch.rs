//! Wakes the readers of a stream when it has changed.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use redis::{FromRedisValue, PushInfo, PushKind, RedisResult, aio::ConnectionManager};
use tokio::sync::Notify;

/// The channels that have readers in this process.
#[derive(Default)]
pub(super) struct Watches {
    channels: Mutex<Channels>,
}

#[derive(Default)]
struct Channels {
    watched: HashMap<String, Watched>,
    /// Subscribed channels that no reader watches any more. The next reader that begins unsubscribes them.
    stale: Vec<String>,
}

struct Watched {
    changed: Arc<Notify>,
    readers: usize,
}

impl Watches {
    /// Watches a channel. Subscribed when this returns, so that a change after that is noticed.
    pub(super) async fn watch(
        self: &Arc<Self>,
        connection: &mut ConnectionManager,
        channel: String,
    ) -> RedisResult<Watch> {
        let (watch, stale) = self.begin(&channel);
        connection.subscribe(&channel).await?;
        for channel in stale {
            connection.unsubscribe(&channel).await?;
            // A reader of that channel may have begun at the same time.
            if self.is_watched(&channel) {
                connection.subscribe(&channel).await?;
                self.wake(&channel);
            }
        }
        Ok(watch)
    }

    fn begin(self: &Arc<Self>, channel: &str) -> (Watch, Vec<String>) {
        let mut channels = self.channels.lock();
        let watched = channels.watched.entry(channel.to_owned());
        let watched = watched.or_insert_with(|| Watched {
            changed: Arc::default(),
            readers: 0,
        });
        watched.readers += 1;
        let watch = Watch {
            changed: Arc::clone(&watched.changed),
            watches: Arc::clone(self),
            channel: channel.to_owned(),
        };
        channels.stale.retain(|stale| stale != channel);
        (watch, std::mem::take(&mut channels.stale))
    }

    fn is_watched(&self, channel: &str) -> bool {
        self.channels.lock().watched.contains_key(channel)
    }

    fn wake(&self, channel: &str) {
        if let Some(watched) = self.channels.lock().watched.get(channel) {
            watched.changed.notify_waiters();
        }
    }

    /// Called by the connection for each message.
    pub(super) fn pushed(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message => {
                let channel = push.data.into_iter().next();
                let channel = channel.and_then(|channel| String::from_redis_value(channel).ok());
                if let Some(channel) = channel {
                    self.wake(&channel);
                }
            }
            // Messages may have been lost, so every reader has to look.
            PushKind::Disconnection => {
                for watched in self.channels.lock().watched.values() {
                    watched.changed.notify_waiters();
                }
            }
            _ => {}
        }
    }
}

/// One reader of a channel.
pub(super) struct Watch {
    pub(super) changed: Arc<Notify>,
    watches: Arc<Watches>,
    channel: String,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut channels = self.watches.channels.lock();
        let Some(watched) = channels.watched.get_mut(&self.channel) else {
            return;
        };
        watched.readers -= 1;
        if watched.readers == 0 {
            channels.watched.remove(&self.channel);
            channels.stale.push(std::mem::take(&mut self.channel));
        }
    }
}

//! Converts instants to wall-clock times.

use std::time::SystemTime;

use tokio::time::Instant;

/// Reads the wall clock once per stream and adds monotonic time to it, so that a span cannot end before it began when
/// the wall clock is set back. One read of the monotonic clock then serves for the time of a span and for a duration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: SystemTime,
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self::at(SystemTime::now())
    }

    fn at(wall: SystemTime) -> Self {
        Self {
            wall,
            origin: Instant::now(),
        }
    }

    /// The wall-clock time of `instant`. Instants before the start give the time of the start.
    pub(crate) fn wall(&self, instant: Instant) -> SystemTime {
        let since = instant.saturating_duration_since(self.origin);
        self.wall.checked_add(since).unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_counts_from_one_reading_and_never_back() {
        let before = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = Clock::at(wall);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(
            clock.wall(Instant::now()),
            wall + Duration::from_millis(250)
        );
        assert_eq!(clock.wall(before), wall);
    }
}

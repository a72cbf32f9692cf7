//! The settings of a server.

use std::time::Duration;

/// Longer than any process runs, but short enough to be added to an instant: hyper adds its timeouts to one, and an
/// overflow would panic.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The limits of each connection.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_requests: Option<u64>,
    pub(crate) header_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) ping_timeout: Duration,
    pub(crate) max_header_size: usize,
    pub(crate) send_buffer: usize,
    pub(crate) max_concurrent_streams: u32,
    pub(crate) max_pending_resets: usize,
    pub(crate) write_stall: Option<Duration>,
    /// In bytes per second.
    pub(crate) min_rate: Option<u64>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<std::sync::Arc<tokio_rustls::rustls::ServerConfig>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_age: None,
            max_requests: None,
            header_timeout: Some(Duration::from_secs(10)),
            idle_timeout: Some(Duration::from_secs(75)),
            ping_interval: Some(Duration::from_secs(20)),
            ping_timeout: Duration::from_secs(20),
            max_header_size: 64 * 1024,
            send_buffer: 64 * 1024,
            max_concurrent_streams: 200,
            max_pending_resets: 20,
            write_stall: Some(Duration::from_secs(30)),
            min_rate: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// The smallest buffer that hyper accepts for an HTTP/1 connection.
const MIN_HTTP1_BUFFER: usize = 8 * 1024;

impl Settings {
    pub(crate) fn has_stall_guard(&self) -> bool {
        self.write_stall.is_some() || self.min_rate.is_some()
    }

    /// The buffer limit of an HTTP/1 connection: it must fit a head, and the output that waits to be sent.
    pub(crate) fn http1_buffer(&self) -> usize {
        self.max_header_size
            .max(self.send_buffer)
            .max(MIN_HTTP1_BUFFER)
    }

    pub(crate) fn http2_header_list(&self) -> u32 {
        u32::try_from(self.max_header_size).unwrap_or(u32::MAX)
    }

    pub(crate) fn http2_send_buffer(&self) -> usize {
        // h2 rejects larger values.
        self.send_buffer.min(u32::MAX as usize)
    }
}

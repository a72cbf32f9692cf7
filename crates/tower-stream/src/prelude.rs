//! The items that most apps use: `use tower_stream::prelude::*`.

pub use crate::StreamStack;
#[cfg(feature = "coalesce")]
pub use crate::coalesce::CoalesceLayer;
#[cfg(feature = "compress")]
pub use crate::compress::CompressLayer;
pub use crate::core::{Dialect, Outcome, RequestId, Sequence, StreamEnd};
#[cfg(feature = "digest")]
pub use crate::digest::{DigestLayer, VerifyDigestLayer, VerifyRequestDigestLayer};
#[cfg(feature = "drain")]
pub use crate::drain::{Drain, DrainToken, Draining};
#[cfg(feature = "errors")]
pub use crate::errors::{DialectLayer, ErrorWriterLayer, IdleTimeoutLayer};
#[cfg(feature = "headers")]
pub use crate::headers::StreamHeadersLayer;
#[cfg(feature = "heartbeat")]
pub use crate::heartbeat::{Heartbeat, HeartbeatLayer};
#[cfg(feature = "ids")]
pub use crate::ids::{RequestIdLayer, SequenceLayer};
#[cfg(feature = "limit")]
pub use crate::limit::{BreakerLayer, StreamLimitLayer, StreamPermit};
#[cfg(feature = "metrics")]
pub use crate::metrics::StreamMetricsLayer;
#[cfg(feature = "resume")]
pub use crate::resume::{Resume, ResumeLayer};
#[cfg(feature = "serve")]
pub use crate::serve::serve;
#[cfg(feature = "trace")]
pub use crate::trace::{ChunkSelection, ChunkSpanLayer, RequestSpanLayer};

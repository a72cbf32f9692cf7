//! How a streaming HTTP body ends.

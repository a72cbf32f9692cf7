//! SIGINT with nothing in flight. In a binary of its own, because a signal affects the whole process.
#![cfg(all(unix, feature = "signals"))]

use std::{io, time::Duration};

use tower_stream_drain::{Drain, State};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn ctrl_c_ends_a_drain_at_once_when_nothing_is_in_flight() -> io::Result<()> {
    let drain = Drain::builder().advertise(HOUR).no_deadline().build();
    drain.listen_for_signals()?;
    let process = std::process::id().to_string();
    let status = std::process::Command::new("kill")
        .args(["-INT", &process])
        .status()?;
    assert!(status.success());
    tokio::time::timeout(Duration::from_secs(60), drain.dead()).await?;
    assert_eq!(drain.state(), State::Dead);
    Ok(())
}

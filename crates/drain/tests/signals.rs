//! SIGTERM and a drain without a deadline. In a binary of its own, because a signal affects the whole process.
#![cfg(all(unix, feature = "signals"))]

use std::{io, time::Duration};

use tower_stream_drain::{Drain, DrainToken, State};

const PATIENCE: Duration = Duration::from_secs(60);

fn terminate() -> io::Result<()> {
    let process = std::process::id().to_string();
    let status = std::process::Command::new("kill")
        .args(["-TERM", &process])
        .status()?;
    assert!(status.success());
    Ok(())
}

#[tokio::test]
async fn the_first_signal_starts_it_and_the_second_ends_it() -> io::Result<()> {
    let drain = Drain::builder().deadline(Duration::MAX).build();
    let hold = DrainToken::new(&drain);
    drain.listen_for_signals()?;
    let draining = drain.draining();
    terminate()?;
    tokio::time::timeout(PATIENCE, draining.started()).await?;
    assert_eq!(
        (drain.state().is_refusing(), drain.deadline()),
        (false, None)
    );
    terminate()?;
    tokio::time::timeout(PATIENCE, drain.dead()).await?;
    assert_eq!((drain.state(), drain.stats().aborted), (State::Dead, 1));
    drop(hold);
    Ok(())
}

//! How busy the machine is, for [`Mode::Adaptive`](crate::Mode::Adaptive).

use std::{fs, path::PathBuf, time::Duration};

/// A source of the CPU load.
///
/// The layer asks it at most once a second, when a request arrives, on the thread of the request.
///
/// ```
/// use std::time::Duration;
///
/// use tower_stream_compress::{CompressLayer, load::LoadSource};
///
/// /// The machine is always busy.
/// struct Busy;
///
/// impl LoadSource for Busy {
///     fn load(&mut self, _: Duration) -> Option<f64> {
///         Some(1.0)
///     }
/// }
///
/// let layer = CompressLayer::new().load_source(Busy);
/// # drop(layer);
/// ```
pub trait LoadSource: Send + 'static {
    /// The part of the CPU time that was used since the last call, `elapsed` ago: 0.0 is idle, 1.0 is all of it. `None` if
    /// it is not known, as at the first call of a source that counts; the layer then keeps its level.
    fn load(&mut self, elapsed: Duration) -> Option<f64>;
}

/// The source for this process: its cgroup if that has a limit of CPU time, and else the machine. Unknown on systems other
/// than Linux.
#[derive(Debug)]
pub struct SystemLoad {
    cgroup: Cgroup,
    machine: ProcStat,
}

impl SystemLoad {
    /// Reads `/sys/fs/cgroup` and `/proc/stat`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cgroup: Cgroup::new("/sys/fs/cgroup"),
            machine: ProcStat::new("/proc/stat"),
        }
    }
}

impl Default for SystemLoad {
    fn default() -> Self {
        Self::new()
    }
}

impl LoadSource for SystemLoad {
    fn load(&mut self, elapsed: Duration) -> Option<f64> {
        let limited = self.cgroup.load(elapsed);
        let machine = self.machine.load(elapsed);
        limited.or(machine)
    }
}

/// All CPUs of the machine, from a file in the format of `/proc/stat` (proc_stat(5)).
#[derive(Debug)]
pub struct ProcStat {
    path: PathBuf,
    /// Busy and all time, in ticks.
    last: Option<(u64, u64)>,
}

impl ProcStat {
    /// Reads this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            last: None,
        }
    }

    fn read(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(&self.path).ok()?;
        let times = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user, nice, system, idle, iowait, irq, softirq, steal. What follows is part of user and nice.
        let times: Vec<u64> = times
            .split_ascii_whitespace()
            .take(8)
            .map_while(|time| time.parse().ok())
            .collect();
        let idle = times.get(3)? + times.get(4).unwrap_or(&0);
        let all: u64 = times.iter().sum();
        Some((all - idle, all))
    }
}

impl LoadSource for ProcStat {
    fn load(&mut self, _: Duration) -> Option<f64> {
        let now = self.read()?;
        let (busy, all) = self.last.replace(now)?;
        let (busy, all) = (now.0.checked_sub(busy)?, now.1.checked_sub(all)?);
        (all > 0).then(|| busy as f64 / all as f64)
    }
}

/// The processes of a control group, of its limit of CPU time: `cpu.stat` and `cpu.max` of cgroup v2. Unknown without a
/// limit.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
    /// Used time in microseconds.
    last: Option<u64>,
}

impl Cgroup {
    /// Reads the files in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            last: None,
        }
    }

    /// The limit, in CPUs.
    fn limit(&self) -> Option<f64> {
        let text = fs::read_to_string(self.directory.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        // The quota is `max` without a limit.
        let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
        (quota > 0.0 && period > 0.0).then_some(quota / period)
    }

    fn used(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join("cpu.stat")).ok()?;
        let used = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        used?.trim().parse().ok()
    }
}

impl LoadSource for Cgroup {
    fn load(&mut self, elapsed: Duration) -> Option<f64> {
        let limit = self.limit()?;
        let now = self.used()?;
        let used = now.checked_sub(self.last.replace(now)?)?;
        let possible = elapsed.as_micros() as f64 * limit;
        (possible > 0.0).then(|| (used as f64 / possible).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_machine_is_busy_with_all_but_idle_and_iowait() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| fs::write(file.path(), text).unwrap();
        let mut source = ProcStat::new(file.path());
        write("cpu  100 10 50 1000 40 5 5 0 99 9\ncpu0 1 1 1 1\n");
        assert_eq!(source.load(SECOND), None);
        write("cpu  130 15 60 1030 60 5 10 0 900 9\ncpu0 1 1 1 1\n");
        assert_eq!(source.load(SECOND), Some(0.5));
        assert_eq!(source.load(SECOND), None, "no tick in between");
        for bad in [
            "",
            "cpu",
            "cpu  1 2",
            "cpu  x y z w",
            "cpu  1 2 3 -4",
            "intr 5",
        ] {
            write(bad);
            assert_eq!(source.load(SECOND), None, "{bad:?}");
        }
        write("cpu  1 1 1 1 1 0 0 0\n");
        assert_eq!(source.load(SECOND), None, "the counters went back");
        assert_eq!(ProcStat::new("/no/such/file").load(SECOND), None);
    }

    #[test]
    fn a_group_is_measured_by_its_limit() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        let mut source = Cgroup::new(group.path());
        assert_eq!(source.load(SECOND), None);
        write("cpu.max", "max 100000\n");
        write("cpu.stat", "usage_usec 5000000\nuser_usec 1\n");
        assert_eq!(source.load(SECOND), None, "without a limit");
        write("cpu.max", "200000 100000\n");
        assert_eq!(source.load(SECOND), None);
        write("cpu.stat", "usage_usec 5500000\nuser_usec 1\n");
        assert_eq!(source.load(SECOND), Some(0.25));
        write("cpu.stat", "usage_usec 99500000\nuser_usec 1\n");
        assert_eq!(source.load(SECOND), Some(1.0), "a burst");
        for (max, stat) in [("0 0", "usage_usec 1"), ("x", "usage_usec 1"), ("1 1", "")] {
            write("cpu.max", max);
            write("cpu.stat", stat);
            assert_eq!(source.load(SECOND), None, "{max} {stat}");
        }
    }

    #[test]
    fn this_machine_tells_something_or_nothing() {
        let mut source = SystemLoad::new();
        for _ in 0..2 {
            let load = source.load(SECOND);
            assert!(
                load.is_none_or(|load| (0.0..=1.0).contains(&load)),
                "{load:?}"
            );
        }
    }
}

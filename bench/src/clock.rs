//! Which time a kernel bench counts.

use std::time::{Duration, Instant};

/// Wall time, or the CPU time of the calling thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    /// Wall time since a start.
    Wall(Instant),
    /// What this thread has computed: on a machine shared with others, what it would take alone.
    Thread,
}

impl Clock {
    /// CPU time counts one thread, so it is refused for more.
    pub(crate) fn new(cpu_time: bool, threads: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(!cpu_time || threads == 1, "--cpu-time counts the calling thread: give --threads 1 too");
        Ok(if cpu_time { Self::Thread } else { Self::Wall(Instant::now()) })
    }

    /// Time since a beginning that stays the same.
    pub(crate) fn now(&self) -> Duration {
        match self {
            Self::Wall(start) => start.elapsed(),
            Self::Thread => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                let part = |x: i64| u64::try_from(x).unwrap_or_default();
                Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
            }
        }
    }
}

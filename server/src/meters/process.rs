//! Figures of the process, read from /proc when metrics are asked for.

use super::bank::Bank;
use metrics::{Counter, Gauge};

pub(super) struct Process {
    resident: Gauge,
    open_files: Gauge,
    threads: Gauge,
    cpu: Gauge,
    scrapes: Counter,
}

impl Process {
    pub(super) fn new(bank: &Bank) -> Self {
        Self {
            resident: bank.gauge("longbow_process_resident_bytes", "Memory of the process."),
            open_files: bank.gauge("longbow_process_open_files", "Open file descriptors."),
            threads: bank.gauge("longbow_process_threads", "Threads of the process."),
            cpu: bank.gauge("longbow_process_cpu_seconds", "CPU time used by the process."),
            scrapes: bank.counter("longbow_scrapes_total", "Times the metrics were read."),
        }
    }

    pub(super) fn refresh(&self) {
        self.scrapes.increment(1);
        if let Some(figures) = read() {
            self.resident.set(figures.resident_bytes);
            self.threads.set(figures.threads);
            self.cpu.set(figures.cpu_seconds);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            #[expect(clippy::cast_precision_loss, reason = "a count of files")]
            self.open_files.set(entries.count() as f64);
        }
    }
}

struct Figures {
    resident_bytes: f64,
    threads: f64,
    cpu_seconds: f64,
}

/// `None` where there is no /proc.
fn read() -> Option<Figures> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let ticks = field(14)? + field(15)?;
    let page_bytes = 4_096.0;
    // USER_HZ is 100 on every Linux that runs on x86-64 or arm64.
    Some(Figures { resident_bytes: field(24)? * page_bytes, threads: field(20)?, cpu_seconds: ticks / 100.0 })
}

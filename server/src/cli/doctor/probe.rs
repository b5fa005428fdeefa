//! The single looks of the doctor.

use super::Finding;
use crate::app::{NoModel, chosen_model};
use crate::config::{Config, StateFormat};
use crate::runtime::{cores as usable_cores, file_limit, io_threads, raise_file_limit};
use longbow_index::{IndexOptions, Kind, LiveIndex, Query, Retriever as _};
use longbow_kernels::Isa;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

const GIB: f64 = (1u64 << 30) as f64;
/// Below this the demo world does not fit beside the caches.
const MEMORY_MIN: u64 = 2 << 30;
/// Free disk below which retention of the event log is likely to fill it.
const DISK_MIN: u64 = 1 << 30;
/// The listener's wish for connections not yet accepted.
const BACKLOG_WANTED: u32 = 4_096;

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB)
}

pub(super) fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

pub(super) fn cpu() -> Finding {
    let info = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let flags = field("flags").unwrap_or_default();
    let wanted = ["avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_tile"];
    let there: Vec<_> = wanted.into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name)).collect();
    let found =
        format!("{model}: {}", if there.is_empty() { "no vector extensions".to_owned() } else { there.join(" ") });
    match longbow_index::cpu_supported() {
        Ok(()) => Finding::ok("cpu", found),
        Err(fault) => Finding::fault("cpu", found, fault),
    }
}

pub(super) fn kernels(config: &Config) -> Finding {
    let best = Isa::detect();
    let found = match config.model.state_format {
        StateFormat::F32 if best.multiplies_bf16() => format!(
            "attention runs with avx512: {best} multiplies bf16, which model.state_format = \"f32\" leaves unused"
        ),
        _ => format!("attention runs with {best}"),
    };
    if best >= Isa::Avx2 {
        Finding::ok("kernels", found)
    } else {
        Finding::warn("kernels", found, "use a CPU with AVX2 or AVX-512: the portable kernels are several times slower")
    }
}

pub(super) fn cores(config: &Config) -> Finding {
    let cores = usable_cores();
    let found = format!("{cores} usable, {} for IO", io_threads(config.runtime.io_threads));
    if cores >= 2 {
        Finding::ok("cores", found)
    } else {
        Finding::warn(
            "cores",
            found,
            "give it at least 2: IO and the encoder share this one, which shows in the tail latency",
        )
    }
}

pub(super) fn memory(config: &Config) -> Finding {
    let info = read("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let Some(total) = kib("MemTotal").map(|kib| kib << 10) else {
        return Finding::warn("memory", "cannot be read from /proc/meminfo", "mount /proc");
    };
    // A container's limit counts, not the machine's memory.
    let limit =
        read("/sys/fs/cgroup/memory.max").and_then(|text| text.parse::<u64>().ok()).filter(|&limit| limit < total);
    let usable = limit.unwrap_or(total);
    let caches = ((config.model.state_cache_mib + config.model.host_cache_mib + config.store.cache_mib) as u64) << 20;
    let of = if limit.is_some() { "limit of the container" } else { "installed" };
    let states = config.model.state_format.on(Isa::detect());
    let found = format!("{} {of}, caches may take {}; user states in {states}", gib(usable), gib(caches));
    if usable < MEMORY_MIN {
        Finding::fault("memory", found, format!("give it at least {}", gib(MEMORY_MIN)))
    } else if caches > usable / 2 {
        Finding::warn(
            "memory",
            found,
            "lower model.state_cache_mib or store.cache_mib: caches leave too little for the rest (model.state_format = \"bf16\" keeps about twice the users in the same memory)",
        )
    } else {
        Finding::ok("memory", found)
    }
}

/// Searches a tiny index for real.
pub(super) fn faiss() -> Finding {
    if longbow_index::cpu_supported().is_err() {
        return Finding::fault("faiss", "not tried: the CPU lacks what it is compiled for", "see cpu");
    }
    let search = || -> Result<bool, longbow_index::IndexError> {
        // Points on a circle: each is its own nearest neighbour. Enough of them for inverted lists.
        let slots: Vec<u32> = (1..=512).collect();
        let vectors: Vec<f32> = slots.iter().flat_map(|&slot| [(slot as f32).cos(), (slot as f32).sin()]).collect();
        let options =
            IndexOptions { lists_rows_min: 256, background: false, ..IndexOptions::new(2, Kind::IvfFlat { nlist: 0 }) };
        let index = LiveIndex::build(options, &slots, &vectors)?;
        let hits = index.search(&[Query { vector: &vectors[200..202], k: 1, eligible: None }])?;
        Ok(hits.first().is_some_and(|hits| hits.slots == [101]))
    };
    match search() {
        Ok(true) => Finding::ok("faiss", "linked in, and a search finds the right item"),
        Ok(false) => {
            Finding::fault("faiss", "a search finds the wrong item", "build again from a clean target directory")
        }
        Err(error) => Finding::fault("faiss", error.to_string(), "build again from a clean target directory"),
    }
}

/// Which BLAS the dynamic linker gave to FAISS.
pub(super) fn blas() -> Finding {
    let maps = read("/proc/self/maps").unwrap_or_default();
    let library = |name: &str| {
        let path = maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains(name))?;
        Some(fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path)))
    };
    match (library("libopenblas"), library("libblas")) {
        (Some(path), _) => openblas(&path),
        (None, Some(path)) => Finding::warn(
            "blas",
            format!("{}, not OpenBLAS", path.display()),
            "apt-get install libopenblas0: the reference BLAS makes index builds many times slower",
        ),
        (None, None) => Finding::ok("blas", "linked in"),
    }
}

/// Whether OpenBLAS has kernels of this CPU's family: releases older than the CPU fall back to SSE.
fn openblas(path: &Path) -> Finding {
    const AVX2_CORES: [&str; 6] = ["haswell", "zen", "excavator", "skylakex", "cooperlake", "sapphirerapids"];
    let core = longbow_index::blas_core().unwrap_or_else(|| "unknown".to_owned());
    let found = format!("OpenBLAS, {}, kernels of {core}", path.display());
    if longbow_index::cpu_supported().is_err() || AVX2_CORES.contains(&core.to_ascii_lowercase().as_str()) {
        return Finding::ok("blas", found);
    }
    let best = if Isa::detect() >= Isa::Avx512 { "SKYLAKEX" } else { "HASWELL" };
    Finding::warn(
        "blas",
        found,
        format!(
            "set OPENBLAS_CORETYPE={best} in the environment (scripts/run does): it does not know this CPU, and index builds take three times as long"
        ),
    )
}

pub(super) fn model(config: &Config) -> Finding {
    let path = match chosen_model(config) {
        Ok((path, _)) => path,
        Err(error) => {
            return match error.downcast::<NoModel>() {
                Ok(NoModel { fault, fix }) => Finding::fault("model", fault, fix),
                Err(error) => Finding::fault("model", format!("{error:#}"), "make it readable for this user"),
            };
        }
    };
    let fix = "set model.path to a bundle directory or a safetensors file";
    let (file, what) =
        if path.is_dir() { (path.join(longbow_model::bundle::MODEL), "bundle") } else { (path.clone(), "bare file") };
    match fs::File::open(&file).and_then(|file| file.metadata()) {
        Ok(meta) if meta.is_file() => Finding::ok("model", format!("{}, {what}, {}", path.display(), gib(meta.len()))),
        Ok(_) => Finding::fault("model", format!("{} is no file", file.display()), fix),
        Err(error) => Finding::fault("model", format!("{}: {error}", file.display()), fix),
    }
}

pub(super) fn data(config: &Config) -> Finding {
    let dir = &config.data.dir;
    // The nearest directory that exists decides, if the directory itself is still to be made.
    let Some(place) =
        dir.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }).find(|p| p.exists())
    else {
        return Finding::fault("data", format!("{} cannot be made", dir.display()), "choose another --data");
    };
    let probe = place.join(format!(".longbow-doctor-{}", std::process::id()));
    let written = fs::write(&probe, b"probe").and_then(|()| fs::File::open(&probe)?.sync_all());
    let _ = fs::remove_file(&probe);
    if let Err(error) = written {
        let fix = format!("make {} writable for this user, or choose another --data", place.display());
        return Finding::fault("data", format!("{}: {error}", place.display()), fix);
    }
    let free = rustix::fs::statvfs(place).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let found = format!("{} is writable, {} free", dir.display(), gib(free));
    if free < DISK_MIN {
        Finding::warn("data", found, format!("free {} or lower events.retain_mib", gib(DISK_MIN)))
    } else {
        Finding::ok("data", found)
    }
}

pub(super) fn files(config: &Config) -> Finding {
    raise_file_limit();
    let Some(limit) = file_limit() else { return Finding::ok("open files", "no limit") };
    let wanted = config.http.connections_max as u64 + 1_024;
    let found = format!("{limit} allowed, {} connections configured", config.http.connections_max);
    if limit >= wanted {
        return Finding::ok("open files", found);
    }
    Finding::warn(
        "open files",
        found,
        format!("ulimit -Hn {wanted}, LimitNOFILE={wanted} in systemd, or --ulimit nofile={wanted} in Docker"),
    )
}

pub(super) fn backlog() -> Finding {
    match read("/proc/sys/net/core/somaxconn").and_then(|text| text.parse::<u32>().ok()) {
        Some(backlog) if backlog < BACKLOG_WANTED => Finding::warn(
            "backlog",
            format!("net.core.somaxconn is {backlog}"),
            format!("sysctl -w net.core.somaxconn={BACKLOG_WANTED}: bursts of new connections are dropped below it"),
        ),
        Some(backlog) => Finding::ok("backlog", format!("net.core.somaxconn is {backlog}")),
        None => Finding::ok("backlog", "cannot be read; the system's default holds"),
    }
}

pub(super) fn port(name: &'static str, address: SocketAddr, flag: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(name, format!("{address} is free")),
        Err(error) => Finding::fault(
            name,
            format!("{address}: {error}"),
            format!("end what listens there, or choose another address with {flag}"),
        ),
    }
}

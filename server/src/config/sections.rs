//! Every key: name, type, default, range, meaning. Units stand last in the name.

use super::key::Rule::{Address, Flag, Float, Int, Numbers, OneOf, Secret as Hidden, Text, Texts};
use super::key::{Secret, section};
use crate::money::{Currency, FxTable};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

section! {
    /// The public port: exchanges, feeds, events and notices.
    Http "http" {
        /// Address and port. Flag: --http.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)), Address;
        /// Open connections at most. At the cap the connection that has stalled or been idle longest is closed in favour of
        /// a new one; if all are being answered, the new one gets 503. Lowered to what the file limit allows.
        connections_max: usize = 16_384, Int(1, 1_000_000);
        /// Open connections at most from one address (IPv6: one /64), by the same rule.
        connections_per_address_max: usize = 8_192, Int(1, 1_000_000);
        /// From the first byte of a request to the end of its headers.
        header_timeout_ms: u64 = 10_000, Int(100, 600_000);
        /// Silence between two requests of a connection.
        keep_alive_ms: u64 = 60_000, Int(100, 3_600_000);
        /// From the end of the headers to the end of the body.
        body_timeout_ms: u64 = 5_000, Int(50, 600_000);
        /// A response of which no byte can be sent for this long is given up.
        write_timeout_ms: u64 = 10_000, Int(100, 600_000);
        /// A request not answered after this long gets 503 (deadlines of bids are far shorter).
        request_timeout_ms: u64 = 10_000, Int(10, 600_000);
        /// Request line and headers together.
        header_bytes_max: usize = 16_384, Int(8_192, 1_048_576);
        /// Header fields of a request.
        headers_max: usize = 100, Int(10, 1_000);
        /// Body of a request, before and after decompression.
        body_bytes_max: usize = 1_048_576, Int(1_024, 268_435_456);
        /// Body of POST /v1/events, before and after decompression.
        events_body_bytes_max: usize = 16_777_216, Int(1_024, 268_435_456);
        /// All bodies in memory together; beyond it requests get 503.
        bodies_mib_max: usize = 256, Int(1, 65_536);
        /// Responses from this size on are compressed when the client accepts gzip.
        gzip_bytes_min: usize = 1_024, Int(64, 1_073_741_824);
        /// The retry-after of 503.
        retry_after_s: u32 = 1, Int(1, 3_600);
    }
}

section! {
    /// The admin port: health, metrics, plans, items, creatives.
    Admin "admin" {
        /// Address and port. Flag: --admin.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9090)), Address;
        /// Allows an address that other machines can reach.
        allow_remote: bool = false, Flag;
        /// Host names (besides localhost and IP literals) accepted in the Host header: the guard against DNS rebinding.
        hosts: Vec<String> = Vec::new(), Texts;
        /// If set, everything but /livez, /readyz and /metrics needs `authorization: Bearer <token>`.
        token: Secret = Secret::default(), Hidden;
        /// Further tokens with roles, one `name role sha256-of-the-token` a line; roles: read, advertiser:<id>, operator, ingest.
        token_file: String = String::new(), Text;
        /// The audit log of changes is written to `audit` in data.dir, in files of this size; six are kept.
        audit_file_mib: u64 = 4, Int(1, 1_024);
        /// Open connections at most.
        connections_max: usize = 256, Int(1, 100_000);
        /// Body of a request other than an import.
        body_bytes_max: usize = 4_194_304, Int(1_024, 268_435_456);
        /// Records on a page of a list at most.
        page_max: usize = 1_000, Int(1, 100_000);
        /// One line of an import.
        import_line_bytes_max: usize = 1_048_576, Int(256, 67_108_864);
        /// Lines of an import that are committed together.
        import_batch_lines: usize = 1_000, Int(1, 100_000);
        /// A whole import, decompressed.
        import_mib_max: u64 = 4_096, Int(1, 1_048_576);
        /// Line errors listed in the answer of an import; all are counted.
        import_errors_max: usize = 100, Int(1, 10_000);
        /// An import of which no byte arrives for this long is given up.
        import_idle_ms: u64 = 30_000, Int(100, 600_000);
    }
}

section! {
    /// Durable state.
    Data "data" {
        /// Directory; made if absent. Flag: --data.
        dir: PathBuf = PathBuf::from("data"), Text;
    }
}

/// What the encoder runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelDevice {
    /// A GPU where one is usable, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or no start.
    Cuda,
}

/// The numbers that user states are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateFormat {
    /// bf16 where the CPU multiplies it and the model's self-check holds with it, else f32.
    #[default]
    Auto,
    /// As they were computed.
    F32,
    /// Rounded to 8 bits of precision.
    Bf16,
}

impl StateFormat {
    /// What a CPU with these instructions keeps.
    #[must_use]
    pub fn on(self, isa: longbow_kernels::Isa) -> longbow_kernels::KvFormat {
        match self {
            Self::Bf16 => longbow_kernels::KvFormat::Bf16,
            Self::Auto if isa.multiplies_bf16() => longbow_kernels::KvFormat::Bf16,
            Self::Auto | Self::F32 => longbow_kernels::KvFormat::F32,
        }
    }
}

section! {
    /// The encoder and its state cache.
    Model "model" {
        /// What the first start serves: a bundle directory, or a bare safetensors file (no self-check, no calibration). Empty:
        /// the only bundle in `dir`. A model switched to while serving is served again after a restart, until this is changed.
        path: String = String::new(), Text;
        /// What the encoder runs on. "auto": a GPU where one is usable (builds with the feature `cuda`), else the CPU; "cpu";
        /// "cuda": a GPU, or no start.
        device: ModelDevice = ModelDevice::Auto, OneOf(&["auto", "cpu", "cuda"]);
        /// Bundles that may be loaded while serving: the admin port reads nothing outside it. Empty: models in data.dir.
        dir: String = String::new(), Text;
        /// Memory for user states (K/V blocks): the GPU's own memory where the encoder runs there.
        state_cache_mib: usize = 3_072, Int(1, 1_048_576);
        /// Page-locked host memory for user states that the GPU's own memory has no room for: they come back from there where that
        /// takes less time than computing them anew. 0: none. Not used where the encoder runs on the CPU.
        host_cache_mib: usize = 0, Int(0, 1_048_576);
        /// Numbers that user states are kept in on the CPU. "f32": as computed; "bf16": half the memory a user (where the attention
        /// dimension is a multiple of 32), and several times faster where the CPU multiplies bf16 (AMX, AVX-512 BF16); what it may change
        /// is checked at each load. "auto": bf16 on such a CPU if the model passes that check, else f32. GPUs keep bf16.
        state_format: StateFormat = StateFormat::Auto, OneOf(&["auto", "f32", "bf16"]);
        /// Threads of the CPU encoder. 0: one for each core.
        threads: usize = 0, Int(0, 1_024);
    }
}

/// How items are searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// By the number of items.
    #[default]
    Auto,
    /// Every item.
    Exact,
    /// Inverted lists.
    Ivf,
    /// Inverted lists of product-quantised vectors.
    IvfPq,
}

/// How item vectors are kept on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceVectors {
    /// 2 bytes a number.
    #[default]
    Bf16,
    /// 1 byte a number and a scale for each vector.
    Int8,
}

section! {
    /// Retrieval.
    Index "index" {
        /// What searches the items. "auto": the GPU where the encoder runs on one and the vectors fit, else the CPU; "cpu";
        /// "cuda": the GPU, or no start. On a GPU every eligible item is scored; `kind` is what the CPU then falls back to.
        device: ModelDevice = ModelDevice::Auto, OneOf(&["auto", "cpu", "cuda"]);
        /// Vectors on a GPU: "bf16", or "int8" for half the memory and time. What is found is ranked by exact scores.
        device_vectors: DeviceVectors = DeviceVectors::Bf16, OneOf(&["bf16", "int8"]);
        /// "auto" picks by the number of items.
        kind: IndexKind = IndexKind::Auto, OneOf(&["auto", "exact", "ivf", "ivfpq"]);
        /// Inverted lists. 0: by the number of items.
        lists: usize = 0, Int(0, 1_000_000);
        /// Lists searched. 0: the fewest that reach `recall_min` on a sample of items, and more where users' searches fall short of it.
        probes: usize = 0, Int(0, 1_000_000);
        /// Mean recall against exact search that the index is tuned for on its items and that sampled searches of users are held to.
        recall_min: f64 = 0.95, Float(0.5, 1.0);
        /// Recent changes searched exactly before the index is rebuilt in the background.
        rebuild_delta_max: usize = 10_000, Int(1, 10_000_000);
        /// Share of searches that are repeated exactly, on a thread of low priority: what the live recall gauge shows and the effort of the
        /// search follows.
        recall_sample: f64 = 0.01, Float(0.0, 1.0);
        /// Searches waiting at most; beyond it requests are refused at once.
        queue_max: usize = 512, Int(1, 1_000_000);
        /// Eligibility bitmaps kept for repeated filters.
        filter_cache_entries: usize = 1_024, Int(1, 1_000_000);
    }
}

section! {
    /// The device queue.
    Batch "batch" {
        /// Requests waiting at most; beyond it requests are refused at once.
        queue_max: usize = 512, Int(1, 1_000_000);
        /// Requests sealed into one batch at most.
        requests_max: usize = 64, Int(1, 4_096);
        /// Kept back from a request's deadline for pricing and the reply.
        deadline_margin_ms: u64 = 3, Int(0, 1_000);
        /// Background refreshes of user states waiting at most; the oldest are dropped beyond it.
        refresh_queue_max: usize = 4_096, Int(1, 10_000_000);
        /// Newest events of a history used at most when the deadline does not allow the whole (degrade ladder).
        short_history_rows: usize = 256, Int(1, 1_048_576);
    }
}

section! {
    /// Pricing, pacing and choosing.
    Auction "auction" {
        /// Candidates retrieved and scored for one request.
        candidates: usize = 200, Int(1, 10_000);
        /// Candidates a /v1/rank request may bring.
        candidates_max: usize = 2_000, Int(1, 100_000);
        /// Imps of one request that are considered.
        imps_max: usize = 20, Int(1, 1_000);
        /// How often controls follow spend and return.
        tick_ms: u64 = 1_000, Int(10, 3_600_000);
        /// Seed of creative sampling; the same seed gives the same choices.
        seed: u64 = 1, Int(0, i64::MAX);
        /// Share of a composed creative's choices that show an element which is new to it.
        explore_share: f64 = 0.1, Float(0.0, 1.0);
        /// Impressions after which an element is no longer new.
        explore_impressions: u64 = 1_000, Int(1, 1_000_000);
        /// What was learned of creatives loses half its weight in this time.
        creative_half_life_hours: u64 = 720, Int(1, 87_600);
        /// Time for an answer when a request names none (`tmax`).
        tmax_default_ms: u64 = 100, Int(5, 60_000);
        /// Longest time granted however large `tmax` is.
        tmax_max_ms: u64 = 2_000, Int(5, 60_000);
        /// Requests that leave less than this are answered no-bid at once.
        tmax_min_ms: u64 = 5, Int(0, 60_000);
        /// Kept back from `tmax` for the network.
        network_margin_ms: u64 = 10, Int(0, 10_000);
    }
}

impl Auction {
    /// Settings of the creative stage.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "bounded far below 2^53")]
    pub fn choosing(&self) -> crate::auction::choose::Settings {
        crate::auction::choose::Settings {
            explore_share: self.explore_share,
            explore_impressions: self.explore_impressions as f64,
            half_life_s: self.creative_half_life_hours as f64 * 3_600.0,
        }
    }
}

/// Which notice spends a plan's money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChargeOn {
    /// The first of win (nurl) and billing notice (burl).
    #[default]
    Win,
    /// The billing notice alone.
    Billing,
}

section! {
    /// Money.
    Ledger "ledger" {
        /// How long a bid holds budget while no notice comes.
        hold_seconds: u64 = 900, Int(1, 604_800);
        /// The notice that spends. "win": the first of win and billing notice; "billing": the billing notice alone.
        charge_on: ChargeOn = ChargeOn::Win, OneOf(&["win", "billing"]);
        /// Budget carved durably for one plan at a time so that a bid needs no disk write, in thousandths of the plan's budget; at
        /// least 16 of its largest bids. A bid that finds nothing carved waits for it, where nobody else bids.
        pool_permille: u32 = 10, Int(1, 1_000);
        /// How long settled notices are remembered, to answer repeats.
        remember_seconds: u64 = 604_800, Int(60, 31_536_000);
        /// Settlements waiting for the disk at most.
        queue_max: usize = 4_096, Int(1, 1_000_000);
    }
}

section! {
    /// User histories.
    Store "store" {
        /// Events kept of one user; the oldest go first.
        history_events_max: usize = 12_000, Int(16, 1_000_000);
        /// Memory for histories.
        cache_mib: usize = 256, Int(1, 1_048_576);
        /// How long event ids are remembered, to accept repeats once.
        remember_seconds: u64 = 604_800, Int(60, 31_536_000);
        /// Users whose newest event is older than this are forgotten, as by DELETE /v1/users/{id}, a few at a time in the background.
        /// 0: never, as events of an import may be years old; 400 keeps a year and its season.
        forget_users_after_days: u32 = 0, Int(0, 36_500);
        /// Loads and appends waiting at most.
        queue_max: usize = 4_096, Int(1, 1_000_000);
    }
}

section! {
    /// The event log.
    Events "events" {
        /// Size at which a segment file is closed.
        segment_mib: u64 = 64, Int(1, 4_096);
        /// Size of all segments kept; the oldest go first.
        retain_mib: u64 = 4_096, Int(2, 16_777_216);
        /// Events of one POST /v1/events.
        batch_max: usize = 10_000, Int(1, 10_000);
        /// Appends waiting for one fsync at most.
        queue_max: usize = 4_096, Int(1, 1_000_000);
    }
}

section! {
    /// Signed win, billing and loss notices.
    Notices "notices" {
        /// URL under which exchanges reach the public port. Empty: http:// and the address of http.listen.
        public_url: String = String::new(), Text;
        /// Signing keys, one `id:base64` a line, the first signs, all verify. Empty: notices.key in data.dir, made if absent.
        key_file: String = String::new(), Text;
        /// How long after the bid a notice is accepted. A win or billing notice that comes later is still charged, marked late, as
        /// long as the ledger remembers the bid.
        window_seconds: u64 = 86_400, Int(1, 2_592_000);
    }
}

section! {
    /// Exchange rates.
    Currencies "currencies" {
        /// US dollars for one unit, as in { EUR = 1.08 }. Requests in other currencies get no bid.
        rates: BTreeMap<String, f64> = BTreeMap::new(), Numbers(0.000_001, 1_000_000.0);
    }
}

impl Currencies {
    /// The exact table that requests use. Codes were checked on loading.
    #[must_use]
    pub fn table(&self) -> FxTable {
        #[expect(clippy::cast_possible_truncation, reason = "loading bounds a rate to 1e6, so 10^-12 dollars fit")]
        let exact = |rate: f64| (rate * 1e12).round() as i64;
        FxTable::new(self.rates.iter().filter_map(|(code, &rate)| Some((Currency::parse(code)?, exact(rate)))))
    }
}

section! {
    /// Threads.
    Runtime "runtime" {
        /// IO threads. 0: one for each four cores, from 1 to 4.
        io_threads: usize = 0, Int(0, 256);
    }
}

section! {
    /// Leaving: first not ready, then no new connections, then the end.
    Drain "drain" {
        /// How long the server keeps serving after it said "not ready", so that balancers notice.
        delay_ms: u64 = 2_000, Int(0, 600_000);
        /// How long requests in flight may take after that.
        limit_ms: u64 = 20_000, Int(10, 600_000);
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

section! {
    /// Logs, on standard error.
    Log "log" {
        /// "auto": text on a terminal, JSON elsewhere.
        format: LogFormat = LogFormat::Auto, OneOf(&["auto", "json", "text"]);
        /// Levels by module, as in "info,longbow::http=debug". rmcp would log each mistake of an agent as a warning.
        filter: String = "info,rmcp=error".to_owned(), Text;
        /// Share of requests without a bid whose reasons are logged.
        no_bid_sample: f64 = 0.001, Float(0.0, 1.0);
    }
}

section! {
    /// The demo world.
    Demo "demo" {
        /// Seed of everything in it.
        seed: u64 = 1, Int(0, i64::MAX);
        /// Items with content vectors.
        items: usize = 100_000, Int(10, 10_000_000);
        /// Plans.
        plans: usize = 2_000, Int(1, 100_000);
        /// Creatives.
        creatives: usize = 10_000, Int(1, 1_000_000);
        /// Users.
        users: usize = 20_000, Int(1, 10_000_000);
        /// Users with a history of `long_events`.
        long_users: usize = 200, Int(0, 1_000_000);
        /// Events of a long history.
        long_events: usize = 10_000, Int(1, 1_000_000);
    }
}

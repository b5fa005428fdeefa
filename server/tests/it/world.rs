//! A whole server in this process, on ports that the system picks, over a small world made by hand.

use longbow::app::{App, Bound, Stores, serve};
use longbow::batch::DeviceHandle;
use longbow::config::Config;
use longbow::demo;
use longbow::ids::{Id, ItemKey};
use longbow::money::{Currency, Micros};
use longbow::plans::{Creative, Format, Goal, Item, Plan, PlanState, PolicyKind};
use longbow::runtime::Lifecycle;
use longbow::store::{CatalogKind, CatalogRecord, History};
use longbow_model::{Config as ModelConfig, Model, Seed};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Items of the world; ids are "1" to this, the model's own rows.
pub(crate) const ITEMS: u32 = 600;
/// Plans; plan `i` sells every item whose number leaves `i` over `PLANS`.
pub(crate) const PLANS: u32 = 12;
/// Users with a history.
pub(crate) const USERS: u32 = 20;
/// Budget of each plan.
pub(crate) const BUDGET: Micros = Micros(5_000_000);

/// A running server; stops when dropped.
pub(crate) struct World {
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The device of the model that it started with.
    pub(crate) device: DeviceHandle,
    pub(crate) dir: PathBuf,
    lifecycle: Lifecycle,
    thread: Option<JoinHandle<()>>,
}

/// An answer over the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }
}

/// One request on a connection of its own.
pub(crate) fn call(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
    let split = raw.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole answer");
    let head = String::from_utf8(raw[..split].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
    Answer { status, headers, body: raw[split + 4..].to_vec() }
}

impl World {
    /// Starts over a new directory.
    pub(crate) fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap().keep(), |_| {})
    }

    /// Starts over `dir`, filling it if it is empty.
    pub(crate) fn start(dir: PathBuf, change: impl FnOnce(&mut Config)) -> Self {
        Self::launch(dir, change, |config, inner, tell| {
            block_on(serve(config, inner, fill, move |app, bound| tell.send(told(app, bound)).unwrap()));
        })
    }

    /// Starts a small demo world over `dir`.
    pub(crate) fn demo(dir: PathBuf) -> Self {
        let small = |config: &mut Config| {
            (config.demo.items, config.demo.plans, config.demo.creatives) = (3_000, 60, 300);
            (config.demo.users, config.demo.long_users, config.demo.long_events) = (100, 3, 800);
        };
        Self::launch(dir, small, |config, inner, tell| {
            let prepare = async |config: &Config, stores: &Stores| demo::prepare(config, stores, now()).await;
            block_on(serve(config, inner, prepare, move |app, bound| tell.send(told(app, bound)).unwrap()));
        })
    }

    fn launch(
        dir: PathBuf,
        change: impl FnOnce(&mut Config),
        run: impl FnOnce(Config, Lifecycle, mpsc::SyncSender<(Bound, DeviceHandle)>) + Send + 'static,
    ) -> Self {
        let mut config = Config::default();
        config.http.listen.set_port(0);
        config.admin.listen.set_port(0);
        config.data.dir.clone_from(&dir);
        config.drain.delay_ms = 0;
        config.auction.tick_ms = 50;
        config.auction.tmax_default_ms = 2_000;
        change(&mut config);
        let lifecycle = Lifecycle::new();
        let (tell, told) = mpsc::sync_channel(1);
        let inner = lifecycle.clone();
        let thread = std::thread::spawn(move || run(config, inner, tell));
        let (bound, device) = told.recv_timeout(Duration::from_secs(60)).expect("the server starts");
        Self { http: bound.http, admin: bound.admin, device, dir, lifecycle, thread: Some(thread) }
    }

    /// Stops in order and starts again over the same directory.
    pub(crate) fn restart(mut self) -> Self {
        self.stop();
        Self::start(self.dir.clone(), |_| {})
    }

    fn stop(&mut self) {
        self.lifecycle.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn post(&self, path: &str, body: impl ToString) -> Answer {
        call(self.http, "POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        call(self.http, "GET", path, &[], b"")
    }

    pub(crate) fn admin(&self, method: &str, path: &str, body: impl ToString) -> Answer {
        call(self.admin, method, path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// A plan's money.
    pub(crate) fn balance(&self, plan: &str) -> Value {
        self.admin("GET", &format!("/v1/plans/{plan}/balance"), "").json()
    }
}

fn told(app: &App, bound: Bound) -> (Bound, DeviceHandle) {
    (bound, app.generation().device.clone())
}

fn block_on(served: impl Future<Output = anyhow::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(served).unwrap();
}

impl Drop for World {
    fn drop(&mut self) {
        self.lifecycle.stop();
        if let Some(thread) = self.thread.take() {
            // A failed test must not hang on a server that failed too.
            let _ = thread.join();
        }
    }
}

/// Shapes of a model that knows the items 1 to `items`.
pub(crate) fn model_config(items: u32) -> ModelConfig {
    serde_json::from_value(serde_json::json!({
        "max_sequence_len": 256, "max_output_len": 4, "embedding_dim": 24, "item_embedding_dim": 16,
        "action_embedding_dim": 8, "num_actions": 8, "num_blocks": 2, "num_heads": 2, "attention_dim": 12,
        "linear_dim": 12, "num_items": items, "num_time_buckets": 128, "normalization": "rel_bias",
        "linear_activation": "silu", "concat_ua": false, "epsilon": 1e-6, "num_tasks": 3
    }))
    .unwrap()
}

/// The catalogue's records: banners in three sizes, a video and a native creative for every plan.
pub(crate) fn records() -> (Vec<Item>, Vec<Plan>, Vec<Creative>) {
    let items = (1..=ITEMS).map(|number| Item {
        id: Id::from(&*number.to_string()),
        title: format!("Thing <{number}> \"quoted\""),
        categories: vec![format!("IAB{}", number % 20 + 1)],
        price_micros: Micros(50_000_000 + i64::from(number) * 10_000),
        url: format!("https://shop.example/item/{number}?a=1&b=2"),
        image_url: format!("https://img.example/{number}.jpg"),
        vector: Vec::new(),
    });
    let plans = (0..PLANS).map(|number| Plan {
        id: Id::from(&*format!("plan-{number}")),
        name: format!("Plan {number}"),
        advertiser: Id::from(&*format!("adv-{}", number / 2)),
        domain: format!("shop-{number}.example"),
        seat: Some(format!("seat-{}", number % 3)),
        deals: if number == 3 { vec!["deal-3".to_owned()] } else { Vec::new() },
        budget_micros: BUDGET,
        currency: Currency::USD,
        goal: if number % 2 == 0 { Goal::Cpc { target_micros: Micros(400_000) } } else { Goal::Roi { target: 2.0 } },
        max_bid_micros: Micros(20_000),
        starts_at: 0,
        ends_at: 4_102_444_800,
        state: PlanState::Active,
        policy: PolicyKind::Fixed,
        strategy: longbow::plans::Strategy::default(),
        items: (1..=ITEMS).filter(|item| item % PLANS == number).map(|item| Id::from(&*item.to_string())).collect(),
    });
    (items.collect(), plans.collect(), (0..PLANS).flat_map(creatives).collect())
}

fn creatives(plan: u32) -> Vec<Creative> {
    let image_url = format!("https://img.example/ad-{plan}.png");
    let banner = |w, h| Format::Banner { w, h, image_url: image_url.clone() };
    let video = |duration_s| Format::Video {
        w: 640,
        h: 360,
        duration_s,
        mime: "video/mp4".to_owned(),
        media_url: format!("https://img.example/ad-{plan}.mp4"),
    };
    let native = Format::Native {
        title: format!("Buy from plan {plan}"),
        description: "Good & cheap".to_owned(),
        image_url: image_url.clone(),
        icon_url: format!("https://img.example/icon-{plan}.png"),
        cta: "Buy now".to_owned(),
    };
    let forms =
        [banner(300, 250), banner(300, 250), banner(728, 90), banner(320, 50), banner(300, 600), video(15), native];
    forms
        .into_iter()
        .enumerate()
        .map(|(at, format)| Creative {
            id: Id::from(&*format!("cr-{plan}-{at}")),
            plan: Id::from(&*format!("plan-{plan}")),
            item: None,
            attributes: if at == 0 { vec![6] } else { Vec::new() },
            language: None,
            elements: Default::default(),
            format,
        })
        .collect()
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().cast_signed()
}

/// Fills an empty data directory.
async fn fill(config: &Config, stores: &Stores) -> anyhow::Result<()> {
    let model = config.data.dir.join("model.safetensors");
    if model.exists() {
        return Ok(());
    }
    Model::seeded(model_config(ITEMS), &Seed { seed: 7, content_dim: None, head_hidden: 16 })?.save(&model)?;
    let (items, plans, creatives) = records();
    let mut rows = Vec::new();
    let mut push = |kind, id: &Id, json: Vec<u8>| rows.push(CatalogRecord { kind, id: id.clone(), json });
    items.iter().for_each(|item| push(CatalogKind::Item, &item.id, serde_json::to_vec(item).unwrap()));
    plans.iter().for_each(|plan| push(CatalogKind::Plan, &plan.id, serde_json::to_vec(plan).unwrap()));
    creatives.iter().for_each(|one| push(CatalogKind::Creative, &one.id, serde_json::to_vec(one).unwrap()));
    stores.records.put_many(rows).await?;
    let now = now();
    let histories = (1..=USERS).map(|user| {
        let mut history = History::default();
        let events = user * 12;
        for event in 0..events {
            let item = i64::from((user * 37 + event * event) % ITEMS + 1);
            history.push(ItemKey(item), u16::try_from(event % 6 + 1).unwrap(), now - i64::from(events - event) * 600);
        }
        (Id::from(&*format!("u{user}")), history)
    });
    stores.users.import(histories.collect()).await?;
    Ok(())
}

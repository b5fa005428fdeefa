//! The requests of a load run, drawn from a seed: an exchange's bid requests, a feed's ranking requests, or both.

use anyhow::{Context, bail};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Traffic {
    /// `POST /openrtb2/bid`
    Openrtb,
    /// `POST /v1/rank`
    Feed,
    /// Nine bid requests in ten, one ranking
    Mix,
}

/// Which requests are drawn.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Recipe {
    /// What to send
    #[arg(long, value_enum, default_value = "mix")]
    pub(crate) traffic: Traffic,
    /// Bid requests to vary (JSON lines) in place of the built-in ones
    #[arg(long)]
    requests: Option<PathBuf>,
    /// Users drawn from: PREFIX00001 to PREFIX followed by this number
    #[arg(long, default_value_t = 20_000)]
    users: u32,
    /// Prefix of user ids (the demo world's by default)
    #[arg(long, default_value = "user-")]
    user_prefix: String,
    /// Deadline sent with each request (`tmax`); of several (30,200), each request draws one
    #[arg(long, value_delimiter = ',', default_value = "100")]
    tmax_ms: Vec<u32>,
    /// Items asked of a ranking
    #[arg(long, default_value_t = 20)]
    k: u32,
    /// Seed of arrivals, users and requests
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Recipe {
    /// The same with another seed.
    pub(crate) fn with_seed(&self, seed: u64) -> Self {
        Self { seed, ..self.clone() }
    }

    /// Draws a user. A square law: some come back far more often than others, as real ones do.
    pub(crate) fn user(&self, rng: &mut StdRng) -> String {
        let uniform: f64 = rng.random();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below users, which is a u32")]
        let user = (uniform * uniform * f64::from(self.users)) as u32 + 1;
        format!("{}{user:05}", self.user_prefix)
    }
}

/// One request to send.
pub(crate) struct Draw {
    pub(crate) path: &'static str,
    pub(crate) body: Bytes,
    /// Its deadline, as sent.
    pub(crate) tmax_ms: u32,
}

/// What a run's requests are made from.
pub(crate) struct Source {
    recipe: Recipe,
    templates: Vec<Value>,
    rng: StdRng,
    sent: u64,
}

/// Banner sizes in the proportions that real requests show.
const SIZES: [(u32, u32); 6] = [(300, 250), (300, 250), (728, 90), (320, 50), (300, 600), (160, 600)];

impl Source {
    /// A source of requests by `recipe`.
    pub(crate) fn new(recipe: &Recipe) -> anyhow::Result<Self> {
        let templates = match &recipe.requests {
            Some(path) => read_templates(path)?,
            None => built_in_templates(),
        };
        if recipe.users == 0 {
            bail!("--users 0: must be at least 1");
        }
        if recipe.tmax_ms.is_empty() {
            bail!("--tmax-ms: must name a deadline");
        }
        Ok(Self { recipe: recipe.clone(), templates, rng: StdRng::seed_from_u64(recipe.seed), sent: 0 })
    }

    /// The next request.
    pub(crate) fn next_request(&mut self) -> Draw {
        self.sent += 1;
        let user = self.recipe.user(&mut self.rng);
        let feed = match self.recipe.traffic {
            Traffic::Openrtb => false,
            Traffic::Feed => true,
            Traffic::Mix => self.rng.random_ratio(1, 10),
        };
        let tmax_ms = match self.recipe.tmax_ms.len() {
            1 => self.recipe.tmax_ms[0],
            several => self.recipe.tmax_ms[self.rng.random_range(0..several)],
        };
        if feed {
            let body = json!({"user": user, "k": self.recipe.k, "deadline_ms": tmax_ms});
            return Draw { path: "/v1/rank", body: body.to_string().into(), tmax_ms };
        }
        let pick = self.rng.random_range(0..self.templates.len());
        let mut body = self.templates[pick].clone();
        body["id"] = format!("load-{}-{:08x}", self.sent, self.rng.next_u32()).into();
        body["tmax"] = tmax_ms.into();
        if !body["user"].is_object() {
            body["user"] = json!({});
        }
        body["user"]["id"] = user.into();
        Draw { path: "/openrtb2/bid", body: body.to_string().into(), tmax_ms }
    }
}

fn read_templates(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut templates = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), number + 1))?;
        if !value.is_object() {
            bail!("{} line {}: a bid request is a JSON object", path.display(), number + 1);
        }
        templates.push(value);
    }
    if templates.is_empty() {
        bail!("{}: holds no request", path.display());
    }
    Ok(templates)
}

fn built_in_templates() -> Vec<Value> {
    let site =
        json!({"id": "s1", "domain": "news.example", "page": "https://news.example/a", "publisher": {"id": "p1"}});
    let mut templates: Vec<Value> = SIZES
        .iter()
        .map(|&(w, h)| {
            json!({"imp": [{"id": "1", "banner": {"format": [{"w": w, "h": h}]}, "bidfloor": 0.05}],
                   "site": site, "at": 1, "cur": ["USD"], "bcat": ["IAB25"]})
        })
        .collect();
    templates.push(json!({"imp": [{"id": "1", "video": {"mimes": ["video/mp4"], "w": 640, "h": 360, "minduration": 5,
        "maxduration": 30, "protocols": [2, 3, 5, 6]}, "bidfloor": 0.1}], "site": site, "at": 2}));
    let native = json!({"ver": "1.2", "assets": [{"id": 1, "required": 1, "title": {"len": 90}},
        {"id": 2, "required": 1, "img": {"type": 3, "wmin": 100, "hmin": 100}}]});
    templates.push(json!({"imp": [{"id": "1", "native": {"request": native.to_string(), "ver": "1.2"}}], "app": {"id": "a1"}, "at": 1}));
    templates
}

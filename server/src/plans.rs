//! The catalogue's records: plans, items and creatives, as the admin API takes and shows them.
//!
//! Every record is plain data with a [`validate`](Plan::validate) that names the field and the fix. The immutable,
//! indexed form that requests read is [`crate::catalog::Catalog`].

mod element;
mod experiment;
mod goal;
mod lists;
mod strategy;

pub use element::{ELEMENT_CHARS_MAX, ELEMENTS_MAX, Element, Part};
pub use experiment::{Arm, Experiment};
pub use goal::Goal;
pub use lists::{PLAN_DEALS_MAX, PLAN_NAME_CHARS_MAX};
pub use strategy::{COSTS_MAX, CostItem, DAY_SHARES_MAX, Strategy};

use crate::ids::Id;
use crate::money::{Currency, Micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A field of a record that breaks a rule: shown to the caller as `field: fault`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct FieldError {
    /// JSON path of the field, for example `goal.roi.target`.
    pub field: String,
    /// What is wrong and what would be right.
    pub fault: String,
}

impl FieldError {
    /// An error on `field`.
    pub fn new(field: impl Into<String>, fault: impl Into<String>) -> Self {
        Self { field: field.into(), fault: fault.into() }
    }
}

/// How a plan's bids are controlled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// Multiplier 1, always.
    Fixed,
    /// A PID on spend against its schedule and on return against its target.
    #[default]
    Pid,
    /// Model predictive control: spend and value forecast to the end, both constraints solved at each tick.
    Mpc,
    /// The same, with an offline-trained policy that moves the multiplier inside the solver's band.
    #[serde(rename = "mpc+rl")]
    MpcRl,
}

impl Plan {
    /// The period that the budget is planned for at `now`: what may be spent by its end in all, and that end. The whole plan,
    /// or one day of it where days have shares.
    #[must_use]
    pub fn period(&self, now: f64) -> (Micros, i64) {
        const DAY_S: i64 = 86_400;
        let days = &self.strategy.day_shares;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a day's number and a budget; `as` saturates"
        )]
        let day = ((now - self.starts_at as f64) / DAY_S as f64).floor().max(0.0) as usize;
        if day >= days.len() {
            return (self.budget_micros, self.ends_at);
        }
        let share: f64 = days[..=day].iter().sum();
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "below the budget")]
        let allowance = (self.budget_micros.0 as f64 * share.min(1.0)).floor() as i64;
        let end = self.starts_at.saturating_add(DAY_S.saturating_mul(i64::try_from(day).unwrap_or(i64::MAX) + 1));
        (Micros(allowance).min(self.budget_micros), end.min(self.ends_at))
    }
}

/// Whether a plan takes part in auctions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// Bids while in schedule and budget.
    #[default]
    Active,
    /// Kept, but does not bid.
    Paused,
}

/// An advertiser's plan: a budget, a goal and products.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Identifier.
    pub id: Id,
    /// Shown to people.
    #[serde(default)]
    pub name: String,
    /// Who pays.
    pub advertiser: Id,
    /// Landing domain checked against `badv` and sent as `adomain`.
    pub domain: String,
    /// Buyer seat checked against `wseat`, `bseat` and a deal's `wseat`; sent as `seatbid.seat`.
    #[serde(default)]
    pub seat: Option<String>,
    /// Deal ids this plan may buy through.
    #[serde(default)]
    pub deals: Vec<String>,
    /// Total budget, micros of `currency`.
    pub budget_micros: Micros,
    /// Currency of the budget, the goal and every figure of the plan.
    #[serde(default = "usd")]
    pub currency: Currency,
    /// What the money should bring.
    pub goal: Goal,
    /// Highest bid for one impression, micros of `currency`.
    pub max_bid_micros: Micros,
    /// First second (Unix time) at which the plan bids.
    #[serde(default)]
    pub starts_at: i64,
    /// First second at which it no longer bids.
    #[serde(default = "forever")]
    pub ends_at: i64,
    /// On or off.
    #[serde(default)]
    pub state: PlanState,
    /// Control of the multiplier.
    #[serde(default)]
    pub policy: PolicyKind,
    /// Items it sells; each must exist.
    pub items: Vec<Id>,
    /// Day shares and costs.
    #[serde(default)]
    pub strategy: Strategy,
}

fn usd() -> Currency {
    Currency::USD
}
fn forever() -> i64 {
    4_102_444_800 // 2100-01-01
}

/// Highest `max_bid_micros`: a thousand units for one impression, which is the highest CPM that OpenRTB prices are read up to.
pub const MAX_BID_MAX: Micros = Micros(1_000_000_000);
/// Most items a plan may list.
pub const PLAN_ITEMS_MAX: usize = 100_000;

impl Plan {
    /// Checks every rule that needs no other record.
    pub fn validate(&self) -> Result<(), FieldError> {
        let positive = |field: &str, amount: Micros| {
            if amount.0 > 0 { Ok(()) } else { Err(FieldError::new(field, "must be above 0 micros")) }
        };
        positive("budget_micros", self.budget_micros)?;
        positive("max_bid_micros", self.max_bid_micros)?;
        if self.max_bid_micros > MAX_BID_MAX {
            let fault = format!("is for one impression: at most {} micros, {MAX_BID_MAX} units", MAX_BID_MAX.0);
            return Err(FieldError::new("max_bid_micros", fault));
        }
        match self.goal {
            Goal::Roi { target } if !(target > 0.0 && target <= 1e4) => {
                return Err(FieldError::new("goal.roi.target", "must be above 0 and at most 10000, as in 3.0"));
            }
            Goal::Roi { .. } => {}
            Goal::Cpa { target_micros } => positive("goal.cpa.target_micros", target_micros)?,
            Goal::Cpc { target_micros } => positive("goal.cpc.target_micros", target_micros)?,
        }
        if self.starts_at >= self.ends_at {
            return Err(FieldError::new("ends_at", "must be later than starts_at"));
        }
        if self.domain.is_empty() || self.domain.contains(['/', ' ', ':']) {
            return Err(FieldError::new("domain", "must be a bare domain, as in \"shop.example\""));
        }
        if self.items.is_empty() || self.items.len() > PLAN_ITEMS_MAX {
            return Err(FieldError::new("items", format!("must list 1 to {PLAN_ITEMS_MAX} item ids")));
        }
        self.strategy.validate()
    }
}

/// Something that can be advertised or ranked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Identifier: the one histories use.
    pub id: Id,
    /// Shown in creatives.
    #[serde(default)]
    pub title: String,
    /// Content categories (IAB codes such as `IAB1-2`), checked against `bcat`.
    #[serde(default)]
    pub categories: Vec<String>,
    /// Price of one order, micros of the currency of the plan that sells it.
    #[serde(default)]
    pub price_micros: Micros,
    /// Where a click leads. http or https.
    #[serde(default)]
    pub url: String,
    /// Picture for native and composed creatives.
    #[serde(default)]
    pub image_url: String,
    /// Content vector, as many numbers as the model's content is wide. Items the model was trained on may leave it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vector: Vec<f32>,
}

/// Lengths of content vectors that can be served: a vector without a direction matches nothing, and beyond the upper end squares leave f32.
const VECTOR_LENGTHS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

impl Item {
    /// Checks every rule that needs no other record; `dimension` is the width of the model's content.
    pub fn validate(&self, dimension: usize) -> Result<(), FieldError> {
        if !self.vector.is_empty() && self.vector.len() != dimension {
            return Err(FieldError::new(
                "vector",
                format!("has {} numbers; the model's content vectors have {dimension}", self.vector.len()),
            ));
        }
        if self.vector.iter().any(|x| !x.is_finite()) {
            return Err(FieldError::new("vector", "must hold finite numbers only"));
        }
        let length = self.vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if !self.vector.is_empty() && !VECTOR_LENGTHS.contains(&length) {
            let (least, most) = (VECTOR_LENGTHS.start(), VECTOR_LENGTHS.end());
            return Err(FieldError::new(
                "vector",
                format!("has length {length:.3e}; it must be from {least:e} to {most:e}"),
            ));
        }
        if self.price_micros.0 < 0 {
            return Err(FieldError::new("price_micros", "must not be negative"));
        }
        for (field, url) in [("url", &self.url), ("image_url", &self.image_url)] {
            if !(url.is_empty() || url.starts_with("https://") || url.starts_with("http://")) {
                return Err(FieldError::new(field, "must start with https:// or http://"));
            }
        }
        Ok(())
    }
}

/// The form in which a creative can be shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case", deny_unknown_fields)]
pub enum Format {
    /// An image in HTML.
    Banner {
        /// Width in density-independent pixels.
        w: u32,
        /// Height.
        h: u32,
        /// Picture. http or https.
        image_url: String,
    },
    /// A VAST in-line ad.
    Video {
        /// Width in pixels.
        w: u32,
        /// Height.
        h: u32,
        /// Length in seconds.
        duration_s: u32,
        /// MIME type of the media file, for example `video/mp4`.
        mime: String,
        /// Media file.
        media_url: String,
    },
    /// Native assets.
    Native {
        /// Headline.
        title: String,
        /// Text.
        #[serde(default)]
        description: String,
        /// Main picture.
        image_url: String,
        /// Icon.
        #[serde(default)]
        icon_url: String,
        /// Call to action, for example `Buy now`.
        #[serde(default)]
        cta: String,
    },
}

/// One creative of a plan; shown for any item of the plan, or for one item only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Creative {
    /// Identifier, sent as `crid`.
    pub id: Id,
    /// Plan it belongs to.
    pub plan: Id,
    /// Only for this item, if given.
    #[serde(default)]
    pub item: Option<Id>,
    /// Creative attributes (OpenRTB list 5.3 / AdCOM), checked against `battr`.
    #[serde(default)]
    pub attributes: Vec<u32>,
    /// ISO-639-1 language, if it matters.
    #[serde(default)]
    pub language: Option<String>,
    /// Alternatives for its parts: if there are any, each impression shows one composition of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elements: BTreeMap<Id, Element>,
    /// The form.
    #[serde(flatten)]
    pub format: Format,
}

impl Creative {
    /// Checks every rule that needs no other record.
    pub fn validate(&self) -> Result<(), FieldError> {
        let url = |field: &str, url: &str, required: bool| {
            let web = url.starts_with("https://") || url.starts_with("http://");
            if web || (!required && url.is_empty()) {
                Ok(())
            } else {
                Err(FieldError::new(field, "must start with https:// or http://"))
            }
        };
        let size = |w: u32, h: u32| {
            if (1..=10_000).contains(&w) && (1..=10_000).contains(&h) {
                Ok(())
            } else {
                Err(FieldError::new("w, h", "must be 1 to 10000"))
            }
        };
        match &self.format {
            Format::Banner { w, h, image_url } => {
                size(*w, *h)?;
                url("image_url", image_url, true)?;
            }
            Format::Video { w, h, duration_s, mime, media_url } => {
                size(*w, *h)?;
                if !(1..=3_600).contains(duration_s) {
                    return Err(FieldError::new("duration_s", "must be 1 to 3600 seconds"));
                }
                if !mime.starts_with("video/") {
                    return Err(FieldError::new("mime", "must be a video type, as in \"video/mp4\""));
                }
                url("media_url", media_url, true)?;
            }
            Format::Native { title, image_url, icon_url, .. } => {
                if title.is_empty() {
                    return Err(FieldError::new("title", "must not be empty"));
                }
                url("image_url", image_url, true)?;
                url("icon_url", icon_url, false)?;
            }
        }
        self.validate_elements()
    }
}

//! What was learned of creatives: `GET /v1/creatives/{id}/learned` and `GET /v1/creatives:learned?plan=`.

use super::records;
use crate::app::App;
use crate::auction::choose::ElementFigures;
use crate::catalog::Catalog;
use crate::http::respond::{self, Fault};
use crate::http::{Request, Response, path_id};
use crate::ids::{CreativeSlot, Id};
use hyper::StatusCode;
use serde::Serialize;

/// Figures of one creative.
#[derive(Debug, Serialize)]
pub(super) struct Learned {
    creative: Id,
    plan: Id,
    /// Impressions and clicks remembered: both fade with time.
    pub(super) impressions: f64,
    pub(super) clicks: f64,
    /// Posterior of its click rate for any user, apart from its elements: mean and standard deviation.
    pub(super) expected: f64,
    pub(super) deviation: f64,
    /// The same of what each element adds to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) elements: Vec<ElementFigures>,
}

/// A page of them, by id.
#[derive(Serialize)]
struct LearnedPage {
    creatives: Vec<Learned>,
    /// Pass it as `after` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Id>,
    /// All creatives of the plan.
    total: usize,
}

/// Path of those of a plan.
pub(crate) const OF_PLAN: &str = "/v1/creatives:learned";

/// The creative that a path `/v1/creatives/{id}/learned` names, still encoded.
pub(crate) fn named(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/creatives/")?.strip_suffix("/learned").filter(|id| !id.contains('/'))
}

/// One creative's figures.
pub(crate) fn one(app: &App, id: &str) -> Result<Response, Fault> {
    let id = path_id(id)?;
    let catalog = app.catalog.snapshot();
    let slot = catalog.creative_slot(&Id::from(&*id));
    let figures = slot.and_then(|slot| figures(app, &catalog, slot));
    Ok(respond::json(StatusCode::OK, &figures.ok_or_else(|| Fault::not_found(&format!("creative `{id}`")))?))
}

/// Those of a plan's creatives, by id.
pub(crate) fn of_plan(app: &App, request: &Request) -> Result<Response, Fault> {
    let plan = request.query("plan").ok_or_else(|| Fault::invalid("plan", "is missing: name the plan"))?;
    let limit = records::limit(request, app.config.admin.page_max)?;
    let catalog = app.catalog.snapshot();
    let entry = catalog.plan_slot(&Id::from(&*plan)).and_then(|slot| catalog.plan(slot));
    let entry = entry.ok_or_else(|| Fault::not_found(&format!("plan `{plan}`")))?;
    let id = |slot: &CreativeSlot| catalog.creative(*slot).map(|entry| entry.record.id.clone());
    let mut creatives: Vec<(Id, CreativeSlot)> =
        entry.creatives.iter().filter_map(|slot| Some((id(slot)?, *slot))).collect();
    creatives.sort_unstable();
    let total = creatives.len();
    if let Some(after) = request.query("after") {
        let after = Id::from(&*after);
        creatives.retain(|(id, _)| *id > after);
    }
    let more = creatives.len() > limit;
    creatives.truncate(limit);
    let next = creatives.last().filter(|_| more).map(|(id, _)| id.clone());
    let creatives = creatives.iter().filter_map(|(_, slot)| figures(app, &catalog, *slot)).collect();
    Ok(respond::json(StatusCode::OK, &LearnedPage { creatives, next, total }))
}

/// What was learned of one creative: the one place that API, agents and pages have it from.
pub(super) fn figures(app: &App, catalog: &Catalog, slot: CreativeSlot) -> Option<Learned> {
    let entry = catalog.creative(slot)?;
    let seen = app.chooser.seen(slot);
    let (expected, deviation) = app.chooser.expected(entry, slot);
    Some(Learned {
        creative: entry.record.id.clone(),
        plan: entry.record.plan.clone(),
        impressions: seen.impressions,
        clicks: seen.clicks,
        expected,
        deviation,
        elements: app.chooser.elements(entry),
    })
}

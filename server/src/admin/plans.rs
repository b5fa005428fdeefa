//! What is said about a plan: figures, creatives with their posteriors, diagnosis, forecast.

use super::desk::Desk;
use super::forecast::{Ask, Base, Outlook, outlook};
use super::tokens::{Caller, Role};
use super::{CatalogAdmin, Kind, learned};
use crate::auction::choose::ElementFigures;
use crate::auction::diagnose::{Diagnosis, NotEnough, diagnose};
use crate::http::respond::Fault;
use crate::ids::Id;
use crate::money::{Currency, Micros};
use crate::plans::{Goal, Plan};
use crate::reports::{Figures, Grouping, factor};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Plans of a forecast's sample at most.
const SAMPLE_MAX: usize = 500;
/// Figures of other advertisers are used only as a mean over at least this many plans of this many advertisers.
const OTHERS_MIN: (usize, usize) = (5, 3);
/// How far back a forecast looks.
const LOOK_BACK_S: i64 = 7 * DAY;

/// Latest second that a query may name (the year 9999): sums with it cannot overflow.
const TIME_MAX: i64 = 253_402_300_799;

/// Two times of a query, in whole hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Span {
    /// Reads both; what is left out is `last` seconds up to the end of the running hour.
    pub(super) fn read(
        from: Option<i64>,
        to: Option<i64>,
        (now, last): (i64, i64),
        names: [&str; 2],
    ) -> Result<Self, Fault> {
        let end = (now.div_euclid(HOUR) + 1) * HOUR;
        let to = to.unwrap_or(end);
        let from = from.unwrap_or(to - last);
        for (time, name) in [(from, names[0]), (to, names[1])] {
            if !(0..=TIME_MAX).contains(&time) {
                return Err(Fault::invalid(name, format!("must be Unix seconds from 0 to {TIME_MAX}")));
            }
        }
        // Hours are the finest there is: outwards to whole ones.
        let span = Self { from: from.div_euclid(HOUR) * HOUR, to: (to + HOUR - 1).div_euclid(HOUR) * HOUR };
        if from >= to {
            return Err(Fault::invalid(names[1], format!("must be later than {}", names[0])));
        }
        Ok(span)
    }
}

/// Figures of a plan.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    plan: String,
    currency: Currency,
    from: i64,
    to: i64,
    rows: Vec<Figures>,
    total: Figures,
}

/// A creative and what is known of its click rate.
#[derive(Debug, Serialize)]
pub(super) struct Posterior {
    creative: Value,
    /// Impressions that the chooser remembers.
    impressions: f64,
    clicks: f64,
    click_rate: Band,
    /// What each of its elements adds to the click rate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elements: Vec<ElementFigures>,
}

/// The middle of a posterior and the range that holds it in nine of ten cases.
#[derive(Debug, Serialize)]
struct Band {
    low: f64,
    mean: f64,
    high: f64,
}

/// A diagnosis and what it compares.
#[derive(Debug, Serialize)]
pub(super) struct Diagnosed {
    plan: String,
    currency: Currency,
    before: Value,
    after: Value,
    #[serde(flatten)]
    diagnosis: Diagnosis,
}

/// What a dry run is asked for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForecastAsk {
    /// An existing plan that this would change; its own figures come first.
    #[serde(default)]
    plan: Option<Id>,
    budget_micros: Micros,
    goal: Goal,
    #[serde(default)]
    max_bid_micros: Option<Micros>,
    #[serde(default)]
    currency: Option<Currency>,
    /// Days over which the budget is to be spent.
    #[serde(default)]
    days: Option<f64>,
}

/// The answer of a dry run.
#[derive(Debug, Serialize)]
pub(super) struct Forecast {
    based_on: BasedOn,
    /// `null` where no figure of any plan supports a number.
    expected: Option<Outlook>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BasedOn {
    /// `this_plan`, `own_plans`, `similar_plans` or `nothing`.
    scope: &'static str,
    plans: usize,
    impressions: f64,
    conversions: f64,
    from: i64,
    to: i64,
}

impl<C: CatalogAdmin> Desk<C> {
    async fn plan(&self, caller: &Caller, id: &str) -> Result<Plan, Fault> {
        let record = self.get(caller, Kind::Plans, id).await?;
        serde_json::from_value(record).map_err(|error| {
            Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("a stored plan cannot be read: {error}"))
        })
    }

    /// Figures of a plan by hour, channel or creative.
    pub(super) async fn figures(&self, caller: &Caller, id: &str, span: Span, by: Grouping) -> Result<Report, Fault> {
        let plan = self.plan(caller, id).await?;
        let app = self.rooms()?;
        app.reports.settle(&app.catalog.snapshot());
        let rows = app.reports.figures(&plan.id, span.from, span.to, by);
        let total = app.reports.figures(&plan.id, span.from, span.to, Grouping::Total);
        let total =
            total.into_iter().next().unwrap_or_else(|| Figures { key: "total".to_owned(), ..Figures::default() });
        Ok(Report { plan: id.to_owned(), currency: plan.currency, from: span.from, to: span.to, rows, total })
    }

    /// Creatives of a plan with the posterior of their click rate.
    pub(super) async fn creatives(&self, caller: &Caller, id: &str) -> Result<Value, Fault> {
        let plan = self.plan(caller, id).await?;
        let app = self.rooms()?;
        let catalog = app.catalog.snapshot();
        let slots =
            catalog.plan_slot(&plan.id).and_then(|slot| catalog.plan(slot)).map(|entry| entry.creatives.clone());
        let mut list = Vec::new();
        for &slot in slots.iter().flat_map(|slots| slots.iter()).take(1_000) {
            let Some(entry) = catalog.creative(slot) else { continue };
            let Some(learned) = learned::figures(app, &catalog, slot) else { continue };
            list.push(Posterior {
                creative: serde_json::to_value(&*entry.record).unwrap_or_default(),
                impressions: learned.impressions,
                clicks: learned.clicks,
                click_rate: band(learned.expected, learned.deviation),
                elements: learned.elements,
            });
        }
        Ok(json!({ "plan": id, "creatives": list }))
    }

    /// Why the return changed between two periods.
    pub(super) async fn diagnosis(
        &self,
        caller: &Caller,
        id: &str,
        spans: Option<(Span, Span)>,
    ) -> Result<Diagnosed, Fault> {
        let plan = self.plan(caller, id).await?;
        let app = self.rooms()?;
        app.reports.settle(&app.catalog.snapshot());
        let too_little = |text: &str| Fault::new(StatusCode::CONFLICT, "not_enough", text);
        let (before, after) = match spans {
            Some(spans) => spans,
            None => self.halves(&plan.id).ok_or_else(|| {
                too_little("the plan has no two hours of figures yet; name the periods, or come back later")
            })?,
        };
        let period = |span: Span| app.reports.period(&plan.id, span.from, span.to.min(self.hour_end()));
        let (Some(then), Some(now)) = (period(before), period(after)) else {
            return Err(too_little("the plan has no figures yet"));
        };
        let diagnosis = diagnose(&then, &now).map_err(|error: NotEnough| too_little(&error.to_string()))?;
        let told = |span: Span| json!({ "from": span.from, "to": span.to });
        Ok(Diagnosed {
            plan: id.to_owned(),
            currency: plan.currency,
            before: told(before),
            after: told(after),
            diagnosis,
        })
    }

    fn hour_end(&self) -> i64 {
        (self.now().div_euclid(HOUR) + 1) * HOUR
    }

    /// The last day and the day before it; of a younger plan its two halves.
    fn halves(&self, plan: &Id) -> Option<(Span, Span)> {
        let (first, last) = self.rooms().ok()?.reports.span(plan)?;
        let last = last.min(self.hour_end());
        let half = ((last - first) / 2).div_euclid(HOUR).clamp(0, 24) * HOUR;
        let middle = last - half;
        (half > 0).then(|| (Span { from: middle - half, to: middle }, Span { from: middle, to: last }))
    }

    /// What a budget and a target would bring.
    pub(super) async fn forecast(&self, caller: &Caller, ask: ForecastAsk) -> Result<Forecast, Fault> {
        if caller.role == Role::Ingest {
            return Err(super::desk::forbidden("the role ingest reads and writes items only"));
        }
        if ask.budget_micros.0 <= 0 || ask.max_bid_micros.is_some_and(|bid| bid.0 <= 0) {
            return Err(Fault::invalid("budget_micros", "budget_micros and max_bid_micros must be above 0"));
        }
        if !(factor(&ask.goal).is_finite() && factor(&ask.goal) > 0.0) {
            return Err(Fault::invalid("goal", "the target must be above 0"));
        }
        let own = match &ask.plan {
            Some(id) => Some(self.plan(caller, id.as_str()).await?),
            None => None,
        };
        let left = own
            .as_ref()
            .map(|plan| plan.ends_at - self.now().max(plan.starts_at))
            .filter(|s| (HOUR..=60 * DAY).contains(s));
        #[expect(clippy::cast_precision_loss, reason = "seconds of at most two months")]
        let days = ask.days.or(left.map(|seconds| seconds as f64 / DAY as f64)).unwrap_or(7.0);
        if !(days.is_finite() && (0.04..=366.0).contains(&days)) {
            return Err(Fault::invalid("days", "must be 0.04 (an hour) to 366"));
        }
        let app = self.rooms()?;
        app.reports.settle(&app.catalog.snapshot());
        let (scope, sample, span) = self.sample(caller, &ask, own.as_ref())?;
        let sum = |of: fn(&crate::auction::diagnose::ChannelFigures) -> f64| {
            // The sum of nothing is -0.0.
            sample.iter().flat_map(|base| &base.period.channels).map(of).sum::<f64>() + 0.0
        };
        let based_on = BasedOn {
            scope,
            plans: sample.len(),
            impressions: sum(|c| c.wins),
            conversions: sum(|c| c.conversions),
            from: span.from,
            to: span.to,
        };
        let mut notes = notes(&based_on);
        let wanted = Ask { budget: ask.budget_micros, goal: ask.goal.clone(), max_bid: ask.max_bid_micros, days };
        let expected = outlook(&wanted, &sample);
        if expected.as_ref().is_some_and(|outlook| outlook.bid_share < 0.999) {
            notes.push(
                "The budget is smaller than what this goal could spend: the controller will bid lower.".to_owned(),
            );
        }
        Ok(Forecast { based_on, expected, notes })
    }

    /// The plans whose figures speak for the asked one: itself, else the caller's own with this kind of goal, else everyone's, but
    /// only where no single advertiser could be read off them.
    fn sample(
        &self,
        caller: &Caller,
        ask: &ForecastAsk,
        own: Option<&Plan>,
    ) -> Result<(&'static str, Vec<Base>, Span), Fault> {
        let app = self.rooms()?;
        let end = self.hour_end();
        let span = Span { from: end - LOOK_BACK_S, to: end };
        let base = |plan: &Plan| {
            let (first, _) = app.reports.span(&plan.id)?;
            let period = app.reports.period(&plan.id, first.max(span.from), span.to)?;
            let wins: f64 = period.channels.iter().map(|channel| channel.wins).sum();
            (wins >= 10.0).then_some(Base { period })
        };
        if let Some(base) = own.and_then(base) {
            return Ok(("this_plan", vec![base], span));
        }
        let currency = ask.currency.or(own.map(|plan| plan.currency)).unwrap_or(Currency::USD);
        let catalog = app.catalog.snapshot();
        let alike = |plan: &Plan| {
            plan.currency == currency && std::mem::discriminant(&plan.goal) == std::mem::discriminant(&ask.goal)
        };
        let (mut mine, mut all, mut owners) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
        for (_, entry) in catalog.plans().filter(|(_, entry)| alike(&entry.record)) {
            if all.len() >= SAMPLE_MAX {
                break;
            }
            let Some(base) = base(&entry.record) else { continue };
            if caller.owner() == Some(&entry.record.advertiser) {
                mine.push(base.clone());
            }
            owners.insert(entry.record.advertiser.clone());
            all.push(base);
        }
        if !mine.is_empty() {
            return Ok(("own_plans", mine, span));
        }
        let hidden = caller.owner().is_some() && (all.len() < OTHERS_MIN.0 || owners.len() < OTHERS_MIN.1);
        Ok(if all.is_empty() || hidden { ("nothing", Vec::new(), span) } else { ("similar_plans", all, span) })
    }
}

fn notes(based_on: &BasedOn) -> Vec<String> {
    let what = match based_on.scope {
        "this_plan" => "Based on this plan's own figures of the last 7 days and its present controls.",
        "own_plans" => {
            "Based on the mean of your plans with this kind of goal over the last 7 days and their present controls."
        }
        "similar_plans" => {
            "Based on the mean of all plans with this kind of goal and currency over the last 7 days and their present controls; the products are not compared."
        }
        _ => "No plan with this kind of goal and currency has enough figures in the last 7 days: nothing can be said.",
    };
    let mut notes = vec![what.to_owned()];
    if based_on.scope != "nothing" {
        notes.push(
            "Eight of ten outcomes should lie in the range; clicks and orders per impression are taken to stay."
                .to_owned(),
        );
        if based_on.conversions < 30.0 {
            notes.push(format!("Only {:.0} orders stand behind the return: its range is wide.", based_on.conversions));
        }
    }
    notes
}

/// The middle of a posterior and the range of nine cases in ten, normal in the log-odds.
fn band(mean: f64, deviation: f64) -> Band {
    let mean = mean.clamp(1e-9, 1.0 - 1e-9);
    let (odds, spread) = ((mean / (1.0 - mean)).ln(), deviation / (mean * (1.0 - mean)));
    let rate = |odds: f64| 1.0 / (1.0 + (-odds).exp());
    Band { low: rate(odds - 1.645 * spread), mean, high: rate(odds + 1.645 * spread) }
}

//! What an exchange is offered: filters, the shared stages, prices, the auction inside the response, creatives, holds.

mod reasons;

pub use reasons::Reasons;

use super::{Asked, Prediction, Stop, Subject, Understood, retrieve, score, understand, user_key};
use crate::app::{App, Expected, group_of};
use crate::auction::NoBidReason;
use crate::auction::choose::{Ask, Choice, Composition, Context};
use crate::auction::pace::{Cell, Controls};
use crate::auction::price::{Market, PriceInput, Priced, Shade, Worth};
use crate::auction::select::{Candidate, Selection};
use crate::auction::slot::{Channel, Slot, Terms};
use crate::batch::Degrade;
use crate::catalog::{Catalog, Decided, Eligible};
use crate::deadline::Deadline;
use crate::http::openrtb::BidRequest;
use crate::ids::{CreativeSlot, ItemSlot, PlanSlot};
use crate::ledger::{BidId, ReserveError};
use crate::meters::{NoBid, Stage, StageTimes};
use crate::money::{Currency, Micros};
use crate::plans::Plan;
use crate::render::fits;
use longbow_model::Scores;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Instant;

/// Creatives told of in an explanation, for each bid.
const RIVALS_MAX: usize = 20;
/// Winners refused by the ledger or the final check before the rest is given up: a bound on the work of one response.
const REFUSALS_MAX: usize = 64;

/// One bid, held and ready to be written.
#[derive(Clone, Debug)]
pub struct Won {
    /// Position of its slot in the request.
    pub slot: usize,
    /// Who pays.
    pub plan: PlanSlot,
    /// What is advertised.
    pub item: ItemSlot,
    /// What is shown.
    pub creative: CreativeSlot,
    /// Its elements, if it has any.
    pub composition: Composition,
    /// The candidates it was chosen from, if the decision is explained: the strongest first, itself among them.
    pub rivals: Vec<Choice>,
    /// Its price.
    pub priced: Priced,
    /// What the model expects.
    pub prediction: Prediction,
    /// Key of its hold.
    pub bid_id: BidId,
    /// The part of the plan that bids.
    pub cell: Cell,
}

/// Who is asked for, and where: what decides which part of a plan bids.
#[derive(Clone, Copy)]
struct Visitor<'a> {
    user: &'a str,
    channel: Channel,
}

impl<'a> Visitor<'a> {
    /// Of somebody nobody may know each auction is another user.
    fn of(asked: &'a Asked, terms: &'a Terms) -> Self {
        let user = match &asked.subject {
            Subject::Known(user) => user.as_str(),
            Subject::Given(_) | Subject::Unknown => &terms.auction_id,
        };
        Self { user, channel: terms.channel }
    }

    fn cell(&self, plan: &Plan) -> Cell {
        Cell::of(plan, self.user, self.channel)
    }
}

/// Everything decided for one request.
#[derive(Debug)]
pub struct Decision {
    /// The snapshot that slots refer to.
    pub catalog: Arc<Catalog>,
    /// Bids, strongest first.
    pub bids: Vec<Won>,
    /// For whom creatives were chosen.
    pub ask: Ask,
    /// Currency of the response.
    pub currency: Currency,
    /// Why there are none, if so.
    pub no_bid: NoBid,
    /// Form of the history that was used; `None` if the model was not asked.
    pub degrade: Option<Degrade>,
    /// How often each reason turned something down, by [`NoBidReason::index`].
    pub reasons: Reasons,
}

/// How a request is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Keep the farthest reason of each plan.
    pub traced: bool,
    /// Hold money for the bids (not for `test = 1` and not for explanations).
    pub hold: bool,
}

/// A slot that may be answered, with what the later stages need of it.
struct Offer<'a> {
    position: usize,
    slot: &'a Slot,
    market: Market<'a>,
    eligible: Arc<Eligible>,
}

/// Decides a bid request. What was held is released again if the caller drops the decision unanswered only by expiry, so call
/// it when the answer will be sent.
///
/// # Errors
/// [`Stop`] when a stage could not be done; a request that simply gets no bid is a [`Decision`] without bids.
pub async fn decide(
    app: &App,
    request: &BidRequest,
    asked: &Asked,
    mode: Mode,
    times: &mut StageTimes,
) -> Result<Decision, Stop> {
    let catalog = app.catalog.snapshot();
    let controls = app.controls.load();
    let mut decision = Decision {
        catalog: Arc::clone(&catalog),
        bids: Vec::new(),
        ask: Ask::default(),
        currency: Currency::USD,
        no_bid: NoBid::NothingEligible,
        degrade: None,
        reasons: Reasons::new(mode.traced),
    };
    if request.foreign_categories() {
        // Whether an item is blocked cannot be told, so each of them may be.
        decision.no_bid = NoBid::CategoryTaxonomy;
        return Ok(decision);
    }
    let offers = offers(app, request, (&catalog, &controls), &mut decision);
    if offers.is_empty() {
        return Ok(decision);
    }
    let most = (candidates_each(app, offers.len()) * offers.len()).min(app.config.auction.candidates_max);
    let understood = understand(app, asked, (&catalog, most), times).await?;
    decision.degrade = Some(understood.degrade);
    decision.ask = ask_of(app, asked, &understood);
    let (items, scores) = candidates(app, &understood, &offers, asked, times).await?;
    if items.is_empty() {
        return Ok(decision);
    }
    let predictions = Predictions { items: &items, scores: &scores };
    let visitor = Visitor::of(asked, &request.terms);
    let mut priced = price_all((app, visitor), &predictions, (&catalog, &controls), &offers, &mut decision.reasons);
    if mode.hold {
        app.report_chances(request, &priced, &decision.reasons);
    }
    times.end(Stage::Price, Instant::now());
    decision.no_bid = decision.reasons.no_bid();
    let stage =
        Choosing { app, visitor, terms: &request.terms, offers: &offers, catalog: &catalog, predictions: &predictions };
    stage.choose(&mut priced, &mut decision, (mode, asked.deadline)).await;
    times.end(Stage::Choose, Instant::now());
    if mode.traced {
        for (plan, _) in catalog.plans().filter(|(plan, _)| offers.iter().any(|o| o.eligible.plans.get(*plan))) {
            let met = decision.reasons.by_plan().is_some_and(|trace| trace.contains_key(&plan));
            if !met && !decision.bids.iter().any(|won| won.plan == plan) {
                decision.reasons.note(Some(plan), NoBidReason::NotRetrieved);
            }
        }
    }
    Ok(decision)
}

/// What choosing knows of the user.
fn ask_of(app: &App, asked: &Asked, understood: &Understood) -> Ask {
    let user = match &asked.subject {
        Subject::Known(user) => user_key(user),
        Subject::Given(_) | Subject::Unknown => 0,
    };
    Ask { context: Context::of(&understood.query, understood.events), user, now_s: app.clock.seconds() }
}

/// The slots that some plan may answer. A request without any costs no device time.
fn offers<'a>(
    app: &'a App,
    request: &'a BidRequest,
    (catalog, controls): (&Catalog, &Controls),
    decision: &mut Decision,
) -> Vec<Offer<'a>> {
    let mut offers = Vec::new();
    let usable = request.slots.iter().enumerate().filter(|(_, slot)| slot.offers_anything());
    for (position, slot) in usable.take(app.config.auction.imps_max) {
        if slot.secure && !app.secure() {
            // Our click and impression URLs would be http in a slot that must load https only.
            decision.reasons.note(None, NoBidReason::NotSecure);
            decision.no_bid = NoBid::NotSecure;
            continue;
        }
        match Market::new(&request.terms, slot, &app.fx) {
            Ok(market) => {
                decision.currency = market.currency();
                let eligible = app.filters.get(catalog, &controls.live, &request.terms, slot);
                if eligible.item_count > 0 {
                    offers.push(Offer { position, slot, market, eligible });
                } else if eligible.exhausted {
                    decision.no_bid = NoBid::BudgetExhausted;
                }
            }
            Err(reason) => {
                decision.reasons.note(None, reason);
                decision.no_bid = NoBid::Currency;
            }
        }
    }
    if !request.slots.iter().any(Slot::offers_anything) {
        decision.no_bid = NoBid::UnsupportedImp;
    }
    offers
}

/// Candidates retrieved for each of so many slots: many share the work of about four.
fn candidates_each(app: &App, slots: usize) -> usize {
    (app.config.auction.candidates * 4 / slots.max(4)).max(16)
}

/// Retrieves for each slot and scores the union once.
async fn candidates(
    app: &App,
    understood: &Understood,
    offers: &[Offer<'_>],
    asked: &Asked,
    times: &mut StageTimes,
) -> Result<(Vec<ItemSlot>, Scores), Stop> {
    let auction = &app.config.auction;
    let k = candidates_each(app, offers.len());
    let filters = offers.iter().map(|offer| Arc::clone(&offer.eligible.items)).collect();
    let hits = retrieve(understood, filters, (k, asked.deadline), times).await?;
    let mut items: Vec<ItemSlot> = hits.iter().flat_map(|hits| hits.slots.iter().copied()).collect();
    items.sort_unstable();
    items.dedup();
    items.truncate(auction.candidates_max);
    if items.is_empty() {
        return Ok((items, Scores { tasks: 0, probs: Vec::new() }));
    }
    let scores = score(app, understood, &items, asked.deadline, times).await?;
    Ok((items, scores))
}

/// Scored items, ascending.
struct Predictions<'a> {
    items: &'a [ItemSlot],
    scores: &'a Scores,
}

impl Predictions<'_> {
    fn of(&self, item: ItemSlot) -> Prediction {
        let row = self.items.binary_search(&item).ok().filter(|&row| row < self.scores.len());
        Prediction::of(row.map_or(&[], |row| self.scores.row(row)))
    }
}

/// Order value that a prediction stands for, rounded down.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "`as` saturates, the ledger bounds amounts"
)]
fn order_value(price: Micros, prediction: Prediction) -> Micros {
    Micros((price.0 as f64 * prediction.value).floor() as i64)
}

fn price_all(
    (app, visitor): (&App, Visitor<'_>),
    predictions: &Predictions<'_>,
    (catalog, controls): (&Catalog, &Controls),
    offers: &[Offer<'_>],
    reasons: &mut Reasons,
) -> Vec<Candidate> {
    let mut priced = Vec::with_capacity(predictions.items.len() * offers.len());
    let shading = app.shades.load();
    for (position, &item) in predictions.items.iter().enumerate() {
        let Some(entry) = catalog.item(item) else { continue };
        let prediction = Prediction::of(predictions.scores.row(position));
        let order_value = order_value(entry.record.price_micros, prediction);
        for offer in offers {
            for plan in offer.eligible.plans_of(catalog, item) {
                let Some(record) = catalog.plan(plan).map(|entry| &*entry.record) else { continue };
                let input = PriceInput {
                    plan: record,
                    p_click: prediction.click,
                    p_conversion: prediction.conversion,
                    order_value,
                    multiplier: controls.multiplier_in(plan, visitor.cell(record)),
                    free: app.accounts.free(&app.ledger, plan),
                    shading: Shade::Learned(&shading, group_of(offer.slot, offer.market.currency())),
                };
                let worth = match Worth::of(&input, &offer.market) {
                    Ok(worth) => worth,
                    Err(reason) => {
                        reasons.note(Some(plan), reason);
                        continue;
                    }
                };
                match worth.bid(&input, &offer.market) {
                    Ok(priced_at) => priced.push(Candidate { slot: offer.position, plan, item, priced: priced_at }),
                    Err(reason) => {
                        reasons.note(Some(plan), reason);
                        let below = reason == NoBidReason::BelowFloor;
                        let steps = below.then(|| worth.without_floor(&input, &offer.market)).flatten();
                        reasons.note_below_floor(steps.map(|steps| (plan, steps)));
                    }
                }
            }
        }
    }
    priced
}

/// What choosing reads.
struct Choosing<'a> {
    app: &'a App,
    visitor: Visitor<'a>,
    terms: &'a Terms,
    offers: &'a [Offer<'a>],
    catalog: &'a Catalog,
    predictions: &'a Predictions<'a>,
}

impl Choosing<'_> {
    /// Fills slots with the strongest candidates whose creative passes the final check and whose money is held. Where nobody
    /// bids because pools ran dry (the first bids of a plan, a burst on a small budget), the refill is waited for.
    async fn choose(&self, priced: &mut Vec<Candidate>, decision: &mut Decision, (mode, deadline): (Mode, Deadline)) {
        let met: Vec<PlanSlot> = if mode.traced { priced.iter().map(|c| c.plan).collect() } else { Vec::new() };
        let mut dry = self.fill(priced, decision, mode);
        if decision.bids.is_empty() && !dry.is_empty() {
            // The other half of what is left is for the answer.
            let most = deadline.left(Instant::now()) / 2;
            if matches!(tokio::time::timeout(most, self.app.ledger.flush()).await, Ok(Ok(()))) {
                self.fill(&mut dry, decision, mode);
            }
        }
        if decision.bids.is_empty() {
            decision.no_bid = decision.reasons.no_bid();
        }
        for plan in met {
            if !decision.bids.iter().any(|won| won.plan == plan) {
                decision.reasons.note(Some(plan), NoBidReason::LostInternalAuction);
            }
        }
    }

    /// One pass over the candidates. Returns those of plans whose pool is being refilled.
    fn fill(&self, priced: &mut Vec<Candidate>, decision: &mut Decision, mode: Mode) -> Vec<Candidate> {
        let seed = self.app.seed_of(&self.terms.auction_id);
        let mut dry = Vec::new();
        let mut selection = Selection::new(priced, seed);
        let mut refusals = 0;
        while let Some(candidate) = selection.strongest()
            && refusals < REFUSALS_MAX
        {
            match self.dress(&candidate, seed, (&decision.ask, mode)) {
                Ok(won) => {
                    decision.bids.push(won);
                    selection.accept(&candidate);
                }
                Err(reason) => {
                    refusals += 1;
                    decision.reasons.note(Some(candidate.plan), reason);
                    match reason {
                        NoBidReason::PoolRefilling => dry.extend(selection.refuse_plan(candidate.plan)),
                        NoBidReason::LedgerRefused | NoBidReason::BudgetExhausted => {
                            selection.refuse_plan(candidate.plan);
                        }
                        _ => selection.refuse(&candidate),
                    }
                }
            }
        }
        dry
    }

    /// Picks the creative of a candidate, checks the whole bid once more from the records, and holds its money.
    fn dress(&self, candidate: &Candidate, seed: u64, (ask, mode): (&Ask, Mode)) -> Result<Won, NoBidReason> {
        let &Candidate { slot, plan, item, priced } = candidate;
        let offer = self.offers.iter().find(|offer| offer.position == slot).ok_or(NoBidReason::FinalCheckFailed)?;
        let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(plan) << 32 | u64::from(item)) ^ slot as u64);
        let shows = |creative: &CreativeSlot| {
            let entry = self.catalog.creative(*creative);
            entry.is_some_and(|entry| fits(self.terms, offer.slot, &entry.record).is_ok())
        };
        let creatives = offer.eligible.creatives(self.catalog, plan, item).filter(shows);
        let mut rivals = Vec::new();
        let tell = |choice: &Choice| rivals.extend(mode.traced.then_some(*choice));
        let choice = self.app.chooser.choose_telling(self.catalog, ask, creatives, &mut rng, tell);
        let choice = choice.ok_or(NoBidReason::NoCreativeFits)?;
        rivals.sort_by(|a, b| b.sampled.total_cmp(&a.sampled));
        rivals.truncate(RIVALS_MAX);
        let (creative, composition) = (choice.creative, choice.composition);
        let now_micros = self.app.clock.micros();
        let now = now_micros.div_euclid(1_000_000);
        let record = &self.catalog.creative(creative).ok_or(NoBidReason::NotFound)?.record;
        let form = fits(self.terms, offer.slot, record).map_err(|_| NoBidReason::NoCreativeFits)?;
        offer.market.check_floor(&priced, form.video_duration_s())?;
        let decided = Decided { plan, item, creative: Some(creative), deal: priced.deal };
        self.catalog.final_check(self.terms, offer.slot, decided, now)?;
        let bid_id = self.app.bid_ids.next(now_micros);
        let cell = self.catalog.plan(plan).map_or_else(Cell::default, |entry| self.visitor.cell(&entry.record));
        if mode.hold {
            let account = self.app.accounts.of(plan).ok_or(NoBidReason::LedgerRefused)?;
            let expires_at = now + self.app.hold_seconds();
            self.app.ledger.reserve(account, bid_id, priced.hold, expires_at).map_err(|error| match error {
                ReserveError::BudgetSpent => NoBidReason::BudgetExhausted,
                ReserveError::PoolEmpty => NoBidReason::PoolRefilling,
                _ => NoBidReason::LedgerRefused,
            })?;
            self.app.predicted.remember(bid_id, Expected { value: priced.value, cell });
            self.app.shades.offered(now, bid_id, offer.slot, &priced);
        }
        let prediction = self.predictions.of(item);
        Ok(Won { slot, plan, item, creative, composition, rivals, priced, prediction, bid_id, cell })
    }
}

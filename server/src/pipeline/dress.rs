//! Decided bids as a response: markup, signed notices, the OpenRTB body.

use super::bid::{Decision, Won};
use super::user_key;
use crate::app::App;
use crate::auction::choose::{Sight, shown_id};
use crate::http::notices::{Claim, NoticeKind};
use crate::http::openrtb::{BidRequest, DecidedBid, bid_response};
use crate::ids::Id;
use crate::plans::{Creative, Format, Item, Plan};
use crate::render::{Dressing, FormUsed, Look, fits, render};
use std::borrow::Cow;

/// The owned parts of one bid that the response borrows.
struct Dressed<'a> {
    won: &'a Won,
    plan: &'a Plan,
    item: &'a Item,
    creative: &'a Creative,
    /// Identifier of what is shown: a composed creative's compositions have one each.
    shown: String,
    look: Look<'a>,
    form: FormUsed,
    bid_id: String,
    markup: String,
    urls: [String; 3],
}

/// Writes the response of a decision with bids.
///
/// # Errors
/// Says which bid could not be written and why; then none is, and the holds expire.
pub fn write(app: &App, request: &BidRequest, decision: &Decision) -> Result<Vec<u8>, String> {
    let dressed = decision.bids.iter().map(|won| dress(app, request, decision, won)).collect::<Result<Vec<_>, _>>()?;
    let bids: Vec<DecidedBid<'_>> = dressed
        .iter()
        .map(|dressed| {
            let slot = &request.slots[dressed.won.slot];
            DecidedBid {
                bid_id: &dressed.bid_id,
                imp_id: &slot.imp_id,
                seat: dressed.plan.seat.as_deref(),
                price: dressed.won.priced.price,
                ad_id: dressed.plan.id.as_str(),
                campaign_id: dressed.plan.id.as_str(),
                creative_id: &dressed.shown,
                domain: &dressed.plan.domain,
                categories: &dressed.item.categories,
                attributes: &dressed.creative.attributes,
                language: dressed.creative.language.as_deref(),
                image_url: dressed.look.picture.or_else(|| picture(dressed.creative)),
                form: dressed.form,
                deal_id: dressed.won.priced.deal.and_then(|at| slot.deals.get(at)).map(|deal| deal.id.as_str()),
                markup: &dressed.markup,
                win_url: &dressed.urls[0],
                billing_url: &dressed.urls[1],
                loss_url: &dressed.urls[2],
                expires_s: u32::try_from(app.hold_seconds()).ok(),
            }
        })
        .collect();
    bid_response(&request.terms.auction_id, decision.currency, &bids).map_err(|error| error.to_string())
}

fn picture(creative: &Creative) -> Option<&str> {
    match &creative.format {
        Format::Banner { image_url, .. } | Format::Native { image_url, .. } => Some(image_url),
        Format::Video { .. } => None,
    }
}

fn dress<'a>(app: &App, request: &BidRequest, decision: &'a Decision, won: &'a Won) -> Result<Dressed<'a>, String> {
    let catalog = &decision.catalog;
    let slot = &request.slots[won.slot];
    let gone = || "a record vanished from its own snapshot".to_owned();
    let plan = &*catalog.plan(won.plan).ok_or_else(gone)?.record;
    let item = &*catalog.item(won.item).ok_or_else(gone)?.record;
    let entry = catalog.creative(won.creative).ok_or_else(gone)?;
    let creative = &*entry.record;
    let ask = &decision.ask;
    let sight = Sight { composition: won.composition, context: ask.context, user: ask.user, ..won.creative.into() };
    let look = Look::of(creative, entry.tree.as_deref().into_iter().flat_map(|tree| tree.elements(&sight.composition)));
    let form = fits(&request.terms, slot, creative).map_err(|misfit| format!("creative {}: {misfit}", creative.id))?;
    let bid_id = won.bid_id.to_string();
    let claim = Claim {
        auction: Cow::Borrowed(&request.terms.auction_id),
        bid: Cow::Borrowed(&bid_id),
        plan: Cow::Borrowed(plan.id.as_str()),
        item: Cow::Borrowed(item.id.as_str()),
        creative: Cow::Owned(sight.write(entry)),
        user: request.user.for_history().map_or(0, |user| user_key(&Id::from(user))),
        cap: won.priced.price,
        currency: won.priced.currency,
        hold: won.priced.hold,
        time_s: app.clock.seconds(),
        test: request.terms.test,
    };
    let url = |kind| app.signer.url(&app.public_url, kind, &claim);
    let dressing = Dressing {
        slot,
        creative,
        look,
        form,
        label: &item.title,
        sponsor: if plan.name.is_empty() { &plan.domain } else { &plan.name },
        domain: &plan.domain,
        click_url: &url(NoticeKind::Click),
        impression_url: &url(NoticeKind::Impression),
    };
    let markup = render(&dressing).map_err(|misfit| format!("creative {}: {misfit}", creative.id))?;
    let urls = [url(NoticeKind::Win), url(NoticeKind::Billing), url(NoticeKind::Loss)];
    let shown = shown_id(entry, &sight.composition);
    Ok(Dressed { won, plan, item, creative, shown, look, form, bid_id, markup, urls })
}

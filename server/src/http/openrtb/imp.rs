//! One impression: `imp` to [`Slot`].

use super::cpm::CpmFault;
use super::json::Json;
use super::read::Obj;
use super::request::{auction_type, bare_domain};
use super::{BadRequest, Leniency, Unusable, native};
use crate::auction::slot::{AuctionType, BannerSlot, DealOffer, DurationFloor, Slot, VideoSlot};
use crate::money::{Currency, Micros};

/// Most sizes in one `banner.format`.
pub const SIZES_MAX: usize = 256;
/// Most deals on one impression.
pub const DEALS_MAX: usize = 256;
/// Most `durfloors` on one video.
const DURATION_FLOORS_MAX: usize = 64;
/// Ad type 2 of `banner.btype`: a banner in HTML, the one that is answered here.
const HTML_BANNER: u32 = 2;

/// Reads an impression; `rule` is the request's auction type. Forms that are well formed but cannot be filled are noted in `unusable` and left out.
pub(super) fn slot(
    imp: &Obj<'_, '_, '_>,
    imp_id: String,
    rule: AuctionType,
    unusable: &mut Vec<Unusable>,
) -> Result<Slot, BadRequest> {
    let mut note = |form, why| unusable.push(Unusable { imp_id: imp_id.clone(), form, why });
    let several = several(imp)?;
    let banner = imp.object("banner")?.map_or(Ok(None), |object| banner(&object, &mut note))?;
    let video = imp.object("video")?.map_or(Ok(None), |object| video(&object, &mut note))?;
    if let Some(audio) = imp.object("audio")? {
        check_stream(&audio)?;
        note("audio", "audio ads are not sold here");
    }
    let native = imp.object("native")?.map_or(Ok(None), |object| native::slot(&object, &mut note))?;
    let mut out = Slot {
        banner,
        video,
        native,
        floor: floor(imp)?,
        floor_currency: Some(imp.currency("bidfloorcur")?.unwrap_or(Currency::USD)),
        secure: imp.flag("secure")?,
        tag_id: imp.hint_text("tagid"),
        ..Slot::default()
    };
    if let Some(pmp) = imp.object("pmp")? {
        out.private_auction = pmp.flag("private_auction")?;
        pmp.objects("deals", DEALS_MAX, |object| {
            out.deals.push(deal(&object, rule)?);
            Ok(())
        })?;
    }
    if several {
        note("imp", "several impressions for one price (qty) are not sold here");
        (out.banner, out.video, out.native) = (None, None, None);
    } else if !out.offers_anything() {
        note("imp", "offers no form that can be filled");
    }
    out.imp_id = imp_id;
    Ok(out)
}

/// True unless one price is for one impression. With `qty.multiplier` (2.6, screens that many people see) the exchange bills the price
/// that many times, where the hold is for one; what cannot be read is taken for such a number.
fn several(imp: &Obj<'_, '_, '_>) -> Result<bool, BadRequest> {
    let Some(qty) = imp.object("qty")? else { return Ok(false) };
    Ok(match qty.get("multiplier") {
        None => false,
        Some(Json::Int(number)) => *number != 1,
        Some(Json::Float(number)) => number.total_cmp(&1.0).is_ne(),
        Some(Json::Text(text)) => {
            qty.tally.count(Leniency::TextForNumber);
            !text.trim().parse::<f64>().is_ok_and(|number| number.total_cmp(&1.0).is_eq())
        }
        Some(_) => true,
    })
}

/// `imp.bidfloor`. Real exchanges send negative ones for "none".
fn floor(imp: &Obj<'_, '_, '_>) -> Result<Micros, BadRequest> {
    match imp.cpm("bidfloor")? {
        None => Ok(Micros::ZERO),
        Some(Ok(floor)) => Ok(floor),
        Some(Err(_)) => {
            imp.tally.count(Leniency::NegativeFloor);
            Ok(Micros::ZERO)
        }
    }
}

/// A price that somebody agreed on: a negative one is refused.
fn agreed(object: &Obj<'_, '_, '_>, key: &'static str) -> Result<Option<Micros>, BadRequest> {
    let refuse = |fault: CpmFault| object.fail(key, fault.to_string());
    object.cpm(key)?.transpose().map_err(refuse)
}

fn deal(object: &Obj<'_, '_, '_>, rule: AuctionType) -> Result<DealOffer, BadRequest> {
    let id = object.text("id")?.ok_or_else(|| object.fail("id", "is missing; must be a non-empty string"))?;
    let domains = object.texts("wadomain")?;
    Ok(DealOffer {
        id: id.into_owned(),
        floor: agreed(object, "bidfloor")?.unwrap_or_default(),
        floor_currency: object.currency("bidfloorcur")?.unwrap_or(Currency::USD),
        auction_type: auction_type(object)?.unwrap_or(rule),
        seats: object.texts("wseat")?,
        domains: domains.iter().map(|domain| bare_domain(domain)).collect(),
    })
}

fn banner(
    banner: &Obj<'_, '_, '_>,
    note: &mut impl FnMut(&'static str, &'static str),
) -> Result<Option<BannerSlot>, BadRequest> {
    for key in ["wmin", "hmin", "wmax", "hmax"] {
        banner.natural(key)?;
    }
    let (w, h) = (banner.natural("w")?.unwrap_or(0), banner.natural("h")?.unwrap_or(0));
    let mut sizes = Vec::new();
    let inexact = (w > 0) != (h > 0);
    let mut flexible = false;
    banner.objects("format", SIZES_MAX, |format| {
        for key in ["wratio", "hratio", "wmin"] {
            flexible |= format.natural(key)?.is_some_and(|value| value > 0);
        }
        push_size(&mut sizes, format.natural("w")?.unwrap_or(0), format.natural("h")?.unwrap_or(0));
        Ok(())
    })?;
    // 2.6, section 3.2.6: `w` and `h` are the size where no formats are named; beside formats they are no offer.
    if sizes.is_empty() && !flexible {
        push_size(&mut sizes, w, h);
    }
    let out = BannerSlot { sizes, blocked_attributes: banner.codes("battr")?, mimes: lower(banner.texts("mimes")?) };
    if banner.codes("btype")?.contains(&HTML_BANNER) {
        note("banner", "btype blocks HTML banners");
        return Ok(None);
    }
    if out.sizes.is_empty() && (flexible || inexact) {
        note("banner", "only flexible or incomplete sizes are offered");
        return Ok(None);
    }
    Ok(Some(out))
}

/// Adds a size that is complete and not yet there.
fn push_size(sizes: &mut Vec<(u32, u32)>, w: u32, h: u32) {
    if w > 0 && h > 0 && !sizes.contains(&(w, h)) {
        sizes.push((w, h));
    }
}

fn lower(mut texts: Vec<String>) -> Vec<String> {
    for text in &mut texts {
        text.make_ascii_lowercase();
    }
    texts
}

/// What video and audio have in common: `mimes` must be there, and no length, rate or order may be negative.
fn check_stream(stream: &Obj<'_, '_, '_>) -> Result<Vec<String>, BadRequest> {
    let mimes = lower(stream.texts("mimes")?);
    if mimes.is_empty() {
        return Err(
            stream.fail("mimes", "is missing or empty; must list the accepted MIME types, as in [\"video/mp4\"]")
        );
    }
    let naturals = ["sequence", "maxseq", "minbitrate", "maxbitrate", "minduration", "maxduration"];
    for key in naturals.into_iter().chain(["poddur", "skipmin", "skipafter"]) {
        stream.natural(key)?;
    }
    Ok(mimes)
}

fn video(
    video: &Obj<'_, '_, '_>,
    note: &mut impl FnMut(&'static str, &'static str),
) -> Result<Option<VideoSlot>, BadRequest> {
    let mimes = check_stream(video)?;
    let positive = |key| Ok(video.natural(key)?.filter(|&value| value > 0));
    let mut protocols = video.codes("protocols")?;
    if protocols.is_empty() {
        protocols.extend(positive("protocol")?); // the deprecated single value
    }
    let longest = positive("maxduration")?.unwrap_or(u32::MAX).min(positive("poddur")?.unwrap_or(u32::MAX));
    let mut duration_floors = Vec::new();
    video.objects("durfloors", DURATION_FLOORS_MAX, |object| {
        duration_floors.push(DurationFloor {
            duration_min_s: object.natural("mindur")?.unwrap_or(0),
            duration_max_s: object.natural("maxdur")?.filter(|&seconds| seconds > 0).unwrap_or(u32::MAX),
            floor: agreed(&object, "bidfloor")?.unwrap_or_default(),
        });
        Ok(())
    })?;
    let out = VideoSlot {
        mimes,
        duration_min_s: video.natural("minduration")?.unwrap_or(0),
        duration_max_s: longest,
        durations_s: video.codes("rqddurs")?,
        w: positive("w")?,
        h: positive("h")?,
        protocols,
        blocked_attributes: video.codes("battr")?,
        floor_per_second: agreed(video, "mincpmpersec")?.unwrap_or_default(),
        duration_floors,
    };
    if video.int("linearity")? == Some(2) {
        note("video", "only non-linear (overlay) video is offered");
        return Ok(None);
    }
    Ok(Some(out))
}

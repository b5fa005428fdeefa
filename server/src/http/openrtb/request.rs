//! The request as a whole: its own fields and limits, then each impression.

use super::json::{Json, without_lone_surrogates};
use super::read::{At, NO_CURRENCY, Obj};
use super::{BadRequest, BidRequest, Context, Counter, ITEM_TAXONOMY, Leniency, Tally, imp, person};
use crate::auction::slot::{AuctionType, Channel, Terms};
use crate::money::Currency;
use std::collections::HashSet;

/// Most impressions in one request.
pub const IMPS_MAX: usize = 100;

/// Reads, checks and maps a bid request.
///
/// # Errors
/// [`BadRequest`] naming the first field that breaks a must rule. Never panics, whatever the bytes; memory is bounded by
/// a small multiple of the body, whose size the listener limits.
pub fn parse(body: &[u8]) -> Result<BidRequest, BadRequest> {
    let root = At::ROOT;
    let counter = Counter::default();
    let mended;
    let mut json = Json::parse(body);
    // Senders that cut texts by length cut emoji in halves, mostly in fields that are read for nothing.
    if json.is_err()
        && let Some(body) = without_lone_surrogates(body)
    {
        counter.count(Leniency::LoneSurrogate);
        mended = body;
        json = Json::parse(&mended);
    }
    let json = json.map_err(|error| root.fail(malformed(&error)))?;
    if !matches!(json, Json::Object(_)) {
        return Err(root.fail(format!("is {}; must be a JSON object: a bid request", json.type_name())));
    }
    let request = Obj::of(&json, root, &counter)?;
    let mut out = BidRequest {
        terms: terms(&request)?,
        slots: Vec::new(),
        tmax_ms: request.natural("tmax")?.filter(|&ms| ms > 0),
        user: person::user(&request)?,
        context: Context::default(),
        category_taxonomy: request.natural("cattax")?.filter(|&code| code > 0).unwrap_or(ITEM_TAXONOMY),
        unusable: Vec::new(),
        tally: Tally::default(),
    };
    impressions(&request, &mut out)?;
    out.context = context(&request);
    out.tally = counter.tally();
    Ok(out)
}

fn malformed(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "ends too early",
        _ => "is not JSON",
    };
    format!("{kind} at line {} column {}; must be one JSON object: a bid request", error.line(), error.column())
}

fn terms(request: &Obj<'_, '_, '_>) -> Result<Terms, BadRequest> {
    let auction_id = request.text("id")?.ok_or_else(|| request.fail("id", "is missing; must be a non-empty string"))?;
    let terms = Terms {
        auction_id: auction_id.into_owned(),
        channel: channel(request),
        auction_type: auction_type(request)?.unwrap_or_default(),
        currencies: currencies(request)?,
        seats_allowed: request.texts("wseat")?,
        seats_blocked: request.texts("bseat")?,
        blocked_categories: request.texts("bcat")?,
        allowed_categories: request.texts("acat")?,
        blocked_domains: domains(request)?,
        languages: languages(request)?,
        test: request.flag("test")?,
    };
    for (allowed, blocked) in
        [(&terms.seats_allowed, &terms.seats_blocked), (&terms.allowed_categories, &terms.blocked_categories)]
    {
        if !allowed.is_empty() && !blocked.is_empty() {
            request.tally.count(Leniency::AllowAndBlock);
        }
    }
    Ok(terms)
}

/// `ext.channel`, ours: where the impressions are sold. What it does not say, or says otherwise, is an exchange.
fn channel(request: &Obj<'_, '_, '_>) -> Channel {
    let Some(name) = request.hint("ext").and_then(|ext| ext.hint_text("channel")) else { return Channel::default() };
    let found = Channel::ALL.into_iter().find(|channel| channel.name() == name);
    if found.is_none() {
        request.tally.count(Leniency::UnknownValue);
    }
    found.unwrap_or_default()
}

/// `at`: 1, 2 or 3 (deals); any other rule is an exchange's own, and the bid itself is then the most one could pay.
pub(super) fn auction_type(object: &Obj<'_, '_, '_>) -> Result<Option<AuctionType>, BadRequest> {
    Ok(object.int("at")?.map(|at| match at {
        1 => AuctionType::FirstPrice,
        2 => AuctionType::SecondPrice,
        3 => AuctionType::Fixed,
        _ => {
            object.tally.count(Leniency::UnknownValue);
            AuctionType::FirstPrice
        }
    }))
}

fn currencies(request: &Obj<'_, '_, '_>) -> Result<Vec<Currency>, BadRequest> {
    let at = request.at.key("cur");
    let codes = request.texts("cur")?;
    let parse =
        |(index, code): (usize, &String)| Currency::parse(code.trim()).ok_or_else(|| at.index(index).fail(NO_CURRENCY));
    codes.iter().enumerate().map(parse).collect()
}

/// Blocked advertiser domains, bare and in lower case, so that `https://A.com/x` blocks `a.com`.
fn domains(request: &Obj<'_, '_, '_>) -> Result<Vec<String>, BadRequest> {
    Ok(request.texts("badv")?.iter().map(|domain| bare_domain(domain)).filter(|domain| !domain.is_empty()).collect())
}

/// Scheme, path, port and a leading `www.` taken off.
pub(super) fn bare_domain(text: &str) -> String {
    let text = text.trim();
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#', ':']).next().unwrap_or_default();
    let host = host.strip_prefix("www.").unwrap_or(host);
    host.trim_matches('.').to_ascii_lowercase()
}

/// `wlang` (ISO-639-1) and `wlangb` (BCP-47): only one may be sent; languages compare by their primary part.
fn languages(request: &Obj<'_, '_, '_>) -> Result<Vec<String>, BadRequest> {
    let mut languages = request.texts("wlang")?;
    languages.extend(request.texts("wlangb")?);
    Ok(languages)
}

fn impressions(request: &Obj<'_, '_, '_>, out: &mut BidRequest) -> Result<(), BadRequest> {
    let count = request.list("imp", IMPS_MAX)?.len();
    if count == 0 {
        return Err(request.fail("imp", "is missing or empty; must hold at least one impression"));
    }
    out.slots.reserve_exact(count);
    let mut seen: HashSet<String> = HashSet::with_capacity(count);
    request.objects("imp", IMPS_MAX, |object| {
        let id = object.text("id")?.ok_or_else(|| object.fail("id", "is missing; must be a non-empty string"))?;
        if !seen.insert(id.clone().into_owned()) {
            return Err(object.fail("id", "repeats the id of an earlier impression; ids must differ"));
        }
        let slot = imp::slot(&object, id.into_owned(), out.terms.auction_type, &mut out.unusable)?;
        out.slots.push(slot);
        Ok(())
    })?;
    if out.slots.is_empty() {
        return Err(request.fail("imp", "holds only nulls; must hold at least one impression"));
    }
    Ok(())
}

fn context(request: &Obj<'_, '_, '_>) -> Context {
    let (site, app) = (request.hint("site"), request.hint("app"));
    if site.is_some() && app.is_some() {
        request.tally.count(Leniency::SiteAndApp);
    }
    let publisher =
        |holder: &Option<Obj<'_, '_, '_>>| holder.as_ref().and_then(|holder| holder.hint("publisher")?.hint_text("id"));
    let device = request.hint("device");
    let geo = device.as_ref().and_then(|device| device.hint("geo"));
    let user = request.hint("user");
    let user_geo = user.as_ref().and_then(|user| user.hint("geo"));
    let place = |key| {
        let of = |geo: &Option<Obj<'_, '_, '_>>| geo.as_ref().and_then(|geo| geo.hint_text(key));
        of(&geo).or_else(|| of(&user_geo))
    };
    let of_device = |key| device.as_ref().and_then(|device| device.hint_text(key));
    Context {
        site_domain: site.as_ref().and_then(|site| site.hint_text("domain")).map(|domain| bare_domain(&domain)),
        app_bundle: app.as_ref().and_then(|app| app.hint_text("bundle")),
        publisher: publisher(&site).or_else(|| publisher(&app)),
        country: place("country"),
        region: place("region"),
        city: place("city"),
        os: of_device("os"),
        language: of_device("language"),
        device_type: device.as_ref().and_then(|device| device.natural("devicetype").ok().flatten()),
    }
}

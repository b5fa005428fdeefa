//! An independent judge of bid responses: works on plain JSON, shares no type and no code with the server.
//!
//! [`problems`] returns every rule that a response breaks against its request, empty when it is valid.

use crate::markup_check::{markup_problems, xml_problem};
use serde_json::Value;
use std::collections::BTreeSet;

/// US dollars for one unit of a currency, if known.
pub(crate) type Rates<'r> = &'r dyn Fn(&str) -> Option<f64>;

/// Every rule that the response breaks.
pub(crate) fn problems(request: &Value, response: &Value, rates: Rates<'_>) -> Vec<String> {
    let mut out = Vec::new();
    if !response.is_object() {
        return vec!["response is no object".into()];
    }
    if response["id"] != request["id"] && text(&response["id"]) != text(&request["id"]) {
        out.push("id is not the request's".into());
    }
    let seats = list(&response["seatbid"]);
    if seats.is_empty() {
        if !response["nbr"].is_null() && !response["nbr"].is_u64() {
            out.push("nbr is no code".into());
        }
        return out;
    }
    let currency = response["cur"].as_str().unwrap_or("USD");
    let allowed = texts(&request["cur"]);
    if !(allowed.is_empty() && currency == "USD" || allowed.iter().any(|code| code.eq_ignore_ascii_case(currency))) {
        out.push(format!("cur {currency} is not in {allowed:?}"));
    }
    let mut ids = BTreeSet::new();
    for seat in seats {
        let name = seat["seat"].as_str();
        check_seat(&texts(&request["wseat"]), &texts(&request["bseat"]), name, "request", &mut out);
        if list(&seat["bid"]).is_empty() {
            out.push("a seatbid without bids".into());
        }
        for bid in list(&seat["bid"]) {
            let id = bid["id"].as_str().unwrap_or_default();
            if id.is_empty() || !ids.insert(id) {
                out.push(format!("bid id {id:?} is empty or repeated"));
            }
            let mut found = Vec::new();
            Judge { request, currency, seat: name, bid, rates, out: &mut found }.judge();
            out.extend(found.into_iter().map(|problem| format!("bid {id}: {problem}")));
        }
    }
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        _ => list(value).iter().filter_map(Value::as_str).filter(|t| !t.trim().is_empty()).map(str::to_owned).collect(),
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast that saturates is what is wanted")]
fn whole(number: f64) -> u64 {
    number as u64
}

fn numbers(value: &Value) -> Vec<u64> {
    list(value).iter().filter_map(number).map(whole).collect()
}

fn is_set(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| number(value).is_some_and(|n| n != 0.0))
}

fn check_seat(allowed: &[String], blocked: &[String], seat: Option<&str>, who: &str, out: &mut Vec<String>) {
    if !allowed.is_empty() && !seat.is_some_and(|seat| allowed.iter().any(|own| own == seat)) {
        out.push(format!("seat {seat:?} is not allowed by the {who}"));
    }
    if seat.is_some_and(|seat| blocked.iter().any(|own| own == seat)) {
        out.push(format!("seat {seat:?} is blocked by the {who}"));
    }
}

fn domain(text: &str) -> String {
    let rest = text.split("://").last().unwrap_or(text);
    let host = rest.split(['/', ':']).next().unwrap_or_default().to_lowercase();
    host.trim_start_matches("www.").to_owned()
}

fn is_under(domain_: &str, parent: &str) -> bool {
    let (own, parent) = (domain(domain_), domain(parent));
    own == parent || own.ends_with(&format!(".{parent}"))
}

fn category_is_under(own: &str, parent: &str) -> bool {
    own.eq_ignore_ascii_case(parent) || own.to_lowercase().starts_with(&format!("{}-", parent.to_lowercase()))
}

struct Judge<'a> {
    request: &'a Value,
    currency: &'a str,
    seat: Option<&'a str>,
    bid: &'a Value,
    rates: Rates<'a>,
    out: &'a mut Vec<String>,
}

impl Judge<'_> {
    fn fail(&mut self, problem: impl Into<String>) {
        self.out.push(problem.into());
    }

    fn judge(&mut self) {
        let impid = self.bid["impid"].as_str().unwrap_or_default();
        let request = self.request;
        let Some(imp) = list(&request["imp"]).iter().find(|imp| text(&imp["id"]) == impid) else {
            return self.fail(format!("impid {impid:?} is not in the request"));
        };
        for key in ["adm", "crid", "nurl", "burl", "lurl"] {
            if self.bid[key].as_str().is_none_or(str::is_empty) {
                self.fail(format!("{key} is missing"));
            }
        }
        let (kind, offer) = match self.bid["mtype"].as_u64() {
            Some(1) => ("banner", &imp["banner"]),
            Some(2) => ("video", &imp["video"]),
            Some(4) => ("native", &imp["native"]),
            other => return self.fail(format!("mtype {other:?} is none of 1, 2, 4")),
        };
        if !offer.is_object() {
            return self.fail(format!("the impression offers no {kind}"));
        }
        let deal = self.deal(imp);
        self.price(imp, kind, deal);
        self.advertiser(deal);
        let blocked = numbers(&offer["battr"]);
        if let Some(attr) = numbers(&self.bid["attr"]).iter().find(|attr| blocked.contains(attr)) {
            self.fail(format!("attr {attr} is in battr"));
        }
        match kind {
            "banner" => self.banner(offer),
            "video" => self.video(offer),
            _ => self.native(offer),
        }
        self.secure(imp);
        let markup = self.bid["adm"].as_str().unwrap_or_default();
        self.out.extend(markup_problems(kind, markup));
    }

    fn deal<'v>(&mut self, imp: &'v Value) -> Option<&'v Value> {
        let pmp = &imp["pmp"];
        let Some(id) = self.bid["dealid"].as_str() else {
            if is_set(&pmp["private_auction"]) {
                self.fail("an open bid in a private auction");
            }
            return None;
        };
        let deal = list(&pmp["deals"]).iter().find(|deal| text(&deal["id"]) == id);
        match deal {
            None => self.fail(format!("dealid {id:?} is not offered")),
            Some(deal) => check_seat(&texts(&deal["wseat"]), &[], self.seat, "deal", self.out),
        }
        deal
    }

    fn price(&mut self, imp: &Value, kind: &str, deal: Option<&Value>) {
        let Some(price) = self.bid["price"].as_f64().filter(|price| *price > 0.0) else {
            return self.fail("price is not above 0");
        };
        let (floor, currency) = match deal {
            Some(deal) => (number(&deal["bidfloor"]).unwrap_or(0.0), deal["bidfloorcur"].as_str()),
            None => (open_floor(imp, kind, self.bid["dur"].as_f64()), imp["bidfloorcur"].as_str()),
        };
        let currency = currency.filter(|code| !code.is_empty()).unwrap_or("USD").to_uppercase();
        if currency == self.currency {
            if price < floor - 1e-9 {
                self.fail(format!("price {price} is below the floor {floor}"));
            }
        } else if floor > 0.0 {
            match ((self.rates)(&currency), (self.rates)(self.currency)) {
                (Some(from), Some(to)) if price * to >= floor * from * (1.0 - 1e-6) => {}
                (Some(_), Some(_)) => {
                    self.fail(format!("price {price} {} is below the floor {floor} {currency}", self.currency))
                }
                _ => self.fail(format!("the floor is in {currency}, for which there is no rate")),
            }
        }
    }

    fn advertiser(&mut self, deal: Option<&Value>) {
        let own = texts(&self.bid["adomain"]);
        if own.is_empty() {
            self.fail("adomain is missing");
        }
        let blocked = texts(&self.request["badv"]);
        for domain in &own {
            if blocked.iter().any(|blocked| is_under(domain, blocked)) {
                self.fail(format!("adomain {domain} is blocked"));
            }
        }
        let wanted = deal.map(|deal| texts(&deal["wadomain"])).unwrap_or_default();
        if !wanted.is_empty() && !own.iter().all(|domain| wanted.iter().any(|wanted| is_under(domain, wanted))) {
            self.fail("adomain is not in the deal's wadomain");
        }
        let (blocked, allowed) = (texts(&self.request["bcat"]), texts(&self.request["acat"]));
        for category in texts(&self.bid["cat"]) {
            if blocked.iter().any(|blocked| category_is_under(&category, blocked)) {
                self.fail(format!("cat {category} is blocked"));
            }
            if !allowed.is_empty() && !allowed.iter().any(|allowed| category_is_under(&category, allowed)) {
                self.fail(format!("cat {category} is not in acat"));
            }
        }
        let languages = texts(&self.request["wlang"]);
        if let Some(language) = self.bid["language"].as_str()
            && !languages.is_empty()
            && !languages
                .iter()
                .any(|own| own[..2.min(own.len())].eq_ignore_ascii_case(&language[..2.min(language.len())]))
        {
            self.fail(format!("language {language} is not in wlang"));
        }
    }

    fn banner(&mut self, offer: &Value) {
        let size = |value: &Value| {
            Some((whole(number(&value["w"])?), whole(number(&value["h"])?))).filter(|&(w, h)| w * h > 0)
        };
        let mut sizes: Vec<_> = list(&offer["format"]).iter().filter_map(size).collect();
        if sizes.is_empty() {
            sizes.extend(size(offer));
        }
        let own = size(self.bid);
        if own.is_none() || !sizes.is_empty() && !own.is_some_and(|own| sizes.contains(&own)) {
            self.fail(format!("size {own:?} is not in {sizes:?}"));
        }
    }

    fn video(&mut self, offer: &Value) {
        let xml = self.bid["adm"].as_str().unwrap_or_default().to_owned();
        let between = |start: &str, end: &str| Some(xml.split_once(start)?.1.split_once(end)?.0.to_owned());
        if let Some(problem) = xml_problem(&xml) {
            self.fail(format!("VAST is not well-formed: {problem}"));
        }
        let mime = between("type=\"", "\"").unwrap_or_default();
        if !texts(&offer["mimes"]).iter().any(|own| own.eq_ignore_ascii_case(&mime)) {
            self.fail(format!("media type {mime} is not in mimes"));
        }
        let clock = between("<Duration>", "</Duration>").unwrap_or_default();
        let seconds = clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap_or(f64::NAN));
        let exact = numbers(&offer["rqddurs"]);
        let longest = number(&offer["maxduration"]).filter(|n| *n > 0.0).unwrap_or(f64::INFINITY);
        let in_range = (number(&offer["minduration"]).unwrap_or(0.0)..=longest).contains(&seconds);
        if if exact.is_empty() { !in_range } else { !exact.contains(&whole(seconds)) } {
            self.fail(format!("duration {seconds} is not allowed"));
        }
        if self.bid["dur"].as_f64() != Some(seconds) {
            self.fail("dur is not the markup's");
        }
        let version = between("<VAST version=\"", "\"").unwrap_or_default();
        let protocol = match version.as_str() {
            "2.0" => 2,
            "3.0" => 3,
            "4.0" => 7,
            "4.1" => 11,
            "4.2" => 13,
            _ => return self.fail(format!("unknown VAST version {version}")),
        };
        let protocols = numbers(&offer["protocols"]);
        if !protocols.is_empty() && !protocols.contains(&protocol) {
            self.fail(format!("VAST {version} is not in protocols {protocols:?}"));
        }
        if self.bid["protocol"].as_u64() != Some(protocol) {
            self.fail("protocol is not the markup's");
        }
    }

    fn native(&mut self, offer: &Value) {
        let unwrap = |value: &Value| {
            let mut value = value.clone();
            while let Some(inner) = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
                value = inner;
            }
            if value["native"].is_object() { value["native"].clone() } else { value }
        };
        let (asked, answer) = (unwrap(&offer["request"]), unwrap(&self.bid["adm"]));
        if answer["link"]["url"].as_str().is_none_or(str::is_empty) {
            self.fail("native answer has no link");
        }
        let assets = list(&answer["assets"]);
        if assets.is_empty() {
            self.fail("native answer has no assets");
        }
        for asset in assets {
            let Some(asked) = list(&asked["assets"]).iter().find(|asked| number(&asked["id"]) == number(&asset["id"]))
            else {
                self.fail(format!("asset {} was not asked for", asset["id"]));
                continue;
            };
            for (kind, field) in [("title", "text"), ("img", "url"), ("data", "value")] {
                if asset[kind].is_null() {
                    continue;
                }
                let content = asset[kind][field].as_str().unwrap_or_default();
                if asked[kind].is_null() || content.is_empty() {
                    self.fail(format!("asset {} is an empty or unwanted {kind}", asset["id"]));
                }
                let longest = number(&asked[kind]["len"]).filter(|len| *len > 0.0).unwrap_or(f64::INFINITY);
                if content.chars().count() as f64 > longest {
                    self.fail(format!("asset {} is longer than {longest}", asset["id"]));
                }
            }
        }
        for asked in list(&asked["assets"]).iter().filter(|asked| is_set(&asked["required"])) {
            if !assets.iter().any(|asset| number(&asset["id"]) == number(&asked["id"])) {
                self.fail(format!("required asset {} is missing", asked["id"]));
            }
        }
    }

    fn secure(&mut self, imp: &Value) {
        let insecure = |value: &Value| value.as_str().is_some_and(|text| text.contains("http://"));
        if is_set(&imp["secure"]) && (insecure(&self.bid["adm"]) || insecure(&self.bid["iurl"])) {
            self.fail("http in a secure impression");
        }
    }
}

/// The impression's floor, or the one that its video states by length.
fn open_floor(imp: &Value, kind: &str, duration: Option<f64>) -> f64 {
    let own = number(&imp["bidfloor"]).unwrap_or(0.0);
    let (Some(duration), "video") = (duration, kind) else { return own };
    let video = &imp["video"];
    let by_second = number(&video["mincpmpersec"]).filter(|rate| *rate > 0.0).map(|rate| rate * duration);
    let ranges = list(&video["durfloors"]).iter().filter(|range| {
        let longest = number(&range["maxdur"]).filter(|n| *n > 0.0).unwrap_or(f64::INFINITY);
        (number(&range["mindur"]).unwrap_or(0.0)..=longest).contains(&duration)
    });
    let by_range = ranges.filter_map(|range| number(&range["bidfloor"])).reduce(f64::max);
    by_second.into_iter().chain(by_range).reduce(f64::max).unwrap_or(own)
}

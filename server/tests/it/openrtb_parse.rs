//! Bid requests as exchanges send them: all of the recorded ones, every must rule, and hostile bytes.

use crate::shared::{exchange_requests, shared};
use longbow::auction::slot::{AuctionType, NativeAssetKind, Slot};
use longbow::http::openrtb::{BadRequest, BidRequest, HistoryBar, IMPS_MAX, Leniency, UserSource, parse};
use longbow::money::{Currency, Micros};
use serde_json::{Value, json};

fn ok(body: &Value) -> BidRequest {
    parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error} for {body}"))
}

fn bad(body: &str) -> BadRequest {
    match parse(body.as_bytes()) {
        Ok(_) => panic!("accepted: {body}"),
        Err(error) => error,
    }
}

/// A request with one impression made of these fields.
fn with_imp(mut imp: Value) -> Value {
    if imp.get("id").is_none() {
        imp["id"] = json!("1");
    }
    json!({"id": "r", "imp": [imp]})
}

fn only_slot(imp: Value) -> Slot {
    let mut request = ok(&with_imp(imp));
    assert_eq!(request.slots.len(), 1);
    request.slots.remove(0)
}

fn leniency(request: &BidRequest, kind: Leniency) -> u32 {
    request.tally.counts().find(|&(own, _)| own == kind).map_or(0, |(_, count)| count)
}

#[test]
fn every_recorded_request_is_read() {
    let Some(lines) = exchange_requests() else { return };
    assert_eq!(lines.len(), 1_081);
    let (mut banner, mut video, mut native, mut nothing) = (0, 0, 0, 0);
    for (number, line) in lines.iter().enumerate() {
        let request = parse(line.as_bytes()).unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(request.terms.auction_id, value["id"].as_str().unwrap());
        assert_eq!(request.slots.len(), value["imp"].as_array().unwrap().len());
        for slot in &request.slots {
            banner += u32::from(slot.banner.is_some());
            video += u32::from(slot.video.is_some());
            native += u32::from(slot.native.is_some());
            nothing += u32::from(!slot.offers_anything());
        }
    }
    // 780 banners, 331 videos and 111 natives are in the file; one banner has half a size, and of the native requests
    // some are placeholders.
    assert_eq!((banner, video), (779, 331));
    assert!((70..111).contains(&native), "{native}");
    assert!(nothing < 100, "{nothing}");
}

#[test]
fn every_bad_file_names_its_field() {
    let cases = [
        ("banner-h-negative", "imp[0].banner.h"),
        ("deal-no-id", "imp[0].pmp.deals[0].id"),
        ("device-w-negative", "device.w"),
        ("format-h-negative", "imp[0].banner.format[0].h"),
        ("imp-empty-array", "imp"),
        ("imp-id-duplicates", "imp[1].id"),
        ("malformed-bid-request", "body"),
        ("native-empty", "imp[0].native.request"),
        ("null", "body"),
        ("only-request-id", "imp"),
        ("tmax-negative", "tmax"),
        ("video-mimes-empty", "imp[0].video.mimes"),
    ];
    for (file, field) in cases {
        let Some(path) = shared(&format!("data/openrtb-bad/{file}.json")) else { return };
        let error = bad(&std::fs::read_to_string(path).unwrap());
        assert_eq!(error.field, field, "{file}");
        assert!(error.fault.contains("must"), "{file}: {error}");
        assert!(error.header_text().is_ascii());
    }
}

fn imp(fields: &str) -> String {
    format!(r#"{{"id":"r","imp":[{{"id":"1",{fields}}}]}}"#)
}

fn top(fields: &str) -> String {
    format!(r#"{{"id":"r","imp":[{{"id":"1","banner":{{}}}}],{fields}}}"#)
}

fn all_name_their_field(cases: &[(String, &str)]) {
    for (body, field) in cases {
        let error = bad(body);
        assert_eq!(error.field, *field, "{body}: {error}");
        assert!(error.header_text().len() <= 300);
    }
}

#[test]
fn the_body_and_the_ids_name_their_fault() {
    let cases = [
        ("".to_owned(), "body"),
        ("{".to_owned(), "body"),
        ("[]".to_owned(), "body"),
        ("7".to_owned(), "body"),
        (r#"{"id":"r","imp":[{"id":"1"}]} trailing"#.to_owned(), "body"),
        ("\u{feff}{}".to_owned(), "body"),
        (r#"{"imp":[{"id":"1"}]}"#.to_owned(), "id"),
        (r#"{"id":"","imp":[{"id":"1"}]}"#.to_owned(), "id"),
        (r#"{"id":null,"imp":[{"id":"1"}]}"#.to_owned(), "id"),
        (r#"{"id":{},"imp":[{"id":"1"}]}"#.to_owned(), "id"),
        (r#"{"id":"r","imp":null}"#.to_owned(), "imp"),
        (r#"{"id":"r","imp":{}}"#.to_owned(), "imp"),
        (r#"{"id":"r","imp":"x"}"#.to_owned(), "imp"),
        (r#"{"id":"r","imp":[null]}"#.to_owned(), "imp"),
        (r#"{"id":"r","imp":[7]}"#.to_owned(), "imp[0]"),
        (r#"{"id":"r","imp":[{"banner":{}}]}"#.to_owned(), "imp[0].id"),
        (r#"{"id":"r","imp":[{"id":""}]}"#.to_owned(), "imp[0].id"),
        (r#"{"id":"r","imp":[{"id":"a"},{"id":" "}]}"#.to_owned(), "imp[1].id"),
        (r#"{"id":"r","imp":[{"id":7},{"id":"7"}]}"#.to_owned(), "imp[1].id"),
    ];
    all_name_their_field(&cases);
}

#[test]
fn every_rule_of_the_forms_names_its_field() {
    let cases = [
        (imp(r#""banner":7"#), "imp[0].banner"),
        (imp(r#""banner":{"w":-300,"h":250}"#), "imp[0].banner.w"),
        (imp(r#""banner":{"w":-0.5,"h":250}"#), "imp[0].banner.w"),
        (imp(r#""banner":{"w":"-1","h":250}"#), "imp[0].banner.w"),
        (imp(r#""banner":{"w":"wide"}"#), "imp[0].banner.w"),
        (imp(r#""banner":{"wmin":-1}"#), "imp[0].banner.wmin"),
        (imp(r#""banner":{"format":{"w":1,"h":1}}"#), "imp[0].banner.format"),
        (imp(r#""banner":{"format":[{"w":300,"h":250},{"w":-1,"h":1}]}"#), "imp[0].banner.format[1].w"),
        (imp(r#""banner":{"format":[{"wratio":-1,"hratio":9}]}"#), "imp[0].banner.format[0].wratio"),
        (imp(r#""banner":{"battr":[{}]}"#), "imp[0].banner.battr[0]"),
        (imp(r#""video":{}"#), "imp[0].video.mimes"),
        (imp(r#""video":{"mimes":null}"#), "imp[0].video.mimes"),
        (imp(r#""video":{"mimes":[""]}"#), "imp[0].video.mimes"),
        (imp(r#""video":{"mimes":["video/mp4"],"w":-1}"#), "imp[0].video.w"),
        (imp(r#""video":{"mimes":["video/mp4"],"maxduration":-5}"#), "imp[0].video.maxduration"),
        (imp(r#""video":{"mimes":["video/mp4"],"minbitrate":-5}"#), "imp[0].video.minbitrate"),
        (imp(r#""video":{"mimes":["video/mp4"],"mincpmpersec":-1}"#), "imp[0].video.mincpmpersec"),
        (imp(r#""video":{"mimes":["video/mp4"],"durfloors":[{"bidfloor":-1}]}"#), "imp[0].video.durfloors[0].bidfloor"),
        (imp(r#""audio":{"mimes":[]}"#), "imp[0].audio.mimes"),
        (imp(r#""audio":{"mimes":["audio/mp4"],"sequence":-1}"#), "imp[0].audio.sequence"),
    ];
    all_name_their_field(&cases);
}

#[test]
fn every_rule_of_native_deals_money_and_context_names_its_field() {
    let cases = [
        (imp(r#""native":{"request":null}"#), "imp[0].native.request"),
        (imp(r#""native":{"request":""}"#), "imp[0].native.request"),
        (imp(r#""native":{"request":7}"#), "imp[0].native.request"),
        (imp(r#""native":"{}""#), "imp[0].native"),
        (imp(r#""pmp":{"deals":[{"id":"a"},{"bidfloor":1}]}"#), "imp[0].pmp.deals[1].id"),
        (imp(r#""pmp":{"deals":[{"id":"a","bidfloor":-1}]}"#), "imp[0].pmp.deals[0].bidfloor"),
        (imp(r#""pmp":{"deals":[{"id":"a","bidfloorcur":"dollars"}]}"#), "imp[0].pmp.deals[0].bidfloorcur"),
        (imp(r#""bidfloor":"NaN""#), "imp[0].bidfloor"),
        (imp(r#""bidfloor":NaN"#), "body"),
        (imp(r#""bidfloor":1e999"#), "body"),
        (imp(r#""bidfloor":1e300"#), "imp[0].bidfloor"),
        (imp(r#""bidfloor":true"#), "imp[0].bidfloor"),
        (imp(r#""bidfloor":[1]"#), "imp[0].bidfloor"),
        (imp(r#""bidfloorcur":"US""#), "imp[0].bidfloorcur"),
        (imp(r#""secure":"yes""#), "imp[0].secure"),
        (top(r#""tmax":-1"#), "tmax"),
        (top(r#""tmax":"soon""#), "tmax"),
        (top(r#""tmax":[]"#), "tmax"),
        (top(r#""cur":["USD","dollars"]"#), "cur[1]"),
        (top(r#""bcat":[{}]"#), "bcat[0]"),
        (top(r#""badv":{}"#), "badv"),
        (top(r#""at":"first""#), "at"),
        (top(r#""device":{"h":-1}"#), "device.h"),
        (top(r#""device":{"ppi":-1}"#), "device.ppi"),
        (top(r#""device":{"geo":{"accuracy":-1}}"#), "device.geo.accuracy"),
    ];
    all_name_their_field(&cases);
}

#[test]
fn limits_hold() {
    let many: Vec<Value> = (0..=IMPS_MAX).map(|n| json!({"id": n.to_string(), "banner": {}})).collect();
    assert_eq!(bad(&json!({"id": "r", "imp": many}).to_string()).field, "imp");
    assert_eq!(ok(&json!({"id": "r", "imp": many[1..]})).slots.len(), IMPS_MAX);
    assert_eq!(bad(&with_imp(json!({"id": "x".repeat(2_000)})).to_string()).field, "imp[0].id");
    let sizes = vec![json!({"w": 1, "h": 1}); 257];
    assert_eq!(bad(&with_imp(json!({"banner": {"format": sizes}})).to_string()).field, "imp[0].banner.format");
    let deals = vec![json!({"id": "d"}); 257];
    assert_eq!(bad(&with_imp(json!({"pmp": {"deals": deals}})).to_string()).field, "imp[0].pmp.deals");
    let deep = format!(r#"{{"id":"r","imp":[{{"id":"1","ext":{}1{}}}]}}"#, "[".repeat(5_000), "]".repeat(5_000));
    assert_eq!(bad(&deep).field, "body");
}

#[test]
fn oddities_are_read_and_counted() {
    let body = r#"{"id": 17, "at": 900, "tmax": 933.33, "test": true, "cur": "eur", "bcat": null, "device": [],
        "site": {"domain": "https://www.News.example/path"}, "app": {"bundle": "com.news"}, "wseat": ["a"], "bseat": ["b"],
        "imp": [{"id": 5, "bidfloor": -3, "banner": {"w": "300", "h": 250.0, "format": null, "battr": 3}, "secure": 2,
                 "native": {"request": "placeholder"}}]}"#;
    let request = parse(body.as_bytes()).unwrap();
    assert_eq!(request.terms.auction_id, "17");
    assert_eq!(request.terms.auction_type, AuctionType::FirstPrice);
    assert_eq!(request.tmax_ms, Some(933));
    assert!(request.terms.test);
    assert_eq!(request.terms.currencies, [Currency::parse("EUR").unwrap()]);
    assert_eq!(request.context.site_domain.as_deref(), Some("news.example"));
    let slot = &request.slots[0];
    assert_eq!((slot.imp_id.as_str(), slot.floor, slot.secure), ("5", Micros(0), true));
    let banner = slot.banner.as_ref().unwrap();
    assert_eq!((&banner.sizes[..], &banner.blocked_attributes[..]), (&[(300, 250)][..], &[3][..]));
    assert!(slot.native.is_none());
    for (kind, count) in [
        (Leniency::NumberForText, 2),
        (Leniency::UnknownValue, 2),
        (Leniency::FractionForInteger, 2),
        (Leniency::BooleanForInteger, 1),
        (Leniency::ScalarForList, 2),
        (Leniency::NegativeFloor, 1),
        (Leniency::NativeUnreadable, 1),
        (Leniency::SiteAndApp, 1),
        (Leniency::AllowAndBlock, 1),
        (Leniency::TextForNumber, 1),
    ] {
        assert_eq!(leniency(&request, kind), count, "{kind:?} in {:?}", request.tally);
    }
    assert!(leniency(&request, Leniency::Null) >= 2);
    assert!(leniency(&request, Leniency::EmptyListForObject) >= 1);
    assert_eq!(ok(&with_imp(json!({"banner": {"w": 300, "h": 250}}))).tally.total(), 0);
}

#[test]
fn defaults_are_the_specifications() {
    let request = ok(&with_imp(json!({"banner": {}, "pmp": {"deals": [{"id": "d"}]}, "bidfloorcur": "EUR"})));
    assert_eq!(request.terms.auction_type, AuctionType::SecondPrice);
    assert!(request.terms.currencies.is_empty() && !request.terms.test && request.tmax_ms.is_none());
    assert_eq!(request.category_taxonomy, 1);
    let slot = &request.slots[0];
    assert_eq!(slot.floor, Micros::ZERO);
    assert_eq!(slot.floor_currency, Currency::parse("EUR"));
    assert_eq!(slot.deals[0].floor_currency, Currency::USD, "a deal's currency does not inherit");
    assert_eq!(slot.deals[0].auction_type, AuctionType::SecondPrice);
    assert!(slot.banner.as_ref().unwrap().sizes.is_empty());
    let first = ok(&json!({"id": "r", "at": 1, "tmax": 0, "imp": [{"id": "1", "pmp": {"private_auction": 1, "deals": [
        {"id": "a"}, {"id": "b", "at": 3, "bidfloor": 2.5, "bidfloorcur": "GBP", "wseat": ["s"], "wadomain": ["X.example"]}]}}]}));
    assert_eq!(first.tmax_ms, None);
    let deals = &first.slots[0].deals;
    assert_eq!((deals[0].auction_type, deals[1].auction_type), (AuctionType::FirstPrice, AuctionType::Fixed));
    assert_eq!((deals[1].floor, deals[1].floor_currency.as_str()), (Micros(2_500), "GBP"));
    assert_eq!((&deals[1].seats[..], &deals[1].domains[..]), (&["s".to_owned()][..], &["x.example".to_owned()][..]));
    assert!(first.slots[0].private_auction);
}

#[test]
fn floors_round_up_and_go_by_length_for_video() {
    let slot = only_slot(json!({"bidfloor": 2.0001, "video": {"mimes": ["VIDEO/MP4"]}}));
    assert_eq!(slot.floor, Micros(2_001));
    assert_eq!(slot.open_floor(Some(30)), Micros(2_001));
    let slot = only_slot(json!({"bidfloor": 2, "video": {"mimes": ["video/mp4"], "mincpmpersec": 0.1,
        "durfloors": [{"mindur": 1, "maxdur": 15, "bidfloor": 5}, {"mindur": 16, "bidfloor": 1}]}}));
    assert_eq!(slot.open_floor(Some(15)), Micros(5_000));
    assert_eq!(slot.open_floor(Some(30)), Micros(3_000));
    assert_eq!(slot.open_floor(None), Micros(2_000), "a banner in the same slot has the impression's floor");
    assert_eq!(slot.video.unwrap().mimes, ["video/mp4"]);
}

#[test]
fn what_cannot_be_filled_is_left_out_with_its_reason() {
    let cases = [
        (json!({"banner": {"w": 320}}), "banner"),
        (json!({"banner": {"format": [{"wratio": 16, "hratio": 9}]}}), "banner"),
        (json!({"banner": {"w": 300, "h": 250, "format": [{"wratio": 16, "hratio": 9}]}}), "banner"),
        (json!({"banner": {}, "qty": {"multiplier": 2}}), "imp"),
        (json!({"banner": {"w": 320, "h": 50, "btype": [2]}}), "banner"),
        (json!({"video": {"mimes": ["video/mp4"], "linearity": 2}}), "video"),
        (json!({"audio": {"mimes": ["audio/mp4"]}}), "audio"),
        (json!({"native": {"request": "{}"}}), "native"),
        (json!({"native": {"request": "[]"}}), "native"),
        (json!({"native": {"request": "{\"assets\":[{\"id\":1,\"title\":7}]}"}}), "native"),
        (json!({}), "imp"),
    ];
    for (imp, form) in cases {
        let request = ok(&with_imp(imp.clone()));
        assert!(!request.slots[0].offers_anything(), "{imp}");
        assert_eq!(request.unusable[0].form, form, "{imp}");
        assert_eq!(request.unusable.last().unwrap().form, "imp");
    }
    let mixed = only_slot(
        json!({"audio": {"mimes": ["audio/mp4"]}, "banner": {"w": 0, "h": 0, "format": [{"w": 0, "h": 9}, {"w": 1, "h": 2}]}}),
    );
    assert_eq!(mixed.banner.unwrap().sizes, [(1, 2)]);
}

#[test]
fn native_requests_are_read_in_every_wrapping() {
    let assets = json!([
        {"id": 1, "required": 1, "title": {"len": 25}}, {"id": 2, "img": {"type": 3, "wmin": 300, "hmin": 250}},
        {"id": 3, "data": {"type": 2, "len": 90}}, {"id": 4, "video": {"mimes": []}}, {"required": 1, "title": {"len": 9}},
        {"id": 5, "title": {}}]);
    let inner = json!({"ver": "1.1", "assets": assets, "eventtrackers": [{"event": 1, "methods": [2, 1]}]});
    let wrapped = json!({"native": inner});
    let forms = [
        (json!(inner.to_string()), false),
        (json!(wrapped.to_string()), true),
        (inner.clone(), false),
        (wrapped, true),
        (json!(json!(inner.to_string()).to_string()), false),
    ];
    for (request, is_wrapped) in forms {
        let native = only_slot(json!({"native": {"request": request, "ver": "1.2", "battr": [8]}})).native.unwrap();
        assert_eq!((native.version.as_str(), native.wrapped, native.image_trackers), ("1.1", is_wrapped, true));
        assert_eq!(native.blocked_attributes, [8]);
        let kinds: Vec<_> = native.assets.iter().map(|asset| (asset.id, asset.required, asset.kind.clone())).collect();
        assert_eq!(
            kinds,
            [
                (1, true, NativeAssetKind::Title { len: 25 }),
                (2, false, NativeAssetKind::Image { kind: 3, w: 300, h: 250 }),
                (3, false, NativeAssetKind::Data { kind: 2, len: Some(90) }),
                (4, false, NativeAssetKind::Other),
                (0, true, NativeAssetKind::Other),
                (5, false, NativeAssetKind::Title { len: 25 }),
            ]
        );
    }
}

#[test]
fn the_user_is_found_and_privacy_is_kept() {
    let user = |more: Value| {
        let mut body = with_imp(json!({"banner": {}}));
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        ok(&body).user
    };
    let eids = json!([{"source": "x", "uids": null}, null, {"source": "y", "uids": [{"id": ""}, {"id": "e"}]}]);
    let cases = [
        (json!({"user": {"id": "u", "buyeruid": "b"}, "device": {"ifa": "i"}}), Some(("b", UserSource::BuyerUid))),
        (json!({"user": {"id": "u", "buyeruid": ""}, "device": {"ifa": "i"}}), Some(("u", UserSource::UserId))),
        (json!({"user": {"id": "", "buyeruid": "b"}}), Some(("b", UserSource::BuyerUid))),
        (json!({"user": {"eids": eids}, "device": {"ifa": "i"}}), Some(("e", UserSource::ExtendedId))),
        (json!({"user": {"ext": {"eids": eids}}}), Some(("e", UserSource::ExtendedId))),
        (json!({"user": {"eids": "junk"}, "device": {"ifa": "i"}}), Some(("i", UserSource::DeviceAdvertisingId))),
        (json!({"device": {"ifa": "00000000-0000-0000-0000-000000000000"}}), None),
        (json!({"user": null}), None),
    ];
    for (more, expected) in cases {
        let found = user(more.clone());
        assert_eq!(found.id.as_deref().zip(found.source), expected, "{more}");
        assert_eq!(found.for_history(), expected.map(|(id, _)| id));
    }
    let named = json!({"id": "u"});
    let cases = [
        (json!({"user": named, "regs": {"coppa": 1}}), Some(HistoryBar::Coppa)),
        (json!({"user": named, "device": {"lmt": 1}}), Some(HistoryBar::LimitAdTracking)),
        (json!({"user": named, "device": {"dnt": "1"}}), Some(HistoryBar::DoNotTrack)),
        (json!({"user": named, "regs": {"gdpr": 1}}), Some(HistoryBar::NoConsent)),
        (json!({"user": named, "regs": {"ext": {"gdpr": 1}}}), Some(HistoryBar::NoConsent)),
        (json!({"user": {"id": "u", "consent": "C"}, "regs": {"gdpr": 1}}), Some(HistoryBar::NoConsent)),
        (
            json!({"user": {"id": "u", "consent": "CAAAAAAAAAAAAAAAAAAAAAAAADAAAAAAAAAAAAAA"}, "regs": {"gdpr": 1}}),
            None,
        ),
        (
            json!({"user": {"id": "u", "ext": {"consent": "CAAAAAAAAAAAAAAAAAAAAAAAADAAAAAAAAAAAAAA"}}, "regs": {"ext": {"gdpr": 1}}}),
            None,
        ),
        (json!({"user": named, "regs": {"us_privacy": "1YYN"}}), Some(HistoryBar::OptedOutOfSale)),
        (json!({"user": named, "regs": {"ext": {"us_privacy": "1YNN"}}}), None),
        (json!({"user": named, "regs": {"ext": {"gpc": "1"}}}), Some(HistoryBar::PrivacyControl)),
        (json!({"user": named, "regs": {"gpp_sid": [7]}}), Some(HistoryBar::PlatformString)),
        (json!({"user": named, "regs": {"gpp_sid": [-1]}}), None),
        (json!({"user": named, "regs": {"coppa": 0, "gdpr": 0}, "device": {"lmt": 0, "dnt": 0}}), None),
    ];
    for (more, bar) in cases {
        let found = user(more.clone());
        assert_eq!(found.barred, bar, "{more}");
        assert_eq!(found.for_history().is_none(), bar.is_some());
        assert_eq!(found.id.as_deref(), Some("u"));
    }
}

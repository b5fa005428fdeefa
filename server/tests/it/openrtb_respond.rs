//! Answers: every recorded request that can be filled gets a response which the independent judge accepts, and the judge
//! rejects each kind of damage.

use crate::openrtb_validate::problems;
use crate::shared::exchange_requests;
use longbow::auction::slot::{DealOffer, Slot, Terms};
use longbow::http::openrtb::{BidRequest, DecidedBid, NoBidCode, bid_response, no_bid_response, parse};
use longbow::ids::Id;
use longbow::money::{Currency, Micros};
use longbow::plans::{Creative, Format};
use longbow::render::{Dressing, FormUsed, Misfit, fits, render};
use serde_json::{Value, json};

fn rate(code: &str) -> Option<f64> {
    let known = [("USD", 1.0), ("EUR", 1.1), ("GBP", 1.25), ("RUB", 0.011), ("AUD", 0.65), ("PLN", 0.25)];
    known.iter().find(|(own, _)| *own == code).map(|&(_, rate)| rate)
}

fn creative(id: &str, format: Format) -> Creative {
    Creative {
        id: Id::from(id),
        plan: Id::from("p"),
        item: None,
        attributes: vec![],
        language: Some("en".into()),
        elements: Default::default(),
        format,
    }
}

/// Creatives of the usual shapes, with texts that try to break out of their markup.
fn wardrobe() -> Vec<Creative> {
    let sizes = [(300, 250), (728, 90), (320, 50), (300, 600), (160, 600), (970, 250), (336, 280), (468, 60)];
    let mut all: Vec<_> = sizes
        .iter()
        .map(|&(w, h)| {
            creative(
                &format!("b{w}x{h}"),
                Format::Banner { w, h, image_url: "https://cdn.example/a.png?x=1&y=\"2".into() },
            )
        })
        .collect();
    for duration_s in [6, 15, 30, 120] {
        let media_url = "https://cdn.example/v.mp4?a=]]>&b=<c>".into();
        all.push(creative(
            &format!("v{duration_s}"),
            Format::Video { w: 640, h: 360, duration_s, mime: "video/mp4".into(), media_url },
        ));
    }
    all.push(creative(
        "n\"<&",
        Format::Native {
            title: "Shoes \"50%\" off </script><script>alert(1)</script> today only".into(),
            description: "A & B < C ]]> 'quoted' and quite a bit longer than many slots allow it to be, so that it is cut".into(),
            image_url: "https://cdn.example/m.jpg".into(),
            icon_url: "https://cdn.example/i.jpg".into(),
            cta: "Buy now".into(),
        },
    ));
    all
}

struct Dressed {
    form: FormUsed,
    creative: Creative,
    markup: String,
    price: Micros,
    deal: Option<String>,
    imp: String,
}

fn dress(terms: &Terms, slot: &Slot, creative: &Creative) -> Result<(FormUsed, String), Misfit> {
    let form = fits(terms, slot, creative)?;
    let dressing = Dressing {
        look: longbow::render::Look::default(),
        slot,
        creative,
        form,
        label: "A \"fine\" <b>shoe</b> & more ]]>",
        sponsor: "Shop & Sons",
        domain: "shop.example",
        click_url: "https://bid.example/notice/click?k=1&a=%22",
        impression_url: "https://bid.example/notice/impression?k=1&a=2",
    };
    Ok((form, render(&dressing).expect("a creative that fits renders")))
}

/// Bids the floor, or 10 micros where there is none, in the floor's own currency.
fn fill(request: &BidRequest, currency: Currency) -> Vec<Dressed> {
    let mut out = Vec::new();
    for slot in &request.slots {
        let deal: Option<&DealOffer> = slot.deals.iter().find(|deal| deal.floor_currency == currency);
        if slot.private_auction && deal.is_none() {
            continue;
        }
        for creative in wardrobe() {
            let Ok((form, markup)) = dress(&request.terms, slot, &creative) else { continue };
            let floor = deal.map_or_else(|| slot.open_floor(form.video_duration_s()), |deal| deal.floor);
            let price = if deal.is_none() && slot.floor_currency != Some(currency) && floor.0 > 0 {
                Micros(10_000_000) // far above any recorded floor, whatever its currency
            } else {
                Micros(floor.0.max(10))
            };
            out.push(Dressed {
                form,
                creative,
                markup,
                price,
                deal: deal.map(|d| d.id.clone()),
                imp: slot.imp_id.clone(),
            });
            break;
        }
    }
    out
}

fn respond(request: &BidRequest, seat: Option<&str>) -> Option<Value> {
    let currency = request.terms.currencies.first().copied().unwrap_or(Currency::USD);
    let filled = fill(request, currency);
    if filled.is_empty() {
        return None;
    }
    let ids: Vec<String> = (0..filled.len()).map(|n| format!("bid-{n}")).collect();
    let categories = ["IAB18-1".to_owned()];
    let bids: Vec<DecidedBid<'_>> = filled
        .iter()
        .zip(&ids)
        .map(|(bid, id)| DecidedBid {
            bid_id: id,
            imp_id: &bid.imp,
            seat,
            price: bid.price,
            ad_id: "plan-1",
            campaign_id: "plan-1",
            creative_id: bid.creative.id.as_str(),
            domain: "shop.example",
            categories: &categories,
            attributes: &bid.creative.attributes,
            language: bid.creative.language.as_deref(),
            image_url: None,
            form: bid.form,
            deal_id: bid.deal.as_deref(),
            markup: &bid.markup,
            win_url: "https://bid.example/w?price=${AUCTION_PRICE}",
            billing_url: "https://bid.example/b?price=${AUCTION_PRICE}",
            loss_url: "https://bid.example/l?loss=${AUCTION_LOSS}",
            expires_s: Some(300),
        })
        .collect();
    let body = bid_response(&request.terms.auction_id, currency, &bids).unwrap();
    Some(serde_json::from_slice(&body).unwrap())
}

#[test]
fn every_recorded_request_that_can_be_filled_is_answered_validly() {
    let Some(lines) = exchange_requests() else { return };
    let (mut answered, mut kinds) = (0, [0u32; 5]);
    for (number, line) in lines.iter().enumerate() {
        let request: Value = serde_json::from_str(line).unwrap();
        let parsed = parse(line.as_bytes()).unwrap();
        let seat = parsed.terms.seats_allowed.first().map(String::as_str);
        let Some(response) = respond(&parsed, seat) else { continue };
        let currency = response["cur"].as_str().unwrap();
        let found = problems(&request, &response, &|code| rate(code).or((code == currency).then_some(1.0)));
        assert!(found.is_empty(), "line {}: {found:#?}\n{line}\n{response}", number + 1);
        answered += 1;
        for bid in response["seatbid"][0]["bid"].as_array().unwrap() {
            kinds[usize::try_from(bid["mtype"].as_u64().unwrap()).unwrap()] += 1;
        }
    }
    assert!(answered > 900, "only {answered} of 1081 requests can be filled");
    assert!(kinds[1] > 600 && kinds[2] > 150 && kinds[4] > 50, "{kinds:?}");
}

fn request() -> Value {
    let native = json!({"ver": "1.2", "assets": [{"id": 1, "required": 1, "title": {"len": 20}}, {"id": 2, "data": {"type": 2, "len": 30}}]});
    json!({
        "id": "r", "cur": ["EUR"], "badv": ["bad.example"], "bcat": ["IAB25"], "wseat": ["s1", "s2"], "wlang": ["en"],
        "imp": [
            {"id": "b", "secure": 1, "bidfloor": 1.5, "bidfloorcur": "USD", "banner": {"format": [{"w": 300, "h": 250}], "battr": [3]}},
            {"id": "v", "bidfloorcur": "EUR", "bidfloor": 2.0, "video": {"mimes": ["video/mp4"], "protocols": [2, 7], "minduration": 5, "maxduration": 15}},
            {"id": "n", "native": {"request": native.to_string()}},
            {"id": "d", "banner": {"w": 728, "h": 90},
             "pmp": {"private_auction": 1, "deals": [{"id": "deal", "bidfloor": 4, "bidfloorcur": "EUR", "wseat": ["s1"]}]}},
        ]
    })
}

#[test]
fn the_judge_accepts_the_answer_and_rejects_each_damage() {
    let request = request();
    let parsed = parse(request.to_string().as_bytes()).unwrap();
    let good = respond(&parsed, Some("s1")).unwrap();
    assert_eq!(problems(&request, &good, &rate), Vec::<String>::new());
    assert_eq!(good["seatbid"][0]["bid"].as_array().unwrap().len(), 4);
    let damages: [(&str, &str, Value); 22] = [
        ("/id", "id is not", json!("other")),
        ("/cur", "cur USD", json!("USD")),
        ("/seatbid/0/seat", "not allowed by the request", json!("s3")),
        ("/seatbid/0/seat", "not allowed by the deal", json!("s2")),
        ("/seatbid/0/bid/1/id", "repeated", json!("bid-0")),
        ("/seatbid/0/bid/0/impid", "not in the request", json!("x")),
        ("/seatbid/0/bid/0/price", "below the floor", json!(1.3)),
        ("/seatbid/0/bid/1/price", "below the floor", json!(1.999)),
        ("/seatbid/0/bid/3/price", "below the floor", json!(3.999)),
        ("/seatbid/0/bid/2/price", "not above 0", json!(0)),
        ("/seatbid/0/bid/0/w", "size", json!(301)),
        ("/seatbid/0/bid/0/attr", "battr", json!([3])),
        ("/seatbid/0/bid/0/adomain", "blocked", json!(["x.bad.example"])),
        ("/seatbid/0/bid/0/cat", "blocked", json!(["IAB25-3"])),
        ("/seatbid/0/bid/0/language", "wlang", json!("fr")),
        ("/seatbid/0/bid/0/mtype", "offers no video", json!(2)),
        ("/seatbid/0/bid/0/adm", "secure", json!("<a href=\"http://x\"><img src=\"y\"></a><img src=\"z\">")),
        (
            "/seatbid/0/bid/0/adm",
            "active content",
            json!("<a href=\"javascript:x\"><img src=\"y\"></a><img src=\"z\">"),
        ),
        ("/seatbid/0/bid/1/protocol", "protocol", json!(3)),
        (
            "/seatbid/0/bid/2/adm",
            "required asset",
            json!("{\"assets\":[{\"id\":2,\"data\":{\"value\":\"x\"}}],\"link\":{\"url\":\"u\"}}"),
        ),
        ("/seatbid/0/bid/3/dealid", "private auction", Value::Null),
        ("/seatbid/0/bid/3/dealid", "not offered", json!("other")),
    ];
    for (pointer, expected, value) in damages {
        let mut damaged = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        damaged.pointer_mut(parent).unwrap()[key] = value;
        let found = problems(&request, &damaged, &rate).join("; ");
        assert!(found.contains(expected), "{pointer}: expected {expected:?}, found {found:?}");
    }
}

#[test]
fn the_written_form_is_the_specifications() {
    let parsed = parse(request().to_string().as_bytes()).unwrap();
    let good = respond(&parsed, Some("s1")).unwrap();
    let video = &good["seatbid"][0]["bid"][1];
    assert_eq!((&video["mtype"], &video["protocol"], &video["dur"]), (&json!(2), &json!(7), &json!(6)));
    assert_eq!((&video["price"], &video["crid"], &video["cid"]), (&json!(2.0), &json!("v6"), &json!("plan-1")));
    assert!(video["adm"].as_str().unwrap().contains("<VAST version=\"4.0\">"));
    assert_eq!(good["seatbid"][0]["bid"][3]["dealid"], "deal");
    assert_eq!(good["seatbid"][0]["seat"], "s1");
    let no_bid: Value = serde_json::from_slice(&no_bid_response("r\"", NoBidCode::InsufficientTime).unwrap()).unwrap();
    assert_eq!(no_bid, json!({"id": "r\"", "seatbid": [], "nbr": 15}));
    assert!(problems(&json!({"id": "r\""}), &no_bid, &rate).is_empty());
}

#[test]
fn bids_are_grouped_by_seat_and_priced_exactly() {
    let bid = |bid_id, seat, price| DecidedBid {
        bid_id,
        imp_id: "1",
        seat,
        price: Micros(price),
        ad_id: "a",
        campaign_id: "a",
        creative_id: "c",
        domain: "d.example",
        categories: &[],
        attributes: &[],
        language: None,
        image_url: None,
        form: FormUsed::Native,
        deal_id: None,
        markup: "{}",
        win_url: "",
        billing_url: "",
        loss_url: "",
        expires_s: None,
    };
    let bids = [bid("1", Some("x"), 2_301), bid("2", None, 1), bid("3", Some("x"), 123_456_789_012)];
    let text = String::from_utf8(bid_response("r", Currency::USD, &bids).unwrap()).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<Vec<&str>> = value["seatbid"]
        .as_array()
        .unwrap()
        .iter()
        .map(|seat| seat["bid"].as_array().unwrap().iter().map(|bid| bid["id"].as_str().unwrap()).collect())
        .collect();
    assert_eq!(ids, [vec!["1", "3"], vec!["2"]]);
    assert!(value["seatbid"][1].get("seat").is_none());
    for exact in ["\"price\":2.301,", "\"price\":0.001,", "\"price\":123456789.012,"] {
        assert!(text.contains(exact), "{exact} in {text}");
    }
}

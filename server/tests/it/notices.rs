//! Signed notices: what is written is read back, any change is noticed, prices are exact, keys can be changed.

use longbow::http::notices::{
    Claim, Key, KeyError, LossReason, Notice, NoticeError, NoticeKind, NoticeSigner, PriceFault, Windows,
};
use longbow::money::{Currency, Micros};
use proptest::prelude::*;
use std::borrow::Cow;

const NOW: i64 = 1_700_000_000;

fn key(id: &str) -> Key {
    Key::new(id, format!("secret of key {id}, long enough").as_bytes()).unwrap()
}

fn signer() -> NoticeSigner {
    NoticeSigner::new(key("k1"), None, Windows::default()).unwrap()
}

fn claim() -> Claim<'static> {
    Claim {
        auction: "auction & 1".into(),
        bid: "bid=1".into(),
        plan: "plan-1".into(),
        item: "item?1".into(),
        creative: "créative".into(),
        user: 0xdead_beef,
        cap: Micros(2_500),
        currency: Currency::USD,
        hold: Micros(2_500),
        time_s: NOW,
        test: false,
    }
}

/// The query as it arrives when the exchange fills in these macros and leaves the others empty.
fn query(url: &str, macros: &[(&str, &str)]) -> String {
    let mut query = url.split_once('?').unwrap().1.to_owned();
    for (name, value) in macros {
        let whole = format!("${{{name}}}");
        assert!(query.contains(&whole), "{name} in {query}");
        query = query.replace(&whole, value);
    }
    while let Some(start) = query.find("${") {
        let end = start + query[start..].find('}').unwrap();
        query.replace_range(start..=end, "");
    }
    query
}

fn win(price: &str) -> Result<Notice, NoticeError> {
    let url = signer().url("https://bid.example", NoticeKind::Win, &claim());
    signer().verify(NoticeKind::Win, &query(&url, &[("AUCTION_PRICE", price)]), NOW + 5)
}

#[test]
fn what_is_written_is_read_back() {
    let signer = signer();
    for kind in NoticeKind::ALL {
        let url = signer.url("https://bid.example", kind, &claim());
        let path = url.strip_prefix("https://bid.example").unwrap().split('?').next().unwrap();
        assert_eq!(NoticeKind::from_path(path), Some(kind));
        let fills: &[(&str, &str)] = match kind {
            NoticeKind::Impression | NoticeKind::Click => &[],
            NoticeKind::Loss => &[("AUCTION_LOSS", "102"), ("AUCTION_PRICE", "9.75"), ("AUCTION_MIN_TO_WIN", "9.76")],
            _ => &[("AUCTION_PRICE", "2.3"), ("AUCTION_CURRENCY", "USD"), ("AUCTION_IMP_TS", "1700000003000")],
        };
        let notice = signer.verify(kind, &query(&url, fills), NOW + 5).unwrap();
        assert_eq!((notice.kind, notice.age_s), (kind, 5));
        assert_eq!(notice.claim, claim());
        match kind {
            NoticeKind::Win | NoticeKind::Billing => {
                assert_eq!((notice.price, notice.impression_at_ms), (Some(Micros(2_300)), Some(1_700_000_003_000)));
            }
            NoticeKind::Loss => {
                assert_eq!(notice.loss, Some(LossReason(102)));
                assert_eq!((notice.price, notice.min_to_win), (Some(Micros(9_750)), Some(Micros(9_760))));
            }
            _ => assert_eq!(notice.price, None),
        }
    }
    for path in ["/notice/", "/notice/wins", "/notice/win/", "notice/win", "/win"] {
        assert_eq!(NoticeKind::from_path(path), None, "{path}");
    }
}

/// Computed apart, with the HMAC of another library, over the length-prefixed fields.
#[test]
fn the_signature_is_the_published_vector() {
    let url = signer().url("https://bid.example", NoticeKind::Win, &claim());
    assert!(
        url.starts_with(
            "https://bid.example/notice/win?k=k1&a=auction%20%26%201&b=bid%3D1&p=plan-1&i=item%3F1&c=cr%C3%A9ative\
             &u=deadbeef&m=2500&y=USD&h=2500&t=1700000000&s=u2Mg2DW-xZcyR9ZVA4InFCpHoHOJAODN7y4Of5XAw-A&price=${AUCTION_PRICE}&cur=${AUCTION_CURRENCY}"
        ),
        "{url}"
    );
}

#[test]
fn every_changed_field_is_noticed() {
    let signer = signer();
    let mut with_test = claim();
    with_test.test = true;
    for claim in [claim(), with_test] {
        let url = signer.url("https://b", NoticeKind::Win, &claim);
        let good = query(&url, &[("AUCTION_PRICE", "1")]);
        assert!(signer.verify(NoticeKind::Win, &good, NOW).is_ok());
        for field in ["a", "b", "p", "i", "c", "u", "m", "y", "t", "s"] {
            let start = good.find(&format!("&{field}=")).unwrap() + field.len() + 2;
            let end = start + good[start..].find('&').unwrap();
            for with in ["", "1", "0", "zz", "EUR", "9999", "17000000001", &good[start..end - 1]] {
                let changed = format!("{}{with}{}", &good[..start], &good[end..]);
                let error = signer.verify(NoticeKind::Win, &changed, NOW).expect_err(&changed);
                assert!(
                    matches!(error, NoticeError::BadSignature | NoticeError::Malformed { .. }),
                    "{changed}: {error}"
                );
            }
            let removed = format!("{}{}", &good[..start - field.len() - 2], &good[end..]);
            assert_eq!(
                signer.verify(NoticeKind::Win, &removed, NOW),
                Err(NoticeError::Malformed { field }),
                "{removed}"
            );
        }
        let toggled = if claim.test { good.replace("&x=1", "") } else { good.replace("&s=", "&x=1&s=") };
        assert_ne!(toggled, good);
        assert_eq!(signer.verify(NoticeKind::Win, &toggled, NOW), Err(NoticeError::BadSignature));
        for kind in NoticeKind::ALL.into_iter().filter(|&kind| kind != NoticeKind::Win) {
            assert_eq!(signer.verify(kind, &good, NOW), Err(NoticeError::BadSignature), "{kind:?}");
        }
        // What an exchange appends, on purpose or through a macro, replaces nothing.
        let appended = format!("{good}&m=999999&p=other&a=x&price=0.5");
        assert_eq!(signer.verify(NoticeKind::Win, &appended, NOW), signer.verify(NoticeKind::Win, &good, NOW));
        // Other writings of the same number are not what was signed.
        for (from, to) in
            [("m=2500", "m=+2500"), ("m=2500", "m=02500"), ("u=deadbeef", "u=DEADBEEF"), ("u=deadbeef", "u=0deadbeef")]
        {
            assert!(signer.verify(NoticeKind::Win, &good.replace(from, to), NOW).is_err(), "{to}");
        }
    }
}

#[test]
fn text_cannot_move_between_fields() {
    let signer = signer();
    let (mut left, mut right) = (claim(), claim());
    (left.plan, left.item) = ("ab".into(), "c".into());
    (right.plan, right.item) = ("a".into(), "bc".into());
    let signature = |claim: &Claim<'_>| {
        let url = signer.url("", NoticeKind::Click, claim);
        url.split_once("&s=").unwrap().1.to_owned()
    };
    assert_ne!(signature(&left), signature(&right));
}

#[test]
fn prices_are_exact_and_bounded_by_the_bid() {
    for (text, micros) in
        [("2.5", 2_500), ("2.4991", 2_500), ("0", 0), ("0.0001", 1), ("2.50000", 2_500), ("1e-1", 100)]
    {
        assert_eq!(win(text).unwrap().price, Some(Micros(micros)), "{text}");
    }
    for (text, expected) in [
        ("2.5000001", PriceFault::AboveBid),
        ("2.501", PriceFault::AboveBid),
        ("1e300", PriceFault::AboveBid),
        ("-1", PriceFault::Negative),
        ("NaN", PriceFault::NotDecimal),
        ("inf", PriceFault::NotDecimal),
        ("1,5", PriceFault::NotDecimal),
        ("", PriceFault::Empty),
        ("AUDIT", PriceFault::Audit),
        ("%24%7BAUCTION_PRICE%7D", PriceFault::Unexpanded),
        ("%24%7BAUCTION_PRICE:B64%7D", PriceFault::Encrypted),
        ("VeKh0AAKwWkKhQ4tAAU2RgAAAAAAAAAA", PriceFault::Encrypted),
        ("Mi41:B64", PriceFault::Encrypted),
    ] {
        match win(text) {
            Err(NoticeError::Price { fault, claim: signed }) => {
                assert_eq!((fault, *signed), (expected, claim()), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let url = signer().url("", NoticeKind::Win, &claim());
    // Nothing substituted at all.
    let raw = url.split_once('?').unwrap().1;
    let error = signer().verify(NoticeKind::Win, raw, NOW).unwrap_err();
    assert!(matches!(error, NoticeError::Price { fault: PriceFault::Unexpanded, .. }), "{error}");
    let euros = query(&url, &[("AUCTION_PRICE", "1"), ("AUCTION_CURRENCY", "EUR")]);
    assert_eq!(signer().verify(NoticeKind::Win, &euros, NOW), Err(NoticeError::Currency { claim: Box::new(claim()) }));
    let lower = query(&url, &[("AUCTION_PRICE", "1"), ("AUCTION_CURRENCY", "usd")]);
    assert!(signer().verify(NoticeKind::Win, &lower, NOW).is_ok());
}

#[test]
fn windows_are_kept_and_late_notices_are_handed_over() {
    let signer = signer();
    let windows = Windows::default();
    for (kind, window_s) in [(NoticeKind::Win, windows.auction_s), (NoticeKind::Click, windows.click_s)] {
        let url = signer.url("", kind, &claim());
        let query = query(&url, if kind == NoticeKind::Win { &[("AUCTION_PRICE", "1")] } else { &[] });
        let at = |offset| signer.verify(kind, &query, NOW + offset);
        assert_eq!(at(window_s).unwrap().age_s, window_s);
        match at(window_s + 1) {
            Err(NoticeError::Expired { age_s, notice }) => {
                assert_eq!((age_s, &notice.claim, notice.kind), (window_s + 1, &claim(), kind));
            }
            other => panic!("{other:?}"),
        }
        assert!(at(-windows.skew_s).is_ok());
        assert_eq!(at(-windows.skew_s - 1), Err(NoticeError::FromFuture));
        assert!(matches!(signer.verify(kind, &query, i64::MAX), Err(NoticeError::Expired { .. })));
        assert_eq!(signer.verify(kind, &query, i64::MIN), Err(NoticeError::FromFuture));
    }
}

#[test]
fn keys_can_be_changed_without_losing_notices() {
    let windows = Windows::default();
    let old = NoticeSigner::new(key("k1"), None, windows).unwrap();
    let both = NoticeSigner::new(key("k2"), Some(key("k1")), windows).unwrap();
    let new = NoticeSigner::new(key("k3"), Some(key("k2")), windows).unwrap();
    let from = |signer: &NoticeSigner| query(&signer.url("", NoticeKind::Click, &claim()), &[]);
    let check = |signer: &NoticeSigner, query: &str| signer.verify(NoticeKind::Click, query, NOW).map(|n| n.claim);
    assert_eq!(check(&both, &from(&old)), Ok(claim()));
    assert_eq!(check(&both, &from(&both)), Ok(claim()));
    assert_eq!(check(&new, &from(&both)), Ok(claim()));
    assert_eq!(check(&new, &from(&old)), Err(NoticeError::UnknownKey));
    assert_eq!(check(&old, &from(&both)), Err(NoticeError::UnknownKey));
    // A key's id alone opens nothing.
    let forged = from(&old).replace("k=k1", "k=k2");
    assert_eq!(check(&both, &forged), Err(NoticeError::BadSignature));

    assert_eq!(Key::new("", &[0; 32]).unwrap_err(), KeyError::Id);
    assert_eq!(Key::new("a&b", &[0; 32]).unwrap_err(), KeyError::Id);
    assert_eq!(Key::new("k", &[0; 15]).unwrap_err(), KeyError::Secret);
    assert_eq!(NoticeSigner::new(key("k"), Some(key("k")), windows).unwrap_err(), KeyError::SameId);
    assert!(!format!("{:?}", key("k")).contains("secret"));
}

#[test]
fn loss_codes_have_a_closed_set_of_labels() {
    assert_eq!(LossReason::parse("205").unwrap().label(), "creative_advertiser_excluded");
    assert_eq!(LossReason::parse("1234").unwrap().label(), "exchange_specific");
    assert_eq!(LossReason::parse("999").unwrap().label(), "other");
    for text in ["", "-1", "1e3", "9999999999", "x", "+1"] {
        assert_eq!(LossReason::parse(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn any_claim_survives_and_any_query_is_safe(
        texts in proptest::collection::vec("\\PC{0,20}", 5),
        user in any::<u128>(), cap in 0i64..1_000_000_000, test in any::<bool>(), junk in "\\PC{0,80}",
    ) {
        let text = |index: usize| Cow::Owned::<str>(texts[index].clone());
        let claim = Claim {
            auction: text(0), bid: text(1), plan: text(2), item: text(3), creative: text(4),
            user, cap: Micros(cap), currency: Currency::parse("JPY").unwrap(), hold: Micros(cap / 150), time_s: NOW,
            test,
        };
        let signer = signer();
        let url = signer.url("https://bid.example", NoticeKind::Click, &claim);
        prop_assert!(url.is_ascii() && !url.contains(['"', '<', '>', '\'', ' ']));
        let query = url.split_once('?').unwrap().1;
        prop_assert_eq!(signer.verify(NoticeKind::Click, query, NOW).unwrap().claim, claim);
        prop_assert!(signer.verify(NoticeKind::Click, &junk, NOW).is_err());
        let mixed = format!("{junk}&{query}");
        let _ = signer.verify(NoticeKind::Click, &mixed, NOW);
    }
}

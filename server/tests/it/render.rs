//! Markup: right for each form, and harmless whatever the catalogue holds.

use crate::markup_check::{html_problem, markup_problems, xml_problem};
use longbow::auction::slot::{BannerSlot, NativeAsset, NativeAssetKind, NativeSlot, Slot, Terms, VideoSlot};
use longbow::ids::Id;
use longbow::plans::{Creative, Format};
use longbow::render::{Dressing, FormUsed, Look, Misfit, VastVersion, fits, render};
use proptest::prelude::*;
use serde_json::{Value, json};

fn banner() -> Creative {
    creative(Format::Banner { w: 300, h: 250, image_url: "https://cdn.example/a.png".into() })
}

fn video(duration_s: u32, mime: &str) -> Creative {
    creative(Format::Video {
        w: 640,
        h: 360,
        duration_s,
        mime: mime.into(),
        media_url: "https://cdn.example/v.mp4".into(),
    })
}

fn native(title: &str, description: &str, cta: &str) -> Creative {
    creative(Format::Native {
        title: title.into(),
        description: description.into(),
        image_url: "https://cdn.example/m.jpg".into(),
        icon_url: String::new(),
        cta: cta.into(),
    })
}

fn creative(format: Format) -> Creative {
    Creative {
        id: Id::from("c1"),
        plan: Id::from("p1"),
        item: None,
        attributes: vec![3],
        language: Some("de-AT".into()),
        elements: Default::default(),
        format,
    }
}

fn slot() -> Slot {
    Slot {
        banner: Some(BannerSlot { sizes: vec![(300, 250)], ..BannerSlot::default() }),
        video: Some(VideoSlot { mimes: vec!["video/mp4".into()], duration_max_s: 30, ..VideoSlot::default() }),
        native: Some(NativeSlot {
            version: "1.2".into(),
            assets: vec![asset(1, true, NativeAssetKind::Title { len: 25 })],
            ..NativeSlot::default()
        }),
        ..Slot::default()
    }
}

fn asset(id: i64, required: bool, kind: NativeAssetKind) -> NativeAsset {
    NativeAsset { id, required, kind }
}

fn dressing<'a>(slot: &'a Slot, creative: &'a Creative, form: FormUsed) -> Dressing<'a> {
    Dressing {
        slot,
        creative,
        look: Look::default(),
        form,
        label: "Shoe",
        sponsor: "Shop",
        domain: "shop.example",
        click_url: "https://bid.example/notice/click?a=1&b=2",
        impression_url: "https://bid.example/notice/impression?a=1&b=2",
    }
}

fn rendered(slot: &Slot, creative: &Creative) -> String {
    let form = fits(&Terms::default(), slot, creative).unwrap();
    render(&dressing(slot, creative, form)).unwrap()
}

#[test]
fn a_misfit_names_the_first_rule_broken() {
    let terms = Terms::default();
    let misfit = |change: &dyn Fn(&mut Slot, &mut Terms), creative: &Creative| {
        let (mut slot, mut terms) = (slot(), terms.clone());
        change(&mut slot, &mut terms);
        fits(&terms, &slot, creative).unwrap_err()
    };
    assert_eq!(misfit(&|s, _| s.banner = None, &banner()), Misfit::FormNotOffered);
    assert_eq!(misfit(&|s, _| s.banner.as_mut().unwrap().sizes = vec![(1, 1)], &banner()), Misfit::Size);
    assert_eq!(
        misfit(&|s, _| s.banner.as_mut().unwrap().mimes = vec!["image/gif".into()], &banner()),
        Misfit::MediaType
    );
    assert_eq!(
        misfit(&|s, _| s.banner.as_mut().unwrap().blocked_attributes = vec![1, 3], &banner()),
        Misfit::Attribute(3)
    );
    assert_eq!(misfit(&|_, t| t.languages = vec!["fr".into()], &banner()), Misfit::Language);
    assert_eq!(misfit(&|_, _| {}, &video(31, "video/mp4")), Misfit::Duration);
    assert_eq!(
        misfit(&|s, _| s.video.as_mut().unwrap().durations_s = vec![10], &video(15, "video/mp4")),
        Misfit::Duration
    );
    assert_eq!(misfit(&|_, _| {}, &video(15, "video/webm")), Misfit::MediaType);
    assert_eq!(
        misfit(&|s, _| s.video.as_mut().unwrap().protocols = vec![1, 5, 8], &video(15, "video/mp4")),
        Misfit::Protocol
    );
    let required = |kind: NativeAssetKind| {
        move |s: &mut Slot, _: &mut Terms| s.native.as_mut().unwrap().assets.push(asset(7, true, kind.clone()))
    };
    for kind in [
        NativeAssetKind::Other,
        NativeAssetKind::Data { kind: 3, len: None },
        NativeAssetKind::Data { kind: 12, len: None },
        NativeAssetKind::Title { len: 0 },
    ] {
        assert_eq!(misfit(&required(kind), &native("t", "d", "")), Misfit::RequiredAsset { id: 7 });
    }
    let insecure = creative(Format::Banner { w: 300, h: 250, image_url: "http://cdn.example/a.png".into() });
    assert_eq!(misfit(&|s, _| s.secure = true, &insecure), Misfit::NotSecure);

    // And what fits: any size where none is named, either media type, the language's primary part, exact lengths.
    let fit = |change: &dyn Fn(&mut Slot, &mut Terms), creative: &Creative| {
        let (mut slot, mut terms) = (slot(), terms.clone());
        change(&mut slot, &mut terms);
        fits(&terms, &slot, creative).unwrap()
    };
    assert_eq!(fit(&|s, _| s.banner.as_mut().unwrap().sizes.clear(), &banner()), FormUsed::Banner { w: 300, h: 250 });
    fit(&|s, _| s.banner.as_mut().unwrap().mimes = vec!["text/html".into()], &banner());
    fit(&|s, _| s.banner.as_mut().unwrap().mimes = vec!["IMAGE/PNG".into()], &banner());
    fit(&|_, t| t.languages = vec!["en".into(), "DE".into()], &banner());
    fit(&|s, _| s.video.as_mut().unwrap().durations_s = vec![45], &video(45, "video/mp4"));
}

#[test]
fn the_newest_accepted_vast_version_is_written() {
    for (protocols, version) in [
        (vec![], Some(VastVersion::V3_0)),
        (vec![2, 5], Some(VastVersion::V2_0)),
        (vec![2, 3, 5, 6], Some(VastVersion::V3_0)),
        (vec![3, 7, 8], Some(VastVersion::V4_0)),
        (vec![11, 3], Some(VastVersion::V4_1)),
        (vec![2, 13, 14], Some(VastVersion::V4_2)),
        (vec![1, 4, 99], None),
    ] {
        assert_eq!(VastVersion::choose(&protocols), version, "{protocols:?}");
        let Some(version) = version else { continue };
        let mut slot = slot();
        slot.video.as_mut().unwrap().protocols = protocols;
        let xml = rendered(&slot, &video(15, "video/mp4"));
        assert_eq!(xml_problem(&xml), None, "{xml}");
        assert!(xml.contains(&format!("<VAST version=\"{}\">", version.as_str())));
        assert!(xml.contains("<Duration>00:00:15</Duration>") && xml.contains("<AdTitle>Shoe</AdTitle>"));
        assert_eq!(xml.contains("<UniversalAdId"), version >= VastVersion::V4_0);
        assert_eq!(xml.contains("<AdServingId>"), version >= VastVersion::V4_1);
        let order = |a: &str, b: &str| xml.find(a).unwrap() < xml.find(b).unwrap();
        assert_eq!(order("<VideoClicks>", "<MediaFiles>"), version < VastVersion::V4_0);
        assert_eq!(order("<AdTitle>", "<Impression>"), version < VastVersion::V4_0);
    }
    let mut long = slot();
    long.video.as_mut().unwrap().duration_max_s = 4_000;
    assert!(rendered(&long, &video(3_725, "video/mp4")).contains("<Duration>01:02:05</Duration>"));
}

#[test]
fn native_answers_keep_ids_lengths_and_the_request_s_form() {
    let assets = vec![
        asset(11, true, NativeAssetKind::Title { len: 12 }),
        asset(12, false, NativeAssetKind::Image { kind: 1, w: 50, h: 50 }),
        asset(13, true, NativeAssetKind::Image { kind: 3, w: 300, h: 250 }),
        asset(14, false, NativeAssetKind::Data { kind: 1, len: Some(3) }),
        asset(15, false, NativeAssetKind::Data { kind: 2, len: Some(9) }),
        asset(16, false, NativeAssetKind::Data { kind: 6, len: None }),
        asset(17, false, NativeAssetKind::Data { kind: 11, len: None }),
        asset(18, true, NativeAssetKind::Data { kind: 12, len: Some(15) }),
        asset(19, false, NativeAssetKind::Other),
    ];
    let answer = |version: &str, wrapped: bool, image_trackers: bool| {
        let native_slot = NativeSlot {
            version: version.into(),
            wrapped,
            image_trackers,
            assets: assets.clone(),
            ..NativeSlot::default()
        };
        let text = rendered(
            &Slot { native: Some(native_slot), ..Slot::default() },
            &native("Running shoes for all", "Light \"and\" fast", "Buy now"),
        );
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let plain = answer("1.2", false, true);
    let pixel = "https://bid.example/notice/impression?a=1&b=2";
    assert_eq!(
        plain,
        json!({
            "ver": "1.2",
            "assets": [
                {"id": 11, "title": {"text": "Running…"}},
                {"id": 12, "img": {"url": "https://cdn.example/m.jpg"}},
                {"id": 13, "img": {"url": "https://cdn.example/m.jpg"}},
                {"id": 14, "data": {"value": "Sh…"}},
                {"id": 15, "data": {"value": "Light…"}},
                {"id": 17, "data": {"value": "shop.example"}},
                {"id": 18, "data": {"value": "Buy now"}},
            ],
            "link": {"url": "https://bid.example/notice/click?a=1&b=2"},
            "eventtrackers": [{"event": 1, "method": 1, "url": pixel}],
        })
    );
    for (version, wrapped, trackers, ver, outer) in [
        ("1.1", false, true, "1.1", false),
        ("1.0", false, false, "1.0", true),
        ("1.2", true, false, "1.2", true),
        ("9", false, true, "1.2", false),
    ] {
        let answer = answer(version, wrapped, trackers);
        assert_eq!(answer["native"].is_object(), outer, "{version}");
        let root = if outer { &answer["native"] } else { &answer };
        assert_eq!((&root["ver"], &root["imptrackers"]), (&json!(ver), &json!([pixel])));
        assert!(root["eventtrackers"].is_null());
    }
}

#[test]
fn secure_slots_get_no_http_of_ours_and_bad_urls_are_refused() {
    let mut slot = slot();
    let creatives = [banner(), video(15, "video/mp4"), native("t", "d", "c")];
    for creative in &creatives {
        let form = fits(&Terms::default(), &slot, creative).unwrap();
        for url in ["javascript:alert(1)", "data:text/html,x", "", "//x"] {
            let good = dressing(&slot, creative, form);
            assert_eq!(render(&Dressing { click_url: url, ..good }), Err(Misfit::Url));
            assert_eq!(render(&Dressing { impression_url: url, ..good }), Err(Misfit::Url));
        }
        let other = if form == FormUsed::Native { FormUsed::Banner { w: 1, h: 1 } } else { FormUsed::Native };
        assert!(render(&dressing(&slot, creative, other)).is_err());
    }
    let evil = creative(Format::Banner { w: 300, h: 250, image_url: "javascript:alert(1)".into() });
    assert_eq!(render(&dressing(&slot, &evil, FormUsed::Banner { w: 300, h: 250 })), Err(Misfit::Url));
    slot.secure = true;
    for creative in &creatives {
        let form = fits(&Terms::default(), &slot, creative).unwrap();
        let good = dressing(&slot, creative, form);
        assert!(render(&good).is_ok());
        assert_eq!(render(&Dressing { click_url: "http://bid.example/c", ..good }), Err(Misfit::NotSecure));
        assert_eq!(render(&Dressing { impression_url: "http://bid.example/i", ..good }), Err(Misfit::NotSecure));
    }
}

/// Texts made of what usually breaks out of markup.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "]]>",
            "<script>alert(1)</script>",
            "\"",
            "'",
            "&",
            "<",
            ">",
            "-->",
            "<![CDATA[",
            "javascript:",
            "\u{0}",
            "\u{1}",
            "\n",
            "\\",
            "${AUCTION_PRICE}",
            "\" onerror=\"x",
            "</a>",
            "\u{fffe}",
            "%22",
            "\u{2028}",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn hostile_texts_and_urls_stay_inside_their_markup(title in hostile(), description in hostile(), tail in hostile(), id in "[a-z\"<&]{1,8}") {
        let url = format!("https://cdn.example/{tail}");
        let mut slot = slot();
        slot.native.as_mut().unwrap().assets = vec![
            asset(1, false, NativeAssetKind::Title { len: 20 }),
            asset(2, false, NativeAssetKind::Data { kind: 2, len: Some(10) }),
            asset(3, true, NativeAssetKind::Image { kind: 3, w: 1, h: 1 }),
        ];
        let formats = [
            Format::Banner { w: 300, h: 250, image_url: url.clone() },
            Format::Video { w: 1, h: 1, duration_s: 15, mime: "video/mp4".into(), media_url: url.clone() },
            Format::Native { title: title.clone(), description, image_url: url.clone(), icon_url: String::new(), cta: String::new() },
        ];
        for (format, kind) in formats.into_iter().zip(["banner", "video", "native"]) {
            let creative = Creative { id: Id::from(id.as_str()), ..creative(format) };
            let form = fits(&Terms::default(), &slot, &creative).unwrap();
            let base = dressing(&slot, &creative, form);
            let markup = render(&Dressing { label: &title, sponsor: &title, click_url: &url, ..base }).unwrap();
            prop_assert_eq!(markup_problems(kind, &markup), Vec::<String>::new(), "{}", markup);
            if kind == "native" {
                let value: Value = serde_json::from_str(&markup).unwrap();
                let text = value["assets"][0]["title"]["text"].as_str().unwrap_or("");
                prop_assert!(text.chars().count() <= 20);
            }
        }
        prop_assert_eq!(html_problem("<a href=\"x\"><img src=\"y\"></a><img src=\"z\">"), None);
    }
}

//! Compositions as markup: every template in every form, and nothing of a record gets out of its place.

use crate::markup_check::{Tag, markup_problems, markup_shape, text_of, xml_problem};
use longbow::auction::slot::{BannerSlot, NativeAsset, NativeAssetKind, NativeSlot, Slot, Terms, VideoSlot};
use longbow::ids::Id;
use longbow::plans::{Creative, Element, Format, Part};
use longbow::render::{Dressing, FormUsed, Look, fits, render};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CLICK: &str = "https://bid.example/notice/click?a=1&b=2";
const PIXEL: &str = "https://bid.example/notice/impression?a=1&b=2";

fn creative(format: Format, elements: &[(Part, &str)]) -> Creative {
    let elements = elements.iter().enumerate().map(|(at, (part, value))| {
        (Id::from(&*format!("e{at}")), Element { part: *part, value: (*value).to_owned(), under: vec![] })
    });
    Creative {
        id: Id::from("c1"),
        plan: Id::from("p1"),
        item: None,
        attributes: vec![],
        language: None,
        elements: elements.collect::<BTreeMap<_, _>>(),
        format,
    }
}

fn banner(w: u32, h: u32) -> Format {
    Format::Banner { w, h, image_url: "https://cdn.example/a.png".into() }
}

fn slot() -> Slot {
    let asset = |id, kind| NativeAsset { id, required: false, kind };
    Slot {
        banner: Some(BannerSlot::default()),
        video: Some(VideoSlot { mimes: vec!["video/mp4".into()], duration_max_s: 30, ..VideoSlot::default() }),
        native: Some(NativeSlot {
            version: "1.2".into(),
            assets: vec![
                asset(1, NativeAssetKind::Title { len: 90 }),
                asset(2, NativeAssetKind::Data { kind: 2, len: Some(90) }),
                asset(3, NativeAssetKind::Image { kind: 3, w: 1, h: 1 }),
                asset(4, NativeAssetKind::Data { kind: 12, len: None }),
            ],
            ..NativeSlot::default()
        }),
        ..Slot::default()
    }
}

/// The markup with all elements of the record shown.
fn rendered(creative: &Creative) -> String {
    let slot = slot();
    let form = fits(&Terms::default(), &slot, creative).unwrap();
    let look = Look::of(creative, creative.elements.keys());
    let (label, sponsor, domain) = ("Item", "Shop", "shop.example");
    render(&Dressing {
        slot: &slot,
        creative,
        look,
        form,
        label,
        sponsor,
        domain,
        click_url: CLICK,
        impression_url: PIXEL,
    })
    .unwrap()
}

fn attribute<'a>(tag: &'a Tag, name: &str) -> Option<&'a str> {
    tag.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[test]
fn every_template_shows_every_part_once_within_the_click() {
    for template in Part::Template.values().unwrap() {
        for (w, h) in [(300, 250), (728, 90), (160, 600), (320, 50)] {
            let elements = [
                (Part::Template, *template),
                (Part::Title, "Fine shoes"),
                (Part::Text, "Light and fast"),
                (Part::Badge, "-20%"),
                (Part::Cta, "Buy now"),
                (Part::Background, "#112233"),
                (Part::Colour, "#ffeedd"),
                (Part::Font, "narrow"),
                (Part::Size, "xl"),
                (Part::Picture, "https://cdn.example/b.png"),
            ];
            let markup = rendered(&creative(banner(w, h), &elements));
            assert_eq!(markup_problems("banner", &markup), Vec::<String>::new(), "{markup}");
            assert_eq!(text_of(&markup), "Fine shoesLight and fastBuy now-20%");
            let tags = markup_shape(&markup).unwrap();
            assert_eq!(attribute(&tags[0], "href"), Some(CLICK));
            assert_eq!(attribute(tags.last().unwrap(), "src"), Some(PIXEL));
            let style = attribute(&tags[0], "style").unwrap();
            for part in [
                format!("width:{w}px"),
                format!("height:{h}px"),
                "#112233".into(),
                "#ffeedd".into(),
                "'Arial Narrow'".into(),
            ] {
                assert!(style.contains(&part), "{part} in {style}");
            }
            let pictures = tags.iter().filter(|tag| attribute(tag, "src") == Some("https://cdn.example/b.png")).count();
            assert_eq!(pictures, usize::from(*template != "text"), "{markup}");
        }
    }
}

#[test]
fn other_forms_take_what_they_have_a_place_for() {
    let texts = [(Part::Title, "New <title>"), (Part::Text, "Text & more")];
    let native = Format::Native {
        title: "Old".into(),
        description: "Old text".into(),
        image_url: "https://cdn.example/a.png".into(),
        icon_url: String::new(),
        cta: String::new(),
    };
    let elements = [&texts[..], &[(Part::Picture, "https://cdn.example/b.png"), (Part::Cta, "Buy")]].concat();
    let json: serde_json::Value = serde_json::from_str(&rendered(&creative(native, &elements))).unwrap();
    assert_eq!(json["assets"][0]["title"]["text"], "New <title>");
    assert_eq!(json["assets"][1]["data"]["value"], "Text & more");
    assert_eq!(json["assets"][2]["img"]["url"], "https://cdn.example/b.png");
    assert!(
        json["assets"][3].is_null(),
        "a creative without a call to action keeps without: what fits must not change"
    );
    let video =
        Format::Video { w: 1, h: 1, duration_s: 15, mime: "video/mp4".into(), media_url: "https://v.example/v".into() };
    let xml = rendered(&creative(video, &texts));
    assert_eq!(xml_problem(&xml), None);
    assert!(xml.contains("<AdTitle>New &lt;title&gt;</AdTitle><Description>Text &amp; more</Description>"), "{xml}");
}

/// Texts made of what usually breaks out of markup.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "</span>",
            "</a>",
            "<script>alert(1)</script>",
            "\"",
            "'",
            "&",
            "&#60;",
            "<",
            ">",
            "-->",
            "]]>",
            "<![CDATA[",
            ";background:url(javascript:x)",
            "#ff0000;x:y",
            "\" onerror=\"x",
            "\u{0}",
            "\n",
            "\\",
            "${AUCTION_PRICE}",
            "%22",
            "\u{2028}",
            "\u{fffe}",
            "expression(",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    let texts = proptest::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat());
    texts.prop_filter("nothing is written for an empty text", |text| !text.is_empty())
}

/// Names and attribute names of a banner's tags, and every attribute that is not a text.
fn skeleton(markup: &str) -> Vec<Tag> {
    let mut tags = markup_shape(markup).unwrap();
    tags.iter_mut()
        .flat_map(|tag| &mut tag.attributes)
        .filter(|(key, _)| key == "alt" || key == "src")
        .for_each(|(_, value)| value.clear());
    tags
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Also what validation would refuse: the markup does not lean on it.
    #[test]
    fn hostile_elements_change_no_tag_and_no_style(
        texts in proptest::collection::vec(hostile(), 8),
        template in proptest::sample::select(vec!["picture", "caption", "split", "text", "none"]),
    ) {
        let picture = format!("https://cdn.example/{}.png", texts[4]);
        let parts = |texts: &[String], picture: &str| {
            let elements = [
                (Part::Template, template), (Part::Title, &texts[0]), (Part::Text, &texts[1]), (Part::Badge, &texts[2]),
                (Part::Cta, &texts[3]), (Part::Picture, picture), (Part::Background, &texts[5]),
                (Part::Colour, &texts[6]), (Part::Font, &texts[7]), (Part::Size, &texts[7]),
            ];
            rendered(&creative(banner(300, 250), &elements))
        };
        let markup = parts(&texts, &picture);
        let harmless: Vec<String> = vec!["x".to_owned(); 8];
        prop_assert_eq!(skeleton(&markup), skeleton(&parts(&harmless, "https://cdn.example/x.png")));
        let kept = |text: &String| text.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}') || *c == '\n').collect::<String>();
        let visible = [&texts[0], &texts[1], &texts[3], &texts[2]].map(kept).concat();
        prop_assert_eq!(text_of(&markup), visible);
        let video = Format::Video { w: 1, h: 1, duration_s: 15, mime: "video/mp4".into(), media_url: "https://v.example/v".into() };
        let xml = rendered(&creative(video, &[(Part::Title, &texts[0]), (Part::Text, &texts[1])]));
        prop_assert_eq!(xml_problem(&xml), None, "{}", xml);
    }
}

#[test]
fn a_composition_answers_what_its_creative_fits() {
    let elements = [(Part::Template, "split"), (Part::Title, "T")];
    let creative = creative(banner(300, 250), &elements);
    creative.validate().unwrap();
    assert_eq!(fits(&Terms::default(), &slot(), &creative), Ok(FormUsed::Banner { w: 300, h: 250 }));
}

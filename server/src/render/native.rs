//! Native answers 1.0 to 1.2: the assets that were asked for, by their ids and within their lengths.

use super::escape::{shortened, web_url};
use super::{Dressing, Look, Misfit};
use crate::auction::slot::{NativeAsset, NativeAssetKind, NativeSlot};
use crate::plans::Format;
use serde::Serialize;
use std::borrow::Cow;

/// Data asset types that can be filled (native list of data asset types).
mod data {
    pub(super) const SPONSORED: u32 = 1;
    pub(super) const DESCRIPTION: u32 = 2;
    pub(super) const DISPLAY_URL: u32 = 11;
    pub(super) const CALL_TO_ACTION: u32 = 12;
}
/// Image asset type 1: icon.
const ICON: u32 = 1;

#[derive(Serialize)]
struct Answer<'a> {
    ver: &'a str,
    assets: Vec<AssetOut<'a>>,
    link: Link<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    imptrackers: Option<[Cow<'a, str>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eventtrackers: Option<[EventTracker<'a>; 1]>,
}

#[derive(Serialize)]
struct Wrapped<'a> {
    native: Answer<'a>,
}

#[derive(Serialize)]
struct AssetOut<'a> {
    id: i64,
    #[serde(flatten)]
    value: Value<'a>,
}

#[derive(Serialize)]
enum Value<'a> {
    #[serde(rename = "title")]
    Title { text: Cow<'a, str> },
    #[serde(rename = "img")]
    Image { url: Cow<'a, str> },
    #[serde(rename = "data")]
    Data { value: Cow<'a, str> },
}

#[derive(Serialize)]
struct Link<'a> {
    url: Cow<'a, str>,
}

#[derive(Serialize)]
struct EventTracker<'a> {
    event: u8,
    method: u8,
    url: Cow<'a, str>,
}

/// What the plan, not the creative, brings to the assets.
struct Owner<'a> {
    sponsor: &'a str,
    domain: &'a str,
    look: Look<'a>,
}

/// Whether every required asset can be filled.
pub(super) fn check(offer: &NativeSlot, format: &Format) -> Result<(), Misfit> {
    // Every plan has a domain, so that stand-ins decide the same as the plan's own texts.
    let owner = Owner { sponsor: "-", domain: "-", look: Look::default() };
    let mut any = false;
    for asset in &offer.assets {
        match fill(asset, format, &owner) {
            Some(_) => any = true,
            None if asset.required => return Err(Misfit::RequiredAsset { id: asset.id }),
            None => {}
        }
    }
    if any { Ok(()) } else { Err(Misfit::NoAsset) }
}

pub(super) fn json(dressing: &Dressing<'_>) -> Result<String, Misfit> {
    let offer = dressing.slot.native.as_ref().ok_or(Misfit::FormNotOffered)?;
    let format = &dressing.creative.format;
    let sponsor = if dressing.sponsor.is_empty() { dressing.domain } else { dressing.sponsor };
    let owner = Owner { sponsor, domain: dressing.domain, look: dressing.look };
    let mut assets = Vec::with_capacity(offer.assets.len());
    for asset in &offer.assets {
        match fill(asset, format, &owner) {
            Some(Value::Image { url }) => {
                let url = Cow::Owned(web_url(&url)?.into_owned());
                assets.push(AssetOut { id: asset.id, value: Value::Image { url } });
            }
            Some(value) => assets.push(AssetOut { id: asset.id, value }),
            None if asset.required => return Err(Misfit::RequiredAsset { id: asset.id }),
            None => {}
        }
    }
    if assets.is_empty() {
        return Err(Misfit::NoAsset);
    }
    let pixel = web_url(dressing.impression_url)?;
    // 1.2 replaces `imptrackers` by `eventtrackers`, but only players that offer them fire them.
    let modern = offer.image_trackers && offer.version.starts_with("1.2");
    let (imptrackers, eventtrackers) =
        if modern { (None, Some([EventTracker { event: 1, method: 1, url: pixel }])) } else { (Some([pixel]), None) };
    let ver = ["1.0", "1.1", "1.2"].into_iter().find(|&version| version == offer.version).unwrap_or("1.2");
    let answer = Answer { ver, assets, link: Link { url: web_url(dressing.click_url)? }, imptrackers, eventtrackers };
    // The outer key was required before 1.1 and is repeated wherever the request has it.
    let text = if offer.wrapped || ver == "1.0" {
        serde_json::to_string(&Wrapped { native: answer })
    } else {
        serde_json::to_string(&answer)
    };
    text.map_err(|_| Misfit::NoAsset)
}

fn fill<'a>(asset: &NativeAsset, format: &'a Format, owner: &Owner<'a>) -> Option<Value<'a>> {
    let Format::Native { title, description, image_url, icon_url, cta } = format else { return None };
    // A part whose own value is missing stays missing, so that what fits does not depend on the composition.
    let shown = |own: &'a str, element: Option<&'a str>| if own.is_empty() { own } else { element.unwrap_or(own) };
    let (title, description) = (shown(title, owner.look.title), shown(description, owner.look.text));
    let (image_url, cta) = (shown(image_url, owner.look.picture), shown(cta, owner.look.cta));
    match asset.kind {
        NativeAssetKind::Title { len } => {
            (len > 0 && !title.is_empty()).then(|| Value::Title { text: shortened(title, len) })
        }
        NativeAssetKind::Image { kind, .. } => {
            // The main picture stands in for a missing icon: players scale both to the size they asked for.
            let url: &'a str = if kind == ICON && !icon_url.is_empty() { icon_url } else { image_url };
            (!url.is_empty()).then_some(Value::Image { url: Cow::Borrowed(url) })
        }
        NativeAssetKind::Data { kind, len } => {
            let text: &'a str = match kind {
                data::SPONSORED => owner.sponsor,
                data::DESCRIPTION => description,
                data::DISPLAY_URL => owner.domain,
                data::CALL_TO_ACTION => cta,
                _ => return None,
            };
            let value = len.map_or(Cow::Borrowed(text), |len| shortened(text, len));
            (!text.is_empty()).then_some(Value::Data { value })
        }
        NativeAssetKind::Other => None,
    }
}

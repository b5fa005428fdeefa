//! Whether one creative fits one slot: form, size, type, length, assets, attributes, language and https.

use crate::auction::NoBidReason;
use crate::auction::slot::{BannerSlot, NativeAsset, NativeAssetKind, NativeSlot, Slot, Terms, VideoSlot};
use crate::plans::{Creative, Format};

/// VAST protocols (OpenRTB list 5.8) that our in-line markup satisfies: 2.0, 3.0, 4.0, 4.1 and 4.2.
pub const VAST_PROTOCOLS: [u32; 5] = [2, 3, 7, 11, 13];

/// Everything of a creative that [`fits`] reads: equal keys fit equal slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShapeKey {
    form: FormKey,
    attributes: Box<[u32]>,
    language: Option<Box<str>>,
    secure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FormKey {
    Banner { w: u32, h: u32, image: Option<&'static str> },
    Video { duration_s: u32, mime: Box<str> },
    Native { icon: bool, description: bool, cta: bool },
}

impl ShapeKey {
    pub(super) fn of(creative: &Creative) -> Self {
        let form = match &creative.format {
            Format::Banner { w, h, image_url } => FormKey::Banner { w: *w, h: *h, image: image_type(image_url) },
            Format::Video { duration_s, mime, .. } => {
                FormKey::Video { duration_s: *duration_s, mime: mime.to_ascii_lowercase().into() }
            }
            Format::Native { description, icon_url, cta, .. } => FormKey::Native {
                icon: !icon_url.is_empty(),
                description: !description.is_empty(),
                cta: !cta.is_empty(),
            },
        };
        let mut attributes = creative.attributes.clone();
        attributes.sort_unstable();
        attributes.dedup();
        let language = creative.language.as_deref().map(|tag| primary(tag).to_ascii_lowercase().into());
        Self { form, attributes: attributes.into(), language, secure: is_secure(creative) }
    }
}

/// Whether a creative may be shown in a slot.
///
/// # Errors
/// The first rule it breaks: [`NoBidReason::NoCreativeFits`] for its form, else `AttributeBlocked`,
/// `LanguageNotAllowed` or `NotSecure`.
pub fn fits(creative: &Creative, slot: &Slot, terms: &Terms) -> Result<(), NoBidReason> {
    let blocked: &[u32] = match &creative.format {
        Format::Banner { w, h, image_url } => slot
            .banner
            .as_ref()
            .filter(|offer| banner_fits(offer, (*w, *h), image_url))
            .map(|offer| &offer.blocked_attributes[..]),
        Format::Video { duration_s, mime, .. } => slot
            .video
            .as_ref()
            .filter(|offer| video_fits(offer, *duration_s, mime))
            .map(|offer| &offer.blocked_attributes[..]),
        Format::Native { .. } => slot
            .native
            .as_ref()
            .filter(|offer| native_fits(offer, &creative.format))
            .map(|offer| &offer.blocked_attributes[..]),
    }
    .ok_or(NoBidReason::NoCreativeFits)?;
    if creative.attributes.iter().any(|attribute| blocked.contains(attribute)) {
        return Err(NoBidReason::AttributeBlocked);
    }
    if let Some(language) = &creative.language
        && !terms.languages.is_empty()
        && !terms.languages.iter().any(|allowed| primary(allowed).eq_ignore_ascii_case(primary(language)))
    {
        return Err(NoBidReason::LanguageNotAllowed);
    }
    if slot.secure && !is_secure(creative) {
        return Err(NoBidReason::NotSecure);
    }
    Ok(())
}

fn banner_fits(offer: &BannerSlot, size: (u32, u32), image_url: &str) -> bool {
    let size_fits = offer.sizes.is_empty() || offer.sizes.contains(&size);
    // Our markup is HTML around an image: either type being allowed will do.
    let type_fits = offer.mimes.is_empty()
        || offer.mimes.iter().any(|allowed| {
            let allowed = if allowed.eq_ignore_ascii_case("image/jpg") { "image/jpeg" } else { allowed };
            allowed.eq_ignore_ascii_case("text/html")
                || image_type(image_url).is_some_and(|own| allowed.eq_ignore_ascii_case(own))
        });
    size_fits && type_fits
}

fn video_fits(offer: &VideoSlot, duration_s: u32, mime: &str) -> bool {
    let length_fits = if offer.durations_s.is_empty() {
        (offer.duration_min_s..=offer.duration_max_s).contains(&duration_s)
    } else {
        offer.durations_s.contains(&duration_s)
    };
    length_fits
        && offer.mimes.iter().any(|allowed| allowed.eq_ignore_ascii_case(mime))
        && (offer.protocols.is_empty() || offer.protocols.iter().any(|protocol| VAST_PROTOCOLS.contains(protocol)))
}

fn native_fits(offer: &NativeSlot, format: &Format) -> bool {
    !offer.assets.is_empty() && offer.assets.iter().filter(|asset| asset.required).all(|asset| can_fill(asset, format))
}

/// Whether a native creative has what an asset asks for. Texts that are too long are shortened when rendered.
fn can_fill(asset: &NativeAsset, format: &Format) -> bool {
    let Format::Native { title, description, image_url, icon_url, cta } = format else { return false };
    match &asset.kind {
        NativeAssetKind::Title { len } => *len > 0 && !title.is_empty(),
        NativeAssetKind::Image { kind: 1, .. } => !icon_url.is_empty(),
        NativeAssetKind::Image { kind: 3, .. } => !image_url.is_empty(),
        // 1: who sponsors it, which every plan can say.
        NativeAssetKind::Data { kind: 1, .. } => true,
        NativeAssetKind::Data { kind: 2, .. } => !description.is_empty(),
        NativeAssetKind::Data { kind: 12, .. } => !cta.is_empty(),
        NativeAssetKind::Image { .. } | NativeAssetKind::Data { .. } | NativeAssetKind::Other => false,
    }
}

/// True when everything that loads with the impression is https. The landing page is not part of the markup's loads.
fn is_secure(creative: &Creative) -> bool {
    let https = |url: &str| url.is_empty() || url.starts_with("https://");
    match &creative.format {
        Format::Banner { image_url, .. } => https(image_url),
        Format::Video { media_url, .. } => https(media_url),
        Format::Native { image_url, icon_url, .. } => https(image_url) && https(icon_url),
    }
}

/// The MIME type that the path's ending promises, if it is a known picture type.
fn image_type(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let (_, ending) = path.rsplit_once('.')?;
    let known = [
        ("jpg", "image/jpeg"),
        ("jpeg", "image/jpeg"),
        ("png", "image/png"),
        ("gif", "image/gif"),
        ("webp", "image/webp"),
        ("avif", "image/avif"),
        ("svg", "image/svg+xml"),
    ];
    known.iter().find(|(name, _)| ending.eq_ignore_ascii_case(name)).map(|&(_, mime)| mime)
}

/// Primary subtag of a language tag: `en` of `en-GB`.
fn primary(tag: &str) -> &str {
    tag.split(['-', '_']).next().unwrap_or(tag)
}

/// What [`fits`] reads of a native asset, as a number.
pub(super) fn asset_key(kind: &NativeAssetKind) -> (u8, u64) {
    match kind {
        NativeAssetKind::Title { len } => (0, u64::from(*len > 0)),
        NativeAssetKind::Image { kind, .. } => (1, u64::from(*kind)),
        NativeAssetKind::Data { kind, .. } => (2, u64::from(*kind)),
        NativeAssetKind::Other => (3, 0),
    }
}

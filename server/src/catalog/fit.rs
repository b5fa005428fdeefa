//! Creatives that fit equal slots share a key; [`crate::render::fits`] is the one rule of what fits.

use crate::auction::NoBidReason;
use crate::auction::slot::{NativeAssetKind, Slot, Terms};
use crate::plans::{Creative, Format};
use crate::render::{self, Misfit};

/// Everything of a creative that [`render::fits`] decides by: equal keys fit equal slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShapeKey {
    form: FormKey,
    attributes: Box<[u32]>,
    language: Option<Box<str>>,
    secure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FormKey {
    Banner { w: u32, h: u32, ending: Option<Box<str>> },
    Video { duration_s: u32, mime: Box<str> },
    Native { icon: bool, description: bool, cta: bool },
}

impl ShapeKey {
    pub(super) fn of(creative: &Creative) -> Self {
        let https = |url: &str| url.is_empty() || url.starts_with("https://");
        let (form, secure) = match &creative.format {
            Format::Banner { w, h, image_url } => {
                (FormKey::Banner { w: *w, h: *h, ending: ending(image_url) }, https(image_url))
            }
            Format::Video { duration_s, mime, media_url, .. } => {
                let mime = mime.to_ascii_lowercase().into();
                (FormKey::Video { duration_s: *duration_s, mime }, https(media_url))
            }
            Format::Native { description, image_url, icon_url, cta, .. } => (
                FormKey::Native {
                    icon: !icon_url.is_empty(),
                    description: !description.is_empty(),
                    cta: !cta.is_empty(),
                },
                https(image_url) && https(icon_url),
            ),
        };
        let mut attributes = creative.attributes.clone();
        attributes.sort_unstable();
        attributes.dedup();
        let language = creative.language.as_deref().map(|tag| {
            let primary = tag.split(['-', '_']).next().unwrap_or(tag);
            primary.to_ascii_lowercase().into()
        });
        Self { form, attributes: attributes.into(), language, secure }
    }
}

/// Ending of a URL's path, which promises its picture type; `None` for anything that no picture type has, so that odd
/// URLs do not make a shape each.
fn ending(url: &str) -> Option<Box<str>> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let (_, ending) = path.rsplit_once('.')?;
    let plausible = (1..=5).contains(&ending.len()) && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plausible.then(|| ending.to_ascii_lowercase().into())
}

/// Whether a creative may be shown in a slot, as a reason for the advertiser.
///
/// # Errors
/// `AttributeBlocked`, `LanguageNotAllowed`, `NotSecure`, and `NoCreativeFits` for everything about its form.
pub(super) fn fits(creative: &Creative, slot: &Slot, terms: &Terms) -> Result<(), NoBidReason> {
    match render::fits(terms, slot, creative) {
        Ok(_) => Ok(()),
        Err(Misfit::Attribute(_)) => Err(NoBidReason::AttributeBlocked),
        Err(Misfit::Language) => Err(NoBidReason::LanguageNotAllowed),
        Err(Misfit::NotSecure) => Err(NoBidReason::NotSecure),
        Err(_) => Err(NoBidReason::NoCreativeFits),
    }
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

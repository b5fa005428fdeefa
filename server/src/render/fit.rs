//! Whether a creative can answer a slot, and in which form.

use super::escape::is_https;
use super::{FormUsed, Misfit, VastVersion, native};
use crate::auction::slot::{BannerSlot, Slot, Terms, VideoSlot};
use crate::plans::{Creative, Format};

/// Checks form, size, media type, length, assets, attributes, language and https, in this order.
///
/// # Errors
/// The first rule that the creative breaks.
pub fn fits(terms: &Terms, slot: &Slot, creative: &Creative) -> Result<FormUsed, Misfit> {
    let (form, blocked) = match &creative.format {
        Format::Banner { w, h, image_url } => {
            let offer = slot.banner.as_ref().ok_or(Misfit::FormNotOffered)?;
            banner(offer, (*w, *h), image_url)?;
            (FormUsed::Banner { w: *w, h: *h }, &offer.blocked_attributes)
        }
        Format::Video { w, h, duration_s, mime, .. } => {
            let offer = slot.video.as_ref().ok_or(Misfit::FormNotOffered)?;
            let vast = video(offer, *duration_s, mime)?;
            (FormUsed::Video { w: *w, h: *h, duration_s: *duration_s, vast }, &offer.blocked_attributes)
        }
        Format::Native { .. } => {
            let offer = slot.native.as_ref().ok_or(Misfit::FormNotOffered)?;
            native::check(offer, &creative.format)?;
            (FormUsed::Native, &offer.blocked_attributes)
        }
    };
    if let Some(&attribute) = creative.attributes.iter().find(|attribute| blocked.contains(attribute)) {
        return Err(Misfit::Attribute(attribute));
    }
    if let Some(language) = &creative.language
        && !terms.languages.is_empty()
        && !terms.languages.iter().any(|allowed| primary(allowed).eq_ignore_ascii_case(primary(language)))
    {
        return Err(Misfit::Language);
    }
    if slot.secure && !loads(&creative.format).into_iter().all(|url| url.is_empty() || is_https(url)) {
        return Err(Misfit::NotSecure);
    }
    Ok(form)
}

fn banner(offer: &BannerSlot, size: (u32, u32), image_url: &str) -> Result<(), Misfit> {
    if !offer.sizes.is_empty() && !offer.sizes.contains(&size) {
        return Err(Misfit::Size);
    }
    // The markup is HTML around a picture: either type being accepted will do.
    let accepted = |mime: &str| offer.mimes.iter().any(|allowed| same_type(allowed, mime));
    if offer.mimes.is_empty() || accepted("text/html") || picture_type(image_url).is_some_and(accepted) {
        Ok(())
    } else {
        Err(Misfit::MediaType)
    }
}

fn same_type(allowed: &str, mime: &str) -> bool {
    let allowed = if allowed.eq_ignore_ascii_case("image/jpg") { "image/jpeg" } else { allowed };
    allowed.eq_ignore_ascii_case(mime)
}

/// The media type that the path's ending promises.
fn picture_type(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let (_, ending) = path.rsplit_once('.')?;
    [
        ("jpg", "image/jpeg"),
        ("jpeg", "image/jpeg"),
        ("png", "image/png"),
        ("gif", "image/gif"),
        ("webp", "image/webp"),
        ("avif", "image/avif"),
        ("svg", "image/svg+xml"),
    ]
    .into_iter()
    .find(|(known, _)| ending.eq_ignore_ascii_case(known))
    .map(|(_, mime)| mime)
}

fn video(offer: &VideoSlot, duration_s: u32, mime: &str) -> Result<VastVersion, Misfit> {
    if !offer.mimes.iter().any(|allowed| allowed.eq_ignore_ascii_case(mime)) {
        return Err(Misfit::MediaType);
    }
    let length_allowed = if offer.durations_s.is_empty() {
        (offer.duration_min_s..=offer.duration_max_s).contains(&duration_s)
    } else {
        offer.durations_s.contains(&duration_s)
    };
    if !length_allowed {
        return Err(Misfit::Duration);
    }
    VastVersion::choose(&offer.protocols).ok_or(Misfit::Protocol)
}

/// Primary part of a language tag: `en` of `en-GB`.
fn primary(tag: &str) -> &str {
    tag.split(['-', '_']).next().unwrap_or(tag)
}

/// What loads with the ad.
fn loads(format: &Format) -> [&str; 2] {
    match format {
        Format::Banner { image_url, .. } => [image_url, ""],
        Format::Video { media_url, .. } => [media_url, ""],
        Format::Native { image_url, icon_url, .. } => [image_url, icon_url],
    }
}

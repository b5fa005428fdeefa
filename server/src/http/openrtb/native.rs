//! Native requests 1.0 to 1.2: a JSON text inside the bid request.

use super::json::Json;
use super::read::Obj;
use super::{BadRequest, Leniency};
use crate::auction::slot::{NativeAsset, NativeAssetKind, NativeSlot};

/// Most assets in one native request.
pub const ASSETS_MAX: usize = 128;
/// Title length assumed where the request names none: the shortest that the native specification recommends.
const TITLE_CHARS_DEFAULT: u32 = 25;

/// Reads `imp.native`. A `request` must be there; one that is no native request only loses the form, because real
/// exchanges send placeholders in it.
pub(super) fn slot(
    native: &Obj<'_, '_, '_>,
    note: &mut impl FnMut(&'static str, &'static str),
) -> Result<Option<NativeSlot>, BadRequest> {
    const MISSING: &str = "is missing or empty; must be a native request as a JSON string";
    let blocked = native.codes("battr")?;
    let version = native.hint_text("ver");
    let outcome = match native.get("request") {
        None => return Err(native.fail("request", MISSING)),
        Some(Json::Text(text)) if text.trim().is_empty() => return Err(native.fail("request", MISSING)),
        Some(Json::Text(text)) => from_text(native, text),
        Some(object @ Json::Object(_)) => markup(native, object),
        Some(other) => {
            return Err(
                native.fail("request", format!("is {}; must be a native request as a JSON string", other.type_name()))
            );
        }
    };
    let Some(mut slot) = outcome else {
        native.tally.count(Leniency::NativeUnreadable);
        note("native", "request is no native request");
        return Ok(None);
    };
    if slot.assets.is_empty() {
        note("native", "request asks for no assets");
        return Ok(None);
    }
    if slot.version.is_empty() {
        slot.version = version.unwrap_or_else(|| "1.2".to_owned());
    }
    slot.blocked_attributes = blocked;
    Ok(Some(slot))
}

/// The request as text; some senders encode it twice.
fn from_text(native: &Obj<'_, '_, '_>, text: &str) -> Option<NativeSlot> {
    match Json::parse(text.as_bytes()).ok()? {
        Json::Text(inner) => markup(native, &Json::parse(inner.as_bytes()).ok()?),
        outer => markup(native, &outer),
    }
}

fn markup(native: &Obj<'_, '_, '_>, value: &Json<'_>) -> Option<NativeSlot> {
    let at = native.at.key("request");
    if !matches!(value, Json::Object(_)) {
        return None;
    }
    let outer = Obj::of(value, at, native.tally).ok()?;
    let inner = outer.object("native").ok()?;
    let root = inner.as_ref().unwrap_or(&outer);
    let mut slot = NativeSlot {
        version: root.hint_text("ver").unwrap_or_default(),
        wrapped: inner.is_some(),
        ..NativeSlot::default()
    };
    let assets = root.objects("assets", ASSETS_MAX, |object| {
        slot.assets.push(asset(&object)?);
        Ok(())
    });
    assets.ok()?;
    let trackers = root.objects("eventtrackers", ASSETS_MAX, |tracker| {
        slot.image_trackers |= tracker.int("event")? == Some(1) && tracker.codes("methods")?.contains(&1);
        Ok(())
    });
    trackers.ok()?;
    Some(slot)
}

fn asset(object: &Obj<'_, '_, '_>) -> Result<NativeAsset, BadRequest> {
    let id = object.int("id")?;
    let kind = if id.is_none() {
        NativeAssetKind::Other // cannot be answered: the answer repeats the id
    } else if let Some(title) = object.object("title")? {
        NativeAssetKind::Title { len: length(&title)?.unwrap_or(TITLE_CHARS_DEFAULT as usize) }
    } else if let Some(image) = object.object("img")? {
        let size = |wanted, smallest| {
            Ok::<_, BadRequest>(match image.natural(wanted)? {
                Some(value) if value > 0 => value,
                _ => image.natural(smallest)?.unwrap_or(0),
            })
        };
        NativeAssetKind::Image {
            kind: image.natural("type")?.unwrap_or(0),
            w: size("w", "wmin")?,
            h: size("h", "hmin")?,
        }
    } else if let Some(data) = object.object("data")? {
        NativeAssetKind::Data { kind: data.natural("type")?.unwrap_or(0), len: length(&data)? }
    } else {
        NativeAssetKind::Other
    };
    Ok(NativeAsset { id: id.unwrap_or(0), required: object.flag("required")?, kind })
}

/// `len`, in characters; 0 says nothing.
fn length(object: &Obj<'_, '_, '_>) -> Result<Option<usize>, BadRequest> {
    Ok(object.natural("len")?.filter(|&len| len > 0).map(|len| len as usize))
}

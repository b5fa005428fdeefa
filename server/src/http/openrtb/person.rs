//! Who the request is about, and whether that person's history may be used.

use super::BadRequest;
use super::consent::{tcf_allows_profile, us_opted_out};
use super::read::Obj;

/// The field that named the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserSource {
    /// `user.buyeruid`, the buyer's own id, which the exchange has from cookie syncs: the one under which histories are stored.
    BuyerUid,
    /// `user.id`, the exchange's id.
    UserId,
    /// `user.eids[].uids[].id` (also in `user.ext.eids`, where 2.5 has it).
    ExtendedId,
    /// `device.ifa`, the advertising id of the device.
    DeviceAdvertisingId,
}

/// Why a named user's history must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryBar {
    /// `regs.coppa = 1`: directed at children.
    Coppa,
    /// `device.lmt = 1`: tracking limited by the user.
    LimitAdTracking,
    /// `device.dnt = 1`: do not track.
    DoNotTrack,
    /// `regs.gdpr = 1` and no TC string that consents to a profile for personalised advertising.
    NoConsent,
    /// `regs.us_privacy` says that the user opted out of sale.
    OptedOutOfSale,
    /// `regs.ext.gpc = 1`: Global Privacy Control.
    PrivacyControl,
    /// `regs.gpp_sid` names a section of a GPP string that applies; GPP strings are not interpreted, so what they forbid is unknown.
    PlatformString,
}

/// The user of a request.
///
/// History may be loaded, and events recorded, only for [`UserRef::for_history`]: with `regs.coppa = 1`,
/// `device.lmt = 1`, `device.dnt = 1`, or any other [`HistoryBar`] the request is answered as for an unknown user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserRef {
    /// The first id found, in the order of [`UserSource`].
    pub id: Option<String>,
    /// Where it was found.
    pub source: Option<UserSource>,
    /// Why it must not be used, if so.
    pub barred: Option<HistoryBar>,
}

impl UserRef {
    /// The id under which history may be loaded and events recorded, if there is one and nothing bars it.
    #[must_use]
    pub fn for_history(&self) -> Option<&str> {
        if self.barred.is_some() { None } else { self.id.as_deref() }
    }
}

/// Reads `user`, `device` and `regs`.
pub(super) fn user(root: &Obj<'_, '_, '_>) -> Result<UserRef, BadRequest> {
    let (user, device, regs) = (root.hint("user"), root.hint("device"), root.hint("regs"));
    let mut out = UserRef::default();
    let mut offer = |id: Option<String>, source: UserSource| {
        if out.id.is_none() && id.is_some() {
            out.id = id;
            out.source = Some(source);
        }
    };
    if let Some(user) = &user {
        offer(user.hint_text("buyeruid"), UserSource::BuyerUid);
        offer(user.hint_text("id"), UserSource::UserId);
        offer(extended_id(user), UserSource::ExtendedId);
        if let Some(ext) = user.hint("ext") {
            offer(extended_id(&ext), UserSource::ExtendedId);
        }
    }
    if let Some(device) = &device {
        // Platforms send an all-zero id for people who opted out.
        let ifa = device.hint_text("ifa").filter(|ifa| ifa.bytes().any(|b| b != b'0' && b != b'-'));
        offer(ifa, UserSource::DeviceAdvertisingId);
        check_device(device)?;
    }
    let flag = |object: &Option<Obj<'_, '_, '_>>, key| object.as_ref().map_or(Ok(false), |object| object.flag(key));
    let consent = user.as_ref().and_then(|user| told(user, "consent"));
    out.barred = if flag(&regs, "coppa")? {
        Some(HistoryBar::Coppa)
    } else if flag(&device, "lmt")? {
        Some(HistoryBar::LimitAdTracking)
    } else if flag(&device, "dnt")? {
        Some(HistoryBar::DoNotTrack)
    } else if regs.as_ref().map_or(Ok(false), |regs| told_flag(regs, "gdpr"))?
        && !consent.is_some_and(|text| tcf_allows_profile(&text))
    {
        Some(HistoryBar::NoConsent)
    } else {
        regs.as_ref().map_or(Ok(None), us_bar)?
    };
    Ok(out)
}

/// The bars of the American signals.
fn us_bar(regs: &Obj<'_, '_, '_>) -> Result<Option<HistoryBar>, BadRequest> {
    Ok(if told(regs, "us_privacy").is_some_and(|text| us_opted_out(&text)) {
        Some(HistoryBar::OptedOutOfSale)
    } else if told_flag(regs, "gpc")? {
        Some(HistoryBar::PrivacyControl)
    } else if !regs.codes("gpp_sid")?.is_empty() {
        Some(HistoryBar::PlatformString)
    } else {
        None
    })
}

/// A text of an object, or of its `ext`, where OpenRTB 2.5 has it.
fn told(object: &Obj<'_, '_, '_>, key: &'static str) -> Option<String> {
    object.hint_text(key).or_else(|| object.hint("ext")?.hint_text(key))
}

/// The same for a flag.
fn told_flag(object: &Obj<'_, '_, '_>, key: &'static str) -> Result<bool, BadRequest> {
    Ok(object.flag(key)? || object.hint("ext").map_or(Ok(false), |ext| ext.flag(key))?)
}

/// `w`, `h` and `ppi` of the device, and the accuracy of its place, are physical: negative ones are refused.
fn check_device(device: &Obj<'_, '_, '_>) -> Result<(), BadRequest> {
    for key in ["w", "h", "ppi"] {
        device.natural(key)?;
    }
    if let Some(geo) = device.hint("geo") {
        geo.natural("accuracy")?;
    }
    Ok(())
}

fn extended_id(holder: &Obj<'_, '_, '_>) -> Option<String> {
    let mut found = None;
    let mut look = |uid: Obj<'_, '_, '_>| {
        found = found.take().or_else(|| uid.hint_text("id"));
        Ok(())
    };
    let walked = holder.objects("eids", 1_000, |eid| eid.objects("uids", 1_000, &mut look));
    // A malformed list of ids is no reason to refuse a request that can do without.
    walked.ok().and(found)
}

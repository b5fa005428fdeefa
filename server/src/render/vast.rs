//! In-line VAST 2.0 to 4.2: the newest version that the player accepts.

use super::escape::{markup_text, web_url};
use super::{Dressing, FormUsed, Misfit};
use crate::plans::Format;

/// A VAST version that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VastVersion {
    /// 2.0.
    V2_0,
    /// 3.0, written where the player names no version.
    V3_0,
    /// 4.0.
    V4_0,
    /// 4.1.
    V4_1,
    /// 4.2.
    V4_2,
}

impl VastVersion {
    const ALL: [Self; 5] = [Self::V2_0, Self::V3_0, Self::V4_0, Self::V4_1, Self::V4_2];

    /// Its code in the list of protocols (OpenRTB list 5.8): in line, not wrapped.
    #[must_use]
    pub const fn protocol(self) -> u32 {
        match self {
            Self::V2_0 => 2,
            Self::V3_0 => 3,
            Self::V4_0 => 7,
            Self::V4_1 => 11,
            Self::V4_2 => 13,
        }
    }

    /// As in the `version` attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2_0 => "2.0",
            Self::V3_0 => "3.0",
            Self::V4_0 => "4.0",
            Self::V4_1 => "4.1",
            Self::V4_2 => "4.2",
        }
    }

    /// The newest version among the accepted protocols; 3.0 if none is named, `None` if none can be written.
    #[must_use]
    pub fn choose(protocols: &[u32]) -> Option<Self> {
        if protocols.is_empty() {
            return Some(Self::V3_0);
        }
        Self::ALL.into_iter().rev().find(|version| protocols.contains(&version.protocol()))
    }
}

/// Elements stand in the order of each version's schema, which differs between 3.0 and 4.0.
pub(super) fn xml(dressing: &Dressing<'_>) -> Result<String, Misfit> {
    let (FormUsed::Video { w, h, duration_s, vast }, Format::Video { mime, media_url, .. }) =
        (dressing.form, &dressing.creative.format)
    else {
        return Err(Misfit::FormNotOffered);
    };
    let id = markup_text(dressing.creative.id.as_str());
    let title = format!("<AdTitle>{}</AdTitle>", markup_text(title(dressing)));
    let description =
        dressing.look.text.map_or_else(String::new, |text| format!("<Description>{}</Description>", markup_text(text)));
    let impression = format!("<Impression>{}</Impression>", cdata(&web_url(dressing.impression_url)?));
    let clicks =
        format!("<VideoClicks><ClickThrough>{}</ClickThrough></VideoClicks>", cdata(&web_url(dressing.click_url)?));
    let media = format!(
        "<MediaFiles><MediaFile delivery=\"progressive\" type=\"{}\" width=\"{w}\" height=\"{h}\">{}</MediaFile></MediaFiles>",
        markup_text(mime),
        cdata(&web_url(media_url)?)
    );
    let (hours, minutes, seconds) = (duration_s / 3_600, duration_s / 60 % 60, duration_s % 60);
    let duration = format!("<Duration>{hours:02}:{minutes:02}:{seconds:02}</Duration>");
    let (head, linear, universal_id) = if vast < VastVersion::V4_0 {
        (format!("{title}{description}{impression}"), format!("{duration}{clicks}{media}"), String::new())
    } else {
        let serving = match vast {
            VastVersion::V4_0 => String::new(),
            _ => format!("<AdServingId>{id}</AdServingId>"),
        };
        // 4.0 has the value as an attribute, later versions as text.
        let value = if vast == VastVersion::V4_0 { format!(" idValue=\"{id}\"") } else { String::new() };
        (
            format!("{impression}{serving}{title}"),
            format!("{duration}{media}{clicks}"),
            format!("<UniversalAdId idRegistry=\"unknown\"{value}>{id}</UniversalAdId>"),
        )
    };
    // Before 4.0 a description follows the title, since then the creatives.
    let tail = if vast < VastVersion::V4_0 { "" } else { &description };
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><VAST version=\"{}\"><Ad id=\"{id}\"><InLine>\
         <AdSystem>Longbow</AdSystem>{head}<Creatives><Creative id=\"{id}\" sequence=\"1\"><Linear>{linear}</Linear>\
         {universal_id}</Creative></Creatives>{tail}</InLine></Ad></VAST>",
        vast.as_str()
    ))
}

/// A title must not be empty.
fn title<'a>(dressing: &Dressing<'a>) -> &'a str {
    [dressing.look.title.unwrap_or_default(), dressing.label, dressing.sponsor, dressing.domain]
        .into_iter()
        .find(|text| !text.is_empty())
        .unwrap_or("Ad")
}

/// A section that its content cannot end.
fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

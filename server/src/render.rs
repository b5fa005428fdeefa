//! Markup of a chosen creative: banner HTML, VAST and native JSON, with everything escaped.
//!
//! [`fits`] says whether and in which [`FormUsed`] a creative can answer a slot; [`render`] then writes it. A creative that
//! fits always renders, unless the slot must be secure and the server's own URLs are not.

mod banner;
mod escape;
mod fit;
mod look;
mod native;
mod vast;

pub use escape::{markup_text, web_url};
pub use fit::fits;
pub use look::Look;
pub use vast::VastVersion;

use crate::auction::slot::Slot;
use crate::plans::Creative;

/// The form in which a creative answers a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormUsed {
    /// HTML of this size.
    Banner {
        /// Width, density-independent pixels.
        w: u32,
        /// Height.
        h: u32,
    },
    /// An in-line VAST document.
    Video {
        /// Width of the media file in pixels.
        w: u32,
        /// Height.
        h: u32,
        /// Length in seconds.
        duration_s: u32,
        /// Version written.
        vast: VastVersion,
    },
    /// A native answer.
    Native,
}

impl FormUsed {
    /// `bid.mtype`: 1 banner, 2 video, 4 native.
    #[must_use]
    pub const fn markup_type(self) -> u8 {
        match self {
            Self::Banner { .. } => 1,
            Self::Video { .. } => 2,
            Self::Native => 4,
        }
    }

    /// Length of a video: what [`Slot::open_floor`] asks for.
    #[must_use]
    pub const fn video_duration_s(self) -> Option<u32> {
        match self {
            Self::Video { duration_s, .. } => Some(duration_s),
            Self::Banner { .. } | Self::Native => None,
        }
    }
}

/// Why a creative cannot answer a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The slot does not offer the creative's form.
    #[error("the slot does not offer this form")]
    FormNotOffered,
    /// The slot offers other sizes only.
    #[error("the slot offers other sizes only")]
    Size,
    /// The slot accepts other media types only.
    #[error("the slot accepts other media types only")]
    MediaType,
    /// The video is too short, too long, or of none of the lengths asked for.
    #[error("the video's length is not allowed")]
    Duration,
    /// The slot accepts no VAST version that is written here.
    #[error("the slot accepts no VAST version from 2.0 to 4.2 in line")]
    Protocol,
    /// A required native asset cannot be filled.
    #[error("the required native asset {id} cannot be filled")]
    RequiredAsset {
        /// Its id.
        id: i64,
    },
    /// None of the native assets can be filled.
    #[error("no native asset can be filled")]
    NoAsset,
    /// A blocked creative attribute.
    #[error("creative attribute {0} is blocked")]
    Attribute(u32),
    /// A language that is not allowed.
    #[error("the creative's language is not allowed")]
    Language,
    /// Something would load over http in a slot that must be secure.
    #[error("the slot must be secure, and a URL is not https")]
    NotSecure,
    /// A URL that is not http or https.
    #[error("a URL is neither http nor https")]
    Url,
}

/// Everything the markup is made of.
#[derive(Clone, Copy, Debug)]
pub struct Dressing<'a> {
    /// The slot answered.
    pub slot: &'a Slot,
    /// The creative shown.
    pub creative: &'a Creative,
    /// Its elements, where they take the place of its own values.
    pub look: Look<'a>,
    /// What [`fits`] said.
    pub form: FormUsed,
    /// Name of the advertised item: the alternative text of a banner, the title of a video. May be empty.
    pub label: &'a str,
    /// Who pays: the native `sponsored` asset, and the advertiser of a video.
    pub sponsor: &'a str,
    /// Landing domain shown as the native display URL.
    pub domain: &'a str,
    /// Where a click leads: a signed click notice that redirects.
    pub click_url: &'a str,
    /// Loaded when the ad is shown: a signed impression notice.
    pub impression_url: &'a str,
}

/// Writes the markup (`bid.adm`).
///
/// # Errors
/// [`Misfit::NotSecure`] if the slot must be secure and a URL is not https, [`Misfit::Url`] for a URL that is no web
/// address, [`Misfit::FormNotOffered`] if `form` is not the creative's.
pub fn render(dressing: &Dressing<'_>) -> Result<String, Misfit> {
    if dressing.slot.secure {
        for url in [dressing.click_url, dressing.impression_url] {
            if !escape::is_https(url) {
                return Err(Misfit::NotSecure);
            }
        }
    }
    match dressing.form {
        FormUsed::Banner { .. } => banner::html(dressing),
        FormUsed::Video { .. } => vast::xml(dressing),
        FormUsed::Native => native::json(dressing),
    }
}

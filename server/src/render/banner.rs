//! Banner HTML: a picture in a link, and an impression pixel.

use super::escape::{markup_text, web_url};
use super::{Dressing, FormUsed, Misfit};
use crate::plans::Format;

pub(super) fn html(dressing: &Dressing<'_>) -> Result<String, Misfit> {
    let (FormUsed::Banner { w, h }, Format::Banner { image_url, .. }) = (dressing.form, &dressing.creative.format)
    else {
        return Err(Misfit::FormNotOffered);
    };
    let click = markup_text(&web_url(dressing.click_url)?);
    let picture = markup_text(&web_url(image_url)?);
    let pixel = markup_text(&web_url(dressing.impression_url)?);
    let label = markup_text(dressing.label);
    Ok(format!(
        "<a href=\"{click}\" target=\"_blank\" rel=\"noopener nofollow\">\
         <img src=\"{picture}\" width=\"{w}\" height=\"{h}\" alt=\"{label}\" style=\"border:0;display:block\"></a>\
         <img src=\"{pixel}\" width=\"1\" height=\"1\" alt=\"\" style=\"display:none\">"
    ))
}

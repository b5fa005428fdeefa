//! Banner HTML: a picture in a link, or a composition of picture and texts in a link, and an impression pixel.

use super::escape::{markup_text, web_url};
use super::{Dressing, FormUsed, Look, Misfit};
use crate::plans::Format;

pub(super) fn html(dressing: &Dressing<'_>) -> Result<String, Misfit> {
    let (FormUsed::Banner { w, h }, Format::Banner { image_url, .. }) = (dressing.form, &dressing.creative.format)
    else {
        return Err(Misfit::FormNotOffered);
    };
    let click = markup_text(&web_url(dressing.click_url)?);
    let picture = markup_text(&web_url(dressing.look.picture.unwrap_or(image_url))?);
    let pixel = markup_text(&web_url(dressing.impression_url)?);
    let label = markup_text(dressing.look.title.unwrap_or(dressing.label));
    let look = &dressing.look;
    let plain = Look { picture: look.picture, ..Look::default() };
    if *look == plain {
        return Ok(format!(
            "<a href=\"{click}\" target=\"_blank\" rel=\"noopener nofollow\">\
             <img src=\"{picture}\" width=\"{w}\" height=\"{h}\" alt=\"{label}\" style=\"border:0;display:block\"></a>\
             <img src=\"{pixel}\" width=\"1\" height=\"1\" alt=\"\" style=\"display:none\">"
        ));
    }
    let frame = Frame::of(look.template, w, h);
    let style = style(look, (w, h));
    let image = frame.picture.map_or_else(String::new, |area| {
        format!("<img src=\"{picture}\" alt=\"{label}\" style=\"{};border:0;object-fit:cover\">", area.css())
    });
    let texts = texts(look, dressing.label);
    let badge = look.badge.map_or_else(String::new, |badge| {
        let text = markup_text(badge);
        format!("<span style=\"position:absolute;top:4px;right:4px;padding:2px 6px;border-radius:4px;background:#c00;color:#fff;font-weight:bold\">{text}</span>")
    });
    let over = if frame.over { ";background:rgba(0,0,0,.45)" } else { "" };
    Ok(format!(
        "<a href=\"{click}\" target=\"_blank\" rel=\"noopener nofollow\" style=\"{style}\">{image}\
         <span style=\"{};box-sizing:border-box;padding:4px 6px;overflow:hidden{over}\">{texts}</span>{badge}</a>\
         <img src=\"{pixel}\" width=\"1\" height=\"1\" alt=\"\" style=\"display:none\">",
        frame.texts.css()
    ))
}

/// Title, selling point and call to action, one below the other.
fn texts(look: &Look<'_>, label: &str) -> String {
    let mut out = String::new();
    let title = look.title.unwrap_or(label);
    if !title.is_empty() {
        out += &format!("<span style=\"display:block;font-weight:bold\">{}</span>", markup_text(title));
    }
    if let Some(text) = look.text {
        out += &format!("<span style=\"display:block;font-size:85%\">{}</span>", markup_text(text));
    }
    if let Some(cta) = look.cta {
        let text = markup_text(cta);
        out += &format!(
            "<span style=\"display:inline-block;margin-top:3px;padding:2px 8px;border:1px solid;border-radius:4px\">{text}</span>"
        );
    }
    out
}

/// Style of the whole. Nothing of a record gets in but colours that are colours and names that stand in a list.
fn style(look: &Look<'_>, (w, h): (u32, u32)) -> String {
    let family = match look.font {
        Some("serif") => "Georgia,serif",
        Some("rounded") => "Verdana,sans-serif",
        Some("narrow") => "&#39;Arial Narrow&#39;,sans-serif",
        Some("mono") => "monospace",
        _ => "Arial,sans-serif",
    };
    let percent = match look.size {
        Some("xs") => 7,
        Some("s") => 8,
        Some("l") => 11,
        Some("xl") => 13,
        _ => 9,
    };
    let pixels = (w.min(h.saturating_mul(3)).saturating_mul(percent) / 100).clamp(8, 48);
    let background = colour(look.background).unwrap_or("#ffffff");
    let text = colour(look.colour).unwrap_or(if look.template == Some("picture") { "#ffffff" } else { "#111111" });
    format!(
        "display:block;position:relative;width:{w}px;height:{h}px;overflow:hidden;text-decoration:none;\
         background:{background};color:{text};font:{pixels}px/1.2 {family}"
    )
}

fn colour(value: Option<&str>) -> Option<&str> {
    value.filter(|text| {
        text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

/// A rectangle, in percent of the whole.
#[derive(Clone, Copy)]
struct Area {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Area {
    const fn new(left: u32, top: u32, width: u32, height: u32) -> Self {
        Self { left, top, width, height }
    }

    fn css(self) -> String {
        let Self { left, top, width, height } = self;
        format!("position:absolute;left:{left}%;top:{top}%;width:{width}%;height:{height}%")
    }
}

/// Where a template puts picture and texts.
struct Frame {
    picture: Option<Area>,
    texts: Area,
    /// Texts lie over the picture and need a shade.
    over: bool,
}

impl Frame {
    fn of(template: Option<&str>, w: u32, h: u32) -> Self {
        // Wide strips have no room below a picture.
        let strip = w > h.saturating_mul(2);
        let (picture, texts, over) = match template {
            Some("text") => (None, Area::new(0, 0, 100, 100), false),
            Some("split") => (Some(Area::new(0, 0, 50, 100)), Area::new(50, 0, 50, 100), false),
            Some("caption") if !strip => (Some(Area::new(0, 0, 100, 62)), Area::new(0, 62, 100, 38), false),
            Some("caption") => (Some(Area::new(0, 0, 30, 100)), Area::new(30, 0, 70, 100), false),
            _ if strip => (Some(Area::new(0, 0, 100, 100)), Area::new(35, 0, 65, 100), true),
            _ => (Some(Area::new(0, 0, 100, 100)), Area::new(0, 60, 100, 40), true),
        };
        Self { picture, texts, over }
    }
}

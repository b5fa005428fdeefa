//! Whether markup is well-formed and harmless, checked without the code that wrote it.

/// What is wrong with the markup of a bid.
pub(crate) fn markup_problems(kind: &str, markup: &str) -> Vec<String> {
    let lower = markup.to_lowercase();
    let mut out = Vec::new();
    if kind != "native"
        && (lower.contains("<script")
            || lower.contains("onerror=\"")
            || lower.contains("=\"javascript:") && !lower.contains("alt=\"javascript:"))
    {
        out.push("markup holds active content".to_owned());
    }
    let problem = match kind {
        "banner" => html_problem(markup),
        "video" => xml_problem(markup),
        _ => serde_json::from_str::<serde_json::Value>(markup).err().map(|error| error.to_string()),
    };
    out.extend(problem.map(|problem| format!("{kind} markup: {problem}")));
    out
}

/// Checks the small HTML that banners are: known tags, each once opened and once closed, quoted attributes.
pub(crate) fn html_problem(html: &str) -> Option<String> {
    markup_shape(html).err()
}

/// A start tag with its attributes, values decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

/// The start tags of a banner's HTML in order, read as a browser's tokenizer reads them, or what is wrong.
pub(crate) fn markup_shape(html: &str) -> Result<Vec<Tag>, String> {
    tokens(html).map(|(tags, _)| tags)
}

/// The text of a banner's HTML outside its tags, decoded.
pub(crate) fn text_of(html: &str) -> String {
    tokens(html).unwrap().1
}

fn tokens(html: &str) -> Result<(Vec<Tag>, String), String> {
    let (mut tags, mut text, mut open, mut rest) = (Vec::new(), String::new(), Vec::<String>::new(), html);
    if let Some(c) = html.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        return Err(format!("control character {c:?}"));
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("</") {
            let (name, after) = after.split_once('>').ok_or("open end tag")?;
            if open.pop().as_deref() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix('<') {
            let (tag, after) = html_tag(after)?;
            match tag.name.as_str() {
                "a" | "span" => open.push(tag.name.clone()),
                "img" => {}
                other => return Err(format!("unexpected tag {other}")),
            }
            tags.push(tag);
            rest = after;
        } else {
            let end = rest.find('<').unwrap_or(rest.len());
            if let Some(problem) = entity_problem(&rest[..end]) {
                return Err(problem);
            }
            text += &decoded(&rest[..end]);
            rest = &rest[end..];
        }
    }
    if !open.is_empty() || tags.is_empty() {
        return Err(format!("{} tags are left open, of {}", open.len(), tags.len()));
    }
    Ok((tags, text))
}

fn html_tag(after: &str) -> Result<(Tag, &str), String> {
    let end = after.find(|c: char| !c.is_ascii_alphanumeric()).ok_or("open tag")?;
    let (name, mut rest) = after.split_at(end);
    let mut tag = Tag { name: name.to_owned(), attributes: Vec::new() };
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('>') {
            return Ok((tag, after));
        }
        let (key, after) = rest.split_once("=\"").ok_or_else(|| format!("attribute of {name} is not quoted"))?;
        if !["href", "target", "rel", "src", "width", "height", "alt", "style"].contains(&key) {
            return Err(format!("attribute {key:?}"));
        }
        let (value, after) = after.split_once('"').ok_or("open attribute")?;
        if value.contains('<') {
            return Err("< in an attribute".into());
        }
        if let Some(problem) = entity_problem(value) {
            return Err(problem);
        }
        tag.attributes.push((key.to_owned(), decoded(value)));
        rest = after;
    }
}

fn decoded(text: &str) -> String {
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (entity, c)| text.replace(entity, c))
}

/// A minimal well-formedness check: nesting, quoting, CDATA, entities. Returns the first problem.
pub(crate) fn xml_problem(xml: &str) -> Option<String> {
    let mut rest = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").unwrap_or(xml);
    let mut open: Vec<&str> = Vec::new();
    let mut roots = 0;
    if let Some(c) = xml.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        return Some(format!("control character {c:?}"));
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("<![CDATA[") {
            let Some(end) = after.find("]]>") else { return Some("open CDATA".into()) };
            rest = &after[end + 3..];
        } else if let Some(after) = rest.strip_prefix("</") {
            let Some((name, after)) = after.split_once('>') else { return Some("open end tag".into()) };
            if open.pop() != Some(name) {
                return Some(format!("</{name}> closes nothing"));
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix('<') {
            let (name, empty, after) = match start_tag(after) {
                Ok(tag) => tag,
                Err(problem) => return Some(problem),
            };
            roots += u32::from(open.is_empty());
            if !empty {
                open.push(name);
            }
            rest = after;
        } else {
            let end = rest.find('<').unwrap_or(rest.len());
            let text = &rest[..end];
            if text.contains("]]>") || text.contains('>') {
                return Some("bare > in text".into());
            }
            if let Some(problem) = entity_problem(text) {
                return Some(problem);
            }
            rest = &rest[end..];
        }
    }
    if !open.is_empty() || roots != 1 {
        return Some(format!("{} open tags, {roots} roots", open.len()));
    }
    None
}

fn start_tag(after: &str) -> Result<(&str, bool, &str), String> {
    let name_end = after.find(|c: char| !c.is_ascii_alphanumeric()).ok_or("open tag")?;
    let (name, mut rest) = after.split_at(name_end);
    if name.is_empty() {
        return Err("tag without a name".into());
    }
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("/>") {
            return Ok((name, true, after));
        }
        if let Some(after) = rest.strip_prefix('>') {
            return Ok((name, false, after));
        }
        let (key, after) = rest.split_once("=\"").ok_or_else(|| format!("attribute of {name} is not quoted"))?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(format!("attribute name {key:?}"));
        }
        let (value, after) = after.split_once('"').ok_or("open attribute")?;
        if value.contains('<') {
            return Err("< in an attribute".into());
        }
        if let Some(problem) = entity_problem(value) {
            return Err(problem);
        }
        rest = after;
    }
}

fn entity_problem(text: &str) -> Option<String> {
    text.split('&').skip(1).find_map(|after| {
        let known = ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|entity| after.starts_with(entity));
        (!known).then(|| format!("bare & before {:?}", after.chars().take(8).collect::<String>()))
    })
}

#[test]
fn the_checks_can_fail() {
    assert_eq!(xml_problem("<a b=\"c&amp;\"><![CDATA[<x>&]]></a>"), None);
    for broken in [
        "<a>",
        "<a></b>",
        "<a b=c></a>",
        "<a>&nope;</a>",
        "<a><![CDATA[x]]>]]></a>",
        "<a/><b/>",
        "<a b=\"<\"/>",
        "x",
        "<a>\u{1}</a>",
    ] {
        assert!(xml_problem(broken).is_some(), "{broken}");
    }
    assert_eq!(html_problem("<a href=\"x\"><img src=\"y\"></a><img src=\"z\">"), None);
    for broken in [
        "<a href=\"x\"><script></script><img src=\"y\"></a><img src=\"z\">",
        "<a href=\"x\" \"><img></a><img src=\"z\">",
        "text",
    ] {
        assert!(html_problem(broken).is_some(), "{broken}");
    }
}

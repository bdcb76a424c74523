//! The page's files, made from `agent/web` by `cargo xtask web` and embedded. They hold no data.

use hyper::StatusCode;

use super::nothing_there;
use crate::admin::{Answer, text};

/// A file of the page, or that there is none of this name; nothing for what is no file but a question.
pub(super) fn file(target: &str) -> Option<Answer> {
    let path = target.split('?').next().unwrap_or_default();
    if path.starts_with(super::relay::PREFIX) {
        return None;
    }
    let (kind, body) = match path {
        "/" | "/index.html" => ("text/html; charset=utf-8", include_str!("../../web/dist/index.html")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("../../web/dist/page.js")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("../../web/dist/page.css")),
        "/icon.svg" => ("image/svg+xml", include_str!("../../web/dist/icon.svg")),
        _ => return Some(nothing_there()),
    };
    Some(text(StatusCode::OK, kind, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_only_files_that_it_has_and_nothing_from_elsewhere() {
        let page = include_str!("../../web/dist/index.html");
        let named: Vec<&str> = page
            .split(['"', '\''])
            .filter(|word| word.starts_with('/') || word.starts_with("./") || word.contains("://"))
            .collect();
        assert!(named.len() >= 3, "{named:?}");
        for name in named {
            let path = name.trim_start_matches('.');
            assert_eq!(file(path).map(|answer| answer.status()), Some(StatusCode::OK), "{name}");
        }
        assert!(!page.contains("<style") && !page.contains(" style="), "styles in the page are not loaded");
        assert_eq!(page.matches("<script").count(), page.matches("src=\"").count(), "a script in the page");
    }
}

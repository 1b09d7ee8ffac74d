//! The files of the page, compiled into the binary from `assets/`.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($path:literal, $kind:expr, $file:literal) => {
        ($path, $kind, include_str!(concat!("assets/", $file)))
    };
}

/// Path, content type and contents of each file.
const ASSETS: [(&str, &str, &str); 13] = [
    asset!("/", HTML, "index.html"),
    asset!("/console.css", CSS, "console.css"),
    asset!("/icon.svg", SVG, "icon.svg"),
    asset!("/console.js", SCRIPT, "console.js"),
    asset!("/client.js", SCRIPT, "client.js"),
    asset!("/dom.js", SCRIPT, "dom.js"),
    asset!("/charts.js", SCRIPT, "charts.js"),
    asset!("/list.js", SCRIPT, "list.js"),
    asset!("/dead_letters.js", SCRIPT, "dead_letters.js"),
    asset!("/detail.js", SCRIPT, "detail.js"),
    asset!("/json.js", SCRIPT, "json.js"),
    asset!("/location.js", SCRIPT, "location.js"),
    asset!("/overview.js", SCRIPT, "overview.js"),
];

/// Returns a route for each file. The files contain no data of events, so they need no token.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS
        .into_iter()
        .fold(Router::new(), |router, (path, kind, contents)| {
            router.route(path, get(async move || ([(CONTENT_TYPE, kind)], contents)))
        })
}

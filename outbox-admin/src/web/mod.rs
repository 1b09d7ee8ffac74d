//! The console: a page on the admin port that shows the outbox and the relays,
//! and lets an operator retry and discard.
//!
//! - `access`, `token`: who may use it.
//! - `assets`: the page itself, files without a build step.
//! - `api`: what the page asks for and does, as JSON.
//! - `live`: what it is told without asking, as server-sent events.
//! - `page`: how much of a list is sent at once.
//! - `problem`: errors.
//!
//! It shows the values of [`crate::service`], which the terminal shows too, and
//! what this instance remembers of its own work (`relay_view`).
//! While nobody looks it asks nothing of DynamoDB.

mod access;
mod admin_token;
mod api;
mod assets;
mod bounded_page;
mod live;
mod problem;
mod relay_view;

use std::sync::Arc;

use access::Access;
pub use admin_token::AdminToken;
use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use live::{About, Live};
use problem::Problem;
pub use relay_view::{ActivitySlot, PublishedEvent, RelayView, RelayViewSource, ViewedUpTo};

use crate::service::Operator;
use crate::settings::Settings;

/// One relay's console.
#[derive(Debug)]
pub struct Console {
    access: Arc<Access>,
    live: Arc<Live>,
}

impl Console {
    /// Returns the console of the relay `instance`, whose state `relay` returns. Requests must
    /// carry `token` if there is one.
    pub fn new(
        settings: &Settings,
        token: Option<AdminToken>,
        instance: String,
        operator: Operator,
        relay: RelayViewSource,
    ) -> Self {
        let about = About {
            instance,
            consumer_group: settings.consumer_group.clone(),
            outbox_table: settings.outbox_table.clone(),
            version: env!("CARGO_PKG_VERSION"),
        };
        Self {
            access: Arc::new(Access { token }),
            live: Arc::new(Live::new(about, operator, relay)),
        }
    }

    /// The page and what it needs.
    pub fn router(&self) -> Router {
        let guarded = api::router()
            .merge(live::router())
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(Arc::clone(&self.access), access::guard))
            .with_state(Arc::clone(&self.live));
        Router::new()
            .nest("/api", guarded)
            .merge(assets::router())
            .layer(from_fn(access::protect))
    }

    /// Looks at the tables while there are viewers; never returns.
    pub async fn watch(&self) {
        self.live.run().await;
    }
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this address")
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("there is no {method} of this address"),
    )
}

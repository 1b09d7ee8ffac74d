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
//! It shows the values of [`crate::operate`], which the terminal shows too, and
//! what this instance remembers of its own work ([`crate::engine::Status`]).
//! While nobody looks it asks nothing of DynamoDB.

mod access;
mod api;
mod assets;
mod live;
mod page;
mod problem;
mod token;

use std::sync::Arc;

use access::Access;
use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use live::{About, Live};
use problem::Problem;
pub use token::AdminToken;

use crate::config::Config;
use crate::engine::Status;
use crate::operate::Operator;

/// One relay's console.
#[derive(Debug)]
pub(crate) struct Console {
    access: Arc<Access>,
    live: Arc<Live>,
}

impl Console {
    /// Of the relay `instance`, whose engine says what it does in `status`.
    pub(crate) fn new(
        config: &Config,
        instance: String,
        operator: Operator,
        status: Status,
    ) -> Self {
        let about = About {
            instance,
            consumer_group: config.consumer_group.clone(),
            outbox_table: config.outbox_table.clone(),
            version: env!("CARGO_PKG_VERSION"),
        };
        Self {
            access: Arc::new(Access {
                token: config.admin_token.clone(),
            }),
            live: Arc::new(Live::new(about, operator, status)),
        }
    }

    /// The page and what it needs.
    pub(crate) fn router(&self) -> Router {
        let guarded = api::router()
            .merge(live::router())
            .fallback(nothing_here)
            .method_not_allowed_fallback(not_so)
            .layer(from_fn_with_state(Arc::clone(&self.access), access::guard))
            .with_state(Arc::clone(&self.live));
        Router::new()
            .nest("/api", guarded)
            .merge(assets::router())
            .layer(from_fn(access::protect))
    }

    /// Looks at the tables while there are viewers; never returns.
    pub(crate) async fn watch(&self) {
        self.live.run().await;
    }
}

async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this address")
}

async fn not_so(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("there is no {method} of this address"),
    )
}

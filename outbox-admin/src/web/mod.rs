//! The console: a page on the admin port that shows the outbox and the relays, and with which an
//! operator retries and discards events.
//!
//! - `access`, `admin_tokens`, `allowed_hosts`: authorization of requests.
//! - `assets`: the files of the page, which need no build step.
//! - `api`: queries and actions, as JSON.
//! - `dead_letters`: the queues' dead letters, as JSON.
//! - `live`: live updates, as server-sent events.
//! - `bounded_page`: the size of a page of a list.
//! - `problem`: error responses.
//!
//! The page shows the values of [`crate::service`], as the command line does, and what the relay
//! that serves it remembers of its own activity (`relay_view`). No DynamoDB requests are issued
//! while no client is connected.

mod access;
mod admin_tokens;
mod allowed_hosts;
mod api;
mod assets;
mod bounded_page;
mod dead_letters;
mod live;
mod problem;
mod relay_view;

use std::sync::Arc;

use access::Access;
pub use admin_tokens::{AdminToken, AdminTokens, MIN_REMOTE_TOKEN};
pub use allowed_hosts::AllowedHosts;
use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use live::{About, Live};
use problem::Problem;
pub use relay_view::{ActivitySlot, PublishedEvent, RelayView, RelayViewSource, ViewedUpTo};

use crate::service::Operator;
use crate::settings::Settings;

/// Console of one relay.
#[derive(Debug)]
pub struct Console {
    access: Arc<Access>,
    live: Arc<Live>,
}

impl Console {
    /// Returns the console of the relay `instance`, whose state `relay` returns. Requests must be
    /// for one of `hosts`, and carry one of `tokens` if there are any.
    pub fn new(
        settings: &Settings,
        tokens: Option<AdminTokens>,
        hosts: AllowedHosts,
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
            access: Arc::new(Access { tokens, hosts }),
            live: Arc::new(Live::new(about, operator, relay)),
        }
    }

    /// Returns the routes of the page, its API and its live updates.
    pub fn router(&self) -> Router {
        let authorized = api::router()
            .merge(dead_letters::router())
            .merge(live::router())
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(
                Arc::clone(&self.access),
                access::authorize,
            ))
            .with_state(Arc::clone(&self.live));
        Router::new()
            .nest("/api", authorized)
            .merge(assets::router())
            .layer(from_fn(access::add_security_headers))
    }

    /// Polls the tables while viewers are connected. Never returns.
    pub async fn poll_tables(&self) {
        self.live.poll_tables().await;
    }
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "this path does not exist")
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this path does not support the method {method}"),
    )
}

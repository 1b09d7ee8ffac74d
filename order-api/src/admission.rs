//! Makes the principal of a request an argument of handlers.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::time::timeout;

use crate::auth::Principal;
use crate::error::ApiError;
use crate::state::Api;

impl FromRequestParts<Arc<Api>> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        // It may wait for the keys of the issuer.
        let admitted = timeout(api.request_timeout, api.guard.admit(parts)).await;
        Ok(admitted.map_err(|_| ApiError::Deadline)??)
    }
}

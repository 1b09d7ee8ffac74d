//! The accepted credentials in the OpenAPI document, from which `/docs` makes its fields for them.

use utoipa::openapi::OpenApi;
use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

use super::Schemes;

/// Names of the schemes in the document.
const API_KEY_SCHEME: &str = "api_key";
const TOKEN_SCHEME: &str = "token";

/// Adds the accepted schemes to the document. The operations that declare security, those of
/// orders, require one of them. If the API accepts none, both are there and optional.
pub(crate) fn describe(document: &mut OpenApi, schemes: Schemes) {
    let key = "Identifies a client, and the customer for whom it places and reads orders.";
    let key = ApiKeyValue::with_description("X-API-Key", key);
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A token of the configured OpenID Connect issuer."))
        .build();
    let accepts_any = !schemes.api_keys && !schemes.tokens;
    let components = document.components.get_or_insert_default();
    let mut requirements = Vec::new();
    if accepts_any {
        requirements.push(SecurityRequirement::default());
    }
    for (name, scheme, is_accepted) in [
        (
            API_KEY_SCHEME,
            SecurityScheme::ApiKey(ApiKey::Header(key)),
            schemes.api_keys,
        ),
        (TOKEN_SCHEME, SecurityScheme::Http(token), schemes.tokens),
    ] {
        if is_accepted || accepts_any {
            components.add_security_scheme(name, scheme);
            requirements.push(SecurityRequirement::new(name, [""; 0]));
        }
    }
    for path in document.paths.paths.values_mut() {
        let PathItem { get, post, .. } = path;
        for operation in [get, post].into_iter().flatten() {
            if operation.security.is_some() {
                operation.security = Some(requirements.clone());
            }
        }
    }
}

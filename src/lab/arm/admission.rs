//! What a request has to pass before anything is done: the token, and the throttle. Tokens are issued here, too, to who
//! has the client secret, or any assertion.

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::lab::arm::Options;
use crate::lab::arm::refusal::{Refusable, Refusal};
use crate::lab::arm::serve::pairs_of;
use crate::secret::Secret;

/// Whether the token is believed.
pub(crate) fn check_token(options: &Options, headers: &HeaderMap) -> Refusable<()> {
    let given = headers
        .get("authorization")
        .and_then(|text| text.to_str().ok());
    let token = given.and_then(|text| text.strip_prefix("Bearer "));
    match (token, &options.token) {
        (None, _) => Err(Refusal::new(
            401,
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing.",
        )),
        (Some(token), Some(wanted)) if token != wanted.expose() => Err(Refusal::new(
            401,
            "InvalidAuthenticationToken",
            "The access token is invalid.",
        )),
        (Some(_), _) => Ok(()),
    }
}

/// Whether a token is asked for: `/TENANT/oauth2/v2.0/token`, as at Entra ID.
pub(crate) fn is_token_request(method: &Method, path: &str) -> bool {
    method == Method::POST && path.ends_with("/oauth2/v2.0/token")
}

/// The token, if the secret is right.
pub(crate) fn issue(options: &Options, form: &[u8]) -> (StatusCode, Value) {
    let form = pairs_of(&String::from_utf8_lossy(form));
    let field = |wanted: &str| {
        form.iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    };
    let known = match (&options.client_secret, field("client_secret")) {
        (Some(secret), given) => given == Some(secret.expose()),
        (None, given) => given.is_some() || field("client_assertion").is_some(),
    };
    if !known || field("grant_type") != Some("client_credentials") {
        let body = json!({
            "error": "invalid_client",
            "error_description": "AADSTS7000215: Invalid client secret provided.",
            "error_codes": [7_000_215],
        });
        return (StatusCode::UNAUTHORIZED, body);
    }
    let token = options.token.as_ref().map_or("lab", Secret::expose);
    let body = json!({ "token_type": "Bearer", "expires_in": 3600, "access_token": token });
    (StatusCode::OK, body)
}

/// A bucket of tokens for each class of requests.
pub(crate) struct Throttle {
    most: f64,
    each_second: f64,
    buckets: Mutex<[(f64, Timestamp); 3]>,
}

impl Throttle {
    pub(crate) fn new((most, each_second): (u32, u32)) -> Self {
        let bucket = (f64::from(most), Timestamp::now());
        Throttle {
            most: f64::from(most),
            each_second: f64::from(each_second.max(1)),
            buckets: Mutex::new([bucket; 3]),
        }
    }

    /// What is left after this request, and the header that says so; or a 429.
    pub(crate) fn admit(&self, method: &Method) -> Refusable<(&'static str, u32)> {
        let (at, name) = match *method {
            Method::GET | Method::HEAD => (0, "reads"),
            Method::DELETE => (2, "deletes"),
            _ => (1, "writes"),
        };
        let header = match name {
            "reads" => "x-ms-ratelimit-remaining-subscription-reads",
            "deletes" => "x-ms-ratelimit-remaining-subscription-deletes",
            _ => "x-ms-ratelimit-remaining-subscription-writes",
        };
        let now = Timestamp::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = &mut buckets[at];
        let passed = now.duration_since(*since).as_secs_f64().max(0.0);
        *tokens = (*tokens + passed * self.each_second).min(self.most);
        *since = now;
        if *tokens < 1.0 {
            let mut refusal = Refusal::new(
                429,
                "TooManyRequests",
                format!(
                    "Number of {name} requests for subscription exceeded the limit. Please try again later."
                ),
            );
            refusal.retry_after = Some(1);
            return Err(refusal);
        }
        *tokens -= 1.0;
        let mut left = 0;
        while f64::from(left + 1) <= *tokens {
            left += 1;
        }
        Ok((header, left))
    }
}
